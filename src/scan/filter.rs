//! Mild filters of a whole image.

use rand::Rng as _;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};

/// Separates the noise from other draws with the same seed.
const STREAM: u64 = 0x6669_6c74;

/// Thresholds of ordered dithering (B. E. Bayer, ICC 1973), as sixteenths.
const BAYER: [[u8; 4]; 4] = [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]];

/// A mild filter of a whole image, which keeps it recognisable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Filter {
    /// Values rounded to `levels` evenly spaced levels in [0, 1]; `dithered`: with 4x4 ordered dithering.
    Levels { levels: u8, dithered: bool },
    /// Uniform noise with this standard deviation, in pixels in [0, 1].
    Noise(f32),
    /// Gaussian blur with this standard deviation, in pixels of an image 32 wide.
    Blur(f32),
}

impl Filter {
    /// Filters one image (H, W, C) in [0, 1]; `seed` seeds its noise.
    pub fn on(self, image: &mut [f32], [height, width, channels]: [usize; 3], seed: u64) {
        match self {
            Self::Levels { levels, dithered } => {
                let steps = f32::from(levels - 1);
                for (place, values) in image.chunks_exact_mut(channels).enumerate() {
                    let threshold = BAYER[place / width % 4][place % width % 4];
                    let threshold = if dithered { (f32::from(threshold) + 0.5) / 16.0 - 0.5 } else { 0.0 };
                    values.iter_mut().for_each(|v| {
                        *v = ((*v * steps + threshold).round_ties_even() / steps).clamp(0.0, 1.0);
                    });
                }
            }
            Self::Noise(deviation) => {
                let mut rng = ChaCha8Rng::seed_from_u64(seed ^ STREAM);
                // uniform over [-w, w] has standard deviation w / sqrt(3)
                let wide = deviation * 3f32.sqrt();
                image.iter_mut().for_each(|v| {
                    *v = (*v + wide * (2.0 * rng.random::<f32>() - 1.0)).clamp(0.0, 1.0);
                });
            }
            Self::Blur(deviation) => {
                let deviation = deviation * width as f32 / 32.0;
                let row = channels * width;
                // along the rows, then along the columns
                blur(image, [height, width, channels], [row, channels, 1], deviation);
                blur(image, [width, height, channels], [channels, row, 1], deviation);
            }
        }
    }
}

/// Blurs along the second of three axes with these lengths and strides; the edge values are repeated.
fn blur(values: &mut [f32], lengths: [usize; 3], strides: [usize; 3], deviation: f32) {
    let reach = (3.0 * deviation).ceil() as usize;
    let weights: Vec<f32> =
        (0..=2 * reach).map(|i| (-0.5 * ((i as f32 - reach as f32) / deviation).powi(2)).exp()).collect();
    let sum: f32 = weights.iter().sum();
    let mut line = vec![0f32; lengths[1]];
    for a in 0..lengths[0] {
        for c in 0..lengths[2] {
            let at = |b: usize| a * strides[0] + b * strides[1] + c * strides[2];
            for (b, to) in line.iter_mut().enumerate() {
                let of = |i: usize| values[at((b + i).saturating_sub(reach).min(lengths[1] - 1))];
                *to = weights.iter().enumerate().map(|(i, w)| w * of(i)).sum::<f32>() / sum;
            }
            line.iter().enumerate().for_each(|(b, v)| values[at(b)] = *v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_rounded_to_levels() {
        let shape = [4, 4, 1];
        let mut image = vec![0.3; 16];
        Filter::Levels { levels: 4, dithered: false }.on(&mut image, shape, 0);
        assert!(image.iter().all(|v| (*v - 1.0 / 3.0).abs() < 1e-6));
        let mut image = vec![0.5; 16];
        Filter::Levels { levels: 4, dithered: true }.on(&mut image, shape, 0);
        // half way between two levels: half of the pixels are rounded up, which keeps the mean
        assert_eq!(image.iter().filter(|v| **v > 0.5).count(), 8);
        assert!((image.iter().sum::<f32>() / 16.0 - 0.5).abs() < 1e-6);
        assert!(image[0] < 0.5 && image[1] > 0.5 && image[4] > 0.5 && image[5] < 0.5);
    }

    #[test]
    fn noise_has_its_deviation_and_depends_on_the_seed_alone() {
        let make = |seed| {
            let mut image = vec![0.5; 30_000];
            Filter::Noise(0.1).on(&mut image, [100, 100, 3], seed);
            image
        };
        let (one, other) = (make(1), make(2));
        assert_eq!(one, make(1));
        assert_ne!(one, other);
        let mean = one.iter().sum::<f32>() / 30_000.0;
        let deviation = (one.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 30_000.0).sqrt();
        assert!((mean - 0.5).abs() < 0.003 && (deviation - 0.1).abs() < 0.003, "{mean} {deviation}");
    }

    /// A point becomes a two-dimensional Gaussian; a constant channel stays; channels do not mix.
    #[test]
    fn blur_is_a_gaussian() {
        let (side, channels) = (32, 2);
        let mut image = vec![0f32; side * side * channels];
        let at = |row: usize, column: usize| (row * side + column) * channels;
        image[at(16, 16)] = 1.0;
        image.iter_mut().skip(1).step_by(2).for_each(|v| *v = 0.25);
        Filter::Blur(1.0).on(&mut image, [side, side, channels], 0);
        let weight = |d: f32| (-0.5 * d * d).exp();
        let sum: f32 = (-3..=3).map(|d| weight(d as f32)).sum();
        for (row, column) in [(16, 16), (16, 18), (15, 17), (20, 16)] {
            let (down, right) = (row as f32 - 16.0, column as f32 - 16.0);
            let expected = if down.abs() > 3.0 { 0.0 } else { weight(down) * weight(right) / (sum * sum) };
            assert!((image[at(row, column)] - expected).abs() < 1e-6, "{row} {column}");
        }
        assert!(image.iter().skip(1).step_by(2).all(|v| (*v - 0.25).abs() < 1e-6));
    }
}
