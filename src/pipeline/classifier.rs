//! A model as an image classifier: the form of its input and the target of its images.

use std::{path::Path, sync::OnceLock};

use candle_core::Device;

use super::{Job, order::Order, outcome::File};
use crate::{
    Error, Result,
    data::{Origin, Preprocessing, Target},
    graph::{self, ScoreForm, Scores, Wanted},
    onnx::{ImageInput, Model, tensor::DataType},
    verify::{Fed, Judge, JudgeChoice, reference::Reference},
};

/// Images compared in the judge's plain form if the optimised form agrees on all: the plain form is several times
/// slower, and a misread or misordered node shows on few images.
pub(super) const PLAIN_IMAGES: usize = 64;

/// Maximum batch of the judge's plain form for a dynamic batch size: enough to fill a core's caches.
const JUDGE_BATCH: usize = 16;

/// A model with one image-shaped input and an output with the scores of the classes.
pub(super) struct Classifier<'a> {
    pub model: &'a Model,
    input: ImageInput,
    /// Name of the output with the scores, if it was given.
    named: Option<String>,
    /// Number of classes of the images, if it is known before any is read.
    classes: Option<usize>,
    /// Chosen once the shape of the images is known.
    scores: OnceLock<Scores>,
}

impl<'a> Classifier<'a> {
    /// # Errors
    /// As [`ImageInput::of`].
    pub fn of(job: &Job<'a>) -> Result<Self> {
        let (model, named) = (job.model, job.model_output.clone());
        let input = ImageInput::of(model)?;
        Ok(Self { model, input, named, classes: None, scores: OnceLock::new() })
    }

    /// The job with the preprocessing completed by what is known of the model. A uint8 input takes pixels from 0 to 255 as
    /// they are.
    ///
    /// # Errors
    /// [`Error::Setting`] if another normalisation or range is stated for a uint8 input; metadata that is not understood.
    pub fn job<'j>(&mut self, job: &Job<'j>) -> Result<Job<'j>> {
        let (preprocessing, described) = match &job.described {
            Some(stated) => {
                let (own, all) = stated.clone().complete(&job.preprocessing, self.model.metadata())?;
                (own, Some(all))
            }
            None => (job.preprocessing.clone(), None),
        };
        preprocessing.check()?;
        let job = Job { preprocessing: self.preprocessing(&preprocessing)?, described, ..job.clone() };
        let known = Order::of(&job, &[job.images, job.test]).classes.len();
        self.classes = (known > 0).then_some(known);
        Ok(job)
    }

    /// The output with the scores, for images of `shape` (C, H, W).
    ///
    /// # Errors
    /// As [`graph::choose`].
    pub fn scores(&self, [c, h, w]: [usize; 3]) -> Result<&Scores> {
        if let Some(known) = self.scores.get() {
            return Ok(known);
        }
        let wanted = Wanted { name: self.named.as_deref(), classes: self.classes };
        let found = graph::choose(self.model, &[1, c, h, w], wanted)?;
        Ok(self.scores.get_or_init(|| found))
    }

    /// The network of `model`, this one or a rewrite of it, for images of `shape` (C, H, W).
    ///
    /// # Errors
    /// As [`Reference::of_scores`] and [`graph::choose`].
    pub fn network<'m>(&self, model: &'m Model, shape: [usize; 3], device: &Device) -> Result<Reference<'m>> {
        Reference::of_scores(model, shape, self.scores(shape)?, device)
    }

    /// Whether the model takes integers.
    pub fn takes_integers(&self) -> bool {
        self.input.elem_type == DataType::Uint8
    }

    fn preprocessing(&self, stated: &Preprocessing) -> Result<Preprocessing> {
        if !self.takes_integers() {
            return Ok(stated.clone());
        }
        let plain = stated.clone().with("range", "0-255", Origin::File("the model's UINT8 input".into()))?;
        for (field, neutral) in [("mean", "0"), ("std", "1"), ("range", "0-255")] {
            let mut shown = stated.parts().filter(|(piece, ..)| piece.name == field);
            if let Some((_, text, origin)) = shown.next()
                && *origin != Origin::Default
                && text.split(',').any(|value| value != neutral)
            {
                let problem =
                    format!("{text}, but the model takes UINT8, whose normalisation is inside the file");
                return Err(Error::setting(
                    if matches!(origin, Origin::Preset(_)) { "preset" } else { field },
                    problem,
                ));
            }
        }
        Ok(plain)
    }

    /// The target of image preprocessing.
    pub fn target(&self, preprocessing: &Preprocessing) -> Result<Target> {
        preprocessing.target(self.input.channels.unwrap_or(3), self.input.size)
    }

    /// Input of the judge, with N small enough to keep all cores busy.
    fn judged(&self, [c, h, w]: [usize; 3]) -> Result<Fed> {
        let &Scores { index: output, form, .. } = self.scores([c, h, w])?;
        Ok(self.fed([c, h, w], output, form))
    }

    /// Input of a judge of the output of this index.
    pub fn fed(&self, [c, h, w]: [usize; 3], output: usize, form: ScoreForm) -> Fed {
        let shared = (PLAIN_IMAGES / rayon::current_num_threads()).clamp(1, JUDGE_BATCH);
        let free_batch = self.input.batch.is_none();
        let shape = [self.input.batch.unwrap_or(shared), c, h, w];
        Fed { shape, layout: self.input.layout, free_batch, output, form }
    }

    /// The judge of the model's bytes, for images of `shape` (C, H, W).
    ///
    /// # Errors
    /// As [`Judge::load_beside`] and [`Judge::load_in_both`].
    pub fn judge(&self, shape: [usize; 3], choice: JudgeChoice) -> Result<Judge<'a>> {
        let (bytes, dir, fed) = (self.model.bytes(), self.model.dir(), self.judged(shape)?);
        match choice {
            JudgeChoice::Tract => Judge::load_beside(bytes, dir, fed),
            JudgeChoice::OnnxRuntime => Judge::load_in_both(bytes, dir, fed),
            JudgeChoice::None => Ok(Judge::unjudged(self.network(self.model, shape, &Device::Cpu)?)),
        }
    }

    /// The judge of the rewritten file at `path`, read from disk.
    ///
    /// # Errors
    /// As [`Self::judge`]; [`Error::Io`].
    pub fn judge_of(&self, path: &Path, shape: [usize; 3], choice: JudgeChoice) -> Result<Judge<'a>> {
        self.judge_as(path, self.judged(shape)?, choice)
    }

    /// The judge of the rewritten file at `path`, fed this way.
    ///
    /// # Errors
    /// As [`Self::judge_of`].
    pub fn judge_as(&self, path: &Path, fed: Fed, choice: JudgeChoice) -> Result<Judge<'a>> {
        let [_, shape @ ..] = fed.shape;
        match choice {
            JudgeChoice::Tract => Judge::open(path, fed),
            JudgeChoice::OnnxRuntime => {
                let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
                Judge::load_in_both(&bytes, path.parent(), fed)
            }
            // of what is not verified nothing is asked
            JudgeChoice::None => self.judge(shape, choice),
        }
    }

    /// The file's entry in reports.
    pub fn file(&self) -> File {
        File {
            file: self.model.name().to_owned(),
            sha256: self.model.sha256(),
            bytes: self.model.bytes().len() as u64,
        }
    }
}
