//! tract as a runtime of the judge. Nothing but this file calls it; panics of it become errors in `guarded`.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use tract_onnx::{
    pb::{ModelProto, NodeProto},
    prelude::*,
    tract_core::internal::bail,
    tract_hir::infer::Factoid as _,
};

use super::{
    prune::keep_only,
    readable::{of_another_domain, readable},
    runtime::{Fed, Form, Part, Runtime, Value, in_file, shape_in_file},
};
use crate::{
    Error, Result,
    base::guard::caught,
    error::{printable, shortened},
    onnx::ImageLayout,
};

type Runnable = Arc<TypedRunnableModel>;

/// A model in tract at a fixed input shape, in both of its forms.
pub(super) struct Tract {
    /// (N, C, H, W).
    input: Vec<usize>,
    layout: ImageLayout,
    plain: Runnable,
    /// The optimised form runs one image at a time.
    free_batch: bool,
    optimised: OnceLock<Result<Runnable, String>>,
    rewritten: Vec<String>,
}

impl Tract {
    /// Loads a model from `bytes`; external data is read from `folder`.
    ///
    /// # Errors
    /// [`Error::Check`] named `judge` if tract cannot read the model or panics.
    pub fn load(mut bytes: &[u8], folder: Option<&Path>, fed: Fed) -> Result<Self> {
        let Fed { shape, layout, free_batch, output, .. } = fed;
        let input = shape.as_slice();
        let (path, folder) = (folder, folder_name(folder)?);
        if input.first().is_none_or(|&n| n == 0) {
            return Err(Error::internal("the judge was given an empty batch"));
        }
        let proto = guarded("reading the file", || tract_onnx::onnx().proto_model_for_read(&mut bytes))?;
        let (proto, rewritten) = readable(keep_only(proto, output)?, path)?;
        if let Some(node) = of_another_domain(&proto) {
            return Err(lacking(node));
        }
        let about = |e: Error| about_the_model(&proto, e);
        let parsed = guarded("reading the model", || {
            let model = parsed(&proto, folder)?;
            if model.input_outlets()?.len() != 1 {
                bail!("{} inputs; an image classifier has one", model.input_outlets()?.len());
            }
            Ok(model)
        })
        .map_err(about)?;
        let plain = || {
            guarded("reading the model", || {
                at_shape(parsed.clone(), input, layout)?.into_typed()?.into_runnable()
            })
            .map_err(about)
        };
        let (optimised, plain) = if free_batch {
            // each is slow and single-threaded
            let (optimised, plain) = rayon::join(|| optimised(&parsed, &one_at_a_time(input), layout), plain);
            (OnceLock::from(optimised), plain?)
        } else {
            (OnceLock::new(), plain()?)
        };
        Ok(Self { input: input.to_vec(), layout, plain, free_batch, optimised, rewritten })
    }

    fn runnable(&self, form: Form) -> Result<&Runnable, &String> {
        if form == Form::Plain {
            return Ok(&self.plain);
        }
        let make = || {
            let plain = || TypedModel::clone(self.plain.model()).into_optimized()?.into_runnable();
            guarded("optimising the model", plain).map_err(words)
        };
        self.optimised.get_or_init(make).as_ref()
    }
}

impl Runtime for Tract {
    fn name(&self) -> &'static str {
        "tract"
    }

    fn outputs(&self) -> usize {
        let shape = self.plain.model().output_fact(0).ok().and_then(|f| f.shape.as_concrete());
        match shape {
            Some([n, rest @ ..]) if *n == self.input[0] => rest.iter().product(),
            _ => 0,
        }
    }

    fn rewritten(&self) -> &[String] {
        &self.rewritten
    }

    fn batch(&self, form: Form) -> usize {
        if form == Form::Optimised && self.free_batch { 1 } else { self.input[0] }
    }

    fn run(&self, form: Form, x: &[f32]) -> Result<(Vec<usize>, Vec<f32>)> {
        let runnable = self.runnable(form).map_err(|why| Error::check("judge", why))?;
        let input = [&[self.batch(form)], &self.input[1..]].concat();
        guarded("running the model", || {
            let x = fed(&input, self.layout, x, runnable.model().input_fact(0)?.datum_type)?;
            let y = runnable.run(tvec!(x.into_tvalue()))?;
            let y = y[0].cast_to::<f32>()?;
            let values: Vec<f32> = y.to_plain_array_view::<f32>()?.iter().copied().collect();
            Ok((y.shape().to_vec(), values))
        })
    }

    fn part(&self, form: Form, model: &ModelProto) -> Result<Box<dyn Part>> {
        let runnable = guarded("reading a part of the model", || {
            let parsed = parsed(model, None)?;
            match form {
                Form::Plain => parsed.into_typed()?.into_runnable(),
                Form::Optimised => parsed.into_optimized()?.into_runnable(),
            }
        });
        Ok(Box::new(TractPart(runnable.map_err(|e| about_the_model(model, e))?)))
    }
}

struct TractPart(Runnable);

impl Part for TractPart {
    fn run(&self, inputs: &[Value]) -> Result<Vec<Value>> {
        guarded("running a part of the model", || {
            let mut fed = tvec!();
            for (at, Value { shape, data }) in inputs.iter().enumerate() {
                let datum = self.0.model().input_fact(at)?.datum_type;
                fed.push(Tensor::from_shape(shape, data)?.cast_to_dt(datum)?.into_owned().into_tvalue());
            }
            let value = |y: TValue| -> TractResult<Value> {
                let y = y.cast_to::<f32>()?;
                let data = y.to_plain_array_view::<f32>()?.iter().copied().collect();
                Ok(Value { shape: y.shape().to_vec(), data })
            };
            self.0.run(fed)?.into_iter().map(value).collect()
        })
    }
}

/// tract's name of a folder.
fn folder_name(folder: Option<&Path>) -> Result<Option<&str>> {
    match folder.map(Path::to_str) {
        Some(None) => Err(Error::invalid("model's folder", "its name is not UTF-8")),
        Some(Some("")) => Ok(Some(".")),
        name => Ok(name.flatten()),
    }
}

fn parsed(proto: &ModelProto, folder: Option<&str>) -> TractResult<InferenceModel> {
    // stale value_info would be applied as fact
    let parsed = tract_onnx::onnx().with_ignore_value_info(true).parse(proto, folder)?;
    if let Some(name) = parsed.unresolved_inputs.first() {
        bail!("no node produces the value {name:?}");
    }
    Ok(parsed.model)
}

/// What of the model tract cannot take, in our words: operators that it does not have, else the node that it names.
fn about_the_model(proto: &ModelProto, error: Error) -> Error {
    let Error::Check { problem, .. } = &error else { return error };
    let known = tract_onnx::onnx().op_register;
    let nodes = || proto.graph.iter().flat_map(|graph| &graph.node);
    if let Some(node) = nodes().find(|node| !known.0.contains_key(&node.op_type)) {
        return lacking(node);
    }
    let named = |node: &&NodeProto| {
        let name = if node.name.is_empty() { node.output.first() } else { Some(&node.name) };
        let shown = |name: &String| {
            problem.contains(&format!("\"{name}\"")) || problem.contains(&format!(" {name} "))
        };
        name.filter(|name| !name.is_empty()).is_some_and(shown)
    };
    let at = nodes().find(named).map_or_else(|| "the model".to_owned(), label);
    Error::check("judge", format!("tract cannot take {at} (it says: {}); {WAY_OUT}", shortened(problem, 160)))
}

const WAY_OUT: &str = "name another `judge`, or `none` to go on unverified";

fn lacking(node: &NodeProto) -> Error {
    Error::check("judge", format!("tract does not have the operator of {}; {WAY_OUT}", label(node)))
}

fn label(node: &NodeProto) -> String {
    let name = if node.name.is_empty() { node.output.first().unwrap_or(&node.name) } else { &node.name };
    let domain =
        if node.domain.is_empty() { String::new() } else { format!(" of {}", printable(&node.domain)) };
    format!("node \"{}\" ({}{domain})", printable(name), printable(&node.op_type))
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
    .map_err(words)
}

/// What a check found, without its name.
fn words(error: Error) -> String {
    match error {
        Error::Check { problem, .. } => problem,
        other => other.to_string(),
    }
}

/// Fixes the input shape; the element type is the file's.
fn at_shape(mut model: InferenceModel, input: &[usize], layout: ImageLayout) -> TractResult<InferenceModel> {
    let declared = model.input_fact(0)?.datum_type.concretize().unwrap_or(f32::datum_type());
    model.set_input_fact(0, InferenceFact::dt_shape(declared, shape_in_file(input, layout)))?;
    Ok(model)
}

/// Images (N, C, H, W) as the file takes them; rounded to the nearest integer for an integer input.
fn fed(input: &[usize], layout: ImageLayout, x: &[f32], datum: DatumType) -> TractResult<Tensor> {
    let (shape, x) = in_file(input, layout, x);
    if datum.is_integer() {
        let bytes: Vec<u8> = x.iter().map(|v| v.round() as u8).collect();
        return Ok(Tensor::from_shape(&shape, &bytes)?.cast_to_dt(datum)?.into_owned());
    }
    Ok(Tensor::from_shape(&shape, &x)?.cast_to_dt(datum)?.into_owned())
}

/// Calls into tract; a panic becomes an error.
fn guarded<T>(doing: &str, call: impl FnOnce() -> TractResult<T>) -> Result<T> {
    match caught(call) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(Error::check("judge", format!("tract, {doing}: {}", short(&format!("{e:#}"))))),
        Err(panic) => Err(Error::check("judge", format!("tract panicked {doing}: {}", short(&panic)))),
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
        assert_eq!(e.exit_code(), 1);
        assert!(e.to_string().contains("index out of bounds"), "{e}");
        let e = guarded::<()>("testing", || bail!("\u{1b}[31mno")).unwrap_err();
        assert_eq!(e.exit_code(), 1);
        assert!(!e.to_string().contains('\u{1b}'), "{e}");
    }

    #[test]
    fn what_is_not_a_model_is_refused() {
        for bytes in [&b""[..], b"not a model", &[0xff; 64]] {
            assert!(Tract::load(bytes, None, Fed::of([1, 3, 8, 8])).is_err());
        }
    }
}
