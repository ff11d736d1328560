//! The adversary at the cut: it moves the values that cross the cut instead of the pixels. Its steps never run the
//! frozen prefix, and it reaches values that no small change of the pixels produces.

use candle_core::{Device, Tensor};

use super::{
    attack::{Attack, Batch, Pass, forward, gradient_at_cut},
    deviations::Sigma,
    folded::Folded,
    frozen::{AtCut, Network},
};
use crate::{
    Error, Result,
    kernels::latent::{self, CutValue},
    profile::Part as Timed,
};

/// Moves the values v_k that cross the cut (the edge and, if present, a residual branch) to v_k + sigma_k d_k, before
/// the layer. sigma_k: standard deviation per channel over the clean images. d_k starts at 0; a step is d_k <- d_k -
/// (rho / steps) sqrt(numel_k) g_k / ||g||, with g_k the gradient with respect to d_k of the cross-entropy against the
/// target, and the norm over all k, per image.
#[derive(Clone, Copy, Debug)]
pub struct Latent {
    pub steps: usize,
    /// Largest root mean square of d, in standard deviations.
    pub rho: f32,
}

impl Latent {
    /// Attacks a batch through the current layer, towards these classes.
    ///
    /// # Errors
    /// Errors of operators; [`Error::Interrupted`].
    pub fn towards(
        &self,
        network: &mut Network<'_>,
        layer: &Folded,
        batch: &Batch<'_>,
        targets: Vec<u32>,
    ) -> Result<Attack> {
        let images = batch.images.len();
        let clean = &batch.clean.values;
        let sigma = batch.kept.deviations()?;
        if clean.crossing.len() + 1 != sigma.len() {
            return Err(Error::internal("the number of values that cross the cut has changed"));
        }
        let mut moving = LatentState::new(clean, images)?;
        let length = self.rho / self.steps as f32;
        let mut last: Option<Pass> = None;
        for _ in 0..self.steps {
            batch.watch.check()?;
            let pass = last.as_ref().unwrap_or(&batch.clean);
            let at_cut = gradient_at_cut(network, layer, pass, &targets)?;
            let moved = network.timed(Timed::Adversary, || -> Result<AtCut> {
                let grads = std::iter::once(at_cut.edge).chain(at_cut.crossing).collect();
                let mut moved = moving.step(grads, sigma, length)?.into_iter();
                let edge = moved.next().ok_or_else(|| Error::internal("nothing crosses the cut"))?;
                Ok(AtCut { edge, crossing: moved.collect() })
            })?;
            last = Some(forward(network, layer, moved)?);
            batch.watch.at(network.work());
        }
        let pass = match last {
            Some(pass) => pass,
            // without a step the adversarial values are the clean ones
            None => forward(network, layer, clean.clone())?,
        };
        Ok(Attack::new(pass, targets))
    }
}

/// A batch's values at the cut and their perturbations, in the memory of the device that the network runs on.
struct LatentState<'a> {
    clean: Vec<&'a Tensor>,
    images: usize,
    at: At,
}

enum At {
    Processor { values: Vec<Vec<f32>>, deltas: Vec<Vec<f32>> },
    Gpu { gpu: std::sync::Arc<crate::kernels::gpu::Gpu>, deltas: Vec<Tensor> },
}

impl<'a> LatentState<'a> {
    fn new(clean: &'a AtCut, images: usize) -> Result<Self> {
        let clean: Vec<&Tensor> = std::iter::once(&clean.edge).chain(&clean.crossing).collect();
        if let Some(gpu) = crate::kernels::gpu::Gpu::of(clean[0].device())? {
            let deltas = clean
                .iter()
                .map(|v| crate::ops::array::zeros(v.dims(), v.device()))
                .collect::<Result<_>>()?;
            return Ok(Self { clean, images, at: At::Gpu { gpu, deltas } });
        }
        let values = clean.iter().map(|v| in_memory_order(v)).collect::<Result<Vec<_>>>()?;
        let deltas = values.iter().map(|v| vec![0.0; v.len()]).collect();
        Ok(Self { clean, images, at: At::Processor { values, deltas } })
    }

    /// Takes one step against these gradients and returns the moved values. `sigma`: see [`super::Kept::deviations`].
    fn step(&mut self, grads: Vec<Option<Tensor>>, sigma: &[Sigma], length: f32) -> Result<Vec<Tensor>> {
        match &mut self.at {
            At::Processor { values, deltas } => {
                let grads = grads.iter().map(|g| g.as_ref().map(in_memory_order).transpose());
                let grads = grads.collect::<Result<Vec<_>>>()?;
                let mut moved: Vec<Vec<f32>> = values.iter().map(|v| vec![0.0; v.len()]).collect();
                let mut parts: Vec<CutValue> = Vec::with_capacity(values.len());
                for ((((values, sigma), grad), delta), moved) in
                    values.iter().zip(sigma).zip(&grads).zip(deltas).zip(&mut moved)
                {
                    parts.push(CutValue {
                        values,
                        sigma: &sigma.values,
                        grad: grad.as_deref(),
                        delta,
                        moved,
                    });
                }
                latent::descend(&mut parts, self.images, length);
                moved.into_iter().zip(&self.clean).map(|(values, like)| put_back(values, like)).collect()
            }
            At::Gpu { gpu, deltas } => {
                let mut squares = None;
                for (grad, sigma) in grads.iter().zip(sigma) {
                    if let Some(grad) = grad {
                        squares = Some(gpu.latent_norm(squares, grad, Some(sigma.on_gpu()?))?);
                    }
                }
                let Some(squares) = squares else {
                    return Ok(self.clean.iter().map(|&v| v.clone()).collect()); // no gradient reaches the cut
                };
                let parts = self.clean.iter().zip(&grads).zip(sigma).zip(deltas);
                parts
                    .map(|(((values, grad), sigma), delta)| {
                        gpu.latent_move(delta, values, grad.as_ref(), sigma.on_gpu()?, &squares, length)
                    })
                    .collect()
            }
        }
    }
}

/// Values in memory order: channels-last if image-shaped.
fn in_memory_order(t: &Tensor) -> Result<Vec<f32>> {
    Ok(if t.rank() == 4 { t.permute((0, 2, 3, 1))? } else { t.clone() }.flatten_all()?.to_vec1()?)
}

/// Inverse of [`in_memory_order`], with the shape of `like`.
fn put_back(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Ok(match like.dims() {
        &[n, c, h, w] => Tensor::from_vec(values, (n, h, w, c), &Device::Cpu)?.permute((0, 3, 1, 2))?,
        dims => Tensor::from_vec(values, dims, &Device::Cpu)?,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::deviations::deviations, *};

    #[test]
    fn deviations_are_by_channel() {
        // two images of two channels and two pixels, channels-last: channel 0 is 0, 2, 0, 2, channel 1 stays
        let t = Tensor::from_vec(vec![0f32, 5.0, 2.0, 5.0, 0.0, 5.0, 2.0, 5.0], (2, 1, 2, 2), &Device::Cpu)
            .unwrap();
        let t = t.permute((0, 3, 1, 2)).unwrap();
        assert_eq!(deviations(&t).unwrap().values, [1.0, 0.0, 1.0, 0.0]);
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(flat(&put_back(in_memory_order(&t).unwrap(), &t).unwrap()), flat(&t));
    }
}
