//! The layer in evaluation mode as one affine map of the channels, and values viewed as rows of channels.

use candle_core::{Device, Tensor};

use crate::{
    Result,
    layer::{Layer, folded_in_f64},
    ops::array::add_columns_onto,
};

/// The identity, (C, C), made on the processor: that needs no candle kernel on the GPU.
pub(crate) fn identity(channels: usize, device: &Device) -> Result<Tensor> {
    let values = (0..channels * channels).map(|i| f32::from(u8::from(i / channels == i % channels)));
    Ok(Tensor::from_vec(values.collect::<Vec<_>>(), (channels, channels), device)?)
}

/// The layer in evaluation mode, folded: y = v A^T + b over rows. Valid until its tensors change, which is one step.
pub struct Folded {
    /// A, (C, C), attached to candle's graph; of the polarizer diag(gamma / sqrt(var + eps)) W.
    pub(crate) matrix: Tensor,
    /// b, (C), attached likewise; of the polarizer beta - mean gamma / sqrt(var + eps).
    pub(crate) offset: Tensor,
    /// Factors of the matrix, if the gradients of the layer need them on a GPU.
    pub(crate) factors: Option<[Tensor; 2]>,
}

impl Folded {
    pub(crate) fn of(matrix: Tensor, offset: Tensor) -> Self {
        Self { matrix, offset, factors: None }
    }

    /// The identity layer.
    ///
    /// # Errors
    /// Errors of candle.
    pub fn identity(channels: usize, device: &Device) -> Result<Self> {
        let matrix = identity(channels, device)?;
        Ok(Self::of(matrix, Tensor::zeros(channels, candle_core::DType::F32, device)?))
    }

    /// A frozen layer folded in f64.
    ///
    /// # Errors
    /// If the tensors' lengths disagree.
    pub fn from_layer(layer: &Layer, device: &Device) -> Result<Self> {
        let c = layer.channels;
        let narrow = |v: Vec<f64>| v.into_iter().map(|x| x as f32).collect::<Vec<_>>();
        let (matrix, offset) = folded_in_f64(layer);
        let matrix = Tensor::from_vec(narrow(matrix), (c, c), device)?;
        Ok(Self::of(matrix, Tensor::from_vec(narrow(offset), c, device)?))
    }

    /// The layer's output for `v`, (N, C, H, W).
    ///
    /// # Errors
    /// If the channels differ.
    pub fn forward(&self, v: &Tensor) -> Result<Tensor> {
        let y = rows(v)?.matmul(&self.matrix.detach().t()?)?;
        from_rows(&add_columns_onto(y, &self.offset.detach())?, v)
    }

    /// The gradient with respect to `v`, from the gradient `dy` with respect to the output.
    ///
    /// # Errors
    /// If the channels differ.
    pub fn input_gradient(&self, dy: &Tensor) -> Result<Tensor> {
        from_rows(&rows(dy)?.matmul(&self.matrix.detach())?, dy)
    }
}

/// Views values as rows, (N, C, H, W) to (N H W, C), without a copy if they are channels-last.
///
/// # Errors
/// If the tensor is not of rank 4.
pub fn rows(v: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = v.dims4()?;
    Ok(v.permute((0, 2, 3, 1))?.contiguous()?.reshape((n * h * w, c))?)
}

/// Rows (N H W, C) back to the shape of `like`, (N, C, H, W), channels-last.
///
/// # Errors
/// If the counts differ.
pub fn from_rows(rows: &Tensor, like: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = like.dims4()?;
    Ok(rows.contiguous()?.reshape((n, h, w, c))?.permute((0, 3, 1, 2))?)
}
