//! [`Picture`]: one decoded image before preprocessing.

use super::Pixels;

/// One decoded image, interleaved: (H, W, C) row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Height and width, both at least 1.
    pub size: [usize; 2],
    /// 1 (grey) or 3 (RGB, in that order).
    pub channels: usize,
    /// 8-bit values, or floats in [0, 1].
    pub pixels: Pixels,
}

impl Picture {
    /// A picture of bytes.
    pub fn of_bytes(size: [usize; 2], channels: usize, bytes: Vec<u8>) -> Self {
        Self { size, channels, pixels: Pixels::U8(bytes) }
    }

    /// As grey (1) or RGB (3), as Pillow's `convert`: grey to RGB by repetition, RGB to grey by ITU-R 601 luma.
    pub(super) fn converted(self, channels: usize) -> Self {
        let pixels = match (self.channels, channels) {
            (3, 1) => match &self.pixels {
                Pixels::U8(values) => {
                    Pixels::U8(values.chunks_exact(3).map(|p| luma(p[0], p[1], p[2])).collect())
                }
                Pixels::F32(values) => Pixels::F32(
                    values.chunks_exact(3).map(|p| 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2]).collect(),
                ),
            },
            (1, 3) => match &self.pixels {
                Pixels::U8(values) => Pixels::U8(values.iter().flat_map(|&v| [v; 3]).collect()),
                Pixels::F32(values) => Pixels::F32(values.iter().flat_map(|&v| [v; 3]).collect()),
            },
            _ => return self,
        };
        Self { size: self.size, channels, pixels }
    }

    /// The values as (C, H, W), the channels in reverse order if `reversed`.
    pub(super) fn planes(self, reversed: bool) -> Pixels {
        match self.pixels {
            pixels if self.channels == 1 => pixels,
            Pixels::U8(values) => Pixels::U8(apart(&values, reversed)),
            Pixels::F32(values) => Pixels::F32(apart(&values, reversed)),
        }
    }
}

/// Three channels one after the other.
fn apart<T: Copy + Default>(values: &[T], reversed: bool) -> Vec<T> {
    let (pixels, _) = values.as_chunks::<3>();
    let mut out = vec![T::default(); values.len()];
    let (first, rest) = out.split_at_mut(pixels.len());
    let (second, third) = rest.split_at_mut(pixels.len());
    let (red, blue) = if reversed { (third, first) } else { (first, third) };
    for (((&[r, g, b], red), green), blue) in pixels.iter().zip(red).zip(second).zip(blue) {
        (*red, *green, *blue) = (r, g, b);
    }
    out
}

/// ITU-R 601 luma in Pillow's fixed point.
fn luma(r: u8, g: u8, b: u8) -> u8 {
    ((u32::from(r) * 19_595 + u32::from(g) * 38_470 + u32::from(b) * 7_471 + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luma_is_pillows() {
        assert_eq!(luma(255, 255, 255), 255);
        assert_eq!(luma(255, 0, 0), 76);
        assert_eq!(luma(0, 255, 0), 150);
        assert_eq!(luma(0, 0, 255), 29);
        assert_eq!(luma(12, 200, 99), 132);
    }

    #[test]
    fn channels_become_planes_in_either_order() {
        let rgb = Picture::of_bytes([1, 2], 3, vec![1, 2, 3, 4, 5, 6]);
        assert_eq!(rgb.clone().planes(false), Pixels::U8(vec![1, 4, 2, 5, 3, 6]));
        assert_eq!(rgb.clone().planes(true), Pixels::U8(vec![3, 6, 2, 5, 1, 4]));
        let grey = rgb.clone().converted(1);
        assert_eq!((grey.channels, &grey.pixels), (1, &Pixels::U8(vec![luma(1, 2, 3), luma(4, 5, 6)])));
        assert_eq!(grey.converted(3).pixels.len(), 6);
    }
}
