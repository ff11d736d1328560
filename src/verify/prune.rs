//! A model with one of its outputs alone: what others need besides may be operators that a runtime does not have.

use std::collections::HashSet;

use tract_onnx::pb::{ModelProto, NodeProto};

use crate::{Error, Result};

/// The model with the output of this index and the nodes that it needs.
///
/// # Errors
/// [`Error::Check`] named `judge` if there is no such output.
pub(super) fn keep_only(mut model: ModelProto, output: usize) -> Result<ModelProto> {
    let missing = || Error::check("judge", format!("the file has no output {output}"));
    let graph = model.graph.as_mut().ok_or_else(missing)?;
    if output >= graph.output.len() {
        return Err(missing());
    }
    if graph.output.len() == 1 {
        return Ok(model);
    }
    graph.output = vec![graph.output.swap_remove(output)];
    let mut wanted = HashSet::from([graph.output[0].name.clone()]);
    // each node stands behind those that make its inputs
    let keep = graph.node.iter().rev().map(|node| {
        let needed = node.output.iter().any(|name| wanted.contains(name));
        if needed {
            wanted.extend(read_by(node));
        }
        needed
    });
    let mut keep: Vec<bool> = keep.collect();
    graph.node.retain(|_| keep.pop().unwrap_or(true));
    Ok(model)
}

/// Names that a node and its subgraphs read.
fn read_by(node: &NodeProto) -> Vec<String> {
    let graphs = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
    let inside = graphs.flat_map(|g| {
        let outputs = g.output.iter().map(|o| o.name.clone());
        outputs.chain(g.node.iter().flat_map(read_by)).collect::<Vec<_>>()
    });
    node.input.iter().cloned().chain(inside).collect()
}
