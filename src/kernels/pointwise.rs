//! Fused element-wise passes over contiguous values; each reads and writes memory once. All are parallel, with the
//! same bytes for any number of threads.
//!
//! `x`, `y`, `dy`, `dx` of a call have equal length. Channels are the innermost axis, and their number is the length
//! of `scale`. A mask has one row per image ([`Bits`]).

use rayon::prelude::*;

use super::Bits;
use super::cpu::dispatch;

/// Floats per task; a multiple of 64.
const TASK: usize = 16 * 1024;

/// y = f(x).
pub fn map(x: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    assert_eq!(x.len(), y.len());
    y.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(y, x)| {
        dispatch(
            #[inline(always)]
            || y.iter_mut().zip(x).for_each(|(y, x)| *y = f(*x)),
        );
    });
}

/// x <- f(x).
pub fn map_in_place(x: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    x.par_chunks_mut(TASK).for_each(|x| {
        dispatch(
            #[inline(always)]
            || x.iter_mut().for_each(|x| *x = f(*x)),
        );
    });
}

/// y = f(a, b). For derivatives `a` is the saved value and `b` the gradient.
pub fn zip(a: &[f32], b: &[f32], y: &mut [f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    assert_eq!((a.len(), b.len()), (y.len(), y.len()));
    y.par_chunks_mut(TASK).zip(a.par_chunks(TASK)).zip(b.par_chunks(TASK)).for_each(|((y, a), b)| {
        dispatch(
            #[inline(always)]
            || y.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = f(*a, *b)),
        );
    });
}

/// a <- f(a, b).
pub fn zip_in_place(a: &mut [f32], b: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    assert_eq!(a.len(), b.len());
    a.par_chunks_mut(TASK).zip(b.par_chunks(TASK)).for_each(|(a, b)| {
        dispatch(
            #[inline(always)]
            || a.iter_mut().zip(b).for_each(|(a, b)| *a = f(*a, *b)),
        );
    });
}

/// y = a + b.
pub fn add(a: &[f32], b: &[f32], y: &mut [f32]) {
    zip(a, b, y, |a, b| a + b);
}

/// a <- a + b.
pub fn add_in_place(a: &mut [f32], b: &[f32]) {
    zip_in_place(a, b, |a, b| a + b);
}

/// y = x * factor.
pub fn scale(x: &[f32], factor: f32, y: &mut [f32]) {
    map(x, y, |x| x * factor);
}

#[inline(always)]
fn cut(x: f32) -> f32 {
    // NaN stays NaN
    if x < 0.0 { 0.0 } else { x }
}

/// Calls `f` with parts of the mask's rows and the range of elements that each covers.
fn masked_parts(len: usize, mask: &mut Bits, f: impl Fn(std::ops::Range<usize>, &mut [u64]) + Sync) {
    let (rows, bits, words) = (mask.rows(), mask.bits_per_row(), mask.words_per_row());
    assert_eq!(len, rows * bits);
    if len == 0 {
        return;
    }
    mask.words_mut().par_chunks_mut(words).enumerate().for_each(|(row, part)| {
        part.par_chunks_mut(TASK / 64).enumerate().for_each(|(at, part)| {
            let first = row * bits + at * TASK;
            f(first..(first + TASK).min((row + 1) * bits), part);
        });
    });
}

/// The bits of y > 0.
#[inline(always)]
fn positive_words(y: &[f32], words: &mut [u64]) {
    for (word, y) in words.iter_mut().zip(y.chunks(64)) {
        let mut bits = 0u64;
        if let Some(y) = y.first_chunk::<64>() {
            for (byte, y) in y.chunks_exact(8).enumerate() {
                let mut b = 0u64;
                for (i, v) in y.iter().enumerate() {
                    b |= u64::from(*v > 0.0) << i;
                }
                bits |= b << (byte * 8);
            }
        } else {
            for (i, v) in y.iter().enumerate() {
                bits |= u64::from(*v > 0.0) << i;
            }
        }
        *word = bits;
    }
}

/// Sets the mask to the bits of y > 0.
pub fn positive(y: &[f32], mask: &mut Bits) {
    masked_parts(y.len(), mask, |range, words| {
        dispatch(
            #[inline(always)]
            || positive_words(&y[range], words),
        );
    });
}

/// Writes y and its mask: `f` fills a part of y, given the range that it covers.
fn write_masked(
    y: &mut [f32],
    mask: Option<&mut Bits>,
    f: impl Fn(std::ops::Range<usize>, &mut [f32]) + Sync,
) {
    let Some(mask) = mask else {
        y.par_chunks_mut(TASK).enumerate().for_each(|(i, y)| {
            dispatch(
                #[inline(always)]
                || f(i * TASK..i * TASK + y.len(), y),
            );
        });
        return;
    };
    let (bits, words) = (mask.bits_per_row(), mask.words_per_row());
    assert_eq!(y.len(), mask.rows() * bits);
    if y.is_empty() {
        return;
    }
    let rows = y.par_chunks_mut(bits).zip(mask.words_mut().par_chunks_mut(words)).enumerate();
    rows.for_each(|(row, (y, words))| {
        let parts = y.par_chunks_mut(TASK).zip(words.par_chunks_mut(TASK / 64)).enumerate();
        parts.for_each(|(at, (y, words))| {
            let first = row * bits + at * TASK;
            dispatch(
                #[inline(always)]
                || {
                    f(first..first + y.len(), y);
                    positive_words(y, words);
                },
            );
        });
    });
}

/// y = max(x, 0), and the mask of y > 0.
pub fn relu(x: &[f32], y: &mut [f32], mask: Option<&mut Bits>) {
    assert_eq!(x.len(), y.len());
    write_masked(
        y,
        mask,
        #[inline(always)]
        |range, y| y.iter_mut().zip(&x[range]).for_each(|(y, x)| *y = cut(*x)),
    );
}

/// x <- max(x, 0), and the mask of x > 0.
pub fn relu_in_place(x: &mut [f32], mask: Option<&mut Bits>) {
    write_masked(
        x,
        mask,
        #[inline(always)]
        |_, x| x.iter_mut().for_each(|x| *x = cut(*x)),
    );
}

/// y = x * scale + shift by channel, with an optional Relu, and the mask of y > 0.
pub fn affine(x: &[f32], scale: &[f32], shift: &[f32], relu: bool, y: &mut [f32], mask: Option<&mut Bits>) {
    let c = scale.len();
    assert!(x.len() == y.len() && shift.len() == c && c > 0 && x.len().is_multiple_of(c));
    let low = if relu { 0.0 } else { f32::NEG_INFINITY };
    let one = move |x: f32, a: f32, b: f32| {
        let v = x * a + b;
        if v < low { low } else { v }
    };
    write_masked(
        y,
        mask,
        #[inline(always)]
        |range, y| {
            by_channel(range.start, c, y.len(), |at, channels| {
                let (y, x) = (&mut y[at.clone()], &x[range.start + at.start..range.start + at.end]);
                let (scale, shift) = (&scale[channels.clone()], &shift[channels]);
                for (((y, x), a), b) in y.iter_mut().zip(x).zip(scale).zip(shift) {
                    *y = one(*x, *a, *b);
                }
            });
        },
    );
}

/// x <- x * scale + shift by channel, with an optional Relu, and the mask of x > 0.
pub fn affine_in_place(x: &mut [f32], scale: &[f32], shift: &[f32], relu: bool, mask: Option<&mut Bits>) {
    let c = scale.len();
    assert!(shift.len() == c && c > 0 && x.len().is_multiple_of(c));
    let low = if relu { 0.0 } else { f32::NEG_INFINITY };
    write_masked(
        x,
        mask,
        #[inline(always)]
        |range, x| {
            by_channel(range.start, c, x.len(), |at, channels| {
                let (scale, shift) = (&scale[channels.clone()], &shift[channels]);
                for ((x, a), b) in x[at].iter_mut().zip(scale).zip(shift) {
                    let v = *x * a + b;
                    *x = if v < low { low } else { v };
                }
            });
        },
    );
}

/// Splits `len` elements from `first` on at pixel boundaries: calls `f` with the elements (from 0) and their
/// channels.
#[inline(always)]
fn by_channel(
    first: usize,
    channels: usize,
    len: usize,
    mut f: impl FnMut(std::ops::Range<usize>, std::ops::Range<usize>),
) {
    let mut at = 0;
    let mut channel = first % channels;
    while at < len {
        let step = (channels - channel).min(len - at);
        f(at..at + step, channel..channel + step);
        at += step;
        channel = 0;
    }
}

/// x if the bit is set, else 0 (also for NaN and infinities).
#[inline(always)]
fn keep(x: f32, bit: bool) -> f32 {
    f32::from_bits(x.to_bits() & u32::from(bit).wrapping_neg())
}

/// Applies a row's words to a part of the row.
#[inline(always)]
fn apply(dx: &mut [f32], words: &[u64]) {
    for (dx, &word) in dx.chunks_mut(64).zip(words) {
        for (eight, dx) in dx.chunks_mut(8).enumerate() {
            let bits = (word >> (eight * 8)) as u32;
            if let Ok(dx) = <&mut [f32; 8]>::try_from(&mut *dx) {
                for (i, dx) in dx.iter_mut().enumerate() {
                    *dx = keep(*dx, bits >> i & 1 != 0);
                }
            } else {
                for (i, dx) in dx.iter_mut().enumerate() {
                    *dx = keep(*dx, bits >> i & 1 != 0);
                }
            }
        }
    }
}

/// dx = dy where the mask is set, else 0.
pub fn masked(dy: &[f32], mask: &Bits, dx: &mut [f32]) {
    assert_eq!(dy.len(), dx.len());
    read_masked(
        dx,
        mask,
        #[inline(always)]
        |range, dx, words| {
            dx.copy_from_slice(&dy[range]);
            apply(dx, words);
        },
    );
}

/// dx <- dx where the mask is set, else 0.
pub fn masked_in_place(dx: &mut [f32], mask: &Bits) {
    read_masked(
        dx,
        mask,
        #[inline(always)]
        |_, dx, words| apply(dx, words),
    );
}

fn read_masked(dx: &mut [f32], mask: &Bits, f: impl Fn(std::ops::Range<usize>, &mut [f32], &[u64]) + Sync) {
    let bits = mask.bits_per_row();
    assert_eq!(dx.len(), mask.rows() * bits);
    if dx.is_empty() {
        return;
    }
    dx.par_chunks_mut(bits).enumerate().for_each(|(row, dx)| {
        let words = mask.row(row);
        dx.par_chunks_mut(TASK).enumerate().for_each(|(at, dx)| {
            let first = row * bits + at * TASK;
            dispatch(
                #[inline(always)]
                || f(first..first + dx.len(), dx, &words[at * (TASK / 64)..]),
            );
        });
    });
}

/// The input gradient of [`affine`]: dx = dy * scale by channel where the mask is set, else 0.
pub fn affine_grad(dy: &[f32], scale: &[f32], mask: Option<&Bits>, dx: &mut [f32]) {
    let c = scale.len();
    assert!(dy.len() == dx.len() && c > 0 && dy.len().is_multiple_of(c));
    let fill = |range: std::ops::Range<usize>, dx: &mut [f32]| {
        let dy = &dy[range.clone()];
        by_channel(range.start, c, dx.len(), |at, channels| {
            for ((dx, dy), a) in dx[at.clone()].iter_mut().zip(&dy[at]).zip(&scale[channels]) {
                *dx = dy * a;
            }
        });
    };
    match mask {
        None => write_masked(dx, None, fill),
        Some(mask) => read_masked(
            dx,
            mask,
            #[inline(always)]
            |range, dx, words| {
                fill(range, dx);
                apply(dx, words);
            },
        ),
    }
}

/// [`affine_grad`] in place: dx <- dx * scale by channel where the mask is set, else 0.
pub fn affine_grad_in_place(dx: &mut [f32], scale: &[f32], mask: Option<&Bits>) {
    let c = scale.len();
    assert!(c > 0 && dx.len().is_multiple_of(c));
    let times = |first: usize, dx: &mut [f32]| {
        by_channel(first, c, dx.len(), |at, channels| {
            dx[at].iter_mut().zip(&scale[channels]).for_each(|(dx, a)| *dx *= a);
        });
    };
    match mask {
        None => write_masked(dx, None, |range, dx| times(range.start, dx)),
        Some(mask) => read_masked(
            dx,
            mask,
            #[inline(always)]
            |range, dx, words| {
                times(range.start, dx);
                apply(dx, words);
            },
        ),
    }
}

/// e^x for any x, accurate to about one unit in the last place, in vectorisable operations.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // e^x = 2^k e^r with
    // r
    // <= ln 2 / 2; ln 2 is split in two so that r keeps its precision
    let clamped = if x > 89.0 { 89.0 } else { x };
    let clamped = if clamped < -104.0 { -104.0 } else { clamped };
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let k = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = clamped - k * 0.693_359_4;
    let r = r - k * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4f32;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    // 2^k as two factors: k alone may exceed the range of exponents
    let k = k as i32;
    let half = k >> 1;
    let power = |k: i32| f32::from_bits(((k + 127) as u32) << 23);
    p * power(half) * power(k - half)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid_of(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}
