//! A node during lowering: typed attributes, inputs with their shapes, and the checks that operators share, whose
//! errors name the node.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::attributes::Given;
use super::axes::Axes;
use super::conv_spec::ConvCache;
use super::exec::Exec;
use super::limits;
use crate::error::printable;
use crate::kernels::Precision;
use crate::onnx::node::Node;
use crate::onnx::tensor::DataType;
use crate::{Error, Result};

/// An input of a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// An optional input that is not given.
    Absent,
    /// Known at lowering: float32, or int64 for every integer type and bool.
    Constant(Tensor),
    /// Depends on the image.
    Value {
        shape: Vec<usize>,
        per_image: bool,
        /// What is computed: float32 for everything that depends on the image.
        dtype: DType,
        /// What the file holds.
        elem: DataType,
        axes: Axes,
    },
}

impl Input {
    /// A value that depends on the image, of this shape and type in the file, computed as float32.
    pub fn value(shape: Vec<usize>, per_image: bool, elem: DataType, axes: Axes) -> Self {
        Self::Value { shape, per_image, dtype: DType::F32, elem, axes }
    }
}

/// A node's lowered outputs, in the order of the file. Outputs beyond these are not computed.
pub type Lowered = Vec<Output>;

/// One lowered output of a node.
pub enum Output {
    /// Known at lowering.
    Constant(Tensor),
    /// Computed in every run.
    Run(Run),
}

/// Computes one output.
pub struct Run {
    /// Shape of the output, batch included.
    pub shape: Vec<usize>,
    /// Row i of the output depends on row i of the inputs alone.
    pub per_image: bool,
    /// What the file holds; computed as float32, integers exactly up to 2^24.
    pub elem: DataType,
    /// What the dimensions hold.
    pub axes: Axes,
    pub exec: Arc<dyn Exec>,
}

/// A node being lowered.
pub struct Call<'a> {
    pub(super) node: &'a Node,
    /// Index among the file's nodes.
    pub(super) index: usize,
    pub(super) opset: i64,
    pub(super) inputs: Vec<Input>,
    pub(super) attributes: Vec<(&'static str, Given<'a>)>,
    pub(super) convs: &'a ConvCache,
    /// Precision of the convolutions.
    pub(super) precision: Precision,
    /// The first input if all inputs are constants. It is then presented as a value, and the operator runs at
    /// lowering.
    pub(super) folding: Option<Tensor>,
    /// (batch in the file, batch lowered for), if they differ.
    pub(super) batch: Option<(usize, usize)>,
    pub(super) stored: &'a dyn Fn(&str) -> Option<DataType>,
}

impl Call<'_> {
    /// An error about this node.
    pub fn error(&self, problem: impl std::fmt::Display) -> Error {
        Error::model(self.node.label(), problem)
    }

    fn given(&self, name: &str) -> Given<'_> {
        self.attributes.iter().find(|(n, _)| *n == name).map_or(Given::Absent, |(_, v)| *v)
    }

    /// An integer attribute; None if it is absent without a default.
    pub fn int(&self, name: &str) -> Option<i64> {
        if let Given::Int(v) = self.given(name) { Some(v) } else { None }
    }

    /// An attribute that must be 0 or 1.
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

    /// Whether input `i` is given.
    pub fn has(&self, i: usize) -> bool {
        !matches!(self.input(i), Input::Absent)
    }

    /// Shape of input `i`; an error if it is absent.
    pub fn shape(&self, i: usize) -> Result<&[usize]> {
        match self.input(i) {
            Input::Absent => Err(self.error(format!("input {i} is missing"))),
            Input::Constant(t) => Ok(t.dims()),
            Input::Value { shape, .. } => Ok(shape),
        }
    }

    /// What input `i` holds in the file; of constants only whether they are floats or integers is known.
    pub fn elem(&self, i: usize) -> Option<DataType> {
        match self.input(i) {
            Input::Absent => None,
            Input::Constant(t) => Some(of_dtype(t.dtype())),
            Input::Value { elem, .. } => Some(*elem),
        }
    }

    /// What the file holds in input `i`; None if it is absent or, of a constant, not known.
    pub fn stored(&self, i: usize) -> Option<DataType> {
        match self.input(i) {
            Input::Value { elem, .. } if self.folding.is_none() => Some(*elem),
            Input::Absent => None,
            _ => self.node.inputs.get(i).and_then(|name| (self.stored)(name)),
        }
    }

    fn is_float(&self, i: usize) -> Option<bool> {
        self.elem(i).map(DataType::is_float)
    }

    /// Shape of input `i`; an error if it is absent, empty or not float32.
    pub fn float_shape(&self, i: usize) -> Result<&[usize]> {
        match self.is_float(i) {
            Some(true) | None if self.shape(i)?.contains(&0) => {
                Err(self.error(format!("input {i} has no elements: its shape is {:?}", self.shape(i)?)))
            }
            Some(true) | None => self.shape(i),
            Some(false) => {
                self.no_integers_of_images()?;
                Err(self.error(format!("input {i} holds integers, expected float32")))
            }
        }
    }

    /// Shape of input `i`; an error if it is absent or empty.
    pub fn full_shape(&self, i: usize) -> Result<&[usize]> {
        match self.shape(i)? {
            shape if shape.contains(&0) => {
                Err(self.error(format!("input {i} has no elements: its shape is {shape:?}")))
            }
            shape => Ok(shape),
        }
    }

    /// Whether all given inputs are integers.
    pub fn is_integer(&self) -> bool {
        (0..self.inputs.len()).all(|i| self.is_float(i) != Some(true))
    }

    /// A constant in the type that is computed: float32 beside a value that depends on the image.
    pub fn as_computed(&self, constant: &Tensor) -> Result<Tensor> {
        let floats = |input: &Input| matches!(input, Input::Value { dtype: DType::F32, .. });
        let floats = self.inputs.iter().any(floats);
        Ok(if floats { constant.to_dtype(DType::F32)? } else { constant.clone() })
    }

    /// Refuses to compute on integers that depend on the image: they wrap around in the file, and not in float32.
    pub fn no_integers_of_images(&self) -> Result<()> {
        let held = self.inputs.iter().find_map(|input| match input {
            Input::Value { elem, dtype: DType::F32, .. } if !elem.is_float() => Some(elem),
            _ => None,
        });
        held.map_or(Ok(()), |elem| {
            Err(self.error(format!(
                "computes on {elem} values that depend on the image; only a Cast to a float type is supported"
            )))
        })
    }

    /// Refuses inputs that mix integers and floats.
    pub fn one_dtype(&self) -> Result<()> {
        let mut floats = (0..self.inputs.len()).filter_map(|i| self.is_float(i));
        let first = floats.next();
        match floats.all(|f| Some(f) == first) {
            true => Ok(()),
            false => Err(self.error("inputs of different types")),
        }
    }

    /// Whether row r of input `i` depends on image r alone; true for constants.
    pub fn per_image(&self, i: usize) -> bool {
        !matches!(self.input(i), Input::Value { per_image: false, .. })
    }

    /// Whether row r of an output of shape `out` reads row r of input `i`, after broadcasting, or the same constant
    /// for every r.
    pub fn row_by_row(&self, i: usize, out: &[usize]) -> bool {
        match self.input(i) {
            Input::Absent => true,
            Input::Constant(t) => t.rank() < out.len() || t.dims().first().is_none_or(|&d| d == 1),
            Input::Value { shape, .. } => shape.len() == out.len() && shape.first() == out.first(),
        }
    }

    /// Input `i` as a constant; None if absent, an error if it depends on the image.
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

    /// Input `i` if it is known at lowering, including the first input when all are constants.
    pub fn now(&self, i: usize) -> Option<&Tensor> {
        match (self.input(i), &self.folding) {
            (Input::Constant(t), _) => Some(t),
            (Input::Value { .. }, Some(first)) if i == 0 => Some(first),
            _ => None,
        }
    }

    /// Input `i` as float32 constants, row-major; None if absent.
    pub fn floats(&self, i: usize) -> Result<Option<Vec<f32>>> {
        let Some(t) = self.constant(i)? else { return Ok(None) };
        if t.dtype() != DType::F32 {
            return Err(self.error(format!("input {i} holds integers, expected float32")));
        }
        Ok(Some(t.flatten_all()?.to_vec1()?))
    }

    /// Input `i` as integer constants, row-major; None if absent.
    pub fn integers(&self, i: usize) -> Result<Option<Vec<i64>>> {
        let Some(t) = self.constant(i)? else { return Ok(None) };
        if t.dtype() != DType::I64 {
            return Err(self.error(format!("input {i} holds floats, expected integers")));
        }
        Ok(Some(t.flatten_all()?.to_vec1()?))
    }

    /// Input `i` as a vector of `length` finite float32 constants; an error if absent.
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

    /// Resolves `axis` of a value of rank `rank`; negative counts from the end.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize> {
        let signed = rank as i64;
        let from_front = if axis < 0 { axis.checked_add(signed) } else { Some(axis) };
        match from_front {
            Some(a) if (0..signed).contains(&a) => Ok(a as usize),
            _ => Err(self.error(format!("axis {axis} of a value with {rank} dimensions"))),
        }
    }

    /// Resolves several axes, keeping their order; an error if one occurs twice.
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

    /// Number of elements of a value of `shape`; an error beyond the limits.
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

    /// The only output, of `shape`; `per_image` as in [`Run`].
    pub fn run(&self, shape: Vec<usize>, per_image: bool, exec: impl Exec) -> Result<Lowered> {
        Ok(vec![self.output(shape, per_image, exec)?])
    }

    /// [`Call::run`] with an output of another type than the inputs'.
    pub fn run_as(
        &self,
        elem: DataType,
        shape: Vec<usize>,
        per_image: bool,
        exec: impl Exec,
    ) -> Result<Lowered> {
        Ok(vec![self.output_as(elem, shape, per_image, exec)?])
    }

    /// One of several outputs, of `shape` and of the type of the first input that depends on the image; `per_image` as
    /// in [`Run`].
    pub fn output(&self, shape: Vec<usize>, per_image: bool, exec: impl Exec) -> Result<Output> {
        let mut elems = self.inputs.iter().filter_map(|input| match input {
            Input::Value { elem, .. } => Some(*elem),
            _ => None,
        });
        self.output_as(elems.next().unwrap_or(DataType::Float), shape, per_image, exec)
    }

    /// [`Call::output`] of another type than the inputs'.
    pub fn output_as(
        &self,
        elem: DataType,
        shape: Vec<usize>,
        per_image: bool,
        exec: impl Exec,
    ) -> Result<Output> {
        if self.elements(&shape)? == 0 && self.folding.is_none() {
            return Err(self.error(format!("an output of shape {shape:?}, without elements")));
        }
        let per_image = per_image && (0..self.inputs.len()).all(|i| self.per_image(i));
        Ok(Output::Run(Run { shape, per_image, elem, axes: Axes::new(), exec: Arc::new(exec) }))
    }

    /// The only output, as a constant.
    pub fn known(&self, tensor: &Tensor) -> Result<Lowered> {
        Ok(vec![Output::Constant(tensor.contiguous()?)])
    }
}

/// What a constant of this type holds, as far as it is known.
pub(super) fn of_dtype(dtype: DType) -> DataType {
    if dtype == DType::F32 { DataType::Float } else { DataType::Int64 }
}
