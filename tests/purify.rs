//! Purifying the fixture with the published settings, as README's first command does, and the controls beside it.

use std::{path::Path, process::Command};

use serde_json::Value;

/// ACC and ASR in percent, before and after.
fn purify(name: &str, options: &[&str]) -> [[f64; 2]; 2] {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = |ending: &str| folder.join(format!("purify-{name}.{ending}")).display().to_string();
    let (output, report) = (file("onnx"), file("json"));
    let images = |which: &str| format!("{}/fixtures/images/{which}", env!("CARGO_MANIFEST_DIR"));
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/model.onnx");
    let (clean, test, triggered) = (images("clean"), images("test"), images("triggered"));
    let command =
        ["purify", model, "-o", &output, "--force", "--quiet", "--preset", "cifar10", "--data", &clean];
    let measured = ["--test", &test, "--triggered", &triggered, "--target", "disc", "--report", &report];
    let _ = std::fs::remove_file(&report);
    let out = Command::new(env!("CARGO_BIN_EXE_polarizer"))
        .args(command)
        .args(measured)
        .args(options)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    ["before", "after"].map(|when| ["acc", "asr"].map(|what| report[when][what].as_f64().unwrap()))
}

#[test]
fn the_published_settings_take_the_backdoor_out() {
    for seed in ["0", "1", "2"] {
        let [[acc, asr], [acc_after, asr_after]] = purify(&format!("seed-{seed}"), &["--seed", seed]);
        println!("seed {seed}: ACC {acc} to {acc_after}, ASR {asr} to {asr_after}");
        assert!(acc >= 95.0 && asr >= 95.0);
        assert!(asr_after <= 5.0, "seed {seed}: ASR {asr_after}");
        assert!(acc_after >= acc - 3.0, "seed {seed}: ACC {acc} to {acc_after}");
    }
}

#[test]
fn it_is_the_adversary_that_takes_it_out() {
    let [_, [_, untrained]] = purify("untrained", &["--warmup", "0", "--epochs", "0"]);
    assert!(untrained >= 95.0, "an untrained layer: ASR {untrained}");
    let [_, [_, alone]] = purify("alone", &["--adversary", "none"]);
    assert!(alone >= 80.0, "trained on clean images alone: ASR {alone}");
}
