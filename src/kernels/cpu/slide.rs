//! Inner loop of the depthwise convolution for common square kernels: slides along an image row once, and each loaded
//! input is used by every output that reads it.

use std::ops::Range;

use super::Isa;
use super::finish::Finish;
use super::simd::{Portable, Simd, prefetch};

/// Relation of a tile's outputs to its inputs: which tap connects output `r` and input `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Tap `d - r * stride`.
    Forward { stride: usize },
    /// Tap `r + most - stride * d`: the input gradient. `most` is the tap between the first output and the first
    /// input.
    Backward { stride: usize, most: usize },
}

/// A tile of a row: `TileShape::tile` neighbouring outputs.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its first output.
    pub output: usize,
    /// Column of the tile's input 0; negative in the padding.
    pub input: isize,
    /// Range of the tile's inputs inside the row.
    pub inside: [usize; 2],
}

/// A row of outputs.
#[derive(Clone, Debug)]
pub struct Row {
    pub output: usize,
    /// (input row, offset of its weights).
    pub taps: Vec<(usize, usize)>,
}

/// Work item: some rows of an image.
pub struct SlideTask<'a> {
    pub x: *const f32,
    pub x_row: usize,
    pub finish: &'a Finish,
    /// Offsets of the image in `Finish::y`, in floats, and of its mask, in bytes.
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

/// Number of inputs that a tile reads, from its first to its last.
pub const fn reach(tile: usize, taps: usize, relation: Relation) -> usize {
    match relation {
        Relation::Forward { stride } => (tile - 1) * stride + taps,
        Relation::Backward { stride, most } => (tile - 1 + most) / stride + 1,
    }
}

/// The tap between output `r` and input `d`; there is none if the result is not below the number of taps.
#[inline(always)]
const fn tap(r: usize, d: usize, relation: Relation) -> usize {
    match relation {
        Relation::Forward { stride } => d.wrapping_sub(r * stride),
        Relation::Backward { stride, most } => (r + most).wrapping_sub(stride * d),
    }
}

/// A relation for `MR` outputs by `KW` taps.
trait TileShape<const MR: usize, const KW: usize> {
    const RELATION: Relation;
}
struct Forward<const STRIDE: usize>;
struct Backward<const STRIDE: usize, const MOST: usize>;
impl<const MR: usize, const KW: usize, const STRIDE: usize> TileShape<MR, KW> for Forward<STRIDE> {
    const RELATION: Relation = Relation::Forward { stride: STRIDE };
}
impl<const MR: usize, const KW: usize, const STRIDE: usize, const MOST: usize> TileShape<MR, KW>
    for Backward<STRIDE, MOST>
{
    const RELATION: Relation = Relation::Backward { stride: STRIDE, most: MOST };
}

/// # Safety
/// The processor has the instruction set; there are at least a vector of channels; rows, columns and taps are inside
/// the
/// image; the outputs are valid for the rows, and nothing else accesses them during the call.
#[inline(always)]
unsafe fn part<S: Simd, R: TileShape<MR, KW>, const MR: usize, const KW: usize>(p: &SlideTask) {
    // SAFETY: upheld by the caller. Channels past the last whole vector are covered by a vector that ends with them
    // and recomputes some values.
    unsafe {
        let finish = *p.finish;
        let to = To { finish: &finish, plain: finish.plain() };
        // a row and the rows it reads stay in L1, and memory is traversed in order
        for (i, row) in p.rows.iter().enumerate() {
            let newest = |row: &Row| row.taps.last().map_or(0, |t| t.0);
            // input rows that only the next row reads
            let ahead = newest(row) + 1..p.rows.get(i + 1).map_or(0, newest) + 1;
            // one vector at a time: with two, sums and weights do not fit the registers
            for c in (0..p.channels).step_by(S::LANES) {
                across::<S, R, MR, KW>(p, row, ahead.clone(), c.min(p.channels - S::LANES), &to);
            }
        }
    }
}

/// Destination of the sums, and whether they are stored unchanged.
struct To<'a> {
    finish: &'a Finish,
    plain: bool,
}

/// A row, for a vector of channels from `c` on; `ahead`: the input rows that will be read next.
///
/// # Safety
/// As [`part`].
#[inline(always)]
unsafe fn across<S: Simd, R: TileShape<MR, KW>, const MR: usize, const KW: usize>(
    p: &SlideTask,
    row: &Row,
    ahead: Range<usize>,
    c: usize,
    to: &To,
) {
    // prefetched, since the pieces are too scattered for the hardware prefetcher
    for input in ahead {
        let from = input * p.x_row + c;
        for at in (from..from + p.x_row).step_by(p.channels) {
            prefetch(p.x.wrapping_add(at));
        }
    }
    for column in p.columns {
        // SAFETY: as for `part`.
        unsafe { tile::<S, R, MR, KW>(p, row, column, c, to) };
    }
}

/// A tile of a row.
///
/// # Safety
/// As [`part`].
#[inline(always)]
unsafe fn tile<S: Simd, R: TileShape<MR, KW>, const MR: usize, const KW: usize>(
    p: &SlideTask,
    row: &Row,
    column: &Column,
    c: usize,
    to: &To,
) {
    // SAFETY: as for `part`.
    unsafe {
        let mut acc = [S::load(p.bias.add(c)); MR];
        let [first, last] = column.inside;
        for &(input, weights) in &row.taps {
            let mut w = [S::splat(0.0); KW];
            for (k, w) in w.iter_mut().enumerate() {
                *w = S::load(p.weights.add(weights + k * p.channels + c));
            }
            // the tile's input 0 may be before the image: the address is only computed, not read
            let from = p.x.wrapping_add(input * p.x_row + c);
            let from = from.wrapping_offset(column.input * p.channels as isize);
            // unrolled, so that the taps between inputs and outputs are known at compile time
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

/// The loop compiled for an instruction set.
pub type Kernel = unsafe fn(&SlideTask);

macro_rules! compiled {
    ($name:ident, $simd:ty $(, $feature:literal)?) => {
        /// # Safety
        /// As [`part`].
        $(#[target_feature(enable = $feature)])?
        unsafe fn $name<R: TileShape<MR, KW>, const MR: usize, const KW: usize>(p: &SlideTask) {
            // SAFETY: upheld by the caller.
            unsafe { part::<$simd, R, MR, KW>(p) }
        }
    };
}

compiled!(portable, Portable);
#[cfg(target_arch = "x86_64")]
compiled!(avx2, super::simd::Avx2, "avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(avx512, super::simd::Avx512, "avx512f,avx512dq,avx2,fma");

fn compiled<R: TileShape<MR, KW>, const MR: usize, const KW: usize>(isa: Isa) -> Kernel {
    match isa {
        Isa::Portable => portable::<R, MR, KW>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::<R, MR, KW>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::<R, MR, KW>,
    }
}

/// The loop for rows of `outputs` with `taps` taps, and its tiles' number of outputs; `None` if there is no such
/// loop. Tiles of a backward relation start at multiples of its stride.
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
