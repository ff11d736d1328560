//! Sliding windows over an image, or over a line of pixels: the attributes shared by Conv, ConvTranspose and the pools,
//! in all their forms. A line, (N, C, W), is an image with one row.

use super::attributes::{Attribute, Kind};
use super::call::Call;
use crate::Result;
use crate::kernels::Window;

pub const AUTO_PAD: Attribute = Attribute::text("auto_pad", "NOTSET");
pub const STRIDES: Attribute = Attribute::optional("strides", Kind::Ints);
pub const PADS: Attribute = Attribute::optional("pads", Kind::Ints);

/// Whether the first input is a line.
fn is_line(call: &Call) -> bool {
    call.shape(0).is_ok_and(|shape| shape.len() == 3)
}

/// A number for each direction; for a line, one.
pub(super) fn pair(call: &Call, name: &str, values: &[i64]) -> Result<[usize; 2]> {
    let good = |v: i64| usize::try_from(v).ok().filter(|&v| (1..=i32::MAX as usize).contains(&v));
    let pair = match (values, is_line(call)) {
        (&[b], true) => Some([1, b]),
        (&[a, b], false) => Some([a, b]),
        _ => None,
    };
    match pair {
        Some([a, b]) => match (good(a), good(b)) {
            (Some(a), Some(b)) => Ok([a, b]),
            _ => Err(call.error(format!("attribute `{name}` is {values:?}, expected positive numbers"))),
        },
        None => {
            let expected = if is_line(call) { 1 } else { 2 };
            Err(call.error(format!("attribute `{name}` has {} numbers, expected {expected}", values.len())))
        }
    }
}

/// Dimensions of an image, (N, C, H, W), or of a line as an image with one row.
pub fn image_or_line(call: &Call, i: usize) -> Result<[usize; 4]> {
    match *call.float_shape(i)? {
        [n, c, h, w] => Ok([n, c, h, w]),
        [n, c, w] => Ok([n, c, 1, w]),
        ref other => Err(call.error(format!(
            "input {i} has shape {other:?}; only images, (N, C, H, W), and lines, (N, C, W), are \
             supported, not {}-D ones",
            other.len().saturating_sub(2)
        ))),
    }
}

/// The shape of input `i`, the weights, whose kernel is of as many dimensions as the first input has behind the
/// channels; a line's as that of an image with one row. Empty if it is not.
pub(super) fn weights(call: &Call, i: usize) -> Result<Vec<usize>> {
    Ok(match (call.float_shape(i)?, is_line(call)) {
        (&[a, b, k], true) => vec![a, b, 1, k],
        (&[a, b, kh, kw], false) => vec![a, b, kh, kw],
        _ => vec![],
    })
}

/// The window described by the node's attributes for an input of `size` (H, W), and the number of windows in each
/// direction. `kernel`: the size, if the weights define it; `ceil`: the last window may extend past the end.
pub fn window(
    call: &Call,
    kernel: Option<[usize; 2]>,
    size: [usize; 2],
    ceil: bool,
) -> Result<(Window, [usize; 2])> {
    let given = call.ints("kernel_shape").map(|v| pair(call, "kernel_shape", v)).transpose()?;
    let kernel = match (kernel, given) {
        (Some(k), Some(g)) if k != g => {
            return Err(call.error(format!("attribute `kernel_shape` is {g:?}, but the weights say {k:?}")));
        }
        (Some(k), _) | (None, Some(k)) => k,
        (None, None) => return Err(call.error("attribute `kernel_shape` is missing")),
    };
    let or_ones = |name| call.ints(name).map_or(Ok([1, 1]), |v| pair(call, name, v));
    let (stride, dilation) = (or_ones("strides")?, or_ones("dilations")?);
    let mut pads = pads(call)?;
    let auto = call.text("auto_pad").unwrap_or("NOTSET");
    if auto != "NOTSET" && pads != [0; 4] {
        return Err(call.error(format!("both `pads` {pads:?} and `auto_pad` {auto}; expected one of them")));
    }
    let ceil = match auto {
        "NOTSET" => ceil,
        "VALID" => false,
        "SAME_UPPER" | "SAME_LOWER" => {
            for a in 0..2 {
                let [less, more] = same(size[a], kernel[a], stride[a], dilation[a]);
                (pads[a], pads[a + 2]) = if auto == "SAME_UPPER" { (less, more) } else { (more, less) };
            }
            false
        }
        other => {
            return Err(call.error(format!("attribute `auto_pad` is \"{}\"", crate::error::printable(other))));
        }
    };
    let window = Window { kernel, stride, dilation, pads };
    match window.output(size, ceil) {
        Some(output) if output[0] > 0 && output[1] > 0 => Ok((window, output)),
        _ => Err(call.error(format!(
            "a kernel of {kernel:?} with dilation {dilation:?} does not fit an input of {size:?} with padding {pads:?}"
        ))),
    }
}

/// The attribute `pads` as [top, left, bottom, right].
pub(super) fn pads(call: &Call) -> Result<[usize; 4]> {
    let [top, left, bottom, right] = match (call.ints("pads"), is_line(call)) {
        (None, _) => [0; 4],
        (Some(&[left, right]), true) => [0, left, 0, right],
        (Some(&[top, left, bottom, right]), false) => [top, left, bottom, right],
        (Some(given), line) => {
            let expected = if line { 2 } else { 4 };
            return Err(
                call.error(format!("attribute `pads` has {} numbers, expected {expected}", given.len()))
            );
        }
    };
    let mut pads = [0; 4];
    for (to, from) in pads.iter_mut().zip([top, left, bottom, right]) {
        *to = usize::try_from(from)
            .ok()
            .filter(|&p| p <= i32::MAX as usize)
            .ok_or_else(|| call.error(format!("a padding of {from}, expected 0 or more")))?;
    }
    Ok(pads)
}

/// Paddings of a dimension, the smaller one first, that give `size / stride` windows, rounded up.
fn same(size: usize, kernel: usize, stride: usize, dilation: usize) -> [usize; 2] {
    let span = (kernel - 1).saturating_mul(dilation).saturating_add(1);
    let reach = (size.div_ceil(stride).max(1) - 1).saturating_mul(stride).saturating_add(span);
    let total = reach.saturating_sub(size);
    [total / 2, total - total / 2]
}
