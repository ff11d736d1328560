//! The innermost loop of the depthwise convolution: a tile of some pixels by one or two vectors of channels.

use std::ops::Range;

use super::super::plan::Stretch;
use super::Isa;
use super::finish::Finish;
use super::simd::{Portable, Simd, prefetch};

/// Pixels of a tile.
pub const TILE: usize = 4;

/// One tap: where it reads and its weights, in floats.
pub type Tap = (usize, usize);

/// Some rows and channels of some images.
pub struct Part<'a> {
    /// The first image, and the distances to the next image's and to the next row.
    pub x: *const f32,
    pub x_image: usize,
    pub x_row: usize,
    pub finish: &'a Finish,
    /// The first image in `Finish::y`, and the same distances.
    pub y: usize,
    pub y_image: usize,
    pub y_row: usize,
    /// The first image's mask, in bytes, and the distance to the next.
    pub mask: usize,
    pub mask_image: usize,
    pub images: usize,
    /// A tile is a pixel of all images, not neighbours in a row.
    pub together: bool,
    /// (stretch, some of its rows).
    pub rows: &'a [(usize, Range<usize>)],
    /// Rows and columns.
    pub stretches: (&'a [Stretch], &'a [Stretch]),
    /// For each pair of stretches.
    pub taps: &'a [Vec<Tap>],
    /// All channels: what a pixel is apart from the next.
    pub channels: usize,
    /// Those to compute.
    pub range: Range<usize>,
    /// (tap, channel).
    pub weights: *const f32,
    pub bias: *const f32,
}

/// Pixels that read the same taps, evenly spaced in x and y: neighbours in a row, or the same pixel of several images.
struct Run<'a> {
    x: *const f32,
    x_step: usize,
    y: usize,
    y_step: usize,
    mask: usize,
    mask_step: usize,
    count: usize,
    taps: &'a [Tap],
}

/// # Safety
/// The processor has the instruction set; every tap of every pixel of every image is good for reading `channels` floats,
/// what is finished for as many, and nobody else touches that meanwhile but to write the same values.
#[inline(always)]
unsafe fn part<S: Simd>(p: &Part) {
    // SAFETY: the caller's promise; channels beyond the last whole vector are covered by one that ends with them, which
    // computes some of the same values again.
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
            // channels outermost: what a few rows of all images hold of a block of them stays in the first-level cache
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

/// Where sums go, and whether they are stored as they are.
struct To<'a> {
    finish: &'a Finish,
    plain: bool,
}

/// One row of output pixels.
struct Row<'a> {
    stretch: &'a Stretch,
    taps: &'a [Vec<Tap>],
    /// In the image: what the taps count from, and where it goes.
    x: usize,
    y: usize,
    /// Its input row.
    input: usize,
}

impl<'a> Part<'a> {
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

    /// Blocks of two vectors of channels (true), then of one.
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

    /// The pixels of a row as runs.
    #[inline(always)]
    fn each_run(&self, row: &Row<'a>, mut f: impl FnMut(&Run)) {
        let c = self.channels;
        for (columns, taps) in self.stretches.1.iter().zip(row.taps) {
            let x = self.x.wrapping_add(row.x + columns.input * c);
            let y = row.y + columns.output * c;
            if self.together {
                for j in 0..columns.count {
                    let y = y + j * columns.output_step * c;
                    f(&Run {
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
                    f(&Run {
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

    /// Inputs of an image that the next row of outputs reads and this one does not.
    #[inline(always)]
    fn ahead(&self, row: &Row) -> Range<usize> {
        let seen = row.input + row.stretch.taps.last().map_or(0, |t| t.distance) + 1;
        seen * self.x_row..((seen + row.stretch.input_step) * self.x_row).min(self.x_image)
    }

    /// Asks for what lies ahead of the channels from `c` on: too far apart for the processor to foresee.
    #[inline(always)]
    fn fetch(&self, row: &Row, c: usize) {
        for image in 0..self.images {
            for at in self.ahead(row).step_by(self.channels) {
                prefetch(self.x.wrapping_add(image * self.x_image + at + c));
            }
        }
    }

    /// Asks for what lies ahead of all channels.
    #[inline(always)]
    fn fetch_all(&self, row: &Row) {
        for image in 0..self.images {
            for at in self.ahead(row).step_by(16) {
                prefetch(self.x.wrapping_add(image * self.x_image + at));
            }
        }
    }
}

/// `NV` vectors of channels from `c` on of a row.
///
/// # Safety
/// As [`part`].
#[inline(always)]
unsafe fn block<S: Simd, const NV: usize>(p: &Part, row: &Row, c: usize, to: &To) {
    p.each_run(
        row,
        #[inline(always)]
        |run| {
            // SAFETY: as `part`.
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
    p: &Part,
    run: &Run,
    first: usize,
    c: usize,
    to: &To,
) {
    // SAFETY: as `part`.
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
unsafe fn scalar(p: &Part, run: &Run, at: usize, c: usize) {
    // SAFETY: as `part`.
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
        unsafe fn $name(p: &Part) {
            // SAFETY: the caller's promise.
            unsafe { part::<$simd>(p) }
        }
    };
}

compiled!(portable, Portable);
#[cfg(target_arch = "x86_64")]
compiled!(avx2, super::simd::Avx2, "avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(avx512, super::simd::Avx512, "avx512f,avx512dq,avx2,fma");

/// The loop for an instruction set.
pub fn kernel(isa: Isa) -> unsafe fn(&Part) {
    match isa {
        Isa::Portable => portable,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512,
    }
}
