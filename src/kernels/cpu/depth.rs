//! Inner loop of the depthwise convolution, tap by tap: a tile of some pixels by one or two vectors of channels.

use std::ops::Range;

use super::super::plan::Stretch;
use super::Isa;
use super::finish::Finish;
use super::simd::{Portable, Simd, prefetch};

/// Pixels per tile.
pub const TILE: usize = 4;

/// Offsets of a tap's input and of its weights, in floats.
pub type TapOffsets = (usize, usize);

/// Work item: some rows and channels of some images.
pub struct DepthTask<'a> {
    /// Base of the first image, and the strides to the next image and row.
    pub x: *const f32,
    pub x_image: usize,
    pub x_row: usize,
    pub finish: &'a Finish,
    /// Offset of the first image in `Finish::y`, and the strides as above.
    pub y: usize,
    pub y_image: usize,
    pub y_row: usize,
    /// Offset of the first image's mask in bytes, and the stride to the next.
    pub mask: usize,
    pub mask_image: usize,
    pub images: usize,
    /// A tile is the same pixel of several images rather than neighbours in a row.
    pub together: bool,
    /// (stretch, some of its rows).
    pub rows: &'a [(usize, Range<usize>)],
    /// Of rows and of columns.
    pub stretches: (&'a [Stretch], &'a [Stretch]),
    /// By pair of stretches.
    pub taps: &'a [Vec<TapOffsets>],
    /// Number of all channels: the stride between pixels.
    pub channels: usize,
    /// The channels to compute.
    pub range: Range<usize>,
    /// (tap, channel).
    pub weights: *const f32,
    pub bias: *const f32,
}

/// Evenly spaced pixels that read the same taps: neighbours in a row, or the same pixel of several images.
struct PixelRun<'a> {
    x: *const f32,
    x_step: usize,
    y: usize,
    y_step: usize,
    mask: usize,
    mask_step: usize,
    count: usize,
    taps: &'a [TapOffsets],
}

/// # Safety
/// The processor has the instruction set. Every tap of every pixel is valid for reading `channels` floats, every
/// output
/// for writing as many; concurrent calls write disjoint elements or the same values.
#[inline(always)]
unsafe fn part<S: Simd>(p: &DepthTask) {
    // SAFETY: upheld by the caller. Channels past the last whole vector are covered by a vector that ends with them
    // and recomputes some values.
    unsafe {
        let finish = *p.finish;
        let to = To { finish: &finish, plain: finish.plain() };
        if p.channels < S::LANES {
            p.each_row(|row| {
                p.each_run(&row, |run| {
                    for at in 0..run.count {
                        p.range.clone().for_each(|c| scalar(p, run, at, c));
                    }
                });
            });
        } else if p.together {
            // channels outermost, so that a block of channels of a few rows of all images stays in L1
            p.each_block(
                S::LANES,
                #[inline(always)]
                |c, two| {
                    p.each_row(
                        #[inline(always)]
                        |row| {
                            p.fetch(&row, c);
                            if two { block::<S, 2>(p, &row, c, &to) } else { block::<S, 1>(p, &row, c, &to) }
                        },
                    );
                },
            );
        } else {
            p.each_row(
                #[inline(always)]
                |row| {
                    p.fetch_all(&row);
                    p.each_block(
                        S::LANES,
                        #[inline(always)]
                        |c, two| {
                            if two { block::<S, 2>(p, &row, c, &to) } else { block::<S, 1>(p, &row, c, &to) }
                        },
                    );
                },
            );
        }
    }
}

/// Destination of the sums, and whether they are stored unchanged.
struct To<'a> {
    finish: &'a Finish,
    plain: bool,
}

/// A row of output pixels.
struct Row<'a> {
    stretch: &'a Stretch,
    taps: &'a [Vec<TapOffsets>],
    /// Offsets in the image: the base of the taps, and the output.
    x: usize,
    y: usize,
    /// Input row.
    input: usize,
}

impl<'a> DepthTask<'a> {
    #[inline(always)]
    fn each_row(&self, mut f: impl FnMut(Row<'a>)) {
        let (rows, columns) = self.stretches;
        for (s, range) in self.rows {
            let stretch = &rows[*s];
            for i in range.clone() {
                let input = stretch.input + i * stretch.input_step;
                let y = (stretch.output + i * stretch.output_step) * self.y_row;
                let taps = &self.taps[s * columns.len()..][..columns.len()];
                f(Row { stretch, taps, x: input * self.x_row, y, input });
            }
        }
    }

    /// Calls `f` for blocks of two vectors of channels (true), then of one (false).
    #[inline(always)]
    fn each_block(&self, lanes: usize, mut f: impl FnMut(usize, bool)) {
        let mut c = self.range.start;
        while c + 2 * lanes <= self.range.end {
            f(c, true);
            c += 2 * lanes;
        }
        while c < self.range.end {
            f(c.min(self.channels - lanes), false);
            c += lanes;
        }
    }

    /// Splits a row's pixels into runs.
    #[inline(always)]
    fn each_run(&self, row: &Row<'a>, mut f: impl FnMut(&PixelRun)) {
        let c = self.channels;
        for (columns, taps) in self.stretches.1.iter().zip(row.taps) {
            let x = self.x.wrapping_add(row.x + columns.input * c);
            let y = row.y + columns.output * c;
            if self.together {
                for j in 0..columns.count {
                    let y = y + j * columns.output_step * c;
                    f(&PixelRun {
                        x: x.wrapping_add(j * columns.input_step * c),
                        x_step: self.x_image,
                        y: self.y + y,
                        y_step: self.y_image,
                        mask: self.mask + y / 8,
                        mask_step: self.mask_image,
                        count: self.images,
                        taps,
                    });
                }
            } else {
                for image in 0..self.images {
                    f(&PixelRun {
                        x: x.wrapping_add(image * self.x_image),
                        x_step: columns.input_step * c,
                        y: self.y + image * self.y_image + y,
                        y_step: columns.output_step * c,
                        mask: self.mask + image * self.mask_image + y / 8,
                        mask_step: columns.output_step * c / 8,
                        count: columns.count,
                        taps,
                    });
                }
            }
        }
    }

    /// Input rows of an image that the next row of outputs reads and this one does not.
    #[inline(always)]
    fn ahead(&self, row: &Row) -> Range<usize> {
        let seen = row.input + row.stretch.taps.last().map_or(0, |t| t.distance) + 1;
        seen * self.x_row..((seen + row.stretch.input_step) * self.x_row).min(self.x_image)
    }

    /// Prefetches the next input from channel `c` on: too scattered for the hardware prefetcher.
    #[inline(always)]
    fn fetch(&self, row: &Row, c: usize) {
        for image in 0..self.images {
            for at in self.ahead(row).step_by(self.channels) {
                prefetch(self.x.wrapping_add(image * self.x_image + at + c));
            }
        }
    }

    /// Prefetches the next input of all channels.
    #[inline(always)]
    fn fetch_all(&self, row: &Row) {
        for image in 0..self.images {
            for at in self.ahead(row).step_by(16) {
                prefetch(self.x.wrapping_add(image * self.x_image + at));
            }
        }
    }
}

/// `NV` vectors of channels from `c` on, for a row.
///
/// # Safety
/// As [`part`].
#[inline(always)]
unsafe fn block<S: Simd, const NV: usize>(p: &DepthTask, row: &Row, c: usize, to: &To) {
    p.each_run(
        row,
        #[inline(always)]
        |run| {
            // SAFETY: as for `part`.
            unsafe {
                let mut at = 0;
                while at + TILE <= run.count {
                    tile::<S, TILE, NV>(p, run, at, c, to);
                    at += TILE;
                }
                while at + 2 <= run.count {
                    tile::<S, 2, NV>(p, run, at, c, to);
                    at += 2;
                }
                if at < run.count {
                    tile::<S, 1, NV>(p, run, at, c, to);
                }
            }
        },
    );
}

/// `MR` pixels of a run from `first` on, `NV` vectors of channels from `c` on.
///
/// # Safety
/// As [`part`].
#[inline(always)]
unsafe fn tile<S: Simd, const MR: usize, const NV: usize>(
    p: &DepthTask,
    run: &PixelRun,
    first: usize,
    c: usize,
    to: &To,
) {
    // SAFETY: as for `part`.
    unsafe {
        let mut acc = [[S::splat(0.0); NV]; MR];
        for v in 0..NV {
            let b = S::load(p.bias.add(c + v * S::LANES));
            for row in &mut acc {
                row[v] = b;
            }
        }
        let from = run.x.add(first * run.x_step + c);
        for &(x, w) in run.taps {
            let (x, w) = (from.add(x), p.weights.add(w + c));
            for v in 0..NV {
                let b = S::load(w.add(v * S::LANES));
                for (r, row) in acc.iter_mut().enumerate() {
                    row[v] = S::mul_add(S::load(x.add(r * run.x_step + v * S::LANES)), b, row[v]);
                }
            }
        }
        for (r, row) in acc.iter().enumerate() {
            for (v, a) in row.iter().enumerate() {
                let channel = c + v * S::LANES;
                let at = run.y + (first + r) * run.y_step + channel;
                if to.plain {
                    S::store(to.finish.y.add(at), *a);
                } else {
                    to.finish.store::<S>(
                        at,
                        channel,
                        run.mask + (first + r) * run.mask_step + channel / 8,
                        *a,
                    );
                }
            }
        }
    }
}

/// One channel of one pixel.
///
/// # Safety
/// As [`part`].
unsafe fn scalar(p: &DepthTask, run: &PixelRun, at: usize, c: usize) {
    // SAFETY: as for `part`.
    unsafe {
        let mut a = *p.bias.add(c);
        for &(x, w) in run.taps {
            a += *run.x.add(at * run.x_step + x + c) * *p.weights.add(w + c);
        }
        p.finish.store_part(run.y + at * run.y_step + c, c, 0, &[a]);
    }
}

macro_rules! compiled {
    ($name:ident, $simd:ty $(, $feature:literal)?) => {
        /// # Safety
        /// As [`part`].
        $(#[target_feature(enable = $feature)])?
        unsafe fn $name(p: &DepthTask) {
            // SAFETY: upheld by the caller.
            unsafe { part::<$simd>(p) }
        }
    };
}

compiled!(portable, Portable);
#[cfg(target_arch = "x86_64")]
compiled!(avx2, super::simd::Avx2, "avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(avx512, super::simd::Avx512, "avx512f,avx512dq,avx2,fma");

/// The loop compiled for an instruction set.
pub fn kernel(isa: Isa) -> unsafe fn(&DepthTask) {
    match isa {
        Isa::Portable => portable,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512,
    }
}
