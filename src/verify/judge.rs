//! The judge: tract, run on the file's bytes, independent of how the file was made. Panics of tract become errors in
//! `guarded`.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rayon::prelude::*;
use tract_onnx::{
    prelude::*,
    tract_core::internal::{TractErrorContext as _, bail},
    tract_hir::infer::Factoid as _,
};

use super::monitor::Monitor;
use crate::{Error, Result, base::guard::caught, error::shortened, onnx::ImageLayout};

type Runnable = Arc<TypedRunnableModel>;

/// tract's two forms of a network. They round differently, and in tract 0.23.9 the optimised form is wrong for a few
/// patterns (`const - Conv(x)`, `const / Conv(x)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Node for node as in the file (`into_typed`).
    Plain,
    /// Folded and laid out for speed (`into_optimized`).
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

/// A model at a fixed input shape, ready to run on all cores.
pub struct Judge {
    /// (N, C, H, W).
    input: Vec<usize>,
    layout: ImageLayout,
    plain: Runnable,
    /// The optimised form runs one image at a time.
    free_batch: bool,
    optimised: OnceLock<Result<Runnable, String>>,
    distrusted: AtomicBool,
}

impl Judge {
    /// Loads a model without external data from `bytes`.
    ///
    /// # Errors
    /// [`Error::Input`] if tract cannot read the model, [`Error::Internal`] if it panics.
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
    pub fn load_beside(mut bytes: &[u8], folder: Option<&Path>, fed: Fed) -> Result<Self> {
        let Fed { shape, layout, free_batch } = fed;
        let input = shape.as_slice();
        let folder = match folder.map(Path::to_str) {
            Some(None) => return Err(Error::invalid("model's folder", "its name is not UTF-8")),
            Some(Some("")) => Some("."),
            Some(name) => name,
            None => None,
        };
        if input.first().is_none_or(|&n| n == 0) {
            return Err(Error::internal("the judge was given an empty batch"));
        }
        let parsed = guarded("reading the model", || {
            // stale value_info would be applied as fact
            let framework = tract_onnx::onnx().with_ignore_value_info(true);
            let proto = framework.proto_model_for_read(&mut bytes)?;
            let parsed = framework.parse(&proto, folder)?;
            if let Some(name) = parsed.unresolved_inputs.first() {
                bail!("no node produces the value {name:?}");
            }
            let mut model = parsed.model;
            if model.input_outlets()?.len() != 1 {
                bail!("{} inputs; an image classifier has one", model.input_outlets()?.len());
            }
            let first = model.output_outlets()?.first().copied().context("no output")?;
            model.select_output_outlets(&[first])?;
            Ok(model)
        })?;
        let plain = || {
            guarded("reading the model", || {
                at_shape(parsed.clone(), input, layout)?.into_typed()?.into_runnable()
            })
        };
        let (optimised, plain) = if free_batch {
            // each is slow and single-threaded
            let (optimised, plain) = rayon::join(|| optimised(&parsed, &one_at_a_time(input), layout), plain);
            (OnceLock::from(optimised), plain?)
        } else {
            (OnceLock::new(), plain()?)
        };
        Ok(Self {
            input: input.to_vec(),
            layout,
            plain,
            free_batch,
            optimised,
            distrusted: AtomicBool::new(false),
        })
    }

    /// Input shape (N, C, H, W) of the plain form.
    pub fn input_shape(&self) -> &[usize] {
        &self.input
    }

    /// Values per image of the first graph output; 0 if its shape is not that of class scores.
    pub fn outputs(&self) -> usize {
        let shape = self.plain.model().output_fact(0).ok().and_then(|f| f.shape.as_concrete());
        match shape {
            Some([n, rest @ ..]) if *n == self.input[0] => rest.iter().product(),
            _ => 0,
        }
    }

    /// The first graph output for each of `n` images, from the plain form. `x`: (n, C, H, W) row-major, normalised.
    ///
    /// # Errors
    /// [`Error::Internal`] if tract fails or panics, [`Error::Input`] if the output is not one row per image.
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

    /// True if [`logits_fast`](Self::logits_fast) found the optimised form wrong and used the plain one.
    pub fn optimised_is_distrusted(&self) -> bool {
        self.distrusted.load(Ordering::Relaxed)
    }

    fn optimised_is_trusted(&self, x: &[f32], n: usize) -> Result<bool> {
        let n = n.min(self.input[0]);
        let trusted = match self.logits_in(Form::Optimised, x, n) {
            Ok(fast) => {
                let plain = self.logits_in(Form::Plain, x, n)?;
                // far above rounding differences, far below a wrong result
                super::parity::compare(&fast, &plain, 1e-3).is_ok_and(|p| p.holds(1e-3))
            }
            Err(_) => false,
        };
        if !trusted {
            self.distrusted.store(true, Ordering::Relaxed);
        }
        Ok(trusted)
    }

    /// Input shape (N, C, H, W) of a form.
    fn shape(&self, form: Form) -> Vec<usize> {
        match form {
            Form::Optimised if self.free_batch => one_at_a_time(&self.input),
            _ => self.input.clone(),
        }
    }

    fn runnable(&self, form: Form) -> Result<&Runnable> {
        if form == Form::Plain {
            return Ok(&self.plain);
        }
        let make = || {
            let plain = || TypedModel::clone(self.plain.model()).into_optimized()?.into_runnable();
            guarded("optimising the model", plain).map_err(|e| e.to_string())
        };
        self.optimised.get_or_init(make).as_ref().map_err(Error::internal)
    }

    fn run_all<T: Send>(
        &self,
        form: Form,
        n: usize,
        rows: &Rows<'_>,
        each: &(dyn Fn(usize, Vec<f32>) -> Result<T> + Sync),
        watch: &Monitor,
    ) -> Result<Vec<T>> {
        let runnable = self.runnable(form)?;
        let shape = self.shape(form);
        let batch = shape[0];
        let runs: Vec<Result<Vec<T>>> = (0..n.div_ceil(batch))
            .into_par_iter()
            .map(|run| {
                watch.check()?;
                let from = run * batch;
                let count = batch.min(n - from);
                let logits = run_one(runnable, &shape, self.layout, rows(from, count)?, count)?;
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
}

/// Runs up to one batch of images with input shape `input` (N, C, H, W).
fn run_one(
    runnable: &Runnable,
    input: &[usize],
    layout: ImageLayout,
    mut x: Vec<f32>,
    count: usize,
) -> Result<Vec<Vec<f32>>> {
    let numel = input[1..].iter().product::<usize>();
    // only full batches can run: a short one is padded with its last image
    while x.len() < input[0] * numel {
        x.extend_from_within(x.len() - numel..);
    }
    let (shape, values) = guarded("running the model", || {
        let x = fed(input, layout, &x, runnable.model().input_fact(0)?.datum_type)?;
        let y = runnable.run(tvec!(x.into_tvalue()))?;
        let y = y[0].cast_to::<f32>()?;
        let values: Vec<f32> = y.to_plain_array_view::<f32>()?.iter().copied().collect();
        Ok((y.shape().to_vec(), values))
    })?;
    let classes = values.len() / input[0];
    if shape.first() != Some(&input[0]) || classes == 0 || shape.iter().skip(1).max() != Some(&classes) {
        let problem = format!("has shape {shape:?}, expected one row of class scores per image");
        return Err(Error::invalid("model output", problem));
    }
    Ok(values.chunks_exact(classes).take(count).map(<[f32]>::to_vec).collect())
}

/// (N, C, H, W) with N = 1.
fn one_at_a_time(input: &[usize]) -> Vec<usize> {
    [&[1], &input[1..]].concat()
}

/// The optimised form of a model at a shape, or why it cannot be built.
fn optimised(parsed: &InferenceModel, input: &[usize], layout: ImageLayout) -> Result<Runnable, String> {
    guarded("optimising the model", || {
        at_shape(parsed.clone(), input, layout)?.into_optimized()?.into_runnable()
    })
    .map_err(|e| e.to_string())
}

/// Fixes the input shape; the element type is the file's.
fn at_shape(mut model: InferenceModel, input: &[usize], layout: ImageLayout) -> TractResult<InferenceModel> {
    let declared = model.input_fact(0)?.datum_type.concretize().unwrap_or(f32::datum_type());
    model.set_input_fact(0, InferenceFact::dt_shape(declared, in_file(input, layout)))?;
    Ok(model)
}

/// The shape in the file of (N, C, H, W).
fn in_file(input: &[usize], layout: ImageLayout) -> Vec<usize> {
    <[usize; 4]>::try_from(input).map_or_else(|_| input.to_vec(), |shape| layout.shape(shape).to_vec())
}

/// Images (N, C, H, W) as the file takes them; rounded to the nearest integer for an integer input.
fn fed(input: &[usize], layout: ImageLayout, x: &[f32], datum: DatumType) -> TractResult<Tensor> {
    let x = match (layout, input) {
        (ImageLayout::Nhwc, &[_, c, h, w]) => {
            let plane = h * w;
            let pixel = |image: usize, at: usize| (0..c).map(move |c| x[(image + c * plane) + at]);
            let images = (0..x.len()).step_by((c * plane).max(1));
            let rows: Vec<f32> =
                images.flat_map(|image| (0..plane).flat_map(move |at| pixel(image, at))).collect();
            Tensor::from_shape(&in_file(input, layout), &rows)?
        }
        _ => Tensor::from_shape(input, x)?,
    };
    if datum.is_integer() {
        let bytes: Vec<u8> = x.to_plain_array_view::<f32>()?.iter().map(|v| v.round() as u8).collect();
        return Ok(Tensor::from_shape(x.shape(), &bytes)?.cast_to_dt(datum)?.into_owned());
    }
    Ok(x.cast_to_dt(datum)?.into_owned())
}

/// Calls into tract; a panic becomes an error.
fn guarded<T>(doing: &str, call: impl FnOnce() -> TractResult<T>) -> Result<T> {
    match caught(call) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(Error::invalid("judge (tract)", format!("{doing}: {}", short(&format!("{e:#}"))))),
        Err(panic) => Err(Error::internal(format!("judge (tract) panicked {doing}: {}", short(&panic)))),
    }
}

/// tract's messages contain names from the file and whole node descriptions.
fn short(text: &str) -> String {
    shortened(text, 400)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_judge_is_an_error_of_ours() {
        let e = guarded::<()>("testing", || panic!("index out of bounds")).unwrap_err();
        assert_eq!(e.exit_code(), 3);
        assert!(e.to_string().contains("index out of bounds"), "{e}");
        let e = guarded::<()>("testing", || bail!("\u{1b}[31mno")).unwrap_err();
        assert_eq!(e.exit_code(), 2);
        assert!(!e.to_string().contains('\u{1b}'), "{e}");
    }

    #[test]
    fn what_is_not_a_model_is_refused() {
        for bytes in [&b""[..], b"not a model", &[0xff; 64]] {
            assert!(Judge::load(bytes, Fed::of([1, 3, 8, 8])).is_err());
        }
    }
}
