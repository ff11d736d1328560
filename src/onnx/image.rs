//! [`ImageInput`]: how a file takes images.

use super::{
    model::Model,
    node::{AttributeValue, Dim, Node, ValueInfo},
    tensor::DataType,
};
use crate::{Error, Result};

/// The order of an image input's dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageLayout {
    /// (N, C, H, W).
    Nchw,
    /// (N, H, W, C), channels last.
    Nhwc,
}

impl ImageLayout {
    /// The shape in the file of (N, C, H, W).
    pub fn shape(self, [n, c, h, w]: [usize; 4]) -> [usize; 4] {
        match self {
            Self::Nchw => [n, c, h, w],
            Self::Nhwc => [n, h, w, c],
        }
    }
}

/// The single input of an image classifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageInput {
    /// Order of its dimensions.
    pub layout: ImageLayout,
    /// FLOAT, FLOAT16 or UINT8.
    pub elem_type: DataType,
    /// Batch size; None where it is dynamic.
    pub batch: Option<usize>,
    /// Number of channels; None where it is dynamic.
    pub channels: Option<usize>,
    /// Height and width, if both are static.
    pub size: Option<[usize; 2]>,
}

/// The permutation that makes (N, C, H, W) channels-last, and its inverse.
pub const TO_NHWC: [i64; 4] = [0, 2, 3, 1];
const TO_NCHW: [i64; 4] = [0, 3, 1, 2];

impl ImageInput {
    /// # Errors
    /// [`Error::Input`] unless the model has one input of four dimensions with 1 or 3 channels, first or last, of
    /// float32, float16 or uint8, and an output.
    pub fn of(model: &Model) -> Result<Self> {
        let invalid = |problem: String| Error::invalid(model.name(), problem);
        let [input] = model.inputs() else {
            let n = model.inputs().len();
            return Err(invalid(format!("has {n} inputs; an image classifier has one")));
        };
        if model.outputs().is_empty() {
            return Err(invalid("has no output".into()));
        }
        let elem_type = input.elem_type.unwrap_or(DataType::Float);
        if !matches!(elem_type, DataType::Float | DataType::Float16 | DataType::Uint8) {
            let cast = "convert the model to one of these, or add a Cast after a float32 input";
            let name = elem_type.name();
            let problem = format!("its input is {name}, expected FLOAT (float32), FLOAT16 or UINT8: {cast}");
            return Err(invalid(problem));
        }
        let dims = input.shape.clone().unwrap_or_else(|| vec![Dim::Symbol(String::new()); 4]);
        let shape = input.described();
        if dims.len() != 4 {
            let expected = "of four dimensions, (N, C, H, W) or (N, H, W, C)";
            return Err(invalid(format!("its input {shape} is not {expected}")));
        }
        let fixed = |at: usize| match dims.get(at) {
            Some(Dim::Fixed(n)) => Some(*n),
            _ => None,
        };
        if (0..4).any(|at| fixed(at) == Some(0)) {
            return Err(invalid(format!("its input {shape} is empty")));
        }
        let Some(layout) = layout(model, input, [fixed(1), fixed(3)]) else {
            return Err(invalid(format!(
                "its input {shape} has neither 1 nor 3 channels, as (N, C, H, W) or (N, H, W, C)"
            )));
        };
        let (channels, size) = match layout {
            ImageLayout::Nchw => (fixed(1), [fixed(2), fixed(3)]),
            ImageLayout::Nhwc => (fixed(3), [fixed(1), fixed(2)]),
        };
        let size = size[0].zip(size[1]).map(|(h, w)| [h, w]);
        Ok(Self { layout, elem_type, batch: fixed(0), channels, size })
    }
}

/// The layout by the number of channels, 1 or 3; where both or neither end tells, by the first node that reads the input.
fn layout(model: &Model, input: &ValueInfo, [second, last]: [Option<usize>; 2]) -> Option<ImageLayout> {
    let is_channels = |n: Option<usize>| matches!(n, Some(1 | 3));
    match (second, last) {
        (Some(_), _) if is_channels(second) && !is_channels(last) => Some(ImageLayout::Nchw),
        (None, Some(_)) if is_channels(last) => Some(ImageLayout::Nhwc),
        (Some(_), _) if !is_channels(second) => is_channels(last).then_some(ImageLayout::Nhwc),
        _ if read_by_a_transpose(model, &input.name) => Some(ImageLayout::Nhwc),
        _ => Some(ImageLayout::Nchw),
    }
}

/// Whether a Transpose to (N, C, H, W) reads the value `name`, behind nodes that keep its layout.
fn read_by_a_transpose(model: &Model, name: &str) -> bool {
    let mut name = name.to_owned();
    // each step follows one value to its only reader
    for _ in 0..8 {
        let mut readers = model.nodes().iter().filter(|n| n.inputs.contains(&name));
        let (Some(reader), None) = (readers.next(), readers.next()) else { return false };
        match reader.op_type.as_str() {
            "Transpose" => return permutation(reader) == Some(&TO_NCHW),
            "Cast" | "Identity" | "Sub" | "Add" | "Mul" | "Div" => {}
            _ => return false,
        }
        let Some(output) = reader.outputs.first() else { return false };
        name.clone_from(output);
    }
    false
}

fn permutation(node: &Node) -> Option<&[i64]> {
    node.attributes.iter().find(|a| a.name == "perm").and_then(|a| match &a.value {
        AttributeValue::Ints(perm) => Some(perm.as_slice()),
        _ => None,
    })
}
