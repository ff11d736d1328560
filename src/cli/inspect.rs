//! `polarizer inspect`: what a model is made of, without running it.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use serde::Serialize;

use super::{output::json, print};
use crate::{
    Error, Result,
    error::printable,
    graph::Graph,
    onnx::{model::Model, node::ValueInfo, tensor::DataType, wire},
    ops,
    pipeline::{Input, described, outcome::SCHEMA},
    report::grouped,
    rewrite::Record,
    site::{self, Candidate},
};

/// Show a model's form, its operators and where a layer can stand
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The ONNX file
    model: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Height and width of the input, where the model leaves them open
    #[arg(long, value_name = "HxW", value_parser = super::args::size)]
    size: Option<[usize; 2]>,
}

/// What there is to say of a model.
#[derive(Debug, Serialize)]
struct Inspection {
    schema: u32,
    file: String,
    sha256: String,
    bytes: usize,
    ir_version: i64,
    opset: i64,
    producer: String,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    initializers: usize,
    parameters: usize,
    external_data: bool,
    /// Initializers that a caller may replace: weights that can be swapped without touching the file.
    overridable: Vec<String>,
    unknown_fields: usize,
    operators: Vec<Operator>,
    /// Where a layer can stand, in the order of execution.
    sites: Vec<SiteEntry>,
    /// Where the default recipe puts it.
    default_site: Option<DefaultSite>,
    /// Why there are no sites.
    sites_unknown: Option<String>,
    /// A layer of ours is in the file already, at this site.
    purified: Option<String>,
    metadata: Vec<(String, String)>,
}

#[derive(Debug, Serialize)]
struct Port {
    name: String,
    r#type: Option<&'static str>,
    shape: String,
}

#[derive(Debug, Serialize)]
struct Operator {
    name: String,
    count: usize,
    supported: bool,
}

#[derive(Debug, Serialize)]
struct SiteEntry {
    /// As `--site` takes it.
    site: String,
    value: String,
    /// C, H, W.
    shape: [usize; 3],
    why: String,
    /// Where the published recipe puts the layer.
    default: bool,
}

#[derive(Debug, Serialize)]
struct DefaultSite {
    /// As `--site` takes it.
    site: String,
    /// C, H, W.
    shape: [usize; 3],
    why: String,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let model = Model::read(&args.model)?;
    let inspection = inspect(&model, args.model.display().to_string(), args.size);
    if args.json { print(&json(&inspection)?) } else { print(&text(&inspection)) }
}

fn inspect(model: &Model, file: String, size: Option<[usize; 2]>) -> Inspection {
    let mut operators: BTreeMap<String, Operator> = BTreeMap::new();
    for node in model.nodes() {
        let domain = if node.domain.is_empty() { String::new() } else { format!("{}::", node.domain) };
        let name = format!("{domain}{}", node.op_type);
        let supported = ops::find(&node.domain, &node.op_type).is_some();
        operators.entry(name.clone()).or_insert(Operator { name, count: 0, supported }).count += 1;
    }
    let (sites, default_site, sites_unknown) = match sites(model, size) {
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
        file,
        sha256: model.sha256(),
        bytes: model.bytes().len(),
        ir_version: model.ir_version(),
        opset: model.opset(),
        producer: producer(model.bytes()),
        inputs: ports(model.inputs()),
        outputs: ports(model.outputs()),
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

/// The candidates and where the default recipe puts its layer, for one image.
fn sites(model: &Model, size: Option<[usize; 2]>) -> Result<(Vec<SiteEntry>, Option<DefaultSite>)> {
    let input = Input::of(model)?;
    let [h, w] = input.size.or(size).ok_or_else(|| {
        Error::invalid("--size", "the model leaves its input's size open; --size HxW is needed to find sites")
    })?;
    let graph = Graph::lower(model, &[1, input.channels.unwrap_or(3), h, w])?;
    let entry = |c: Candidate| SiteEntry {
        site: c.text,
        value: c.value,
        shape: c.shape,
        why: c.why,
        default: c.default,
    };
    let candidates: Vec<SiteEntry> = site::candidates(model, &graph).into_iter().map(entry).collect();
    // without a candidate there is no default either
    let preferred = if candidates.is_empty() { None } else { Some(site::preferred(model, &graph)?) };
    Ok((candidates, preferred.map(|s| DefaultSite { site: s.text, shape: s.shape, why: s.why })))
}

/// What the file says of a layer in it; a statement, no evidence.
fn purified(model: &Model) -> Option<String> {
    Record::is_there(model.metadata()).then(|| match Record::from_metadata(model.metadata()) {
        Ok(record) => record.provenance.site,
        Err(problem) => format!("unclear: {problem}"),
    })
}

fn port(info: &ValueInfo) -> Port {
    Port { name: info.name.clone(), r#type: info.elem_type.map(|t| t.name()), shape: described(info) }
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

fn text(i: &Inspection) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: &str| {
        let _ = writeln!(out, "{name:<11} {text}");
    };
    line("file", &format!("{}, {} bytes", i.file, grouped(i.bytes)));
    line("sha256", &i.sha256);
    let producer = if i.producer.is_empty() { "producer not given".into() } else { printable(&i.producer) };
    line("format", &format!("IR {}, opset {}, {producer}", i.ir_version, i.opset));
    for (name, ports) in [("input", &i.inputs), ("output", &i.outputs)] {
        for p in ports {
            line(name, &format!("{}: {} {}", printable(&p.name), p.r#type.unwrap_or("?"), p.shape));
        }
    }
    let external = if i.external_data { ", some in other files" } else { "" };
    let weights = format!("{} initializers, {} values{external}", i.initializers, grouped(i.parameters));
    line("weights", &weights);
    if !i.overridable.is_empty() {
        line("", &format!("{} can be replaced by whoever runs the model", i.overridable.len()));
    }
    let mark = |o: &Operator| if o.supported { "" } else { " (not supported)" };
    let operators: Vec<String> =
        i.operators.iter().map(|o| format!("{} {}{}", printable(&o.name), o.count, mark(o))).collect();
    for (at, operators) in operators.chunks(6).enumerate() {
        line(if at == 0 { "operators" } else { "" }, &operators.join(", "));
    }
    for (at, s) in i.sites.iter().enumerate() {
        let [c, h, w] = s.shape;
        let star = if s.default { "*" } else { " " };
        let site = printable(&s.site);
        line(if at == 0 { "sites" } else { "" }, &format!("{star} {site}  {c}x{h}x{w}, {}", s.why));
    }
    if let Some(why) = &i.sites_unknown {
        line("sites", &format!("none: {why}"));
    } else if i.sites.is_empty() {
        line("sites", "none: no convolution on image-shaped values");
    } else {
        line("", "* where --recipe published puts the layer unless --site says otherwise");
    }
    if let Some(DefaultSite { site, shape: [c, h, w], why }) = &i.default_site {
        line(
            "default",
            &format!("  {}  {c}x{h}x{w}, {}", printable(site), why.trim_start_matches("default: ")),
        );
    }
    if let Some(site) = &i.purified {
        line("layer", &format!("has one already, by its own account at {}", printable(site)));
    }
    for (at, (key, value)) in i.metadata.iter().enumerate() {
        line(if at == 0 { "metadata" } else { "" }, &format!("{} = {}", printable(key), printable(value)));
    }
    if i.unknown_fields > 0 {
        line("note", &format!("{} fields unknown to ONNX, kept as they are", i.unknown_fields));
    }
    out
}
