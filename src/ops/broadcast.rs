//! NumPy broadcasting and its transpose, the sum over the broadcast dimensions.

use candle_core::Tensor;

use crate::Result;

/// The shape that `a` and `b` broadcast to; None if they are incompatible.
pub fn shape(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |j| s[j]);
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

/// Sums `from` to `shape`, over the dimensions in which a value of `shape` was broadcast.
pub fn sum_to(from: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if from.dims() == shape {
        return Ok(from.clone());
    }
    let extra = from.rank() - shape.len();
    let stretched: Vec<usize> =
        (0..from.rank()).filter(|&i| i < extra || (shape[i - extra] == 1 && from.dims()[i] != 1)).collect();
    let sum = if stretched.is_empty() { from.clone() } else { from.sum_keepdim(stretched)? };
    Ok(sum.reshape(shape)?)
}
