//! What the dimensions of a value hold: images of the batch, channels, rows, columns, positions. A dimension is a product of factors, outermost first, so that a reshape can take it apart and put it
//! together again: behind a channel shuffle or a partition into windows the channels are still known.

use std::collections::VecDeque;

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

    /// Whether it has one factor, of this size.
    pub(super) fn is_of(&self, size: usize) -> bool {
        self.0.iter().all(|f| f.size == size)
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
    pub(super) fn resized(&self, size: usize) -> Self {
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

/// The same factors, in the same order, in dimensions of other sizes.
pub(super) fn regroup(from: &[Axis], to: &[usize]) -> Axes {
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
