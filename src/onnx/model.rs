//! The file as a read-only typed view. Built only from bytes that the wire scan has passed.

use super::tensor::{DataType, Tensor};

/// One node of the main graph. Names are as they stand in the file; an absent optional input or output is `""`.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub op_type: String,
    pub domain: String,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub attributes: Vec<Attribute>,
}

/// An attribute of a node.
#[derive(Clone, Debug)]
pub struct Attribute {
    pub name: String,
    pub value: AttributeValue,
}

/// The value of an [`Attribute`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AttributeValue {
    Float(f32),
    Int(i64),
    String(Vec<u8>),
    Tensor(Tensor),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Strings(Vec<Vec<u8>>),
    /// A kind that no operator of ours takes (a graph, a sparse tensor, a type ...), by its ONNX name.
    Other(&'static str),
}

/// A graph input or output.
#[derive(Clone, Debug)]
pub struct ValueInfo {
    pub name: String,
    /// None where the file does not say.
    pub elem_type: Option<DataType>,
    /// None where the file gives no shape.
    pub shape: Option<Vec<Dim>>,
}

/// One dimension of a declared shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    Fixed(usize),
    /// A dim_param, or `""` where neither is given.
    Symbol(String),
}
