//! Arguments that several commands take, and what they mean.

use std::path::{Path, PathBuf};

use crate::{
    Error, Result,
    data::{Classes, Folder, PRESETS, Preprocessing},
    report,
};

/// How an image becomes the network's input.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Preprocessing")]
pub struct PreprocessingArgs {
    /// Normalisation and size of a data set; gtsrb is not normalised, imagenet takes the centre
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(PRESETS), conflicts_with_all = ["mean", "std"])]
    preset: Option<String>,
    /// Mean per channel of pixels in 0..1, or one for all; without it and --preset pixels are not normalised
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', allow_hyphen_values = true, requires = "std")]
    mean: Option<Vec<f32>>,
    /// Standard deviation per channel of pixels in 0..1, or one for all
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', allow_hyphen_values = true, requires = "mean")]
    std: Option<Vec<f32>>,
    /// Height and width that images are resized to
    #[arg(long, value_name = "HxW", value_parser = size)]
    size: Option<[usize; 2]>,
}

impl PreprocessingArgs {
    /// Whether a normalisation was named.
    pub fn normalises(&self) -> bool {
        self.preset.is_some() || self.mean.is_some()
    }

    /// What they mean.
    pub fn preprocessing(&self) -> Result<Preprocessing> {
        match &self.preset {
            Some(name) => {
                let preset = Preprocessing::preset(name)?;
                Ok(Preprocessing { size: self.size.or(preset.size), ..preset })
            }
            None => Preprocessing::new(
                self.mean.clone().unwrap_or_else(|| vec![0.0]),
                self.std.clone().unwrap_or_else(|| vec![1.0]),
                self.size,
            ),
        }
    }
}

/// For the report.
pub fn reported(p: &Preprocessing) -> report::Preprocessing {
    report::Preprocessing {
        preset: p.preset.map(str::to_owned),
        mean: p.mean.clone(),
        std: p.std.clone(),
        resize: p.resize.name().to_owned(),
    }
}

/// `32x48` as height and width.
pub fn size(text: &str) -> std::result::Result<[usize; 2], String> {
    let side = |s: &str| s.parse::<usize>().ok();
    text.split_once(['x', 'X'])
        .and_then(|(h, w)| Some([side(h)?, side(w)?]))
        .ok_or_else(|| "height x width is expected, as 32x32".to_owned())
}

/// Triggered images, for whoever has them.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Measuring the attack")]
pub struct TriggeredArgs {
    /// Triggered images, in folders named by their true class; it may lack classes
    #[arg(long, value_name = "DIR", requires = "target")]
    pub triggered: Option<PathBuf>,
    /// The class that the trigger is to bring about: a name, or an index from 0; `next`: the one behind the true class, all
    /// to all
    #[arg(long, value_name = "CLASS", requires = "triggered")]
    pub target: Option<String>,
}

impl TriggeredArgs {
    /// The folder and the target among `classes`.
    pub fn find(&self, classes: &Classes) -> Result<Option<(Folder, report::Target)>> {
        let (Some(dir), Some(target)) = (&self.triggered, &self.target) else { return Ok(None) };
        let (index, name) = match classes.find(target) {
            Ok(index) => (Some(index), classes.0.get(index as usize).cloned().unwrap_or_default()),
            Err(_) if target == "next" => (None, target.clone()),
            Err(e) => return Err(Error::invalid("--target", e)),
        };
        Ok(Some((Folder::triggered(dir)?, report::Target { index, name })))
    }
}

/// The class order: of `--classes`, else of the first folder with class folders.
pub fn class_order(file: Option<&Path>, folders: &[Option<&Folder>]) -> Result<Option<(Classes, String)>> {
    if let Some(file) = file {
        return Ok(Some((Classes::from_file(file)?, file.display().to_string())));
    }
    let labelled = folders.iter().flatten().find(|f| f.is_labelled());
    Ok(labelled.map(|f| (f.classes(), f.path().display().to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_height_by_width() {
        assert_eq!(size("32x48"), Ok([32, 48]));
        for wrong in ["32", "32x", "x32", "32x32x3", "-1x2", "a x b"] {
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
