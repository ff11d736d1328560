//! The innermost loop of every dense product: a tile of `MR` output pixels by `NV` vectors of output channels, kept in
//! registers while it runs over segments of input channels.

use super::Isa;
use super::finish::Finish;
use super::simd::Simd;

/// A run of contiguous inputs of a pixel and the weights they meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins, in floats from the pixel's pointer.
    pub x: usize,
    /// Its first weight, counted in inputs from the panel's beginning.
    pub w: usize,
    /// Inputs.
    pub len: usize,
}

/// Tile shapes: (pixels, vectors).
#[derive(Clone, Copy, Debug)]
pub struct Shapes {
    /// Pixels of a tile of one vector.
    pub one: usize,
    /// Pixels of a tile of two vectors.
    pub two: usize,
    /// Pixels of a tile of three vectors, and of the tiles of two used beside them.
    pub three: usize,
}

/// One tile to compute.
pub struct Call<'a> {
    /// For each pixel, where its first segment's coordinates count from. `MR` pointers.
    pub rows: *const *const f32,
    /// Added to every row: the group's first channel.
    pub x_offset: usize,
    /// What to sum.
    pub segments: &'a [Segment],
    /// The panel: for each input `NV` vectors of weights.
    pub weights: *const f32,
    /// Partial sums, `MR * NV` vectors, kept between blocks of the sum.
    pub partial: *mut f32,
    /// This is the first block: start from the bias.
    pub first: bool,
    /// This is the last block: finish and store.
    pub last: bool,
    /// What comes after the sum.
    pub finish: &'a Finish,
    /// Where each pixel goes: offset in floats from `Finish::y`. `MR` of them.
    pub outputs: *const usize,
    /// Where each pixel's masks begin, in bytes. `MR` of them.
    pub masks: *const usize,
    /// Pixels that are stored; the rest repeat one of them.
    pub valid: usize,
    /// First output channel of the panel.
    pub channel: usize,
    /// Output channels of the panel that exist.
    pub width: usize,
    /// Bias of the panel's channels, padded to whole vectors.
    pub bias: *const f32,
}

/// A compiled tile.
pub type Micro = unsafe fn(&Call);

/// Computes a tile.
///
/// # Safety
/// The processor has the instruction set. `rows`, `outputs` and `masks` hold `MR` entries; every row, offset by
/// `x_offset` and a segment, is good for reading the segment's length; `weights` for every segment; `partial` for
/// `MR * NV` vectors; `bias` for `NV` vectors; output, residual and mask for `width` channels of each valid pixel, and
/// nobody else reads or writes those meanwhile.
#[inline(always)]
unsafe fn micro<S: Simd, const MR: usize, const NV: usize>(c: &Call) {
    // SAFETY: the caller's promises above, taken word for word.
    unsafe {
        let mut acc = [[S::splat(0.0); NV]; MR];
        if c.first {
            for v in 0..NV {
                let b = S::load(c.bias.add(v * S::LANES));
                for row in &mut acc {
                    row[v] = b;
                }
            }
        } else {
            for (r, row) in acc.iter_mut().enumerate() {
                for (v, a) in row.iter_mut().enumerate() {
                    *a = S::load(c.partial.add((r * NV + v) * S::LANES));
                }
            }
        }
        for s in c.segments {
            let mut x = [c.weights; MR];
            for (r, p) in x.iter_mut().enumerate() {
                *p = (*c.rows.add(r)).add(c.x_offset + s.x);
            }
            let mut w = c.weights.add(s.w * NV * S::LANES);
            for k in 0..s.len {
                let mut b = [S::splat(0.0); NV];
                for (v, b) in b.iter_mut().enumerate() {
                    *b = S::load(w.add(v * S::LANES));
                }
                for r in 0..MR {
                    let a = S::splat(*x[r].add(k));
                    for v in 0..NV {
                        acc[r][v] = S::mul_add(a, b[v], acc[r][v]);
                    }
                }
                w = w.add(NV * S::LANES);
            }
        }
        if !c.last {
            for (r, row) in acc.iter().enumerate() {
                for (v, a) in row.iter().enumerate() {
                    S::store(c.partial.add((r * NV + v) * S::LANES), *a);
                }
            }
            return;
        }
        for (r, row) in acc.iter().enumerate() {
            if r < c.valid {
                let (at, byte) = (*c.outputs.add(r) + c.channel, *c.masks.add(r) + c.channel / 8);
                for (v, a) in row.iter().enumerate() {
                    let lane = v * S::LANES;
                    let (at, channel, byte) = (at + lane, c.channel + lane, byte + lane / 8);
                    if lane + S::LANES <= c.width {
                        c.finish.store::<S>(at, channel, byte, *a);
                    } else if lane < c.width {
                        let mut values = [0f32; 16];
                        S::store(values.as_mut_ptr(), *a);
                        c.finish.store_part(at, channel, byte, &values[..c.width - lane]);
                    }
                }
            }
        }
    }
}

macro_rules! compiled {
    ($name:ident, $simd:ty $(, $feature:literal)?) => {
        /// # Safety
        /// As [`micro`].
        $(#[target_feature(enable = $feature)])?
        unsafe fn $name<const MR: usize, const NV: usize>(c: &Call) {
            // SAFETY: the caller's promise.
            unsafe { micro::<$simd, MR, NV>(c) }
        }
    };
}

compiled!(portable, super::simd::Portable);
#[cfg(target_arch = "x86_64")]
compiled!(avx2, super::simd::Avx2, "avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(avx512, super::simd::Avx512, "avx512f,avx512dq,avx2,fma");

/// Floats in a vector.
pub fn lanes(isa: Isa) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => 16,
        _ => 8,
    }
}

/// Tile shapes: as many sums as registers hold beside the weights and one input.
pub fn shapes(isa: Isa) -> Shapes {
    match isa {
        Isa::Portable => Shapes { one: 6, two: 3, three: 2 },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Shapes { one: 12, two: 6, three: 4 },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Shapes { one: 12, two: 12, three: 8 },
    }
}

/// The tile of `mr` pixels by `nv` vectors, one of [`shapes`].
pub fn kernel(isa: Isa, mr: usize, nv: usize) -> Micro {
    match (isa, mr, nv) {
        (Isa::Portable, 6, 1) => portable::<6, 1>,
        (Isa::Portable, 3, 2) => portable::<3, 2>,
        (Isa::Portable, 2, 2) => portable::<2, 2>,
        (Isa::Portable, 2, 3) => portable::<2, 3>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, 12, 1) => avx2::<12, 1>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, 6, 2) => avx2::<6, 2>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, 4, 2) => avx2::<4, 2>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, 4, 3) => avx2::<4, 3>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, 12, 1) => avx512::<12, 1>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, 12, 2) => avx512::<12, 2>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, 8, 2) => avx512::<8, 2>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, 8, 3) => avx512::<8, 3>,
        _ => unreachable!("no tile of {mr} x {nv}"),
    }
}
