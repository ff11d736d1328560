//! The attributes of operators: closed lists with types, defaults and opsets. An unlisted attribute is refused, since
//! ignoring it would run another network than the file describes.

use std::ops::RangeInclusive;

use crate::error::printable;
use crate::onnx::node::{AttributeValue, Subgraph};
use crate::onnx::tensor::Tensor;

/// One attribute of an operator.
#[derive(Clone, Debug)]
pub struct Attribute {
    pub name: &'static str,
    pub kind: Kind,
    pub default: Preset,
    /// The opsets that have the attribute.
    pub opsets: RangeInclusive<i64>,
}

/// The type of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Int,
    Float,
    Text,
    Ints,
    Floats,
    Tensor,
    Graph,
}

/// The value of an attribute that the file does not give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Preset {
    /// No default: the file has to give it.
    Required,
    /// No default: an absent attribute has a meaning of its own.
    Absent,
    Int(i64),
    Float(f32),
    Text(&'static str),
}

impl Attribute {
    const fn new(name: &'static str, kind: Kind, default: Preset) -> Self {
        Self { name, kind, default, opsets: 7..=i64::MAX }
    }
    pub const fn int(name: &'static str, default: i64) -> Self {
        Self::new(name, Kind::Int, Preset::Int(default))
    }
    pub const fn float(name: &'static str, default: f32) -> Self {
        Self::new(name, Kind::Float, Preset::Float(default))
    }
    pub const fn text(name: &'static str, default: &'static str) -> Self {
        Self::new(name, Kind::Text, Preset::Text(default))
    }
    /// An attribute that may be absent.
    pub const fn optional(name: &'static str, kind: Kind) -> Self {
        Self::new(name, kind, Preset::Absent)
    }
    /// An attribute that the file has to give.
    pub const fn required(name: &'static str, kind: Kind) -> Self {
        Self::new(name, kind, Preset::Required)
    }
    /// Restricts the attribute to this opset and later ones.
    pub const fn since(mut self, opset: i64) -> Self {
        self.opsets = opset..=*self.opsets.end();
        self
    }
    /// Restricts the attribute to this opset and earlier ones.
    pub const fn until(mut self, opset: i64) -> Self {
        self.opsets = *self.opsets.start()..=opset;
        self
    }
}

/// An attribute's value in its declared type.
#[derive(Clone, Copy, Debug)]
pub(super) enum Given<'a> {
    Absent,
    Int(i64),
    Float(f32),
    Text(&'a str),
    Ints(&'a [i64]),
    Floats(&'a [f32]),
    Tensor(&'a Tensor),
    Graph(&'a Subgraph),
}

/// The given attributes, checked and completed with defaults, in the order of `list`; or a message about the first
/// invalid one.
pub(super) fn resolve<'a>(
    list: &'static [Attribute],
    opset: i64,
    given: &'a [crate::onnx::node::Attribute],
) -> Result<Vec<(&'static str, Given<'a>)>, String> {
    let known: Vec<_> = list.iter().filter(|a| a.opsets.contains(&opset)).collect();
    for (i, attribute) in given.iter().enumerate() {
        let name = printable(&attribute.name);
        if !known.iter().any(|k| k.name == attribute.name) {
            return Err(match list.iter().find(|k| k.name == attribute.name) {
                Some(_) => format!("attribute `{name}` does not exist in opset {opset}"),
                None => format!("unknown attribute `{name}`"),
            });
        }
        if given[..i].iter().any(|other| other.name == attribute.name) {
            return Err(format!("attribute `{name}` is given twice"));
        }
    }
    let mut resolved = Vec::with_capacity(known.len());
    for attribute in known {
        let name = attribute.name;
        let value = match given.iter().find(|a| a.name == name) {
            Some(a) => typed(attribute, &a.value)?,
            None => match attribute.default {
                Preset::Required => return Err(format!("attribute `{name}` is missing")),
                Preset::Absent => Given::Absent,
                Preset::Int(v) => Given::Int(v),
                Preset::Float(v) => Given::Float(v),
                Preset::Text(v) => Given::Text(v),
            },
        };
        resolved.push((name, value));
    }
    Ok(resolved)
}

fn typed<'a>(attribute: &Attribute, value: &'a AttributeValue) -> Result<Given<'a>, String> {
    Ok(match (attribute.kind, value) {
        (Kind::Int, AttributeValue::Int(v)) => Given::Int(*v),
        (Kind::Float, AttributeValue::Float(v)) => Given::Float(*v),
        (Kind::Text, AttributeValue::String(v)) => Given::Text(
            std::str::from_utf8(v).map_err(|_| format!("attribute `{}` is not UTF-8", attribute.name))?,
        ),
        (Kind::Ints, AttributeValue::Ints(v)) => Given::Ints(v),
        (Kind::Floats, AttributeValue::Floats(v)) => Given::Floats(v),
        (Kind::Tensor, AttributeValue::Tensor(v)) => Given::Tensor(v),
        (Kind::Graph, AttributeValue::Graph(v)) => Given::Graph(v),
        (kind, value) => {
            let found = match value {
                AttributeValue::Float(_) => "a float",
                AttributeValue::Int(_) => "an integer",
                AttributeValue::String(_) => "a string",
                AttributeValue::Tensor(_) => "a tensor",
                AttributeValue::Floats(_) => "floats",
                AttributeValue::Ints(_) => "integers",
                AttributeValue::Strings(_) => "strings",
                AttributeValue::Graph(_) => "a graph",
                AttributeValue::Other(name) => name,
            };
            return Err(
                format!("attribute `{}` is {found}, expected {kind:?}", attribute.name).to_lowercase()
            );
        }
    })
}
