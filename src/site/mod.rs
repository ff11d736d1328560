//! Sites of a layer. Candidates are found in the lowered graph alone, since names differ between exporters and
//! BatchNorm is often folded. Owns the syntax `node:NAME[:INPUT]` and `value:NAME`, and the rule for the defaults, which
//! `docs/decisions/19-sites-are-cuts.md` explains; changes nothing.

mod candidates;
mod place;
mod preferred;
mod view;

use crate::{
    Error, Result,
    error::printable,
    graph::{Edge, Graph, Layout, Operand, Value, ValueId},
    layer::{Form, Stored},
    onnx::{Model, tensor::DataType},
};

pub use candidates::{Candidate, candidates};
pub use place::SitePlace;
pub use preferred::{preferred, watched};

/// A chosen site: a place in the file, the shape there, and the reason.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its name, in the syntax of [`resolve`].
    pub text: String,
    pub place: SitePlace,
    /// (C, H, W) of the value; T tokens are (C, T, 1), a vector is (C, 1, 1).
    pub shape: [usize; 3],
    pub layout: Layout,
    /// How a layer is written there.
    pub form: Form,
    /// The type that its numbers have there.
    pub stored: Stored,
    /// Some way from the input to the scores does not lead through it.
    pub passed_by: bool,
    pub why: String,
}

impl Site {
    fn new(model: &Model, graph: &Graph, place: SitePlace, why: String) -> Result<Self> {
        let edge = edge(graph, &place)?;
        let value = graph.value(edge.value);
        let Some(shape) = graph.image_shape(edge.value) else {
            let problem = format!(
                "the value `{}` of shape {:?} has no dimension known to hold channels, which a layer could mix",
                printable(&value.name),
                value.shape
            );
            return Err(Error::setting("site", problem));
        };
        let passed_by = !graph.separates(&edge, graph.logits());
        let (layout, rank) = (value.layout(), value.shape.len());
        let form = match layout.channels(rank) {
            Some(channels) if channels + 1 == rank => Form::MatMul,
            _ if layout == Layout::ChannelsFirst => Form::Conv1d,
            _ => Form::Conv2d,
        };
        let stored = match value.elem {
            DataType::Float16 => Stored::Float16,
            DataType::Bfloat16 => Stored::Bfloat16,
            DataType::Float => Stored::Float,
            other => {
                let name = printable(&value.name);
                let problem =
                    format!("the value `{name}` holds {other}; FLOAT, FLOAT16 and BFLOAT16 are supported");
                return Err(Error::setting("site", problem));
            }
        };
        Ok(Self { text: text_of(model, &place), place, shape, layout, form, stored, passed_by, why })
    }

    /// Channels of the layer.
    pub fn channels(&self) -> usize {
        self.shape[0]
    }
}

/// Why a model has no default site.
const NO_SITE: &str = "no site for a layer: no value with channels that every way from the input to the scores leads \
                       through, between its layers with weights; `site` names one";

/// The site named `text` (`node:NAME`, `node:NAME:INPUT`, `value:NAME`, or an unambiguous plain name); None: the
/// default.
///
/// # Errors
/// [`Error::Setting`] if the name is unknown (similar names are given) or ambiguous, or the value has no channels;
/// [`Error::Input`] if the model has no default.
pub fn resolve(model: &Model, graph: &Graph, text: Option<&str>) -> Result<Site> {
    let Some(text) = text else {
        let default = candidates(model, graph).into_iter().find(|c| c.default);
        let Some(c) = default else { return Err(Error::invalid(model.name(), NO_SITE)) };
        return Site::new(model, graph, c.place, format!("default: {}", c.why));
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
    Site::new(model, graph, place, "chosen by name".into())
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
