//! Resizing as Pillow's and PyTorch's, byte for byte: other filters change a network's accuracy. Only the part that a
//! crop keeps is computed.

use std::{f64::consts::PI, ops::Range};

use super::words::Interpolation;

/// Most bytes of rows in work; beyond it are only pictures squeezed from thousands of rows to a few that are as wide.
const WORK: usize = 64 << 20;

/// The part `[rows, columns]` of an image (H, W, C) of `old` (H, W) after it was resized to `new`, as (H, W, C).
///
/// # Errors
/// The work takes more memory than an image may.
pub(in crate::data) fn resized<V: Value>(
    values: &[V],
    channels: usize,
    old: [usize; 2],
    new: [usize; 2],
    part: [Range<usize>; 2],
    filter: Interpolation,
) -> Result<Vec<V>, String> {
    match channels {
        1 => of_channels::<V, 1>(values, old, new, part, filter),
        _ => of_channels::<V, 3>(values, old, new, part, filter),
    }
}

fn of_channels<V: Value, const C: usize>(
    values: &[V],
    old: [usize; 2],
    new: [usize; 2],
    [rows, columns]: [Range<usize>; 2],
    filter: Interpolation,
) -> Result<Vec<V>, String> {
    let kernel = match filter {
        Interpolation::Nearest => return Ok(picked::<V, C>(values, old, new, [rows, columns], centres)),
        Interpolation::TorchNearest => return Ok(picked::<V, C>(values, old, new, [rows, columns], corners)),
        Interpolation::Box => Kernel::pillow(0.5, |x| if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 }),
        Interpolation::Bilinear => Kernel::pillow(1.0, triangle),
        Interpolation::Hamming => Kernel::pillow(1.0, hamming),
        Interpolation::Bicubic => Kernel::pillow(2.0, |x| cubic(-0.5, x)),
        Interpolation::Lanczos => Kernel::pillow(3.0, lanczos),
        Interpolation::TorchBilinear => Kernel { widens: false, ..Kernel::torch(1.0, triangle) },
        Interpolation::TorchBicubic => Kernel { widens: false, ..Kernel::torch(2.0, |x| cubic(-0.75, x)) },
        Interpolation::TorchAntialiasBilinear => Kernel::torch(1.0, triangle),
        Interpolation::TorchAntialiasBicubic => Kernel::torch(2.0, |x| cubic(-0.5, x)),
        Interpolation::TorchAntialiasLanczos => Kernel::torch(3.0, lanczos),
    };
    // a side that stays as it is has no pass
    let taps = |side: usize, part: &Range<usize>| {
        (old[side] != new[side]).then(|| Taps::new(&kernel, old[side], new[side], part.clone()))
    };
    let (down, across) = (taps(0, &rows), taps(1, &columns));
    passes::<V, C>(values, old[1], down, across, [rows, columns])
}

/// A filter and what is made of it.
struct Kernel {
    /// In pixels of the smaller of both images if it widens, else of the old one.
    reach: f64,
    filter: fn(f64) -> f64,
    /// Whether it widens when shrinking (antialiasing).
    widens: bool,
    /// Bits of the fraction of weights in fixed point; None: as many as leave the largest weight in 16 bits.
    bits: Option<u32>,
}

impl Kernel {
    fn pillow(reach: f64, filter: fn(f64) -> f64) -> Self {
        Self { reach, filter, widens: true, bits: Some(22) } // 32 less 8 for the value and 2 for overshoot
    }

    fn torch(reach: f64, filter: fn(f64) -> f64) -> Self {
        Self { reach, filter, widens: true, bits: None }
    }

    /// The first of `old` positions that position `at` of `new` ones reads, and the weights from there on.
    fn at(&self, old: usize, new: usize, at: usize) -> (usize, Vec<f64>) {
        let scale = old as f64 / new as f64;
        if self.widens {
            widened(old, scale, at, self.reach, self.filter)
        } else {
            plain(old, scale, at, self.reach as usize, self.filter)
        }
    }

    fn bits(&self, old: usize, new: usize) -> u32 {
        self.bits.unwrap_or_else(|| {
            let largest = (0..new).flat_map(|at| self.at(old, new, at).1).fold(0.0, f64::max);
            (0..22).find(|bits| 0.5 + largest * f64::from(1 << (bits + 1)) >= 32_768.0).unwrap_or(22)
        })
    }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn cubic(a: f64, x: f64) -> f64 {
    let x = x.abs();
    match x {
        _ if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        _ if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
        _ => 0.0,
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
}

fn hamming(x: f64) -> f64 {
    // Pillow's two numbers are float32
    let cosine = || f64::from(0.54f32) + f64::from(0.46f32) * (x * PI).cos();
    if x.abs() < 1.0 { sinc(x) * cosine() } else { 0.0 }
}

fn lanczos(x: f64) -> f64 {
    if x.abs() < 3.0 { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

/// A pixel's value with the arithmetic of its weighted sums.
pub(in crate::data) trait Value: Copy + Default {
    type Weight: Copy + Default;
    type Sum: Copy + Default;

    /// Weights as they are multiplied; in fixed point with `bits` of fraction.
    fn weights(exact: Vec<f64>, bits: u32) -> Vec<Self::Weight>;
    /// Half a unit, for rounding.
    fn half(bits: u32) -> Self::Sum;
    fn add(sum: Self::Sum, weight: Self::Weight, value: Self) -> Self::Sum;
    fn of(sum: Self::Sum, bits: u32) -> Self;
}

/// Fixed point, as Pillow and PyTorch compute bytes.
impl Value for u8 {
    type Weight = i32;
    type Sum = i32;

    fn weights(exact: Vec<f64>, bits: u32) -> Vec<i32> {
        let one = f64::from(1 << bits);
        exact.into_iter().map(|v| (v * one + f64::copysign(0.5, v)) as i32).collect()
    }

    fn half(bits: u32) -> i32 {
        1 << (bits - 1)
    }

    // weights of one position add up to less than 2 in magnitude: nothing wraps
    #[inline(always)]
    fn add(sum: i32, weight: i32, value: u8) -> i32 {
        sum.wrapping_add(weight.wrapping_mul(i32::from(value)))
    }

    #[inline(always)]
    fn of(sum: i32, bits: u32) -> u8 {
        (sum >> bits).clamp(0, 255) as u8
    }
}

/// Weights and sums in float64, as Pillow computes floats. Overshoot is kept.
impl Value for f32 {
    type Weight = f64;
    type Sum = f64;

    fn weights(exact: Vec<f64>, _: u32) -> Vec<f64> {
        exact
    }

    fn half(_: u32) -> f64 {
        0.0
    }

    #[inline(always)]
    fn add(sum: f64, weight: f64, value: f32) -> f64 {
        sum + weight * f64::from(value)
    }

    #[inline(always)]
    fn of(sum: f64, _: u32) -> f32 {
        sum as f32
    }
}

/// What one output position reads: the positions from `first` on, one for each of the weights.
struct Tap {
    first: usize,
    weights: Range<usize>,
}

/// For each output position what it reads, and all weights, which sum to 1 for each position.
struct Taps<V: Value> {
    taps: Vec<Tap>,
    weights: Vec<V::Weight>,
    bits: u32,
}

impl<V: Value> Taps<V> {
    /// For the positions `part` of `new` ones made of `old` ones.
    fn new(kernel: &Kernel, old: usize, new: usize, part: Range<usize>) -> Self {
        let (mut taps, mut all) = (Vec::with_capacity(part.len()), Vec::new());
        for at in part {
            let (first, weights) = kernel.at(old, new, at);
            taps.push(Tap { first, weights: all.len()..all.len() + weights.len() });
            all.extend(weights);
        }
        let bits = kernel.bits(old, new);
        Self { taps, weights: V::weights(all, bits), bits }
    }

    /// Most weights of a position.
    fn longest(&self) -> usize {
        self.taps.iter().map(|tap| tap.weights.len()).max().unwrap_or_default()
    }
}

/// Pillow's `precompute_coeffs`, and PyTorch's with antialiasing: what lies beyond the edges is left out.
fn widened(old: usize, scale: f64, at: usize, reach: f64, filter: fn(f64) -> f64) -> (usize, Vec<f64>) {
    let stretch = scale.max(1.0);
    let (reach, narrow, centre) = (reach * stretch, 1.0 / stretch, (at as f64 + 0.5) * scale);
    let first = (centre - reach + 0.5).max(0.0) as usize;
    let end = ((centre + reach + 0.5) as usize).min(old);
    let mut weights: Vec<f64> = (first..end).map(|i| filter((i as f64 - centre + 0.5) * narrow)).collect();
    let sum: f64 = weights.iter().sum();
    if sum != 0.0 {
        weights.iter_mut().for_each(|v| *v /= sum);
    }
    (first, weights)
}

/// PyTorch's without antialiasing, with half-pixel centres: the edge is repeated, so its weights fall to the pixels at the edge.
fn plain(old: usize, scale: f64, at: usize, reach: usize, filter: fn(f64) -> f64) -> (usize, Vec<f64>) {
    let mut source = scale * (at as f64 + 0.5) - 0.5;
    if reach == 1 {
        source = source.max(0.0); // the cubic one keeps its place between two repeated pixels
    }
    let below = source.floor().min((old - 1) as f64);
    let between = (source - below).clamp(0.0, 1.0);
    let start = below as isize + 1 - reach as isize;
    let inside = |i: isize| i.clamp(0, old as isize - 1) as usize;
    let first = inside(start);
    let mut weights = vec![0.0; inside(start + 2 * reach as isize - 1) - first + 1];
    for j in 0..2 * reach {
        let from_centre = (j as f64 + 1.0 - reach as f64) - between;
        weights[inside(start + j as isize) - first] += filter(from_centre);
    }
    (first, weights)
}

/// The horizontal, then the vertical pass, each rounded and cut to 0-255, as Pillow before 13. Pillow 13 starts vertically
/// where that is cheaper: 1 apart, but bicubic and Lanczos, whose overshoot is cut in between, up to 39 at drawn edges.
/// Rows are made when the vertical pass reads them and then forgotten, so that what is in work stays in the cache.
fn passes<V: Value, const C: usize>(
    values: &[V],
    old_width: usize,
    down: Option<Taps<V>>,
    across: Option<Taps<V>>,
    [rows, columns]: [Range<usize>; 2],
) -> Result<Vec<V>, String> {
    let width = columns.len() * C;
    let make = |row: usize, out: &mut [V]| {
        let row = &values[row * old_width * C..][..old_width * C];
        match &across {
            Some(taps) => horizontal::<V, C>(row, taps, out),
            None => out.copy_from_slice(&row[columns.start * C..][..width]),
        }
    };
    let mut out = vec![V::default(); rows.len() * width];
    let Some(down) = down else {
        for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
            make(row, out);
        }
        return Ok(out);
    };
    let depth = down.longest();
    if depth.saturating_mul(width * size_of::<V>()) > WORK {
        return Err(format!("would take {depth} rows of {} pixels in work", columns.len()));
    }
    // row i of the horizontal pass is kept at i % depth
    let (mut kept, mut made) = (vec![V::default(); depth * width], 0);
    let mut sums = vec![V::Sum::default(); width];
    for (tap, out) in down.taps.iter().zip(out.chunks_exact_mut(width)) {
        let end = tap.first + tap.weights.len();
        for row in tap.first.max(made)..end {
            make(row, &mut kept[row % depth * width..][..width]);
        }
        made = made.max(end);
        sums.fill(V::half(down.bits));
        for (row, &weight) in (tap.first..end).zip(&down.weights[tap.weights.clone()]) {
            let row = &kept[row % depth * width..][..width];
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum = V::add(*sum, weight, value);
            }
        }
        for (out, &sum) in out.iter_mut().zip(&sums) {
            *out = V::of(sum, down.bits);
        }
    }
    Ok(out)
}

/// One row: each output pixel's sum over the pixels that it reads.
fn horizontal<V: Value, const C: usize>(row: &[V], taps: &Taps<V>, out: &mut [V]) {
    let (pixels, _) = row.as_chunks::<C>();
    let (out, _) = out.as_chunks_mut::<C>();
    for (tap, out) in taps.taps.iter().zip(out) {
        let weights = &taps.weights[tap.weights.clone()];
        let mut sums = [V::half(taps.bits); C];
        for (pixel, &weight) in pixels[tap.first..].iter().zip(weights) {
            for c in 0..C {
                sums[c] = V::add(sums[c], weight, pixel[c]);
            }
        }
        *out = sums.map(|sum| V::of(sum, taps.bits));
    }
}

/// Each output pixel is one of the image's: the one that `place` names for its row and for its column.
fn picked<V: Value, const C: usize>(
    values: &[V],
    [old_h, old_w]: [usize; 2],
    [h, w]: [usize; 2],
    [rows, columns]: [Range<usize>; 2],
    place: fn(usize, usize, Range<usize>) -> Vec<usize>,
) -> Vec<V> {
    let columns = place(old_w, w, columns);
    let (pixels, _) = values.as_chunks::<C>();
    let mut out = Vec::with_capacity(rows.len() * columns.len() * C);
    for y in place(old_h, h, rows) {
        let row = &pixels[y * old_w..][..old_w];
        for &x in &columns {
            out.extend_from_slice(&row[x]);
        }
    }
    out
}

/// Pillow's nearest: the pixels that hold the centres, which it finds by adding up steps.
fn centres(old: usize, new: usize, part: Range<usize>) -> Vec<usize> {
    let step = old as f64 / new as f64;
    let mut centre = step * 0.5;
    let mut places = Vec::with_capacity(part.len());
    for at in 0..part.end {
        if at >= part.start {
            places.push((centre as usize).min(old - 1));
        }
        centre += step;
    }
    places
}

/// PyTorch's nearest, in float32.
fn corners(old: usize, new: usize, part: Range<usize>) -> Vec<usize> {
    let step = old as f32 / new as f32;
    part.map(|at| ((at as f32 * step) as usize).min(old - 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The picture that the expected values below were made from: `(x * 37 + y * 61 + channel * 17) % 256`.
    fn picture([h, w]: [usize; 2]) -> Vec<u8> {
        let value = |i: usize| ((i / 3 % w) * 37 + i / (3 * w) * 61 + i % 3 * 17) as u8;
        (0..h * w * 3).map(value).collect()
    }

    /// FNV-1a, so that a whole picture is one number.
    fn digest(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
    }

    #[test]
    fn bilinear_gives_pillows_bytes() {
        // Pillow, `Image.resize((w, h), Image.BILINEAR)`
        for (old, new, expected) in [
            ([40, 50], [32, 32], 0xde8b_801e_7269_5dfa),
            ([20, 24], [32, 32], 0xcb00_cedd_e154_8be9),
            ([50, 50], [100, 20], 0x685b_9eb8_f1ca_d09e),
            ([64, 64], [64, 31], 0xaf47_e3d9_b999_0679),
            ([1, 1], [4, 4], 0x9ea4_5420_b65a_e6b5),
        ] {
            let whole = new.map(|side| 0..side);
            let out = resized(&picture(old), 3, old, new, whole, Interpolation::Bilinear).unwrap();
            assert_eq!(digest(&out), expected, "{old:?} to {new:?}");
        }
    }

    #[test]
    fn a_part_has_the_pixels_of_the_whole() {
        let ([old_h, old_w], [h, w], [rows, columns]) = ([37, 23], [16, 41], [3..11, 6..40]);
        let old = [old_h, old_w];
        for &filter in Interpolation::ALL {
            let whole = resized(&picture(old), 3, old, [h, w], [0..h, 0..w], filter).unwrap();
            let part =
                resized(&picture(old), 3, old, [h, w], [rows.clone(), columns.clone()], filter).unwrap();
            let cut: Vec<u8> =
                rows.clone().flat_map(|y| &whole[(y * w + 6) * 3..(y * w + 40) * 3]).copied().collect();
            assert_eq!(part, cut, "{filter:?}");
        }
    }

    #[test]
    fn weights_sum_to_one() {
        for (old, new) in [(1, 9), (9, 1), (7, 16), (100, 13), (2, 2)] {
            for (reach, filter) in
                [(0.5, hamming as fn(f64) -> f64), (2.0, |x| cubic(-0.5, x)), (3.0, lanczos)]
            {
                let plain = Kernel { widens: false, ..Kernel::torch(2.0, |x| cubic(-0.75, x)) };
                for kernel in [Kernel::pillow(reach, filter), plain] {
                    for at in 0..new {
                        let (first, weights) = kernel.at(old, new, at);
                        assert!(first + weights.len() <= old);
                        assert!(
                            (weights.iter().sum::<f64>() - 1.0).abs() < 1e-12,
                            "{old} {new} {at} {weights:?}"
                        );
                    }
                }
            }
        }
    }
}
