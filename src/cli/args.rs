//! Arguments shared by several commands.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, builder::PossibleValuesParser};

use crate::{
    Result,
    data::{Origin, PIECES, PRESETS, Piece, Preprocessing},
};

/// Heading of the options of preprocessing in help.
const HEADING: &str = "Preprocessing";

/// Preprocessing of images: a preset, and an option for each of [`PIECES`].
#[derive(Clone, Debug, Default)]
pub struct PreprocessingArgs {
    preset: Option<String>,
    given: Vec<(&'static str, String)>,
}

impl PreprocessingArgs {
    /// Whether a normalisation was given.
    pub fn normalises(&self) -> bool {
        self.preset.is_some() || self.given.iter().any(|(name, _)| ["mean", "std", "range"].contains(name))
    }

    /// The preprocessing that the options describe.
    ///
    /// # Errors
    /// An option whose value is not understood, or that does not fit the others.
    pub fn preprocessing(&self) -> Result<Preprocessing> {
        let mut all = Preprocessing::default();
        for (name, text) in &self.given {
            all = all.with(name, text, Origin::Given)?;
        }
        if let Some(preset) = &self.preset {
            all = all.with_preset(preset)?;
        }
        all.check()?;
        Ok(all)
    }
}

impl clap::Args for PreprocessingArgs {
    fn augment_args(command: Command) -> Command {
        let preset = Arg::new("preset")
            .long("preset")
            .value_name("NAME")
            .help_heading(HEADING)
            .value_parser(PossibleValuesParser::new(PRESETS))
            .help("Preprocessing of a data set; the options below override its parts");
        let piece = |piece: &'static Piece| {
            Arg::new(piece.name)
                .long(piece.name)
                .value_name(piece.value)
                .help_heading(HEADING)
                .allow_hyphen_values(true)
                .help(piece.about)
        };
        command.arg(preset).args(PIECES.iter().map(piece))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for PreprocessingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let text = |name: &str| matches.get_one::<String>(name).cloned();
        let given = PIECES.iter().filter_map(|piece| Some((piece.name, text(piece.name)?)));
        Ok(Self { preset: text("preset"), given: given.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
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
    fn what_is_given_stands_above_the_preset() {
        let args = PreprocessingArgs { preset: Some("gtsrb".into()), given: vec![("size", "48".into())] };
        assert!(args.normalises());
        assert_eq!(args.preprocessing().unwrap().size, Some([48, 48]));
        let none = PreprocessingArgs::default();
        assert!(!none.normalises());
        assert_eq!(none.preprocessing().unwrap(), Preprocessing::default());
        let odd = PreprocessingArgs { preset: None, given: vec![("size", "0".into())] };
        assert!(odd.preprocessing().is_err());
    }
}
