//! Operators that pick, join and surround: Concat, Gather, Slice, Pad. All but Concat come down to one list of indices
//! for each axis.

use candle_core::{DType, Device, Tensor};

use super::array::Array;
use super::attributes::{Attribute, Kind};
use super::call::{Call, Input, Lowered};
use super::exec::Exec;
use super::kept::Kept;
use super::operator::{BINARY, Operator, arity};
use super::shape::{Moved, Movement};
use crate::Result;

pub const CONCAT: Operator = Operator::new("Concat", &[arity(7, 1, usize::MAX)], lower_concat)
    .attributes(&[Attribute::required("axis", Kind::Int)]);

pub const GATHER: Operator =
    Operator::new("Gather", BINARY, lower_gather).attributes(&[Attribute::int("axis", 0)]);

pub const SLICE: Operator = Operator::new("Slice", &[arity(7, 1, 1), arity(10, 3, 5)], lower_slice)
    .attributes(&[
        Attribute::optional("axes", Kind::Ints).until(9),
        Attribute::required("starts", Kind::Ints).until(9),
        Attribute::required("ends", Kind::Ints).until(9),
    ]);

pub const PAD: Operator =
    Operator::new("Pad", &[arity(7, 1, 1), arity(11, 2, 3), arity(18, 2, 4)], lower_pad).attributes(&[
        Attribute::text("mode", "constant"),
        Attribute::required("pads", Kind::Ints).until(10),
        Attribute::float("value", 0.0).until(10),
    ]);

/// What becomes of one axis.
enum Pick {
    All,
    /// So many from here on.
    Range {
        start: usize,
        length: usize,
    },
    /// These, in this order.
    List(Tensor),
    /// Surrounded by this many of a value.
    Surrounded {
        before: usize,
        after: usize,
        value: f32,
    },
}

impl Pick {
    /// These indices, in this order.
    fn list(indices: &[usize], size: usize) -> Result<Self> {
        let start = indices.first().copied().unwrap_or(0);
        if indices.iter().enumerate().all(|(i, &x)| x == start + i) {
            return Ok(match (start, indices.len()) {
                (0, n) if n == size => Self::All,
                (start, length) => Self::Range { start, length },
            });
        }
        let indices: Vec<u32> = indices.iter().map(|&i| i as u32).collect();
        let length = indices.len();
        Ok(Self::List(Tensor::from_vec(indices, length, &Device::Cpu)?))
    }

    fn there(&self, x: &Tensor, axis: usize) -> Result<Tensor> {
        Ok(match self {
            Self::All => x.clone(),
            Self::Range { start, length } => x.narrow(axis, *start, *length)?,
            Self::List(indices) => x.contiguous()?.index_select(indices, axis)?,
            Self::Surrounded { before, after, value } => {
                let mut dims = x.dims().to_vec();
                let mut block = |length: usize| {
                    dims[axis] = length;
                    Tensor::full(*value, dims.as_slice(), x.device())
                };
                let (before, after) = (block(*before)?, block(*after)?);
                let parts: Vec<&Tensor> =
                    [&before, x, &after].into_iter().filter(|t| t.dims()[axis] > 0).collect();
                cat(&parts, axis)?
            }
        })
    }

    /// The gradient with respect to a value whose axis had `size` elements.
    fn back(&self, dy: &Tensor, axis: usize, size: usize) -> Result<Tensor> {
        Ok(match self {
            Self::All => dy.clone(),
            Self::Range { start, length } => {
                dy.contiguous()?.pad_with_zeros(axis, *start, size - start - length)?
            }
            Self::List(indices) => {
                let mut dims = dy.dims().to_vec();
                dims[axis] = size;
                Tensor::zeros(dims, dy.dtype(), dy.device())?.index_add(indices, &dy.contiguous()?, axis)?
            }
            Self::Surrounded { before, .. } => dy.narrow(axis, *before, size)?,
        })
    }
}

fn cat(parts: &[&Tensor], axis: usize) -> Result<Tensor> {
    let parts: Vec<Tensor> = parts.iter().map(|t| t.contiguous()).collect::<candle_core::Result<_>>()?;
    Ok(Tensor::cat(&parts, axis)?)
}

/// One [`Pick`] for each axis, and a shape to give the outcome.
struct Picked {
    picks: Vec<Pick>,
    from: Vec<usize>,
    between: Vec<usize>,
    to: Vec<usize>,
}

impl Movement for Picked {
    // on a GPU, candle adds up what comes back to an index in any order
    const ANYWHERE: bool = false;

    fn there(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = x.clone();
        for (axis, pick) in self.picks.iter().enumerate() {
            y = pick.there(&y, axis)?;
        }
        Ok(if self.to == self.between { y } else { y.contiguous()?.reshape(self.to.as_slice())? })
    }

    fn back(&self, dy: &Tensor) -> Result<Tensor> {
        let mut dx = if self.to == self.between { dy.clone() } else { dy.reshape(self.between.as_slice())? };
        for (axis, pick) in self.picks.iter().enumerate().rev() {
            dx = pick.back(&dx, axis, self.from[axis])?;
        }
        Ok(dx)
    }
}

fn picked(call: &Call, picks: Vec<Pick>, between: Vec<usize>, to: Vec<usize>) -> Result<Lowered> {
    let from = call.shape(0)?.to_vec();
    if let Some(axis) = from.iter().zip(&between).position(|(&f, &b)| f != b && b == 0) {
        return Err(call.error(format!("nothing is left of dimension {axis} of {from:?}")));
    }
    let rows = matches!(picks.first(), Some(Pick::All)) && to.first() == from.first();
    call.elements(&between)?;
    call.run(to.clone(), rows, Moved(Picked { picks, from, between, to }))
}

fn lower_gather(call: &Call) -> Result<Lowered> {
    let from = call.shape(0)?.to_vec();
    let axis = call.axis(call.int("axis").unwrap_or(0), from.len())?;
    let indices = call.integers(1)?.unwrap_or_default();
    let size = from[axis] as i64;
    let mut list = Vec::with_capacity(indices.len());
    for i in indices {
        match if i < 0 { i.saturating_add(size) } else { i } {
            at if (0..size).contains(&at) => list.push(at as usize),
            _ => return Err(call.error(format!("index {i} of dimension {axis} of {from:?}"))),
        }
    }
    let mut picks: Vec<Pick> = from.iter().map(|_| Pick::All).collect();
    picks[axis] = Pick::list(&list, from[axis])?;
    let mut between = from.clone();
    between[axis] = list.len();
    let mut to = from[..axis].to_vec();
    to.extend(call.shape(1)?);
    to.extend(&from[axis + 1..]);
    picked(call, picks, between, to)
}

fn lower_slice(call: &Call) -> Result<Lowered> {
    let from = call.shape(0)?.to_vec();
    let list = |name: &str, i: usize| -> Result<Option<Vec<i64>>> {
        Ok(match call.integers(i)? {
            Some(v) => Some(v),
            None => call.ints(name).map(<[i64]>::to_vec),
        })
    };
    let starts = list("starts", 1)?.unwrap_or_default();
    let ends = list("ends", 2)?.unwrap_or_default();
    let axes = match list("axes", 3)? {
        Some(axes) => call.axes(&axes, from.len())?,
        None => (0..starts.len().min(from.len())).collect(),
    };
    let steps = call.integers(4)?.unwrap_or_else(|| vec![1; axes.len()]);
    if starts.len() != axes.len() || ends.len() != axes.len() || steps.len() != axes.len() {
        return Err(call.error("starts, ends, axes and steps of different lengths"));
    }
    let mut picks: Vec<Pick> = from.iter().map(|_| Pick::All).collect();
    let mut to = from.clone();
    for (i, &axis) in axes.iter().enumerate() {
        let (size, step) = (from[axis] as i64, steps[i]);
        if step == 0 {
            return Err(call.error("a step of 0"));
        }
        // as numpy: out of range means up to the end; backwards the end is the element before the first
        let bound = |v: i64| if v < 0 { v.saturating_add(size) } else { v };
        let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
        let start = bound(starts[i]).clamp(low.max(0), high.max(0));
        let end = bound(ends[i]).clamp(low, high);
        let mut indices = Vec::new();
        let mut at = start;
        while size > 0 && (if step > 0 { at < end } else { at > end }) {
            indices.push(at as usize);
            at = at.saturating_add(step);
        }
        to[axis] = indices.len();
        picks[axis] = Pick::list(&indices, from[axis])?;
    }
    picked(call, picks, to.clone(), to)
}

fn lower_pad(call: &Call) -> Result<Lowered> {
    let from = call.shape(0)?.to_vec();
    let pads = match call.integers(1)? {
        Some(pads) => pads,
        None => call.ints("pads").unwrap_or(&[]).to_vec(),
    };
    let axes = match call.integers(3)? {
        Some(axes) => call.axes(&axes, from.len())?,
        None => (0..from.len()).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(call.error(format!("{} paddings for {} dimensions", pads.len(), axes.len())));
    }
    let value = match call.floats(2)?.as_deref() {
        None => call.float("value")?.unwrap_or(0.0),
        Some(&[v]) => v,
        Some(other) => return Err(call.error(format!("{} values to pad with, expected one", other.len()))),
    };
    call.float_shape(0)?;
    let mode = call.text("mode").unwrap_or("constant");
    let mut picks: Vec<Pick> = from.iter().map(|_| Pick::All).collect();
    let mut to = from.clone();
    for (i, &axis) in axes.iter().enumerate() {
        let [before, after] = [pads[i], pads[i + axes.len()]];
        let fail =
            || call.error(format!("paddings of {before} and {after} for dimension {axis} of {from:?}"));
        let size = from[axis] as i64;
        let length = before.checked_add(after).and_then(|p| p.checked_add(size)).filter(|l| *l > 0);
        let length = length.ok_or_else(fail)?;
        let mut shape = to.clone();
        shape[axis] = usize::try_from(length).map_err(|_| fail())?;
        call.elements(&shape)?;
        picks[axis] = match (mode, usize::try_from(before), usize::try_from(after)) {
            ("constant", Ok(0), Ok(0)) => Pick::All,
            ("constant", Ok(before), Ok(after)) => Pick::Surrounded { before, after, value },
            ("constant", ..) => {
                // a negative padding cuts off; both together are rare enough to refuse
                if before > 0 || after > 0 {
                    return Err(fail());
                }
                Pick::Range { start: before.unsigned_abs() as usize, length: shape[axis] }
            }
            ("edge" | "reflect" | "wrap", ..) => {
                let place = |at: i64| match mode {
                    "edge" => Some(at.clamp(0, size - 1)),
                    "wrap" => at.checked_rem_euclid(size),
                    _ if size == 1 => Some(0).filter(|_| at == 0),
                    _ => at.checked_rem_euclid(2 * (size - 1)).map(|p| p.min(2 * (size - 1) - p)),
                };
                let indices: Option<Vec<usize>> =
                    (0..length).map(|at| place(at.checked_sub(before)?).map(|p| p as usize)).collect();
                Pick::list(&indices.ok_or_else(fail)?, from[axis])?
            }
            (other, ..) => {
                return Err(call.error(format!("attribute `mode` is \"{}\"", crate::error::printable(other))));
            }
        };
        to = shape;
    }
    picked(call, picks, to.clone(), to)
}

fn lower_concat(call: &Call) -> Result<Lowered> {
    call.one_dtype()?;
    let first = call.shape(0)?.to_vec();
    let axis = call.axis(call.int("axis").unwrap_or(0), first.len())?;
    let mut to = first.clone();
    to[axis] = 0;
    let mut parts = Vec::new();
    for i in 0..call.inputs.len() {
        let shape = call.shape(i)?;
        let fits = shape.len() == to.len() && (0..to.len()).all(|a| a == axis || shape[a] == to[a]);
        if !fits {
            return Err(call.error(format!(
                "input {i} of shape {shape:?} cannot be joined to {first:?} at axis {axis}"
            )));
        }
        to[axis] = to[axis].checked_add(shape[axis]).ok_or_else(|| call.error("too many elements"))?;
        parts.push(match call.input(i) {
            Input::Constant(t) => Part::Constant(t.clone()),
            _ => Part::Value(shape[axis]),
        });
    }
    let rows = axis > 0 && (0..call.inputs.len()).all(|i| call.row_by_row(i, &to));
    call.run(to, rows, Concat { axis, parts })
}

enum Part {
    /// So many elements along the axis.
    Value(usize),
    Constant(Tensor),
}

struct Concat {
    axis: usize,
    parts: Vec<Part>,
}

/// Images are joined in the order they have in memory; the axis is counted in it.
fn in_memory(t: &Tensor, axis: usize) -> Result<(Tensor, usize)> {
    Ok(match (t.rank(), t.dtype()) {
        (4, DType::F32) => (t.permute((0, 2, 3, 1))?, [0, 3, 1, 2][axis]),
        _ => (t.clone(), axis),
    })
}

impl Exec for Concat {
    fn forward(&self, x: Vec<Array>, _: Option<&mut Kept>) -> Result<Array> {
        let mut values = x.iter().map(Array::tensor);
        let mut parts = Vec::with_capacity(self.parts.len());
        let mut axis = self.axis;
        for part in &self.parts {
            let t = match part {
                Part::Constant(t) => Some(t),
                Part::Value(_) => values.next(),
            };
            let t = t.ok_or_else(|| crate::Error::internal("an operand is missing"))?;
            let (t, a) = in_memory(t, self.axis)?;
            axis = a;
            if t.elem_count() > 0 {
                parts.push(t);
            }
        }
        let refs: Vec<&Tensor> = parts.iter().collect();
        let Some(first) = refs.first() else {
            return x.into_iter().next().ok_or_else(|| crate::Error::internal("an operand is missing"));
        };
        let turned = first.rank() == 4 && first.dtype() == DType::F32;
        let y = cat(&refs, axis)?;
        let y = if turned { y.permute((0, 3, 1, 2))? } else { y };
        match x.first() {
            // where all but one part are empty, candle gives that part itself
            Some(first) => first.derive(&y),
            None => Array::from_tensor(&y),
        }
    }

    fn vjp(&self, _: &Kept, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
        let mut want = want.iter();
        let mut grads = Vec::new();
        let mut start = 0;
        for part in &self.parts {
            match part {
                Part::Constant(t) => start += t.dims()[self.axis],
                Part::Value(length) => {
                    grads.push(match want.next() {
                        Some(true) => Some(dy.derive(&dy.tensor().narrow(self.axis, start, *length)?)?),
                        _ => None,
                    });
                    start += length;
                }
            }
        }
        Ok(grads)
    }
}
