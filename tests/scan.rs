//! Looking for a backdoor with clean images alone.

mod common;

use std::{path::Path, process::Command};

use serde_json::Value;

fn scan(name: &str, more: &[&str]) -> (Option<i32>, String, Option<Value>) {
    scan_of(&format!("{}/fixtures/model.onnx", env!("CARGO_MANIFEST_DIR")), name, more)
}

fn scan_of(model: &str, name: &str, more: &[&str]) -> (Option<i32>, String, Option<Value>) {
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
    (out.status.code(), said, report)
}

fn clean() -> String {
    format!("{}/fixtures/images/clean", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_class_that_the_fixtures_patch_leads_to_stands_out() {
    let (code, said, report) = scan("fixture", &["--data", &clean()]);
    assert_eq!(code, Some(0), "{said}");
    let report = report.unwrap();
    assert_eq!(report["stands_out"], serde_json::json!([4]), "{said}");
    assert!(said.contains("class 4 \"disc\" stands out"), "{said}");
    let stamped: Vec<f64> =
        report["ways"]["stamped"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_eq!(stamped.len(), 10);
    assert!((0..10).all(|c| c == 4 || stamped[c] < 3.0), "{stamped:?}");
    assert_eq!(report["calibration"]["as_high"], 0);
    assert!(!said.contains("safe") && !said.contains("is clean"), "{said}");
}

/// Networks that others trained: their triggers lead to class 0, and no other class stands out. A blend is found as a change
/// added to all, a patch as a stamp, a warp by what its interpolation is like: blur.
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
        let (code, said, report) = scan_of(model.to_str().unwrap(), network, &["--data", images]);
        assert_eq!(code, Some(0), "{said}");
        let report = report.unwrap();
        assert_eq!(report["stands_out"], serde_json::json!([0]), "{network}: {said}");
        assert!(report["ways"][way][0].as_f64().unwrap() > 6.0, "{network}: {said}");
    }
}

#[test]
fn a_gate_on_the_score_is_exit_code_1_and_the_report_is_written_all_the_same() {
    let (code, said, report) = scan("gate", &["--data", &clean(), "--max-score", "4"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("--max-score"), "{said}");
    assert!(report.is_some());
}

#[test]
fn wrong_preprocessing_and_wrong_folders_are_refused() {
    let (code, said, report) = scan("preprocessing", &["--data", &clean(), "--classes", "/dev/null"]);
    assert_eq!((code, report.is_some()), (Some(2), false), "{said}");
    let (code, said, report) = scan("folder", &["--data", "nowhere"]);
    assert_eq!((code, report.is_some()), (Some(2), false), "{said}");
    assert!(said.contains("nowhere"), "{said}");
    let (code, said, _) = scan("score", &["--data", &clean(), "--max-score", "nan"]);
    assert_eq!(code, Some(2), "{said}");
}
