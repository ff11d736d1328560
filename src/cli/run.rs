//! Options about how a command runs, and what images it reads.

use std::path::{Path, PathBuf};

use super::{
    Context,
    args::{PreprocessingArgs, TriggeredArgs},
};
use crate::{
    Result,
    data::{self, Classes, Role, Source},
    device::Choice,
    memory,
    onnx::Model,
    pipeline::{Job, RunOptions},
};

/// How a command that trains or scans runs.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RunArgs {
    /// Memory that the program may take while it works, as 1GiB or 800MiB; with little, what would be kept is computed
    /// again [default: half of what is free, 2.875 GiB at most]
    #[arg(long, value_name = "SIZE", value_parser = memory::parse_size)]
    memory: Option<usize>,
    /// Device to run on: cpu, cuda, cuda:N (the GPU with that number); auto takes a GPU where this build can use one and there
    /// is one
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: Choice,
}

impl RunArgs {
    /// As the library takes it.
    pub fn options(&self, context: Context) -> RunOptions {
        RunOptions { memory: self.memory, device: self.device, ..context.options() }
    }
}

/// What `--data` takes, for help.
pub const DATA: &str =
    "Clean images, as DIR/<class>/<file>; or DIR/<file>, labelled by the model's own answers";

/// The images that a command names, listed: folders, or files of other formats.
#[derive(Default)]
pub struct Folders {
    clean: Option<Box<dyn Source>>,
    test: Option<Box<dyn Source>>,
    triggered: Option<(Box<dyn Source>, String)>,
    classes: Option<Classes>,
}

impl Folders {
    /// # Errors
    /// A folder that is not of images; class names that cannot be read.
    pub fn open(
        clean: Option<&Path>,
        test: Option<&Path>,
        triggered: &TriggeredArgs,
        classes: Option<&PathBuf>,
    ) -> Result<Self> {
        Ok(Self {
            clean: clean.map(|path| data::open(path, Role::Clean)).transpose()?,
            test: test.map(|path| data::open(path, Role::Clean)).transpose()?,
            triggered: match triggered.both() {
                Some((dir, target)) => Some((data::open(dir, Role::Triggered)?, target.to_owned())),
                None => None,
            },
            classes: classes.map(|file| Classes::from_file(file)).transpose()?,
        })
    }

    /// A job on them.
    ///
    /// # Errors
    /// Preprocessing that is none.
    pub fn job<'a>(&'a self, model: &'a Model, preprocessing: &PreprocessingArgs) -> Result<Job<'a>> {
        let job = Job {
            images: self.clean.as_deref(),
            test: self.test.as_deref(),
            classes: self.classes.clone(),
            preprocessing: preprocessing.preprocessing()?,
            ..Job::new(model)
        };
        Ok(match &self.triggered {
            Some((source, target)) => job.with_triggered(source.as_ref(), target),
            None => job,
        })
    }
}
