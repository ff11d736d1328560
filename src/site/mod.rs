//! Sites of a layer. Candidates are found in the lowered graph alone, since names differ between exporters and
//! BatchNorm is often folded. Owns the syntax `node:NAME[:INPUT]` and `value:NAME`; changes nothing.

mod place;
mod preferred;

use std::collections::HashSet;

use crate::{
    Error, Result,
    error::printable,
    graph::{Edge, Graph, Operand, Value, ValueId},
    onnx::Model,
};

pub use place::SitePlace;
pub use preferred::preferred;

/// A candidate site, and the reason to list it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its name, in the syntax of [`resolve`].
    pub text: String,
    pub place: SitePlace,
    /// The convolution that reads the edge.
    pub node: String,
    /// The value on the edge.
    pub value: String,
    /// (C, H, W) of the value.
    pub shape: [usize; 3],
    pub why: String,
    /// Whether it is the default of [`resolve`].
    pub default: bool,
}

/// A chosen site: a place in the file, the shape there, and the reason.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its name, in the syntax of [`resolve`].
    pub text: String,
    pub place: SitePlace,
    /// (C, H, W) of the value.
    pub shape: [usize; 3],
    pub why: String,
}

impl Site {
    /// Channels of the layer.
    pub fn channels(&self) -> usize {
        self.shape[0]
    }
}

/// All candidates in execution order; exactly one is the default, unless there are none.
///
/// The default is the main-branch input of the first convolution of the last residual block; where another convolution
/// on image-shaped values follows that block, the input of the last such one; without residual blocks the input of the
/// last convolution on image-shaped values. Squeeze-and-excite branches are never candidates: behind a global pool a
/// value is no longer image-shaped.
pub fn candidates(model: &Model, graph: &Graph) -> Vec<Candidate> {
    let view = View::new(graph);
    let convolutions: Vec<usize> =
        (0..graph.steps().len()).filter(|&s| view.is_image_convolution(s)).collect();
    let blocks = view.residual_blocks(&convolutions);
    let mut why: Vec<(usize, String)> = Vec::new();
    for (i, block) in blocks.iter().enumerate() {
        why.push((block.first, format!("first convolution of residual block {} of {}", i + 1, blocks.len())));
    }
    let default = match blocks.last() {
        Some(block) => match convolutions.iter().rev().find(|&&c| view.comes_after(c, block.output)) {
            Some(&head) => {
                why.push((
                    head,
                    "last convolution on image-shaped values, after the last residual block".into(),
                ));
                Some(head)
            }
            None => Some(block.first),
        },
        None => convolutions.last().map(|&last| {
            why.push((last, "last convolution on image-shaped values; no residual blocks".into()));
            last
        }),
    };
    let mut found = Vec::new();
    for &step in &convolutions {
        let reasons: Vec<&str> = why.iter().filter(|(s, _)| *s == step).map(|(_, w)| w.as_str()).collect();
        let (Some(place), Some(value)) = (view.place(step), view.input(step)) else { continue };
        let Some(shape) = view.image_shape(value) else { continue };
        let why =
            if reasons.is_empty() { "convolution on image-shaped values".into() } else { reasons.join("; ") };
        let default = default == Some(step);
        let node = name_of(model, graph.steps()[step].node);
        found.push(Candidate {
            text: text_of(model, &place),
            place,
            node,
            value: graph.value(value).name.clone(),
            shape,
            why,
            default,
        });
    }
    found
}

/// The site named `text` (`node:NAME`, `node:NAME:INPUT`, `value:NAME`, or an unambiguous plain name); None: the
/// default.
///
/// # Errors
/// [`Error::Setting`] if the name is unknown (similar names are given) or ambiguous, or the value is not image-shaped;
/// `Error::Invalid` if the model has no candidate.
pub fn resolve(model: &Model, graph: &Graph, text: Option<&str>) -> Result<Site> {
    let Some(text) = text else {
        let default = candidates(model, graph).into_iter().find(|c| c.default);
        let Some(c) = default else {
            return Err(Error::invalid(
                model.name(),
                "no convolution on image-shaped values: no site for a layer",
            ));
        };
        return Ok(Site { text: c.text, place: c.place, shape: c.shape, why: format!("default: {}", c.why) });
    };
    let place = if let Some(name) = text.strip_prefix("node:") {
        node_place(model, graph, name)?.ok_or_else(|| unknown(graph, model, name, true, false))?
    } else if let Some(name) = text.strip_prefix("value:") {
        value_place(graph, name).ok_or_else(|| unknown(graph, model, name, false, true))?
    } else {
        match (node_place(model, graph, text)?, value_place(graph, text)) {
            (Some(_), Some(_)) => {
                let problem =
                    format!("`{0}` is a node and a value: use node:{0} or value:{0}", printable(text));
                return Err(Error::setting("site", problem));
            }
            (Some(place), None) | (None, Some(place)) => place,
            (None, None) => return Err(unknown(graph, model, text, true, true)),
        }
    };
    let value = edge(graph, &place)?.value;
    let view = View::new(graph);
    let Some(shape) = view.image_shape(value) else {
        let problem = format!(
            "the value `{}` is not image-shaped (N, C, H, W) but {:?}",
            printable(&graph.value(value).name),
            graph.value(value).shape
        );
        return Err(Error::setting("site", problem));
    };
    Ok(Site { text: text_of(model, &place), place, shape, why: "chosen by name".into() })
}

/// The edge in a lowered graph that corresponds to a place in the file.
///
/// # Errors
/// [`Error::Setting`] if the place is not executed, its input is a constant, or its values are no floats.
pub fn edge(graph: &Graph, place: &SitePlace) -> Result<Edge> {
    let edge = any_edge(graph, place)?;
    let Value { name, elem, .. } = graph.value(edge.value);
    if !elem.is_float() {
        let problem = format!("the value `{}` holds {}, expected floats", printable(name), elem.name());
        return Err(Error::setting("site", problem));
    }
    Ok(edge)
}

fn any_edge(graph: &Graph, place: &SitePlace) -> Result<Edge> {
    match place {
        SitePlace::Edge { node, input } => {
            let gone = || Error::setting("site", "this node does not contribute to the output");
            // a node with several outputs is several steps, which share the input in the file
            let steps = graph.steps().iter().enumerate().filter(|(_, s)| s.node == *node);
            let readers: Vec<(usize, usize)> = steps.map(|(s, _)| (s, *input)).collect();
            let &(step, _) = readers.first().ok_or_else(gone)?;
            match graph.steps()[step].operands.get(*input) {
                Some(Operand::Value(value)) => Ok(Edge { value: *value, readers }),
                _ => {
                    let problem = format!(
                        "input {input} of this node is a constant or missing: no layer can be inserted there"
                    );
                    Err(Error::setting("site", problem))
                }
            }
        }
        SitePlace::Value { name } => {
            let gone = || Error::setting("site", format!("no computed value is named `{}`", printable(name)));
            let value = graph.find_value(name).ok_or_else(gone)?;
            let readers = readers(graph, value);
            if readers.is_empty() {
                let problem = format!("no node reads the value `{}`", printable(name));
                return Err(Error::setting("site", problem));
            }
            Ok(Edge { value, readers })
        }
    }
}

/// The name of a place, in the syntax of [`resolve`]; a node without a name is named by its first output.
pub fn text_of(model: &Model, place: &SitePlace) -> String {
    match place {
        SitePlace::Edge { node, input: 0 } => format!("node:{}", name_of(model, *node)),
        SitePlace::Edge { node, input } => format!("node:{}:{input}", name_of(model, *node)),
        SitePlace::Value { name } => format!("value:{name}"),
    }
}

fn name_of(model: &Model, node: usize) -> String {
    let Some(node) = model.nodes().get(node) else { return String::new() };
    let mut names = std::iter::once(&node.name).chain(&node.outputs);
    names.find(|name| !name.is_empty()).cloned().unwrap_or_default()
}

fn readers(graph: &Graph, value: ValueId) -> Vec<(usize, usize)> {
    let steps = graph.steps().iter().enumerate();
    let of_step = |(s, step): (usize, &crate::graph::Step)| {
        let reads =
            |(i, o): (usize, &Operand)| matches!(o, Operand::Value(v) if *v == value).then_some((s, i));
        step.operands.iter().enumerate().filter_map(reads).collect::<Vec<_>>()
    };
    steps.flat_map(of_step).collect()
}

fn node_place(model: &Model, graph: &Graph, name: &str) -> Result<Option<SitePlace>> {
    let named = |name: &str| -> Result<Option<usize>> {
        let all: Vec<usize> = (0..model.nodes().len()).filter(|&n| name_of(model, n) == name).collect();
        match all[..] {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ => Err(Error::setting("site", format!("{} nodes are named `{}`", all.len(), printable(name)))),
        }
    };
    if let Some(node) = named(name)? {
        // the first computed operand: a convolution's image input
        let step = graph.steps().iter().find(|s| s.node == node);
        let dynamic = |s: &crate::graph::Step| s.operands.iter().position(|o| matches!(o, Operand::Value(_)));
        return Ok(Some(SitePlace::Edge { node, input: step.and_then(dynamic).unwrap_or(0) }));
    }
    let Some((name, input)) = name.rsplit_once(':') else { return Ok(None) };
    let Ok(input) = input.parse() else { return Ok(None) };
    Ok(named(name)?.map(|node| SitePlace::Edge { node, input }))
}

fn value_place(graph: &Graph, name: &str) -> Option<SitePlace> {
    graph.find_value(name).map(|_| SitePlace::Value { name: name.to_string() })
}

/// The error for an unknown name, with similar ones.
fn unknown(graph: &Graph, model: &Model, name: &str, nodes: bool, values: bool) -> Error {
    let mut near: Vec<(f64, String)> = Vec::new();
    let mut offer = |prefix: &str, candidate: &str| {
        near.push((strsim::jaro_winkler(name, candidate), format!("{prefix}:{}", printable(candidate))));
    };
    for step in graph.steps() {
        if nodes && step.operands.iter().any(|o| matches!(o, Operand::Value(_))) {
            offer("node", &name_of(model, step.node));
        }
        if values {
            offer("value", &graph.value(step.output).name);
        }
    }
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    near.dedup(); // the steps of one node
    let near: Vec<String> = near.into_iter().take(3).map(|(_, n)| n).collect();
    let what = match (nodes, values) {
        (true, false) => "node",
        (false, true) => "value",
        _ => "node or value",
    };
    Error::setting("site", format!("no {what} is named `{}`; nearest: {}", printable(name), near.join(", ")))
}

/// A residual block: an addition of two image-shaped values with a common ancestor.
struct Block {
    /// Step of the main branch's first convolution.
    first: usize,
    /// The value that both branches read.
    fork: ValueId,
    /// The sum.
    output: ValueId,
}

/// A graph with the properties needed to find sites.
struct View<'a> {
    graph: &'a Graph,
    /// Per value: does it have the image's spatial positions?
    image: Vec<bool>,
    /// Per value: the step that computes it.
    producer: Vec<Option<usize>>,
}

impl<'a> View<'a> {
    fn new(graph: &'a Graph) -> Self {
        let mut image = vec![true; graph.values().len()];
        let mut producer = vec![None; graph.values().len()];
        for (s, step) in graph.steps().iter().enumerate() {
            let from_image = values_of(step).any(|v| image[v] && rank(graph, v) == 4);
            let pooled = matches!(step.op_type, "GlobalAveragePool" | "GlobalMaxPool")
                || (step.op_type == "ReduceMean" && flat(graph, step.output))
                || shrinks_to_a_point(graph, step);
            image[step.output] = from_image && !pooled && rank(graph, step.output) == 4;
            producer[step.output] = Some(s);
        }
        Self { graph, image, producer }
    }

    /// (C, H, W) of an image-shaped value.
    fn image_shape(&self, value: ValueId) -> Option<[usize; 3]> {
        match self.graph.value(value).shape[..] {
            [_, c, h, w] if self.image[value] => Some([c, h, w]),
            _ => None,
        }
    }

    fn input(&self, step: usize) -> Option<ValueId> {
        match self.graph.steps()[step].operands.first() {
            Some(Operand::Value(v)) => Some(*v),
            _ => None,
        }
    }

    fn place(&self, step: usize) -> Option<SitePlace> {
        Some(SitePlace::Edge { node: self.graph.steps()[step].node, input: 0 })
    }

    fn is_image_convolution(&self, step: usize) -> bool {
        self.graph.steps()[step].op_type == "Conv"
            && self.input(step).is_some_and(|v| self.image_shape(v).is_some())
    }

    /// All values that `value` depends on, including itself.
    fn ancestors(&self, value: ValueId) -> HashSet<ValueId> {
        let (mut seen, mut open) = (HashSet::from([value]), vec![value]);
        while let Some(v) = open.pop() {
            let Some(step) = self.producer[v] else { continue };
            for u in values_of(&self.graph.steps()[step]) {
                if seen.insert(u) {
                    open.push(u);
                }
            }
        }
        seen
    }

    fn comes_after(&self, step: usize, value: ValueId) -> bool {
        self.input(step).is_some_and(|v| self.ancestors(v).contains(&value))
    }

    /// In execution order: additions of two image-shaped values of the same shape with a common ancestor. The main
    /// branch is the one with more convolutions, then with the larger kernel of the first one, then the first operand.
    fn residual_blocks(&self, convolutions: &[usize]) -> Vec<Block> {
        let mut blocks = Vec::new();
        for step in self.graph.steps().iter().filter(|s| s.op_type == "Add") {
            let operands: Vec<ValueId> = values_of(step).collect();
            let [a, b] = operands[..] else { continue };
            let same = self.graph.value(a).shape == self.graph.value(b).shape;
            if a == b || !same || self.image_shape(a).is_none() || self.image_shape(b).is_none() {
                continue;
            }
            let (from_a, from_b) = (self.ancestors(a), self.ancestors(b));
            // values are numbered in execution order, so the branches fork at the last common one
            let order = |v: &ValueId| self.producer[*v].map_or(0, |s| s + 1);
            let Some(fork) = from_a.intersection(&from_b).copied().max_by_key(order) else { continue };
            let branch = |of: &HashSet<ValueId>| -> Vec<usize> {
                let on = |&c: &usize| of.contains(&self.graph.steps()[c].output) && self.comes_after(c, fork);
                convolutions.iter().copied().filter(on).collect()
            };
            let (in_a, in_b) = (branch(&from_a), branch(&from_b));
            let kernel = |c: &[usize]| c.first().map_or(0, |&s| self.kernel(s));
            let main = if (in_b.len(), kernel(&in_b)) > (in_a.len(), kernel(&in_a)) { in_b } else { in_a };
            let Some(&first) = main.first() else { continue };
            blocks.push(Block { first, fork, output: step.output });
        }
        blocks
    }

    fn kernel(&self, step: usize) -> usize {
        match self.graph.steps()[step].operands.get(1) {
            Some(Operand::Constant(w)) => w.dims().iter().skip(2).product(),
            _ => 0,
        }
    }
}

fn values_of(step: &crate::graph::Step) -> impl Iterator<Item = ValueId> + '_ {
    step.operands.iter().filter_map(|o| match o {
        Operand::Value(v) => Some(*v),
        _ => None,
    })
}

fn rank(graph: &Graph, value: ValueId) -> usize {
    graph.value(value).shape.len()
}

fn flat(graph: &Graph, value: ValueId) -> bool {
    matches!(graph.value(value).shape[..], [_, _, 1, 1]) || rank(graph, value) != 4
}

/// Whether the step is an AveragePool over a whole image, which is a global pool too.
fn shrinks_to_a_point(graph: &Graph, step: &crate::graph::Step) -> bool {
    let larger = |v: ValueId| matches!(graph.value(v).shape[..], [_, _, h, w] if h * w > 1);
    step.op_type == "AveragePool" && flat(graph, step.output) && values_of(step).any(larger)
}
