//! What the dimensions of a value hold (images of the batch, channels, rows, columns, positions), and how each operator
//! passes that on. A dimension is a product of factors, outermost first, so that a reshape can take it apart and put it
//! together again: behind a channel shuffle or a partition into windows the channels are still known.

use std::collections::VecDeque;

use super::call::{Call, Input};

/// What a dimension, or a factor of it, counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Images.
    Batch,
    /// Channels, features.
    Channel,
    /// Rows of pixels.
    Height,
    /// Columns of pixels.
    Width,
    /// Positions in no fixed arrangement: tokens.
    Position,
    /// Several of these, or unknown.
    Mixed,
}

/// A factor of a dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    pub role: Role,
    pub size: usize,
}

/// One dimension: its factors, outermost first. A dimension of one element may have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Axis(Vec<Factor>);

/// The dimensions of a value.
pub type Axes = Vec<Axis>;

/// Returns the dimensions of an output of the given shape.
pub(super) type AxesRule = fn(&Call, &[usize]) -> Axes;

impl Axis {
    /// A dimension of one role.
    pub fn of(role: Role, size: usize) -> Self {
        Self(vec![Factor { role, size }])
    }

    /// Its role; None for a dimension of one element that holds nothing.
    pub fn role(&self) -> Option<Role> {
        let large = self.0.iter().any(|f| f.size > 1);
        let mut roles = self.0.iter().filter(|f| f.size > 1 || !large).map(|f| f.role);
        let first = roles.next()?;
        Some(roles.fold(first, |all, role| match (is_position(all), is_position(role)) {
            _ if all == role => all,
            (true, true) => Role::Position,
            _ => Role::Mixed,
        }))
    }

    /// Whether images of the batch are its outermost factor.
    pub fn starts_with_batch(&self) -> bool {
        self.0.first().is_some_and(|f| f.role == Role::Batch)
    }

    /// Whether every factor behind the batch counts positions.
    fn is_batch_of_positions(&self) -> bool {
        self.starts_with_batch() && self.0[1..].iter().all(|f| is_position(f.role))
    }

    /// The same role with another number of elements.
    fn resized(&self, size: usize) -> Self {
        if self.0.iter().map(|f| f.size).product::<usize>() == size && !self.0.is_empty() {
            return self.clone();
        }
        match self.role() {
            Some(role) => Self::of(role, size),
            None if size == 1 => Self::default(),
            None => Self::of(Role::Mixed, size),
        }
    }
}

fn is_position(role: Role) -> bool {
    matches!(role, Role::Height | Role::Width | Role::Position)
}

/// The dimensions of the images that a network is given, (N, C, H, W); of another input all but the first are unknown.
pub fn of_images(shape: &[usize]) -> Axes {
    let roles: &[Role] = match shape.len() {
        4 => &[Role::Batch, Role::Channel, Role::Height, Role::Width],
        _ => &[Role::Batch],
    };
    let role = |d: usize| roles.get(d).copied().unwrap_or(Role::Mixed);
    shape.iter().enumerate().map(|(d, &size)| Axis::of(role(d), size)).collect()
}

/// How the elements of a value are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Images, (N, C, H, W).
    Nchw,
    /// Images, (N, H, W, C).
    Nhwc,
    /// Tokens, (N, T, C).
    Tokens,
    /// Positions behind the channels, (N, C, T).
    ChannelsFirst,
    /// Tokens of parts of an image, (N x windows, T, C) or (N x windows, H, W, C).
    Windows,
    /// One vector an image, (N, C) or (N, C, 1, 1).
    Vectors,
    /// Anything else.
    Other,
}

impl Layout {
    /// The layout of a value with these dimensions.
    pub fn of(axes: &[Axis]) -> Self {
        let role = |d: usize| axes[d].role();
        let position = |d: usize| role(d).is_some_and(is_position);
        let channel = |d: usize| role(d) == Some(Role::Channel);
        let single = |d: usize| role(d).is_none();
        let Some(first) = axes.first().filter(|first| first.starts_with_batch()) else { return Self::Other };
        let images = first.0[1..].iter().all(|f| f.size == 1);
        match axes.len() {
            2 if images => Self::Vectors,
            3 if images && position(1) && channel(2) => Self::Tokens,
            3 if images && channel(1) && position(2) => Self::ChannelsFirst,
            4 if images && channel(1) && position(2) && position(3) => Self::Nchw,
            4 if images && channel(3) && position(1) && position(2) => Self::Nhwc,
            4 if images && channel(1) && single(2) && single(3) => Self::Vectors,
            3 | 4
                if first.is_batch_of_positions()
                    && channel(axes.len() - 1)
                    && (1..axes.len() - 1).all(position) =>
            {
                Self::Windows
            }
            _ => Self::Other,
        }
    }

    /// The dimension of the channels, of `rank`; None for [`Layout::Other`].
    pub fn channels(self, rank: usize) -> Option<usize> {
        match self {
            Self::Nchw | Self::ChannelsFirst | Self::Vectors => Some(1),
            Self::Nhwc | Self::Tokens | Self::Windows => rank.checked_sub(1),
            Self::Other => None,
        }
    }
}

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
    let known = |d: usize, size: usize| batch.filter(|a| d == 0 && a.0.iter().all(|f| f.size == size));
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

fn regroup(from: &[Axis], to: &[usize]) -> Axes {
    let mut left: VecDeque<Factor> = from.iter().flat_map(|axis| axis.0.iter().copied()).collect();
    let mut known = true;
    let mut axes: Axes = Vec::with_capacity(to.len());
    for &size in to {
        let mut factors = Vec::new();
        let mut need = size;
        if size == 1 && left.front().is_some_and(|f| f.size == 1) {
            factors.extend(left.pop_front());
        }
        while known && need > 1 {
            match left.pop_front() {
                Some(f) if need.is_multiple_of(f.size) => {
                    need /= f.size;
                    factors.push(f);
                }
                Some(f) if f.size.is_multiple_of(need) => {
                    factors.push(Factor { role: f.role, size: need });
                    left.push_front(Factor { role: f.role, size: f.size / need });
                    need = 1;
                }
                _ => known = false,
            }
        }
        axes.push(if known || size == 1 { Axis(factors) } else { Axis::of(Role::Mixed, size) });
    }
    if let (true, Some(last)) = (known, axes.last_mut()) {
        last.0.extend(left.into_iter().filter(|f| f.size == 1));
    }
    axes
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
        let has = |role: Role| axes.iter().any(|axis| axis.role() == Some(role));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn image(n: usize, c: usize, h: usize, w: usize) -> Axes {
        of_images(&[n, c, h, w])
    }

    fn turned(axes: &Axes, perm: &[usize]) -> Axes {
        perm.iter().map(|&p| axes[p].clone()).collect()
    }

    #[test]
    fn behind_a_channel_shuffle_an_image_is_an_image() {
        let split = regroup(&image(1, 12, 4, 4), &[1, 2, 6, 4, 4]);
        assert_eq!(Layout::of(&split), Layout::Other);
        let back = regroup(&turned(&split, &[0, 2, 1, 3, 4]), &[1, 12, 4, 4]);
        assert_eq!(Layout::of(&back), Layout::Nchw);
        // rows and channels put together are neither
        let mixed = regroup(&turned(&image(1, 12, 4, 4), &[0, 2, 1, 3]), &[1, 12, 4, 4]);
        assert_eq!(Layout::of(&mixed), Layout::Other);
    }

    #[test]
    fn tokens_and_windows() {
        for n in [1, 3] {
            let tokens = turned(&regroup(&image(n, 8, 4, 6), &[n, 8, 24]), &[0, 2, 1]);
            assert_eq!(Layout::of(&tokens), Layout::Tokens);
            let last = turned(&image(n, 8, 4, 6), &[0, 2, 3, 1]);
            assert_eq!(Layout::of(&last), Layout::Nhwc);
            let parts = turned(&regroup(&last, &[n, 2, 2, 3, 2, 8]), &[0, 1, 3, 2, 4, 5]);
            let windows = regroup(&parts, &[n * 6, 4, 8]);
            assert_eq!(Layout::of(&windows), Layout::Windows);
            let back = turned(&regroup(&windows, &[n, 2, 3, 2, 2, 8]), &[0, 1, 3, 2, 4, 5]);
            assert_eq!(Layout::of(&regroup(&back, &[n, 4, 6, 8])), Layout::Nhwc);
        }
    }

    #[test]
    fn heads_of_attention_are_channels_again() {
        let tokens = vec![Axis::of(Role::Batch, 2), Axis::of(Role::Position, 5), Axis::of(Role::Channel, 12)];
        let heads = turned(&regroup(&tokens, &[2, 5, 3, 4]), &[0, 2, 1, 3]);
        let back = regroup(&turned(&heads, &[0, 2, 1, 3]), &[2, 5, 12]);
        assert_eq!(Layout::of(&back), Layout::Tokens);
    }

    #[test]
    fn flattened_images_are_vectors() {
        assert_eq!(Layout::of(&regroup(&image(1, 8, 1, 1), &[1, 8])), Layout::Vectors);
        assert_eq!(Layout::of(&regroup(&image(2, 8, 3, 3), &[2, 72])), Layout::Vectors);
    }

    #[test]
    fn what_does_not_divide_is_unknown() {
        assert_eq!(Layout::of(&regroup(&image(1, 6, 5, 5), &[1, 10, 15])), Layout::Other);
    }
}
