//! The adversary's step on values at the cut, one pass over each image. Any memory layout works, as long as all
//! slices of a part share it.

use rayon::prelude::*;

use super::cpu::dispatch;

/// One value that crosses the cut, for a batch. All slices except `sigma` have the same length.
pub struct CutValue<'a> {
    /// Clean values.
    pub values: &'a [f32],
    /// Standard deviations, one per value of an image.
    pub sigma: &'a [f32],
    /// The loss's gradient with respect to the moved values; None: zero.
    pub grad: Option<&'a [f32]>,
    /// The perturbation, in standard deviations.
    pub delta: &'a mut [f32],
    /// Output: values + sigma delta.
    pub moved: &'a mut [f32],
}

/// Shorter gradients have partly underflowed and have no meaningful direction; the factor that scales them would
/// overflow.
const LEAST: f64 = 1e-30;

/// One step of normalised descent for each of `images` images:
/// delta_k <- delta_k - length sqrt(numel_k) g_k / ||g||, with g_k = sigma_k grad_k the gradient with respect to
/// delta_k,
/// numel_k the number of values per image in part k, and the norm over all parts of an image (in f64). An image whose
/// gradient is almost 0 is not moved.
///
/// # Panics
/// If the slices' lengths are inconsistent.
pub fn descend(parts: &mut [CutValue], images: usize, length: f32) {
    for p in parts.iter() {
        let numel = p.sigma.len();
        let lengths =
            [p.values.len(), p.delta.len(), p.moved.len(), p.grad.map_or(p.values.len(), <[f32]>::len)];
        assert!(numel > 0 && lengths.iter().all(|l| *l == images * numel));
    }
    let squares = |i: usize| -> f64 {
        let each = parts.iter().filter_map(|p| {
            let numel = p.sigma.len();
            let grad = &p.grad?[i * numel..(i + 1) * numel];
            Some(dispatch(
                #[inline(always)]
                || squared_norm(grad, p.sigma),
            ))
        });
        each.sum()
    };
    let norms: Vec<f64> = (0..images).into_par_iter().map(|i| squares(i).sqrt()).collect();
    for p in parts {
        let numel = p.sigma.len();
        let (values, sigma, grad) = (p.values, p.sigma, p.grad);
        let images = p.delta.par_chunks_mut(numel).zip(p.moved.par_chunks_mut(numel)).zip(&norms).enumerate();
        images.for_each(|(i, ((delta, moved), norm))| {
            let range = i * numel..(i + 1) * numel;
            let factor =
                if *norm > LEAST { (f64::from(length) * (numel as f64).sqrt() / norm) as f32 } else { 0.0 };
            dispatch(
                #[inline(always)]
                || {
                    if let Some(grad) = grad {
                        for ((d, g), s) in delta.iter_mut().zip(&grad[range.clone()]).zip(sigma) {
                            *d -= factor * (g * s);
                        }
                    }
                    for (((m, v), d), s) in moved.iter_mut().zip(&values[range]).zip(delta).zip(sigma) {
                        *m = v + s * *d;
                    }
                },
            );
        });
    }
}

/// Sum of (a b)^2, in f64 in sixteen interleaved parts.
#[inline(always)]
fn squared_norm(a: &[f32], b: &[f32]) -> f64 {
    let mut parts = [0f64; 16];
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        for ((part, a), b) in parts.iter_mut().zip(a).zip(b) {
            let v = f64::from(a * b);
            *part += v * v;
        }
    }
    parts.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gradient_that_has_underflowed_moves_nothing() {
        let (mut delta, mut moved) = ([0.25f32], [0.0]);
        let mut part = [CutValue {
            values: &[1.0],
            sigma: &[1.0],
            grad: Some(&[1e-44]),
            delta: &mut delta,
            moved: &mut moved,
        }];
        descend(&mut part, 1, 0.5);
        assert_eq!((delta, moved), ([0.25], [1.25]));
    }

    #[test]
    fn the_norm_goes_over_all_parts_of_an_image() {
        // two images; a part of three values and one of one value, the second image without a gradient
        let (values, sigma) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 2.0, 0.5]);
        let (other, other_sigma) = ([10.0, 20.0], [3.0]);
        let (grad, other_grad) = ([2.0, 0.5, -4.0, 0.0, 0.0, 0.0], [4.0, 0.0]);
        let (mut delta, mut moved) = ([0.5f32; 6], [0.0; 6]);
        let (mut other_delta, mut other_moved) = ([0.0; 2], [0.0; 2]);
        let mut parts = [
            CutValue {
                values: &values,
                sigma: &sigma,
                grad: Some(&grad),
                delta: &mut delta,
                moved: &mut moved,
            },
            CutValue {
                values: &other,
                sigma: &other_sigma,
                grad: Some(&other_grad),
                delta: &mut other_delta,
                moved: &mut other_moved,
            },
        ];
        descend(&mut parts, 2, 0.1);
        // g = (2, 1, -2) and 12: norm sqrt(153)
        let norm = 153f32.sqrt();
        let want = [2.0f32, 1.0, -2.0].map(|g| 0.5 - 0.1 * 3f32.sqrt() * g / norm);
        assert!(delta[..3].iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{delta:?}");
        assert!((other_delta[0] + 0.1 * 12.0 / norm).abs() < 1e-6);
        assert_eq!((&delta[3..], other_delta[1]), (&[0.5; 3][..], 0.0));
        assert!((0..6).all(|i| moved[i] == values[i] + sigma[i % 3] * delta[i]));
        assert_eq!(other_moved[1], 20.0);
    }
}
