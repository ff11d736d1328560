//! The judge: a runtime that shares nothing with what trained or wrote the file, run on the file's bytes.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use rayon::prelude::*;

use super::{monitor::Monitor, parity, tract::Tract};
use crate::{Error, Result, onnx::ImageLayout};

/// A runtime's two forms of a network, which round differently. In tract 0.23.9 the optimised form is wrong for a few
/// patterns (`const - Conv(x)`, `const / Conv(x)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Node for node as in the file.
    Plain,
    /// Folded and laid out for speed.
    Optimised,
}

/// What a judge is fed.
#[derive(Clone, Copy, Debug)]
pub struct Fed {
    /// (N, C, H, W): images run in batches of N.
    pub shape: [usize; 4],
    /// Order of the dimensions in the file.
    pub layout: ImageLayout,
    /// The model has a dynamic batch size, and the optimised form runs one image at a time, since tract multiplies image
    /// by image in any case and a single image uses the caches better.
    pub free_batch: bool,
}

impl Fed {
    /// Batches of a fixed size in (N, C, H, W).
    pub fn of(shape: [usize; 4]) -> Self {
        Self { shape, layout: ImageLayout::Nchw, free_batch: false }
    }
}

/// Returns `count` images from `from` on, (count, C, H, W) row-major, normalised.
pub type Rows<'r> = dyn Fn(usize, usize) -> Result<Vec<f32>> + Sync + 'r;

/// A runtime with a model at a fixed input shape. It may refuse a form for good.
pub(super) trait Runtime: Send + Sync {
    /// Its name in messages and reports.
    fn name(&self) -> &'static str;

    /// Values per image of the first graph output; 0 if its shape is not that of class scores.
    fn outputs(&self) -> usize;

    /// Images a run of `form`.
    fn batch(&self, form: Form) -> usize;

    /// Shape and values of the first graph output for one batch `x`, row-major.
    ///
    /// # Errors
    /// [`Error::Check`] named `judge` if the form cannot be built or run.
    fn run(&self, form: Form, x: &[f32]) -> Result<(Vec<usize>, Vec<f32>)>;
}

/// A model at a fixed input shape, ready to run on all cores.
pub struct Judge {
    /// (N, C, H, W).
    input: Vec<usize>,
    runtime: Box<dyn Runtime>,
    distrusted: AtomicBool,
}

impl Judge {
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
        let runtime = Box::new(Tract::load(bytes, folder, fed)?);
        Ok(Self { input: fed.shape.to_vec(), runtime, distrusted: AtomicBool::new(false) })
    }

    /// Input shape (N, C, H, W) of the plain form.
    pub fn input_shape(&self) -> &[usize] {
        &self.input
    }

    /// The runtime's name.
    pub fn name(&self) -> &'static str {
        self.runtime.name()
    }

    /// Values per image of the first graph output; 0 if its shape is not that of class scores.
    pub fn outputs(&self) -> usize {
        self.runtime.outputs()
    }

    /// The first graph output for each of `n` images, from the plain form. `x`: (n, C, H, W) row-major, normalised.
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

    /// The first graph output for each of `n` images, from the optimised form if it agrees with the plain form on the
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
        Ok(values.chunks_exact(classes).take(count).map(<[f32]>::to_vec).collect())
    }
}
