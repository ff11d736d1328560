//! Product of contiguous matrices, the core of the Winograd convolution.

use super::Isa;
use super::bf16::{Emulated, Single, Term};
use super::simd::Simd;
use crate::kernels::Precision;

/// Some rows of `x` times one panel of weights.
#[derive(Clone, Copy)]
pub struct Product {
    /// First row, `len` inputs.
    pub x: *const f32,
    /// Stride between rows of `x`.
    pub x_step: usize,
    /// Number of rows, a multiple of the tile's.
    pub rows: usize,
    /// The panel: `NV` vectors per input.
    pub weights: *const f32,
    /// Inputs per output.
    pub len: usize,
    /// First row of the result: `NV` vectors.
    pub y: *mut f32,
    /// Stride between rows of `y`.
    pub y_step: usize,
    /// Whether to add to `y` instead of overwriting it.
    pub add: bool,
}

/// A compiled product.
pub type Multiply = unsafe fn(&Product);

/// # Safety
/// The processor has the instruction set; the pointers are valid for the sizes in [`Product`], and nothing else
/// accesses
/// the result during the call.
#[inline(always)]
unsafe fn multiply<S: Simd, T: Term<S>, const MR: usize, const NV: usize>(p: &Product) {
    // SAFETY: upheld by the caller.
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
            // SAFETY: upheld by the caller.
            unsafe { multiply::<$simd, $term, MR, NV>(p) }
        }
    };
}

compiled!(portable, super::simd::Portable, Single);
compiled!(portable_bf16, super::simd::Portable, Emulated);
#[cfg(target_arch = "x86_64")]
compiled!(avx2, super::simd::Avx2, Single, "avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(avx2_bf16, super::simd::Avx2, Emulated, "avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(avx512, super::simd::Avx512, Single, "avx512f,avx512dq,avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(avx512_bf16, super::simd::Avx512, Emulated, "avx512f,avx512dq,avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(native, super::simd::Avx512, super::bf16::Native, "avx512f,avx512dq,avx512bf16,avx2,fma");

/// The product in tiles of [`rows`](super::micro::rows) by `nv` (one or two) vectors.
pub fn multiply_for(isa: Isa, precision: Precision, nv: usize) -> Multiply {
    pick!(isa, precision, nv, portable portable_bf16, avx2 avx2_bf16, avx512 avx512_bf16 native)
}

#[cfg(test)]
mod tests {
    use super::super::bf16::{pair, pairs, round};
    use super::super::micro;
    use super::*;
    use crate::kernels::reference::values;

    /// The actual and the expected result: 24 rows of 22 pairs by two vectors, added to existing values.
    fn run(isa: Isa, multiply: Multiply) -> (Vec<f32>, Vec<f32>) {
        const ROWS: usize = 24;
        const INPUTS: usize = 44;
        let width = 2 * micro::lanes(isa);
        let (x, w) = (values(ROWS * INPUTS, 1), values(INPUTS * width, 2));
        let mut y = values(ROWS * width, 3);
        let rounded = |x: f32| f64::from(f32::from_bits(u32::from(round(x)) << 16));
        let sum = |at: usize| {
            let (r, o) = (at / width, at % width);
            let term = |k: usize| rounded(x[r * INPUTS + k]) * rounded(w[k * width + o]);
            (f64::from(y[at]) + (0..INPUTS).map(term).sum::<f64>()) as f32
        };
        let truth = (0..y.len()).map(sum).collect();
        let mut x_pairs = vec![0.0; x.len() / 2];
        pairs(isa, &x, INPUTS, &mut x_pairs);
        let first = |at: usize| at / width * 2 * width + at % width;
        let panel: Vec<f32> =
            (0..INPUTS / 2 * width).map(|at| pair(w[first(at)], w[first(at) + width])).collect();
        // SAFETY: the caller detected the instruction set; the matrices have these sizes.
        unsafe {
            multiply(&Product {
                x: x_pairs.as_ptr(),
                x_step: INPUTS / 2,
                rows: ROWS,
                weights: panel.as_ptr(),
                len: INPUTS / 2,
                y: y.as_mut_ptr(),
                y_step: width,
                add: true,
            });
        }
        (y, truth)
    }

    #[test]
    fn pairs_are_multiplied_and_summed() {
        for isa in Isa::available() {
            let (y, truth) = run(isa, multiply_for(isa, Precision::Bf16, 2));
            let far = y.iter().zip(&truth).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 5e-6, "{}: {far}", isa.name());
        }
    }

    /// The native instruction gives the same as portable code on vectors of the same length.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn plain_code_repeats_the_instruction() {
        if Isa::available().last().is_some_and(|isa| isa.bf16()) {
            let (native, _) = run(Isa::Avx512, native::<12, 2>);
            let (plain, _) = run(Isa::Avx512, avx512_bf16::<12, 2>);
            assert!(native.iter().zip(&plain).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }
}
