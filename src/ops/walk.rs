//! Walking over the elements of several operands that are broadcast to one shape, each in the order of its own memory.

use std::ops::Range;

/// How many elements a parallel part has.
pub(super) const PART: usize = 16 * 1024;

/// The axes of a value that depends on the image in the order of its memory: channels-last for rank 4.
pub(super) fn memory_order(rank: usize) -> Vec<usize> {
    if rank == 4 { vec![0, 2, 3, 1] } else { (0..rank).collect() }
}

/// By axis: how far apart in memory its elements are. `row_major`: a constant's; else as in [`super::array`].
pub(super) fn strides(shape: &[usize], row_major: bool) -> Vec<usize> {
    let order = if row_major { (0..shape.len()).collect() } else { memory_order(shape.len()) };
    let mut strides = vec![0; shape.len()];
    let mut stride = 1;
    for &axis in order.iter().rev() {
        strides[axis] = stride;
        stride *= shape[axis];
    }
    strides
}

/// The number of elements before, along and behind an axis in the memory of a value that depends on the image.
pub(super) fn view(shape: &[usize], axis: usize) -> [usize; 3] {
    let order = memory_order(shape.len());
    let place = order.iter().position(|&a| a == axis).unwrap_or(0);
    let count = |axes: &[usize]| axes.iter().map(|&a| shape[a]).product();
    [count(&order[..place]), shape[axis], count(&order[place + 1..])]
}

/// By element in row-major order: its place in memory; None where that is the same.
pub(super) fn places(shape: &[usize]) -> Option<Vec<usize>> {
    let &[n, c, h, w] = shape else { return None };
    let image = |p: usize| p % (h * w) * c + p / (h * w);
    (c > 1 && h * w > 1)
        .then(|| (0..n).flat_map(|i| (0..c * h * w).map(move |p| i * c * h * w + image(p))).collect())
}

/// The way over the elements of an output in the order of its memory, and where those of its operands are.
pub(super) struct Walk {
    /// Outermost first; the last dimension is walked in one go.
    sizes: Vec<usize>,
    /// By dimension, by operand.
    strides: Vec<Vec<usize>>,
}

/// A stretch of elements that are evenly spaced in every operand.
pub(super) struct Stretch<'a> {
    /// The output's first element.
    pub at: usize,
    pub length: usize,
    /// By operand: its first element.
    pub from: &'a [usize],
    /// By operand: the distance from one element to the next.
    pub step: &'a [usize],
}

impl Walk {
    /// `operands`: shapes that can be broadcast to `out`, and whether each lies row-major.
    pub fn new(out: &[usize], operands: &[(&[usize], bool)]) -> Self {
        let own: Vec<Vec<usize>> = operands.iter().map(|(shape, rows)| strides(shape, *rows)).collect();
        let stride = |axis: usize, k: usize| {
            let shape = operands[k].0;
            let at = (axis + shape.len()).checked_sub(out.len());
            at.filter(|&at| shape[at] > 1).map_or(0, |at| own[k][at])
        };
        let mut walk = Self { sizes: vec![], strides: vec![] };
        for axis in memory_order(out.len()).into_iter().filter(|&axis| out[axis] != 1) {
            let here: Vec<usize> = (0..operands.len()).map(|k| stride(axis, k)).collect();
            let joins = |outer: &Vec<usize>| outer.iter().zip(&here).all(|(o, h)| *o == h * out[axis]);
            match (walk.sizes.last_mut(), walk.strides.last_mut()) {
                (Some(size), Some(outer)) if joins(outer) => {
                    *size *= out[axis];
                    *outer = here;
                }
                _ => {
                    walk.sizes.push(out[axis]);
                    walk.strides.push(here);
                }
            }
        }
        if walk.sizes.is_empty() {
            walk.sizes.push(1);
            walk.strides.push(vec![0; operands.len()]);
        }
        walk
    }

    /// Calls `visit` for every stretch of the output's elements `range`, in order.
    pub fn stretches(&self, range: Range<usize>, mut visit: impl FnMut(Stretch)) {
        let Some((&row, step)) = self.sizes.last().zip(self.strides.last()) else { return };
        let mut at = range.start;
        let mut from = vec![0; step.len()];
        while at < range.end {
            let length = (row - at % row).min(range.end - at);
            let mut rest = at;
            from.fill(0);
            for (size, strides) in self.sizes.iter().zip(&self.strides).rev() {
                let index = rest % size;
                rest /= size;
                from.iter_mut().zip(strides).for_each(|(from, stride)| *from += index * stride);
            }
            visit(Stretch { at, length, from: &from, step });
            at += length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_met_once_and_in_order() {
        // (N, C, H, W) lies as (N, H, W, C); a constant per channel lies row-major
        let out = [2, 3, 2, 2];
        let walk = Walk::new(&out, &[(&out, false), (&[3, 1, 1], true), (&[2, 2], true)]);
        let mut met = Vec::new();
        walk.stretches(0..24, |s| {
            met.extend((0..s.length).map(|i| {
                let place = |k: usize| s.from[k] + i * s.step[k];
                (s.at + i, place(0), place(1), place(2))
            }));
        });
        let expected: Vec<_> = (0..24).map(|i| (i, i, i % 3, i / 3 % 4)).collect();
        assert_eq!(met, expected);
        let mut parts = 0;
        walk.stretches(5..11, |s| parts += s.length);
        assert_eq!(parts, 6);
    }

    #[test]
    fn values_of_one_shape_are_one_stretch() {
        let walk = Walk::new(&[4, 5, 6], &[(&[4, 5, 6], false), (&[], true)]);
        let mut stretches = 0;
        walk.stretches(0..120, |_| stretches += 1);
        assert_eq!(stretches, 1);
        Walk::new(&[], &[(&[], false)]).stretches(0..1, |s| assert_eq!((s.at, s.length), (0, 1)));
    }
}
