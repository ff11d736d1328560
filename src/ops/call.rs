//! A node as its operator sees it while it is lowered: attributes sorted and typed, inputs with their shapes, and the
//! few questions that every operator asks, answered with errors that name the node.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::attributes::Given;
use super::conv_spec::ConvCache;
use super::exec::Exec;
use super::limits;
use crate::error::printable;
use crate::kernels::Precision;
use crate::onnx::node::Node;
use crate::{Error, Result};

/// An input of a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// Optional, and not given.
    Absent,
    /// Known while lowering: float32 or, for every integer type and bool, int64.
    Constant(Tensor),
    /// Depends on the image.
    Value { shape: Vec<usize>, per_image: bool, dtype: DType },
}

/// What a node becomes: its outputs in the order of the file. Outputs past the last of these are not computed.
pub type Lowered = Vec<Output>;

/// What becomes of one output of a node.
pub enum Output {
    /// Known while lowering.
    Constant(Tensor),
    /// To be run.
    Run(Run),
}

/// What computes one output.
pub struct Run {
    /// Shape of the output, batch included.
    pub shape: Vec<usize>,
    /// Row i of the output depends on the rows i of the inputs alone.
    pub per_image: bool,
    pub exec: Arc<dyn Exec>,
}

/// One node to be lowered.
pub struct Call<'a> {
    pub(super) node: &'a Node,
    /// Its place in the file.
    pub(super) index: usize,
    pub(super) opset: i64,
    pub(super) inputs: Vec<Input>,
    pub(super) attributes: Vec<(&'static str, Given<'a>)>,
    pub(super) convs: &'a ConvCache,
    /// What convolutions multiply.
    pub(super) precision: Precision,
    /// The first input, where all inputs are constants: it stands as a value among them, and the operator is run at
    /// once.
    pub(super) folding: Option<Tensor>,
    /// The batch the file was written for and the one it is lowered for, where these differ.
    pub(super) batch: Option<(usize, usize)>,
}

impl Call<'_> {
    /// An error about this node.
    pub fn error(&self, problem: impl std::fmt::Display) -> Error {
        Error::model(self.node.label(), problem)
    }

    fn given(&self, name: &str) -> Given<'_> {
        self.attributes.iter().find(|(n, _)| *n == name).map_or(Given::Absent, |(_, v)| *v)
    }

    /// An integer attribute: None where it is absent and has no default.
    pub fn int(&self, name: &str) -> Option<i64> {
        if let Given::Int(v) = self.given(name) { Some(v) } else { None }
    }

    /// An attribute that is 0 or 1.
    pub fn flag(&self, name: &str) -> Result<bool> {
        match self.int(name) {
            None | Some(0) => Ok(false),
            Some(1) => Ok(true),
            Some(v) => Err(self.error(format!("attribute `{name}` is {v}, expected 0 or 1"))),
        }
    }

    /// A finite float attribute.
    pub fn float(&self, name: &str) -> Result<Option<f32>> {
        match self.given(name) {
            Given::Float(v) if v.is_finite() => Ok(Some(v)),
            Given::Float(v) => Err(self.error(format!("attribute `{name}` is {v}"))),
            _ => Ok(None),
        }
    }

    /// A finite float attribute that has a default.
    pub fn number(&self, name: &str) -> Result<f32> {
        self.float(name)?.ok_or_else(|| Error::internal(format!("`{name}` has no default")))
    }

    /// A string attribute.
    pub fn text(&self, name: &str) -> Option<&str> {
        if let Given::Text(v) = self.given(name) { Some(v) } else { None }
    }

    /// An attribute that is a list of integers.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        if let Given::Ints(v) = self.given(name) { Some(v) } else { None }
    }

    pub(super) fn attribute(&self, name: &str) -> Given<'_> {
        self.given(name)
    }

    /// Input `i`; inputs past the last are absent.
    pub fn input(&self, i: usize) -> &Input {
        self.inputs.get(i).unwrap_or(&Input::Absent)
    }

    /// Whether input `i` is there.
    pub fn has(&self, i: usize) -> bool {
        !matches!(self.input(i), Input::Absent)
    }

    /// Shape of input `i`, which has to be there.
    pub fn shape(&self, i: usize) -> Result<&[usize]> {
        match self.input(i) {
            Input::Absent => Err(self.error(format!("input {i} is missing"))),
            Input::Constant(t) => Ok(t.dims()),
            Input::Value { shape, .. } => Ok(shape),
        }
    }

    fn dtype(&self, i: usize) -> Option<DType> {
        match self.input(i) {
            Input::Absent => None,
            Input::Constant(t) => Some(t.dtype()),
            Input::Value { dtype, .. } => Some(*dtype),
        }
    }

    /// Shape of input `i`, which has to be there and to be float32.
    pub fn float_shape(&self, i: usize) -> Result<&[usize]> {
        match self.dtype(i) {
            Some(DType::F32) | None if self.shape(i)?.contains(&0) => {
                Err(self.error(format!("input {i} has no elements: its shape is {:?}", self.shape(i)?)))
            }
            Some(DType::F32) | None => self.shape(i),
            Some(_) => Err(self.error(format!("input {i} holds integers, expected float32"))),
        }
    }

    /// All inputs that are there are integers.
    pub fn is_integer(&self) -> bool {
        (0..self.inputs.len()).all(|i| !matches!(self.dtype(i), Some(DType::F32)))
    }

    /// Inputs that are there do not mix integers and floats.
    pub fn one_dtype(&self) -> Result<()> {
        let mut dtypes = (0..self.inputs.len()).filter_map(|i| self.dtype(i));
        let first = dtypes.next();
        match dtypes.all(|d| Some(d) == first) {
            true => Ok(()),
            false => Err(self.error("inputs of different types")),
        }
    }

    /// Whether row i of input `i` belongs to image i; true of constants, which belong to none.
    pub fn per_image(&self, i: usize) -> bool {
        !matches!(self.input(i), Input::Value { per_image: false, .. })
    }

    /// Whether row r of an output of shape `out`, to which input `i` is broadcast, takes from it row r where it is a
    /// value, and the same for every r where it is a constant.
    pub fn row_by_row(&self, i: usize, out: &[usize]) -> bool {
        match self.input(i) {
            Input::Absent => true,
            Input::Constant(t) => t.rank() < out.len() || t.dims().first().is_none_or(|&d| d == 1),
            Input::Value { shape, .. } => shape.len() == out.len() && shape.first() == out.first(),
        }
    }

    /// Input `i` as a constant: None where it is absent, an error where it depends on the image.
    pub fn constant(&self, i: usize) -> Result<Option<&Tensor>> {
        match self.input(i) {
            Input::Absent => Ok(None),
            Input::Constant(t) => Ok(Some(t)),
            Input::Value { .. } => {
                let name = self.node.inputs.get(i).map(|n| printable(n)).unwrap_or_default();
                Err(self
                    .error(format!("input {i} (\"{name}\") has to be a constant, and depends on the image")))
            }
        }
    }

    /// Input `i` where it is known while lowering, the first one of a node with constants alone included.
    pub fn now(&self, i: usize) -> Option<&Tensor> {
        match (self.input(i), &self.folding) {
            (Input::Constant(t), _) => Some(t),
            (Input::Value { .. }, Some(first)) if i == 0 => Some(first),
            _ => None,
        }
    }

    /// Input `i` as a constant of float32, row-major: None where it is absent.
    pub fn floats(&self, i: usize) -> Result<Option<Vec<f32>>> {
        let Some(t) = self.constant(i)? else { return Ok(None) };
        if t.dtype() != DType::F32 {
            return Err(self.error(format!("input {i} holds integers, expected float32")));
        }
        Ok(Some(t.flatten_all()?.to_vec1()?))
    }

    /// Input `i` as a constant of integers, row-major: None where it is absent.
    pub fn integers(&self, i: usize) -> Result<Option<Vec<i64>>> {
        let Some(t) = self.constant(i)? else { return Ok(None) };
        if t.dtype() != DType::I64 {
            return Err(self.error(format!("input {i} holds floats, expected integers")));
        }
        Ok(Some(t.flatten_all()?.to_vec1()?))
    }

    /// Input `i` as a constant vector of `length` float32 values, which has to be there.
    pub fn vector(&self, i: usize, length: usize) -> Result<Vec<f32>> {
        let shape = self.shape(i)?;
        if shape != [length] {
            return Err(self.error(format!("input {i} has shape {shape:?}, expected [{length}]")));
        }
        let values = self.floats(i)?.ok_or_else(|| self.error(format!("input {i} is missing")))?;
        match values.iter().find(|v| !v.is_finite()) {
            Some(bad) => Err(self.error(format!("input {i} holds {bad}, expected finite numbers"))),
            None => Ok(values),
        }
    }

    /// `axis` of a value of rank `rank`, counted from the end where negative.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize> {
        let signed = rank as i64;
        let from_front = if axis < 0 { axis.checked_add(signed) } else { Some(axis) };
        match from_front {
            Some(a) if (0..signed).contains(&a) => Ok(a as usize),
            _ => Err(self.error(format!("axis {axis} of a value with {rank} dimensions"))),
        }
    }

    /// Several axes, each named once, in the order given.
    pub fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>> {
        let mut seen = Vec::with_capacity(axes.len());
        for &a in axes {
            let a = self.axis(a, rank)?;
            if seen.contains(&a) {
                return Err(self.error(format!("axis {a} is named twice")));
            }
            seen.push(a);
        }
        Ok(seen)
    }

    /// The number of elements of a value of `shape`, if it is not beyond the limits.
    pub fn elements(&self, shape: &[usize]) -> Result<usize> {
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let most = if self.folding.is_some() { limits::CONSTANT } else { limits::VALUE };
        match count {
            Some(n) if n <= most && shape.len() <= limits::RANK => Ok(n),
            _ => Err(self.error(format!(
                "a value of shape {shape:?}: at most {most} elements in {} dimensions are supported",
                limits::RANK
            ))),
        }
    }

    /// The only output, of `shape`; `per_image`: see [`Run`].
    pub fn run(&self, shape: Vec<usize>, per_image: bool, exec: impl Exec) -> Result<Lowered> {
        Ok(vec![self.output(shape, per_image, exec)?])
    }

    /// One of several outputs, of `shape`; `per_image`: see [`Run`].
    pub fn output(&self, shape: Vec<usize>, per_image: bool, exec: impl Exec) -> Result<Output> {
        if self.elements(&shape)? == 0 && self.folding.is_none() {
            return Err(self.error(format!("an output of shape {shape:?}, without elements")));
        }
        let per_image = per_image && (0..self.inputs.len()).all(|i| self.per_image(i));
        Ok(Output::Run(Run { shape, per_image, exec: Arc::new(exec) }))
    }

    /// The only output, which is a constant.
    pub fn known(&self, tensor: &Tensor) -> Result<Lowered> {
        Ok(vec![Output::Constant(tensor.contiguous()?)])
    }
}
