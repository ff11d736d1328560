//! Gather and Slice.

use super::attributes::{Attribute, Kind};
use super::axes_rules;
use super::call::{Call, Lowered};
use super::operator::{BINARY, Operator, arity};
use super::pick::{Pick, picked};
use crate::Result;

pub const GATHER: Operator = Operator::new("Gather", BINARY, lower_gather)
    .attributes(&[Attribute::int("axis", 0)])
    .limits("Constant indices.")
    .axes(axes_rules::gathered);

pub const SLICE: Operator = Operator::new("Slice", &[arity(7, 1, 1), arity(10, 3, 5)], lower_slice)
    .attributes(&[
        Attribute::optional("axes", Kind::Ints).until(9),
        Attribute::required("starts", Kind::Ints).until(9),
        Attribute::required("ends", Kind::Ints).until(9),
    ])
    .limits("Constant bounds, axes and steps.");

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
    Ok(vec![picked(call, picks, between, to)?])
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
        let indices = sliced(from[axis], starts[i], ends[i], steps[i]);
        let indices = indices.ok_or_else(|| call.error("a step of 0"))?;
        to[axis] = indices.len();
        picks[axis] = Pick::list(&indices, from[axis])?;
    }
    Ok(vec![picked(call, picks, to.clone(), to)?])
}

/// The indices from `start` to `end`, as NumPy counts them in a dimension of `size`: out of range is clamped, and
/// with a negative step the end is the index before the first. None for a step of 0.
fn sliced(size: usize, start: i64, end: i64, step: i64) -> Option<Vec<usize>> {
    if step == 0 {
        return None;
    }
    let size = size as i64;
    let bound = |v: i64| if v < 0 { v.saturating_add(size) } else { v };
    let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
    let (start, end) = (bound(start).clamp(low.max(0), high.max(0)), bound(end).clamp(low, high));
    let mut indices = Vec::new();
    let mut at = start;
    while size > 0 && (if step > 0 { at < end } else { at > end }) {
        indices.push(at as usize);
        at = at.saturating_add(step);
    }
    Some(indices)
}
