//! Preprocessing: resizing and normalisation of decoded images.

use crate::{Error, Result};

/// Names of the presets of [`Preprocessing::preset`].
pub const PRESETS: [&str; 4] = ["cifar10", "gtsrb", "tiny-imagenet", "imagenet"];

/// How images are resized to the target size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// Not at all: an image of another size is an error.
    Never,
    /// Both sides independently, as torchvision's `Resize((h, w))`.
    Stretch,
    /// The shorter side to 8/7 of the target, then a centre crop, as torchvision's `Resize(256), CenterCrop(224)`.
    ShorterSide,
}

impl Resize {
    /// Name in reports: `never`, `stretch`, `shorter-side`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Stretch => "stretch",
            Self::ShorterSide => "shorter-side",
        }
    }
}

/// Size and normalisation: input = (pixel - mean) / std per channel, pixels in [0, 1].
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessing {
    /// The preset that these values come from.
    pub preset: Option<&'static str>,
    /// One value per channel, or one for all.
    pub mean: Vec<f32>,
    /// One value per channel, or one for all; positive.
    pub std: Vec<f32>,
    /// Requested height and width, if any.
    pub size: Option<[usize; 2]>,
    /// What happens to images of another size.
    pub resize: Resize,
    /// Whether the normalisation was requested explicitly.
    pub(crate) stated: bool,
}

/// The form that [`Folder::load`](super::Folder::load) converts images to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// Height and width. None: the size of the images, which must all agree.
    pub size: Option<[usize; 2]>,
    /// What happens to images of another size.
    pub resize: Resize,
}

impl Default for Preprocessing {
    /// Pixels in [0, 1] without normalisation; no resizing.
    fn default() -> Self {
        Self {
            preset: None,
            mean: vec![0.0],
            std: vec![1.0],
            size: None,
            resize: Resize::Never,
            stated: false,
        }
    }
}

impl Preprocessing {
    /// The usual normalisation and size of a data set. `gtsrb` has no normalisation, as in backdoor benchmarks; for
    /// models that differ, use [`new`](Self::new).
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no such preset.
    pub fn preset(name: &str) -> Result<Self> {
        let (preset, mean, std, side, resize): (_, [f32; 3], [f32; 3], _, _) = match name {
            "cifar10" => ("cifar10", [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616], 32, Resize::Stretch),
            "gtsrb" => ("gtsrb", [0.0; 3], [1.0; 3], 32, Resize::Stretch),
            "tiny-imagenet" => {
                ("tiny-imagenet", [0.4802, 0.4481, 0.3975], [0.2302, 0.2265, 0.2262], 64, Resize::Stretch)
            }
            "imagenet" => {
                ("imagenet", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 224, Resize::ShorterSide)
            }
            _ => {
                let problem = format!("no preset is named `{name}`; expected one of {}", PRESETS.join(", "));
                return Err(Error::setting("preset", problem));
            }
        };
        Ok(Self {
            preset: Some(preset),
            mean: mean.to_vec(),
            std: std.to_vec(),
            size: Some([side, side]),
            resize,
            stated: true,
        })
    }

    /// Explicit values. With a size, other images are stretched to it; without one, they are an error.
    ///
    /// # Errors
    /// [`Error::Setting`]: values that are not finite, a std that is not positive, different counts, or a count other
    /// than 1 or 3.
    pub fn new(mean: Vec<f32>, std: Vec<f32>, size: Option<[usize; 2]>) -> Result<Self> {
        for (field, values) in [("mean", &mean), ("std", &std)] {
            if !matches!(values.len(), 1 | 3) {
                return Err(Error::setting(field, format!("{} values, expected 1 or 3", values.len())));
            }
            if values.iter().any(|v| !v.is_finite()) {
                return Err(Error::setting(field, "values must be finite"));
            }
        }
        if mean.len() != std.len() {
            let problem = format!("{} values, but `mean` has {}", std.len(), mean.len());
            return Err(Error::setting("std", problem));
        }
        if let Some(v) = std.iter().find(|v| **v <= 0.0 || !(1.0 / **v).is_finite()) {
            return Err(Error::setting("std", format!("{v} is not a positive number")));
        }
        if let Some([h, w]) = size {
            let most = super::limits::SIDE as usize;
            if h == 0 || w == 0 || h > most || w > most {
                return Err(Error::setting("size", format!("{h}x{w}; both sides must be 1 to {most}")));
            }
        }
        let resize = if size.is_some() { Resize::Stretch } else { Resize::Never };
        Ok(Self { preset: None, mean, std, size, resize, stated: true })
    }

    /// Pixels in [0, 1], because no normalisation was requested; the pipeline checks on labelled images whether that
    /// fits.
    ///
    /// # Errors
    /// As [`new`](Self::new), about the size.
    pub fn as_they_are(size: Option<[usize; 2]>) -> Result<Self> {
        Ok(Self { stated: false, ..Self::new(vec![0.0], vec![1.0], size)? })
    }

    /// Whether the normalisation was requested explicitly.
    pub fn is_stated(&self) -> bool {
        self.stated
    }

    /// The target for a model with `channels` input channels and, if static, the input height and width `fixed`. The
    /// model's size takes precedence over a preset's.
    ///
    /// # Errors
    /// The normalisation has another number of channels, the requested size contradicts the model's, or the model has
    /// neither 1 nor 3 channels.
    pub fn target(&self, channels: usize, fixed: Option<[usize; 2]>) -> Result<Target> {
        if !matches!(channels, 1 | 3) {
            let problem = format!("has {channels} channels; only 1 (grey) and 3 (RGB) are supported");
            return Err(Error::invalid("model input", problem));
        }
        if self.mean.len() != 1 && self.mean.len() != channels {
            let what = if self.preset.is_some() { "preset" } else { "mean" };
            let problem = format!("has {} channels, but the model's input has {channels}", self.mean.len());
            return Err(Error::setting(what, problem));
        }
        let presets_own = self.preset.map(Self::preset).transpose()?.and_then(|p| p.size);
        if let (Some([h, w]), Some([fh, fw])) = (self.size, fixed)
            && [h, w] != [fh, fw]
            && self.size != presets_own
        {
            return Err(Error::setting("size", format!("{h}x{w}, but the model takes {fh}x{fw}")));
        }
        Ok(Target { channels, size: fixed.or(self.size), resize: self.resize })
    }

    /// Mean of channel `c`.
    pub fn mean_of(&self, c: usize) -> f32 {
        if self.mean.len() == 1 { self.mean[0] } else { self.mean[c] }
    }

    /// Standard deviation of channel `c`.
    pub fn std_of(&self, c: usize) -> f32 {
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
    fn every_preset_is_complete() {
        for name in PRESETS {
            let p = Preprocessing::preset(name).unwrap();
            assert_eq!(p.preset, Some(name));
            assert_eq!((p.mean.len(), p.std.len()), (3, 3));
            assert!(p.size.is_some());
        }
        assert!(Preprocessing::preset("mnist").unwrap_err().to_string().contains("tiny-imagenet"));
    }

    #[test]
    fn the_models_size_stands_above_a_presets_but_not_above_a_request() {
        let preset = Preprocessing::preset("imagenet").unwrap();
        let target = preset.target(3, Some([299, 299])).unwrap();
        assert_eq!((target.size, target.resize), (Some([299, 299]), Resize::ShorterSide));
        assert_eq!(preset.target(3, None).unwrap().size, Some([224, 224]));
        let asked = Preprocessing::new(vec![0.5], vec![0.5], Some([32, 32])).unwrap();
        assert!(asked.target(3, Some([48, 48])).unwrap_err().to_string().contains("32x32"));
        assert!(preset.target(1, None).is_err());
        assert!(asked.target(1, None).is_ok());
        assert!(asked.target(4, None).is_err());
    }

    #[test]
    fn odd_values_are_refused() {
        let new = |m: &[f32], s: &[f32]| Preprocessing::new(m.to_vec(), s.to_vec(), None);
        assert!(new(&[0.5, 0.5], &[1.0, 1.0]).is_err());
        assert!(new(&[0.5], &[0.0]).is_err());
        assert!(new(&[0.5], &[-1.0]).is_err());
        assert!(new(&[f32::NAN], &[1.0]).is_err());
        assert!(new(&[0.5], &[1.0, 1.0, 1.0]).is_err());
        assert!(Preprocessing::new(vec![0.5], vec![0.5], Some([0, 32])).is_err());
    }

    #[test]
    fn normalisation_is_per_channel() {
        let p = Preprocessing::new(vec![0.0, 0.5, 1.0], vec![1.0, 0.5, 2.0], None).unwrap();
        let mut values = vec![0.5; 12];
        p.normalize(&mut values, [3, 1, 2]);
        assert_eq!(values, [0.5, 0.5, 0.0, 0.0, -0.25, -0.25, 0.5, 0.5, 0.0, 0.0, -0.25, -0.25]);
    }
}
