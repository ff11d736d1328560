//! bfloat16 in convolutions: two neighbouring rounded inputs share the 32 bits of a float, the first in the low half.
//! Counts of inputs in floats then count pairs; only the product ([`Term`]) and the code that writes pairs differ.
//! Sums are f32.
//!
//! The processor's instructions flush denormal numbers to zero, and so does the portable code, so both round alike.

use super::Isa;
use super::simd::Simd;

/// Adds the product of a 32-bit lane of inputs and one of weights to a sum.
pub trait Term<S: Simd>: 'static {
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn add(x: S::V, w: S::V, sum: S::V) -> S::V;

    /// Inputs per 32-bit lane: 1, or 2 for a pair.
    const INPUTS: usize;

    /// Stores a vector of inputs in the format of the products: `LANES / INPUTS` floats.
    ///
    /// # Safety
    /// The processor has the instruction set, and `p` is valid for that many writes.
    unsafe fn store(p: *mut f32, v: S::V);
}

/// One f32 per lane.
pub struct Single;

impl<S: Simd> Term<S> for Single {
    const INPUTS: usize = 1;

    #[inline(always)]
    unsafe fn add(x: S::V, w: S::V, sum: S::V) -> S::V {
        // SAFETY: upheld by the caller.
        unsafe { S::mul_add(x, w, sum) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: S::V) {
        // SAFETY: upheld by the caller.
        unsafe { S::store(p, v) }
    }
}

/// A pair per lane with baseline instructions: as many multiply-adds as for f32, plus unpacking. For tests, and to
/// reproduce a result on another machine.
pub struct Emulated;

impl<S: Simd> Term<S> for Emulated {
    const INPUTS: usize = 2;

    #[inline(always)]
    unsafe fn add(x: S::V, w: S::V, sum: S::V) -> S::V {
        // SAFETY: upheld by the caller.
        unsafe {
            // the order of the native instruction; with both fused, the bits are the same
            let sum = S::mul_add(S::second(x), S::second(w), sum);
            S::mul_add(S::first(x), S::first(w), sum)
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: S::V) {
        // SAFETY: upheld by the caller; a vector has at most 16 floats.
        unsafe {
            let mut values = [0f32; 16];
            S::store(values.as_mut_ptr(), v);
            let halves = p.cast::<u16>();
            for (i, x) in values[..S::LANES].iter().enumerate() {
                halves.add(i).write_unaligned(round(*x));
            }
        }
    }
}

/// A pair per lane, with AVX-512's bfloat16 instructions.
#[cfg(target_arch = "x86_64")]
pub struct Native;

#[cfg(target_arch = "x86_64")]
impl Term<super::simd::Avx512> for Native {
    const INPUTS: usize = 2;

    #[inline(always)]
    unsafe fn add(
        x: std::arch::x86_64::__m512,
        w: std::arch::x86_64::__m512,
        sum: std::arch::x86_64::__m512,
    ) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::{__m512, __m512bh, _mm512_dpbf16_ps};
        // SAFETY: the processor has the instruction; both types are 512 bits of plain data.
        unsafe {
            let pairs = |v: __m512| std::mem::transmute::<__m512, __m512bh>(v);
            _mm512_dpbf16_ps(sum, pairs(x), pairs(w))
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: std::arch::x86_64::__m512) {
        use std::arch::x86_64::{__m256bh, _mm512_cvtneps_pbh};
        // SAFETY: the processor has the instruction, and p is valid for 8 floats.
        unsafe { p.cast::<__m256bh>().write_unaligned(_mm512_cvtneps_pbh(v)) }
    }
}

/// Rounds to the nearest bfloat16, ties to even; denormals become zero, NaN stays NaN.
#[inline(always)]
pub fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    match bits & 0x7f80_0000 {
        0 => (bits >> 16) as u16 & 0x8000,
        0x7f80_0000 => (bits >> 16) as u16 | if bits & 0x007f_ffff == 0 { 0 } else { 0x40 },
        _ => ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16,
    }
}

/// Two inputs or weights packed into a float. The result may only be copied, not computed with.
#[inline(always)]
pub fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(u32::from(round(first)) | u32::from(round(second)) << 16)
}

/// Writes rows of `width` inputs as pairs, `width.div_ceil(2)` floats per row; an odd width is padded with a zero.
pub fn pairs(isa: Isa, x: &[f32], width: usize, to: &mut [f32]) {
    assert!(width > 0 && x.len().is_multiple_of(width) && to.len() == x.len() / width * width.div_ceil(2));
    // without padding, everything is a single row
    let width = if width.is_multiple_of(2) { x.len().max(1) } else { width };
    match isa {
        // SAFETY: the instruction set was detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if isa.bf16() => unsafe { pairs_native(x, width, to) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => unsafe { pairs_avx2(x, width, to) },
        Isa::Portable => pairs_of(x, width, to, rounded),
    }
}

#[inline(always)]
fn pairs_of(x: &[f32], width: usize, to: &mut [f32], row: impl Fn(&[f32], &mut [f32])) {
    for (x, to) in x.chunks(width).zip(to.chunks_mut(width.div_ceil(2))) {
        row(x, to);
    }
}

#[inline(always)]
fn rounded(x: &[f32], to: &mut [f32]) {
    for (x, to) in x.chunks(2).zip(to) {
        *to = pair(x[0], x.get(1).copied().unwrap_or(0.0));
    }
}

/// # Safety
/// The processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn pairs_avx2(x: &[f32], width: usize, to: &mut [f32]) {
    pairs_of(x, width, to, rounded);
}

/// # Safety
/// The processor has AVX-512 and its bfloat16 part.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512bf16,avx2,fma")]
unsafe fn pairs_native(x: &[f32], width: usize, to: &mut [f32]) {
    use super::simd::Avx512;
    pairs_of(x, width, to, |x, to| {
        let whole = x.len() / 16 * 16;
        for at in (0..whole).step_by(16) {
            // SAFETY: 16 inputs are readable, and 8 places for their pairs writable.
            unsafe {
                Native::store(to[at / 2..at / 2 + 8].as_mut_ptr(), Avx512::load(x[at..at + 16].as_ptr()))
            };
        }
        rounded(&x[whole..], &mut to[whole / 2..]);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hard() -> Vec<f32> {
        let mut all: Vec<f32> =
            (0..4000u32).map(|i| f32::from_bits(i.wrapping_mul(1_073_807) ^ i << 13)).collect();
        all.extend([
            0.0,
            -0.0,
            1.0,
            f32::MAX,
            f32::MIN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            1e-40,
            -1e-40,
        ]);
        all.extend(
            [0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x3f80_7fff, 0x7f7f_ffff, 0x7fff_ffff]
                .map(f32::from_bits),
        );
        all
    }

    #[test]
    fn rounding_is_to_the_nearest_and_even() {
        for x in hard() {
            let got = f32::from_bits(u32::from(round(x)) << 16);
            match () {
                () if x.is_nan() => assert!(got.is_nan()),
                () if x != 0.0 && !x.is_normal() && x.is_finite() => assert_eq!(got, 0.0),
                () => assert_eq!(round(x), half::bf16::from_f32(x).to_bits(), "{x}"),
            }
        }
    }

    /// The instructions and the portable code make the same pairs, including padded rows.
    #[test]
    fn pairs_are_the_same_everywhere() {
        let x = hard();
        for width in [1, 2, 3, 16, 17, 40, 64] {
            let x = &x[..x.len() / width * width];
            let make = |isa| {
                let mut to = vec![f32::NAN; x.len() / width * width.div_ceil(2)];
                pairs(isa, x, width, &mut to);
                to.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
            };
            let all: Vec<_> = Isa::available().into_iter().map(make).collect();
            assert!(all.windows(2).all(|w| w[0] == w[1]), "{width}");
        }
    }
}
