//! Pad, in all its modes.

use super::attributes::{Attribute, Kind};
use super::call::{Call, Lowered};
use super::operator::{Operator, arity};
use super::pick::{Pick, picked};
use crate::Result;
use crate::error::printable;

pub const PAD: Operator =
    Operator::new("Pad", &[arity(7, 1, 1), arity(11, 2, 3), arity(18, 2, 4)], lower_pad)
        .attributes(&[
            Attribute::text("mode", "constant"),
            Attribute::required("pads", Kind::Ints).until(10),
            Attribute::float("value", 0.0).until(10),
        ])
        .limits("Constant paddings and value.");

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
        let pads = [pads[i], pads[i + axes.len()]];
        let fail = || {
            let [before, after] = pads;
            call.error(format!("paddings of {before} and {after} for dimension {axis} of {from:?}"))
        };
        let length = pads[0].checked_add(pads[1]).and_then(|p| p.checked_add(from[axis] as i64));
        to[axis] = length.and_then(|l| usize::try_from(l).ok()).filter(|&l| l > 0).ok_or_else(fail)?;
        call.elements(&to)?;
        picks[axis] = match mode {
            "constant" => constant(pads, to[axis], value).ok_or_else(fail)?,
            "edge" | "reflect" | "wrap" => {
                Pick::list(&mirrored(mode, pads[0], from[axis], to[axis]).ok_or_else(fail)?, from[axis])?
            }
            other => return Err(call.error(format!("attribute `mode` is \"{}\"", printable(other)))),
        };
    }
    Ok(vec![picked(call, picks, to.clone(), to)?])
}

/// Pads a dimension with a value, or crops it to `length` if both paddings are negative or zero. None for mixed
/// signs, which are rare enough to refuse.
fn constant([before, after]: [i64; 2], length: usize, value: f32) -> Option<Pick> {
    Some(match (usize::try_from(before), usize::try_from(after)) {
        (Ok(0), Ok(0)) => Pick::All,
        (Ok(before), Ok(after)) => Pick::Surrounded { before, after, value },
        _ if before > 0 || after > 0 => return None,
        _ => Pick::Range { start: before.unsigned_abs() as usize, length },
    })
}

/// Index of the source element for each of `length` positions of a padded dimension of `size`, with `before` of them
/// in front.
fn mirrored(mode: &str, before: i64, size: usize, length: usize) -> Option<Vec<usize>> {
    let size = size as i64;
    let place = |at: i64| match mode {
        "edge" => Some(at.clamp(0, size - 1)),
        "wrap" => at.checked_rem_euclid(size),
        _ if size == 1 => Some(0).filter(|_| at == 0),
        _ => at.checked_rem_euclid(2 * (size - 1)).map(|p| p.min(2 * (size - 1) - p)),
    };
    (0..length as i64).map(|at| place(at.checked_sub(before)?).map(|p| p as usize)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_beside_a_dimension_of_three() {
        for (mode, places) in [
            ("edge", [0, 0, 0, 1, 2, 2, 2]),
            ("reflect", [2, 1, 0, 1, 2, 1, 0]),
            ("wrap", [1, 2, 0, 1, 2, 0, 1]),
        ] {
            assert_eq!(mirrored(mode, 2, 3, 7).unwrap(), places, "{mode}");
        }
        assert_eq!(mirrored("reflect", 0, 1, 1).unwrap(), [0]);
        assert!(mirrored("reflect", 1, 1, 2).is_none());
        assert!(mirrored("wrap", i64::MIN, 3, 1).is_none());
    }
}
