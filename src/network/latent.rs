//! The adversary at the cut: it moves what crosses into the suffix instead of the pixels. Everything before the site is
//! frozen, so no step of it runs anything before the site, and its reach is not limited to what small changes of pixels
//! can bring about.

use candle_core::{Device, Tensor};

use super::{
    attack::{Attack, Batch, Pass, forward, gradient_at_cut},
    deviations::Sigma,
    folded::Folded,
    frozen::{AtCut, Network},
};
use crate::{
    Error, Result,
    kernels::latent::{self, Part},
    profile::Part as Timed,
};

/// Moves the values v_k that cross the cut (the edge, and a residual branch where there is one) to v_k + sigma_k d_k,
/// before the layer. sigma_k: standard deviation by channel over the clean images. d_k starts at 0; each of the steps is
/// d_k <- d_k - (rho / steps) sqrt(numel_k) g_k / ||g||, g_k the gradient by d_k of the cross-entropy against the
/// target, the norm over all k together, for each image.
#[derive(Clone, Copy, Debug)]
pub struct Latent {
    pub steps: usize,
    /// How far an image moves at most: root mean square of d.
    pub rho: f32,
}

impl Latent {
    /// Attacks a batch against the layer as it stands, towards these classes.
    ///
    /// # Errors
    /// What an operator refuses, [`Error::Interrupted`].
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
            return Err(Error::internal("other values cross the cut than did"));
        }
        let mut moving = Moving::new(clean, images)?;
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
            // no step was asked for: the adversarial values are the clean ones
            None => forward(network, layer, clean.clone())?,
        };
        Ok(Attack::new(pass, targets))
    }
}

/// A batch's values at the cut and how far each has been moved, where they are: in the processor's memory as they lie there,
/// or on a GPU.
struct Moving<'a> {
    clean: Vec<&'a Tensor>,
    images: usize,
    at: At,
}

enum At {
    Processor { values: Vec<Vec<f32>>, deltas: Vec<Vec<f32>> },
    Gpu { gpu: std::sync::Arc<crate::kernels::gpu::Gpu>, deltas: Vec<Tensor> },
}

impl<'a> Moving<'a> {
    fn new(clean: &'a AtCut, images: usize) -> Result<Self> {
        let clean: Vec<&Tensor> = std::iter::once(&clean.edge).chain(&clean.crossing).collect();
        if let Some(gpu) = crate::kernels::gpu::Gpu::of(clean[0].device())? {
            let deltas = clean
                .iter()
                .map(|v| crate::ops::array::zeros(v.dims(), v.device()))
                .collect::<Result<_>>()?;
            return Ok(Self { clean, images, at: At::Gpu { gpu, deltas } });
        }
        let values = clean.iter().map(|v| as_it_lies(v)).collect::<Result<Vec<_>>>()?;
        let deltas = values.iter().map(|v| vec![0.0; v.len()]).collect();
        Ok(Self { clean, images, at: At::Processor { values, deltas } })
    }

    /// Moves by one step against these gradients, and gives the values where they are now. `sigma` as [`super::Kept::deviations`] gives it.
    fn step(&mut self, grads: Vec<Option<Tensor>>, sigma: &[Sigma], length: f32) -> Result<Vec<Tensor>> {
        match &mut self.at {
            At::Processor { values, deltas } => {
                let grads = grads.iter().map(|g| g.as_ref().map(as_it_lies).transpose());
                let grads = grads.collect::<Result<Vec<_>>>()?;
                let mut moved: Vec<Vec<f32>> = values.iter().map(|v| vec![0.0; v.len()]).collect();
                let mut parts: Vec<Part> = Vec::with_capacity(values.len());
                for ((((values, sigma), grad), delta), moved) in
                    values.iter().zip(sigma).zip(&grads).zip(deltas).zip(&mut moved)
                {
                    parts.push(Part { values, sigma: &sigma.values, grad: grad.as_deref(), delta, moved });
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
                    return Ok(self.clean.iter().map(|&v| v.clone()).collect()); // no gradient has arrived
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

/// Values in the order in which they lie in memory: channels-last where they are images.
fn as_it_lies(t: &Tensor) -> Result<Vec<f32>> {
    Ok(if t.rank() == 4 { t.permute((0, 2, 3, 1))? } else { t.clone() }.flatten_all()?.to_vec1()?)
}

/// The way back, to the shape of `like`.
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
        assert_eq!(flat(&put_back(as_it_lies(&t).unwrap(), &t).unwrap()), flat(&t));
    }
}
