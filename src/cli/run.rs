//! Options about how a command runs, and what images it reads.

use std::path::{Path, PathBuf};

use super::{
    Context,
    args::{PreprocessingArgs, TriggeredArgs},
};
use crate::{
    Result,
    data::{Classes, Folder, Source},
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

/// The folders of images that a command names, listed.
#[derive(Default)]
pub struct Folders {
    pub clean: Option<Folder>,
    pub test: Option<Folder>,
    triggered: Option<(Folder, String)>,
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
            clean: clean.map(Folder::clean).transpose()?,
            test: test.map(Folder::clean).transpose()?,
            triggered: match triggered.both() {
                Some((dir, target)) => Some((Folder::triggered(dir)?, target.to_owned())),
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
        let source = |folder: &'a Option<Folder>| folder.as_ref().map(|folder| folder as &dyn Source);
        let job = Job {
            images: source(&self.clean),
            test: source(&self.test),
            classes: self.classes.clone(),
            preprocessing: preprocessing.preprocessing()?,
            ..Job::new(model)
        };
        Ok(match &self.triggered {
            Some((folder, target)) => job.with_triggered(folder, target),
            None => job,
        })
    }
}
