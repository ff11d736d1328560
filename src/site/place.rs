//! The exact place of a layer in one file.

use std::{fmt, str::FromStr};

/// The place of a layer among the nodes of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SitePlace {
    /// Between a value and one of its readers: input `input` of the node at `node` of
    /// [`Model::nodes`](crate::onnx::Model::nodes). Other readers of the value keep reading it as it was.
    Edge {
        /// The reader, counted from 0 in the order of the file.
        node: usize,
        /// Index of its input, counted from 0.
        input: usize,
    },
    /// Between a value and all its readers, including subgraphs and the graph's outputs.
    Value {
        /// Its name in the file.
        name: String,
    },
}

/// The syntax of the metadata and the layer file: `node 57 input 0`, `value /layer4/Relu_output_0`.
impl fmt::Display for SitePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edge { node, input } => write!(f, "node {node} input {input}"),
            Self::Value { name } => write!(f, "value {name}"),
        }
    }
}

impl FromStr for SitePlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("value ") {
            return Ok(Self::Value { name: name.to_owned() });
        }
        let edge = || {
            let (node, input) = text.strip_prefix("node ")?.split_once(" input ")?;
            Some(Self::Edge { node: node.parse().ok()?, input: input.parse().ok()? })
        };
        edge().ok_or_else(|| {
            format!("\"{}\" is not a place (`node N input N` or `value NAME`)", crate::error::printable(text))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip() {
        for place in
            [SitePlace::Edge { node: 57, input: 1 }, SitePlace::Value { name: "a value input 3".into() }]
        {
            assert_eq!(place.to_string().parse(), Ok(place));
        }
        assert!("node x input 0".parse::<SitePlace>().is_err());
        assert!("".parse::<SitePlace>().is_err());
    }
}
