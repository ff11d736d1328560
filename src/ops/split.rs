//! Split. Each output is a separate slice with its own gradient.

use candle_core::Tensor;

use super::array;
use super::attributes::{Attribute, Kind};
use super::call::{Call, Lowered};
use super::operator::{Operator, Placement, arity};
use super::shape::{Moved, Movement};
use crate::Result;

// Opset 13 turns `split` from an attribute into an input; 18 adds `num_outputs`, with a smaller last part if it does
// not divide evenly.
pub const SPLIT: Operator = Operator::new("Split", &[arity(7, 1, 1), arity(13, 1, 2)], lower)
    .outputs(&[arity(7, 1, usize::MAX)], &[])
    .attributes(&[
        Attribute::int("axis", 0),
        Attribute::optional("split", Kind::Ints).until(12),
        Attribute::optional("num_outputs", Kind::Int).since(18),
    ])
    .on_gpu(Placement::Candle);

fn lower(call: &Call) -> Result<Lowered> {
    let from = call.shape(0)?.to_vec();
    let axis = call.axis(call.int("axis").unwrap_or(0), from.len())?;
    let size = from[axis];
    let mut outputs = Vec::new();
    let mut start = 0;
    for length in lengths(call, size)? {
        let mut to = from.clone();
        to[axis] = length;
        outputs.push(call.output(to, axis > 0, Moved(SplitOutput { axis, start, length, size }))?);
        start += length;
    }
    Ok(outputs)
}

/// `length` elements of an axis of `size`, from `start` on.
struct SplitOutput {
    axis: usize,
    start: usize,
    length: usize,
    size: usize,
}

impl Movement for SplitOutput {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.narrow(self.axis, self.start, self.length)?)
    }

    fn back(&self, dy: &Tensor) -> Result<Tensor> {
        let after = self.size - self.start - self.length;
        // images in the order of their memory
        let (dy, axis) = array::in_memory(dy, self.axis)?;
        let dx = dy.contiguous()?.pad_with_zeros(axis, self.start, after)?;
        array::from_memory(&dx)
    }
}

/// Lengths of the outputs along an axis of `size`.
fn lengths(call: &Call, size: usize) -> Result<Vec<usize>> {
    let outputs = call.node.outputs.len();
    let given = match call.integers(1)? {
        Some(split) => Some(split),
        None => call.ints("split").map(<[i64]>::to_vec),
    };
    let lengths = match (given, call.int("num_outputs")) {
        (Some(_), Some(_)) => return Err(call.error("both `split` and `num_outputs`; expected one of them")),
        (Some(split), None) => split.iter().map(|&length| usize::try_from(length).ok()).collect(),
        (None, Some(parts)) => {
            if usize::try_from(parts).ok() != Some(outputs) {
                return Err(call.error(format!("`num_outputs` is {parts}, but it has {outputs} outputs")));
            }
            let each = size.div_ceil(outputs);
            Some((0..outputs).map(|i| each.min(size.saturating_sub(i * each))).collect())
        }
        (None, None) if call.opset >= 18 => {
            return Err(call.error("neither `split` nor `num_outputs`; expected one of them"));
        }
        (None, None) if !size.is_multiple_of(outputs) => {
            return Err(call.error(format!("{size} elements cannot be split into {outputs} equal parts")));
        }
        (None, None) => Some(vec![size / outputs; outputs]),
    };
    let sum = |lengths: &Vec<usize>| lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length));
    match lengths {
        Some(lengths) if lengths.len() == outputs && sum(&lengths) == Some(size) => Ok(lengths),
        Some(lengths) if lengths.len() == outputs => {
            Err(call.error(format!("parts of {lengths:?} elements of a dimension of {size}")))
        }
        Some(lengths) => Err(call.error(format!("{} parts, but {outputs} outputs", lengths.len()))),
        None => Err(call.error("a part of negative length")),
    }
}
