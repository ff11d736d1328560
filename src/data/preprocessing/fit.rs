//! [`Target`]: converts a decoded image to what the network is fed, before normalisation.

use std::ops::Range;

use super::{
    super::{Picture, Pixels, limits},
    resize::{Value, resized},
    words::{ChannelOrder, Crop, Extent, Interpolation, Resize},
};

/// The geometry and channels that images are converted to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// 1 (grey) or 3.
    pub channels: usize,
    /// Height and width. None: those of the images, which must all agree.
    pub size: Option<[usize; 2]>,
    /// How images are resized.
    pub resize: Resize,
    /// What is cut out afterwards.
    pub crop: Crop,
    /// Filter of the resize.
    pub interpolation: Interpolation,
    /// Order of the channels.
    pub order: ChannelOrder,
    /// Colour of padding, red first.
    pub fill: [u8; 3],
}

impl Target {
    /// Images of `channels` channels and, if given, of this size, neither resized nor cropped.
    pub fn of(channels: usize, size: Option<[usize; 2]>) -> Self {
        Self {
            channels,
            size,
            resize: Resize::Never,
            crop: Crop::None,
            interpolation: Interpolation::Bilinear,
            order: ChannelOrder::Rgb,
            fill: [0; 3],
        }
    }

    /// With the size of `picture` after all steps, unless a size is known.
    pub(in crate::data) fn sized_by(self, picture: &Picture) -> Self {
        let size = self.size.unwrap_or_else(|| self.sizes(picture.size).1);
        Self { size: Some(size), ..self }
    }

    /// Sizes of an image of size `old` after the resize and after the crop.
    fn sizes(&self, old: [usize; 2]) -> ([usize; 2], [usize; 2]) {
        let target = self.size.unwrap_or(old);
        let scaled = scaled(old, self.resize, target);
        let cropped = match self.crop {
            Crop::None => scaled,
            // a preset's crop gives way to the network's size
            Crop::Center(size) | Crop::CenterFloor(size) | Crop::Border(size) => {
                self.size.or(size).unwrap_or(scaled)
            }
        };
        (scaled, cropped)
    }

    /// The picture as (C, H, W), row-major, of [`Target::size`].
    ///
    /// # Errors
    /// What is wrong: another size although nothing resizes; a size that is too large.
    pub(in crate::data) fn apply(&self, picture: Picture) -> Result<Pixels, String> {
        let (scaled, cropped) = self.sizes(picture.size);
        self.check(picture.size, scaled, cropped)?;
        let picture = if self.order == ChannelOrder::Gray { picture.converted(1) } else { picture };
        // grey stays one channel until the end, unless it is padded with a colour
        let grey = picture.channels == 1 && self.fill == [self.fill[0]; 3];
        let picture = picture.converted(if grey { 1 } else { self.channels });
        let picture = self.fitted(picture, scaled, cropped)?;
        Ok(picture.converted(self.channels).planes(self.order == ChannelOrder::Bgr))
    }

    /// Whether an image of size `old` becomes one of the network's size, by steps that memory allows.
    fn check(&self, old: [usize; 2], scaled: [usize; 2], cropped: [usize; 2]) -> Result<(), String> {
        let ([h, w], [sh, sw], [ch, cw]) = (old, scaled, cropped);
        // what torchvision would make before it crops
        if sh.saturating_mul(sw) > (limits::SIDE as usize).pow(2) {
            let problem = "more pixels than an image may have; leave it out or set another `resize`";
            return Err(format!("is {h}x{w} and would be resized to {sh}x{sw}, {problem}"));
        }
        let bytes = ch.saturating_mul(cw).saturating_mul(self.channels);
        if bytes as u64 > limits::DECODER_BYTES {
            return Err(format!(
                "is {h}x{w} and would become {ch}x{cw}: {} MiB, more than the limit",
                bytes >> 20
            ));
        }
        match self.size {
            Some([th, tw]) if cropped != [th, tw] => Err(match (self.resize, self.crop) {
                (Resize::Never, Crop::None) => {
                    format!(
                        "is {h}x{w}, expected {th}x{tw}; set `resize`, `size` or `preset` to resize images"
                    )
                }
                _ => format!("is {h}x{w}, which `resize` makes {ch}x{cw}; expected {th}x{tw}: set `crop`"),
            }),
            _ => Ok(()),
        }
    }

    /// The picture resized to `scaled` and cut or padded to `cropped`; only what is kept is computed.
    fn fitted(&self, picture: Picture, scaled: [usize; 2], cropped: [usize; 2]) -> Result<Picture, String> {
        if picture.size == cropped && scaled == cropped {
            return Ok(picture);
        }
        let spans = std::array::from_fn(|side| self.span(scaled[side], cropped[side]));
        let fill = &self.fill[..picture.channels];
        let (channels, old) = (picture.channels, picture.size);
        let pixels = match &picture.pixels {
            Pixels::U8(values) => Pixels::U8(self.part(values, old, scaled, cropped, spans, fill)?),
            Pixels::F32(values) => {
                let fill: Vec<f32> = fill.iter().map(|&v| f32::from(v) / 255.0).collect();
                Pixels::F32(self.part(values, old, scaled, cropped, spans, &fill)?)
            }
        };
        Ok(Picture { size: cropped, channels, pixels })
    }

    fn part<V: Value>(
        &self,
        values: &[V],
        old: [usize; 2],
        scaled: [usize; 2],
        cropped: [usize; 2],
        [rows, columns]: [Span; 2],
        fill: &[V],
    ) -> Result<Vec<V>, String> {
        let kept = [rows.kept.clone(), columns.kept.clone()];
        let part = resized(values, fill.len(), old, scaled, kept, self.interpolation)?;
        let [h, w] = cropped;
        if part.len() == h * w * fill.len() {
            return Ok(part);
        }
        let mut out = fill.repeat(h * w);
        let row = columns.kept.len() * fill.len();
        for (y, from) in part.chunks_exact(row).enumerate() {
            let at = ((y + rows.before) * w + columns.before) * fill.len();
            out[at..at + row].copy_from_slice(from);
        }
        Ok(out)
    }

    /// What a side of `whole` pixels gives to one of `part`.
    fn span(&self, whole: usize, part: usize) -> Span {
        let Some(margin) = whole.checked_sub(part) else {
            return Span { kept: 0..whole, before: (part - whole) / 2 };
        };
        let start = match self.crop {
            Crop::CenterFloor(_) => margin / 2,
            _ => (margin as f64 / 2.0).round_ties_even() as usize,
        };
        Span { kept: start..start + part, before: 0 }
    }
}

/// Along one side, the pixels that a crop keeps and the number of pixels of padding before them.
struct Span {
    kept: Range<usize>,
    before: usize,
}

/// Size of an image of size `old` after `resize` for a network's input of size `target`; no side is 0.
fn scaled(old: [usize; 2], resize: Resize, target: [usize; 2]) -> [usize; 2] {
    let wanted = |extent: Extent| match extent {
        Extent::Target => target,
        Extent::Pixels(size) => size,
        Extent::CropPct(share) => target.map(|side| ((side as f64 / share).floor() as usize).max(1)),
    };
    let [h, w] = old;
    let (short, long) = (h.min(w), h.max(w));
    let lengthwise = |short: usize, long: usize| if h <= w { [short, long] } else { [long, short] };
    match resize {
        Resize::Never => old,
        Resize::Stretch(extent) => wanted(extent),
        Resize::ShortestEdge(extent) => match wanted(extent) {
            [to, other] if to == other => lengthwise(to, proportional(to, long, short)),
            to => by_ratio(old, to, f64::min),
        },
        Resize::LongestEdge(extent) => match wanted(extent) {
            [to, other] if to == other && !matches!(extent, Extent::CropPct(_)) => {
                lengthwise(proportional(to, short, long), to)
            }
            to => by_ratio(old, to, f64::max),
        },
    }
}

/// torchvision's `int(to * this / that)`, at least 1.
fn proportional(to: usize, this: usize, that: usize) -> usize {
    ((to as f64 * this as f64 / that as f64) as usize).max(1)
}

/// timm's `ResizeKeepRatio`: both sides divided by one of the two ratios to `to`, half-pixels to the even side.
fn by_ratio(old: [usize; 2], to: [usize; 2], which: fn(f64, f64) -> f64) -> [usize; 2] {
    let ratio = which(old[0] as f64 / to[0] as f64, old[1] as f64 / to[1] as f64);
    old.map(|side| ((side as f64 / ratio).round_ties_even() as usize).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(size: [usize; 2]) -> Picture {
        Picture::of_bytes(size, 1, (0..size[0] * size[1]).map(|i| i as u8).collect())
    }

    #[test]
    fn an_image_of_the_right_size_is_still_resized_before_a_crop() {
        let target = Target {
            size: Some([224, 224]),
            resize: Resize::ShortestEdge(Extent::CropPct(0.875)),
            crop: Crop::Center(None),
            ..Target::of(1, None)
        };
        assert_eq!(target.sizes([224, 224]), ([256, 256], [224, 224]));
        assert_eq!(target.sizes([300, 401]), ([256, 342], [224, 224]));
        assert_eq!(target.apply(picture([224, 224])).unwrap().len(), 224 * 224);
    }

    #[test]
    fn sides_are_rounded_as_by_the_library_that_has_the_rule() {
        use Extent::{CropPct, Pixels, Target};
        use Resize::{LongestEdge, ShortestEdge, Stretch};
        for (old, resize, target, expected) in [
            ([300, 401], ShortestEdge(Pixels([256; 2])), [224, 224], [256, 342]), // torchvision: 342.2
            ([501, 333], ShortestEdge(CropPct(0.875)), [224, 224], [385, 256]),   // timm, square: 385.2
            ([300, 401], ShortestEdge(CropPct(0.95)), [224, 192], [235, 314]),    // timm: 314.1
            ([300, 401], LongestEdge(Pixels([225; 2])), [224, 224], [168, 225]),  // torchvision: 168.3
            ([300, 401], LongestEdge(CropPct(0.9)), [224, 224], [186, 248]),      // timm: 185.5
            ([300, 400], LongestEdge(Target), [200, 230], [172, 230]),            // timm: 172.5
            ([1, 500], LongestEdge(Target), [32, 32], [1, 32]),
            ([500, 1], ShortestEdge(Target), [32, 32], [16_000, 32]),
            ([9, 9], Stretch(CropPct(10.0)), [5, 5], [1, 1]),
        ] {
            assert_eq!(scaled(old, resize, target), expected, "{old:?} {resize:?} {target:?}");
        }
    }

    #[test]
    fn grey_is_padded_with_the_mean_of_each_channel() {
        let border = Target { crop: Crop::Border(None), fill: [1, 2, 3], ..Target::of(3, Some([1, 2])) };
        for order in [ChannelOrder::Rgb, ChannelOrder::Gray] {
            let out = Target { order, ..border }.apply(picture([1, 1])).unwrap();
            assert_eq!(out, Pixels::U8(vec![0, 1, 0, 2, 0, 3]));
        }
    }

    #[test]
    fn half_of_an_odd_margin_is_rounded_as_by_the_library() {
        for (crop, expected) in [(Crop::Center(None), 2), (Crop::CenterFloor(None), 1)] {
            let target = Target { crop, ..Target::of(1, Some([1, 2])) };
            assert_eq!(target.apply(picture([1, 5])).unwrap(), Pixels::U8(vec![expected, expected + 1]));
        }
    }

    #[test]
    fn what_is_not_resized_must_fit() {
        let target = Target::of(1, Some([2, 3]));
        assert_eq!(target.apply(picture([2, 3])).unwrap(), Pixels::U8((0..6).collect()));
        assert!(target.apply(picture([3, 3])).unwrap_err().contains("is 3x3, expected 2x3"));
        let edge = Target { resize: Resize::ShortestEdge(Extent::Target), ..target };
        assert!(edge.apply(picture([3, 3])).unwrap_err().contains("makes 3x3; expected 2x3"));
        let crop = Target { crop: Crop::Center(None), ..target };
        assert_eq!(crop.apply(picture([4, 3])).unwrap(), Pixels::U8((3..9).collect()));
        assert_eq!(crop.apply(picture([1, 1])).unwrap(), Pixels::U8(vec![0; 6]));
    }
}
