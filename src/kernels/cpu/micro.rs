//! Inner loop of every dense product: a tile of `MR` output pixels by `NV` vectors of output channels, held in
//! registers while it runs over segments of input channels.

use super::Isa;
use super::bf16::{Emulated, Single, Term};
use super::finish::Finish;
use super::simd::Simd;
use crate::kernels::Precision;

/// Contiguous inputs of a pixel, with their weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first input from the pixel's pointer, in floats.
    pub x: usize,
    /// Index of the first weight, in inputs from the start of the panel.
    pub w: usize,
    /// Number of inputs.
    pub len: usize,
}

/// `MR` pixels that read the same segments.
#[derive(Clone, Copy, Debug)]
pub struct Tile {
    /// Index in [`TileCall::segments`].
    pub region: usize,
    /// Number of pixels to store; the rest repeat one of them.
    pub valid: usize,
}

/// Tiles to compute, with one panel of output channels and one block of the sum.
pub struct TileCall<'a> {
    pub tiles: &'a [Tile],
    /// `MR` pointers per tile: the base of each pixel's segments.
    pub rows: *const *const f32,
    /// Added to every pointer: the group's first channel.
    pub x_offset: usize,
    /// By region: the segments to sum in this block.
    pub segments: &'a [Vec<Span>],
    /// The panel: `NV` vectors of weights per input.
    pub weights: *const f32,
    /// Inputs per output, over all blocks.
    pub sum: usize,
    /// Partial sums kept between blocks, `MR * NV` vectors per tile; unused if there is one block.
    pub partial: *mut f32,
    /// Whether this is the first block: start from the bias.
    pub first: bool,
    /// Whether this is the last block: apply the epilogue and store.
    pub last: bool,
    /// The epilogue.
    pub finish: &'a Finish,
    /// `MR` offsets per tile: each pixel's output in `Finish::y`, in floats.
    pub outputs: *const usize,
    /// `MR` offsets per tile: each pixel's masks, in bytes. Unused without masks.
    pub masks: *const usize,
    /// First output channel of the panel.
    pub channel: usize,
    /// Number of actual output channels of the panel.
    pub width: usize,
    /// Bias of the panel's channels, padded to whole vectors.
    pub bias: *const f32,
}

/// A compiled tile.
pub type Micro = unsafe fn(&TileCall);

/// Computes tiles.
///
/// # Safety
/// The processor has the instruction set. `rows`, `outputs` and (with masks) `masks` hold `MR` entries per tile.
/// Valid for
/// reads: every row, offset by `x_offset` and each segment of its region; `weights` for every segment; `bias` for
/// `NV`
/// vectors. `partial` holds `MR * NV` vectors per tile, unless the first block is the last. What the epilogue writes
/// is
/// valid for `width` channels of each valid pixel, and nothing else accesses it during the call.
#[inline(always)]
unsafe fn micro<S: Simd, T: Term<S>, const MR: usize, const NV: usize>(c: &TileCall) {
    // SAFETY: upheld by the caller.
    unsafe {
        let finish = *c.finish;
        let (plain, masked) = (finish.plain(), finish.masked());
        for (t, tile) in c.tiles.iter().enumerate() {
            let segments = c.segments.get_unchecked(tile.region);
            if segments.is_empty() && !c.first && !c.last {
                continue;
            }
            let partial = c.partial.wrapping_add(if c.first && c.last { 0 } else { t * MR * NV * S::LANES });
            let rows = c.rows.add(t * MR);
            let mut acc = if c.first { biased::<S, MR, NV>(c.bias) } else { loaded::<S, MR, NV>(partial) };
            for s in segments {
                let mut x = [c.weights; MR];
                for (r, p) in x.iter_mut().enumerate() {
                    *p = (*rows.add(r)).add(c.x_offset + s.x);
                }
                accumulate::<S, T, MR, NV>(&mut acc, &x, c.weights.add(s.w * NV * S::LANES), s.len);
            }
            if !c.last {
                for (r, row) in acc.iter().enumerate() {
                    for (v, a) in row.iter().enumerate() {
                        S::store(partial.add((r * NV + v) * S::LANES), *a);
                    }
                }
                continue;
            }
            for (r, row) in acc.iter().enumerate() {
                if r < tile.valid {
                    let at = *c.outputs.add(t * MR + r) + c.channel;
                    let byte = if masked { *c.masks.add(t * MR + r) + c.channel / 8 } else { 0 };
                    store_row::<S, NV>(&finish, plain, at, c.channel, byte, c.width, row);
                }
            }
        }
    }
}

/// Sums that start from the bias.
///
/// # Safety
/// The processor has the instruction set, and `bias` is valid for `NV` vectors.
#[inline(always)]
unsafe fn biased<S: Simd, const MR: usize, const NV: usize>(bias: *const f32) -> [[S::V; NV]; MR] {
    // SAFETY: upheld by the caller.
    unsafe {
        let mut row = [S::splat(0.0); NV];
        for (v, b) in row.iter_mut().enumerate() {
            *b = S::load(bias.add(v * S::LANES));
        }
        [row; MR]
    }
}

/// Loads partial sums.
///
/// # Safety
/// The processor has the instruction set, and `from` is valid for `MR * NV` vectors.
#[inline(always)]
unsafe fn loaded<S: Simd, const MR: usize, const NV: usize>(from: *const f32) -> [[S::V; NV]; MR] {
    // SAFETY: upheld by the caller.
    unsafe {
        let mut acc = [[S::splat(0.0); NV]; MR];
        for (r, row) in acc.iter_mut().enumerate() {
            for (v, a) in row.iter_mut().enumerate() {
                *a = S::load(from.add((r * NV + v) * S::LANES));
            }
        }
        acc
    }
}

/// Adds `len` inputs of each row times their weights.
///
/// # Safety
/// The processor has the instruction set; each `x` is valid for `len` floats, `w` for `len * NV` vectors.
#[inline(always)]
unsafe fn accumulate<S: Simd, T: Term<S>, const MR: usize, const NV: usize>(
    acc: &mut [[S::V; NV]; MR],
    x: &[*const f32; MR],
    mut w: *const f32,
    len: usize,
) {
    // SAFETY: upheld by the caller.
    unsafe {
        for k in 0..len {
            let mut b = [S::splat(0.0); NV];
            for (v, b) in b.iter_mut().enumerate() {
                *b = S::load(w.add(v * S::LANES));
            }
            for r in 0..MR {
                let a = S::splat(*x[r].add(k));
                for v in 0..NV {
                    acc[r][v] = T::add(a, b[v], acc[r][v]);
                }
            }
            w = w.add(NV * S::LANES);
        }
    }
}

/// Stores the sums of a pixel, `width` channels.
///
/// # Safety
/// As [`Finish::store`].
#[inline(always)]
unsafe fn store_row<S: Simd, const NV: usize>(
    finish: &Finish,
    plain: bool,
    at: usize,
    channel: usize,
    byte: usize,
    width: usize,
    row: &[S::V; NV],
) {
    // SAFETY: upheld by the caller.
    unsafe {
        for (v, a) in row.iter().enumerate() {
            let lane = v * S::LANES;
            if lane + S::LANES <= width {
                if plain {
                    S::store(finish.y.add(at + lane), *a);
                } else {
                    finish.store::<S>(at + lane, channel + lane, byte + lane / 8, *a);
                }
            } else if lane < width {
                let mut values = [0f32; 16];
                S::store(values.as_mut_ptr(), *a);
                finish.store_part(at + lane, channel + lane, byte + lane / 8, &values[..width - lane]);
            }
        }
    }
}

/// Maximum number of output channels of a [`narrow`] tile.
pub const NARROW: usize = 3;
/// Pixels per [`narrow`] tile.
pub const NARROW_ROWS: usize = 4;

/// Computes tiles of few output channels, vectorised over the inputs: the weights of each output channel are
/// contiguous,
/// `TileCall::partial` is unused, there is one block, and segments are whole vectors.
///
/// # Safety
/// As [`micro`], with `NARROW_ROWS` entries per tile.
#[inline(always)]
unsafe fn narrow<S: Simd, const NO: usize>(c: &TileCall) {
    // SAFETY: upheld by the caller.
    unsafe {
        let finish = *c.finish;
        let plain = finish.plain();
        for (t, tile) in c.tiles.iter().enumerate() {
            let rows = c.rows.add(t * NARROW_ROWS);
            let mut acc = [[S::splat(0.0); NO]; NARROW_ROWS];
            for s in c.segments.get_unchecked(tile.region) {
                let mut x = [c.weights; NARROW_ROWS];
                for (r, p) in x.iter_mut().enumerate() {
                    *p = (*rows.add(r)).add(s.x);
                }
                let w = c.weights.add(s.w);
                for k in (0..s.len).step_by(S::LANES) {
                    let mut b = [S::splat(0.0); NO];
                    for (o, b) in b.iter_mut().enumerate() {
                        *b = S::load(w.add(o * c.sum + k));
                    }
                    for (x, row) in x.iter().zip(&mut acc) {
                        let a = S::load(x.add(k));
                        for (b, sum) in b.iter().zip(row) {
                            *sum = S::mul_add(a, *b, *sum);
                        }
                    }
                }
            }
            for (r, row) in acc.iter().enumerate() {
                if r < tile.valid {
                    let at = *c.outputs.add(t * NARROW_ROWS + r);
                    let mut values = [0f32; NO];
                    for (o, value) in values.iter_mut().enumerate() {
                        *value = S::sum(row[o]) + *c.bias.add(o);
                    }
                    if plain {
                        finish.y.add(at).cast::<[f32; NO]>().write_unaligned(values);
                    } else {
                        finish.store_part(at, 0, 0, &values);
                    }
                }
            }
        }
    }
}

/// Evenly spaced rows to compute, with one panel and one block of the sum.
pub struct Rows<'a> {
    /// The first row, at the first input of the block.
    pub x: *const f32,
    /// Stride between rows.
    pub x_step: usize,
    /// Number of rows, at least one.
    pub count: usize,
    /// The panel's weights for the block.
    pub weights: *const f32,
    /// Inputs per block.
    pub len: usize,
    /// Whether this is the first block: start from the bias, otherwise from the previous block's sums in `Finish::y`.
    pub first: bool,
    /// Whether this is the last block: apply the epilogue.
    pub last: bool,
    /// The epilogue.
    pub finish: &'a Finish,
    /// Offset of the first row in `Finish::y`, in floats, and the stride between rows.
    pub y: usize,
    pub y_step: usize,
    /// Offset of the first row's masks, in bytes; the stride is `y_step / 8`.
    pub mask: usize,
    /// As in [`TileCall`].
    pub channel: usize,
    pub width: usize,
    pub bias: *const f32,
}

/// Compiled loop over rows.
pub type MicroRows = unsafe fn(&Rows);

/// Computes rows.
///
/// # Safety
/// The processor has the instruction set; rows, weights and bias are valid for reads, the epilogue's outputs for
/// `width`
/// channels of each row, and nothing else accesses these during the call.
#[inline(always)]
unsafe fn micro_rows<S: Simd, T: Term<S>, const MR: usize, const NV: usize>(c: &Rows) {
    // SAFETY: upheld by the caller.
    unsafe {
        let finish = if c.last { *c.finish } else { Finish { y: c.finish.y, ..Finish::default() } };
        let plain = finish.plain();
        for first in (0..c.count).step_by(MR) {
            // the last tile repeats its first row
            let valid = MR.min(c.count - first);
            let mut x = [c.x; MR];
            for (r, p) in x.iter_mut().enumerate() {
                *p = c.x.add((first + if r < valid { r } else { 0 }) * c.x_step);
            }
            let mut acc = biased::<S, MR, NV>(c.bias);
            if !c.first {
                for (r, row) in acc.iter_mut().enumerate() {
                    let from =
                        finish.y.add(c.y + (first + if r < valid { r } else { 0 }) * c.y_step + c.channel);
                    for (v, a) in row.iter_mut().enumerate() {
                        let lane = v * S::LANES;
                        if lane + S::LANES <= c.width {
                            *a = S::load(from.add(lane));
                        } else if lane < c.width {
                            let mut values = [0f32; 16];
                            std::ptr::copy_nonoverlapping(
                                from.add(lane),
                                values.as_mut_ptr(),
                                c.width - lane,
                            );
                            *a = S::load(values.as_ptr());
                        }
                    }
                }
            }
            accumulate::<S, T, MR, NV>(&mut acc, &x, c.weights, c.len);
            for (r, row) in acc.iter().enumerate() {
                if r < valid {
                    let at = (first + r) * c.y_step + c.channel;
                    store_row::<S, NV>(&finish, plain, c.y + at, c.channel, c.mask + at / 8, c.width, row);
                }
            }
        }
    }
}

macro_rules! compiled {
    ($name:ident, $rows:ident, $simd:ty, $term:ty $(, $feature:literal)?) => {
        /// # Safety
        /// As [`micro`].
        $(#[target_feature(enable = $feature)])?
        unsafe fn $name<const MR: usize, const NV: usize>(c: &TileCall) {
            // SAFETY: upheld by the caller.
            unsafe { micro::<$simd, $term, MR, NV>(c) }
        }
        /// # Safety
        /// As [`micro_rows`].
        $(#[target_feature(enable = $feature)])?
        unsafe fn $rows<const MR: usize, const NV: usize>(c: &Rows) {
            // SAFETY: upheld by the caller.
            unsafe { micro_rows::<$simd, $term, MR, NV>(c) }
        }
    };
}

macro_rules! compiled_narrow {
    ($narrow:ident, $simd:ty $(, $feature:literal)?) => {
        /// # Safety
        /// As [`narrow`].
        $(#[target_feature(enable = $feature)])?
        unsafe fn $narrow<const NO: usize>(c: &TileCall) {
            // SAFETY: upheld by the caller.
            unsafe { narrow::<$simd, NO>(c) }
        }
    };
}

compiled!(portable, rows_portable, super::simd::Portable, Single);
compiled!(portable_bf16, rows_portable_bf16, super::simd::Portable, Emulated);
compiled_narrow!(narrow_portable, super::simd::Portable);
#[cfg(target_arch = "x86_64")]
compiled!(avx2, rows_avx2, super::simd::Avx2, Single, "avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(avx2_bf16, rows_avx2_bf16, super::simd::Avx2, Emulated, "avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled_narrow!(narrow_avx2, super::simd::Avx2, "avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(avx512, rows_avx512, super::simd::Avx512, Single, "avx512f,avx512dq,avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(avx512_bf16, rows_avx512_bf16, super::simd::Avx512, Emulated, "avx512f,avx512dq,avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(
    native,
    rows_native,
    super::simd::Avx512,
    super::bf16::Native,
    "avx512f,avx512dq,avx512bf16,avx2,fma"
);
#[cfg(target_arch = "x86_64")]
compiled_narrow!(narrow_avx512, super::simd::Avx512, "avx512f,avx512dq,avx2,fma");

/// Floats per vector.
pub fn lanes(isa: Isa) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => 16,
        _ => 8,
    }
}

/// Pixels per tile: with two vectors of channels, as many sums as fit the registers beside the weights and one input.
pub fn rows(isa: Isa) -> usize {
    match isa {
        Isa::Portable => 3,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => 6,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => 12,
    }
}

/// Vectors of channels per panel, for `vectors` in total: twos, and a final one if odd.
pub fn panels(vectors: usize) -> impl Iterator<Item = usize> {
    (0..vectors).step_by(2).map(move |v| (vectors - v).min(2))
}

/// The loop over tiles of [`rows`] pixels by `nv` (one or two) vectors.
pub fn kernel(isa: Isa, precision: Precision, nv: usize) -> Micro {
    pick!(isa, precision, nv, portable portable_bf16, avx2 avx2_bf16, avx512 avx512_bf16 native)
}

/// The loop over rows in tiles of [`rows`] by `nv` (one or two) vectors.
pub fn rows_kernel(isa: Isa, precision: Precision, nv: usize) -> MicroRows {
    pick!(isa, precision, nv, rows_portable rows_portable_bf16, rows_avx2 rows_avx2_bf16, rows_avx512 rows_avx512_bf16 rows_native)
}

/// The loop over tiles of [`NARROW_ROWS`] pixels by `outputs` channels, at most [`NARROW`].
pub fn narrow_kernel(isa: Isa, outputs: usize) -> Micro {
    match (isa, outputs) {
        (Isa::Portable, 1) => narrow_portable::<1>,
        (Isa::Portable, 2) => narrow_portable::<2>,
        (Isa::Portable, _) => narrow_portable::<3>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, 1) => narrow_avx2::<1>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, 2) => narrow_avx2::<2>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, _) => narrow_avx2::<3>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, 1) => narrow_avx512::<1>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, 2) => narrow_avx512::<2>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, _) => narrow_avx512::<3>,
    }
}
