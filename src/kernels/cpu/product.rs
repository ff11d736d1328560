//! Product of contiguous matrices: the middle of the Winograd convolution.

use super::Isa;
use super::bf16::{Plain, Single, Term};
use super::simd::Simd;
use crate::kernels::Precision;

/// Some rows of `x` times one panel of weights.
#[derive(Clone, Copy)]
pub struct Product {
    /// First row: `len` inputs.
    pub x: *const f32,
    /// From one row of `x` to the next.
    pub x_step: usize,
    /// Rows, a multiple of the tile's.
    pub rows: usize,
    /// The panel: for each input `NV` vectors.
    pub weights: *const f32,
    /// Inputs.
    pub len: usize,
    /// First row of the result: `NV` vectors.
    pub y: *mut f32,
    /// From one row of `y` to the next.
    pub y_step: usize,
    /// Add to what is there.
    pub add: bool,
}

/// A compiled product.
pub type Multiply = unsafe fn(&Product);

/// # Safety
/// The processor has the instruction set; the pointers are good for what [`Product`] says, and nobody else touches the
/// result meanwhile.
#[inline(always)]
unsafe fn multiply<S: Simd, T: Term<S>, const MR: usize, const NV: usize>(p: &Product) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut row = 0;
        while row < p.rows {
            let x = p.x.add(row * p.x_step);
            let y = p.y.add(row * p.y_step);
            let mut acc = [[S::splat(0.0); NV]; MR];
            if p.add {
                for (r, row) in acc.iter_mut().enumerate() {
                    for (v, a) in row.iter_mut().enumerate() {
                        *a = S::load(y.add(r * p.y_step + v * S::LANES));
                    }
                }
            }
            let mut w = p.weights;
            let mut rows = [x; MR];
            for (r, row) in rows.iter_mut().enumerate() {
                *row = x.add(r * p.x_step);
            }
            for k in 0..p.len {
                let mut b = [S::splat(0.0); NV];
                for (v, b) in b.iter_mut().enumerate() {
                    *b = S::load(w.add(v * S::LANES));
                }
                for r in 0..MR {
                    let a = S::splat(*rows[r].add(k));
                    for v in 0..NV {
                        acc[r][v] = T::add(a, b[v], acc[r][v]);
                    }
                }
                w = w.add(NV * S::LANES);
            }
            for (r, row) in acc.iter().enumerate() {
                for (v, a) in row.iter().enumerate() {
                    S::store(y.add(r * p.y_step + v * S::LANES), *a);
                }
            }
            row += MR;
        }
    }
}

macro_rules! compiled {
    ($name:ident, $simd:ty, $term:ty $(, $feature:literal)?) => {
        /// # Safety
        /// As [`multiply`].
        $(#[target_feature(enable = $feature)])?
        unsafe fn $name<const MR: usize, const NV: usize>(p: &Product) {
            // SAFETY: the caller's promise.
            unsafe { multiply::<$simd, $term, MR, NV>(p) }
        }
    };
}

compiled!(portable, super::simd::Portable, Single);
compiled!(portable_bf16, super::simd::Portable, Plain);
#[cfg(target_arch = "x86_64")]
compiled!(avx2, super::simd::Avx2, Single, "avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(avx2_bf16, super::simd::Avx2, Plain, "avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(avx512, super::simd::Avx512, Single, "avx512f,avx512dq,avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(avx512_bf16, super::simd::Avx512, Plain, "avx512f,avx512dq,avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(native, super::simd::Avx512, super::bf16::Native, "avx512f,avx512dq,avx512bf16,avx2,fma");

/// The product in tiles of [`rows`](super::micro::rows) by `nv` (one or two) vectors.
pub fn multiply_for(isa: Isa, precision: Precision, nv: usize) -> Multiply {
    let half = precision == Precision::Bf16;
    match (isa, nv) {
        (Isa::Portable, 1) if half => portable_bf16::<3, 1>,
        (Isa::Portable, _) if half => portable_bf16::<3, 2>,
        (Isa::Portable, 1) => portable::<3, 1>,
        (Isa::Portable, _) => portable::<3, 2>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, 1) if half => avx2_bf16::<6, 1>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, _) if half => avx2_bf16::<6, 2>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, 1) => avx2::<6, 1>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, _) => avx2::<6, 2>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, 1) if half && isa.bf16() => native::<12, 1>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, _) if half && isa.bf16() => native::<12, 2>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, 1) if half => avx512_bf16::<12, 1>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, _) if half => avx512_bf16::<12, 2>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, 1) => avx512::<12, 1>,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, _) => avx512::<12, 2>,
    }
}
