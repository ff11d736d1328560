//! The operators, a file a family. Each is declared once, as an [`Operator`]: the opsets it is understood in, how many
//! inputs it has, its attributes with their defaults, and how it is lowered for known shapes to something that runs
//! and takes gradients back. [`OPERATORS`] lists them all; whatever else wants to know what is supported reads it.
//!
//! This room knows no graph and no file: a node comes with the shapes and constants of its inputs.

mod activation;
mod arithmetic;
pub mod array;
mod attributes;
mod broadcast;
mod call;
mod constant;
mod conv;
mod exec;
#[cfg(feature = "cuda")]
pub mod gpu;
mod index;
pub mod limits;
mod matmul;
mod normalization;
mod pool;
mod reduction;
mod shape;
mod softmax;
mod window;

use candle_core::Tensor;

pub use arithmetic::Gate;
pub(crate) use arithmetic::add;
pub use array::Array;
pub use attributes::{Attribute, Kind, Preset};
pub use call::{Call, Input, Lowered};
pub use conv::{ConvCache, ConvSpec, JoinedConv};
pub use exec::{Exec, Form, Kept, Way};
pub use normalization::{Affine, AffineRelu};

use crate::error::printable;
use crate::kernels::Precision;
use crate::onnx::model::Node;
use crate::onnx::tensor::{self, Data};
use crate::{Error, Result};

/// An operator of ONNX's default domain.
#[derive(Debug)]
pub struct Operator {
    /// Its op_type.
    pub name: &'static str,
    /// How many inputs it takes, from which opset on; the first entry is the oldest opset it is understood in.
    pub inputs: &'static [Arity],
    /// All attributes it has.
    pub attributes: &'static [Attribute],
    lower: fn(&Call) -> Result<Lowered>,
}

/// How many inputs an operator takes from opset `since` on.
#[derive(Clone, Copy, Debug)]
pub struct Arity {
    pub since: i64,
    pub least: usize,
    pub most: usize,
}

const fn arity(since: i64, least: usize, most: usize) -> Arity {
    Arity { since, least, most }
}

/// One input, in every opset.
const UNARY: &[Arity] = &[arity(7, 1, 1)];
/// Two inputs, in every opset.
const BINARY: &[Arity] = &[arity(7, 2, 2)];

/// Every operator there is.
pub const OPERATORS: &[&Operator] = &[
    &conv::CONV,
    &pool::MAX_POOL,
    &pool::AVERAGE_POOL,
    &pool::GLOBAL_AVERAGE_POOL,
    &pool::GLOBAL_MAX_POOL,
    &normalization::BATCH_NORMALIZATION,
    &activation::RELU,
    &activation::LEAKY_RELU,
    &activation::ELU,
    &activation::CLIP,
    &activation::SIGMOID,
    &activation::HARD_SIGMOID,
    &activation::HARD_SWISH,
    &activation::SWISH,
    &activation::GELU,
    &activation::TANH,
    &activation::ERF,
    &activation::SOFTPLUS,
    &activation::EXP,
    &activation::SQRT,
    &activation::NEG,
    &activation::ABS,
    &softmax::SOFTMAX,
    &softmax::LOG_SOFTMAX,
    &arithmetic::ADD,
    &arithmetic::SUB,
    &arithmetic::MUL,
    &arithmetic::DIV,
    &arithmetic::POW,
    &matmul::GEMM,
    &matmul::MAT_MUL,
    &reduction::REDUCE_MEAN,
    &reduction::REDUCE_SUM,
    &shape::FLATTEN,
    &shape::RESHAPE,
    &shape::TRANSPOSE,
    &shape::SQUEEZE,
    &shape::UNSQUEEZE,
    &shape::IDENTITY,
    &shape::DROPOUT,
    &shape::CAST,
    &shape::EXPAND,
    &shape::SHAPE,
    &index::CONCAT,
    &index::GATHER,
    &index::SLICE,
    &index::PAD,
    &constant::CONSTANT,
    &constant::CONSTANT_OF_SHAPE,
];

/// The operator that `node` names; None where there is none. ONNX's own domain has two names.
pub fn find(node: &Node) -> Option<&'static Operator> {
    let ours = matches!(node.domain.as_str(), "" | "ai.onnx");
    OPERATORS.iter().find(|o| ours && o.name == node.op_type).copied()
}

/// What lowering a node needs to know beside the node.
pub struct Setting<'a> {
    /// Opset of the default domain.
    pub opset: i64,
    /// The batch the file was written for and the one it is lowered for, where these differ.
    pub batch: Option<(usize, usize)>,
    /// Packed weights, shared between lowerings.
    pub convs: &'a ConvCache,
    /// What convolutions multiply.
    pub precision: Precision,
}

impl Operator {
    /// Lowers the node at place `index` of the file for inputs of these shapes.
    ///
    /// # Errors
    /// Naming the node: anything in it that is not understood, or that its inputs do not fit.
    pub fn lower(&self, node: &Node, index: usize, inputs: Vec<Input>, setting: &Setting) -> Result<Lowered> {
        let opset = setting.opset;
        let fail = |problem: String| Error::invalid(node.label(), problem);
        let Some(arity) = self.inputs.iter().rev().find(|a| a.since <= opset) else {
            let since = self.inputs.first().map_or(0, |a| a.since);
            return Err(fail(format!("does not exist in opset {opset}; it does from opset {since} on")));
        };
        let last = inputs.iter().rposition(|i| !matches!(i, Input::Absent)).map_or(0, |i| i + 1);
        if last > arity.most || inputs.len() < arity.least {
            let (least, most) = (arity.least, arity.most);
            return Err(fail(format!(
                "{} inputs, expected {least} to {most} in opset {opset}",
                inputs.len()
            )));
        }
        if let Some(i) = inputs.iter().take(arity.least).position(|i| matches!(i, Input::Absent)) {
            return Err(fail(format!("input {i} is missing")));
        }
        let attributes = attributes::resolve(self.attributes, opset, &node.attributes).map_err(fail)?;
        let constant = inputs.iter().all(|i| !matches!(i, Input::Value { .. }));
        let (convs, precision) = (setting.convs, setting.precision);
        // With constants alone the first input stands as a value, so that an operator need not know the difference.
        let folding = match inputs.first() {
            Some(Input::Constant(t)) if constant => Some(t.clone()),
            _ => None,
        };
        let batch = setting.batch;
        let folded = folding.clone();
        // what is folded into a constant is computed once and for all uses
        let precision = if folding.is_some() { Precision::F32 } else { precision };
        let mut call =
            Call { node, index, opset, inputs, attributes, convs, precision, folding: folded, batch };
        let Some(first) = folding else { return (self.lower)(&call) };
        call.inputs[0] =
            Input::Value { shape: first.dims().to_vec(), per_image: false, dtype: first.dtype() };
        match (self.lower)(&call)? {
            Lowered::Run { exec, .. } => {
                let value = exec.forward(vec![Array::from_tensor(&first)?], None).map_err(|e| match e {
                    Error::Internal(problem) => call.error(problem),
                    other => other,
                })?;
                Ok(Lowered::Constant(value.into_tensor()))
            }
            known => Ok(known),
        }
    }
}

/// A tensor of the file as operators take it: float32, or int64 for every type of integer and for bool.
///
/// # Errors
/// What is wrong with it, without its name: another type of float, a NaN, an infinity, an unsigned number that int64
/// does not hold, more dimensions than are supported.
pub fn constant(tensor: &tensor::Tensor) -> Result<Tensor, String> {
    fn whole<T: Copy + Into<i64>>(v: &[T]) -> Vec<i64> {
        v.iter().map(|&x| x.into()).collect()
    }
    let integers = match &tensor.data {
        Data::Float(v) => {
            // a lone infinity is a bound: Clip without one, or the padding of a maximum
            if let Some(bad) = v.iter().find(|x| x.is_nan() || (x.is_infinite() && v.len() > 1)) {
                return Err(format!("holds {bad}, expected finite numbers"));
            }
            return from_values(v.clone(), &tensor.dims);
        }
        Data::Int64(v) => v.clone(),
        Data::Int32(v) => whole(v),
        Data::Int16(v) => whole(v),
        Data::Int8(v) => whole(v),
        Data::Uint8(v) => whole(v),
        Data::Uint16(v) => whole(v),
        Data::Uint32(v) => whole(v),
        Data::Bool(v) => v.iter().map(|&x| i64::from(x)).collect(),
        Data::Uint64(v) => {
            v.iter().map(|&x| i64::try_from(x).map_err(|_| format!("holds {x}"))).collect::<Result<_, _>>()?
        }
        other => {
            let found = other.data_type().name();
            return Err(format!("holds {found} numbers; only float32 networks are supported"));
        }
    };
    from_values(integers, &tensor.dims)
}

fn from_values<T: candle_core::WithDType>(values: Vec<T>, dims: &[usize]) -> Result<Tensor, String> {
    if dims.len() > limits::RANK {
        return Err(format!("has {} dimensions; at most {} are supported", dims.len(), limits::RANK));
    }
    if dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) != Some(values.len()) {
        return Err(format!("{} values for shape {dims:?}", values.len()));
    }
    Tensor::from_vec(values, dims, &candle_core::Device::Cpu).map_err(|e| e.to_string())
}

/// The whole list of `nodes`' operators that are not supported, in one error.
pub fn check_all_known(nodes: &[Node], file: &str) -> Result<()> {
    let mut unknown: Vec<(String, usize, String)> = Vec::new();
    for node in nodes.iter().filter(|n| find(n).is_none()) {
        let name = match node.domain.as_str() {
            "" | "ai.onnx" => printable(&node.op_type),
            domain => printable(&format!("{domain}::{}", node.op_type)),
        };
        match unknown.iter_mut().find(|(n, ..)| *n == name) {
            Some((_, count, _)) => *count += 1,
            None => unknown.push((name, 1, node.label())),
        }
    }
    if unknown.is_empty() {
        return Ok(());
    }
    unknown.sort();
    let list: Vec<String> =
        unknown.iter().map(|(name, n, first)| format!("{name} ({n} times, first at {first})")).collect();
    Err(Error::invalid(printable(file), format!("operators that are not supported: {}", list.join("; "))))
}
