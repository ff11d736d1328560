//! How each operator passes on what the dimensions of its inputs hold.

use super::axes::{Axes, Axis, Role, regroup};
use super::call::{Call, Input};

/// Returns the dimensions of an output of the given shape.
pub(super) type AxesRule = fn(&Call, &[usize]) -> Axes;

/// (shape, dimensions) of the inputs that depend on the image.
fn values<'a>(call: &'a Call) -> impl Iterator<Item = (&'a [usize], &'a [Axis])> {
    call.inputs.iter().filter_map(|input| match input {
        Input::Value { shape, axes, .. } => Some((shape.as_slice(), axes.as_slice())),
        _ => None,
    })
}

/// The first input that depends on the image.
fn first<'a>(call: &'a Call) -> (&'a [usize], &'a [Axis]) {
    values(call).next().unwrap_or((&[], &[]))
}

/// Nothing is known but the batch, where the first dimension still has its size.
pub(super) fn unknown(call: &Call, out: &[usize]) -> Axes {
    let batch = first(call).1.first().filter(|a| a.role() == Some(Role::Batch));
    let known = |d: usize, size: usize| batch.filter(|a| d == 0 && a.is_of(size));
    out.iter()
        .enumerate()
        .map(|(d, &size)| known(d, size).cloned().unwrap_or_else(|| Axis::of(Role::Mixed, size)))
        .collect()
}

/// Every dimension means what it means in the inputs, aligned at the last one as in broadcasting; its size may differ.
pub(super) fn kept(call: &Call, out: &[usize]) -> Axes {
    let axis = |d: usize, size: usize| {
        let aligned = values(call).filter_map(|(shape, axes)| {
            let at = (d + shape.len()).checked_sub(out.len())?;
            Some((shape[at], axes.get(at)?))
        });
        let aligned: Vec<(usize, &Axis)> = aligned.filter(|(_, axis)| axis.role().is_some()).collect();
        let same = || aligned.iter().filter(|(was, _)| *was == size);
        let exact = same().find(|(_, axis)| axis.role() != Some(Role::Mixed)).or_else(|| same().next());
        match (exact, aligned.first()) {
            (Some((_, axis)), _) => (*axis).clone(),
            (None, Some((_, axis))) => axis.resized(size),
            (None, None) => Axis::default().resized(size),
        }
    };
    out.iter().enumerate().map(|(d, &size)| axis(d, size)).collect()
}

/// Convolutions: new channels. A kernel of more than one element looks at positions, whatever was there.
pub(super) fn convolved(call: &Call, out: &[usize]) -> Axes {
    let (_, from) = first(call);
    let kernel = call.shape(1).unwrap_or(&[]);
    let axis = |d: usize, size: usize| match (d, from.get(d)) {
        (0, Some(batch)) => batch.resized(size),
        (1, Some(channels)) => Axis::of(channels.role().unwrap_or(Role::Channel), size),
        (_, Some(position)) if position.role().is_none() && kernel.get(d).is_some_and(|&k| k > 1) => {
            Axis::of(if d + 1 == out.len() { Role::Width } else { Role::Height }, size)
        }
        (_, Some(position)) => position.resized(size),
        (_, None) => Axis::of(Role::Mixed, size),
    };
    out.iter().enumerate().map(|(d, &size)| axis(d, size)).collect()
}

/// Pools: a window over a whole image leaves no positions.
pub(super) fn pooled(call: &Call, out: &[usize]) -> Axes {
    let (shape, _) = first(call);
    let point = out.iter().skip(2).all(|&d| d == 1) && shape.iter().skip(2).any(|&d| d > 1);
    if point { globally_pooled(call, out) } else { kept(call, out) }
}

/// Pools over whole images.
pub(super) fn globally_pooled(call: &Call, out: &[usize]) -> Axes {
    let mut axes = kept(call, out);
    axes.iter_mut().skip(2).for_each(|axis| *axis = Axis::default());
    axes
}

/// Reductions over `axes`.
pub(super) fn without(call: &Call, out: &[usize], axes: &[usize]) -> Axes {
    let (shape, from) = first(call);
    let keeps = out.len() == shape.len();
    let left = from.iter().enumerate().filter(|(d, _)| keeps || !axes.contains(d));
    left.map(|(d, axis)| if axes.contains(&d) { Axis::default() } else { axis.clone() }).collect()
}

/// Reshapes: the factors, in the same order, in other dimensions.
pub(super) fn reshaped(call: &Call, out: &[usize]) -> Axes {
    regroup(first(call).1, out)
}

/// Transposes.
pub(super) fn transposed(call: &Call, out: &[usize]) -> Axes {
    let (_, from) = first(call);
    let reversed: Vec<i64> = (0..from.len() as i64).rev().collect();
    let perm = call.ints("perm").unwrap_or(&reversed);
    let axis = |p: &i64| usize::try_from(*p).ok().and_then(|p| from.get(p)).cloned().unwrap_or_default();
    if perm.len() == out.len() { perm.iter().map(axis).collect() } else { unknown(call, out) }
}

/// Squeeze and Unsqueeze: dimensions of one element leave or come at `axes`.
pub(super) fn without_singles(call: &Call, out: &[usize]) -> Axes {
    let (shape, from) = first(call);
    let given = call.integers(1).ok().flatten().or_else(|| call.ints("axes").map(<[i64]>::to_vec));
    let rank = shape.len().max(out.len());
    let axes: Option<Vec<usize>> = given.and_then(|axes| call.axes(&axes, rank).ok());
    if out.len() > shape.len() {
        let axes = axes.unwrap_or_default();
        let mut rest = from.iter().cloned();
        let axis = |d: usize| if axes.contains(&d) { None } else { rest.next() };
        return (0..out.len()).map(axis).map(Option::unwrap_or_default).collect();
    }
    let gone = |d: usize| axes.as_ref().map_or(shape[d] == 1, |axes| axes.contains(&d));
    (0..from.len()).filter(|&d| !gone(d)).map(|d| from[d].clone()).collect()
}

/// Gather: the dimension of the indices takes the place of the axis.
pub(super) fn gathered(call: &Call, out: &[usize]) -> Axes {
    let (shape, from) = first(call);
    let axis = call.axis(call.int("axis").unwrap_or(0), shape.len());
    let (Ok(axis), Ok(indices)) = (axis, call.shape(1)) else { return unknown(call, out) };
    if out.len() + 1 != shape.len() + indices.len() {
        return unknown(call, out);
    }
    let picked = |d: usize| match indices.len() {
        1 => from[axis].resized(out[axis]),
        _ => Axis::of(from[axis].role().unwrap_or(Role::Mixed), out[axis + d]),
    };
    let mut axes = from[..axis].to_vec();
    axes.extend((0..indices.len()).map(picked));
    axes.extend_from_slice(&from[axis + 1..]);
    axes
}

/// Concat. Single channels of an image, picked and put together again, are its channels.
pub(super) fn joined(call: &Call, out: &[usize]) -> Axes {
    let mut axes = kept(call, out);
    let Ok(axis) = call.axis(call.int("axis").unwrap_or(0), out.len()) else { return unknown(call, out) };
    let at = |from: &[Axis]| from.get(axis).and_then(Axis::role);
    if values(call).all(|(_, from)| at(from).is_none()) {
        let has = |role: Role| axes.iter().enumerate().any(|(d, a)| d != axis && a.role() == Some(role));
        let channels = has(Role::Batch) && !has(Role::Channel) && !has(Role::Mixed);
        axes[axis] =
            Axis::of(if channels || out[axis] == 1 { Role::Channel } else { Role::Mixed }, out[axis]);
    }
    axes
}

/// Matrix products: rows from the left operand, columns from the right one. A constant operand makes as many elements
/// as it has of what is summed over.
pub(super) fn multiplied(call: &Call, out: &[usize]) -> Axes {
    let side = |i: usize| match call.input(i) {
        Input::Value { axes, .. } => Some(axes.as_slice()),
        _ => None,
    };
    let from_end = |axes: &[Axis], back: usize| axes.len().checked_sub(back).map(|d| axes[d].clone());
    let summed = |axes: Option<Axis>, size: usize| {
        let role = axes.and_then(|axis| axis.role());
        Axis::of(role.unwrap_or(Role::Channel), size)
    };
    let mut axes = kept(call, out);
    let rank = out.len();
    let vector = |i: usize| call.shape(i).is_ok_and(|shape| shape.len() == 1);
    if rank < 2 || vector(0) || vector(1) {
        return unknown(call, out);
    }
    let (rows, columns) = (rank - 2, rank - 1);
    match (side(0), side(1)) {
        (Some(a), None) => {
            axes[rows] = from_end(a, 2).unwrap_or_default();
            axes[columns] = summed(from_end(a, 1), out[columns]);
        }
        (None, Some(b)) => {
            axes[rows] = summed(from_end(b, 2), out[rows]);
            axes[columns] = from_end(b, 1).unwrap_or_default();
        }
        (Some(a), Some(b)) => {
            axes[rows] = from_end(a, 2).unwrap_or_default();
            axes[columns] = from_end(b, 1).unwrap_or_default();
        }
        (None, None) => return unknown(call, out),
    }
    axes
}

/// Gemm: one vector for each row.
pub(super) fn rows_of_vectors(call: &Call, out: &[usize]) -> Axes {
    let (_, from) = first(call);
    match (from, out, call.int("transA")) {
        ([rows, _], [n, c], Some(0) | None) => vec![rows.resized(*n), Axis::of(Role::Channel, *c)],
        _ => unknown(call, out),
    }
}
