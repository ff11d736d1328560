//! The training's settings as options: one for each entry of [`SETTINGS`], and the recipe.

use std::sync::LazyLock;

use clap::{
    Arg, ArgMatches, Command, Error as Misuse,
    builder::{PossibleValuesParser, TypedValueParser, ValueParser},
    error::ErrorKind,
};

use crate::{
    Error, Result,
    pipeline::settings::{Form, Named as _, Recipe, SETTINGS, Setting, Settings, Value},
};

/// Heading of these options in help.
const HEADING: &str = "Training";

/// Options whose names differ from their fields.
const OPTIONS: &[(&str, &str)] = &[("images", "data")];

/// Option of a setting or argument of the library, without leading dashes.
pub fn option(field: &str) -> String {
    let own = OPTIONS.iter().find(|(own, _)| *own == field).map(|(_, option)| (*option).to_owned());
    own.unwrap_or_else(|| field.replace('_', "-"))
}

/// The error's text with options in place of fields.
pub fn with_options(error: &Error) -> String {
    match error {
        Error::Setting { field, problem } => format!("--{}: {}", option(field), fields_as_options(problem)),
        Error::Check { .. } | Error::Input { .. } => fields_as_options(&error.to_string()),
        other => other.to_string(),
    }
}

/// Replaces names of settings in backquotes by options.
fn fields_as_options(text: &str) -> String {
    let known = |name: &str| Setting::named(name).is_some() || FIELDS.contains(&name);
    let parts = text.split('`').enumerate().map(|(i, part)| match i % 2 {
        1 if known(part) => format!("--{}", option(part)),
        1 => format!("`{part}`"),
        _ => part.to_owned(),
    });
    parts.collect()
}

/// Arguments of the library, other than settings, that its errors mention.
pub const FIELDS: &[&str] = &[
    "accept_preprocessing",
    "judge",
    "classes",
    "device",
    "holdout",
    "channels",
    "crop",
    "images",
    "interpolation",
    "max_images",
    "max_score",
    "mean",
    "memory",
    "model_output",
    "per_class",
    "precision",
    "preprocessing",
    "preset",
    "range",
    "resize",
    "site",
    "size",
    "std",
    "target",
    "trigger",
    "triggered",
];

/// Options of the settings; others are taken from the recipe.
#[derive(Clone, Debug)]
pub struct SettingsArgs {
    recipe: Recipe,
    given: Vec<(&'static Setting, Value)>,
    holdout: Option<f64>,
}

impl SettingsArgs {
    /// The recipe.
    pub fn recipe(&self) -> Recipe {
        self.recipe
    }

    /// Share of the clean images to hold out.
    pub fn holdout(&self) -> f64 {
        self.holdout.unwrap_or_else(|| self.recipe.holdout())
    }

    /// The resulting settings.
    ///
    /// # Errors
    /// A value that is out of range or has no effect.
    pub fn settings(&self) -> Result<Settings> {
        Settings::with(self.recipe, &self.given)
    }

    /// [`SettingsArgs::settings`]; without a normalisation (`normalises`) its errors also mention that, so that both
    /// can be fixed at once.
    ///
    /// # Errors
    /// As [`SettingsArgs::settings`].
    pub fn settings_beside(&self, normalises: bool) -> Result<Settings> {
        self.settings().map_err(|error| match error {
            Error::Setting { field, problem } if !normalises => Error::setting(
                field,
                format!("{problem}. Also, no normalisation is given (`preset`, or `mean` and `std`)"),
            ),
            other => other,
        })
    }
}

/// Names of the options; static as clap requires.
static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| SETTINGS.iter().map(|s| option(s.name)).collect());

/// Help of a setting.
fn help(setting: &Setting) -> String {
    let unset = setting.unset.map_or_else(String::new, |(word, what)| format!("; {word}: {what}"));
    fields_as_options(&format!("{}{unset} [default: {}]", setting.about, setting.defaults()))
}

/// Parser of a setting; its words are listed in help.
fn parser(setting: &'static Setting) -> ValueParser {
    match setting.form {
        Form::Words(words) => {
            let unset = setting.unset.map(|(word, _)| word);
            PossibleValuesParser::new(words.iter().copied().chain(unset))
                .try_map(move |text| setting.parse(&text))
                .into()
        }
        Form::Flag => {
            PossibleValuesParser::new(["true", "false"]).try_map(move |text| setting.parse(&text)).into()
        }
        _ => ValueParser::new(move |text: &str| setting.parse(text)),
    }
}

impl clap::Args for SettingsArgs {
    fn augment_args(command: Command) -> Command {
        let recipe = Arg::new("recipe")
            .long("recipe")
            .value_name("RECIPE")
            .help_heading(HEADING)
            .value_parser(clap::value_parser!(Recipe))
            .default_value(Recipe::Default.word())
            .help(
                "Settings that the options below change: the default ones, or those of the published method",
            );
        let [own, published] = [Recipe::Default, Recipe::Published].map(Recipe::holdout);
        let holdout = Arg::new("holdout")
            .long("holdout")
            .help_heading(HEADING)
            .value_name("SHARE")
            .value_parser(clap::value_parser!(f64))
            .help(format!(
                "Share of the clean images that is held out of the training to measure accuracy; images without labels \
                 are all trained on [default: {own}; published: {published}]"
            ));
        let settings = SETTINGS.iter().zip(NAMES.iter()).map(|(setting, name)| {
            Arg::new(setting.name)
                .long(name.as_str())
                .help_heading(HEADING)
                .value_name(setting.unit)
                .value_parser(parser(setting))
                .help(help(setting))
        });
        command.arg(recipe).args(settings).arg(holdout)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for SettingsArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Misuse> {
        let recipe = matches
            .get_one("recipe")
            .copied()
            .ok_or_else(|| Misuse::new(ErrorKind::MissingRequiredArgument))?;
        let value = |setting: &'static Setting| Some((setting, *matches.get_one::<Value>(setting.name)?));
        let given = SETTINGS.iter().filter_map(value).collect();
        Ok(Self { recipe, given, holdout: matches.get_one("holdout").copied() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Misuse> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser as _};

    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        settings: SettingsArgs,
    }

    fn parsed(options: &[&str]) -> SettingsArgs {
        Only::try_parse_from([&["x"], options].concat()).map(|only| only.settings).unwrap()
    }

    #[test]
    fn without_options_they_are_the_recipes() {
        assert_eq!(parsed(&[]).settings().unwrap(), Settings::default());
        assert_eq!(parsed(&["--recipe", "default"]).settings().unwrap(), Recipe::Default.settings());
        let published = parsed(&["--recipe", "published"]);
        assert_eq!(published.settings().unwrap(), Recipe::Published.settings());
        assert_eq!((published.holdout(), parsed(&[]).holdout()), (0.2, 0.1));
    }

    /// Reads `[default: A; published: B]` from the help that users see and gives the values back as options.
    #[test]
    fn help_states_the_values_that_are_used() {
        let command = Only::command();
        for setting in SETTINGS {
            let arg = command.get_arguments().find(|arg| arg.get_id() == setting.name).unwrap();
            let help = arg.get_help().unwrap().to_string();
            let stated = help.split("[default: ").nth(1).unwrap().split(']').next().unwrap();
            let (own, published) = stated.split_once("; published: ").unwrap_or((stated, stated));
            for (recipe, text) in [("default", own), ("published", published)] {
                let option = format!("--{}", arg.get_long().unwrap());
                let mut options = vec!["--recipe", recipe, &option, text];
                let with = parsed(&options);
                // options that do not apply in this recipe are held by the library's test
                let Ok(mut with) = with.settings() else { continue };
                options.truncate(2);
                let without = parsed(&options).settings().unwrap();
                if setting.name == "epochs" {
                    with.min_steps = without.min_steps;
                }
                assert_eq!(with, without, "{option} in {recipe}");
            }
        }
        let lambdas =
            command.get_arguments().find(|arg| arg.get_id() == "lambdas").unwrap().get_help().unwrap();
        assert!(
            lambdas.to_string().ends_with("[default: 1,0.2,0.2,0.2; published: 1,0.4,0.4,0.4]"),
            "{lambdas}"
        );
    }

    #[test]
    fn fields_are_shown_as_options() {
        let e = parsed(&["--momentum", "0.5"]).settings().unwrap_err();
        assert_eq!(with_options(&e), "--momentum: would change nothing: Adam has none (--optimizer)");
        let e = parsed(&["--warmup", "3"]).settings().unwrap_err();
        assert!(with_options(&e).contains("a layer with --start whitening warms up"), "{e}");
        let e = Error::setting("images", "no `batch` of `them`");
        assert_eq!(with_options(&e), "--data: no --batch of `them`");
        assert_eq!(with_options(&Error::invalid("a.onnx", "`lr` `x`")), "a.onnx: --lr `x`");
        let e = Error::check("accuracy", "more than `max_acc_drop` 3");
        assert_eq!(with_options(&e), "check failed: accuracy: more than --max-acc-drop 3");
    }

    /// All files of `folder`, at any depth.
    fn sources(folder: &std::path::Path, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else {
                found.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }

    #[test]
    fn the_library_names_fields_and_each_has_an_option() {
        let mut files = Vec::new();
        sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
        assert!(!files.is_empty());
        let mut fields = 0;
        for (path, text) in &files {
            let ours = path.contains("/cli/");
            for call in text.split("Error::setting(").skip(1) {
                let Some(name) = call.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next())
                else {
                    continue;
                };
                fields += usize::from(!ours);
                let known = Setting::named(name).is_some() || FIELDS.contains(&name);
                assert!(ours || known, "{path}: no option is known for the field {name}");
            }
            assert!(ours || !text.contains("Error::invalid(\"--"), "{path} names an option");
        }
        assert!(fields > 20, "{fields}");
    }
}
