//! Between pixel space (values in [0, 1]) and what a network reads (normalised), and the adversary's step in pixel space:
//! one pass over each image. Everything is channels-last, (n, h, w, c).

use rayon::prelude::*;

use super::cpu::dispatch;

/// How images of one size are normalised: (x - mean) / std by channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    /// What is subtracted from and what divides each value of an image: mean and std, repeated for every pixel so that
    /// a loop over an image is one over plain vectors.
    mean: Vec<f32>,
    std: Vec<f32>,
}

/// One step of sign descent: its length for each value, and the radius of the ball that an image's delta stays in.
#[derive(Clone, Copy, Debug)]
pub struct Descent {
    pub step: f32,
    pub radius: f32,
}

impl Pixels {
    /// Images of `pixels` pixels; `mean` and `std`, which is above 0, by channel.
    ///
    /// # Panics
    /// Where these differ in length or are empty.
    pub fn new(pixels: usize, mean: &[f32], std: &[f32]) -> Self {
        assert!(mean.len() == std.len() && pixels * mean.len() > 0);
        Self { mean: mean.repeat(pixels), std: std.repeat(pixels) }
    }

    fn check(&self, lengths: &[usize]) -> usize {
        let image = self.mean.len();
        assert!(lengths.iter().all(|l| *l == lengths[0] && l.is_multiple_of(image)));
        image
    }

    /// Writes (pixels - mean) / std to `y`.
    pub fn normalise(&self, pixels: &[f32], y: &mut [f32]) {
        let image = self.check(&[pixels.len(), y.len()]);
        y.par_chunks_mut(image).zip(pixels.par_chunks(image)).for_each(|(y, pixels)| {
            dispatch(
                #[inline(always)]
                || {
                    let by_value = y.iter_mut().zip(pixels).zip(&self.mean).zip(&self.std);
                    by_value.for_each(|(((y, p), mean), std)| *y = (p - mean) / std);
                },
            );
        });
    }

    /// One step of the adversary: delta <- delta - step sign(g), scaled down to norm `radius` where it is longer, an
    /// image at a time; and what the network reads then, (clip(pixels + delta, 0, 1) - mean) / std, written to `y`.
    ///
    /// `grad` is the loss's gradient by what the network read at the delta before; g is the gradient by delta, which has
    /// the same sign but is 0 where pixels + delta is clipped: outside [0, 1]. sign(0) = 0. The norm is summed in f64.
    pub fn descend(&self, pixels: &[f32], grad: &[f32], to: Descent, delta: &mut [f32], y: &mut [f32]) {
        let image = self.check(&[pixels.len(), grad.len(), delta.len(), y.len()]);
        let images = delta.par_chunks_mut(image).zip(y.par_chunks_mut(image));
        images.zip(pixels.par_chunks(image)).zip(grad.par_chunks(image)).for_each(
            |(((delta, y), pixels), grad)| {
                dispatch(
                    #[inline(always)]
                    || {
                        for ((d, p), g) in delta.iter_mut().zip(pixels).zip(grad) {
                            let v = p + *d;
                            let sign = f32::from(u8::from(*g > 0.0)) - f32::from(u8::from(*g < 0.0));
                            *d -= if (0.0..=1.0).contains(&v) { to.step * sign } else { 0.0 };
                        }
                        let norm = norm(delta);
                        if norm > to.radius {
                            let factor = to.radius / norm;
                            delta.iter_mut().for_each(|d| *d *= factor);
                        }
                        let by_value = y.iter_mut().zip(pixels).zip(delta).zip(&self.mean).zip(&self.std);
                        by_value.for_each(|((((y, p), d), mean), std)| {
                            *y = ((p + *d).clamp(0.0, 1.0) - mean) / std;
                        });
                    },
                );
            },
        );
    }
}

/// Euclidean length, summed in f64 in sixteen interleaved parts.
#[inline(always)]
fn norm(x: &[f32]) -> f32 {
    let mut parts = [0f64; 16];
    for x in x.chunks(16) {
        for (part, x) in parts.iter_mut().zip(x) {
            *part += f64::from(*x) * f64::from(*x);
        }
    }
    parts.iter().sum::<f64>().sqrt() as f32
}
