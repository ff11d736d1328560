//! [`Job`]: what to do. [`RunOptions`]: how to run it.

use std::path::PathBuf;

use crate::{
    Result,
    data::{Classes, Preprocessing, Source, Stated},
    device::Choice,
    memory,
    onnx::Model,
    train::{Recipe, Settings},
    verify::JudgeChoice,
};

/// A model, its images and the settings. Create it with [`Job::new`] and set further fields; each states its default.
///
/// ```no_run
/// # fn main() -> polarizer::Result<()> {
/// use polarizer::data::{Folder, Preprocessing};
/// use polarizer::onnx::Model;
/// use polarizer::pipeline::{self, Job, RunOptions};
///
/// let model = Model::read("model.onnx".as_ref())?;
/// let clean = Folder::clean("images".as_ref())?;
/// let job = Job { preprocessing: Preprocessing::preset("cifar10")?, ..Job::new(&model) }.with_images(&clean);
/// let purified = pipeline::purify(&job, &RunOptions::default(), &mut ())?;
/// for finding in &purified.outcome.findings {
///     println!("{}: {}", finding.rule.name(), finding.message);
/// }
/// purified.save("purified.onnx".as_ref(), false)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Job<'a> {
    /// The model, with its folder if its weights are external data.
    pub model: &'a Model,
    /// Clean images for scanning and training. Unlabelled images are labelled by the model's predictions.
    pub images: Option<&'a dyn Source>,
    /// Labelled clean images for measuring ACC. None: ACC is measured on held-out images.
    pub test: Option<&'a dyn Source>,
    /// Triggered images for measuring ASR and RA.
    pub triggered: Option<Triggered<'a>>,
    /// Class names in the order of the model's outputs. None: those of `images`, else of `test`.
    pub classes: Option<Classes>,
    /// Conversion of pixels to network input, as far as it is stated.
    pub preprocessing: Preprocessing,
    /// What files state of the model, which completes `preprocessing` and `classes`; below it the model's own metadata is
    /// believed. None: neither is.
    pub described: Option<Stated>,
    /// Name of the output with the scores of the classes. None: it is found by shape and type.
    pub model_output: Option<String>,
    /// Site of the layer: `node:NAME[:INPUT]` or `value:NAME`. None: the recipe's default.
    pub site: Option<String>,
    /// The recipe: determines the default site and holdout.
    pub recipe: Recipe,
    /// Settings of the training.
    pub settings: Settings,
    /// Fraction of the clean images, in [0, 1), held out for measuring ACC. None: the recipe's. Unlabelled images are
    /// never held out.
    pub holdout: Option<f64>,
    /// Maximum number of images of `images`, chosen by their rows and `settings.seed`, as many of each class. None: all.
    pub max_images: Option<usize>,
    /// Maximum number of images of each class of `images`. None: all.
    pub per_class: Option<usize>,
    /// Number of damaged images that are left out instead of being an error.
    pub skip_unreadable: usize,
    /// Go on where another preprocessing or class order fits the model clearly better.
    pub accept_preprocessing: bool,
    /// Gate of a scan: maximum robust z-score of a class. None: no gate.
    pub max_score: Option<f64>,
}

/// Triggered images and the trigger's target.
#[derive(Clone)]
pub struct Triggered<'a> {
    /// Images labelled with their true class. Classes may be missing.
    pub images: &'a dyn Source,
    /// The target class: a name, an index from 0, or `next` for the class after the true one (all to all).
    pub target: String,
}

impl<'a> Job<'a> {
    /// A job for `model` with the default recipe and no normalisation.
    pub fn new(model: &'a Model) -> Self {
        Self {
            model,
            images: None,
            test: None,
            triggered: None,
            classes: None,
            preprocessing: Preprocessing::default(),
            described: Some(Stated::default()),
            model_output: None,
            site: None,
            recipe: Recipe::Default,
            settings: Settings::default(),
            holdout: None,
            max_images: None,
            per_class: None,
            skip_unreadable: 0,
            accept_preprocessing: false,
            max_score: None,
        }
    }

    /// Sets the recipe and its settings.
    pub fn with_recipe(self, recipe: Recipe) -> Self {
        Self { recipe, settings: recipe.settings(), ..self }
    }

    /// Sets the clean images.
    pub fn with_images(self, images: &'a dyn Source) -> Self {
        Self { images: Some(images), ..self }
    }

    /// Sets the test images.
    pub fn with_test(self, test: &'a dyn Source) -> Self {
        Self { test: Some(test), ..self }
    }

    /// Sets the triggered images and their target.
    pub fn with_triggered(self, images: &'a dyn Source, target: impl Into<String>) -> Self {
        Self { triggered: Some(Triggered { images, target: target.into() }), ..self }
    }
}

/// How to run a job. Results do not depend on it, except that a GPU rounds differently.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Worker threads of this run. None: one per core.
    pub threads: Option<usize>,
    /// Memory limit of the process, in bytes. None: what it uses at the start plus half of the free memory, at most
    /// 2.875 GiB.
    pub memory: Option<usize>,
    /// Device of the training.
    pub device: Choice,
    /// Profile the training by operator.
    pub profile: bool,
    /// Folder for staging the written file during verification: that of its target, so that it can be renamed. None:
    /// the model's folder if it has external data, else a temporary one.
    pub staging: Option<PathBuf>,
    /// The runtimes that judge the files.
    pub judge: JudgeChoice,
    /// A new folder for what a bug report needs, should the two runtimes disagree: the part of the model on which they
    /// do, its inputs and both results. None: nothing is written.
    pub bundle: Option<PathBuf>,
}

impl RunOptions {
    /// Bytes that the process may use in all.
    pub(super) fn allowed_memory(&self) -> usize {
        memory::allowed(self.memory, memory::resident().unwrap_or_default())
    }

    /// Runs `work` on this run's own threads.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] if the threads cannot be started; errors of `work`.
    pub(super) fn install<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        crate::base::runtime::Runtime::new(self.threads)?.install(work)
    }
}
