//! The command line. Its output is tested by `tests/cli/*.trycmd`; `TRYCMD=overwrite cargo test --release --test cli`
//! regenerates them. Its effects on files are tested here.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

#[test]
fn cases() {
    trycmd::TestCases::new().env("COLUMNS", "100").env("NO_COLOR", "1").case("tests/cli/*.trycmd");
}

fn polarizer(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_polarizer")).args(args).output().unwrap()
}

/// Runs a command that must succeed. Returns its standard output.
fn done(args: &[&str]) -> String {
    let out = polarizer(args);
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{args:?}\n{stdout}{stderr}");
    stdout.into_owned()
}

/// Runs a command that must fail with `code` and a single line on standard error. Returns that line.
fn refused(args: &[&str], code: i32) -> String {
    let out = polarizer(args);
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "{args:?}\n{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

const MODEL: &str = "fixtures/model.onnx";
const CLEAN: &str = "fixtures/images/clean";

/// A short run on the fixture.
fn purify(out: &Path, more: &[&str]) -> String {
    let args = ["purify", MODEL, "-q", "-o", text(out), "--data", CLEAN, "--preset", "cifar10"];
    done(
        &[&args[..], &["--recipe", "published", "--warmup", "1", "--epochs", "1", "--batch", "64"], more]
            .concat(),
    )
}

#[test]
fn who_judges_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.onnx");
    let summary = purify(&out, &["--judge", "none"]);
    assert!(summary.ends_with("rewrite NOT verified; backdoor removal NOT measured\n"), "{summary}");
    let verify = ["verify", MODEL, text(&out), "--images", "8", "-q"];
    assert!(done(&verify).contains("rewrite verified"));
    assert!(done(&[&verify[..], &["--judge", "none"]].concat()).contains("rewrite NOT verified"));
    let e = refused(&[&verify[..], &["--save-bundle", text(dir.path())]].concat(), 2);
    assert!(e.contains("already exists"), "{e}");
    let missing = Command::new(env!("CARGO_BIN_EXE_polarizer"))
        .args([&verify[..], &["--judge", "onnxruntime"]].concat())
        .env("ORT_DYLIB_PATH", dir.path().join("nowhere.so"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&missing.stderr);
    assert!(missing.status.code() == Some(2) && stderr.contains("ORT_DYLIB_PATH"), "{stderr}");
}

#[test]
fn a_model_is_purified_verified_and_reverted() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let [out, report, layer] = ["out.onnx", "report.json", "layer.safetensors"].map(at);
    let (twice, other) = (at("twice"), at("other"));
    let more = ["--report", text(&report), "--save-polarizer", text(&layer), "--threads", "2", "--profile"];
    let summary = purify(&out, &more);
    assert!(summary.ends_with("rewrite verified; backdoor removal NOT measured\n"), "{summary}");
    assert!(!summary.contains("safe"), "{summary}");

    let report: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert_eq!(report["schema"], 1);
    assert!(report["before"]["acc"].as_f64().unwrap() > 90.0);
    assert!(report["after"]["acc"].is_f64());
    for measure in ["asr", "ra"] {
        assert!(report["before"][measure].is_null() && report["after"][measure].is_null());
    }
    assert_eq!(report["asr_status"], "unknown");
    assert!(report["verification"]["max_difference"].as_f64().unwrap() <= 1e-4);
    assert_eq!(report["train"]["epochs"].as_array().unwrap().len(), 2);
    assert_eq!(report["train"]["steps"], 10); // 320 images in batches of 64, twice
    assert_eq!(report["output"]["sha256"], polarizer::internals::digest::sha256(&fs::read(&out).unwrap()));
    let profile = &report["profile"];
    let of = |key: &str| profile[key].as_array().unwrap().iter().map(|o| o["share"].as_f64().unwrap());
    assert!((of("operators").chain(of("outside")).sum::<f64>() - 100.0).abs() < 0.01);
    assert!(summary.contains(" 100.0 %          the whole training\n"), "{summary}");
    assert!(report["memory"]["allowed"].is_u64() && report["memory"]["tape_kept"].as_u64().unwrap() > 0);
    assert!(report["seconds"].as_f64().unwrap() >= report["train"]["seconds"].as_f64().unwrap());

    let verify = ["verify", MODEL, text(&out), "--data", CLEAN, "--preset", "cifar10", "-q"];
    assert!(done(&verify).contains("rewrite verified"));
    let again = at("again.onnx");
    done(&["apply", MODEL, "--polarizer", text(&layer), "-o", text(&again), "-q"]);
    assert_eq!(fs::read(&again).unwrap(), fs::read(&out).unwrap());
    let back = at("back.onnx");
    done(&["revert", text(&out), "-o", text(&back)]);
    assert_eq!(fs::read(&back).unwrap(), fs::read(MODEL).unwrap());
    // nothing but what was asked for
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);

    // once is enough, and another model's layer does not fit
    let args = ["purify", text(&out), "-q", "-o", text(&twice), "--data", CLEAN, "--preset", "cifar10"];
    assert!(refused(&args, 2).contains("already has a layer"));
    let foreign = ["apply", text(&out), "--polarizer", text(&layer), "-o", text(&other)];
    assert!(refused(&foreign, 2).contains("the layer was trained for"));
    assert!(!twice.exists() && !other.exists());
}

#[test]
fn a_changed_bit_is_never_verified() {
    let dir = tempfile::tempdir().unwrap();
    let (out, changed) = (dir.path().join("out.onnx"), dir.path().join("changed.onnx"));
    let args = ["purify", MODEL, "-q", "-o", text(&out), "--data", CLEAN, "--preset", "cifar10"];
    done(&[&args[..], &["--warmup", "0", "--epochs", "0"]].concat());
    let bytes = fs::read(&out).unwrap();
    // weights are nearly all of the file; an odd stride visits every part and every bit
    for i in 0..60 {
        let at = (i * 10_007 + 60) % bytes.len();
        let mut other = bytes.clone();
        other[at] ^= 1 << (i % 8);
        fs::write(&changed, other).unwrap();
        let run = polarizer(&["verify", MODEL, text(&changed), "--images", "1", "-q"]);
        let stderr = String::from_utf8_lossy(&run.stderr);
        // 2 where it is no longer a model that can be read
        assert!(matches!(run.status.code(), Some(1 | 2)), "byte {at}: {stderr}");
        assert!(run.status.code() != Some(1) || stderr.contains("check failed: structure"), "{stderr}");
    }
    assert!(done(&["verify", MODEL, text(&out), "--images", "1", "-q"]).contains("rewrite verified"));
}

#[test]
fn the_same_seed_gives_the_same_bytes_whatever_the_threads() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, more: &[&str]| -> Vec<u8> {
        let out: PathBuf = dir.path().join(name);
        purify(&out, more);
        fs::read(out).unwrap()
    };
    let one = run("one", &["--threads", "1", "--precision", "f32"]);
    assert!(one == run("three", &["--threads", "3", "--precision", "f32"]), "other threads, other bytes");
    assert!(one != run("other", &["--seed", "1", "--precision", "f32"]), "another seed, the same bytes");
    let half = run("half", &["--threads", "1", "--precision", "bf16"]);
    assert!(
        half == run("half-three", &["--threads", "3", "--precision", "bf16"]),
        "bf16: other threads, other bytes"
    );
    assert!(half != one, "bf16 was not used");
}

/// Emulated bfloat16 works, warns that it is slow, and is recorded in the report and the file. Verification still uses
/// f32.
#[test]
fn bf16_is_emulated_where_the_processor_lacks_it() {
    let dir = tempfile::tempdir().unwrap();
    let [out, report] = ["out.onnx", "report.json"].map(|name| dir.path().join(name));
    let args = ["purify", MODEL, "-o", text(&out), "--data", CLEAN, "--preset", "cifar10", "--warmup", "0"];
    let more = ["--epochs", "1", "--precision", "bf16", "--report", text(&report)];
    let run = Command::new(env!("CARGO_BIN_EXE_polarizer"))
        .args(args)
        .args(more)
        .env("POLARIZER_CPU", "portable")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{stderr}");
    assert!(stderr.contains("note: portable has no bfloat16: it is emulated, slower than f32"), "{stderr}");
    assert!(String::from_utf8_lossy(&run.stdout).contains(" in bf16"), "{run:?}");
    let report: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert_eq!(
        (&report["settings"]["precision"], &report["environment"]["cpu"]),
        (&"bf16".into(), &"portable".into())
    );
    assert!(report["verification"]["max_difference"].as_f64().unwrap() < 1e-4);
    let file = fs::read(&out).unwrap();
    assert!(file.windows(9).any(|w| w == b"precision"), "the file says with which precision it was made");
}

#[test]
fn a_flat_folder_is_labelled_by_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let flat = dir.path().join("flat");
    fs::create_dir(&flat).unwrap();
    for class in fs::read_dir(CLEAN).unwrap() {
        let class = class.unwrap();
        for file in fs::read_dir(class.path()).unwrap().take(6) {
            let file = file.unwrap();
            let name = [class.file_name(), file.file_name()].map(|n| n.into_string().unwrap()).join("-");
            fs::copy(file.path(), flat.join(name)).unwrap();
        }
    }
    let (out, report) = (dir.path().join("out.onnx"), dir.path().join("report.json"));
    let args = ["purify", MODEL, "-q", "-o", text(&out), "--data", text(&flat), "--preset", "cifar10"];
    let summary = done(&[&args[..], &["--warmup", "0", "--epochs", "1", "--report", text(&report)]].concat());
    assert!(summary.contains("the model's predictions were used"), "{summary}");
    let report: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert_eq!(report["labels"], "model");
    assert!(report["acc_on"].is_null() && report["before"]["acc"].is_null());
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    use std::{process::Stdio, thread::sleep, time::Duration};
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.onnx");
    let mut run = Command::new(env!("CARGO_BIN_EXE_polarizer"))
        .args([
            "purify",
            MODEL,
            "-o",
            text(&out),
            "--data",
            CLEAN,
            "--preset",
            "cifar10",
            "--epochs",
            "100000",
        ])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    sleep(Duration::from_secs(3));
    assert!(run.try_wait().unwrap().is_none(), "it was to run for longer");
    let killed = Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(run.wait().unwrap().code(), Some(130));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn output_that_nobody_reads_is_no_fault() {
    use std::process::Stdio;
    let mut run = Command::new(env!("CARGO_BIN_EXE_polarizer"))
        .args(["inspect", MODEL, "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(run.stdout.take());
    assert!(run.wait().unwrap().success());
}

#[test]
fn a_report_replaces_reports_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let test = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/images/test");
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/model.onnx");
    let args = ["evaluate", model, "--test", test, "--preset", "cifar10", "--report", path.to_str().unwrap()];
    fs::write(&path, "notes of mine").unwrap();
    let line = refused(&args, 2);
    assert!(line.contains("report.json") && line.contains("is not a report"), "{line}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "notes of mine");
    fs::remove_file(&path).unwrap();
    done(&args);
    done(&args);
}

#[test]
fn nothing_is_written_among_the_images() {
    let images = tempfile::tempdir().unwrap();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/model.onnx");
    let (data, out) = (images.path().display().to_string(), images.path().join("out.onnx"));
    let line = refused(&["purify", model, "-o", out.to_str().unwrap(), "--data", &data], 2);
    assert!(line.contains("is inside the image folder"), "{line}");
    assert!(!out.exists());
    for (command, folder) in [("scan", "--data"), ("evaluate", "--test")] {
        let line = refused(&[command, model, folder, &data, "--report", out.to_str().unwrap()], 2);
        assert!(line.contains("is inside the image folder"), "{line}");
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_is_refused_without_waiting_for_its_writer() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe.onnx");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let line = refused(&["inspect", pipe.to_str().unwrap()], 2);
    assert!(line.contains("is not a regular file"), "{line}");
}
