//! Resizing, byte for byte as Pillow (and so torchvision): other filters change a network's accuracy.

use super::{
    super::{Picture, Pixels},
    words::Interpolation,
};

/// Resizes a picture to `size` (H, W); one of that size already is returned as it is.
pub fn resized(picture: Picture, size: [usize; 2], interpolation: Interpolation) -> Picture {
    if picture.size == size {
        return picture;
    }
    match interpolation {
        Interpolation::Bilinear => pillow(picture, size),
    }
}

/// The centre of `size` (H, W); where the picture is smaller it is padded with `fill` (red first). As torchvision's
/// `center_crop`: halves are rounded to even, as by Python's `round`.
pub fn crop(picture: Picture, size: [usize; 2], fill: [u8; 3]) -> Picture {
    if picture.size == size {
        return picture;
    }
    let pixels = match &picture.pixels {
        Pixels::U8(values) => {
            let fill = if picture.channels == 1 { [fill[0]; 3] } else { fill };
            Pixels::U8(cut(values, picture.size, size, &fill[..picture.channels]))
        }
        Pixels::F32(values) => {
            let fill = fill.map(|v| f32::from(v) / 255.0);
            Pixels::F32(cut(values, picture.size, size, &fill[..picture.channels]))
        }
    };
    Picture { size, pixels, ..picture }
}

fn cut<T: Copy>(values: &[T], [oh, ow]: [usize; 2], [h, w]: [usize; 2], fill: &[T]) -> Vec<T> {
    let c = fill.len();
    // torchvision pads first, (part - whole) / 2 rounded down before, then crops
    let padded = |whole: usize, part: usize| part.saturating_sub(whole) / 2;
    let start =
        |whole: usize, part: usize| (whole.saturating_sub(part) as f64 / 2.0).round_ties_even() as usize;
    let (above, left) = (padded(oh, h), padded(ow, w));
    let (top, first) = (start(oh, h), start(ow, w));
    let mut out = Vec::with_capacity(h * w * c);
    for y in 0..h {
        for x in 0..w {
            let at = (y + top)
                .checked_sub(above)
                .filter(|y| *y < oh)
                .zip((x + first).checked_sub(left).filter(|x| *x < ow));
            match at {
                Some((y, x)) => out.extend_from_slice(&values[(y * ow + x) * c..][..c]),
                None => out.extend_from_slice(fill),
            }
        }
    }
    out
}

/// Pillow's `resize(..., BILINEAR)`: a triangle filter that widens when shrinking, horizontally, then vertically, each
/// pass in fixed point and rounded to 8 bits. (Pillow 13 starts vertically if that is cheaper; networks were trained
/// with the rounding of earlier versions.) Floats are weighed in float64.
fn pillow(picture: Picture, [h, w]: [usize; 2]) -> Picture {
    let Picture { size: [old_h, old_w], channels: c, pixels } = picture;
    let pixels = match pixels {
        Pixels::U8(values) => Pixels::U8(passes(values, [old_h, old_w, c], [h, w], &fixed, weigh)),
        Pixels::F32(values) => {
            Pixels::F32(passes(values, [old_h, old_w, c], [h, w], &|weights| weights, |weights, value| {
                weights.iter().enumerate().map(|(i, weight)| weight * f64::from(value(i))).sum::<f64>() as f32
            }))
        }
    };
    Picture { size: [h, w], channels: c, pixels }
}

/// The horizontal and the vertical pass over (H, W, C) values.
fn passes<T: Copy, W>(
    mut values: Vec<T>,
    [old_h, old_w, c]: [usize; 3],
    [h, w]: [usize; 2],
    form: &dyn Fn(Vec<f64>) -> Vec<W>,
    weigh: fn(&[W], &dyn Fn(usize) -> T) -> T,
) -> Vec<T> {
    let formed = |old, new| taps(old, new).into_iter().map(|(first, weights)| (first, form(weights)));
    if old_w != w {
        let taps: Vec<_> = formed(old_w, w).collect();
        let mut out = Vec::with_capacity(old_h * w * c);
        for row in values.chunks_exact(old_w * c) {
            for (first, weights) in &taps {
                for channel in 0..c {
                    out.push(weigh(weights, &|i| row[(first + i) * c + channel]));
                }
            }
        }
        values = out;
    }
    if old_h != h {
        let row = w * c;
        let mut out = Vec::with_capacity(h * row);
        for (first, weights) in formed(old_h, h) {
            for at in 0..row {
                out.push(weigh(&weights, &|i| values[(first + i) * row + at]));
            }
        }
        values = out;
    }
    values
}

/// Fraction bits of Pillow's fixed-point weights: 32 less 8 for the value and 2 for overshoot.
const FRACTION: u32 = 22;

fn weigh(weights: &[i32], value: &dyn Fn(usize) -> u8) -> u8 {
    let mut sum = 1i64 << (FRACTION - 1);
    for (i, &weight) in weights.iter().enumerate() {
        sum += i64::from(weight) * i64::from(value(i));
    }
    (sum >> FRACTION).clamp(0, 255) as u8
}

/// Normalised weights in fixed point.
fn fixed(weights: Vec<f64>) -> Vec<i32> {
    weights.into_iter().map(|v| (0.5 + v * f64::from(1 << FRACTION)) as i32).collect()
}

/// For each of `new` positions: the first of the `old` positions that it reads, and their weights, which sum to 1.
fn taps(old: usize, new: usize) -> Vec<(usize, Vec<f64>)> {
    let scale = old as f64 / new as f64;
    let support = scale.max(1.0);
    let narrow = 1.0 / support;
    (0..new)
        .map(|at| {
            let centre = (at as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(old);
            let weights: Vec<f64> =
                (first..end).map(|i| (1.0 - ((i as f64 - centre + 0.5) * narrow).abs()).max(0.0)).collect();
            let sum: f64 = weights.iter().sum();
            (first, weights.into_iter().map(|v| v / sum).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The picture that the expected values below were made from: `(x * 37 + y * 61 + channel * 17) % 256`.
    fn picture(h: usize, w: usize) -> Picture {
        let bytes = (0..h * w * 3).map(|i| {
            let (y, x, c) = (i / (3 * w), i / 3 % w, i % 3);
            ((x * 37 + y * 61 + c * 17) % 256) as u8
        });
        Picture::of_bytes([h, w], 3, bytes.collect())
    }

    /// FNV-1a, so that a whole picture is one number.
    fn digest(picture: &Picture) -> u64 {
        let Pixels::U8(bytes) = &picture.pixels else { panic!("floats") };
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
            let out = resized(picture(old[0], old[1]), new, Interpolation::Bilinear);
            assert_eq!(out.size, new);
            assert_eq!(digest(&out), expected, "{old:?} to {new:?}");
        }
    }

    #[test]
    fn a_resized_edge_and_a_crop_give_torchvisions_bytes() {
        // `Resize(S * 8 // 7)` then `CenterCrop(S)`, on Pillow images
        for (old, scaled, side, expected) in [
            ([300, 401], [256, 342], 224, 0x5dd4_5df3_3f2b_9cfc),
            ([500, 333], [384, 256], 224, 0x6610_2b24_744a_7b9b),
            ([100, 131], [64, 83], 56, 0x9d98_f7ca_abe2_6390),
        ] {
            let out = resized(picture(old[0], old[1]), scaled, Interpolation::Bilinear);
            assert_eq!(digest(&crop(out, [side, side], [0; 3])), expected, "{old:?} to {side}");
        }
    }
}
