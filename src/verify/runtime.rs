//! What a judge needs of a runtime, and what the runtimes have in common.

use tract_onnx::pb::ModelProto;

use crate::{Result, graph::ScoreForm, onnx::ImageLayout};

/// A runtime's two forms of a network, which round differently. In tract 0.23.9 the optimised form is wrong for a few
/// patterns (`const - Conv(x)`, `const / Conv(x)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Node for node as in the file.
    Plain,
    /// Folded and laid out for speed.
    Optimised,
}

impl Form {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Plain => Self::Optimised,
            Self::Optimised => Self::Plain,
        }
    }
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
    /// Index of the output with the scores among the file's outputs.
    pub output: usize,
    /// What a row of that output is.
    pub form: ScoreForm,
}

impl Fed {
    /// Batches of a fixed size in (N, C, H, W), and the scores of the first output.
    pub fn of(shape: [usize; 4]) -> Self {
        Self { shape, layout: ImageLayout::Nchw, free_batch: false, output: 0, form: ScoreForm::EachClass }
    }
}

/// Returns `count` images from `from` on, (count, C, H, W) row-major, normalised.
pub type Rows<'r> = dyn Fn(usize, usize) -> Result<Vec<f32>> + Sync + 'r;

/// A runtime with a model at a fixed input shape. It may refuse a form for good.
pub trait Runtime: Send + Sync {
    /// Its name in messages and reports.
    fn name(&self) -> &'static str;

    /// Values per image of the output with the scores; 0 if its shape is not that of class scores.
    fn outputs(&self) -> usize;

    /// What was changed in the copy of the file that it was given.
    fn rewritten(&self) -> &[String];

    /// Images a run of `form`.
    fn batch(&self, form: Form) -> usize;

    /// Shape and values of the output with the scores for one batch `x`, row-major.
    ///
    /// # Errors
    /// [`Error::Check`] named `judge` if the form cannot be built or run.
    fn run(&self, form: Form, x: &[f32]) -> Result<(Vec<usize>, Vec<f32>)>;

    /// Another model of static shapes, with any number of inputs and outputs.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn part(&self, form: Form, model: &ModelProto) -> Result<Box<dyn Part>>;
}

/// A model of static shapes.
pub trait Part: Send + Sync {
    /// Its outputs. Inputs are converted to the types that it declares.
    fn run(&self, inputs: &[Value]) -> Result<Vec<Value>>;
}

/// A value of a batch, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Batch included.
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// The shape in the file of (N, C, H, W).
pub fn shape_in_file(input: &[usize], layout: ImageLayout) -> Vec<usize> {
    <[usize; 4]>::try_from(input).map_or_else(|_| input.to_vec(), |shape| layout.shape(shape).to_vec())
}

/// Images (N, C, H, W) as the file takes them, with their shape there.
pub fn in_file(input: &[usize], layout: ImageLayout, x: &[f32]) -> (Vec<usize>, Vec<f32>) {
    let shape = shape_in_file(input, layout);
    let rows = match (layout, input) {
        (ImageLayout::Nhwc, &[_, c, h, w]) => {
            let plane = h * w;
            let pixel = |image: usize, at: usize| (0..c).map(move |c| x[(image + c * plane) + at]);
            let images = (0..x.len()).step_by((c * plane).max(1));
            images.flat_map(|image| (0..plane).flat_map(move |at| pixel(image, at))).collect()
        }
        _ => x.to_vec(),
    };
    (shape, rows)
}
