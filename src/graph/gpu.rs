//! Running an action where its values are on a GPU: with its kernels, with candle, or on the processor, values going there
//! and back.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::action::Action;
use crate::{
    Error, Result,
    kernels::gpu::{Gpu, Pass},
    ops::{Array, Exec, Form, Kept, Way, array, on_gpu},
};

/// The GPU that the values are on.
pub fn of(values: &[Array]) -> Result<Option<Arc<Gpu>>> {
    values.first().map_or(Ok(None), Array::gpu)
}

fn here(value: &Array) -> Result<Array> {
    Array::from_tensor(&array::to_device(value.tensor(), &Device::Cpu)?)
}

fn tensors(values: &[Array]) -> Vec<Tensor> {
    values.iter().map(|v| v.tensor().clone()).collect()
}

/// [`Exec::forward`].
pub fn forward(gpu: &Gpu, exec: &dyn Exec, x: Vec<Array>, keep: Option<&mut Kept>) -> Result<Array> {
    let first = x.first().ok_or_else(|| Error::internal("an operator without input"))?;
    if let Some(kernels) = exec.on_gpu(first.dims()) {
        return Array::from_tensor(&kernels.forward(gpu, &tensors(&x), keep)?);
    }
    if exec.runs_anywhere() {
        return exec.forward(x, keep);
    }
    let device = first.tensor().device().clone();
    let x = x.iter().map(here).collect::<Result<_>>()?;
    let y = exec.forward(x, keep)?;
    Array::from_tensor(&array::to_device(y.tensor(), &device)?)
}

/// What a convolution takes in on the gradient's way back.
#[derive(Default)]
pub struct WayBack<'a> {
    pub masked: bool,
    /// What the maker of the convolution's input kept, the mask first.
    pub maker: Option<(&'a Action, &'a Kept)>,
    /// What has arrived already where the gradient goes.
    pub sum: Option<Array>,
}

/// [`Exec::vjp_on_the_way`] of a convolution.
pub fn convolution(
    gpu: &Gpu,
    exec: &dyn Exec,
    kept: &Kept,
    dy: Array,
    want: &[bool],
    way: &WayBack<'_>,
) -> Result<Vec<Option<Array>>> {
    let mut back = Pass { more: way.sum.as_ref().map(Array::tensor), ..Pass::default() };
    if let Some((maker, kept)) = way.maker {
        back.mask = Some(kept.get_words(0)?);
        if let Form::AffineRelu(affine) = Form::of(maker.exec.as_ref()) {
            back.scale = Some(&affine.factors(gpu)?[0]);
        }
    }
    let Some(kernels) = exec.on_gpu(dy.dims()) else {
        let mut grads = here_and_back(exec, kept, &dy, want, Way { masked: way.masked, ..Way::default() })?;
        if let Some(Some(dx)) = grads.first_mut() {
            *dx = Array::from_tensor(&gpu.pass(dx.tensor(), back, false)?.0)?;
        }
        return Ok(grads);
    };
    let way = on_gpu::Way { masked: way.masked, back, ..on_gpu::Way::default() };
    arrays(kernels.vjp(gpu, kept, dy.tensor(), want, way)?)
}

/// [`Exec::vjp`], or with `again` that of a product that needs its operand made again by this action.
pub fn vjp(
    gpu: &Gpu,
    exec: &dyn Exec,
    kept: &Kept,
    dy: Array,
    want: &[bool],
    again: Option<(&Action, &Kept)>,
) -> Result<Vec<Option<Array>>> {
    let value = |(maker, kept): (&Action, &Kept)| match maker.exec.on_gpu(dy.dims()) {
        Some(kernels) => kernels.again(gpu, kept),
        // it ran on the processor, and kept there
        None => match maker.exec.again(kept) {
            Some(value) => array::to_device(value?.tensor(), dy.tensor().device()),
            None => Err(Error::internal("a value that cannot be made again")),
        },
    };
    let value = again.map(value).transpose()?;
    if let Some(kernels) = exec.on_gpu(dy.dims()) {
        let way = on_gpu::Way { value: value.as_ref(), ..on_gpu::Way::default() };
        return arrays(kernels.vjp(gpu, kept, dy.tensor(), want, way)?);
    }
    if exec.runs_anywhere() {
        return exec.vjp(kept, dy, want);
    }
    let value = value.map(|v| here(&Array::from_tensor(&v)?)).transpose()?;
    here_and_back(exec, kept, &dy, want, Way { value: value.as_ref(), ..Way::default() })
}

fn here_and_back(
    exec: &dyn Exec,
    kept: &Kept,
    dy: &Array,
    want: &[bool],
    way: Way<'_>,
) -> Result<Vec<Option<Array>>> {
    let device = dy.tensor().device();
    let back = |g: Option<Array>| match g {
        Some(g) => Array::from_tensor(&array::to_device(g.tensor(), device)?).map(Some),
        None => Ok(None),
    };
    exec.vjp_on_the_way(kept, here(dy)?, want, way)?.into_iter().map(back).collect()
}

fn arrays(values: Vec<Option<Tensor>>) -> Result<Vec<Option<Array>>> {
    values.into_iter().map(|v| v.map(|t| Array::from_tensor(&t)).transpose()).collect()
}
