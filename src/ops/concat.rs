//! Concat.

use candle_core::Tensor;

use super::array::{self, Array};
use super::attributes::{Attribute, Kind};
use super::axes_rules;
use super::call::{Call, Input, Lowered};
use super::exec::Exec;
use super::operator::{Operator, arity};
use super::pick::cat;
use super::saved::Saved;
use crate::Result;

pub const CONCAT: Operator = Operator::new("Concat", &[arity(7, 1, usize::MAX)], lower_concat)
    .attributes(&[Attribute::required("axis", Kind::Int)])
    .axes(axes_rules::joined);

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
            Input::Constant(t) => ConcatInput::Constant(call.as_computed(t)?),
            _ => ConcatInput::Value(shape[axis]),
        });
    }
    let rows = axis > 0 && (0..call.inputs.len()).all(|i| call.row_by_row(i, &to));
    call.run(to, rows, Concat { axis, parts })
}

enum ConcatInput {
    /// Number of elements along the axis.
    Value(usize),
    Constant(Tensor),
}

struct Concat {
    axis: usize,
    parts: Vec<ConcatInput>,
}

impl Exec for Concat {
    fn forward(&self, x: Vec<Array>, _: Option<&mut Saved>) -> Result<Array> {
        let mut values = x.iter().map(Array::tensor);
        let mut parts = Vec::with_capacity(self.parts.len());
        let mut axis = self.axis;
        for part in &self.parts {
            let t = match part {
                ConcatInput::Constant(t) => Some(t),
                ConcatInput::Value(_) => values.next(),
            };
            let t = t.ok_or_else(|| crate::Error::internal("an operand is missing"))?;
            let (t, a) = array::in_memory(t, self.axis)?;
            axis = a;
            if t.elem_count() > 0 {
                parts.push(t);
            }
        }
        if parts.is_empty() {
            return x.into_iter().next().ok_or_else(|| crate::Error::internal("an operand is missing"));
        }
        let y = array::from_memory(&cat(&parts.iter().collect::<Vec<_>>(), axis)?)?;
        match x.first() {
            // if all other parts are empty, candle returns that part itself
            Some(first) => first.derive(&y),
            None => Array::from_tensor(&y),
        }
    }

    fn vjp(&self, _: &Saved, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
        let mut want = want.iter();
        let mut grads = Vec::new();
        let mut start = 0;
        for part in &self.parts {
            match part {
                ConcatInput::Constant(t) => start += t.dims()[self.axis],
                ConcatInput::Value(length) => {
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
