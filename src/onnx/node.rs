//! Nodes, attributes and graph inputs and outputs as plain data.

use std::fmt;

use super::tensor::{DataType, Tensor};
use crate::error::printable;

/// One node of the main graph. Names are those of the file; an absent optional input or output is `""`.
#[derive(Clone, Debug)]
pub struct Node {
    /// `""` where it has none.
    pub name: String,
    /// The operator: `Conv`.
    pub op_type: String,
    /// `""` for ONNX's own operators; their alias `ai.onnx` is read as `""`.
    pub domain: String,
    /// Names of the values that it reads, in the order of the operator.
    pub inputs: Vec<String>,
    /// Names of the values that it makes, in the order of the operator.
    pub outputs: Vec<String>,
    /// In the order of the file.
    pub attributes: Vec<Attribute>,
}

impl Node {
    /// Name of the node in messages, escaped for printing: `node "conv1" (Conv)`.
    pub fn label(&self) -> String {
        let op_type = printable(&self.op_type);
        match (self.name.as_str(), self.outputs.iter().find(|o| !o.is_empty())) {
            ("", Some(output)) => format!("the node that produces \"{}\" ({op_type})", printable(output)),
            ("", None) => format!("an unnamed node ({op_type})"),
            (name, _) => format!("node \"{}\" ({op_type})", printable(name)),
        }
    }
}

/// An attribute of a node.
#[derive(Clone, Debug)]
pub struct Attribute {
    /// As the operator names it: `strides`.
    pub name: String,
    /// Its value.
    pub value: AttributeValue,
}

/// The value of an [`Attribute`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AttributeValue {
    /// FLOAT.
    Float(f32),
    /// INT.
    Int(i64),
    /// STRING: bytes, in UTF-8 by convention only.
    String(Vec<u8>),
    /// TENSOR.
    Tensor(Tensor),
    /// FLOATS.
    Floats(Vec<f32>),
    /// INTS.
    Ints(Vec<i64>),
    /// STRINGS: bytes each.
    Strings(Vec<Vec<u8>>),
    /// GRAPH: a branch of If.
    Graph(Box<Subgraph>),
    /// A kind that no supported operator takes (sparse tensor, type ...), by its ONNX name.
    Other(&'static str),
}

/// A graph in an attribute. Its nodes may read the values of the graphs around it.
#[derive(Clone, Debug)]
pub struct Subgraph {
    /// In file order.
    pub nodes: Vec<Node>,
    /// Its constants, by name.
    pub initializers: Vec<Tensor>,
    /// Names of its inputs.
    pub inputs: Vec<String>,
    /// Names of the values that it returns.
    pub outputs: Vec<String>,
}

/// A graph input or output.
#[derive(Clone, Debug)]
pub struct ValueInfo {
    /// The name of the value.
    pub name: String,
    /// None if the file does not give one.
    pub elem_type: Option<DataType>,
    /// None if the file gives no shape.
    pub shape: Option<Vec<Dim>>,
}

impl ValueInfo {
    /// The declared shape as text: `(N, 3, 32, 32)`.
    pub fn described(&self) -> String {
        let Some(dims) = &self.shape else { return "(shape not given)".to_owned() };
        let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
        format!("({})", dims.join(", "))
    }
}

/// One dimension of a declared shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// A dim_value.
    Fixed(usize),
    /// The dim_param; `""` if the size is unknown.
    Symbol(String),
}

/// The size or the symbol; `?` if unknown.
impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Symbol(name) if name.is_empty() => write!(f, "?"),
            Self::Symbol(name) => write!(f, "{}", printable(name)),
        }
    }
}
