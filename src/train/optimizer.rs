//! The optimizers [`Sgd`] and [`Adam`], with PyTorch's update rules.
//!
//! SGD (torch.optim.SGD): g = grad + weight_decay w; v = momentum v + g, with v = g in the first step; w = w - lr v.
//! candle-nn's SGD has neither momentum nor weight decay.

use candle_core::{Tensor, Var};

use super::layer::Gradients;
use crate::{
    Result,
    kernels::{
        backend::{self, Moments},
        gpu::{AdamStep, SgdStep},
    },
};

/// SGD with momentum and weight decay, and its velocities.
pub struct Sgd {
    lr: f64,
    momentum: f64,
    weight_decay: f64,
    velocity: [Option<Tensor>; 3],
}

impl Sgd {
    /// An optimizer before the first step; plain SGD if `momentum` and `weight_decay` are 0.
    pub fn new(lr: f64, momentum: f64, weight_decay: f64) -> Self {
        Self { lr, momentum, weight_decay, velocity: [None, None, None] }
    }

    /// One step on the layer's three tensors.
    ///
    /// # Errors
    /// If the shapes disagree.
    pub fn step(&mut self, trained: [&Var; 3], gradients: &Gradients) -> Result<()> {
        let Self { lr, momentum, weight_decay, .. } = *self;
        let step = SgdStep { lr, momentum, weight_decay };
        for ((var, g), velocity) in trained.into_iter().zip(gradients).zip(&mut self.velocity) {
            let v = backend::on(g.device())?.sgd_step(var, velocity.take(), g, step)?;
            *velocity = Some(v);
        }
        Ok(())
    }
}

/// torch.optim.Adam without weight decay, betas 0.9 and 0.999, eps 1e-8: m = 0.9 m + 0.1 g; v = 0.999 v + 0.001 g^2;
/// w = w - lr m / (1 - 0.9^t) / (sqrt(v / (1 - 0.999^t)) + eps) in step t. Step sizes do not depend on the scale of the
/// gradients, nor on the number of channels.
pub struct Adam {
    lr: f64,
    steps: i32,
    moments: [Option<Moments>; 3],
}

impl Adam {
    const BETAS: [f64; 2] = [0.9, 0.999];
    const EPS: f64 = 1e-8;

    /// An optimizer before the first step.
    pub fn new(lr: f64) -> Self {
        Self { lr, steps: 0, moments: [None, None, None] }
    }

    fn step(&mut self, trained: [&Var; 3], gradients: &Gradients) -> Result<()> {
        self.steps += 1;
        let [bias, spread] = Self::BETAS.map(|beta| 1.0 - beta.powi(self.steps));
        let step = AdamStep { betas: Self::BETAS, rate: self.lr / bias, spread, eps: Self::EPS };
        for ((var, g), moments) in trained.into_iter().zip(gradients).zip(&mut self.moments) {
            *moments = Some(backend::on(g.device())?.adam_step(var, moments.take(), g, step)?);
        }
        Ok(())
    }
}

/// One of the optimizers.
pub enum Optimizer {
    /// See [`Sgd`].
    Sgd(Sgd),
    /// See [`Adam`].
    Adam(Adam),
}

impl Optimizer {
    /// Sets the learning rate.
    pub fn set_lr(&mut self, lr: f64) {
        match self {
            Self::Sgd(sgd) => sgd.lr = lr,
            Self::Adam(adam) => adam.lr = lr,
        }
    }

    /// One step on the layer's three tensors.
    ///
    /// # Errors
    /// If the shapes disagree.
    pub fn step(&mut self, trained: [&Var; 3], gradients: &Gradients) -> Result<()> {
        match self {
            Self::Sgd(sgd) => sgd.step(trained, gradients),
            Self::Adam(adam) => adam.step(trained, gradients),
        }
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
        let g = [t(0.5), t(0.0), t(-1.0)];
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

    /// torch.optim.Adam([w], lr=0.1) on w = (1, -2) with gradients (0.5, -4) and (-1, 0.25), by PyTorch 2.15.
    #[test]
    fn adam_follows_pytorch() {
        let var = |v: &[f32]| Var::from_slice(v, v.len(), &Device::Cpu).unwrap();
        let (w, other) = (var(&[1.0, -2.0]), var(&[0.0]));
        let mut adam = Adam::new(0.1);
        for g in [[0.5f32, -4.0], [-1.0, 0.25]] {
            let none = Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu).unwrap();
            let gradients = [Tensor::from_slice(&g, 2, &Device::Cpu).unwrap(), none.clone(), none];
            adam.step([&w, &other, &var(&[0.0])], &gradients).unwrap();
        }
        let got = w.as_tensor().to_vec1::<f32>().unwrap();
        assert!((got[0] - 0.9366104).abs() < 1e-6 && (got[1] - (-1.8377689)).abs() < 1e-6, "{got:?}");
    }
}
