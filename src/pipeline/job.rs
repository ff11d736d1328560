//! What is asked for: a job, and how it is run.

use std::path::PathBuf;

use crate::{
    Result,
    data::{Classes, Preprocessing, Source},
    device::Choice,
    onnx::Model,
    train::{Recipe, Settings},
};

/// A model, images and what is to be done with them. Made with [`Job::new`] and filled in; what is left out has the
/// default that the field says.
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
    /// The model, with its folder where its weights stand in other files.
    pub model: &'a Model,
    /// Clean images: what is scanned with and trained on. Unlabelled ones get the model's own answers for labels.
    pub images: Option<&'a dyn Source>,
    /// Clean images with labels that ACC is measured on; without them it is measured on those held out.
    pub test: Option<&'a dyn Source>,
    /// Triggered images that ASR and RA are measured on.
    pub triggered: Option<Triggered<'a>>,
    /// Names of the classes, in the order of the model's outputs. None: as the first labelled one of `images` and `test`
    /// has them.
    pub classes: Option<Classes>,
    /// How pixels become the network's input.
    pub preprocessing: Preprocessing,
    /// Where the layer goes: `node:NAME[:INPUT]`, `value:NAME`. None: where the recipe says.
    pub site: Option<String>,
    /// The recipe: where the layer goes and how much is held out, where nothing else says so.
    pub recipe: Recipe,
    /// The training: the recipe's settings, or others.
    pub settings: Settings,
    /// Share of the clean images, in [0, 1), that is held out to measure ACC on. None: the recipe's. Without labels none
    /// is held out.
    pub holdout: Option<f64>,
    /// Highest score, in robust z-scores, that a class may have in a scan: a gate. None: no gate.
    pub max_score: Option<f64>,
}

/// Triggered images, and what the trigger is to bring about.
#[derive(Clone)]
pub struct Triggered<'a> {
    /// Images with their true class for label. They may lack classes.
    pub images: &'a dyn Source,
    /// The target class: a name, an index from 0, or `next` for the class behind the true one.
    pub target: String,
}

impl<'a> Job<'a> {
    /// For `model`, with the default recipe and pixels as they are.
    pub fn new(model: &'a Model) -> Self {
        Self {
            model,
            images: None,
            test: None,
            triggered: None,
            classes: None,
            preprocessing: Preprocessing::default(),
            site: None,
            recipe: Recipe::Default,
            settings: Settings::default(),
            holdout: None,
            max_score: None,
        }
    }

    /// With this recipe and its settings.
    pub fn with_recipe(self, recipe: Recipe) -> Self {
        Self { recipe, settings: recipe.settings(), ..self }
    }

    /// With these clean images.
    pub fn with_images(self, images: &'a dyn Source) -> Self {
        Self { images: Some(images), ..self }
    }

    /// With these test images.
    pub fn with_test(self, test: &'a dyn Source) -> Self {
        Self { test: Some(test), ..self }
    }

    /// With these triggered images, whose trigger leads to `target`.
    pub fn with_triggered(self, images: &'a dyn Source, target: impl Into<String>) -> Self {
        Self { triggered: Some(Triggered { images, target: target.into() }), ..self }
    }
}

/// How a job is run. Results do not depend on it, except that a GPU rounds differently.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Worker threads, for this run alone. None: one a core.
    pub threads: Option<usize>,
    /// Bytes that the process may take while it trains. None: half of what is free, 2.875 GiB at most.
    pub memory: Option<usize>,
    /// Where it trains.
    pub device: Choice,
    /// Account for the time of the training, operator by operator.
    pub profile: bool,
    /// Folder that a written file is staged in while it is verified: that of the file it will become, so that it can be
    /// put in place in one step. None: the model's own where its weights stand in other files, else a temporary one.
    pub staging: Option<PathBuf>,
}

impl RunOptions {
    /// Runs `work` on this run's own threads.
    ///
    /// # Errors
    /// Threads that the system does not give; what `work` gives.
    pub(super) fn install<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        crate::base::runtime::Runtime::new(self.threads)?.install(work)
    }
}
