//! Which inputs each output reads: the geometry of a convolution, or of its input gradient, as rectangles of outputs
//! that read the same taps at the same relative positions. Inside a rectangle there are no bounds checks, and no
//! products with padding.

use super::{Precision, Window};

/// One tap of a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tap {
    /// Position among the packed weights along this axis.
    pub slot: usize,
    /// Input index relative to the stretch's first tap.
    pub distance: usize,
}

/// Evenly spaced outputs along one axis that read the same taps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// First output.
    pub output: usize,
    /// Distance between consecutive outputs.
    pub output_step: usize,
    /// Number of outputs.
    pub count: usize,
    /// Input of the first tap for the first output.
    pub input: usize,
    /// Distance between the inputs of consecutive outputs.
    pub input_step: usize,
    /// Taps by ascending slot. Empty: these outputs read padding only.
    pub taps: Vec<Tap>,
}

/// The stretches of one axis, and the kernel index of each slot.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub stretches: Vec<Stretch>,
    pub slots: Vec<usize>,
}

impl Axis {
    /// Output `o` reads input `o * stride + k * dilation - pad` through tap `k`.
    pub fn forward(window: &Window, axis: usize, input: usize, output: usize) -> Self {
        let (kernel, stride) = (window.kernel[axis], window.stride[axis]);
        let (dilation, pad) = (window.dilation[axis], window.pads[axis]);
        let reads = |o: usize| {
            let at = move |k: usize| (o * stride + k * dilation).checked_sub(pad).filter(|&i| i < input);
            (0..kernel).filter_map(|k| Some((k, at(k)?))).collect::<Vec<_>>()
        };
        let mut stretches = Vec::new();
        gather(&mut stretches, (0..output).map(|o| (o, reads(o))));
        Self { stretches, slots: (0..kernel).collect() }
    }

    /// The transpose: entry `i` of the input gradient reads output gradient `(i + pad - k * dilation) / stride`
    /// through tap `k`, if that is an integer. Entries with the same remainder read the same taps.
    pub fn gradient(window: &Window, axis: usize, input: usize, output: usize) -> Self {
        let (kernel, stride) = (window.kernel[axis], window.stride[axis]);
        let (dilation, pad) = (window.dilation[axis], window.pads[axis]);
        // a tap serves the entries of one phase; taps of a phase are adjacent, in the order of ascending inputs
        let phase = |k: usize| (k * dilation + pad * (stride - 1)) % stride;
        let mut slots: Vec<usize> = (0..kernel).rev().collect();
        slots.sort_by_key(|&k| phase(k));
        let reads = |i: usize| {
            let at =
                |k: usize| (i + pad).checked_sub(k * dilation).map(|o| o / stride).filter(|&o| o < output);
            let taps = slots.iter().enumerate().filter(|&(_, &k)| phase(k) == i % stride);
            taps.filter_map(|(slot, &k)| Some((slot, at(k)?))).collect::<Vec<_>>()
        };
        let mut stretches = Vec::new();
        for first in 0..stride.min(input) {
            gather(&mut stretches, (first..input).step_by(stride).map(|i| (i, reads(i))));
        }
        Self { stretches, slots }
    }
}

/// Adds outputs (with the slots and inputs each reads), which are evenly spaced, as stretches.
fn gather(stretches: &mut Vec<Stretch>, outputs: impl Iterator<Item = (usize, Vec<(usize, usize)>)>) {
    let mut open: Option<Stretch> = None;
    for (output, reads) in outputs {
        let input = reads.first().map_or(0, |r| r.1);
        let taps: Vec<Tap> = reads.iter().map(|&(slot, i)| Tap { slot, distance: i - input }).collect();
        if let Some(s) = &mut open {
            let output_step = output - (s.output + (s.count - 1) * s.output_step);
            // the inputs of equal taps are evenly spaced by construction; checked, since everything relies on it
            let input_step = input.wrapping_sub(s.input + (s.count - 1) * s.input_step);
            if taps == s.taps && (s.count == 1 || (input_step, output_step) == (s.input_step, s.output_step))
            {
                (s.input_step, s.output_step) = (input_step, output_step);
                s.count += 1;
                continue;
            }
        }
        stretches.extend(open.take());
        open = Some(Stretch { output, output_step: 1, count: 1, input, input_step: 0, taps });
    }
    stretches.extend(open);
}

/// One direction of a convolution: its sizes and its axes.
pub(super) struct Geometry {
    /// Input pixels, [height, width].
    pub input: [usize; 2],
    /// Output pixels, [height, width].
    pub output: [usize; 2],
    /// [input, output] channels of all groups.
    pub channels: [usize; 2],
    pub groups: usize,
    /// [height, width].
    pub axes: [Axis; 2],
    /// With bfloat16, inputs and weights are stored in pairs, and "input" means a pair here; an odd number of
    /// channels of a group is padded with a zero.
    pub precision: Precision,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: usize, stride: usize, dilation: usize, pads: [usize; 2]) -> Window {
        Window {
            kernel: [kernel; 2],
            stride: [stride; 2],
            dilation: [dilation; 2],
            pads: [pads[0], pads[0], pads[1], pads[1]],
        }
    }

    /// (output, kernel index, input), sorted.
    fn expand(axis: &Axis) -> Vec<(usize, usize, usize)> {
        let mut all = Vec::new();
        for s in &axis.stretches {
            for j in 0..s.count {
                for t in &s.taps {
                    let input = s.input + j * s.input_step + t.distance;
                    all.push((s.output + j * s.output_step, axis.slots[t.slot], input));
                }
            }
        }
        all.sort_unstable();
        all
    }

    #[test]
    fn forward_and_gradient_hold_the_same_pairs() {
        for (kernel, stride, dilation) in
            [(3, 1, 1), (3, 2, 1), (1, 2, 1), (5, 3, 2), (2, 4, 1), (7, 2, 3), (4, 3, 3)]
        {
            for pads in [[0, 0], [1, 1], [0, 3], [4, 1], [9, 9]] {
                for input in 1..20 {
                    let w = window(kernel, stride, dilation, pads);
                    let Some([output, _]) = w.output([input; 2], false) else { continue };
                    let forward = Axis::forward(&w, 0, input, output);
                    let gradient = Axis::gradient(&w, 0, input, output);
                    let mut truth = Vec::new();
                    for o in 0..output {
                        for k in 0..kernel {
                            let i = (o * stride + k * dilation) as isize - pads[0] as isize;
                            if (0..input as isize).contains(&i) {
                                truth.push((o, k, i as usize));
                            }
                        }
                    }
                    truth.sort_unstable();
                    assert_eq!(expand(&forward), truth);
                    let mut back: Vec<_> = expand(&gradient).iter().map(|&(i, k, o)| (o, k, i)).collect();
                    back.sort_unstable();
                    assert_eq!(back, truth, "{w:?} {input}");
                    // each output is in exactly one stretch
                    for (axis, size) in [(&forward, output), (&gradient, input)] {
                        let mut seen: Vec<_> = axis
                            .stretches
                            .iter()
                            .flat_map(|s| (0..s.count).map(|j| s.output + j * s.output_step))
                            .collect();
                        seen.sort_unstable();
                        assert_eq!(seen, (0..size).collect::<Vec<_>>());
                        for s in &axis.stretches {
                            assert!(s.taps.windows(2).all(|t| t[0].slot < t[1].slot));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn padding_makes_three_stretches() {
        let a = Axis::forward(&window(3, 1, 1, [1, 1]), 0, 8, 8);
        assert_eq!(
            a.stretches.iter().map(|s| (s.count, s.taps.len())).collect::<Vec<_>>(),
            [(1, 2), (6, 3), (1, 2)]
        );
    }
}
