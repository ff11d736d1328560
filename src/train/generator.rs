//! The generator: a small convolutional network, common to a batch, computes the perturbation of each image.
//! Input-aware triggers are made like this (arXiv 2010.08138), and no change common to all images imitates them. It
//! has few parameters, since unrestricted perturbations per image would fool any network.

use candle_core::{Device, Tensor};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::{
    Result,
    kernels::generator::{Inner, Kernels, Made, Size, TAPS, WIDTH},
    network::{
        Climb, Folded, Network,
        attack::{self, Attack, Batch},
    },
};

/// Initial standard deviations of K1 and K2, relative to 1/sqrt(fan_in).
const FIRST: f64 = 4.0 * std::f64::consts::SQRT_2;
const SECOND: f64 = 0.3;
/// First step per parameter; it decreases linearly by the factor [`FALL`] in all.
const STEP: f32 = 0.03;
const FALL: f32 = 0.8;

/// delta(x) = e tanh(K2 * relu(K1 * (x - 1/2))), x in [0, 1], zero-padded convolutions without bias; e = rho /
/// sqrt(CHW) bounds the L2 norm by rho. A step follows the sign of the objective's gradient with respect to K1 and K2,
/// summed over the images, each image's pixel gradient scaled to length 1.
pub struct Generator {
    pub steps: usize,
    /// L2 radius per image, in pixels in [0, 1].
    pub rho: f32,
}

impl Generator {
    /// Attacks a batch through the current layer, towards `class`. Images of that class are perturbed too, but do not
    /// train the generator.
    ///
    /// # Errors
    /// Errors of operators; [`crate::Error::Interrupted`].
    pub fn towards(
        &self,
        network: &mut Network<'_>,
        layer: &Folded,
        batch: &Batch<'_>,
        class: u32,
        rng: &mut ChaCha8Rng,
    ) -> Result<Attack> {
        let pixels = batch.pixels(network)?;
        let mut change = GeneratorState::new(&pixels, self.rho, rng)?;
        let learns: Vec<f32> = batch.labels.iter().map(|l| f32::from(u8::from(*l != class))).collect();
        let normalisation = &batch.kept.normalisation;
        let mut taken = 0;
        let step = |gradient: Option<Tensor>| {
            if let Some(gradient) = gradient {
                let left = 1.0 - FALL * taken as f32 / self.steps.max(1) as f32;
                change.step(&attack::rows_of(&gradient)?, &normalisation.std, &learns, STEP * left);
            }
            taken += 1;
            normalisation.apply(&change.changed()?.to_device(pixels.device())?)
        };
        let targets = vec![class; batch.images.len()];
        Climb { steps: self.steps, stop_share: None }.run(network, layer, batch, targets, step)
    }
}

/// Images and the generator being trained on them, channels last.
struct GeneratorState {
    images: usize,
    size: Size,
    /// In [0, 1].
    pixels: Vec<f32>,
    kernels: Kernels,
    /// Activations of the generator for each image.
    made: Vec<Made>,
    reach: f32,
}

impl GeneratorState {
    fn new(pixels: &Tensor, rho: f32, rng: &mut ChaCha8Rng) -> Result<Self> {
        let (images, channels, height, width) = pixels.dims4()?;
        let mut kernel = |reads: usize, size: f64| -> Vec<Inner> {
            // uniform over [-s, s] has standard deviation s / sqrt(3)
            let most = size * (3.0 / reads as f64).sqrt();
            let mut number = || (most * (2.0 * rng.random::<f64>() - 1.0)) as f32;
            (0..TAPS * channels).map(|_| std::array::from_fn(|_| number())).collect()
        };
        let kernels = [kernel(TAPS * channels, FIRST), kernel(TAPS * WIDTH, SECOND)];
        let reach = rho / ((channels * height * width) as f32).sqrt();
        let pixels = attack::rows_of(pixels)?;
        let size = Size { channels, height, width };
        let mut change = Self { images, size, pixels, kernels, made: Vec::new(), reach };
        change.make();
        Ok(change)
    }

    fn make(&mut self) {
        let images = self.pixels.par_chunks(self.numel());
        self.made = images.map(|image| Made::of(image, self.size, &self.kernels)).collect();
    }

    /// Number of values of an image, at least one.
    fn numel(&self) -> usize {
        self.size.numel().max(1)
    }

    /// The perturbed images in [0, 1], (N, C, H, W).
    fn changed(&self) -> Result<Tensor> {
        let mut changed = vec![0f32; self.pixels.len()];
        let each = changed.par_chunks_mut(self.numel()).zip(self.pixels.par_chunks(self.numel()));
        each.zip(&self.made).for_each(|((to, from), made)| {
            let values = to.iter_mut().zip(from).zip(&made.added);
            values.for_each(|((to, v), t)| *to = (*v + self.reach * t).clamp(0.0, 1.0));
        });
        let Size { channels, height, width } = self.size;
        let shape = (self.images, height, width, channels);
        Ok(Tensor::from_vec(changed, shape, &Device::Cpu)?.permute((0, 3, 1, 2))?)
    }

    /// One descent step for the gradient (N, H, W, C) with respect to the normalised images; those with a 0 in `learns`
    /// are ignored.
    fn step(&mut self, gradient: &[f32], std: &[f32], learns: &[f32], length: f32) {
        let rows = self.made.par_iter().zip(gradient.par_chunks(self.numel())).zip(learns);
        let each: Vec<Kernels> = rows
            .filter(|(_, learns)| **learns != 0.0)
            .map(|((made, gradient), _)| self.gradients(made, gradient, std))
            .collect();
        for (k, kernel) in self.kernels.iter_mut().enumerate() {
            for (i, numbers) in kernel.iter_mut().enumerate() {
                for (j, number) in numbers.iter_mut().enumerate() {
                    // summed in the order of the images, whatever the number of threads
                    let sum: f64 = each.iter().map(|g| f64::from(g[k][i][j])).sum();
                    *number -= if sum == 0.0 { 0.0 } else { length * sum.signum() as f32 };
                }
            }
        }
        self.make();
    }

    /// Gradients with respect to K1 and K2 of the product of one image's perturbation and its normalised gradient.
    fn gradients(&self, made: &Made, gradient: &[f32], std: &[f32]) -> Kernels {
        let mut by: Vec<f32> = gradient.iter().zip(std.iter().cycle()).map(|(g, s)| g / s).collect();
        let squares: f64 = by.iter().map(|g| f64::from(*g).powi(2)).sum();
        let scale = self.reach / (squares.sqrt() as f32).max(f32::MIN_POSITIVE);
        by.iter_mut().for_each(|by| *by *= scale);
        made.gradients(&by, self.size, &self.kernels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;
    use rand_chacha::rand_core::SeedableRng as _;

    /// For `n` images (3, 8, 6), from number `first` on.
    fn change(first: usize, n: usize) -> GeneratorState {
        let size = 3 * 48;
        let values: Vec<f32> =
            (first * size..(first + n) * size).map(|i| ((i * 7919) % 101) as f32 / 101.0).collect();
        let pixels =
            Tensor::from_vec(values, (n, 8, 6, 3), &Device::Cpu).unwrap().permute((0, 3, 1, 2)).unwrap();
        GeneratorState::new(&pixels, 2.0, &mut ChaCha8Rng::seed_from_u64(3)).unwrap()
    }

    fn added(c: &GeneratorState) -> Vec<f32> {
        c.made.iter().flat_map(|made| &made.added).map(|v| v * c.reach).collect()
    }

    fn weights(n: usize) -> Vec<f32> {
        (0..n * 3 * 48).map(|i| ((i * 31) % 17) as f32 - 8.0).collect()
    }

    fn near(a: &[f32], b: &[f32]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5 * (1.0 + b.abs()))
    }

    /// The same with candle's convolutions: K1 and K2 as variables (out, in, 3, 3), and the perturbation (N, C, H, W).
    fn by_candle(c: &GeneratorState) -> (Var, Var, Tensor) {
        let numbers = |k: usize| {
            let flat: Vec<f32> = c.kernels[k].iter().flatten().copied().collect();
            Tensor::from_vec(flat, (3, 3, 3, WIDTH), &Device::Cpu).unwrap()
        };
        let var = |t: Tensor| Var::from_tensor(&t.contiguous().unwrap()).unwrap();
        let first = var(numbers(0).permute((3, 2, 0, 1)).unwrap());
        let second = var(numbers(1).permute((2, 3, 0, 1)).unwrap());
        let Size { channels, height: h, width: w } = c.size;
        let n = c.images;
        let pixels = Tensor::from_slice(&c.pixels, (n, h, w, channels), &Device::Cpu).unwrap();
        let reads = (pixels.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap() - 0.5).unwrap();
        let inner = reads.conv2d(&first, 1, 1, 1, 1).unwrap().relu().unwrap();
        let sum = inner.conv2d(&second, 1, 1, 1, 1).unwrap();
        let added = (sum.tanh().unwrap() * f64::from(c.reach)).unwrap();
        (first, second, added)
    }

    #[test]
    fn it_is_two_convolutions_and_so_are_its_gradients() {
        let c = change(0, 1);
        let (first, second, expected) = by_candle(&c);
        assert!(near(&added(&c), &attack::rows_of(&expected).unwrap()));
        let (by, std) = (weights(1), [0.5, 2.0, 1.0]);
        let mine = c.gradients(&c.made[0], &by, &std);
        let by: Vec<f32> = by.iter().zip(std.iter().cycle()).map(|(b, s)| b / s).collect();
        let length = by.iter().map(|v| v * v).sum::<f32>().sqrt();
        let by = Tensor::from_vec(by, (1, 8, 6, 3), &Device::Cpu).unwrap().permute((0, 3, 1, 2)).unwrap();
        let objective = (expected * (by / f64::from(length)).unwrap()).unwrap().sum_all().unwrap();
        let store = objective.backward().unwrap();
        for (mine, var, order) in [(&mine[0], first, (2, 3, 1, 0)), (&mine[1], second, (2, 3, 0, 1))] {
            let theirs = store.get(&var).unwrap().permute(order).unwrap().flatten_all().unwrap();
            let mine: Vec<f32> = mine.iter().flatten().copied().collect();
            assert!(near(&mine, &theirs.to_vec1().unwrap()));
        }
    }

    #[test]
    fn steps_descend_and_no_perturbation_leaves_the_ball() {
        let mut c = change(0, 4);
        let by = weights(4);
        let objective = |c: &GeneratorState| added(c).iter().zip(&by).map(|(a, b)| a * b).sum::<f32>();
        let mut before = objective(&c);
        for _ in 0..5 {
            c.step(&by, &[1.0; 3], &[1.0; 4], 1e-3);
            let now = objective(&c);
            assert!(now < before, "{now} {before}");
            before = now;
        }
        for _ in 0..40 {
            c.step(&by, &[1.0; 3], &[1.0; 4], 1.0);
        }
        for added in added(&c).chunks(3 * 48) {
            let length = added.iter().map(|v| v * v).sum::<f32>().sqrt();
            assert!((0.1..=2.0 + 1e-4).contains(&length), "{length}");
        }
        let changed = attack::rows_of(&c.changed().unwrap()).unwrap();
        assert!(changed.iter().all(|v| (0.0..=1.0).contains(v)) && changed != c.pixels);
    }

    #[test]
    fn a_perturbation_depends_on_its_image_alone() {
        let (both, one) = (added(&change(0, 2)), added(&change(1, 1)));
        assert_eq!(one, both[3 * 48..]);
        assert!(!near(&one, &both[..3 * 48]));
    }

    #[test]
    fn images_of_the_target_class_do_not_train_it() {
        let (mut both, mut one) = (change(0, 2), change(0, 1));
        both.step(&weights(2), &[0.5; 3], &[1.0, 0.0], 0.01);
        one.step(&weights(1), &[0.5; 3], &[1.0], 0.01);
        assert_eq!(both.kernels, one.kernels);
        assert_ne!(both.kernels, change(0, 1).kernels);
        // no gradient, no step
        both.step(&vec![0.0; 2 * 3 * 48], &[0.5; 3], &[1.0, 1.0], 0.01);
        assert_eq!(both.kernels, one.kernels);
    }
}
