//! Arguments shared by several commands.

use std::path::{Path, PathBuf};

use crate::{
    Result,
    data::{PRESETS, Preprocessing},
};

/// Preprocessing of images.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Preprocessing")]
pub struct PreprocessingArgs {
    /// Normalisation and size of a data set; gtsrb is not normalised, imagenet uses a centre crop
    #[arg(long, value_name = "NAME", conflicts_with_all = ["mean", "std"],
          value_parser = clap::builder::PossibleValuesParser::new(PRESETS))]
    preset: Option<String>,
    /// Mean per channel of pixels in 0..1, or one for all; without it and --preset pixels are not normalised
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', allow_hyphen_values = true, requires = "std")]
    mean: Option<Vec<f32>>,
    /// Standard deviation per channel of pixels in 0..1, or one for all
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', allow_hyphen_values = true, requires = "mean")]
    std: Option<Vec<f32>>,
    /// Resize images to this height and width; one number for both
    #[arg(long, value_name = "HxW", value_parser = size)]
    size: Option<[usize; 2]>,
}

impl PreprocessingArgs {
    /// Whether a normalisation was given.
    pub fn normalises(&self) -> bool {
        self.preset.is_some() || self.mean.is_some()
    }

    /// The preprocessing that the arguments describe.
    pub fn preprocessing(&self) -> Result<Preprocessing> {
        match (&self.preset, &self.mean, &self.std) {
            (Some(name), ..) => {
                let preset = Preprocessing::preset(name)?;
                Ok(Preprocessing { size: self.size.or(preset.size), ..preset })
            }
            (None, Some(mean), Some(std)) => Preprocessing::new(mean.clone(), std.clone(), self.size),
            _ => Preprocessing::as_they_are(self.size),
        }
    }
}

/// Parses `32x48` as height and width, `32` as both.
pub fn size(text: &str) -> std::result::Result<[usize; 2], String> {
    let side = |s: &str| s.parse::<usize>().ok();
    let (h, w) = text.split_once(['x', 'X']).unwrap_or((text, text));
    side(h)
        .zip(side(w))
        .map(|(h, w)| [h, w])
        .ok_or_else(|| "expected height x width, as 32x48, or one number for both".to_owned())
}

/// Triggered images and their target.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Measuring the attack")]
pub struct TriggeredArgs {
    /// Triggered images, in folders named after their true class; classes may be missing
    #[arg(long, value_name = "DIR", requires = "target")]
    triggered: Option<PathBuf>,
    /// Target class of the trigger: a name, an index from 0, or `next` for the class after the true one (all to
    /// all)
    #[arg(long, value_name = "CLASS", requires = "triggered")]
    target: Option<String>,
}

impl TriggeredArgs {
    /// The folder.
    pub fn folder(&self) -> Option<&PathBuf> {
        self.triggered.as_ref()
    }

    /// The folder and the target: each needs the other.
    pub fn both(&self) -> Option<(&Path, &str)> {
        self.triggered.as_deref().zip(self.target.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_height_by_width() {
        assert_eq!((size("32x48"), size("224")), (Ok([32, 48]), Ok([224, 224])));
        for wrong in ["", "32x", "x32", "32x32x3", "-1x2", "a x b"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_size_of_ones_own_stands_above_the_presets() {
        let args = PreprocessingArgs {
            preset: Some("gtsrb".into()),
            size: Some([48, 48]),
            ..PreprocessingArgs::default()
        };
        assert_eq!(args.preprocessing().unwrap().size, Some([48, 48]));
        assert_eq!(PreprocessingArgs::default().preprocessing().unwrap(), Preprocessing::default());
    }
}
