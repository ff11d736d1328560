//! Cuts a part out of a model, as a model of its own: what computes some of its values from others.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{
    GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};

use crate::onnx::{Model, tensor::DataType};

/// An input or output of a cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Its name in the file.
    pub name: String,
    /// Its element type in the file.
    pub elem: DataType,
    /// Batch included.
    pub shape: Vec<usize>,
}

/// A model whose inputs are `from` and whose outputs are `to`: the nodes and constants of `model` between them. What
/// `from` do not cut off becomes part of it. External data of `file` is in it.
pub fn cut(model: &ModelProto, file: &Model, from: &[Port], to: &[Port]) -> ModelProto {
    let Some(graph) = &model.graph else { return model.clone() };
    let makers = makers(graph);
    let mut nodes = vec![false; graph.node.len()];
    let mut seen: HashSet<&str> = from.iter().map(|port| port.name.as_str()).collect();
    let mut open: Vec<&str> = to.iter().map(|port| port.name.as_str()).collect();
    while let Some(name) = open.pop() {
        if !seen.insert(name) {
            continue;
        }
        if let Some((at, node)) = makers.get(name).and_then(|&at| Some((at, graph.node.get(at)?)))
            && !std::mem::replace(&mut nodes[at], true)
        {
            open.extend(reads(node));
        }
    }
    let kept = graph.node.iter().zip(&nodes).filter(|(_, kept)| **kept).map(|(node, _)| node.clone());
    let constants = graph.initializer.iter().filter(|tensor| seen.contains(tensor.name.as_str()));
    let constants = constants.map(|tensor| inside(tensor, file)).collect();
    let part = GraphProto {
        name: "part".to_owned(),
        node: kept.collect(),
        initializer: constants,
        input: from.iter().map(info).collect(),
        output: to.iter().map(info).collect(),
        ..GraphProto::default()
    };
    ModelProto {
        // below 4 constants would have to be inputs
        ir_version: model.ir_version.max(4),
        opset_import: model.opset_import.clone(),
        functions: model.functions.clone(),
        graph: Some(part),
        ..ModelProto::default()
    }
}

/// By name of a value the node that makes it.
pub fn makers(graph: &GraphProto) -> HashMap<&str, usize> {
    let mut makers = HashMap::new();
    for (at, node) in graph.node.iter().enumerate() {
        makers.extend(node.output.iter().filter(|name| !name.is_empty()).map(|name| (name.as_str(), at)));
    }
    makers
}

/// The values that a node reads, those of its subgraphs' nodes included.
pub fn reads(node: &NodeProto) -> Vec<&str> {
    let mut all: Vec<&str> = node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    let graphs = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
    for graph in graphs {
        all.extend(graph.node.iter().flat_map(reads));
        all.extend(graph.output.iter().map(|output| output.name.as_str()));
    }
    all
}

/// A constant with its data, wherever the file keeps it.
fn inside(tensor: &TensorProto, file: &Model) -> TensorProto {
    let mut tensor = tensor.clone();
    let at = file.initializer_names().position(|name| name == tensor.name);
    if tensor.data_location == Some(1)
        && let Some(bytes) = at.and_then(|at| file.external(at))
    {
        tensor.data_location = None;
        tensor.external_data = Vec::new();
        tensor.raw_data = bytes.to_vec();
    }
    tensor
}

fn info(port: &Port) -> ValueInfoProto {
    let dim = |&size: &usize| Dimension {
        value: Some(dimension::Value::DimValue(size as i64)),
        ..Dimension::default()
    };
    let shape = TensorShapeProto { dim: port.shape.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: port.elem.to_onnx(), shape: Some(shape) };
    ValueInfoProto {
        name: port.name.clone(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}
