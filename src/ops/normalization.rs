//! BatchNormalization at inference: one factor and one summand per channel. With the statistics of its input it is
//! computed for constants alone, as networks that normalize their weights are exported.

use super::activation::mask_for;
use super::array::Array;
use super::attributes::Attribute;
use super::call::{Call, Lowered};
use super::exec::{Exec, only};
use super::operator::{Operator, Placement, arity};
use super::saved::Saved;
use crate::Result;
use crate::kernels::{Bits, pointwise};

pub const BATCH_NORMALIZATION: Operator = Operator::new("BatchNormalization", &[arity(7, 5, 5)], lower)
    .attributes(&[
        Attribute::float("epsilon", 1e-5),
        Attribute::float("momentum", 0.9), // used in training only
        Attribute::int("spatial", 1).until(8),
        Attribute::int("training_mode", 0).since(14),
    ])
    .outputs(&[arity(7, 1, 5), arity(14, 1, 3)], &["the mean", "the variance", "saved_mean", "saved_var"])
    .limits("Constant statistics, `spatial` 1; with `training_mode` 1, or more than one output before opset 14, a constant \
         input.")
    .on_gpu(Placement::Partly);

fn lower(call: &Call) -> Result<Lowered> {
    if call.flag("training_mode")? {
        return with_own_statistics(
            call,
            "`training_mode` is 1: statistics of the batch, expected an exported inference network",
        );
    }
    if call.opset < 14 && call.node.outputs.iter().skip(1).any(|o| !o.is_empty()) {
        return with_own_statistics(
            call,
            "it has more than one output: statistics of the batch, expected inference",
        );
    }
    if call.int("spatial").is_some_and(|s| s != 1) {
        return Err(call.error("`spatial` is not 1: statistics for every pixel are not supported"));
    }
    let shape = call.float_shape(0)?;
    let &[_, channels, ..] = shape else {
        return Err(call.error(format!("input 0 has shape {shape:?}, expected two dimensions or more")));
    };
    let [gamma, beta, mean, variance] = [
        call.vector(1, channels)?,
        call.vector(2, channels)?,
        call.vector(3, channels)?,
        call.vector(4, channels)?,
    ];
    let epsilon = f64::from(call.number("epsilon")?);
    let (mut scale, mut shift) = (Vec::with_capacity(channels), Vec::with_capacity(channels));
    for (c, (((gamma, beta), mean), variance)) in
        gamma.iter().zip(&beta).zip(&mean).zip(&variance).enumerate()
    {
        let spread = f64::from(*variance) + epsilon;
        if spread <= 0.0 {
            return Err(
                call.error(format!("channel {c}: variance plus epsilon is {spread}, expected more than 0"))
            );
        }
        let factor = f64::from(*gamma) / spread.sqrt();
        scale.push(factor as f32);
        shift.push((f64::from(*beta) - f64::from(*mean) * factor) as f32);
    }
    call.run(shape.to_vec(), true, Affine::new(scale, shift))
}

/// A constant input, normalized by its own mean and variance. `problem` is said of one that depends on the image.
fn with_own_statistics(call: &Call, problem: &str) -> Result<Lowered> {
    let Some(x) = call.now(0) else { return Err(call.error(problem)) };
    let shape = call.float_shape(0)?.to_vec();
    let &[_, channels, ..] = shape.as_slice() else {
        return Err(call.error(format!("input 0 has shape {shape:?}, expected two dimensions or more")));
    };
    let [gamma, beta, mut means, mut variances] = [
        call.vector(1, channels)?,
        call.vector(2, channels)?,
        call.vector(3, channels)?,
        call.vector(4, channels)?,
    ];
    let momentum = f64::from(call.number("momentum")?);
    let running = |was: f32, now: f64| (f64::from(was) * momentum + now * (1.0 - momentum)) as f32;
    let epsilon = f64::from(call.number("epsilon")?);
    let turned = x.transpose(0, 1)?;
    let mut rows: Vec<f32> = turned.flatten_all()?.to_vec1()?;
    let length = rows.len() / channels.max(1);
    for (c, row) in rows.chunks_exact_mut(length.max(1)).enumerate() {
        let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / length as f64;
        let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / length as f64;
        if variance + epsilon <= 0.0 {
            return Err(call.error(format!("channel {c}: variance plus epsilon is not more than 0")));
        }
        means[c] = running(means[c], mean);
        variances[c] = running(variances[c], variance);
        let factor = f64::from(gamma[c]) / (variance + epsilon).sqrt();
        row.iter_mut().for_each(|v| *v = ((f64::from(*v) - mean) * factor + f64::from(beta[c])) as f32);
    }
    let mut lowered =
        call.known(&candle_core::Tensor::from_vec(rows, turned.dims(), x.device())?.transpose(0, 1)?)?;
    // before opset 14 there are more of them
    for statistics in [means, variances].into_iter().filter(|_| call.opset >= 14) {
        lowered.extend(call.known(&candle_core::Tensor::from_vec(statistics, channels, x.device())?)?);
    }
    Ok(lowered)
}

/// `x * scale + shift` per channel (dimension 1).
#[derive(Clone)]
pub struct Affine {
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
    /// Factors and summands on a GPU, once needed.
    pub(super) on_gpu: std::sync::OnceLock<[candle_core::Tensor; 2]>,
}

impl Affine {
    pub fn new(scale: Vec<f32>, shift: Vec<f32>) -> Self {
        Self { scale, shift, on_gpu: std::sync::OnceLock::new() }
    }
}

/// Applies `f` with the channels last in memory, as they already are for ranks 2 and 4.
fn over_channels(x: Array, f: impl FnOnce(Option<&[f32]>, &mut [f32])) -> Result<Array> {
    if matches!(x.dims().len(), 2 | 4) {
        return x.map(f);
    }
    let last = x.dims().len() - 1;
    let turned = Array::from_tensor(&x.tensor().transpose(1, last)?)?;
    let turned_shape = turned.dims().to_vec();
    let mut data = turned.into_vec()?;
    f(None, &mut data);
    Array::from_tensor(
        &candle_core::Tensor::from_vec(data, turned_shape, &candle_core::Device::Cpu)?.transpose(1, last)?,
    )
}

impl Exec for Affine {
    fn on_gpu(&self, shape: &[usize]) -> Option<&dyn super::on_gpu::OnGpu> {
        matches!(shape.len(), 2 | 4).then_some(self)
    }

    fn forward(&self, x: Vec<Array>, _: Option<&mut Saved>) -> Result<Array> {
        over_channels(only(x)?, |from, data| affine(from, data, self, false, None))
    }

    fn vjp(&self, _: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        Ok(vec![Some(over_channels(dy, |from, data| affine_grad(from, data, &self.scale, None))?)])
    }
}

fn affine(from: Option<&[f32]>, data: &mut [f32], a: &Affine, relu: bool, mask: Option<&mut Bits>) {
    match from {
        None => pointwise::affine_in_place(data, &a.scale, &a.shift, relu, mask),
        Some(from) => pointwise::affine(from, &a.scale, &a.shift, relu, data, mask),
    }
}

fn affine_grad(from: Option<&[f32]>, data: &mut [f32], scale: &[f32], mask: Option<&Bits>) {
    match from {
        None => pointwise::affine_grad_in_place(data, scale, mask),
        Some(from) => pointwise::affine_grad(from, scale, mask, data),
    }
}

/// [`Affine`] and Relu in one pass, over values of rank 2 or 4, whose channels are last in memory.
pub struct AffineRelu(pub Affine);

impl Exec for AffineRelu {
    fn on_gpu(&self, _: &[usize]) -> Option<&dyn super::on_gpu::OnGpu> {
        Some(self)
    }

    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        let x = only(x)?;
        let mut mask = keep.is_some().then(|| mask_for(x.dims(), x.len()));
        let y = x.map(|from, data| affine(from, data, &self.0, true, mask.as_mut()))?;
        if let (Some(keep), Some(mask)) = (keep, mask) {
            keep.bits(mask);
        }
        Ok(y)
    }

    fn vjp(&self, kept: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        let mask = kept.get_bits(0)?;
        Ok(vec![Some(dy.map(|from, data| affine_grad(from, data, &self.0.scale, Some(mask)))?)])
    }
}
