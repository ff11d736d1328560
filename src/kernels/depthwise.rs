//! Convolution in which every output channel reads one input channel, and its input gradient: vectorised over channels,
//! a row of pixels at a time. With a channel multiplier m, output channels c m .. c m + m read input channel c.

use std::ops::Range;

use rayon::prelude::*;

use super::buffers;
use super::cpu::Isa;
use super::cpu::finish::Finish;
use super::cpu::micro;
use super::cpu::simd::{Portable, Simd};
use super::plan::{Axis, Stretch};

/// Output floats of a task, about.
const TASK: usize = 16 * 1024;

/// One tap: where it reads and its weights, in floats.
type Tap = (usize, usize);

/// A frozen depthwise product ready to run.
pub(super) struct Depthwise {
    isa: Isa,
    input: [usize; 2],
    output: [usize; 2],
    /// Channels computed: groups times multiplier.
    channels: usize,
    multiplier: usize,
    /// Input channels are repeated on the way in (forward), or summed on the way out (gradient).
    forward: bool,
    rows: Vec<Stretch>,
    columns: Vec<Stretch>,
    /// For each pair of stretches.
    taps: Vec<Vec<Tap>>,
    /// (tap, channel).
    weights: Vec<f32>,
    bias: Vec<f32>,
    /// (row stretch, some of its rows).
    tasks: Vec<(usize, Range<usize>)>,
}

impl Depthwise {
    /// `weight` gives the weight of an output channel at a pair of slots.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        input: [usize; 2],
        output: [usize; 2],
        groups: usize,
        multiplier: usize,
        axes: [Axis; 2],
        forward: bool,
        weight: &dyn Fn(usize, [usize; 2]) -> f32,
        bias: Option<&[f32]>,
    ) -> Self {
        let channels = groups * multiplier;
        let kernel = [axes[0].slots.len(), axes[1].slots.len()];
        let mut weights = Vec::with_capacity(kernel[0] * kernel[1] * channels);
        for h in 0..kernel[0] {
            for w in 0..kernel[1] {
                weights.extend((0..channels).map(|o| weight(o, [h, w])));
            }
        }
        let [rows, columns] = axes.map(|a| a.stretches);
        let mut taps = Vec::new();
        for r in &rows {
            for c in &columns {
                let at = |h: &super::plan::Tap, w: &super::plan::Tap| {
                    let x = (h.distance * input[1] + w.distance) * channels;
                    (x, (h.slot * kernel[1] + w.slot) * channels)
                };
                taps.push(r.taps.iter().flat_map(|h| c.taps.iter().map(move |w| at(h, w))).collect());
            }
        }
        let some = TASK.div_ceil(output[1] * channels);
        let mut tasks = Vec::new();
        for (s, stretch) in rows.iter().enumerate() {
            tasks.extend((0..stretch.count).step_by(some).map(|r| (s, r..(r + some).min(stretch.count))));
        }
        let bias = bias.map_or_else(|| vec![0.0; channels], <[f32]>::to_vec);
        Self {
            isa: Isa::get(),
            input,
            output,
            channels,
            multiplier,
            forward,
            rows,
            columns,
            taps,
            weights,
            bias,
            tasks,
        }
    }

    /// Masks can be made and read on the way.
    pub fn masks(&self) -> bool {
        self.multiplier == 1 && self.channels.is_multiple_of(8) && self.channels >= micro::lanes(self.isa)
    }

    /// `x`: `n` images in; `to`: where they go.
    ///
    /// # Safety
    /// What `to` points to is good for `n` images, and nobody else touches what is written meanwhile. Where a
    /// multiplier sums on the way out, `to` has nothing but `y`.
    pub unsafe fn run(&self, x: &[f32], n: usize, to: &Finish) {
        let [pixels_in, pixels_out] = [self.input, self.output].map(|s| s[0] * s[1]);
        let (m, wide) = (self.multiplier, self.channels);
        let narrow = wide / m;
        assert_eq!(x.len(), n * pixels_in * if self.forward { narrow } else { wide });
        assert!(!to.masked() || self.masks());
        if m == 1 {
            // SAFETY: the caller's promise.
            return unsafe { self.wide(x, n, to) };
        }
        if self.forward {
            let mut copy = buffers::take(n * pixels_in * wide);
            copy.par_chunks_mut(wide).zip(x.par_chunks(narrow)).for_each(|(to, from)| {
                to.chunks_exact_mut(m).zip(from).for_each(|(to, &v)| to.fill(v));
            });
            // SAFETY: the caller's promise.
            unsafe { self.wide(&copy, n, to) };
            buffers::give(copy);
        } else {
            let mut sums = buffers::take(n * pixels_out * wide);
            // SAFETY: the sums are ours.
            unsafe { self.wide(x, n, &Finish { y: sums.as_mut_ptr(), ..Finish::default() }) };
            // SAFETY: the caller's promise.
            let y = unsafe { std::slice::from_raw_parts_mut(to.y, n * pixels_out * narrow) };
            y.par_chunks_mut(narrow).zip(sums.par_chunks(wide)).for_each(|(to, from)| {
                to.iter_mut().zip(from.chunks_exact(m)).for_each(|(to, v)| *to = v.iter().sum());
            });
            buffers::give(sums);
        }
    }

    /// As many channels in as out.
    ///
    /// # Safety
    /// As [`Self::run`].
    unsafe fn wide(&self, x: &[f32], n: usize, finish: &Finish) {
        let [pixels_in, pixels_out] = [self.input, self.output].map(|s| s[0] * s[1]);
        let c = self.channels;
        let mask_row = (pixels_out * c).div_ceil(64) * 8;
        let line: unsafe fn(&Line) = match self.isa {
            Isa::Portable => line_portable,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => line_avx2,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => line_avx512,
        };
        (0..n * self.tasks.len()).into_par_iter().for_each(|task| {
            let (image, (stretch, range)) = (task / self.tasks.len(), &self.tasks[task % self.tasks.len()]);
            let rows = &self.rows[*stretch];
            for i in range.clone() {
                let (ih, oh) = (rows.input + i * rows.input_step, rows.output + i * rows.output_step);
                for (j, columns) in self.columns.iter().enumerate() {
                    let from = image * pixels_in + ih * self.input[1] + columns.input;
                    let pixel = oh * self.output[1] + columns.output;
                    // SAFETY: the instruction set was detected. The stretches' pixels lie inside the image for every
                    // tap (`plan` tests hold that), the input's length was asserted by `run`, whose caller promises
                    // the rest, and the rows of different tasks are different elements and mask bytes.
                    unsafe {
                        line(&Line {
                            x: x[from * c..].as_ptr(),
                            x_step: columns.input_step * c,
                            finish,
                            y: (image * pixels_out + pixel) * c,
                            y_step: columns.output_step * c,
                            mask: image * mask_row + pixel * c / 8,
                            pixels: columns.count,
                            channels: c,
                            taps: &self.taps[stretch * self.columns.len() + j],
                            weights: self.weights.as_ptr(),
                            bias: self.bias.as_ptr(),
                        });
                    }
                }
            }
        });
    }
}

/// Evenly spaced pixels that read the same taps.
struct Line<'a> {
    x: *const f32,
    x_step: usize,
    finish: &'a Finish,
    /// The first pixel's place, and the distance to the next.
    y: usize,
    y_step: usize,
    /// The first pixel's mask, in bytes.
    mask: usize,
    pixels: usize,
    channels: usize,
    taps: &'a [Tap],
    weights: *const f32,
    bias: *const f32,
}

/// All pixels and channels of a line.
///
/// # Safety
/// The processor has the instruction set; every tap of every pixel is good for reading `channels` floats, the output
/// (and the residual) for writing (reading) them, and nobody else touches the output meanwhile.
#[inline(always)]
unsafe fn line<S: Simd>(l: &Line) {
    // SAFETY: the caller's promise; channels beyond the last whole vector are covered by one that ends with them, which
    // computes some of the same values again.
    unsafe {
        let lanes = S::LANES;
        let mut c = 0;
        if l.channels < lanes {
            for p in 0..l.pixels {
                for c in 0..l.channels {
                    scalar(l, p, c);
                }
            }
            return;
        }
        while c + 2 * lanes <= l.channels {
            pixels::<S, 2>(l, c);
            c += 2 * lanes;
        }
        while c + lanes <= l.channels {
            pixels::<S, 1>(l, c);
            c += lanes;
        }
        if c < l.channels {
            pixels::<S, 1>(l, l.channels - lanes);
        }
    }
}

/// All pixels of a line, `NV` vectors of channels from `c` on.
///
/// # Safety
/// As [`line`].
#[inline(always)]
unsafe fn pixels<S: Simd, const NV: usize>(l: &Line, c: usize) {
    // SAFETY: as `line`.
    unsafe {
        let mut p = 0;
        while p + 6 <= l.pixels {
            tile::<S, 6, NV>(l, p, c);
            p += 6;
        }
        while p + 2 <= l.pixels {
            tile::<S, 2, NV>(l, p, c);
            p += 2;
        }
        if p < l.pixels {
            tile::<S, 1, NV>(l, p, c);
        }
    }
}

/// `MR` pixels from `p` on, `NV` vectors of channels from `c` on.
///
/// # Safety
/// As [`line`].
#[inline(always)]
unsafe fn tile<S: Simd, const MR: usize, const NV: usize>(l: &Line, p: usize, c: usize) {
    // SAFETY: as `line`.
    unsafe {
        let mut acc = [[S::splat(0.0); NV]; MR];
        for v in 0..NV {
            let b = S::load(l.bias.add(c + v * S::LANES));
            for row in &mut acc {
                row[v] = b;
            }
        }
        let from = l.x.add(p * l.x_step + c);
        for &(x, w) in l.taps {
            let (x, w) = (from.add(x), l.weights.add(w + c));
            for v in 0..NV {
                let b = S::load(w.add(v * S::LANES));
                for (r, row) in acc.iter_mut().enumerate() {
                    row[v] = S::mul_add(S::load(x.add(r * l.x_step + v * S::LANES)), b, row[v]);
                }
            }
        }
        for (r, row) in acc.iter().enumerate() {
            for (v, a) in row.iter().enumerate() {
                let (to, channel) = ((p + r) * l.y_step, c + v * S::LANES);
                l.finish.store::<S>(l.y + to + channel, channel, l.mask + (to + channel) / 8, *a);
            }
        }
    }
}

/// One channel of one pixel.
///
/// # Safety
/// As [`line`].
unsafe fn scalar(l: &Line, p: usize, c: usize) {
    // SAFETY: as `line`.
    unsafe {
        let mut a = *l.bias.add(c);
        for &(x, w) in l.taps {
            a += *l.x.add(p * l.x_step + x + c) * *l.weights.add(w + c);
        }
        l.finish.store_part(l.y + p * l.y_step + c, c, 0, &[a]);
    }
}

macro_rules! compiled {
    ($name:ident, $simd:ty $(, $feature:literal)?) => {
        /// # Safety
        /// As [`line`].
        $(#[target_feature(enable = $feature)])?
        unsafe fn $name(l: &Line) {
            // SAFETY: the caller's promise.
            unsafe { line::<$simd>(l) }
        }
    };
}

compiled!(line_portable, Portable);
#[cfg(target_arch = "x86_64")]
compiled!(line_avx2, super::cpu::simd::Avx2, "avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(line_avx512, super::cpu::simd::Avx512, "avx512f,avx512dq,avx2,fma");
