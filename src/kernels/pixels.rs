//! Conversion of pixels (in [0, 1]) to the network's normalised input, and the adversary's step in pixel space, one
//! pass over each image. Everything is channels-last, (n, h, w, c).

use rayon::prelude::*;

use super::cpu::dispatch;

/// Normalisation of images of one size: (x - mean) / std by channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    /// mean and std by value of an image, repeated for every pixel so that the loops run over plain vectors.
    mean: Vec<f32>,
    std: Vec<f32>,
}

/// A step of sign descent: length per value, and the radius of the L2 ball that an image's delta stays in.
#[derive(Clone, Copy, Debug)]
pub struct Descent {
    pub step: f32,
    pub radius: f32,
}

impl Pixels {
    /// For images of `pixels` pixels; `mean` and `std` (> 0) by channel.
    ///
    /// # Panics
    /// If `mean` and `std` differ in length or are empty.
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

    /// A step of the adversary on each image: delta <- delta - step sign(g), scaled down to norm `radius` if longer.
    /// Writes
    /// the new network input, (clip(pixels + delta, 0, 1) - mean) / std, to `y`.
    ///
    /// `grad` is the loss's gradient with respect to the previous input. g, that with respect to delta, has its sign
    /// but is 0
    /// where pixels + delta is outside [0, 1]. sign(0) = 0. The norm is summed in f64.
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

/// Euclidean norm, summed in f64 in sixteen interleaved parts.
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
