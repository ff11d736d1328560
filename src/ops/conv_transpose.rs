//! ConvTranspose with constant weights: forward it is the input gradient of a convolution with the same weights, and its
//! own gradient is that convolution.

use std::sync::Arc;

use rayon::prelude::*;

use super::array::Array;
use super::attributes::{Attribute, Kind};
use super::axes_rules;
use super::call::{Call, Lowered};
use super::conv_spec::ConvSpec;
use super::exec::{Exec, only};
use super::line::run_on_images;
use super::operator::{Operator, arity};
use super::saved::Saved;
use super::window::{AUTO_PAD, PADS, STRIDES, image_or_line, pads, pair, weights};
use crate::Result;
use crate::error::printable;
use crate::kernels::{Backward, Epilogue, Precision, Window};
use crate::profile::Direction;

pub const CONV_TRANSPOSE: Operator = Operator::new("ConvTranspose", &[arity(7, 2, 3)], lower)
    .attributes(&[
        AUTO_PAD,
        Attribute::optional("dilations", Kind::Ints),
        Attribute::int("group", 1),
        Attribute::optional("kernel_shape", Kind::Ints),
        Attribute::optional("output_padding", Kind::Ints),
        Attribute::optional("output_shape", Kind::Ints),
        PADS,
        STRIDES,
    ])
    .limits("Images, (N, C, H, W), or lines, (N, C, W), and constant weights; an `output_padding` below the stride.")
    .axes(axes_rules::convolved);

fn lower(call: &Call) -> Result<Lowered> {
    let [n, c, h, w] = image_or_line(call, 0)?;
    let line = call.shape(0)?.len() == 3;
    let (per_group, kernel) = match *weights(call, 1)? {
        [i, o, kh, kw] if i == c && o > 0 && kh > 0 && kw > 0 => (o, [kh, kw]),
        _ => {
            let shape = call.shape(1)?;
            let expected = if line { "width" } else { "height, width" };
            return Err(call.error(format!(
                "weights of shape {shape:?}, expected ({c} channels, out / group, {expected})"
            )));
        }
    };
    let group = call.int("group").unwrap_or(1);
    let groups = usize::try_from(group).ok().filter(|&g| g > 0 && c % g == 0);
    let out = groups.and_then(|groups| Some((groups, per_group.checked_mul(groups)?)));
    let (groups, out) = out.ok_or_else(|| call.error(format!("{c} channels in {group} groups")))?;
    let weight = call.constant(1)?.ok_or_else(|| call.error("the weights are missing"))?;
    let weight = if line { weight.unsqueeze(2)? } else { weight.clone() };
    let bias = if call.has(2) { Some(call.vector(2, out)?) } else { None };
    let (window, size) = geometry(call, kernel, [h, w])?;
    let padded = [0, 1].map(|a| size[a] + window.pads[a] + window.pads[a + 2]);
    call.elements(&[n, out, padded[0], padded[1]])?;
    // the convolution that this is the gradient of goes from the output to the input
    if window.output(size, false) != Some([h, w]) {
        return Err(call.error(format!("{h} x {w} elements cannot be spread over {} x {}", size[0], size[1])));
    }
    let make = || Ok(ConvSpec::new(window, groups, [out, c], [size, [h, w]], weight, None));
    let conv = call.convs.get((call.index, None), size, make)?;
    let exec = ConvTranspose { conv, bias, precision: call.precision };
    run_on_images(call, [n, out, size[0], size[1]], exec)
}

/// The window, and the output's height and width.
fn geometry(call: &Call, kernel: [usize; 2], from: [usize; 2]) -> Result<(Window, [usize; 2])> {
    if let Some(given) = call.ints("kernel_shape")
        && pair(call, "kernel_shape", given)? != kernel
    {
        return Err(
            call.error(format!("attribute `kernel_shape` is {given:?}, but the weights say {kernel:?}"))
        );
    }
    let or_ones = |name| call.ints(name).map_or(Ok([1, 1]), |v| pair(call, name, v));
    let (stride, dilation) = (or_ones("strides")?, or_ones("dilations")?);
    let more = match call.ints("output_padding") {
        None => [0, 0],
        Some(&[b]) if call.shape(0)?.len() == 3 && (0..stride[1] as i64).contains(&b) => [0, b as usize],
        Some(&[a, b]) if (0..stride[0] as i64).contains(&a) && (0..stride[1] as i64).contains(&b) => {
            [a as usize, b as usize]
        }
        Some(other) => {
            return Err(
                call.error(format!("`output_padding` is {other:?}, expected numbers below the stride"))
            );
        }
    };
    let mut pads = pads(call)?;
    // without padding, and without what is added behind
    let plain = |a: usize| {
        let span = (kernel[a] - 1).checked_mul(dilation[a])?.checked_add(1)?;
        (from[a] - 1).checked_mul(stride[a])?.checked_add(span)
    };
    let whole = [plain(0), plain(1)].map(|size| size.filter(|&size| size <= i32::MAX as usize));
    let [Some(tall), Some(wide)] = whole else { return Err(call.error("an output of too many elements")) };
    let mut whole = [tall + more[0], wide + more[1]];
    let asked = call.ints("output_shape").map(|given| pair(call, "output_shape", given)).transpose()?;
    let auto = call.text("auto_pad").unwrap_or("NOTSET");
    let asked = match (asked, auto) {
        (asked, "NOTSET") => asked,
        (asked, "SAME_UPPER" | "SAME_LOWER") => {
            Some(asked.unwrap_or([from[0].saturating_mul(stride[0]), from[1].saturating_mul(stride[1])]))
        }
        (asked, "VALID") => asked,
        (_, other) => return Err(call.error(format!("attribute `auto_pad` is \"{}\"", printable(other)))),
    };
    if let Some(asked) = asked {
        for a in 0..2 {
            // where more is asked for than the weights reach, nothing is added there
            whole[a] = whole[a].max(asked[a]);
            let total = whole[a] - asked[a];
            let (less, rest) = (total / 2, total - total / 2);
            (pads[a], pads[a + 2]) = if auto == "SAME_UPPER" { (less, rest) } else { (rest, less) };
        }
    }
    let size = [0, 1].map(|a| whole[a].checked_sub(pads[a] + pads[a + 2]).filter(|&size| size > 0));
    let [Some(height), Some(width)] = size else {
        return Err(call.error(format!("a padding of {pads:?} leaves nothing of {whole:?} elements")));
    };
    Ok((Window { kernel, stride, dilation, pads }, [height, width]))
}

struct ConvTranspose {
    /// From the output's shape to the input's.
    conv: Arc<ConvSpec>,
    bias: Option<Vec<f32>>,
    precision: Precision,
}

impl Exec for ConvTranspose {
    fn forward(&self, x: Vec<Array>, _: Option<&mut Saved>) -> Result<Array> {
        let y = self.conv.input_grad(&only(x)?, Backward::default(), self.precision)?;
        let Some(bias) = &self.bias else { return Ok(y) };
        let shape = y.dims().to_vec();
        let mut data = y.into_vec()?;
        data.par_chunks_mut(bias.len()).with_min_len(64).for_each(|pixel| {
            pixel.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
        });
        Array::new(data, &shape)
    }

    fn vjp(&self, _: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        Ok(vec![Some(self.conv.forward(&dy, Epilogue::default(), self.precision)?)])
    }

    fn flops(&self, images: usize, _: Direction) -> u64 {
        self.conv.flops(images)
    }

    fn packed_bytes(&self) -> usize {
        self.conv.packed_bytes()
    }
}
