//! The judge: a runtime that shares nothing with what trained or wrote the file, run on the file's bytes.

use std::{
    fmt, fs,
    path::Path,
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
};

use rayon::prelude::*;

use prost::Message as _;
use tract_onnx::pb::ModelProto;

use super::{
    monitor::Monitor,
    onnxruntime::OnnxRuntime,
    parity,
    prune::keep_only,
    readable::readable,
    reference::Reference,
    runtime::{Fed, Form, Part, Rows, Runtime},
    tract::Tract,
};
use crate::{Error, Result, graph::ScoreForm, onnx::Model};

/// The runtimes that judge a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// tract.
    #[default]
    Tract,
    /// onnxruntime beside tract, and alone where tract cannot read a file. Its library must be on the system.
    OnnxRuntime,
    /// None: what is written is compared byte by byte, and what it computes is not verified.
    None,
}

impl Choice {
    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tract => "tract",
            Self::OnnxRuntime => "onnxruntime",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A model at a fixed input shape, ready to run on all cores.
pub struct Judge<'a> {
    /// (N, C, H, W).
    input: Vec<usize>,
    free_batch: bool,
    form: ScoreForm,
    /// Index of the output with the scores.
    output: usize,
    runtime: Box<dyn Runtime + 'a>,
    distrusted: AtomicBool,
    also: Option<Box<Judge<'a>>>,
    unread: Option<String>,
}

impl<'a> Judge<'a> {
    /// Loads a model without external data from `bytes`.
    ///
    /// # Errors
    /// [`Error::Check`] named `judge` if the runtime cannot read the model.
    pub fn load(bytes: &[u8], fed: Fed) -> Result<Self> {
        Self::load_beside(bytes, None, fed)
    }

    /// As [`load`](Self::load), from disk; external data is read from the file's folder.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`Error::Io`] if the file cannot be read.
    pub fn open(path: &Path, fed: Fed) -> Result<Self> {
        let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
        Self::load_beside(&bytes, Some(path.parent().unwrap_or(Path::new(""))), fed)
    }

    /// As [`load`](Self::load); external data is read from `folder`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_beside(bytes: &[u8], folder: Option<&Path>, fed: Fed) -> Result<Self> {
        Ok(Self::of(Tract::load(bytes, folder, fed)?, fed))
    }

    /// As [`load_beside`](Self::load_beside), in onnxruntime, beside tract where that can read the model.
    ///
    /// # Errors
    /// [`Error::Setting`] if onnxruntime's library is not found; [`Error::Check`] named `judge` if it cannot read the
    /// model.
    pub fn load_in_both(bytes: &[u8], folder: Option<&Path>, fed: Fed) -> Result<Self> {
        let second = Self::of(OnnxRuntime::load(bytes, folder, fed)?, fed);
        Ok(match Self::load_beside(bytes, folder, fed) {
            Ok(first) => Self { also: Some(Box::new(second)), ..first },
            Err(e) => Self { unread: Some(e.to_string()), ..second },
        })
    }

    /// No judge: `network` answers, and nothing is verified by it.
    pub fn unjudged(network: Reference<'a>) -> Self {
        let [c, h, w] = *network.graph().input_shape().last_chunk().unwrap_or(&[1; 3]);
        Self::of(Unjudged(network), Fed::of([32, c, h, w]))
    }

    fn of(runtime: impl Runtime + 'a, fed: Fed) -> Self {
        let Fed { shape, free_batch, form, output, .. } = fed;
        Self {
            input: shape.to_vec(),
            free_batch,
            form,
            output,
            runtime: Box::new(runtime),
            distrusted: AtomicBool::new(false),
            also: None,
            unread: None,
        }
    }

    /// This judge and those to be asked beside it.
    pub fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.also.as_deref())
    }

    /// Whether it verifies anything.
    pub fn judges(&self) -> bool {
        self.runtime.name() != "none"
    }

    /// Why tract is not asked, if it cannot read the model.
    pub fn unread(&self) -> Option<&str> {
        self.unread.as_deref()
    }

    /// Input shape (N, C, H, W) of the plain form.
    pub fn input_shape(&self) -> &[usize] {
        &self.input
    }

    /// The runtime's name.
    pub fn name(&self) -> &'static str {
        self.runtime.name()
    }

    /// What was changed in the copy that the runtime is given, where it cannot read the file itself.
    pub fn rewritten(&self) -> &[String] {
        self.runtime.rewritten()
    }

    /// Number of classes; 0 if the output's shape is not that of class scores.
    pub fn outputs(&self) -> usize {
        self.form.classes(self.runtime.outputs())
    }

    /// The scores for each of `n` images, from the plain form. `x`: (n, C, H, W) row-major, normalised.
    ///
    /// # Errors
    /// [`Error::Check`] named `judge` if the runtime fails or panics, [`Error::Input`] if the output is not one row per
    /// image.
    pub fn logits(&self, x: &[f32], n: usize) -> Result<Vec<Vec<f32>>> {
        self.logits_in(Form::Plain, x, n)
    }

    /// As [`logits`](Self::logits), from the given form.
    pub fn logits_in(&self, form: Form, x: &[f32], n: usize) -> Result<Vec<Vec<f32>>> {
        self.logits_watched(form, x, n, &Monitor::default())
    }

    /// As [`logits_in`](Self::logits_in); [`Error::Interrupted`] if `watch` requests it.
    pub fn logits_watched(&self, form: Form, x: &[f32], n: usize, watch: &Monitor) -> Result<Vec<Vec<f32>>> {
        let numel = self.input[1..].iter().product::<usize>();
        if x.len() != n * numel {
            return Err(Error::internal(format!("{} values for {n} images of {numel}", x.len())));
        }
        let rows = |from: usize, count: usize| Ok(x[from * numel..(from + count) * numel].to_vec());
        self.run_all(form, n, &rows, &|_, logits| Ok(logits), watch)
    }

    /// The scores for each of `n` images, from the optimised form if it agrees with the plain form on the
    /// first batch, else from the plain form. `rows(from, count)` returns images as for [`logits`](Self::logits), so
    /// that not all need to be in memory at once.
    ///
    /// # Errors
    /// As [`logits`](Self::logits); [`Error::Interrupted`] if `watch` requests it.
    pub fn logits_fast(&self, n: usize, rows: &Rows<'_>, watch: &Monitor) -> Result<Vec<Vec<f32>>> {
        self.map_fast(n, rows, &|_, logits| Ok(logits), watch)
    }

    /// As [`logits_fast`](Self::logits_fast), each image's output turned into what `each(image, output)` makes of it, so
    /// that not all outputs need to be in memory at once.
    ///
    /// # Errors
    /// As [`logits_fast`](Self::logits_fast); errors of `each`.
    pub fn map_fast<T: Send>(
        &self,
        n: usize,
        rows: &Rows<'_>,
        each: &(dyn Fn(usize, Vec<f32>) -> Result<T> + Sync),
        watch: &Monitor,
    ) -> Result<Vec<T>> {
        let form = if n > 0 && self.optimised_is_trusted(&rows(0, n.min(self.input[0]))?, n)? {
            Form::Optimised
        } else {
            Form::Plain
        };
        self.run_all(form, n, rows, each, watch)
    }

    /// True if [`logits_fast`](Self::logits_fast) could not run the optimised form, or found it wrong, and used the plain
    /// one.
    pub fn optimised_is_distrusted(&self) -> bool {
        self.distrusted.load(Ordering::Relaxed)
    }

    /// Images that parts of the model are run with, of `n`.
    pub(super) fn pieces_at_a_time(&self, n: usize) -> usize {
        if self.free_batch { n } else { self.input[0] }
    }

    /// `file` as the runtime is given it.
    pub(super) fn decoded(&self, file: &Model) -> Result<ModelProto> {
        let model = ModelProto::decode(file.bytes()).map_err(|e| Error::check("judge", e))?;
        Ok(readable(keep_only(model, self.output)?, file.dir())?.0)
    }

    /// A part of the model as a model of its own.
    pub(super) fn piece(&self, form: Form, model: &ModelProto) -> Result<Box<dyn Part>> {
        self.runtime.part(form, model)
    }

    fn optimised_is_trusted(&self, x: &[f32], n: usize) -> Result<bool> {
        let n = n.min(self.input[0]);
        let trusted = match self.logits_in(Form::Optimised, x, n) {
            Ok(fast) => {
                let plain = self.logits_in(Form::Plain, x, n)?;
                // far above rounding differences, far below a wrong result
                parity::compare(&fast, &plain, 1e-3).is_ok_and(|p| p.holds(1e-3))
            }
            Err(_) => false,
        };
        if !trusted {
            self.distrusted.store(true, Ordering::Relaxed);
        }
        Ok(trusted)
    }

    fn run_all<T: Send>(
        &self,
        form: Form,
        n: usize,
        rows: &Rows<'_>,
        each: &(dyn Fn(usize, Vec<f32>) -> Result<T> + Sync),
        watch: &Monitor,
    ) -> Result<Vec<T>> {
        let batch = self.runtime.batch(form);
        let runs: Vec<Result<Vec<T>>> = (0..n.div_ceil(batch))
            .into_par_iter()
            .map(|run| {
                watch.check()?;
                let from = run * batch;
                let count = batch.min(n - from);
                let logits = self.run_one(form, rows(from, count)?, count)?;
                watch.advance(count);
                logits.into_iter().enumerate().map(|(i, logits)| each(from + i, logits)).collect()
            })
            .collect();
        let mut out = Vec::with_capacity(n);
        for run in runs {
            out.extend(run?); // the first error in the order of the images
        }
        Ok(out)
    }

    /// Runs up to one batch of images.
    fn run_one(&self, form: Form, mut x: Vec<f32>, count: usize) -> Result<Vec<Vec<f32>>> {
        let batch = self.runtime.batch(form);
        let numel = self.input[1..].iter().product::<usize>();
        // only full batches can run: a short one is padded with its last image
        while x.len() < batch * numel {
            x.extend_from_within(x.len() - numel..);
        }
        let (shape, values) = self.runtime.run(form, &x)?;
        let classes = values.len() / batch;
        if shape.first() != Some(&batch) || classes == 0 || shape.iter().skip(1).max() != Some(&classes) {
            let problem = format!("has shape {shape:?}, expected one row of class scores per image");
            return Err(Error::invalid("model output", problem));
        }
        let rows = values.chunks_exact(classes).take(count);
        Ok(rows.map(|row| self.form.each_class(row.to_vec())).collect())
    }
}

/// The executor itself in the place of a judge: for answers where nothing is to be verified.
struct Unjudged<'a>(Reference<'a>);

impl Runtime for Unjudged<'_> {
    fn name(&self) -> &'static str {
        "none"
    }

    fn outputs(&self) -> usize {
        match self.0.graph().output_shape() {
            [1, rest @ ..] => rest.iter().product(),
            _ => 0,
        }
    }

    fn rewritten(&self) -> &[String] {
        &[]
    }

    fn batch(&self, _: Form) -> usize {
        32
    }

    fn run(&self, _: Form, x: &[f32]) -> Result<(Vec<usize>, Vec<f32>)> {
        let rows = self.0.outputs(None, x, 32, &Monitor::default())?;
        Ok((vec![rows.len(), rows.first().map_or(0, Vec::len)], rows.concat()))
    }

    fn part(&self, _: Form, _: &ModelProto) -> Result<Box<dyn Part>> {
        Err(Error::internal("the executor does not judge"))
    }
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = [Self::Tract, Self::OnnxRuntime, Self::None];
        known.into_iter().find(|one| one.name() == text).ok_or_else(|| {
            Error::setting("judge", format!("`{text}` is not known; there are tract, onnxruntime, none"))
        })
    }
}
