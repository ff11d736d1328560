//! Between pixel space (n, c, h, w; values in [0, 1]) and what a network reads (n, h, w, c; normalised), and the
//! adversary's step in pixel space: one pass over each image.

use rayon::prelude::*;

use super::cpu::dispatch;

/// Shape of an image in pixel space and how it is normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// Subtracted, by channel.
    pub mean: Vec<f32>,
    /// Divided by, by channel; above 0.
    pub std: Vec<f32>,
}

impl Pixels {
    fn check(&self, lengths: &[usize]) -> usize {
        let image = self.shape.iter().product();
        assert!(self.mean.len() == self.shape[0] && self.std.len() == self.shape[0] && image > 0);
        assert!(lengths.iter().all(|l| *l == lengths[0] && l % image == 0));
        image
    }

    /// Writes `y` (n, h, w, c): (clip(pixels + delta, 0, 1) - mean) / std. `pixels` and `delta`: (n, c, h, w). Without
    /// a delta nothing is clipped.
    pub fn normalise(&self, pixels: &[f32], delta: Option<&[f32]>, y: &mut [f32]) {
        let image = self.check(&[pixels.len(), delta.map_or(y.len(), <[f32]>::len), y.len()]);
        let [c, h, w] = self.shape;
        y.par_chunks_mut(image).enumerate().for_each(|(i, y)| {
            let range = i * image..(i + 1) * image;
            let (pixels, delta) = (&pixels[range.clone()], delta.map(|d| &d[range]));
            dispatch(
                #[inline(always)]
                || {
                    for channel in 0..c {
                        let (mean, std) = (self.mean[channel], self.std[channel]);
                        let plane = channel * h * w..(channel + 1) * h * w;
                        let to = y[channel..].iter_mut().step_by(c);
                        match delta {
                            Some(d) => {
                                for ((y, p), d) in to.zip(&pixels[plane.clone()]).zip(&d[plane]) {
                                    *y = ((p + d).clamp(0.0, 1.0) - mean) / std;
                                }
                            }
                            None => to.zip(&pixels[plane]).for_each(|(y, p)| *y = (p - mean) / std),
                        }
                    }
                },
            );
        });
    }

    /// One step of the adversary: delta <- delta - step sign(g), then scaled down to norm `radius` where it is longer;
    /// an image at a time. `grad` (n, h, w, c) is the loss's gradient by what [`Self::normalise`] wrote for this
    /// delta, g the gradient by delta: 0 where a pixel is clipped. sign(0) = 0. `pixels` and `delta`: (n, c, h, w).
    pub fn descend(&self, pixels: &[f32], grad: &[f32], step: f32, radius: f32, delta: &mut [f32]) {
        let image = self.check(&[pixels.len(), grad.len(), delta.len()]);
        let [c, h, w] = self.shape;
        delta.par_chunks_mut(image).enumerate().for_each(|(i, delta)| {
            let (pixels, grad) = (&pixels[i * image..(i + 1) * image], &grad[i * image..(i + 1) * image]);
            dispatch(
                #[inline(always)]
                || {
                    for channel in 0..c {
                        let plane = channel * h * w..(channel + 1) * h * w;
                        let grad = grad[channel..].iter().step_by(c);
                        for ((d, p), g) in delta[plane.clone()].iter_mut().zip(&pixels[plane]).zip(grad) {
                            let v = p + *d;
                            // the slope of normalising is above 0, so the sign is the gradient's
                            let sign = f32::from(i8::from(*g > 0.0) - i8::from(*g < 0.0));
                            *d -= if (0.0..=1.0).contains(&v) { step * sign } else { 0.0 };
                        }
                    }
                    let norm = norm(delta);
                    if norm > radius {
                        let factor = radius / norm;
                        delta.iter_mut().for_each(|d| *d *= factor);
                    }
                },
            );
        });
    }

    /// (n, c, h, w) to (n, h, w, c), as it is.
    pub fn channels_last(&self, x: &[f32], y: &mut [f32]) {
        let image = self.check(&[x.len(), y.len()]);
        let [c, h, w] = self.shape;
        y.par_chunks_mut(image).zip(x.par_chunks(image)).for_each(|(y, x)| {
            for (channel, x) in x.chunks_exact(h * w).enumerate() {
                y[channel..].iter_mut().step_by(c).zip(x).for_each(|(y, x)| *y = *x);
            }
        });
    }

    /// (n, h, w, c) to (n, c, h, w), as it is.
    pub fn channels_first(&self, x: &[f32], y: &mut [f32]) {
        let image = self.check(&[x.len(), y.len()]);
        let [c, h, w] = self.shape;
        y.par_chunks_mut(image).zip(x.par_chunks(image)).for_each(|(y, x)| {
            for (channel, y) in y.chunks_exact_mut(h * w).enumerate() {
                y.iter_mut().zip(x[channel..].iter().step_by(c)).for_each(|(y, x)| *y = *x);
            }
        });
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
