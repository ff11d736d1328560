//! Standard deviations of the clean images' values at the cut: the units of the adversary at the cut.

use candle_core::Tensor;

use super::folded::rows;
use crate::{Error, Result, kernels::backend};

/// Standard deviations, one per value of an image, in memory order.
pub struct Sigma {
    pub(super) values: Vec<f32>,
    /// A copy on the GPU, if the values at the cut are there.
    on_gpu: Option<Tensor>,
}

impl Sigma {
    pub(super) fn on_gpu(&self) -> Result<&Tensor> {
        self.on_gpu.as_ref().ok_or_else(|| Error::internal("deviations that are not on the GPU"))
    }
}

/// Standard deviation per channel over all images and pixels, repeated for each value of an image in memory order. In
/// values that are not image-shaped, (N, K), each of the K is a channel.
pub(super) fn deviations(t: &Tensor) -> Result<Sigma> {
    let numel = t.dims().iter().skip(1).product::<usize>();
    let rows = if t.rank() == 4 { rows(t)? } else { t.contiguous()?.reshape((t.dim(0)?, numel))? };
    let (count, channels) = rows.dims2()?;
    let (count, backend) = (count.max(1) as f64, backend::on(rows.device())?);
    let mean: Vec<f64> = backend.column_sums(&rows, None)?.iter().map(|sum| sum / count).collect();
    let squares = backend.column_sums(&rows, Some(&mean))?;
    let sigma: Vec<f32> = squares.iter().map(|s| (s / count).sqrt() as f32).collect();
    let values = sigma.repeat(numel / channels.max(1));
    let on_gpu =
        if t.device().is_cpu() { None } else { Some(Tensor::from_slice(&values, values.len(), t.device())?) };
    Ok(Sigma { values, on_gpu })
}
