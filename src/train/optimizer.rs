//! SGD as PyTorch computes it (torch.optim.SGD): g = grad + weight_decay w; v = momentum v + g, with v = g in the first
//! step; w = w - lr v. candle-nn's SGD has neither momentum nor weight decay.

use candle_core::{Tensor, Var};

use super::layer::Gradients;
use crate::Result;

/// The optimiser and its velocities.
pub struct Sgd {
    lr: f64,
    momentum: f64,
    weight_decay: f64,
    velocity: [Option<Tensor>; 3],
}

impl Sgd {
    /// With momentum and weight decay 0 it is plain SGD.
    pub fn new(lr: f64, momentum: f64, weight_decay: f64) -> Self {
        Self { lr, momentum, weight_decay, velocity: [None, None, None] }
    }

    /// One step on the layer's three tensors.
    ///
    /// # Errors
    /// When the shapes disagree.
    pub fn step(&mut self, trained: [&Var; 3], gradients: &Gradients) -> Result<()> {
        let gradients = [&gradients.weight, &gradients.scale, &gradients.bias];
        for ((var, g), velocity) in trained.into_iter().zip(gradients).zip(&mut self.velocity) {
            let w = var.as_detached_tensor();
            let g = (g + (&w * self.weight_decay)?)?;
            let v = match velocity.take() {
                Some(v) => ((v * self.momentum)? + g)?,
                None => g,
            };
            var.set(&(&w - (&v * self.lr)?)?)?;
            *velocity = Some(v);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Two steps worked out by hand from PyTorch's documented rule.
    #[test]
    fn two_steps_by_hand() {
        let var = |v: f32| Var::new(&[v], &Device::Cpu).unwrap();
        let (w, s, b) = (var(2.0), var(1.0), var(0.0));
        let t = |v: f32| Tensor::new(&[v], &Device::Cpu).unwrap();
        let g = Gradients { weight: t(0.5), scale: t(0.0), bias: t(-1.0) };
        let mut sgd = Sgd::new(0.1, 0.9, 0.01);
        sgd.step([&w, &s, &b], &g).unwrap();
        sgd.step([&w, &s, &b], &g).unwrap();
        let v1 = 0.5 + 0.01 * 2.0;
        let w1 = 2.0 - 0.1 * v1;
        let v2 = 0.9 * v1 + 0.5 + 0.01 * w1;
        let got = w.to_vec1::<f32>().unwrap()[0];
        assert!((f64::from(got) - (w1 - 0.1 * v2)).abs() < 1e-6);
        let bias = b.to_vec1::<f32>().unwrap()[0];
        assert!((f64::from(bias) - (0.1 + 0.1 * (0.9 + 1.0 - 0.01 * 0.1))).abs() < 1e-6);
    }
}
