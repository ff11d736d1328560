//! An inspection as text.

use std::fmt::Write as _;

use super::grouped;
use crate::{
    error::printable,
    pipeline::inspect::{DefaultSite, Inspection, Operator},
};

pub(super) fn summary(i: &Inspection) -> String {
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
    if let Some(said) = i.model_output.as_ref().and_then(|scores| scores.said()) {
        line("scores", said.trim_start_matches("output "));
    }
    let external = if i.external_data { ", some external" } else { "" };
    let weights = format!("{} initializers, {} values{external}", i.initializers, grouped(i.parameters));
    line("weights", &weights);
    if !i.overridable.is_empty() {
        line("", &format!("{} are graph inputs too and can be overridden at run time", i.overridable.len()));
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
        line("sites", "none: no weights on images or tokens");
    } else {
        line("", "* default site of --recipe published");
    }
    match &i.default_site {
        Some(DefaultSite { site, shape: [c, h, w], why, behind }) => {
            let why = why.trim_start_matches("default: ");
            let site = printable(site);
            line(
                "default",
                &format!("  {site}  {c}x{h}x{w}, {why}; {behind:.0} % of the multiplications behind it"),
            );
        }
        None if i.sites_unknown.is_none() => {
            line("default", "  none: no value that every way from the input to the scores leads through");
        }
        None => {}
    }
    if let Some(site) = &i.purified {
        line("layer", &format!("already has one at {}, according to its metadata", printable(site)));
    }
    for (at, (key, value)) in i.metadata.iter().enumerate() {
        line(if at == 0 { "metadata" } else { "" }, &format!("{} = {}", printable(key), printable(value)));
    }
    if i.unknown_fields > 0 {
        line("note", &format!("{} fields unknown to ONNX, kept unchanged", i.unknown_fields));
    }
    out
}
