//! `polarizer scan`: finding a backdoor with clean images only.

mod common;

use std::{path::Path, process::Command};

use onnx_protobuf::{AttributeProto, Message as _, ModelProto, NodeProto, TensorProto};
use serde_json::Value;

/// A finished `polarizer scan`.
struct Run {
    /// Exit code.
    code: Option<i32>,
    /// Standard output, then standard error.
    said: String,
    /// The report, if one was written.
    report: Option<Value>,
}

/// Scans the fixture; the report is named after `name`.
fn scan(name: &str, more: &[&str]) -> Run {
    scan_of(&format!("{}/fixtures/model.onnx", env!("CARGO_MANIFEST_DIR")), name, more)
}

fn scan_of(model: &str, name: &str, more: &[&str]) -> Run {
    let report = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("scan-{name}.json"));
    let _ = std::fs::remove_file(&report);
    let out = Command::new(env!("CARGO_BIN_EXE_polarizer"))
        .args(["scan", model, "--quiet", "--preset", "cifar10"])
        .arg("--report")
        .arg(&report)
        .args(more)
        .output()
        .unwrap();
    let report = std::fs::read(report).ok().map(|text| serde_json::from_slice(&text).unwrap());
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    Run { code: out.status.code(), said, report }
}

fn clean() -> String {
    format!("{}/fixtures/images/clean", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_class_that_the_fixtures_patch_leads_to_stands_out() {
    let Run { code, said, report } = scan("fixture", &["--data", &clean()]);
    assert_eq!(code, Some(0), "{said}");
    let report = report.unwrap();
    assert_eq!(report["stands_out"], serde_json::json!([4]), "{said}");
    assert!(said.contains("class 4 \"disc\" stands out"), "{said}");
    let stamped: Vec<f64> =
        report["ways"]["stamped"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_eq!(stamped.len(), 10);
    assert!((0..10).all(|c| c == 4 || stamped[c] < 3.0), "{stamped:?}");
    assert_eq!(report["all_to_all"], serde_json::json!(false), "one class is not all: {said}");
    assert_eq!(report["calibration"]["as_high"], 0);
    assert!(!said.contains("safe") && !said.contains("is clean"), "{said}");
}

/// Third-party backdoored networks with target class 0. A blend is found by an added change, a patch by a stamp, a
/// warp by a filter, since its interpolation blurs.
#[test]
fn real_triggers_lead_to_the_class_that_stands_out() {
    let Some(images) = common::shared("images/clean") else { return };
    for (network, way) in [
        ("preactresnet18-w16-blended", "added"),
        ("mobilenetv3s-badnets", "stamped"),
        ("preactresnet18-w16-wanet", "filtered"),
    ] {
        let Some(model) = common::shared(&format!("models/{network}.onnx")) else { return };
        let images = images.to_str().unwrap();
        let Run { code, said, report } = scan_of(model.to_str().unwrap(), network, &["--data", images]);
        assert_eq!(code, Some(0), "{said}");
        let report = report.unwrap();
        assert_eq!(report["stands_out"], serde_json::json!([0]), "{network}: {said}");
        assert!(report["ways"][way][0].as_f64().unwrap() > 6.0, "{network}: {said}");
    }
}

#[test]
fn a_gate_on_the_score_is_exit_code_1_and_the_report_is_written_all_the_same() {
    let Run { code, said, report } = scan("gate", &["--data", &clean(), "--max-score", "4"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("max-score: a class has a robust z-score of"), "{said}");
    assert!(report.is_some());
}

#[test]
fn wrong_preprocessing_and_wrong_folders_are_refused() {
    let Run { code, said, report } = scan("preprocessing", &["--data", &clean(), "--classes", "/dev/null"]);
    assert_eq!((code, report.is_some()), (Some(2), false), "{said}");
    let Run { code, said, report } = scan("folder", &["--data", "nowhere"]);
    assert_eq!((code, report.is_some()), (Some(2), false), "{said}");
    assert!(said.contains("nowhere"), "{said}");
    let Run { code, said, .. } = scan("score", &["--data", &clean(), "--max-score", "nan"]);
    assert_eq!(code, Some(2), "{said}");
}

fn node(op_type: &str, inputs: &[&str], output: &str) -> NodeProto {
    let mut node = NodeProto::new();
    node.op_type = op_type.into();
    node.name = format!("next_{output}");
    node.input = inputs.iter().map(ToString::to_string).collect();
    node.output.push(output.into());
    node
}

fn tensor(name: &str, dims: &[i64], values: impl IntoIterator<Item = f32>) -> TensorProto {
    let mut tensor = TensorProto::new();
    tensor.name = name.into();
    tensor.dims = dims.to_vec();
    tensor.data_type = 1;
    tensor.float_data = values.into_iter().collect();
    tensor
}

/// The fixture with its own trigger masked and an all-to-all backdoor added: a white corner shifts the logits by one
/// class, logits + d (shifted logits - logits), with d from the mean of the corner's nine pixels.
fn led_from_each_class_to_the_next() -> Vec<u8> {
    let bytes = std::fs::read(format!("{}/fixtures/model.onnx", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mut model = ModelProto::parse_from_bytes(&bytes).unwrap();
    let graph = model.graph.mut_or_insert_default();
    let (input, output) = (graph.input[0].name.clone(), graph.output[0].name.clone());
    for node in &mut graph.node {
        node.input.iter_mut().filter(|name| **name == input).for_each(|name| *name = "next_masked".into());
        node.output.iter_mut().filter(|name| **name == output).for_each(|name| *name = "next_own".into());
    }
    let corner = |i: usize| (i / 32) % 32 >= 29 && i % 32 >= 29;
    let pixels = |inside: f32| (0..3 * 32 * 32).map(move |i| if corner(i) { inside } else { 1.0 - inside });
    let shift = (0..100).map(|i| {
        let (from, to) = (i / 10, i % 10);
        f32::from(u8::from((from + 1) % 10 == to)) - f32::from(u8::from(from == to))
    });
    graph.initializer.extend([
        tensor("next_mask", &[1, 3, 32, 32], pixels(0.0)),
        tensor("next_pick", &[1, 3, 32, 32], pixels(1.0)),
        // normalised white is 2.1; d = 20 * (mean of the corner - 1.95), clipped to [0, 1]
        tensor("next_weight", &[3, 1], [20.0 * 1024.0 / 27.0; 3]),
        tensor("next_bias", &[1], [-39.0]),
        tensor("next_zero", &[], [0.0]),
        tensor("next_one", &[], [1.0]),
        tensor("next_shift", &[10, 10], shift),
    ]);
    let mut flat = node("Flatten", &["next_mean"], "next_flat");
    let mut axis = AttributeProto::new();
    axis.name = "axis".into();
    axis.i = 1;
    axis.type_ = onnx_protobuf::attribute_proto::AttributeType::INT.into();
    flat.attribute.push(axis);
    graph.node.insert(0, node("Mul", &[&input, "next_mask"], "next_masked"));
    graph.node.extend([
        node("Mul", &[&input, "next_pick"], "next_picked"),
        node("GlobalAveragePool", &["next_picked"], "next_mean"),
        flat,
        node("Gemm", &["next_flat", "next_weight", "next_bias"], "next_white"),
        node("Clip", &["next_white", "next_zero", "next_one"], "next_d"),
        node("MatMul", &["next_own", "next_shift"], "next_difference"),
        node("Mul", &["next_difference", "next_d"], "next_added"),
        node("Add", &["next_own", "next_added"], &output),
    ]);
    model.write_to_bytes().unwrap()
}

/// The fixture's own backdoor still reacts to white next to the corner, so a class may stand out as well.
#[test]
fn a_backdoor_from_each_class_to_the_next_shows_in_the_answers_that_a_small_block_scatters() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("next.onnx");
    std::fs::write(&path, led_from_each_class_to_the_next()).unwrap();
    let Run { code, said, report } = scan_of(path.to_str().unwrap(), "next", &["--data", &clean()]);
    assert_eq!(code, Some(0), "{said}");
    let report = report.unwrap();
    assert_eq!(report["all_to_all"], serde_json::json!(true), "{said}");
    assert!(report["scattered"].as_f64().unwrap() > 80.0, "{said}");
    assert!(said.contains(": an all-to-all backdoor"), "{said}");
    let gate = &["--data", &clean(), "--max-score", "100"];
    let Run { code, said, report } = scan_of(path.to_str().unwrap(), "next-gate", gate);
    assert_eq!((code, report.is_some()), (Some(1), true), "{said}");
    assert!(said.contains("max-score: ") && said.contains("over several classes"), "{said}");
}
