//! Conv with constant weights. Over a line, (N, C, W), it is one over an image with a single row.

use std::sync::Arc;

use super::activation::masked;
use super::array::Array;
use super::attributes::{Attribute, Kind};
use super::axes_rules;
use super::call::{Call, Lowered};
use super::conv_spec::ConvSpec;
use super::exec::{Exec, VjpContext};
use super::line::run_on_images;
use super::operator::{Operator, Placement, arity};
use super::saved::Saved;
use super::window::{AUTO_PAD, PADS, STRIDES, image_or_line, weights, window};
use crate::Result;
use crate::kernels::{Bits, Epilogue, Precision};
use crate::profile::Direction;

pub const CONV: Operator = Operator::new("Conv", &[arity(7, 2, 3)], lower)
    .attributes(&[
        AUTO_PAD,
        Attribute::optional("dilations", Kind::Ints),
        Attribute::int("group", 1),
        Attribute::optional("kernel_shape", Kind::Ints),
        PADS,
        STRIDES,
    ])
    .limits("Images, (N, C, H, W), or lines, (N, C, W), and constant weights.")
    .on_gpu(Placement::Partly)
    .axes(axes_rules::convolved);

fn lower(call: &Call) -> Result<Lowered> {
    let [n, c, h, w] = image_or_line(call, 0)?;
    let line = call.shape(0)?.len() == 3;
    let (o, per_group, kernel) = match *weights(call, 1)? {
        [o, i, kh, kw] if o > 0 && i > 0 && kh > 0 && kw > 0 => (o, i, [kh, kw]),
        _ => {
            let shape = call.shape(1)?;
            let expected = if line { "width" } else { "height, width" };
            return Err(
                call.error(format!("weights of shape {shape:?}, expected (out, in / group, {expected})"))
            );
        }
    };
    let group = call.int("group").unwrap_or(1);
    let groups = usize::try_from(group).ok().filter(|&g| g > 0 && g <= o && o % g == 0);
    let Some(groups) = groups.filter(|g| per_group.checked_mul(*g) == Some(c)) else {
        return Err(call.error(format!(
            "weights for {o} channels from {per_group} in each of {group} groups, but the input has {c} channels"
        )));
    };
    let weight = call.constant(1)?.ok_or_else(|| call.error("the weights are missing"))?;
    let weight = if line { weight.unsqueeze(2)? } else { weight.clone() };
    let bias = if call.has(2) { Some(call.vector(2, o)?) } else { None };
    let (window, output) = window(call, Some(kernel), [h, w], false)?;
    let padded = [h + window.pads[0] + window.pads[2], w + window.pads[1] + window.pads[3]];
    call.elements(&[n, c, padded[0], padded[1]])?;
    call.elements(&[n, o, output[0], output[1]])?;
    let make = || Ok(ConvSpec::new(window, groups, [c, o], [[h, w], output], weight, bias));
    let conv = call.convs.get((call.index, None), [h, w], make)?;
    run_on_images(call, [n, o, output[0], output[1]], Conv(conv, call.precision))
}

pub(super) struct Conv(pub(super) Arc<ConvSpec>, pub(super) Precision);

impl Exec for Conv {
    fn on_gpu(&self, _: &[usize]) -> Option<&dyn super::on_gpu::OnGpu> {
        Some(self)
    }

    fn forward(&self, x: Vec<Array>, _: Option<&mut Saved>) -> Result<Array> {
        self.0.forward(&x[0], Epilogue::default(), self.1)
    }

    fn vjp(&self, kept: &Saved, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
        self.vjp_with(kept, dy, want, VjpContext::default())
    }

    fn vjp_with(&self, _: &Saved, dy: Array, _: &[bool], context: VjpContext) -> Result<Vec<Option<Array>>> {
        Ok(vec![Some(self.0.input_grad(&dy, context.back, self.1)?)])
    }

    fn flops(&self, images: usize, _: Direction) -> u64 {
        self.0.flops(images)
    }

    fn packed_bytes(&self) -> usize {
        self.0.packed_bytes()
    }
}

/// A convolution with an optional residual sum and an optional Relu, in one pass.
pub struct JoinedConv {
    pub conv: Arc<ConvSpec>,
    pub residual: bool,
    pub relu: bool,
    pub precision: Precision,
}

impl Exec for JoinedConv {
    fn on_gpu(&self, _: &[usize]) -> Option<&dyn super::on_gpu::OnGpu> {
        Some(self)
    }

    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        let [oh, ow] = self.conv.output;
        let n = x[0].dims()[0];
        let mut mask = (self.relu && keep.is_some()).then(|| Bits::new(n, oh * ow * self.conv.channels[1]));
        let residual = x.get(1).filter(|_| self.residual).map(Array::read).transpose()?;
        let epilogue = Epilogue { residual: residual.as_deref(), relu: self.relu, mask: mask.as_mut() };
        let y = self.conv.forward(&x[0], epilogue, self.precision)?;
        if let (Some(keep), Some(mask)) = (keep, mask) {
            keep.bits(mask);
        }
        Ok(y)
    }

    fn vjp(&self, kept: &Saved, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
        self.vjp_with(kept, dy, want, VjpContext::default())
    }

    fn vjp_with(
        &self,
        kept: &Saved,
        dy: Array,
        want: &[bool],
        context: VjpContext,
    ) -> Result<Vec<Option<Array>>> {
        let dy = if self.relu && !context.masked { masked(kept, dy)? } else { dy };
        let dx = if want[0] { Some(self.conv.input_grad(&dy, context.back, self.precision)?) } else { None };
        let mut grads = vec![dx];
        if self.residual {
            grads.push(want.get(1).copied().unwrap_or(false).then_some(dy));
        }
        Ok(grads)
    }

    fn flops(&self, images: usize, _: Direction) -> u64 {
        self.conv.flops(images)
    }

    fn packed_bytes(&self) -> usize {
        self.conv.packed_bytes()
    }
}
