//! What a graph has to be before anything is computed with it: every name made once and before it is read. Readers
//! differ in how they take files that break these rules (which of two producers counts, in what order nodes run), so
//! such a file is refused.

use std::collections::{HashMap, HashSet};

use super::model::{Node, ValueInfo};
use crate::error::printable;

/// The names of a graph and where they come from.
pub(super) struct Names<'a> {
    pub inputs: &'a [ValueInfo],
    pub outputs: &'a [ValueInfo],
    pub initializers: &'a [&'a str],
    pub nodes: &'a [Node],
}

/// Checks names and order.
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
        known.insert(&input.name); // it may be an initializer too: then that is its default
    }
    let producers = producers(names.nodes, &known)?;
    node_names(names.nodes)?;
    let known = order(names.nodes, known, &producers)?;
    let mut declared = HashSet::new();
    for output in names.outputs {
        let name = output.name.as_str();
        if name.is_empty() || !known.contains(name) {
            return Err(format!("its output \"{}\" is made by no node", printable(name)));
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

/// Which node makes a name.
fn producers<'a>(nodes: &'a [Node], known: &HashSet<&str>) -> Result<HashMap<&'a str, usize>, String> {
    let mut producers = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for output in node.outputs.iter().filter(|o| !o.is_empty()) {
            let shown = printable(output);
            if known.contains(output.as_str()) {
                return Err(format!("{} makes \"{shown}\", which is an input or initializer", node.label()));
            }
            if let Some(first) = producers.insert(output.as_str(), index) {
                let first = nodes.get(first).map(Node::label).unwrap_or_default();
                return Err(format!("\"{shown}\" is made twice, by {first} and by {}", node.label()));
            }
        }
    }
    Ok(producers)
}

/// Names of nodes may be absent, but not shared: some runtimes refuse such a file, and a site could not be named.
fn node_names(nodes: &[Node]) -> Result<(), String> {
    let mut seen = HashSet::new();
    match nodes.iter().find(|n| !n.name.is_empty() && !seen.insert(n.name.as_str())) {
        Some(node) => Err(format!("has two nodes named \"{}\"", printable(&node.name))),
        None => Ok(()),
    }
}

/// Nodes stand after what they read. Gives back every name of the graph.
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
                    "{} reads \"{shown}\", which is no input, no initializer and made by no node",
                    node.label()
                ));
            };
            let why = if sortable(nodes, producers) {
                "the nodes are not in order"
            } else {
                "the graph has a cycle"
            };
            return Err(format!(
                "{} reads \"{shown}\", which {} makes only later: {why}",
                node.label(),
                later.label()
            ));
        }
        known.extend(node.outputs.iter().map(String::as_str));
    }
    Ok(known)
}

/// Whether some order of the nodes exists: takes away nodes that wait for nothing until none is left.
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
