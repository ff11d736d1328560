//! Runs an action whose values are on a GPU: with the crate's kernels, with candle's, or on the processor with the
//! values copied to it and back.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::action::Action;
use crate::{
    Error, Result,
    kernels::gpu::{Gpu, PointwisePass},
    ops::{Array, Exec, Form, Saved, VjpContext, array, on_gpu},
};

/// The GPU that holds the values; None for the processor.
pub fn of(values: &[Array]) -> Result<Option<Arc<Gpu>>> {
    values.first().map_or(Ok(None), Array::gpu)
}

fn to_cpu(value: &Array) -> Result<Array> {
    Array::from_tensor(&array::to_device(value.tensor(), &Device::Cpu)?)
}

fn tensors(values: &[Array]) -> Vec<Tensor> {
    values.iter().map(|v| v.tensor().clone()).collect()
}

/// [`Exec::forward`].
pub fn forward(gpu: &Gpu, exec: &dyn Exec, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
    let first = x.first().ok_or_else(|| Error::internal("an operator without input"))?;
    if let Some(kernels) = exec.on_gpu(first.dims()) {
        return Array::from_tensor(&kernels.forward(gpu, &tensors(&x), keep)?);
    }
    if exec.runs_anywhere() {
        return exec.forward(x, keep);
    }
    let device = first.tensor().device().clone();
    let x = x.iter().map(to_cpu).collect::<Result<_>>()?;
    let y = exec.forward(x, keep)?;
    Array::from_tensor(&array::to_device(y.tensor(), &device)?)
}

/// What a convolution's backward pass also does, see [`MaskFusion`](super::segment).
#[derive(Default)]
pub struct FusedGradient<'a> {
    pub masked: bool,
    /// The action that makes the convolution's input, with what it saved, the mask first.
    pub maker: Option<(&'a Action, &'a Saved)>,
    /// The gradient accumulated so far at the destination.
    pub sum: Option<Array>,
}

/// [`Exec::vjp_with`] of a convolution.
pub fn convolution(
    gpu: &Gpu,
    exec: &dyn Exec,
    kept: &Saved,
    dy: Array,
    want: &[bool],
    fused: &FusedGradient<'_>,
) -> Result<Vec<Option<Array>>> {
    let mut back = PointwisePass { more: fused.sum.as_ref().map(Array::tensor), ..PointwisePass::default() };
    if let Some((maker, kept)) = fused.maker {
        back.mask = Some(kept.get_words(0)?);
        if let Form::AffineRelu(affine) = Form::of(maker.exec.as_ref()) {
            back.scale = Some(&affine.factors(gpu)?[0]);
        }
    }
    let Some(kernels) = exec.on_gpu(dy.dims()) else {
        let mut grads =
            vjp_on_cpu(exec, kept, &dy, want, VjpContext { masked: fused.masked, ..VjpContext::default() })?;
        if let Some(Some(dx)) = grads.first_mut() {
            *dx = Array::from_tensor(&gpu.pass(dx.tensor(), back, false)?.0)?;
        }
        return Ok(grads);
    };
    let context = on_gpu::GpuVjpContext { masked: fused.masked, back, ..on_gpu::GpuVjpContext::default() };
    arrays(kernels.vjp(gpu, kept, dy.tensor(), want, context)?)
}

/// [`Exec::vjp`]; `recompute` is the action that recomputes a product's operand, where that was not saved.
pub fn vjp(
    gpu: &Gpu,
    exec: &dyn Exec,
    kept: &Saved,
    dy: Array,
    want: &[bool],
    recompute: Option<(&Action, &Saved)>,
) -> Result<Vec<Option<Array>>> {
    let value = |(maker, kept): (&Action, &Saved)| match maker.exec.on_gpu(dy.dims()) {
        Some(kernels) => kernels.recompute(gpu, kept),
        // it ran on the processor, and its saved values are there
        None => match maker.exec.recompute(kept) {
            Some(value) => array::to_device(value?.tensor(), dy.tensor().device()),
            None => Err(Error::internal("a value that cannot be recomputed")),
        },
    };
    let value = recompute.map(value).transpose()?;
    if let Some(kernels) = exec.on_gpu(dy.dims()) {
        let context = on_gpu::GpuVjpContext { value: value.as_ref(), ..on_gpu::GpuVjpContext::default() };
        return arrays(kernels.vjp(gpu, kept, dy.tensor(), want, context)?);
    }
    if exec.runs_anywhere() {
        return exec.vjp(kept, dy, want);
    }
    let value = value.map(|v| to_cpu(&Array::from_tensor(&v)?)).transpose()?;
    vjp_on_cpu(exec, kept, &dy, want, VjpContext { value: value.as_ref(), ..VjpContext::default() })
}

fn vjp_on_cpu(
    exec: &dyn Exec,
    kept: &Saved,
    dy: &Array,
    want: &[bool],
    context: VjpContext<'_>,
) -> Result<Vec<Option<Array>>> {
    let device = dy.tensor().device();
    let back = |g: Option<Array>| match g {
        Some(g) => Array::from_tensor(&array::to_device(g.tensor(), device)?).map(Some),
        None => Ok(None),
    };
    exec.vjp_with(kept, to_cpu(dy)?, want, context)?.into_iter().map(back).collect()
}

fn arrays(values: Vec<Option<Tensor>>) -> Result<Vec<Option<Array>>> {
    values.into_iter().map(|v| v.map(|t| Array::from_tensor(&t)).transpose()).collect()
}
