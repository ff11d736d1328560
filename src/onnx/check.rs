//! Model validation: one opset version, no ambiguous tensor or attribute, every name defined once and before its first
//! use. Runtimes disagree on files that break these rules (which of two values counts, in what order nodes run), so
//! such a file is rejected.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use onnx_protobuf::{OperatorSetIdProto, TensorProto};

use super::{
    decode::{self, decode_message, decoded},
    limits::{IR_VERSIONS, OPSETS},
    node::{Node, ValueInfo},
    schema::{Type, number},
    storage,
    tensor::DataType,
    wire::{self, Scan},
};
use crate::error::printable;

/// Everything in a graph that defines or uses names.
pub(super) struct Names<'a> {
    pub inputs: &'a [ValueInfo],
    pub outputs: &'a [ValueInfo],
    pub initializers: &'a [&'a str],
    pub nodes: &'a [Node],
}

/// Checks that names are unique and defined before use, and that the graph has an output.
pub(super) fn graph(names: &Names<'_>) -> Result<(), String> {
    let mut known: HashSet<&str> = HashSet::new();
    for name in names.initializers {
        if name.is_empty() {
            return Err("has an initializer without a name".into());
        }
        if !known.insert(name) {
            return Err(format!("has two initializers \"{}\"", printable(name)));
        }
    }
    let mut declared = HashSet::new();
    for input in names.inputs {
        if !declared.insert(input.name.as_str()) {
            return Err(format!("has two inputs \"{}\"", printable(&input.name)));
        }
        known.insert(&input.name); // may also be an initializer, which is then its default value
    }
    let producers = producers(names.nodes, &known)?;
    node_names(names.nodes)?;
    let known = order(names.nodes, known, &producers)?;
    let mut declared = HashSet::new();
    for output in names.outputs {
        let name = output.name.as_str();
        if name.is_empty() || !known.contains(name) {
            return Err(format!("its output \"{}\" is not produced by any node", printable(name)));
        }
        if !declared.insert(name) {
            return Err(format!("has two outputs \"{}\"", printable(name)));
        }
    }
    if names.outputs.is_empty() {
        return Err("its graph has no output".into());
    }
    Ok(())
}

/// The index of the node that produces each name.
fn producers<'a>(nodes: &'a [Node], known: &HashSet<&str>) -> Result<HashMap<&'a str, usize>, String> {
    let mut producers = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for output in node.outputs.iter().filter(|o| !o.is_empty()) {
            let shown = printable(output);
            if known.contains(output.as_str()) {
                return Err(format!(
                    "{} produces \"{shown}\", which is already an input or initializer",
                    node.label()
                ));
            }
            if let Some(first) = producers.insert(output.as_str(), index) {
                let first = nodes.get(first).map(Node::label).unwrap_or_default();
                return Err(format!("\"{shown}\" is produced twice, by {first} and by {}", node.label()));
            }
        }
    }
    Ok(producers)
}

/// A node may be unnamed, but no two may share a name: some runtimes reject that, and a site would be ambiguous.
fn node_names(nodes: &[Node]) -> Result<(), String> {
    let mut seen = HashSet::new();
    match nodes.iter().find(|n| !n.name.is_empty() && !seen.insert(n.name.as_str())) {
        Some(node) => Err(format!("has two nodes named \"{}\"", printable(&node.name))),
        None => Ok(()),
    }
}

/// Checks that every node follows the producers of its inputs. Returns every name of the graph.
fn order<'a>(
    nodes: &'a [Node],
    mut known: HashSet<&'a str>,
    producers: &HashMap<&str, usize>,
) -> Result<HashSet<&'a str>, String> {
    for node in nodes {
        for input in node.inputs.iter().filter(|i| !i.is_empty()) {
            if known.contains(input.as_str()) {
                continue;
            }
            let shown = printable(input);
            let Some(later) = producers.get(input.as_str()).and_then(|&i| nodes.get(i)) else {
                return Err(format!(
                    "{} reads \"{shown}\", which is neither an input, nor an initializer, nor the output of a node",
                    node.label()
                ));
            };
            let why = if sortable(nodes, producers) {
                "the nodes are not in order"
            } else {
                "the graph has a cycle"
            };
            return Err(format!(
                "{} reads \"{shown}\" before {} produces it: {why}",
                node.label(),
                later.label()
            ));
        }
        known.extend(node.outputs.iter().map(String::as_str));
    }
    Ok(known)
}

/// Whether the nodes can be ordered topologically (Kahn's algorithm).
fn sortable(nodes: &[Node], producers: &HashMap<&str, usize>) -> bool {
    let mut waits = vec![0_usize; nodes.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        for &producer in node.inputs.iter().filter_map(|i| producers.get(i.as_str())) {
            waits[index] += 1;
            readers[producer].push(index);
        }
    }
    let mut ready: Vec<usize> = (0..nodes.len()).filter(|&i| waits[i] == 0).collect();
    let mut done = 0;
    while let Some(index) = ready.pop() {
        done += 1;
        for &reader in &readers[index] {
            waits[reader] -= 1;
            if waits[reader] == 0 {
                ready.push(reader);
            }
        }
    }
    done == nodes.len()
}

pub(super) fn ir_version(bytes: &[u8]) -> Result<i64, String> {
    let field = wire::fields(bytes, 0..bytes.len()).find(|f| f.number == number::MODEL_IR_VERSION);
    let Some((version, _)) = field.and_then(|f| bytes.get(f.value)).and_then(wire::varint) else {
        return Err("has no ir_version: not an ONNX model, or truncated".into());
    };
    let version = version as i64;
    if !IR_VERSIONS.contains(&version) {
        let (first, last) = (IR_VERSIONS.start(), IR_VERSIONS.end());
        return Err(format!("has IR version {version}; {first} to {last} are supported"));
    }
    Ok(version)
}

/// The opset version of the default domain. It must be given exactly once: of several, runtimes take the first, the
/// last or the highest.
pub(super) fn opset(bytes: &[u8], scan: &Scan) -> Result<i64, String> {
    let mut found = None;
    for (_, import) in decoded::<OperatorSetIdProto>(bytes, scan, 0, number::MODEL_OPSET_IMPORT) {
        let import = import?;
        if !matches!(import.domain.as_str(), "" | "ai.onnx") {
            continue;
        }
        if let Some(first) = found.replace(import.version) {
            return Err(format!(
                "imports ONNX's operators twice, as opset {first} and {}; runtimes disagree on which one counts",
                import.version
            ));
        }
    }
    let version = found.ok_or("has no opset_import for ONNX's operators: not an ONNX model, or truncated")?;
    if !OPSETS.contains(&version) {
        let (first, last) = (OPSETS.start(), OPSETS.end());
        return Err(format!("is written for opset {version}; {first} to {last} are supported"));
    }
    Ok(version)
}

/// Rejects parts of a file that this crate does not support.
pub(super) fn parts(scan: &Scan, graph: usize) -> Result<(), String> {
    const TRAINING: &str = "training_info, which names parts of the graph that a rewrite changes";
    const SPARSE: &str = "sparse initializers, which are not supported";
    for (parent, field, what) in
        [(0, number::MODEL_TRAINING_INFO, TRAINING), (graph, number::GRAPH_SPARSE_INITIALIZER, SPARSE)]
    {
        if let Some((_, message)) = scan.children(parent, field).next() {
            return Err(format!("has {what} (byte {})", message.start));
        }
    }
    Ok(())
}

/// Checks every tensor and attribute of the file, also in subgraphs and functions: data that is only copied must not be
/// ambiguous either.
pub(super) fn messages(bytes: &[u8], scan: &Scan) -> Result<(), String> {
    for (index, message) in scan.messages.iter().enumerate() {
        let at = message.start;
        match message.kind {
            Type::Attribute => decode::check_attribute(bytes, message.body.clone())
                .map_err(|problem| format!("AttributeProto at byte {at}: {problem}"))?,
            Type::Tensor => {
                let proto: TensorProto = decode_message(bytes, scan, index)?;
                let raw = has_raw_data(bytes, message.body.clone());
                // Unknown (newer) types may be copied through; reading their values is an error.
                if DataType::from_onnx(proto.data_type).is_some() {
                    storage::layout(&proto, raw).map_err(|problem| {
                        format!("tensor \"{}\" at byte {at} {problem}", printable(&proto.name))
                    })?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn has_raw_data(bytes: &[u8], body: Range<usize>) -> bool {
    wire::fields(bytes, body).any(|f| f.number == number::TENSOR_RAW_DATA)
}

/// Functions are copied, not run: a node that calls one is rejected, and so is a function in ONNX's own domain, which
/// could shadow an operator.
pub(super) fn functions(bytes: &[u8], scan: &Scan, nodes: &[Node]) -> Result<(), String> {
    let mut functions = HashSet::new();
    for (_, message) in scan.children(0, number::MODEL_FUNCTIONS) {
        let text = |number| {
            let field = wire::fields(bytes, message.body.clone()).find(|f| f.number == number);
            field.map(|f| wire::text(bytes, &f).to_owned()).unwrap_or_default()
        };
        let (domain, name) = (text(number::FUNCTION_DOMAIN), text(number::FUNCTION_NAME));
        if matches!(domain.as_str(), "" | "ai.onnx") {
            return Err(format!(
                "has a function \"{}\" in ONNX's own domain; runtimes disagree on which implementation runs",
                printable(&name)
            ));
        }
        functions.insert((domain, name));
    }
    match nodes.iter().find(|n| functions.contains(&(n.domain.clone(), n.op_type.clone()))) {
        Some(node) => Err(format!(
            "{} calls a model-local function; functions are not supported (inline them, e.g. with onnx.inliner)",
            node.label()
        )),
        None => Ok(()),
    }
}
