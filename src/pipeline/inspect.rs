//! Inspection of a model without running it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::outcome::{self, SCHEMA, Scores};
use crate::{
    Error, Result,
    graph::{self, Graph, Wanted},
    onnx::{ImageInput, model::Model, node::ValueInfo, tensor::DataType, wire},
    ops,
    rewrite::Record,
    site::{self, Candidate},
};

/// Result of an inspection.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Inspection {
    /// [`super::outcome::SCHEMA`].
    pub schema: u32,
    /// Path or name of the model.
    pub file: String,
    /// SHA-256 in hex.
    pub sha256: String,
    /// Length in bytes.
    pub bytes: usize,
    /// ONNX's IR version.
    pub ir_version: i64,
    /// Version of ONNX's default operator set.
    pub opset: i64,
    /// Program that exported it, with its version; empty where not given.
    pub producer: String,
    /// Its inputs.
    pub inputs: Vec<Port>,
    /// Its outputs.
    pub outputs: Vec<Port>,
    /// The output with the scores of the classes; None where it is not known.
    pub model_output: Option<Scores>,
    /// Number of initializers.
    pub initializers: usize,
    /// Number of floating-point values in them.
    pub parameters: usize,
    /// True if some are external data.
    pub external_data: bool,
    /// Initializers that are also graph inputs: a caller may override these weights.
    pub overridable: Vec<String>,
    /// Number of fields that ONNX does not define; they are kept.
    pub unknown_fields: usize,
    /// Its operators, sorted by name.
    pub operators: Vec<Operator>,
    /// Possible sites of a layer, in execution order.
    pub sites: Vec<SiteEntry>,
    /// Site of the default recipe.
    pub default_site: Option<DefaultSite>,
    /// Why the sites could not be determined.
    pub sites_unknown: Option<String>,
    /// Site of the layer that the file already has, according to its metadata.
    pub purified: Option<String>,
    /// Key and value of each entry of metadata_props.
    pub metadata: Vec<(String, String)>,
}

/// An input or an output.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Element type; None where not given.
    pub r#type: Option<&'static str>,
    /// Its shape as text: `(N, 3, 32, 32)`.
    pub shape: String,
}

/// An operator that the model uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Operator {
    /// Its name.
    pub name: String,
    /// Number of nodes with it.
    pub count: usize,
    /// Whether this crate's executor supports it.
    pub supported: bool,
}

/// A possible site of a layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SiteEntry {
    /// In the notation of a job's `site`.
    pub site: String,
    /// The value that the layer is applied to.
    pub value: String,
    /// C, H, W.
    pub shape: [usize; 3],
    /// Description of the site.
    pub why: String,
    /// True for the site of the published recipe.
    pub default: bool,
}

/// Site of the default recipe.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DefaultSite {
    /// In the notation of a job's `site`.
    pub site: String,
    /// C, H, W.
    pub shape: [usize; 3],
    /// Reason for the choice.
    pub why: String,
    /// Share of the network's multiplications that lie behind it, in percent.
    pub behind: f64,
}

/// Inspects a model without running it. `size`: height and width of its input if they are dynamic; without them no
/// sites are determined. `model_output`: as in a job.
pub fn inspect(model: &Model, size: Option<[usize; 2]>, model_output: Option<&str>) -> Inspection {
    let mut operators: BTreeMap<String, Operator> = BTreeMap::new();
    for node in model.nodes() {
        let domain = if node.domain.is_empty() { String::new() } else { format!("{}::", node.domain) };
        let name = format!("{domain}{}", node.op_type);
        let supported = ops::find(&node.domain, &node.op_type).is_some();
        operators.entry(name.clone()).or_insert(Operator { name, count: 0, supported }).count += 1;
    }
    let wanted = Wanted { name: model_output, classes: None };
    let scores = input(model, size).and_then(|input| graph::choose(model, &input, wanted));
    let told = scores.as_ref().ok().map(outcome::Scores::from);
    let found = scores.and_then(|scores| sites(model, size, &scores));
    let (sites, default_site, sites_unknown) = match found {
        Ok((sites, default_site)) => (sites, default_site, None),
        Err(e) => (Vec::new(), None, Some(e.to_string())),
    };
    let parameters = model
        .initializer_names()
        .filter_map(|name| model.initializer_shape(name))
        .filter(|(t, _)| {
            matches!(t, DataType::Float | DataType::Double | DataType::Float16 | DataType::Bfloat16)
        })
        .map(|(_, dims)| dims.iter().product::<usize>())
        .sum();
    let ports = |infos: &[ValueInfo]| infos.iter().map(port).collect();
    Inspection {
        schema: SCHEMA,
        file: model.name().to_owned(),
        sha256: model.sha256(),
        bytes: model.bytes().len(),
        ir_version: model.ir_version(),
        opset: model.opset(),
        producer: producer(model.bytes()),
        inputs: ports(model.inputs()),
        outputs: ports(model.outputs()),
        model_output: told,
        initializers: model.initializer_names().count(),
        parameters,
        external_data: model.has_external_data(),
        overridable: model.overridable().to_vec(),
        unknown_fields: model.unknown_fields(),
        operators: operators.into_values().collect(),
        sites,
        default_site,
        sites_unknown,
        purified: purified(model),
        metadata: model.metadata().to_vec(),
    }
}

/// Shape of one image, (1, C, H, W).
fn input(model: &Model, size: Option<[usize; 2]>) -> Result<[usize; 4]> {
    let input = ImageInput::of(model)?;
    let [h, w] = input.size.or(size).ok_or_else(|| {
        Error::setting("size", "the model leaves its input's size open; it is needed to find sites")
    })?;
    Ok([1, input.channels.unwrap_or(3), h, w])
}

/// The candidates and where the default recipe puts its layer, for one image.
fn sites(
    model: &Model,
    size: Option<[usize; 2]>,
    scores: &graph::Scores,
) -> Result<(Vec<SiteEntry>, Option<DefaultSite>)> {
    let graph = Graph::lower_scores(model, &input(model, size)?, scores)?;
    let entry = |c: Candidate| SiteEntry {
        site: c.text,
        value: c.value,
        shape: c.shape,
        why: c.why,
        default: c.default,
    };
    let candidates: Vec<SiteEntry> = site::candidates(model, &graph).into_iter().map(entry).collect();
    let default = match site::preferred(model, &graph) {
        Ok(s) => {
            let behind = share_behind(&graph, &s)?;
            Some(DefaultSite { site: s.text, shape: s.shape, why: s.why, behind })
        }
        Err(_) => None, // sites can still be named
    };
    Ok((candidates, default))
}

/// Share of the multiplications behind a site, in percent.
fn share_behind(graph: &Graph, site: &site::Site) -> Result<f64> {
    let cut = graph.cut(&site::edge(graph, &site.place)?, graph.logits())?;
    let whole = graph.segment(graph.logits())?.flops(1);
    Ok(100.0 * cut.suffix.flops(1) as f64 / whole.max(1) as f64)
}

/// Site of a layer according to the file's metadata, which is a claim, not evidence.
fn purified(model: &Model) -> Option<String> {
    Record::is_there(model.metadata()).then(|| match Record::from_metadata(model.metadata()) {
        Ok(record) => record.provenance.site,
        Err(problem) => format!("unclear: {problem}"),
    })
}

fn port(info: &ValueInfo) -> Port {
    Port { name: info.name.clone(), r#type: info.elem_type.map(|t| t.name()), shape: info.described() }
}

/// ModelProto's producer_name and producer_version.
fn producer(bytes: &[u8]) -> String {
    let mut parts = [String::new(), String::new()];
    for field in wire::fields(bytes, 0..bytes.len()) {
        if let Some(part) = (field.number as usize).checked_sub(2).and_then(|at| parts.get_mut(at)) {
            *part = wire::text(bytes, &field).to_owned();
        }
    }
    parts.join(" ").trim().to_owned()
}
