//! Arguments shared by several commands.

use std::path::{Path, PathBuf};

use clap::{
    Arg, ArgMatches, Command,
    builder::{PathBufValueParser, TypedValueParser},
};

use crate::{
    Error, Result,
    data::{
        self, Classes, Origin, PIECES, PRESETS, Piece, Preprocessing, Role, Source, Stamped, Stated, Trigger,
    },
    onnx::locate,
};

/// Heading of the options of preprocessing in help.
const HEADING: &str = "Preprocessing";

/// Preprocessing of images: a preset, and an option for each of [`PIECES`].
#[derive(Clone, Debug, Default)]
pub struct PreprocessingArgs {
    /// A file that states it; `none`: not even those beside the model are read.
    file: Option<PathBuf>,
    preset: Option<String>,
    given: Vec<(&'static str, String)>,
}

impl PreprocessingArgs {
    /// Whether a normalisation was given.
    pub fn normalises(&self) -> bool {
        self.preset.is_some()
            || self.file.is_some()
            || self.given.iter().any(|(name, _)| ["mean", "std", "range"].contains(name))
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

    /// What files state of the model at `model`: the file that was named, and those beside it.
    ///
    /// # Errors
    /// As [`Stated::of_files`].
    pub fn described(&self, own: &Preprocessing, model: &Path) -> Result<Option<Stated>> {
        Stated::of_files(own, self.file.as_deref(), model)
    }
}

impl clap::Args for PreprocessingArgs {
    fn augment_args(command: Command) -> Command {
        let named = Arg::new("preset")
            .long("preset")
            .value_name("NAME")
            .help_heading(HEADING)
            .value_parser(preset)
            .help(format!(
                "Preprocessing of a data set ({}) or of weights of torchvision \
                 (torchvision:ResNet50_Weights.IMAGENET1K_V2); the options below override its parts",
                PRESETS.join(", ")
            ));
        let file = Arg::new("preprocessing")
            .long("preprocessing")
            .value_name("FILE")
            .help_heading(HEADING)
            .value_parser(clap::value_parser!(PathBuf))
            .help(
                "File that states it: preprocessor_config.json or config.json of Hugging Face or timm, the text of \
                 torchvision's transforms; none: read none [default: those beside MODEL]",
            );
        let piece = |piece: &'static Piece| {
            Arg::new(piece.name)
                .long(piece.name)
                .value_name(piece.value)
                .help_heading(HEADING)
                .allow_hyphen_values(true)
                .help(piece.about)
        };
        command.arg(named).arg(file).args(PIECES.iter().map(piece))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for PreprocessingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let text = |name: &str| matches.get_one::<String>(name).cloned();
        let given = PIECES.iter().filter_map(|piece| Some((piece.name, text(piece.name)?)));
        let file = matches.get_one::<PathBuf>("preprocessing").cloned();
        Ok(Self { file, preset: text("preset"), given: given.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Parses the name of a preset.
fn preset(text: &str) -> std::result::Result<String, String> {
    Preprocessing::preset(text).map(|_| text.to_owned()).map_err(problem)
}

/// Parses MODEL: an ONNX file, or a folder with one.
pub fn model() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| locate(&path).map_err(problem))
}

/// An error without its subject, which clap names.
fn problem(e: Error) -> String {
    match e {
        Error::Setting { problem, .. } | Error::Input { problem, .. } => problem,
        other => other.to_string(),
    }
}

/// Triggered images and their target.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Measuring the attack")]
pub struct TriggeredArgs {
    /// Triggered images, in folders named after their true class; classes may be missing
    #[arg(long, value_name = "DIR", requires = "target")]
    triggered: Option<PathBuf>,
    /// A trigger that is put on the images of --test to make the triggered ones: PATH@X,Y[,scale=S][,alpha=A] (negative:
    /// from the right, the lower edge) or PATH@full[,alpha=A]
    #[arg(long, value_name = "PICTURE", requires_all = ["target", "test"], conflicts_with = "triggered")]
    trigger: Option<String>,
    /// Target class of the trigger: a name, an index from 0, or `next` for the class after the true one (all to
    /// all)
    #[arg(long, value_name = "CLASS")]
    target: Option<String>,
    /// Also save the images made by --trigger, as DIR/<class>/<file>.png in a new folder
    #[arg(long, value_name = "DIR", requires = "trigger")]
    save_triggered: Option<PathBuf>,
}

impl TriggeredArgs {
    /// The folder.
    pub fn folder(&self) -> Option<&PathBuf> {
        self.triggered.as_ref()
    }

    /// The triggered images and their target, if any; with a trigger those are the images at `test`.
    ///
    /// # Errors
    /// A target without triggered images; what the source or the trigger refuses.
    pub fn open(&self, test: Option<&Path>) -> Result<Option<Triggered>> {
        let Some(target) = self.target.clone() else { return Ok(None) };
        let images = match (&self.triggered, &self.trigger, test) {
            (Some(path), ..) => Made::Given(data::open(path, Role::Triggered)?),
            (None, Some(trigger), Some(test)) => {
                Made::Stamped(Stamped::owning(data::open(test, Role::Clean)?, Trigger::parse(trigger)?))
            }
            _ => {
                return Err(Error::setting(
                    "target",
                    "needs triggered images: give `triggered` or `trigger`",
                ));
            }
        };
        Ok(Some(Triggered { images, target, save: self.save_triggered.clone() }))
    }
}

/// Triggered images of a command, and their target.
pub struct Triggered {
    images: Made,
    pub target: String,
    save: Option<PathBuf>,
}

enum Made {
    Given(Box<dyn Source>),
    Stamped(Stamped<'static>),
}

impl Triggered {
    pub fn source(&self) -> &dyn Source {
        match &self.images {
            Made::Given(source) => source.as_ref(),
            Made::Stamped(stamped) => stamped,
        }
    }

    /// Saves the images that a trigger made, those of the target left out, if that was asked for. `order`: the classes in
    /// the order of the model's outputs.
    ///
    /// # Errors
    /// As [`Stamped::save`].
    pub fn save(&self, order: &Classes) -> Result<()> {
        let (Made::Stamped(stamped), Some(folder)) = (&self.images, &self.save) else { return Ok(()) };
        stamped.save(folder, order, order.find(&self.target).ok())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_stands_above_the_preset() {
        let args = PreprocessingArgs {
            file: None,
            preset: Some("gtsrb".into()),
            given: vec![("size", "48".into())],
        };
        assert!(args.normalises());
        assert_eq!(args.preprocessing().unwrap().size, Some([48, 48]));
        let none = PreprocessingArgs::default();
        assert!(!none.normalises());
        assert_eq!(none.preprocessing().unwrap(), Preprocessing::default());
        let odd = PreprocessingArgs { file: None, preset: None, given: vec![("size", "0".into())] };
        assert!(odd.preprocessing().is_err());
    }
}
