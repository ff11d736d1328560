//! The layer while it stands still, as one affine map of the channels, and values seen as rows of channels.

use candle_core::{Device, Tensor};

use crate::{
    Result,
    layer::{Layer, folded_in_f64},
    ops::array::add_columns_onto,
};

/// (C, C), made on the processor: there are no candle kernels to be compiled for it.
pub(crate) fn identity(channels: usize, device: &Device) -> Result<Tensor> {
    let values = (0..channels * channels).map(|i| f32::from(u8::from(i / channels == i % channels)));
    Ok(Tensor::from_vec(values.collect::<Vec<_>>(), (channels, channels), device)?)
}

/// The layer in evaluation mode, folded: y = v A^T + b over rows, while its tensors stand still (one step long).
pub struct Folded {
    /// A, (C, C), with candle's graph behind it; of the polarizer diag(gamma / sqrt(var + eps)) W.
    pub(crate) matrix: Tensor,
    /// b, (C), likewise; of the polarizer beta - mean gamma / sqrt(var + eps).
    pub(crate) offset: Tensor,
    /// What the matrix is the product of, where its layer's gradients need that on a GPU.
    pub(crate) factors: Option<[Tensor; 2]>,
}

impl Folded {
    pub(crate) fn of(matrix: Tensor, offset: Tensor) -> Self {
        Self { matrix, offset, factors: None }
    }

    /// A layer that changes nothing.
    ///
    /// # Errors
    /// Candle's own.
    pub fn identity(channels: usize, device: &Device) -> Result<Self> {
        let matrix = identity(channels, device)?;
        Ok(Self::of(matrix, Tensor::zeros(channels, candle_core::DType::F32, device)?))
    }

    /// A frozen layer folded in f64.
    ///
    /// # Errors
    /// When the tensors' lengths disagree.
    pub fn from_layer(layer: &Layer, device: &Device) -> Result<Self> {
        let c = layer.channels;
        let narrow = |v: Vec<f64>| v.into_iter().map(|x| x as f32).collect::<Vec<_>>();
        let (matrix, offset) = folded_in_f64(layer);
        let matrix = Tensor::from_vec(narrow(matrix), (c, c), device)?;
        Ok(Self::of(matrix, Tensor::from_vec(narrow(offset), c, device)?))
    }

    /// The layer's answer for `v`, (N, C, H, W).
    ///
    /// # Errors
    /// When the channels differ.
    pub fn forward(&self, v: &Tensor) -> Result<Tensor> {
        let y = rows(v)?.matmul(&self.matrix.detach().t()?)?;
        from_rows(&add_columns_onto(y, &self.offset.detach())?, v)
    }

    /// The gradient with respect to `v` for the gradient `dy` of the answer.
    ///
    /// # Errors
    /// When the channels differ.
    pub fn input_gradient(&self, dy: &Tensor) -> Result<Tensor> {
        from_rows(&rows(dy)?.matmul(&self.matrix.detach())?, dy)
    }
}

/// The values as rows: (N, C, H, W) to (N H W, C), without a copy where they are channels-last.
///
/// # Errors
/// When the tensor is not of rank 4.
pub fn rows(v: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = v.dims4()?;
    Ok(v.permute((0, 2, 3, 1))?.contiguous()?.reshape((n * h * w, c))?)
}

/// Rows back to (N, C, H, W), channels-last, `like` another such tensor.
///
/// # Errors
/// When the counts differ.
pub fn from_rows(rows: &Tensor, like: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = like.dims4()?;
    Ok(rows.contiguous()?.reshape((n, h, w, c))?.permute((0, 3, 1, 2))?)
}
