//! The transforms of Winograd's F(4x4, 3x3): six inputs to six points, six points to four outputs, along both axes.
//!
//! The points 0, +-5/8, +-3/2 and infinity had the smallest rounding error of the pairs tried, about 1e-6 relative
//! (RMS, 128 channels), half that of the usual 1 and 2. All coefficients of these two transforms are exact in f32.

use super::Isa;
use super::bf16::{Emulated, Single, Term};
use super::finish::Finish;
use super::simd::Simd;
use crate::kernels::Precision;

/// Points per axis, and inputs of a tile per axis.
pub const POINTS: usize = 6;
/// Outputs of a tile per axis.
pub const OUTPUTS: usize = 4;

const A: f64 = 0.625;
const B: f64 = 1.5;

/// Transforms three weights to six points in f64, once per model, since it is the only transform that divides.
pub fn weights(g: [f64; 3]) -> [f64; POINTS] {
    let at = |p: f64| g[0] + p * (g[1] + p * g[2]);
    let (a2, b2) = (A * A, B * B);
    let (fa, fb) = (2.0 * a2 * (a2 - b2), 2.0 * b2 * (b2 - a2));
    [at(0.0) / (a2 * b2), at(A) / fa, at(-A) / fa, at(B) / fb, at(-B) / fb, g[2]]
}

/// Transforms six inputs to six points.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
unsafe fn points<S: Simd>(d: [S::V; POINTS]) -> [S::V; POINTS] {
    // SAFETY: upheld by the caller.
    unsafe {
        let c = |v: f64| S::splat(v as f32);
        let (a2, b2) = (A * A, B * B);
        let zero = S::mul_add(c(a2 * b2), d[0], S::mul_add(c(-a2 - b2), d[2], d[4]));
        let infinity = S::mul_add(c(a2 * b2), d[1], S::mul_add(c(-a2 - b2), d[3], d[5]));
        let (even, odd) = (S::mul_add(c(-b2), d[2], d[4]), S::mul_add(c(-b2), d[1], d[3]));
        let a = [S::mul_add(c(A), odd, even), S::mul_add(c(-A), odd, even)];
        let (even, odd) = (S::mul_add(c(-a2), d[2], d[4]), S::mul_add(c(-a2), d[1], d[3]));
        let b = [S::mul_add(c(B), odd, even), S::mul_add(c(-B), odd, even)];
        [zero, a[0], a[1], b[0], b[1], infinity]
    }
}

/// Transforms six points to four outputs.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
unsafe fn outputs<S: Simd>(m: [S::V; POINTS]) -> [S::V; OUTPUTS] {
    // SAFETY: upheld by the caller.
    unsafe {
        let c = |v: f64| S::splat(v as f32);
        let minus = |x, y| S::mul_add(c(-1.0), y, x);
        let (even_a, odd_a) = (S::add(m[1], m[2]), minus(m[1], m[2]));
        let (even_b, odd_b) = (S::add(m[3], m[4]), minus(m[3], m[4]));
        let zero = c(0.0);
        [
            S::add(S::add(m[0], even_a), even_b),
            S::mul_add(c(B), odd_b, S::mul_add(c(A), odd_a, zero)),
            S::mul_add(c(B * B), even_b, S::mul_add(c(A * A), even_a, zero)),
            S::mul_add(c(B * B * B), odd_b, S::mul_add(c(A * A * A), odd_a, m[5])),
        ]
    }
}

/// Input transform of one tile.
pub struct In<'a> {
    /// The tile's inputs, row by row: pointers to each pixel's channels.
    pub pixels: &'a [*const f32; POINTS * POINTS],
    /// Number of channels, a multiple of the vector's length.
    pub channels: usize,
    /// The tile's row in the first point's matrix: `channels` floats, or half as many for pairs.
    pub to: *mut f32,
    /// Stride between the points' matrices.
    pub step: usize,
}

/// # Safety
/// The processor has the instruction set; the pointers are valid for `channels` floats.
#[inline(always)]
unsafe fn transform_in<S: Simd, T: Term<S>>(t: &In) {
    // SAFETY: upheld by the caller.
    unsafe {
        for c in (0..t.channels).step_by(S::LANES) {
            let mut half = [[S::splat(0.0); POINTS]; POINTS];
            for (w, half) in half.iter_mut().enumerate() {
                let mut d = [S::splat(0.0); POINTS];
                for (h, d) in d.iter_mut().enumerate() {
                    *d = S::load(t.pixels[h * POINTS + w].add(c));
                }
                *half = points::<S>(d);
            }
            for h in 0..POINTS {
                let done =
                    points::<S>([half[0][h], half[1][h], half[2][h], half[3][h], half[4][h], half[5][h]]);
                for (w, v) in done.into_iter().enumerate() {
                    T::store(t.to.add((h * POINTS + w) * t.step + c / T::INPUTS), v);
                }
            }
        }
    }
}

/// Output transform of one tile.
pub struct Out<'a> {
    /// The tile's row in the first point's matrix.
    pub from: *const f32,
    /// Stride between the points' matrices.
    pub step: usize,
    /// Number of channels, a multiple of the vector's length.
    pub channels: usize,
    /// The tile's outputs, row by row: each pixel's offset in floats, `usize::MAX` outside the image.
    pub pixels: &'a [usize; OUTPUTS * OUTPUTS],
    /// Offsets of their masks, in bytes.
    pub masks: &'a [usize; OUTPUTS * OUTPUTS],
    /// By channel.
    pub bias: *const f32,
    /// The epilogue.
    pub finish: &'a Finish,
}

/// # Safety
/// The processor has the instruction set; the pointers are valid for `channels` floats at each pixel inside the
/// image, and
/// nothing else accesses the outputs during the call.
#[inline(always)]
unsafe fn transform_out<S: Simd>(t: &Out) {
    // SAFETY: upheld by the caller.
    unsafe {
        let f = *t.finish;
        let plain = f.plain();
        for c in (0..t.channels).step_by(S::LANES) {
            let mut half = [[S::splat(0.0); OUTPUTS]; POINTS];
            for (w, half) in half.iter_mut().enumerate() {
                let mut m = [S::splat(0.0); POINTS];
                for (h, m) in m.iter_mut().enumerate() {
                    *m = S::load(t.from.add((h * POINTS + w) * t.step + c));
                }
                *half = outputs::<S>(m);
            }
            let bias = S::load(t.bias.add(c));
            for h in 0..OUTPUTS {
                let row =
                    outputs::<S>([half[0][h], half[1][h], half[2][h], half[3][h], half[4][h], half[5][h]]);
                for (w, v) in row.into_iter().enumerate() {
                    let pixel = h * OUTPUTS + w;
                    let at = t.pixels[pixel];
                    if at == usize::MAX {
                        continue;
                    }
                    let v = S::add(v, bias);
                    if plain {
                        S::store(f.y.add(at + c), v);
                    } else {
                        f.store::<S>(at + c, c, t.masks[pixel] + c / 8, v);
                    }
                }
            }
        }
    }
}

macro_rules! compiled {
    ($into:ident, $half:ident, $out:ident, $simd:ty $(, $feature:literal)?) => {
        /// # Safety
        /// As [`transform_in`].
        $(#[target_feature(enable = $feature)])?
        unsafe fn $into(t: &In) {
            // SAFETY: upheld by the caller.
            unsafe { transform_in::<$simd, Single>(t) }
        }
        /// # Safety
        /// As [`transform_in`].
        $(#[target_feature(enable = $feature)])?
        unsafe fn $half(t: &In) {
            // SAFETY: upheld by the caller.
            unsafe { transform_in::<$simd, Emulated>(t) }
        }
        /// # Safety
        /// As [`transform_out`].
        $(#[target_feature(enable = $feature)])?
        unsafe fn $out(t: &Out) {
            // SAFETY: upheld by the caller.
            unsafe { transform_out::<$simd>(t) }
        }
    };
}

compiled!(in_portable, half_portable, out_portable, super::simd::Portable);
#[cfg(target_arch = "x86_64")]
compiled!(in_avx2, half_avx2, out_avx2, super::simd::Avx2, "avx2,fma");
#[cfg(target_arch = "x86_64")]
compiled!(in_avx512, half_avx512, out_avx512, super::simd::Avx512, "avx512f,avx512dq,avx2,fma");

/// # Safety
/// As [`transform_in`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512bf16,avx2,fma")]
unsafe fn half_native(t: &In) {
    // SAFETY: upheld by the caller.
    unsafe { transform_in::<super::simd::Avx512, super::bf16::Native>(t) }
}

/// Both transforms for an instruction set. With bfloat16, points are stored in pairs.
pub fn transforms(isa: Isa, precision: Precision) -> (unsafe fn(&In), unsafe fn(&Out)) {
    let half = precision == Precision::Bf16;
    match isa {
        Isa::Portable => (if half { half_portable } else { in_portable }, out_portable),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => (if half { half_avx2 } else { in_avx2 }, out_avx2),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if half && isa.bf16() => (half_native, out_avx512),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => (if half { half_avx512 } else { in_avx512 }, out_avx512),
    }
}
