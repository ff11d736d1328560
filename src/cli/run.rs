//! Options of runs, and the images that commands read.

use std::path::{Path, PathBuf};

use super::{
    Context,
    args::{PreprocessingArgs, Triggered, TriggeredArgs},
};
use crate::{
    Error, Result,
    data::{self, Classes, Role, Source},
    device::Choice,
    memory,
    onnx::Model,
    pipeline::{Job, JudgeChoice, RunOptions},
};

/// Run options of training and scanning commands.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RunArgs {
    /// Memory limit, as 1GiB or 800MiB; a low limit costs time, since values are recomputed [default: half of the free
    /// memory, at most 2.875 GiB]
    #[arg(long, value_name = "SIZE", value_parser = memory::parse_size)]
    memory: Option<usize>,
    /// Device: cpu, cuda, cuda:N (GPU number N), or auto: a GPU if this build supports one and one is present
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: Choice,
}

impl RunArgs {
    /// The corresponding options of the library.
    pub fn options(&self, context: Context) -> RunOptions {
        RunOptions { memory: self.memory, device: self.device, ..context.options() }
    }
}

/// Who judges what is written.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Verification")]
pub struct JudgeArgs {
    /// The second runtime that files are checked in: tract; onnxruntime: that beside tract, and alone where tract cannot
    /// read a file (its library on the system, or named by ORT_DYLIB_PATH); none: not verified
    #[arg(long, value_name = "RUNTIME", default_value_t)]
    judge: JudgeChoice,
}

/// Who judges what is written, and what is kept where the runtimes disagree.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Verification")]
pub struct VerificationArgs {
    #[command(flatten)]
    judge: JudgeArgs,
    /// Where the runtimes disagree, write the part of the model on which they do, its inputs and both results into the new
    /// folder DIR
    #[arg(long, value_name = "DIR")]
    save_bundle: Option<PathBuf>,
}

impl JudgeArgs {
    /// `options` with these.
    pub fn on(&self, options: RunOptions) -> RunOptions {
        RunOptions { judge: self.judge, ..options }
    }
}

impl VerificationArgs {
    /// `options` with these.
    ///
    /// # Errors
    /// A folder that exists.
    pub fn on(&self, options: RunOptions) -> Result<RunOptions> {
        if let Some(path) = self.save_bundle.as_ref().filter(|path| path.symlink_metadata().is_ok()) {
            return Err(Error::invalid(path.display(), "already exists; name a new folder"));
        }
        Ok(self.judge.on(RunOptions { bundle: self.save_bundle.clone(), ..options }))
    }
}

/// Which images of `--data` are used.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Images")]
pub struct ChoiceArgs {
    /// Use at most this many images of --data, as many of each class, chosen by --seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_images: Option<u64>,
    /// Use at most this many images of each class of --data
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    per_class: Option<u64>,
}

/// Which output is used.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct OutputArgs {
    /// Name of the model's output with the scores of the classes, where it has several; the default is found by shape and
    /// type, and `inspect` shows it
    #[arg(long, value_name = "NAME", help_heading = "Scores")]
    model_output: Option<String>,
}

impl OutputArgs {
    /// The name, if it was given.
    pub fn name(&self) -> Option<&str> {
        self.model_output.as_deref()
    }

    /// `job` with it.
    pub fn of<'a>(&self, job: Job<'a>) -> Job<'a> {
        Job { model_output: self.model_output.clone(), ..job }
    }
}

/// What is wrong with images and accepted all the same.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Images")]
pub struct AcceptedArgs {
    /// Leave out up to this many damaged images instead of refusing them
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip_unreadable: usize,
    /// Go on although another preprocessing or class order fits the model clearly better
    #[arg(long)]
    accept_preprocessing: bool,
}

impl ChoiceArgs {
    /// `job` with these limits.
    pub fn limit<'a>(&self, job: Job<'a>) -> Job<'a> {
        let number = |n: Option<u64>| n.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        Job { max_images: number(self.max_images), per_class: number(self.per_class), ..job }
    }
}

impl AcceptedArgs {
    /// `job` with these.
    pub fn accept<'a>(&self, job: Job<'a>) -> Job<'a> {
        Job { skip_unreadable: self.skip_unreadable, accept_preprocessing: self.accept_preprocessing, ..job }
    }
}

/// Help of `--data`.
pub const DATA: &str =
    "Clean images, as DIR/<class>/<file>; or DIR/<file>, labelled by the model's predictions";

/// Help of `--labels`.
pub const LABELS: &str =
    "Labels of the images, as a table of files and labels (CSV or TSV) beside or above a flat folder";

/// Where the images of a command are.
#[derive(Clone, Copy, Default)]
pub struct Paths<'p> {
    pub clean: Option<&'p Path>,
    pub test: Option<&'p Path>,
    pub classes: Option<&'p PathBuf>,
    /// Labels of `clean`, else of `test`.
    pub labels: Option<&'p PathBuf>,
}

/// Image sources given on the command line.
#[derive(Default)]
pub struct Folders {
    clean: Option<Box<dyn Source>>,
    test: Option<Box<dyn Source>>,
    triggered: Option<Triggered>,
    classes: Option<Classes>,
}

impl Folders {
    /// # Errors
    /// Invalid image sources; unreadable class names.
    pub fn open(paths: Paths<'_>, triggered: &TriggeredArgs) -> Result<Self> {
        let Paths { clean, test, classes, labels } = paths;
        let open = |path: &Path, labels: Option<&PathBuf>| -> Result<Box<dyn Source>> {
            match labels {
                Some(labels) => Ok(Box::new(data::Listed::by_table(path, labels)?)),
                None => data::open(path, Role::Clean),
            }
        };
        let of_test = labels.filter(|_| clean.is_none());
        Ok(Self {
            clean: clean.map(|path| open(path, labels)).transpose()?,
            test: test.map(|path| open(path, of_test)).transpose()?,
            triggered: triggered.open(test)?,
            classes: classes.map(|file| Classes::from_file(file)).transpose()?,
        })
    }

    /// A job for the model at `path` with these images.
    ///
    /// # Errors
    /// Invalid preprocessing.
    pub fn job<'a>(
        &'a self,
        model: &'a Model,
        path: &Path,
        preprocessing: &PreprocessingArgs,
    ) -> Result<Job<'a>> {
        let own = preprocessing.preprocessing()?;
        let job = Job {
            described: preprocessing.described(&own, path)?,
            images: self.clean.as_deref(),
            test: self.test.as_deref(),
            classes: self.classes.clone(),
            preprocessing: own,
            ..Job::new(model)
        };
        Ok(match &self.triggered {
            Some(triggered) => job.with_triggered(triggered.source(), &triggered.target),
            None => job,
        })
    }

    /// Saves the triggered images that a trigger made, if that was asked for; `classes` in the order of the outputs.
    ///
    /// # Errors
    /// As [`Triggered::save`].
    pub fn save_triggered(&self, classes: &[String]) -> Result<()> {
        self.triggered.as_ref().map_or(Ok(()), |triggered| triggered.save(&Classes(classes.to_vec())))
    }
}
