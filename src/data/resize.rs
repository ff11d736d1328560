//! Resizing, byte for byte as Pillow (and so torchvision): other filters change a network's accuracy.

use super::Resize;

/// An 8-bit image, (H, W, C) interleaved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub size: [usize; 2],
    pub channels: usize,
    pub bytes: Vec<u8>,
}

/// Resizes `picture` to `size` (H, W). With [`Resize::Never`] the sizes must be equal already.
pub fn fit(picture: Picture, size: [usize; 2], resize: Resize) -> Picture {
    match resize {
        _ if picture.size == size => picture,
        Resize::Never | Resize::Stretch => bilinear(picture, size),
        Resize::ShorterSide => {
            let [h, w] = picture.size;
            // torchvision: shorter side to 256, the longer one to int(256 * long / short), for a crop of 224
            let short = size[0].max(size[1]) * 8 / 7;
            let long = |side: usize| (short as f64 * side as f64 / h.min(w) as f64) as usize;
            let scaled = if h <= w { [short, long(w)] } else { [long(h), short] };
            crop(&bilinear(picture, scaled), size)
        }
    }
}

/// The centre crop; halves are rounded to even, as by Python's `round`.
fn crop(picture: &Picture, [h, w]: [usize; 2]) -> Picture {
    let start = |whole: usize, part: usize| ((whole - part) as f64 / 2.0).round_ties_even() as usize;
    let (top, left) = (start(picture.size[0], h), start(picture.size[1], w));
    let c = picture.channels;
    let row = picture.size[1] * c;
    let bytes = (top..top + h)
        .flat_map(|y| &picture.bytes[y * row + left * c..y * row + (left + w) * c])
        .copied()
        .collect();
    Picture { size: [h, w], channels: c, bytes }
}

/// Pillow's `resize(..., BILINEAR)`: a triangle filter that widens when shrinking, horizontally, then vertically, each
/// pass in fixed point and rounded to 8 bits. (Pillow 13 starts vertically if that is cheaper; networks were trained
/// with the rounding of earlier versions.)
fn bilinear(picture: Picture, [h, w]: [usize; 2]) -> Picture {
    let Picture { size: [old_h, old_w], channels: c, mut bytes } = picture;
    if old_w != w {
        let taps = taps(old_w, w);
        let mut out = Vec::with_capacity(old_h * w * c);
        for row in bytes.chunks_exact(old_w * c) {
            for (first, weights) in &taps {
                for channel in 0..c {
                    out.push(weigh(weights, |i| row[(first + i) * c + channel]));
                }
            }
        }
        bytes = out;
    }
    if old_h != h {
        let row = w * c;
        let mut out = Vec::with_capacity(h * row);
        for (first, weights) in &taps(old_h, h) {
            for at in 0..row {
                out.push(weigh(weights, |i| bytes[(first + i) * row + at]));
            }
        }
        bytes = out;
    }
    Picture { size: [h, w], channels: c, bytes }
}

/// Fraction bits of Pillow's fixed-point weights: 32 less 8 for the value and 2 for overshoot.
const FRACTION: u32 = 22;

fn weigh(weights: &[i32], value: impl Fn(usize) -> u8) -> u8 {
    let mut sum = 1i64 << (FRACTION - 1);
    for (i, &weight) in weights.iter().enumerate() {
        sum += i64::from(weight) * i64::from(value(i));
    }
    (sum >> FRACTION).clamp(0, 255) as u8
}

/// For each of `new` positions: the first of the `old` positions that it reads, and their weights.
fn taps(old: usize, new: usize) -> Vec<(usize, Vec<i32>)> {
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
            let fixed = weights.iter().map(|v| (0.5 + v / sum * f64::from(1 << FRACTION)) as i32);
            (first, fixed.collect())
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
        Picture { size: [h, w], channels: 3, bytes: bytes.collect() }
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
            let out = fit(picture(old[0], old[1]), new, Resize::Stretch);
            assert_eq!(out.size, new);
            assert_eq!(digest(&out.bytes), expected, "{old:?} to {new:?}");
        }
    }

    #[test]
    fn shorter_side_and_crop_give_torchvisions_bytes() {
        // `Resize(S * 8 // 7)` then `CenterCrop(S)`, on Pillow images
        for (old, side, expected) in [
            ([300, 401], 224, 0x5dd4_5df3_3f2b_9cfc),
            ([500, 333], 224, 0x6610_2b24_744a_7b9b),
            ([100, 131], 56, 0x9d98_f7ca_abe2_6390),
        ] {
            let out = fit(picture(old[0], old[1]), [side, side], Resize::ShorterSide);
            assert_eq!(digest(&out.bytes), expected, "{old:?} to {side}");
        }
    }

    #[test]
    fn the_right_size_is_left_alone() {
        let p = picture(32, 32);
        for resize in [Resize::Never, Resize::Stretch, Resize::ShorterSide] {
            assert_eq!(fit(p.clone(), [32, 32], resize), p);
        }
    }
}
