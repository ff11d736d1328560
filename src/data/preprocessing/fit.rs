//! [`Target`]: converts a decoded image to what the network is fed, before normalisation.

use super::{
    super::{Picture, Pixels},
    resize::{crop, resized},
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
            Crop::Center(size) | Crop::Border(size) => size.or(self.size).unwrap_or(scaled),
        };
        // a preset's crop gives way to the network's size
        (scaled, if self.crop == Crop::None { cropped } else { self.size.unwrap_or(cropped) })
    }

    /// The picture as (C, H, W), row-major, of [`Target::size`].
    ///
    /// # Errors
    /// What is wrong: another size although nothing resizes; a size that is too large.
    pub(in crate::data) fn apply(&self, picture: Picture) -> Result<Pixels, String> {
        let gray = self.order == ChannelOrder::Gray && self.channels == 3;
        let picture = picture.converted(if gray { 1 } else { self.channels });
        let (scaled, cropped) = self.sizes(picture.size);
        let [h, w] = self.size.unwrap_or(cropped);
        if cropped != [h, w] {
            let [oh, ow] = cropped;
            let hint = match (self.resize, self.crop) {
                (Resize::Never, Crop::None) => "set `resize`, `size` or `preset` to resize images",
                _ => "`resize` and `crop` do not lead to the size of the network's input",
            };
            return Err(format!("is {oh}x{ow}, expected {h}x{w}; {hint}"));
        }
        if scaled.iter().any(|side| *side == 0 || *side > 2 * super::super::limits::SIDE as usize) {
            return Err(format!("would be resized to {}x{}", scaled[0], scaled[1]));
        }
        let picture = resized(picture, scaled, self.interpolation);
        let picture = crop(picture, [h, w], self.fill);
        let picture = if gray { picture.converted(3) } else { picture };
        Ok(picture.planes(self.order == ChannelOrder::Bgr))
    }
}

/// Size of an image of size `old` after `resize` for a network's input of size `target`.
fn scaled([h, w]: [usize; 2], resize: Resize, target: [usize; 2]) -> [usize; 2] {
    let wanted = |extent: Extent| match extent {
        Extent::Target => target,
        Extent::Pixels(size) => size,
        Extent::CropPct(share) => target.map(|side| (side as f64 / share).floor() as usize),
    };
    // torchvision: the other side is int(wanted * long / short)
    let edge = |to: usize, this: usize, other: usize| (to as f64 * other as f64 / this as f64) as usize;
    match resize {
        Resize::Never => [h, w],
        Resize::Stretch(extent) => wanted(extent),
        Resize::ShortestEdge(extent) => {
            let to = wanted(extent).into_iter().max().unwrap_or_default();
            if h <= w { [to, edge(to, h, w)] } else { [edge(to, w, h), to] }
        }
        Resize::LongestEdge(extent) => {
            let to = wanted(extent).into_iter().max().unwrap_or_default();
            if h >= w { [to, edge(to, h, w).max(1)] } else { [edge(to, w, h).max(1), to] }
        }
    }
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
    fn what_is_not_resized_must_fit() {
        let target = Target::of(1, Some([2, 3]));
        assert_eq!(target.apply(picture([2, 3])).unwrap(), Pixels::U8((0..6).collect()));
        assert!(target.apply(picture([3, 3])).unwrap_err().contains("is 3x3, expected 2x3"));
        let crop = Target { crop: Crop::Center(None), ..target };
        assert_eq!(crop.apply(picture([4, 3])).unwrap(), Pixels::U8((3..9).collect()));
        assert_eq!(crop.apply(picture([1, 1])).unwrap(), Pixels::U8(vec![0; 6]));
    }
}
