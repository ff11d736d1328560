//! The operators' declarations against those of the onnx package, for every opset: `tests/scripts/onnx_schemas.py`
//! wrote the latter. And `docs/operators.md`, which is made from both: `BLESS=1 cargo test --test schemas` writes it.

use std::fmt::Write as _;
use std::path::Path;

use polarizer::internals::ops::{
    self, Arity, Attribute, Kind, OPERATORS, Operator, Placement, Preset, limits,
};
use serde_json::Value;

/// What the file can give that we refuse as unknown: forms of Constant that hold no numbers, and a value stored
/// sparsely.
const REFUSED: &[(&str, &str)] =
    &[("Constant", "value_string"), ("Constant", "value_strings"), ("Constant", "sparse_value")];

fn kind(attribute: &Attribute) -> &'static str {
    match attribute.kind {
        Kind::Int => "INT",
        Kind::Float => "FLOAT",
        Kind::Text => "STRING",
        Kind::Ints => "INTS",
        Kind::Floats => "FLOATS",
        Kind::Tensor => "TENSOR",
        Kind::Graph => "GRAPH",
    }
}

fn default_agrees(ours: Preset, theirs: &Value) -> bool {
    match ours {
        Preset::Int(v) => theirs.as_i64() == Some(v),
        Preset::Float(v) => theirs.as_f64().is_some_and(|t| t as f32 == v),
        Preset::Text(v) => theirs.as_str() == Some(v),
        Preset::Required | Preset::Absent => theirs.is_null(),
    }
}

#[test]
fn declarations_are_onnxs() {
    let file = schemas();
    assert_eq!(file["newest"].as_i64(), Some(limits::NEWEST_OPSET));
    let theirs = file["operators"].as_object().unwrap();
    let names: Vec<&str> = OPERATORS.iter().map(|o| o.name).collect();
    assert_eq!(theirs.len(), names.len(), "run tests/scripts/onnx_schemas.py {}", names.join(" "));
    let mut faults = Vec::new();
    for operator in OPERATORS {
        let versions = theirs[operator.name].as_array().unwrap();
        for opset in limits::OLDEST_OPSET..=limits::NEWEST_OPSET {
            let mut fault = |text: String| faults.push(format!("{} {opset}: {text}", operator.name));
            let version = versions.iter().rev().find(|v| v["since"].as_i64().unwrap() <= opset);
            let at = |all: &[Arity]| all.iter().rev().find(|a| a.since <= opset).copied();
            let (Some(version), Some(takes), Some(makes)) =
                (version, at(operator.inputs), at(operator.outputs))
            else {
                if version.is_some() != at(operator.inputs).is_some() {
                    fault("exists here or there only".to_string());
                }
                continue;
            };
            for (what, ours) in [("inputs", takes), ("outputs", makes)] {
                let ours = [ours.least as u64, ours.most.min(i32::MAX as usize) as u64];
                let theirs = [0, 1].map(|i| version[what][i].as_u64().unwrap());
                if ours != theirs {
                    fault(format!("{what} {ours:?}, expected {theirs:?}"));
                }
            }
            let attributes = version["attributes"].as_object().unwrap();
            let ours: Vec<&Attribute> =
                operator.attributes.iter().filter(|a| a.opsets.contains(&opset)).collect();
            for (name, theirs) in attributes {
                let same: Vec<_> = ours.iter().filter(|a| a.name == name).collect();
                match same[..] {
                    [] if REFUSED.contains(&(operator.name, name)) => {}
                    [a] => {
                        let required = theirs["required"].as_bool() == Some(true);
                        if theirs["kind"] != kind(a)
                            || required != (a.default == Preset::Required)
                            || !default_agrees(a.default, &theirs["default"])
                        {
                            fault(format!("{a:?}, expected {theirs}"));
                        }
                    }
                    _ => fault(format!("`{name}` is declared {} times", same.len())),
                }
            }
            for a in ours.iter().filter(|a| !attributes.contains_key(a.name)) {
                fault(format!("`{}` does not exist", a.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn schemas() -> Value {
    serde_json::from_str(include_str!("vectors/onnx_schemas.json")).unwrap()
}

/// The opsets of `range` among those that are supported, as text; empty for all in which the operator is.
fn opsets(attribute: &Attribute, since: i64) -> String {
    let (first, last) = (*attribute.opsets.start(), *attribute.opsets.end());
    match (first > since, last < limits::NEWEST_OPSET) {
        (false, false) => String::new(),
        (true, false) => format!(" (from {first})"),
        (false, true) => format!(" (to {last})"),
        (true, true) => format!(" ({first} to {last})"),
    }
}

/// The attributes that are understood, then those of ONNX that are refused.
fn attributes(operator: &Operator, theirs: &Value) -> String {
    let since = operator.inputs[0].since;
    let mut cells: Vec<String> = Vec::new();
    for attribute in operator.attributes {
        // one that changes its default is declared for each part of its opsets
        if operator.attributes.iter().filter(|a| a.name == attribute.name).count() > 1 {
            if !cells.iter().any(|c| *c == format!("`{}`", attribute.name)) {
                cells.push(format!("`{}`", attribute.name));
            }
            continue;
        }
        cells.push(format!("`{}`{}", attribute.name, opsets(attribute, since)));
    }
    let mut refused: Vec<&String> = Vec::new();
    for version in theirs.as_array().unwrap() {
        for name in version["attributes"].as_object().unwrap().keys() {
            if !operator.attributes.iter().any(|a| a.name == name) && !refused.contains(&name) {
                refused.push(name);
            }
        }
    }
    refused.sort();
    cells.extend(refused.into_iter().map(|name| format!("~~`{name}`~~")));
    cells.join(", ")
}

fn row(operator: &Operator, theirs: &Value) -> String {
    let gpu = match operator.on_gpu {
        Placement::Kernel => "kernel",
        Placement::Partly => "kernel, or processor",
        Placement::Candle => "candle",
        Placement::Processor => "processor",
        Placement::Nowhere => "",
    };
    let gradient = if operator.on_gpu == Placement::Nowhere { "constant" } else { "yes" };
    format!(
        "| {} | {} | {gradient} | {gpu} | {} | {} |\n",
        operator.name,
        operator.inputs[0].since,
        attributes(operator, theirs),
        operator.limits,
    )
}

fn page() -> String {
    let theirs = &schemas()["operators"];
    let (oldest, newest) = (limits::OLDEST_OPSET, limits::NEWEST_OPSET);
    let mut page = format!(
        "# Operators

<!-- Written by `BLESS=1 cargo test --test schemas`. Do not edit. -->

What a model may be made of: float32, ONNX's own domain, opsets {oldest} to {newest}. Anything else is refused by name before
anything is computed, and so are attributes that an operator does not have in the model's opset. `polarizer inspect
MODEL` says which operators a model uses.

- **From**: the oldest opset in which the operator is understood; it is in all later ones up to {newest}.
- **Gradient**: *yes*, exact to rounding, held against finite differences and PyTorch; *constant*: computed while the
  model is read, so that nothing of it is left to run.
- **On a GPU**: *kernel*: by kernels of this program; *candle*: by candle's; *processor*: values are copied there and
  back; *kernel, or processor*: by a kernel in the forms that classifiers are full of, by the processor in others.
- **Attributes**: those that are understood, with the opsets where it is not all; ~~struck out~~: known to ONNX and
  refused.
- **Limits**: what of ONNX's definition is accepted, where that is not all of it.

| Operator | From | Gradient | On a GPU | Attributes | Limits |
| --- | --- | --- | --- | --- | --- |
"
    );
    let mut operators = OPERATORS.to_vec();
    operators.sort_by_key(|o| o.name);
    operators.iter().for_each(|o| page.push_str(&row(o, &theirs[o.name])));
    page.push_str(
        "\n## Refused with a reason\n\nThese are known, and cannot be part of a model that is trained:\n\n",
    );
    for refusal in ops::REFUSED {
        let names = refusal.operators.join(", ");
        let _ = writeln!(page, "- {names}: {}.", refusal.reason);
    }
    page
}

#[test]
fn the_table_of_operators_is_the_registrys() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operators.md");
    let page = page();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "docs/operators.md is out of date: BLESS=1 cargo test --test schemas writes it");
}
