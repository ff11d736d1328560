//! Purifying the fixture with the default settings, as README's first command does, with the published ones, and the
//! controls beside them.

use std::{path::Path, process::Command};

use serde_json::Value;

/// Percent.
struct Rates {
    acc: f64,
    asr: f64,
}

struct Outcome {
    before: Rates,
    after: Rates,
}

/// Purifies the fixture with `options` and reads the report.
fn purify(name: &str, options: &[&str]) -> Outcome {
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
    let rates =
        |rates: &Value| Rates { acc: rates["acc"].as_f64().unwrap(), asr: rates["asr"].as_f64().unwrap() };
    Outcome { before: rates(&report["before"]), after: rates(&report["after"]) }
}

#[test]
fn the_published_settings_take_the_backdoor_out() {
    for seed in ["0", "1", "2"] {
        let Outcome { before, after } =
            purify(&format!("seed-{seed}"), &["--recipe", "published", "--seed", seed]);
        println!("seed {seed}: ACC {} to {}, ASR {} to {}", before.acc, after.acc, before.asr, after.asr);
        assert!(before.acc >= 95.0 && before.asr >= 95.0);
        assert!(after.asr <= 5.0, "seed {seed}: ASR {}", after.asr);
        assert!(after.acc >= before.acc - 3.0, "seed {seed}: ACC {} to {}", before.acc, after.acc);
    }
}

#[test]
fn the_default_settings_take_the_backdoor_out() {
    for seed in ["0", "1", "2"] {
        let Outcome { before, after } = purify(&format!("default-{seed}"), &["--seed", seed]);
        println!("seed {seed}: ACC {} to {}, ASR {}", before.acc, after.acc, after.asr);
        assert!(after.asr <= 15.0, "seed {seed}: ASR {}", after.asr);
        assert!(after.acc >= before.acc - 3.0, "seed {seed}: ACC {} to {}", before.acc, after.acc);
    }
}

#[test]
fn it_is_the_adversary_that_takes_it_out() {
    let untrained = purify(
        "untrained",
        &["--recipe", "published", "--warmup", "0", "--epochs", "0", "--max-acc-drop", "100"],
    );
    assert!(untrained.after.asr >= 95.0, "an untrained layer: ASR {}", untrained.after.asr);
    let alone = purify("alone", &["--recipe", "published", "--adversary", "none"]);
    assert!(alone.after.asr >= 80.0, "trained on clean images alone: ASR {}", alone.after.asr);
}

/// An untrained layer costs this network more than twenty points: mixed with the identity it costs what is allowed.
#[test]
fn a_layer_that_costs_too_much_is_mixed_with_the_identity() {
    let Outcome { before, after } = purify(
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
    assert!(before.acc - after.acc < 8.0, "on other images: {} to {}", before.acc, after.acc);
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
