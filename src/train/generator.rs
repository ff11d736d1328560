//! An adversary that learns: one small convolutional network, the same for all images of a batch, makes of each image what
//! is added to it. Triggers that differ from image to image are made so (arXiv 2010.08138), and no change that is the same
//! for all images comes near to one. It has few numbers: a change for each image alone would find a way through any network.

use candle_core::{Tensor, Var};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use super::{
    adversary::{self, Attack, Batch, Times},
    kept::Normalisation,
    layer::Folded,
    network::{self, Network},
};
use crate::{Error, Result, profile::Part};

/// Channels between the two convolutions.
const WIDTH: usize = 8;
/// Their kernels' height and width.
const KERNEL: usize = 3;
/// Size of what K1 and K2 start from, beside the root of one over what one output reads.
const FIRST: f64 = 4.0 * std::f64::consts::SQRT_2;
const SECOND: f64 = 0.3;
/// Length of the first step, for each number; the last one's is a fifth of it and a little more.
const STEP: f64 = 0.03;
const FALL: f64 = 0.8;

/// delta(x) = e tanh(K2 * relu(K1 * (x - 1/2))), x in [0, 1], K1 and K2 without bias and padded with zeros; e = rho / sqrt(CHW),
/// so that no change is longer than rho (L2). A step goes along the signs of the gradient by K1's and K2's numbers of the
/// objective, summed over the images, each image's gradient by its pixels scaled to length 1.
pub struct Generator {
    pub steps: usize,
    /// Radius of the ball, L2 per image in pixel space.
    pub rho: f32,
    pub normalisation: Normalisation,
}

impl Generator {
    /// Attacks a batch against the layer as it stands, towards `class`. Images of that class are changed as the others are,
    /// but nothing is learnt from them.
    ///
    /// # Errors
    /// What an operator refuses, [`Error::Interrupted`].
    pub fn towards(
        &self,
        network: &mut Network<'_>,
        layer: &Folded,
        batch: &Batch<'_>,
        class: u32,
        rng: &mut ChaCha8Rng,
    ) -> Result<Attack> {
        let pixels = network.timed(Part::Gather, || network::gather(&batch.kept.pixels, batch.images))?;
        let change = Change::new(pixels, self.rho, rng)?;
        let learns: Vec<f32> = batch.labels.iter().map(|l| f32::from(u8::from(*l != class))).collect();
        let mut taken = 0;
        let step = |gradient: Option<Tensor>| {
            if let Some(gradient) = gradient {
                let left = 1.0 - FALL * taken as f64 / self.steps.max(1) as f64;
                change.step(&gradient, &self.normalisation.std, &learns, STEP * left)?;
            }
            taken += 1;
            self.normalisation.apply(&change.changed()?)
        };
        let targets = vec![class; batch.images.len()];
        let times = Times { steps: self.steps, stop_share: 2.0 };
        let pass = adversary::climb(network, layer, batch, &targets, &self.normalisation, times, step)?;
        let reached = pass.logits.share_answered(&targets);
        Ok(Attack { pass, targets, reached })
    }
}

/// Images and what is made of them.
struct Change {
    /// (N, C, H, W), in [0, 1].
    pixels: Tensor,
    /// (WIDTH, C, 3, 3).
    first: Var,
    /// (C, WIDTH, 3, 3).
    second: Var,
    reach: f64,
}

impl Change {
    fn new(pixels: Tensor, rho: f32, rng: &mut ChaCha8Rng) -> Result<Self> {
        let pixels = pixels.contiguous()?;
        let (_, c, h, w) = pixels.dims4()?;
        let mut kernels = |out: usize, of: usize, size: f64| -> Result<Var> {
            let reads = of * KERNEL * KERNEL;
            // even over [-s, s] has the deviation s / sqrt(3)
            let most = size * (3.0 / reads as f64).sqrt();
            let numbers = (0..out * reads).map(|_| (most * (2.0 * rng.random::<f64>() - 1.0)) as f32);
            let shape = (out, of, KERNEL, KERNEL);
            Ok(Var::from_tensor(&Tensor::from_vec(numbers.collect::<Vec<_>>(), shape, pixels.device())?)?)
        };
        let (first, second) = (kernels(WIDTH, c, FIRST)?, kernels(c, WIDTH, SECOND)?);
        let reach = f64::from(rho) / ((c * h * w) as f64).sqrt();
        Ok(Self { pixels, first, second, reach })
    }

    /// What is added to the images.
    fn added(&self) -> Result<Tensor> {
        let pad = KERNEL / 2;
        let inner = (&self.pixels - 0.5)?.conv2d(&self.first, pad, 1, 1, 1)?.relu()?;
        Ok((inner.conv2d(&self.second, pad, 1, 1, 1)?.tanh()? * self.reach)?)
    }

    /// The images with it, in [0, 1].
    fn changed(&self) -> Result<Tensor> {
        Ok((&self.pixels + self.added()?.detach())?.clamp(0f32, 1f32)?)
    }

    /// One step down, for a gradient (N, C, H, W) by the normalised images, of which those with a 0 in `learns` do not count.
    fn step(&self, gradient: &Tensor, std: &[f32], learns: &[f32], length: f64) -> Result<()> {
        let n = learns.len();
        let device = self.pixels.device();
        let by_pixels = gradient.broadcast_div(&Tensor::from_slice(std, (1, std.len(), 1, 1), device)?)?;
        let by_pixels = by_pixels.contiguous()?;
        let lengths = (by_pixels.sqr()?.flatten_from(1)?.sum(1)?.sqrt()? + 1e-30)?;
        let weights = (Tensor::from_slice(learns, n, device)? / lengths)?.reshape((n, 1, 1, 1))?;
        let objective = (self.added()? * by_pixels.broadcast_mul(&weights)?.detach())?.sum_all()?;
        let gradients = objective.backward()?;
        for kernels in [&self.first, &self.second] {
            let by = gradients.get(kernels).ok_or_else(|| Error::internal("no gradient of the generator"))?;
            kernels.set(&(kernels.as_tensor() - (by.sign()? * length)?)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use rand_chacha::rand_core::SeedableRng as _;

    fn change(n: usize, rho: f32) -> Change {
        let values: Vec<f32> = (0..n * 3 * 64).map(|i| ((i * 7919) % 101) as f32 / 101.0).collect();
        let pixels = Tensor::from_vec(values, (n, 3, 8, 8), &Device::Cpu).unwrap();
        Change::new(pixels, rho, &mut ChaCha8Rng::seed_from_u64(3)).unwrap()
    }

    fn weights(n: usize) -> Tensor {
        let values: Vec<f32> = (0..n * 3 * 64).map(|i| ((i * 31) % 17) as f32 - 8.0).collect();
        Tensor::from_vec(values, (n, 3, 8, 8), &Device::Cpu).unwrap()
    }

    fn objective(c: &Change, of: &Tensor) -> f32 {
        (c.added().unwrap() * of).unwrap().sum_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn steps_go_downhill_and_no_change_leaves_the_ball() {
        let c = change(4, 2.0);
        let by = weights(4);
        let mut before = objective(&c, &by);
        for _ in 0..5 {
            c.step(&by, &[1.0; 3], &[1.0; 4], 1e-3).unwrap();
            let now = objective(&c, &by);
            assert!(now < before, "{now} {before}");
            before = now;
        }
        for _ in 0..40 {
            c.step(&by, &[1.0; 3], &[1.0; 4], 1.0).unwrap();
        }
        let lengths = c.added().unwrap().sqr().unwrap().flatten_from(1).unwrap().sum(1).unwrap();
        assert!(lengths.to_vec1::<f32>().unwrap().iter().all(|l| l.sqrt() <= 2.0 + 1e-4 && *l > 0.1));
        let changed = c.changed().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(changed.iter().all(|v| (0.0..=1.0).contains(v)));
    }

    #[test]
    fn what_is_added_hangs_on_the_image_and_on_nothing_else() {
        let two = change(2, 2.0);
        let one = Change { pixels: two.pixels.narrow(0, 1, 1).unwrap(), ..change(2, 2.0) };
        let plain = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let both = plain(two.added().unwrap());
        let (first, second) = both.split_at(3 * 64);
        assert!(plain(one.added().unwrap()).iter().zip(second).all(|(a, b)| (a - b).abs() < 1e-6));
        assert!(first.iter().zip(second).any(|(a, b)| (a - b).abs() > 1e-3));
    }

    #[test]
    fn nothing_is_learnt_from_images_of_the_class_itself() {
        let (both, one) = (change(2, 2.0), change(2, 2.0));
        let one = Change { pixels: one.pixels.narrow(0, 0, 1).unwrap(), ..one };
        both.step(&weights(2), &[0.5; 3], &[1.0, 0.0], 0.01).unwrap();
        one.step(&weights(2).narrow(0, 0, 1).unwrap(), &[0.5; 3], &[1.0], 0.01).unwrap();
        let plain = |v: &Var| v.as_tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (a, b) in [(&both.first, &one.first), (&both.second, &one.second)] {
            assert!(plain(a).iter().zip(plain(b)).all(|(a, b)| (a - b).abs() < 1e-6));
        }
        // no direction, no step
        let before = plain(&both.first);
        both.step(&weights(2).zeros_like().unwrap(), &[0.5; 3], &[1.0, 1.0], 0.01).unwrap();
        assert_eq!(plain(&both.first), before);
    }
}
