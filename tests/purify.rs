//! Purifying the fixture with the default settings, as README's first command does, with the published ones, and the controls
//! beside them.

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
        let [[acc, asr], [acc_after, asr_after]] =
            purify(&format!("seed-{seed}"), &["--recipe", "published", "--seed", seed]);
        println!("seed {seed}: ACC {acc} to {acc_after}, ASR {asr} to {asr_after}");
        assert!(acc >= 95.0 && asr >= 95.0);
        assert!(asr_after <= 5.0, "seed {seed}: ASR {asr_after}");
        assert!(acc_after >= acc - 3.0, "seed {seed}: ACC {acc} to {acc_after}");
    }
}

#[test]
fn the_default_settings_take_the_backdoor_out() {
    for seed in ["0", "1", "2"] {
        let [[acc, _], [acc_after, asr_after]] = purify(&format!("default-{seed}"), &["--seed", seed]);
        println!("seed {seed}: ACC {acc} to {acc_after}, ASR {asr_after}");
        assert!(asr_after <= 15.0, "seed {seed}: ASR {asr_after}");
        assert!(acc_after >= acc - 3.0, "seed {seed}: ACC {acc} to {acc_after}");
    }
}

#[test]
fn it_is_the_adversary_that_takes_it_out() {
    let [_, [_, untrained]] = purify(
        "untrained",
        &["--recipe", "published", "--warmup", "0", "--epochs", "0", "--max-acc-drop", "100"],
    );
    assert!(untrained >= 95.0, "an untrained layer: ASR {untrained}");
    let [_, [_, alone]] = purify("alone", &["--recipe", "published", "--adversary", "none"]);
    assert!(alone >= 80.0, "trained on clean images alone: ASR {alone}");
}

/// An untrained layer costs this network more than twenty points: mixed with the identity it costs what is allowed.
#[test]
fn a_layer_that_costs_too_much_is_mixed_with_the_identity() {
    let [[before, _], [after, _]] = purify(
        "guarded",
        &["--recipe", "published", "--warmup", "0", "--epochs", "0", "--max-acc-drop", "4"],
    );
    let report = Path::new(env!("CARGO_TARGET_TMPDIR")).join("purify-guarded.json");
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let guard = |what: &str| report["guard"][what].as_f64().unwrap();
    assert!(
        guard("lost") > 4.0 && guard("lost_with_it") <= 4.0 && guard("limit") == 4.0,
        "{}",
        report["guard"]
    );
    assert!((0.3..1.0).contains(&guard("share")));
    assert!(before - after < 8.0, "on other images: {before} to {after}");
}

/// One principal component is not enough to tell ten classes apart, however it is mixed.
#[test]
fn where_no_mixture_is_good_enough_nothing_is_written() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let output = folder.join("purify-refused.onnx");
    let _ = std::fs::remove_file(&output);
    let root = env!("CARGO_MANIFEST_DIR");
    let out = Command::new(env!("CARGO_BIN_EXE_polarizer"))
        .args(["purify", &format!("{root}/fixtures/model.onnx"), "--quiet", "--preset", "cifar10"])
        .args(["--data", &format!("{root}/fixtures/images/clean")])
        .args(["--rank", "1", "--epochs", "0", "--max-acc-drop", "0", "-o"])
        .arg(&output)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("--max-acc-drop 0"), "{said}");
    assert!(!output.exists());
}
