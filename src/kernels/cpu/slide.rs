//! The innermost loop of the depthwise convolution for square kernels as networks have them: a row of an image is gone
//! along once, and what is loaded serves every output that reads it.

use std::ops::Range;

use super::Isa;
use super::finish::Finish;
use super::simd::{Portable, Simd, prefetch};

/// How outputs of a tile and its inputs belong together: which tap serves output `r` from input `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Tap `d - r * stride`.
    Forward { stride: usize },
    /// Tap `r + most - stride * d`: the input gradient, `most` being the tap between the first of both.
    Backward { stride: usize, most: usize },
}

/// A tile of a row: `Shape::tile` neighbouring outputs.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its first output.
    pub output: usize,
    /// What input 0 of the tile is in the row: left of it where padding is read.
    pub input: isize,
    /// The tile's inputs that lie inside the row.
    pub inside: [usize; 2],
}

/// A row of outputs.
#[derive(Clone, Debug)]
pub struct Row {
    pub output: usize,
    /// (input row, its weights' place).
    pub taps: Vec<(usize, usize)>,
}

/// Some rows of an image.
pub struct Part<'a> {
    pub x: *const f32,
    pub x_row: usize,
    pub finish: &'a Finish,
    /// The image in `Finish::y`, in floats, and its mask, in bytes.
    pub y: usize,
    pub y_row: usize,
    pub mask: usize,
    pub rows: &'a [Row],
    pub columns: &'a [Column],
    pub channels: usize,
    /// (row tap, column tap, channel).
    pub weights: *const f32,
    pub bias: *const f32,
}

/// Inputs that a tile reads, from its first to its last.
pub const fn reach(tile: usize, taps: usize, relation: Relation) -> usize {
    match relation {
        Relation::Forward { stride } => (tile - 1) * stride + taps,
        Relation::Backward { stride, most } => (tile - 1 + most) / stride + 1,
    }
}

/// The tap for output `r` and input `d`; none where it is not below the number of taps.
#[inline(always)]
const fn tap(r: usize, d: usize, relation: Relation) -> usize {
    match relation {
        Relation::Forward { stride } => d.wrapping_sub(r * stride),
        Relation::Backward { stride, most } => (r + most).wrapping_sub(stride * d),
    }
}

/// `MR` outputs by `KW` taps, in a relation.
trait Shape<const MR: usize, const KW: usize> {
    const RELATION: Relation;
}
struct Forward<const STRIDE: usize>;
struct Backward<const STRIDE: usize, const MOST: usize>;
impl<const MR: usize, const KW: usize, const STRIDE: usize> Shape<MR, KW> for Forward<STRIDE> {
    const RELATION: Relation = Relation::Forward { stride: STRIDE };
}
impl<const MR: usize, const KW: usize, const STRIDE: usize, const MOST: usize> Shape<MR, KW>
    for Backward<STRIDE, MOST>
{
    const RELATION: Relation = Relation::Backward { stride: STRIDE, most: MOST };
}

/// # Safety
/// The processor has the instruction set; there are at least a vector's channels; rows, columns and taps lie inside the
/// image, what is finished is good for the rows, and nobody else touches that meanwhile.
#[inline(always)]
unsafe fn part<S: Simd, R: Shape<MR, KW>, const MR: usize, const KW: usize>(p: &Part) {
    // SAFETY: the caller's promise; channels beyond the last whole vector are covered by one that ends with them, which
    // computes some of the same values again.
    unsafe {
        let finish = *p.finish;
        let to = To { finish: &finish, plain: finish.plain() };
        // a row and the rows it reads stay in the first-level cache, and memory is gone through in order
        for (i, row) in p.rows.iter().enumerate() {
            let newest = |row: &Row| row.taps.last().map_or(0, |t| t.0);
            // what the next row reads besides
            let ahead = newest(row) + 1..p.rows.get(i + 1).map_or(0, newest) + 1;
            // one vector at a time: with two, sums and weights no longer fit the registers
            for c in (0..p.channels).step_by(S::LANES) {
                across::<S, R, MR, KW>(p, row, ahead.clone(), c.min(p.channels - S::LANES), &to);
            }
        }
    }
}

/// Where sums go, and whether they are stored as they are.
struct To<'a> {
    finish: &'a Finish,
    plain: bool,
}

/// A row, a vector of channels from `c` on; `ahead` are the input rows that will be read next.
///
/// # Safety
/// As [`part`].
#[inline(always)]
unsafe fn across<S: Simd, R: Shape<MR, KW>, const MR: usize, const KW: usize>(
    p: &Part,
    row: &Row,
    ahead: Range<usize>,
    c: usize,
    to: &To,
) {
    // asked for in time: pieces too far apart for the processor to foresee
    for input in ahead {
        let from = input * p.x_row + c;
        for at in (from..from + p.x_row).step_by(p.channels) {
            prefetch(p.x.wrapping_add(at));
        }
    }
    for column in p.columns {
        // SAFETY: as `part`.
        unsafe { tile::<S, R, MR, KW>(p, row, column, c, to) };
    }
}

/// A tile of a row.
///
/// # Safety
/// As [`part`].
#[inline(always)]
unsafe fn tile<S: Simd, R: Shape<MR, KW>, const MR: usize, const KW: usize>(
    p: &Part,
    row: &Row,
    column: &Column,
    c: usize,
    to: &To,
) {
    // SAFETY: as `part`.
    unsafe {
        let mut acc = [S::load(p.bias.add(c)); MR];
        let [first, last] = column.inside;
        for &(input, weights) in &row.taps {
            let mut w = [S::splat(0.0); KW];
            for (k, w) in w.iter_mut().enumerate() {
                *w = S::load(p.weights.add(weights + k * p.channels + c));
            }
            // the tile's input 0 may lie before the image: only computed with, not read
            let from = p.x.wrapping_add(input * p.x_row + c);
            let from = from.wrapping_offset(column.input * p.channels as isize);
            // written out: which outputs an input serves by which taps is then known when this is compiled
            macro_rules! inputs {
                ($($d:literal)*) => {$(
                    if $d < const { reach(MR, KW, R::RELATION) } && first <= $d && $d < last {
                        let x = S::load(from.wrapping_add($d * p.channels));
                        for (r, a) in acc.iter_mut().enumerate() {
                            let k = tap(r, $d, R::RELATION);
                            if k < KW {
                                *a = S::mul_add(x, w[k], *a);
                            }
                        }
                    }
                )*};
            }
            inputs!(0 1 2 3 4 5 6 7 8 9 10 11);
        }
        let y = row.output * p.y_row + column.output * p.channels + c;
        for (r, a) in acc.iter().enumerate() {
            let at = y + r * p.channels;
            if to.plain {
                S::store(to.finish.y.add(p.y + at), *a);
            } else {
                to.finish.store::<S>(p.y + at, c, p.mask + at / 8, *a);
            }
        }
    }
}

/// The loop for an instruction set.
pub type Kernel = unsafe fn(&Part);

macro_rules! compiled {
    ($name:ident, $simd:ty $(, $feature:literal)?) => {
        /// # Safety
        /// As [`part`].
        $(#[target_feature(enable = $feature)])?
        unsafe fn $name<R: Shape<MR, KW>, const MR: usize, const KW: usize>(p: &Part) {
            // SAFETY: the caller's promise.
            unsafe { part::<$simd, R, MR, KW>(p) }
        }
    };
}

compiled!(portable, Portable);
#[cfg(target_arch = "x86_64")]
compiled!(avx2, super::simd::Avx2, "avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(avx512, super::simd::Avx512, "avx512f,avx512dq,avx2,fma");

fn compiled<R: Shape<MR, KW>, const MR: usize, const KW: usize>(isa: Isa) -> Kernel {
    match isa {
        Isa::Portable => portable::<R, MR, KW>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::<R, MR, KW>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::<R, MR, KW>,
    }
}

/// The loop for rows of `outputs` with `taps` taps, and how many outputs its tiles have; `None` where there is none.
/// Tiles of a backward relation begin at multiples of its stride.
pub fn kernel(isa: Isa, outputs: usize, taps: usize, relation: Relation) -> Option<(Kernel, usize)> {
    fn wide<const KW: usize>(isa: Isa, outputs: usize, relation: Relation) -> Option<(Kernel, usize)> {
        use Relation::{Backward as B, Forward as F};
        Some(match (relation, outputs) {
            (F { stride: 1 }, 8..) => (compiled::<Forward<1>, 8, KW>(isa), 8),
            (F { stride: 1 }, 4..) => (compiled::<Forward<1>, 4, KW>(isa), 4),
            (F { stride: 2 }, 4..) => (compiled::<Forward<2>, 4, KW>(isa), 4),
            (B { stride: 2, most: 1 }, 8..) if KW == 3 => (compiled::<Backward<2, 1>, 8, KW>(isa), 8),
            (B { stride: 2, most: 2 }, 8..) if KW == 3 => (compiled::<Backward<2, 2>, 8, KW>(isa), 8),
            (B { stride: 2, most: 3 }, 8..) if KW == 5 => (compiled::<Backward<2, 3>, 8, KW>(isa), 8),
            (B { stride: 2, most: 4 }, 8..) if KW == 5 => (compiled::<Backward<2, 4>, 8, KW>(isa), 8),
            _ => return None,
        })
    }
    match taps {
        3 => wide::<3>(isa, outputs, relation),
        5 => wide::<5>(isa, outputs, relation),
        _ => None,
    }
}
