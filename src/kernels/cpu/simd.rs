//! Vectors of f32 with the same operations for every instruction set.

/// A vector of `LANES` floats; `LANES` is a multiple of 8.
pub trait Simd: Copy + 'static {
    /// Floats per vector.
    const LANES: usize;
    /// The vector.
    type V: Copy;

    /// # Safety
    /// The processor has the instruction set; the same holds for every function here.
    unsafe fn splat(x: f32) -> Self::V;
    /// # Safety
    /// `p` is valid for reading `LANES` floats.
    unsafe fn load(p: *const f32) -> Self::V;
    /// # Safety
    /// `p` is valid for writing `LANES` floats.
    unsafe fn store(p: *mut f32, v: Self::V);
    /// # Safety
    /// See [`Simd::splat`].
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// # Safety
    /// See [`Simd::splat`].
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// Sum of the lanes, halves first.
    /// # Safety
    /// See [`Simd::splat`].
    unsafe fn sum(v: Self::V) -> f32;
    /// a * b + c, fused if the processor can.
    /// # Safety
    /// See [`Simd::splat`].
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// max(v, 0); NaN stays NaN.
    /// # Safety
    /// See [`Simd::splat`].
    unsafe fn relu(v: Self::V) -> Self::V;
    /// Bit i is set if lane i is above 0.
    /// # Safety
    /// See [`Simd::splat`].
    unsafe fn positive(v: Self::V) -> u32;
    /// Keeps the lanes whose bit is set; the others become 0.
    /// # Safety
    /// See [`Simd::splat`].
    unsafe fn keep(v: Self::V, bits: u32) -> Self::V;
    /// Of lanes that hold two bfloat16 numbers, the one in the low half.
    /// # Safety
    /// See [`Simd::splat`].
    unsafe fn first(v: Self::V) -> Self::V;
    /// The one in the high half.
    /// # Safety
    /// See [`Simd::splat`].
    unsafe fn second(v: Self::V) -> Self::V;
}

/// Plain arrays, which the compiler vectorises for the target's baseline.
#[derive(Clone, Copy)]
pub struct Portable;

// The functions are unsafe because the trait's are; these bodies only need valid pointers.
impl Simd for Portable {
    const LANES: usize = 8;
    type V = [f32; 8];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: upheld by the caller.
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: upheld by the caller.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        let four: [f32; 4] = std::array::from_fn(|i| v[i] + v[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // without the instruction, mul_add is a library call; every 64-bit Arm processor has it
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
        } else {
            std::array::from_fn(|i| a[i] * b[i] + c[i])
        }
    }
    #[inline(always)]
    unsafe fn relu(v: Self::V) -> Self::V {
        v.map(|x| if x < 0.0 { 0.0 } else { x })
    }
    #[inline(always)]
    unsafe fn positive(v: Self::V) -> u32 {
        (0..8).map(|i| u32::from(v[i] > 0.0) << i).sum()
    }
    #[inline(always)]
    unsafe fn keep(v: Self::V, bits: u32) -> Self::V {
        std::array::from_fn(|i| f32::from_bits(v[i].to_bits() & (bits >> i & 1).wrapping_neg()))
    }
    #[inline(always)]
    unsafe fn first(v: Self::V) -> Self::V {
        v.map(|x| f32::from_bits(x.to_bits() << 16))
    }
    #[inline(always)]
    unsafe fn second(v: Self::V) -> Self::V {
        v.map(|x| f32::from_bits(x.to_bits() & 0xffff_0000))
    }
}

/// Prefetches a cache line; the address need not be valid.
#[inline(always)]
pub fn prefetch(_at: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint that cannot fault.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(_at.cast());
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Simd;
    use std::arch::x86_64::*;

    #[derive(Clone, Copy)]
    pub struct Avx2;

    impl Simd for Avx2 {
        const LANES: usize = 8;
        type V = __m256;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            // SAFETY: the caller vouches that the processor has AVX2 and FMA. The same below.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::V {
            // SAFETY: and p is valid for 8 floats.
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: Self::V) {
            // SAFETY: and p is valid for 8 floats.
            unsafe { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: see splat.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: see splat.
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sum(v: Self::V) -> f32 {
            // SAFETY: see splat.
            unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
            }
        }
        #[inline(always)]
        unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            // SAFETY: see splat.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn relu(v: Self::V) -> Self::V {
            // the second operand is the result if either is NaN
            // SAFETY: see splat.
            unsafe { _mm256_max_ps(_mm256_setzero_ps(), v) }
        }
        #[inline(always)]
        unsafe fn positive(v: Self::V) -> u32 {
            // SAFETY: see splat.
            unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(v, _mm256_setzero_ps())) as u32 }
        }
        #[inline(always)]
        unsafe fn keep(v: Self::V, bits: u32) -> Self::V {
            // SAFETY: see splat.
            unsafe {
                let each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
                let set = _mm256_and_si256(_mm256_set1_epi32(bits as i32), each);
                _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, each)))
            }
        }
        #[inline(always)]
        unsafe fn first(v: Self::V) -> Self::V {
            // SAFETY: see splat.
            unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(v))) }
        }
        #[inline(always)]
        unsafe fn second(v: Self::V) -> Self::V {
            // SAFETY: see splat.
            unsafe {
                let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
                _mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(v), high))
            }
        }
    }

    #[derive(Clone, Copy)]
    pub struct Avx512;

    impl Simd for Avx512 {
        const LANES: usize = 16;
        type V = __m512;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            // SAFETY: the caller vouches that the processor has AVX-512. The same below.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::V {
            // SAFETY: and p is valid for 16 floats.
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: Self::V) {
            // SAFETY: and p is valid for 16 floats.
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: see splat.
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: see splat.
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sum(v: Self::V) -> f32 {
            // SAFETY: see splat.
            unsafe { _mm512_reduce_add_ps(v) }
        }
        #[inline(always)]
        unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            // SAFETY: see splat.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn relu(v: Self::V) -> Self::V {
            // SAFETY: see splat; NaN as in Avx2.
            unsafe { _mm512_max_ps(_mm512_setzero_ps(), v) }
        }
        #[inline(always)]
        unsafe fn positive(v: Self::V) -> u32 {
            // SAFETY: see splat.
            unsafe { u32::from(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(v, _mm512_setzero_ps())) }
        }
        #[inline(always)]
        unsafe fn keep(v: Self::V, bits: u32) -> Self::V {
            // SAFETY: see splat.
            unsafe { _mm512_maskz_mov_ps(bits as u16, v) }
        }
        #[inline(always)]
        unsafe fn first(v: Self::V) -> Self::V {
            // SAFETY: see splat.
            unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(v))) }
        }
        #[inline(always)]
        unsafe fn second(v: Self::V) -> Self::V {
            // SAFETY: see splat.
            unsafe {
                let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
                _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v), high))
            }
        }
    }
}
