//! The operators' declarations against those of the onnx package, for every opset: `tests/scripts/onnx_schemas.py`
//! wrote the latter.

use polarizer::ops::{Arity, Attribute, Kind, OPERATORS, Preset, limits};
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
    let file: Value = serde_json::from_str(include_str!("vectors/onnx_schemas.json")).unwrap();
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
