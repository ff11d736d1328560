//! A model as an image classifier: the form of its input and the target of its images.

use std::path::Path;

use super::outcome::File;
use crate::{
    Error, Result,
    data::{Preprocessing, Target},
    onnx::{
        model::Model,
        node::{Dim, ValueInfo},
        tensor::DataType,
    },
    verify::Judge,
};

/// Images compared in the judge's plain form if the optimised form agrees on all: the plain form is several times
/// slower, and a misread or misordered node shows on few images.
pub(super) const PLAIN_IMAGES: usize = 64;

/// Maximum batch of the judge's plain form for a dynamic batch size: enough to fill a core's caches.
const JUDGE_BATCH: usize = 16;

/// Shape of a model's single input; None where it is dynamic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    /// Batch size.
    pub batch: Option<usize>,
    pub channels: Option<usize>,
    /// Height and width, if both are static.
    pub size: Option<[usize; 2]>,
}

impl Input {
    /// # Errors
    /// [`Error::Input`] unless the model has one float32 input (N, C, H, W) with 1 or 3 channels, and an output.
    pub fn of(model: &Model) -> Result<Self> {
        let invalid = |problem: String| Error::invalid(model.name(), problem);
        let [input] = model.inputs() else {
            let n = model.inputs().len();
            return Err(invalid(format!("has {n} inputs; an image classifier has one")));
        };
        if model.outputs().is_empty() {
            return Err(invalid("has no output".into()));
        }
        if let Some(other) = input.elem_type.filter(|t| *t != DataType::Float) {
            let cast = "convert the model to float32, or add a Cast after a float32 input";
            let problem = format!("its input is {}, expected FLOAT (float32): {cast}", other.name());
            return Err(invalid(problem));
        }
        let dims = input.shape.clone().unwrap_or_else(|| vec![Dim::Symbol(String::new()); 4]);
        let fixed = |at: usize| match dims.get(at) {
            Some(Dim::Fixed(n)) => Some(*n),
            _ => None,
        };
        let shape = described(input);
        if dims.len() != 4 {
            return Err(invalid(format!("its input {shape} is not of the form (N, C, H, W)")));
        }
        if !matches!(fixed(1), None | Some(1 | 3)) {
            let hint = if matches!(fixed(3), Some(1 | 3)) { "; channels last is not supported" } else { "" };
            let problem = format!("its input {shape} is not (N, C, H, W) with 1 or 3 channels{hint}");
            return Err(invalid(problem));
        }
        if (0..4).any(|at| fixed(at) == Some(0)) {
            return Err(invalid(format!("its input {shape} is empty")));
        }
        let size = fixed(2).zip(fixed(3)).map(|(h, w)| [h, w]);
        Ok(Self { batch: fixed(0), channels: fixed(1), size })
    }
}

/// A model with one image-shaped input.
pub(super) struct Classifier<'a> {
    pub model: &'a Model,
    input: Input,
}

impl<'a> Classifier<'a> {
    /// # Errors
    /// As [`Input::of`].
    pub fn of(model: &'a Model) -> Result<Self> {
        Ok(Self { input: Input::of(model)?, model })
    }

    /// The target of image preprocessing.
    pub fn target(&self, preprocessing: &Preprocessing) -> Result<Target> {
        preprocessing.target(self.input.channels.unwrap_or(3), self.input.size)
    }

    /// Input shape (N, C, H, W) of the judge, with N small enough to keep all cores busy; and whether the model's
    /// batch size is dynamic.
    fn judged(&self, [c, h, w]: [usize; 3]) -> ([usize; 4], bool) {
        let shared = (PLAIN_IMAGES / rayon::current_num_threads()).clamp(1, JUDGE_BATCH);
        ([self.input.batch.unwrap_or(shared), c, h, w], self.input.batch.is_none())
    }

    /// The judge of the model's bytes, for images of `shape` (C, H, W).
    ///
    /// # Errors
    /// As [`Judge::load_beside`].
    pub fn judge(&self, shape: [usize; 3]) -> Result<Judge> {
        let (input, free_batch) = self.judged(shape);
        Judge::load_beside(self.model.bytes(), self.model.dir(), &input, free_batch)
    }

    /// The judge of the rewritten file at `path`, read from disk.
    ///
    /// # Errors
    /// As [`Judge::open`].
    pub fn judge_of(&self, path: &Path, shape: [usize; 3]) -> Result<Judge> {
        let (input, free_batch) = self.judged(shape);
        Judge::open(path, &input, free_batch)
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

/// A declared shape as text: `(N, 3, 32, 32)`.
pub fn described(info: &ValueInfo) -> String {
    let Some(dims) = &info.shape else { return "(shape not given)".to_owned() };
    let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
    format!("({})", dims.join(", "))
}
