//! The layers on a GPU: the formulas of [`super::layer`] and [`super::principal`] with explicit gradients, for the
//! kernels of [`crate::kernels::gpu`]. The processor uses candle's autograd; `tests/gpu.rs` compares the two.

use candle_core::Tensor;

use super::{
    layer::{EPSILON, Gradients, MOMENTUM, Polarizer, TrainPass},
    principal::Principal,
};
use crate::{
    Error, Result,
    kernels::gpu::{Gpu, PointwisePass, Statistics},
    network::{Folded, from_rows},
    ops::array::add_columns,
};

/// A layer's forward and backward formulas for the kernels of a GPU.
pub trait WrittenOut {
    /// [`super::layer::Trainable::fold`].
    ///
    /// # Errors
    /// Errors of the GPU driver.
    fn fold_on(&self, gpu: &Gpu) -> Result<Folded>;

    /// [`super::layer::Trainable::unfold`] of the gradients with respect to matrix, (C, C), and offset, (C).
    ///
    /// # Errors
    /// Errors of the GPU driver.
    fn unfold_on(&self, gpu: &Gpu, folded: &Folded, matrix: &Tensor, offset: &Tensor) -> Result<Gradients>;
}

/// Inputs of the backward pass of a layer in training mode.
pub(super) struct Normalised {
    /// The layer's input as rows, (N H W, C).
    rows: Tensor,
    /// The convolution's output, normalised with the batch statistics.
    answers: Tensor,
    /// 1 / sqrt(var + eps) of the batch, (C).
    factor: Tensor,
}

impl Polarizer {
    fn statistics(&self) -> Statistics<'_> {
        Statistics { mean: self.norm.running_mean(), var: self.norm.running_var(), eps: EPSILON }
    }

    /// [`Polarizer::forward_train`] for `rows` of the value `like`.
    pub(super) fn forward_train_on(&self, gpu: &Gpu, rows: Tensor, like: &Tensor) -> Result<TrainPass> {
        let u = rows.matmul(&self.weight.as_tensor().t()?)?;
        let count = u.dim(0)? as f64;
        let less = gpu.blend(-1.0 / count, &gpu.sum_columns(&u, None)?, 0.0, None)?;
        let apart = add_columns(&u, &less)?;
        let squares = gpu.sum_columns(&apart, Some(&apart))?;
        let [mean, var] = [self.norm.running_mean(), self.norm.running_var()];
        gpu.blend_in_place(1.0 - MOMENTUM, mean, -MOMENTUM, &less)?;
        gpu.blend_in_place(1.0 - MOMENTUM, var, MOMENTUM / (count - 1.0), &squares)?;
        let own = gpu.blend(1.0 / count, &squares, 0.0, None)?;
        // the mean is subtracted already
        let none = less.zeros_like()?;
        let [factor, _] = gpu.norm_line(None, None, Statistics { mean: &none, var: &own, eps: EPSILON })?;
        let answers =
            gpu.pass(&apart, PointwisePass { scale: Some(&factor), ..PointwisePass::default() }, false)?.0;
        let line = PointwisePass {
            scale: Some(self.scale.as_tensor()),
            shift: Some(self.bias.as_tensor()),
            ..PointwisePass::default()
        };
        let output = from_rows(&gpu.pass(&answers, line, false)?.0, like)?;
        Ok(TrainPass { output, normalised: Some(Normalised { rows, answers, factor }) })
    }

    /// [`Polarizer::gradients`] for the gradient `dy` with respect to the output rows. With x the normalised values and
    /// sums over the n rows: scale: sum dy x; bias: sum dy; convolution's output: scale / deviation
    /// (dy - sum dy / n - x sum (dy x) / n).
    pub(super) fn gradients_on(&self, gpu: &Gpu, pass: &Normalised, dy: &Tensor) -> Result<Gradients> {
        let count = dy.dim(0)? as f64;
        let scale = gpu.sum_columns(dy, Some(&pass.answers))?;
        let bias = gpu.sum_columns(dy, None)?;
        let along = gpu.blend(-1.0 / count, &scale, 0.0, None)?;
        let less = gpu.blend(-1.0 / count, &bias, 0.0, None)?;
        let along = gpu
            .pass(&pass.answers, PointwisePass { scale: Some(&along), ..PointwisePass::default() }, false)?
            .0;
        let rest = gpu
            .pass(
                dy,
                PointwisePass { shift: Some(&less), more: Some(&along), ..PointwisePass::default() },
                false,
            )?
            .0;
        let channels = pass.factor.elem_count();
        let by = gpu.scale_columns(&self.scale.as_tensor().reshape((1, channels))?, &pass.factor)?;
        let du = gpu.pass(&rest, PointwisePass { scale: Some(&by), ..PointwisePass::default() }, false)?.0;
        Ok([du.t()?.matmul(&pass.rows)?, scale, bias])
    }
}

impl WrittenOut for Polarizer {
    fn fold_on(&self, gpu: &Gpu) -> Result<Folded> {
        let (scale, bias) = (self.scale.as_tensor(), self.bias.as_tensor());
        let [factor, offset] = gpu.norm_line(Some(scale), Some(bias), self.statistics())?;
        Ok(Folded::of(gpu.scale_rows(self.weight.as_tensor(), &factor)?, offset))
    }

    fn unfold_on(&self, gpu: &Gpu, _: &Folded, matrix: &Tensor, offset: &Tensor) -> Result<Gradients> {
        let weight = self.weight.as_tensor();
        let [factor, _] = gpu.norm_line(Some(self.scale.as_tensor()), None, self.statistics())?;
        let scale = gpu.norm_line_back(&gpu.row_dots(matrix, weight)?, offset, self.statistics())?;
        Ok([gpu.scale_rows(matrix, &factor)?, scale, offset.clone()])
    }
}

impl WrittenOut for Principal {
    fn fold_on(&self, gpu: &Gpu) -> Result<Folded> {
        let read = gpu.scale_rows(self.read.as_tensor(), &self.scales[0])?.matmul(&self.seen)?;
        let write = gpu.scale_columns(self.write.as_tensor(), &self.scales[1])?;
        let matrix = write.matmul(&read)?;
        let channels = self.mean.elem_count();
        let through = matrix.matmul(&self.mean.reshape((channels, 1))?)?.reshape(channels)?;
        let rest = gpu.blend(1.0, &self.mean, -1.0, Some(&through))?;
        let offset = gpu.blend(self.shift_scale, self.shift.as_tensor(), 1.0, Some(&rest))?;
        Ok(Folded { factors: Some([read, write]), ..Folded::of(matrix, offset) })
    }

    /// offset = shift + mean - matrix mean, so `offset` also contributes to the gradient of the matrix.
    fn unfold_on(&self, gpu: &Gpu, folded: &Folded, matrix: &Tensor, offset: &Tensor) -> Result<Gradients> {
        let factors = folded.factors.as_ref();
        let [read, write] = factors.ok_or_else(|| Error::internal("a product without factors"))?;
        let by = gpu.less_outer(matrix, offset, &self.mean)?;
        let by_write = gpu.scale_columns(&by.matmul(&read.t()?)?, &self.scales[1])?;
        let by_read = write.t()?.matmul(&by)?.matmul(&self.seen.t()?)?;
        let by_read = gpu.scale_rows(&by_read, &self.scales[0])?;
        Ok([by_read, by_write, gpu.blend(self.shift_scale, offset, 0.0, None)?])
    }
}
