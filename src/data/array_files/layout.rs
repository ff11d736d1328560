//! [`Layout`]: which dimension of an array of images is which.

use super::super::limits;

/// An array of images: (count, H, W, C), (count, C, H, W) or (count, H, W).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub count: usize,
    /// Height and width.
    pub size: [usize; 2],
    /// 1 or 3.
    pub channels: usize,
    /// Channels stand before height and width.
    pub first: bool,
}

impl Layout {
    /// The layout of an array of this shape.
    ///
    /// # Errors
    /// The shape is not that of images, may be read in two ways, or is beyond the limits.
    pub fn of(shape: &[usize]) -> Result<Self, String> {
        let channels = |side: usize| side == 1 || side == 3;
        let not = |what: &str| Err(format!("has the shape {shape:?}{what}"));
        let layout = match *shape {
            [_, a, _, b] if channels(a) && channels(b) => {
                return not(
                    ", in which the channels may be first or last; save one order that tells them apart",
                );
            }
            [count, channels_, h, w] if channels(channels_) => {
                Self { count, size: [h, w], channels: channels_, first: true }
            }
            [count, h, w, channels_] if channels(channels_) => {
                Self { count, size: [h, w], channels: channels_, first: false }
            }
            [_, _, _, 4] | [_, 4, _, _] => return not(": four channels; save RGB without alpha"),
            [a, _, b] if channels(a) || channels(b) => {
                return not(", which is one picture or a row of grey ones; save (count, H, W, C)");
            }
            [count, h, w] => Self { count, size: [h, w], channels: 1, first: false },
            [_, _] => return not(": flattened images; save them as (count, H, W, C) or (count, C, H, W)"),
            _ => {
                return not(
                    ", which is not that of images: (count, H, W, C), (count, C, H, W) or (count, H, W), C 1 or 3",
                );
            }
        };
        if layout.count > limits::FILES || layout.size.iter().any(|&side| side > limits::SIDE as usize) {
            let (files, side) = (limits::FILES, limits::SIDE);
            return not(&format!(", beyond {files} images of {side}x{side}"));
        }
        Ok(layout)
    }

    /// Values of one image.
    pub fn numel(&self) -> usize {
        self.size[0] * self.size[1] * self.channels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_told_apart_or_refused() {
        let of = |shape: &[usize]| {
            Layout::of(shape).map(|l| (l.count, l.size, l.channels, l.first)).map_err(|e| e.to_string())
        };
        assert_eq!(of(&[9, 3, 32, 30]).unwrap(), (9, [32, 30], 3, true));
        assert_eq!(of(&[9, 32, 30, 3]).unwrap(), (9, [32, 30], 3, false));
        assert_eq!(of(&[9, 1, 28, 28]).unwrap(), (9, [28, 28], 1, true));
        assert_eq!(of(&[9, 28, 28, 1]).unwrap(), (9, [28, 28], 1, false));
        assert_eq!(of(&[9, 28, 28]).unwrap(), (9, [28, 28], 1, false));
        assert!(of(&[9, 3, 32, 3]).unwrap_err().contains("first or last"));
        assert!(of(&[9, 1, 28, 1]).unwrap_err().contains("first or last"));
        assert!(of(&[9, 32, 32, 4]).unwrap_err().contains("alpha"));
        assert!(of(&[32, 32, 3]).unwrap_err().contains("one picture"));
        assert!(of(&[3, 32, 32]).unwrap_err().contains("one picture"));
        assert!(of(&[9, 3072]).unwrap_err().contains("flattened"));
        assert!(of(&[9]).unwrap_err().contains("not that of images"));
        assert!(of(&[9, 5, 32, 32]).unwrap_err().contains("not that of images"));
        assert!(of(&[9, 20_000, 32, 3]).unwrap_err().contains("beyond"));
        assert!(of(&[3_000_000, 2, 2, 3]).unwrap_err().contains("beyond"));
    }
}
