//! An adversary that learns: one small convolutional network, the same for all images of a batch, makes of each image what
//! is added to it. Triggers that differ from image to image are made so (arXiv 2010.08138), and no change that is the same
//! for all images comes near to one. It has few numbers: a change for each image alone would find a way through any network.

use candle_core::{Device, Tensor};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{
    adversary::{self, Attack, Batch, Times},
    kept::Normalisation,
    layer::Folded,
    network::{self, Network},
};
use crate::{Result, profile::Part};

/// Channels between the two convolutions.
const WIDTH: usize = 8;
/// Their kernels' height and width.
const KERNEL: usize = 3;
/// Size of what K1 and K2 start from, beside the root of one over what one output reads.
const FIRST: f64 = 4.0 * std::f64::consts::SQRT_2;
const SECOND: f64 = 0.3;
/// Length of the first step, for each number; the last one's is a fifth of it and a little more.
const STEP: f32 = 0.03;
const FALL: f32 = 0.8;

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
    /// What an operator refuses, [`crate::Error::Interrupted`].
    pub fn towards(
        &self,
        network: &mut Network<'_>,
        layer: &Folded,
        batch: &Batch<'_>,
        class: u32,
        rng: &mut ChaCha8Rng,
    ) -> Result<Attack> {
        let pixels = network.timed(Part::Gather, || network::gather(&batch.kept.pixels, batch.images))?;
        let mut change = Change::new(&pixels, self.rho, rng)?;
        let learns: Vec<f32> = batch.labels.iter().map(|l| f32::from(u8::from(*l != class))).collect();
        let mut taken = 0;
        let step = |gradient: Option<Tensor>| {
            if let Some(gradient) = gradient {
                let left = 1.0 - FALL * taken as f32 / self.steps.max(1) as f32;
                change.step(&adversary::rows_of(&gradient)?, &self.normalisation.std, &learns, STEP * left);
            }
            taken += 1;
            self.normalisation.apply(&change.changed()?.to_device(pixels.device())?)
        };
        let targets = vec![class; batch.images.len()];
        let times = Times { steps: self.steps, stop_share: 2.0 };
        let pass = adversary::climb(network, layer, batch, &targets, &self.normalisation, times, step)?;
        let reached = pass.logits.share_answered(&targets);
        Ok(Attack { pass, targets, reached })
    }
}

/// One number for each inner channel.
type Inner = [f32; WIDTH];

/// Images and what is made of them, channels last.
struct Change {
    /// N, H, W, C.
    shape: [usize; 4],
    /// In [0, 1].
    pixels: Vec<f32>,
    /// By tap and channel of what is read: [K1, K2]. K1's are of what each inner channel reads, K2's of what is read of each.
    kernels: [Vec<Inner>; 2],
    /// What these make of each image.
    made: Vec<Made>,
    reach: f32,
}

impl Change {
    fn new(pixels: &Tensor, rho: f32, rng: &mut ChaCha8Rng) -> Result<Self> {
        let (n, c, h, w) = pixels.dims4()?;
        let taps = KERNEL * KERNEL;
        let mut kernel = |reads: usize, size: f64| -> Vec<Inner> {
            // even over [-s, s] has the deviation s / sqrt(3)
            let most = size * (3.0 / reads as f64).sqrt();
            let mut number = || (most * (2.0 * rng.random::<f64>() - 1.0)) as f32;
            (0..taps * c).map(|_| std::array::from_fn(|_| number())).collect()
        };
        let kernels = [kernel(taps * c, FIRST), kernel(taps * WIDTH, SECOND)];
        let reach = rho / ((c * h * w) as f32).sqrt();
        let pixels = adversary::rows_of(pixels)?;
        let mut change = Self { shape: [n, h, w, c], pixels, kernels, made: Vec::new(), reach };
        change.make();
        Ok(change)
    }

    fn make(&mut self) {
        let images = self.pixels.par_chunks(self.size());
        self.made = images.map(|image| Made::of(image, self.shape, &self.kernels)).collect();
    }

    fn size(&self) -> usize {
        self.shape[1..].iter().product::<usize>().max(1)
    }

    /// The images with what is added, in [0, 1]: (N, C, H, W).
    fn changed(&self) -> Result<Tensor> {
        let mut changed = self.pixels.clone();
        let added = self.made.iter().flat_map(|made| &made.added);
        changed.iter_mut().zip(added).for_each(|(v, t)| *v = (*v + self.reach * t).clamp(0.0, 1.0));
        let [n, h, w, c] = self.shape;
        Ok(Tensor::from_vec(changed, (n, h, w, c), &Device::Cpu)?.permute((0, 3, 1, 2))?)
    }

    /// One step down, for a gradient (N H W C) by the normalised images, of which those with a 0 in `learns` do not count.
    fn step(&mut self, gradient: &[f32], std: &[f32], learns: &[f32], length: f32) {
        let rows = self.made.par_iter().zip(gradient.par_chunks(self.size())).zip(learns);
        let each: Vec<[Vec<Inner>; 2]> = rows
            .filter(|(_, learns)| **learns != 0.0)
            .map(|((made, gradient), _)| self.gradients(made, gradient, std))
            .collect();
        for (k, kernel) in self.kernels.iter_mut().enumerate() {
            for (i, numbers) in kernel.iter_mut().enumerate() {
                for (j, number) in numbers.iter_mut().enumerate() {
                    // in the order of the images, however many threads there are
                    let sum: f64 = each.iter().map(|g| f64::from(g[k][i][j])).sum();
                    *number -= if sum == 0.0 { 0.0 } else { length * sum.signum() as f32 };
                }
            }
        }
        self.make();
    }

    /// K1's and K2's gradients of the sum of one image's change times its gradient, that scaled to length 1.
    fn gradients(&self, made: &Made, gradient: &[f32], std: &[f32]) -> [Vec<Inner>; 2] {
        let [_, h, w, c] = self.shape;
        let mut by: Vec<f32> = gradient.iter().zip(std.iter().cycle()).map(|(g, s)| g / s).collect();
        let squares: f64 = by.iter().map(|g| f64::from(*g).powi(2)).sum();
        let scale = self.reach / (squares.sqrt() as f32).max(f32::MIN_POSITIVE);
        // through tanh
        by.iter_mut().zip(&made.added).for_each(|(by, added)| *by = *by * scale * (1.0 - added * added));
        let mut sums = self.kernels.each_ref().map(|kernel| vec![[0f32; WIDTH]; kernel.len()]);
        let mut by_inner = vec![[0f32; WIDTH]; made.inner.len()];
        let wide = w + KERNEL - 1;
        for (place, by) in by.chunks_exact(c).enumerate() {
            for (tap, at) in taps(place, w, wide).enumerate() {
                for (channel, by) in by.iter().enumerate() {
                    add(&mut sums[1][tap * c + channel], *by, &made.inner[at]);
                    add(&mut by_inner[at], *by, &self.kernels[1][tap * c + channel]);
                }
            }
        }
        for place in 0..h * w {
            let at = centre(place, w, wide);
            let by: Inner =
                std::array::from_fn(|k| if made.inner[at][k] > 0.0 { by_inner[at][k] } else { 0.0 });
            for (tap, from) in taps(place, w, wide).enumerate() {
                for channel in 0..c {
                    add(&mut sums[0][tap * c + channel], made.reads[from * c + channel], &by);
                }
            }
        }
        sums
    }
}

/// What the two convolutions make of one image.
struct Made {
    /// x - 1/2 with zeros around it: (H + 2, W + 2, C).
    reads: Vec<f32>,
    /// After the ReLU, with zeros around it: (H + 2, W + 2).
    inner: Vec<Inner>,
    /// After tanh: (H, W, C).
    added: Vec<f32>,
}

impl Made {
    fn of(image: &[f32], [_, h, w, c]: [usize; 4], [first, second]: &[Vec<Inner>; 2]) -> Self {
        let (wide, high, pad) = (w + KERNEL - 1, h + KERNEL - 1, KERNEL / 2);
        let mut reads = vec![0f32; wide * high * c];
        for (row, values) in image.chunks_exact(w * c).enumerate() {
            let to = ((row + pad) * wide + pad) * c;
            reads[to..to + w * c].iter_mut().zip(values).for_each(|(to, v)| *to = v - 0.5);
        }
        let mut inner = vec![[0f32; WIDTH]; wide * high];
        for place in 0..h * w {
            let mut sum = [0f32; WIDTH];
            for (tap, at) in taps(place, w, wide).enumerate() {
                for channel in 0..c {
                    add(&mut sum, reads[at * c + channel], &first[tap * c + channel]);
                }
            }
            inner[centre(place, w, wide)] = sum.map(|v| v.max(0.0));
        }
        let mut added = vec![0f32; h * w * c];
        for (place, to) in added.chunks_exact_mut(c).enumerate() {
            for (channel, to) in to.iter_mut().enumerate() {
                let mut sum = [0f32; WIDTH];
                for (tap, at) in taps(place, w, wide).enumerate() {
                    let kernel = &second[tap * c + channel];
                    sum.iter_mut().zip(&inner[at]).zip(kernel).for_each(|((s, v), k)| *s += v * k);
                }
                *to = sum.iter().sum::<f32>().tanh();
            }
        }
        Self { reads, inner, added }
    }
}

fn add(sum: &mut Inner, times: f32, of: &Inner) {
    sum.iter_mut().zip(of).for_each(|(s, v)| *s += times * v);
}

/// Where the taps of a place of an image of this width read, in one that is `wide` with what is around it.
fn taps(place: usize, width: usize, wide: usize) -> impl Iterator<Item = usize> {
    let corner = place / width * wide + place % width;
    (0..KERNEL * KERNEL).map(move |tap| corner + tap / KERNEL * wide + tap % KERNEL)
}

/// Where the middle one of them reads.
fn centre(place: usize, width: usize, wide: usize) -> usize {
    (place / width + KERNEL / 2) * wide + place % width + KERNEL / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;
    use rand_chacha::rand_core::SeedableRng as _;

    /// Of `n` images (3, 8, 6), those from `first` on.
    fn change(first: usize, n: usize) -> Change {
        let size = 3 * 48;
        let values: Vec<f32> =
            (first * size..(first + n) * size).map(|i| ((i * 7919) % 101) as f32 / 101.0).collect();
        let pixels =
            Tensor::from_vec(values, (n, 8, 6, 3), &Device::Cpu).unwrap().permute((0, 3, 1, 2)).unwrap();
        Change::new(&pixels, 2.0, &mut ChaCha8Rng::seed_from_u64(3)).unwrap()
    }

    fn added(c: &Change) -> Vec<f32> {
        c.made.iter().flat_map(|made| &made.added).map(|v| v * c.reach).collect()
    }

    fn weights(n: usize) -> Vec<f32> {
        (0..n * 3 * 48).map(|i| ((i * 31) % 17) as f32 - 8.0).collect()
    }

    fn near(a: &[f32], b: &[f32]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5 * (1.0 + b.abs()))
    }

    /// The same by candle's convolutions: K1 and K2 as variables (out, in, 3, 3), and what is added (N, C, H, W).
    fn by_candle(c: &Change) -> (Var, Var, Tensor) {
        let numbers = |k: usize| {
            let flat: Vec<f32> = c.kernels[k].iter().flatten().copied().collect();
            Tensor::from_vec(flat, (3, 3, 3, WIDTH), &Device::Cpu).unwrap()
        };
        let var = |t: Tensor| Var::from_tensor(&t.contiguous().unwrap()).unwrap();
        let first = var(numbers(0).permute((3, 2, 0, 1)).unwrap());
        let second = var(numbers(1).permute((2, 3, 0, 1)).unwrap());
        let [n, h, w, channels] = c.shape;
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
        assert!(near(&added(&c), &adversary::rows_of(&expected).unwrap()));
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
    fn steps_go_downhill_and_no_change_leaves_the_ball() {
        let mut c = change(0, 4);
        let by = weights(4);
        let objective = |c: &Change| added(c).iter().zip(&by).map(|(a, b)| a * b).sum::<f32>();
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
        let changed = adversary::rows_of(&c.changed().unwrap()).unwrap();
        assert!(changed.iter().all(|v| (0.0..=1.0).contains(v)) && changed != c.pixels);
    }

    #[test]
    fn what_is_added_hangs_on_the_image_and_on_nothing_else() {
        let (both, one) = (added(&change(0, 2)), added(&change(1, 1)));
        assert_eq!(one, both[3 * 48..]);
        assert!(!near(&one, &both[..3 * 48]));
    }

    #[test]
    fn nothing_is_learnt_from_images_of_the_class_itself() {
        let (mut both, mut one) = (change(0, 2), change(0, 1));
        both.step(&weights(2), &[0.5; 3], &[1.0, 0.0], 0.01);
        one.step(&weights(1), &[0.5; 3], &[1.0], 0.01);
        assert_eq!(both.kernels, one.kernels);
        assert_ne!(both.kernels, change(0, 1).kernels);
        // no direction, no step
        both.step(&vec![0.0; 2 * 3 * 48], &[0.5; 3], &[1.0, 1.0], 0.01);
        assert_eq!(both.kernels, one.kernels);
    }
}
