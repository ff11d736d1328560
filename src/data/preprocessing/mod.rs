//! [`Preprocessing`]: what happens to a decoded image before the network gets it. In this order: conversion to the
//! channels, resize, crop, normalisation, range.

mod config;
mod fit;
mod presets;
mod resize;
mod words;

pub use config::{Contradiction, Stated};
pub use fit::Target;
pub use presets::PRESETS;
pub(in crate::data) use resize::resized;
pub use words::{ChannelOrder, Crop, Extent, Interpolation, PIECES, Piece, PixelRange, Resize, sides};

use crate::{Error, Result};

/// Where a part of the preprocessing comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Not stated anywhere.
    #[default]
    Default,
    /// The preset of this name.
    Preset(&'static str),
    /// A file, by its name, with the field: `preprocessor_config.json`.
    File(String),
    /// Stated by the caller.
    Given,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Preset(name) => write!(f, "preset {name}"),
            Self::File(name) => f.write_str(name),
            Self::Given => f.write_str("given"),
        }
    }
}

/// Preprocessing of images. The input is ((pixel - mean) / std) mapped to `range`; pixels are in the 0-1 scale.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessing {
    /// The preset that its parts were taken from, unless they were stated otherwise.
    pub preset: Option<&'static str>,
    /// Height and width that the network is fed; a network with a static size takes precedence over a preset's.
    pub size: Option<[usize; 2]>,
    /// How images of another size are resized.
    pub resize: Resize,
    /// What is cut out afterwards.
    pub crop: Crop,
    /// Filter of the resize.
    pub interpolation: Interpolation,
    /// Order of the network's channels.
    pub channels: ChannelOrder,
    /// Range of the normalised pixels.
    pub range: PixelRange,
    /// One value per channel of the network in its order, or one for all; in the 0-1 scale.
    pub mean: Vec<f32>,
    /// As `mean`; positive.
    pub std: Vec<f32>,
    /// Where each of [`PIECES`] comes from.
    origins: [Origin; PIECES.len()],
}

impl Default for Preprocessing {
    /// Pixels in [0, 1] without normalisation; no resizing.
    fn default() -> Self {
        Self {
            preset: None,
            size: None,
            resize: Resize::Never,
            crop: Crop::None,
            interpolation: Interpolation::Bilinear,
            channels: ChannelOrder::Rgb,
            range: PixelRange::Normalized01,
            mean: vec![0.0],
            std: vec![1.0],
            origins: Default::default(),
        }
    }
}

impl Preprocessing {
    /// The usual preprocessing of a data set. `gtsrb` has no normalisation, as in backdoor benchmarks.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no such preset.
    pub fn preset(name: &str) -> Result<Self> {
        Self::default().with_preset(name)
    }

    /// Explicit normalisation. With a size, other images are stretched to it; without one, they are an error.
    ///
    /// # Errors
    /// As [`with`](Self::with) and [`check`](Self::check).
    pub fn new(mean: Vec<f32>, std: Vec<f32>, size: Option<[usize; 2]>) -> Result<Self> {
        let mut p = Self { mean, std, size, ..Self::default() };
        p.stated("mean", Origin::Given);
        p.stated("std", Origin::Given);
        if let Some([h, w]) = size {
            p = p.with("size", &format!("{h}x{w}"), Origin::Given)?;
        }
        p.check()?;
        Ok(p)
    }

    /// With the parts of a preset that were not stated yet; an explicit order of channels reverses its mean and std.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no such preset.
    pub fn with_preset(mut self, name: &str) -> Result<Self> {
        let (preset, pieces) = presets::of(name)?;
        for (part, text) in &pieces {
            if self.origin(part) == &Origin::Default {
                self = self.with(part, text, Origin::Preset(preset))?;
            }
        }
        if self.channels == ChannelOrder::Bgr {
            for (name, of_preset) in [("mean", true), ("std", false)] {
                if matches!(self.origin(name), Origin::Preset(_)) {
                    let values = if of_preset { &mut self.mean } else { &mut self.std };
                    values.reverse(); // a preset's are red first
                }
            }
        }
        self.preset = Some(preset);
        Ok(self)
    }

    /// With the part `name` of [`PIECES`] as in `text`. A size also stretches images to it, unless a resize or a crop
    /// is stated.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no such part or it does not take this value.
    pub fn with(mut self, name: &str, text: &str, origin: Origin) -> Result<Self> {
        let Some(piece) = Piece::named(name) else {
            let names = PIECES.iter().map(|piece| piece.name).collect::<Vec<_>>().join(", ");
            return Err(Error::setting(
                "preprocessing",
                format!("no part is named `{name}`; expected one of {names}"),
            ));
        };
        piece.set(&mut self, text).map_err(|problem| Error::setting(piece.name, problem))?;
        self.stated(piece.name, origin);
        let geometry = ["resize", "crop"].iter().all(|name| self.origin(name) == &Origin::Default);
        if name == "size" && geometry {
            self.resize = Resize::Stretch(Extent::Target);
        } else if name == "crop" && self.origin("resize") == &Origin::Default {
            self.resize = Resize::Never;
        }
        Ok(self)
    }

    fn stated(&mut self, name: &str, origin: Origin) {
        if let Some(at) = PIECES.iter().position(|piece| piece.name == name) {
            self.origins[at] = origin;
        }
    }

    /// Where the part `name` of [`PIECES`] comes from.
    pub fn origin(&self, name: &str) -> &Origin {
        let at = PIECES.iter().position(|piece| piece.name == name);
        at.map_or(&Origin::Default, |at| &self.origins[at])
    }

    /// Each part with its value as text and its origin.
    pub fn parts(&self) -> impl Iterator<Item = (&'static Piece, String, &Origin)> {
        PIECES.iter().zip(&self.origins).map(|(piece, origin)| (piece, piece.show(self), origin))
    }

    /// Whether the normalisation was stated anywhere.
    pub fn is_stated(&self) -> bool {
        ["mean", "std", "range"].iter().any(|name| self.origin(name) != &Origin::Default)
    }

    /// Checks the parts against each other.
    ///
    /// # Errors
    /// [`Error::Setting`]: values that are not finite, a std that is not positive, different counts, or a count other
    /// than 1 or 3.
    pub fn check(&self) -> Result<()> {
        for (field, values) in [("mean", &self.mean), ("std", &self.std)] {
            if !matches!(values.len(), 1 | 3) {
                return Err(Error::setting(field, format!("{} values, expected 1 or 3", values.len())));
            }
            if values.iter().any(|v| !v.is_finite()) {
                return Err(Error::setting(field, "values must be finite"));
            }
        }
        if self.mean.len() != self.std.len() && self.mean.len() != 1 && self.std.len() != 1 {
            let problem = format!("{} values, but `mean` has {}", self.std.len(), self.mean.len());
            return Err(Error::setting("std", problem));
        }
        if let Some(v) = self.std.iter().find(|v| **v <= 0.0 || !(1.0 / **v).is_finite()) {
            return Err(Error::setting("std", format!("{v} is not a positive number")));
        }
        if let Some(v) = self.mean.iter().find(|v| v.abs() > 2.0) {
            let problem =
                format!("{v}; mean and std are in the 0-1 scale: divide values for 0 to 255 by 255");
            return Err(Error::setting("mean", problem));
        }
        Ok(())
    }

    /// The target for a network with `channels` input channels and, if static, the input height and width `fixed`.
    ///
    /// # Errors
    /// [`Error::Setting`]: the normalisation has another number of channels, a stated size or crop contradicts the
    /// network's. [`Error::Input`]: the network has neither 1 nor 3 channels.
    pub fn target(&self, channels: usize, fixed: Option<[usize; 2]>) -> Result<Target> {
        if !matches!(channels, 1 | 3) {
            let problem = format!("has {channels} channels; only 1 (grey) and 3 (RGB) are supported");
            return Err(Error::invalid("model input", problem));
        }
        for (field, values) in [("mean", &self.mean), ("std", &self.std)] {
            if values.len() != 1 && values.len() != channels {
                let what = if matches!(self.origin(field), Origin::Preset(_)) { "preset" } else { field };
                let problem = format!("has {} channels, but the model's input has {channels}", values.len());
                return Err(Error::setting(what, problem));
            }
        }
        if channels == 1 && self.channels == ChannelOrder::Bgr {
            return Err(Error::setting("channels", "bgr, but the model's input has one channel"));
        }
        let size = self.size_for(fixed)?;
        Ok(Target {
            channels,
            size,
            resize: self.resize,
            crop: self.crop,
            interpolation: self.interpolation,
            order: self.channels,
            fill: self.fill(channels),
        })
    }

    /// The size of the network's input: its static one, else the stated one, the crop's, the resize's.
    fn size_for(&self, fixed: Option<[usize; 2]>) -> Result<Option<[usize; 2]>> {
        let cropped = match self.crop {
            Crop::Center(size) | Crop::CenterFloor(size) | Crop::Border(size) => size,
            Crop::None => None,
        };
        let stretched = match (self.resize, self.crop) {
            (Resize::Stretch(Extent::Pixels(size)), Crop::None) => Some(size),
            _ => None,
        };
        let stated = [("size", self.size), ("crop", cropped), ("resize", stretched)];
        let mut size = fixed;
        for (field, own) in stated {
            let Some([h, w]) = own else { continue };
            match size {
                Some([th, tw]) if [th, tw] != [h, w] => {
                    // the model's size takes precedence over a preset's, unless that is of certain weights
                    let origin = self.origin(field);
                    let yields =
                        matches!(origin, Origin::Preset(name) if !name.starts_with(presets::TORCHVISION));
                    if !yields {
                        let whose = if fixed.is_some() { "the model takes" } else { "`size` is" };
                        let by =
                            if origin == &Origin::Given { String::new() } else { format!(" ({origin})") };
                        return Err(Error::setting(field, format!("{h}x{w}{by}, but {whose} {th}x{tw}")));
                    }
                }
                Some(_) => {}
                None => size = Some([h, w]),
            }
        }
        Ok(size)
    }

    /// Colour of padding in a picture's own order of channels: the mean of [`Crop::Border`], else black.
    fn fill(&self, channels: usize) -> [u8; 3] {
        if !matches!(self.crop, Crop::Border(_)) {
            return [0; 3];
        }
        let reversed = self.channels == ChannelOrder::Bgr;
        std::array::from_fn(|c| {
            let c = if reversed { 2 - c } else { c };
            let mean = self.mean[if self.mean.len() == 1 { 0 } else { c.min(channels - 1) }];
            (mean.clamp(0.0, 1.0) * 255.0).round_ties_even() as u8 // Python's round, as timm
        })
    }

    /// What is subtracted from channel `c` of pixels in the 0-1 scale, the range included.
    pub fn mean_of(&self, c: usize) -> f32 {
        let (factor, offset) = self.range.affine();
        let mean = if self.mean.len() == 1 { self.mean[0] } else { self.mean[c] };
        if offset == 0.0 { mean } else { mean - offset * self.own_std(c) / factor }
    }

    /// What channel `c` is divided by after the subtraction, the range included.
    pub fn std_of(&self, c: usize) -> f32 {
        self.own_std(c) / self.range.affine().0
    }

    fn own_std(&self, c: usize) -> f32 {
        if self.std.len() == 1 { self.std[0] } else { self.std[c] }
    }

    /// Normalises `values` in place: any number of images of `shape` (C, H, W), row-major, pixels in [0, 1].
    pub fn normalize(&self, values: &mut [f32], shape: [usize; 3]) {
        let [c, h, w] = shape;
        if c * h * w == 0 {
            return;
        }
        for (plane, values) in values.chunks_mut(h * w).enumerate() {
            let (mean, std) = (self.mean_of(plane % c), self.std_of(plane % c));
            for v in values {
                *v = (*v - mean) / std; // as torchvision does: subtract, then divide
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_models_size_stands_above_a_presets_but_not_above_a_request() {
        let preset = Preprocessing::preset("imagenet").unwrap();
        let target = preset.target(3, Some([299, 299])).unwrap();
        assert_eq!(target.size, Some([299, 299]));
        assert_eq!(target.resize, Resize::ShortestEdge(Extent::CropPct(0.875)));
        assert_eq!(preset.target(3, None).unwrap().size, Some([224, 224]));
        let asked = Preprocessing::new(vec![0.5], vec![0.5], Some([32, 32])).unwrap();
        assert!(asked.target(3, Some([48, 48])).unwrap_err().to_string().contains("32x32"));
        assert!(preset.target(1, None).is_err());
        assert!(asked.target(1, None).is_ok());
        assert!(asked.target(4, None).is_err());
        let crop = preset.with("crop", "center:192", Origin::Given).unwrap();
        assert!(crop.target(3, Some([224, 224])).unwrap_err().to_string().contains("192x192"));
    }

    #[test]
    fn a_preset_can_be_overridden_piece_by_piece_before_and_after() {
        let given = |p: Preprocessing| p.with("interpolation", "bilinear", Origin::Given).unwrap();
        let p = given(Preprocessing::default()).with_preset("imagenet").unwrap();
        assert_eq!(p.origin("interpolation"), &Origin::Given);
        assert_eq!(p.origin("mean"), &Origin::Preset("imagenet"));
        let p = Preprocessing::preset("cifar10").unwrap().with("mean", "0.5", Origin::Given).unwrap();
        assert_eq!((p.mean_of(2), p.std_of(2)), (0.5, 0.2616));
        let p = Preprocessing::default().with("channels", "bgr", Origin::Given).unwrap();
        let p = p.with_preset("imagenet").unwrap();
        assert_eq!((p.mean_of(0), p.std_of(0)), (0.406, 0.225));
    }

    #[test]
    fn odd_values_are_refused() {
        let new = |m: &[f32], s: &[f32]| Preprocessing::new(m.to_vec(), s.to_vec(), None);
        assert!(new(&[0.5, 0.5], &[1.0, 1.0]).is_err());
        assert!(new(&[0.5], &[0.0]).is_err());
        assert!(new(&[0.5], &[-1.0]).is_err());
        assert!(new(&[f32::NAN], &[1.0]).is_err());
        assert!(new(&[0.5], &[1.0, 1.0, 1.0]).is_ok());
        assert!(new(&[123.7], &[58.4]).unwrap_err().to_string().contains("divide"));
        assert!(Preprocessing::new(vec![0.5], vec![0.5], Some([0, 32])).is_err());
        assert!(Preprocessing::default().with("gamma", "2", Origin::Given).is_err());
    }

    #[test]
    fn normalisation_is_per_channel_and_then_scaled_to_the_range() {
        let p = Preprocessing::new(vec![0.0, 0.5, 1.0], vec![1.0, 0.5, 2.0], None).unwrap();
        let mut values = vec![0.5; 12];
        p.normalize(&mut values, [3, 1, 2]);
        assert_eq!(values, [0.5, 0.5, 0.0, 0.0, -0.25, -0.25, 0.5, 0.5, 0.0, 0.0, -0.25, -0.25]);
        for (range, black, white) in
            [("0-255", 0.0, 255.0), ("normalized-1-1", -1.0, 1.0), ("16-235", 16.0, 235.0)]
        {
            let p = Preprocessing::default().with("range", range, Origin::Given).unwrap();
            let mut values = vec![0.0, 1.0];
            p.normalize(&mut values, [1, 1, 2]);
            assert!(
                (values[0] - black).abs() < 1e-4 && (values[1] - white).abs() < 1e-4,
                "{range} {values:?}"
            );
        }
    }
}
