//! What a user of the library does: a verified purification, its proof and its findings, without the command.

use std::{path::Path, process::Command};

use polarizer::{
    Error,
    data::{Arrays, Folder, Pixels, Preprocessing},
    onnx::Model,
    pipeline::{
        self, Event, Job, Observer, Purified, Rule, RunOptions, Severity,
        settings::{Recipe, Settings},
    },
};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/model.onnx");
const IMAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/images");

fn model() -> Model {
    Model::read(Path::new(MODEL)).unwrap()
}

fn images(which: &str) -> Folder {
    Folder::clean(&Path::new(IMAGES).join(which)).unwrap()
}

/// A training of a few seconds.
fn short(seed: u64) -> Settings {
    let mut settings = Recipe::Default.settings();
    settings.epochs = 1;
    settings.min_steps = None;
    settings.seed = seed;
    settings
}

fn purify(seed: u64, threads: usize) -> Purified {
    let (model, clean) = (model(), images("clean"));
    let preprocessing = Preprocessing::preset("cifar10").unwrap();
    let job = Job { preprocessing, settings: short(seed), ..Job::new(&model) }.with_images(&clean);
    let run = RunOptions { threads: Some(threads), ..RunOptions::default() };
    pipeline::purify(&job, &run, &mut ()).unwrap()
}

#[test]
fn the_library_writes_the_commands_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (own, theirs) = (dir.path().join("library.onnx"), dir.path().join("command.onnx"));
    let purified = purify(3, 2);
    let bytes = purified.bytes().unwrap();
    purified.save(&own, false).unwrap();
    assert_eq!(std::fs::read(&own).unwrap(), bytes);
    let out = Command::new(env!("CARGO_BIN_EXE_polarizer"))
        .args(["purify", MODEL, "-q", "--preset", "cifar10", "--epochs", "1", "--seed", "3", "--data"])
        .arg(Path::new(IMAGES).join("clean"))
        .arg("-o")
        .arg(&theirs)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(std::fs::read(&theirs).unwrap() == bytes, "the command wrote other bytes");
    // nothing is replaced without being told to, and nothing is left behind
    assert_eq!(purify(3, 2).save(&own, false).unwrap_err().exit_code(), 2);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn two_runs_in_one_process_give_the_bytes_of_two_runs() {
    let bytes = |purified: Purified| purified.bytes().unwrap();
    let alone = [bytes(purify(0, 1)), bytes(purify(1, 3))];
    assert!(alone[0] != alone[1], "two seeds, the same bytes");
    let together = std::thread::scope(|scope| {
        let first = scope.spawn(|| bytes(purify(0, 1)));
        [bytes(purify(1, 3)), first.join().unwrap()]
    });
    assert!(together[1] == alone[0] && together[0] == alone[1], "runs disturb each other");
}

#[test]
fn a_result_says_what_was_measured_and_what_was_not() {
    let purified = purify(0, 2);
    let outcome = &purified.outcome;
    assert!(outcome.before.acc.unwrap() > 95.0 && outcome.after.acc.is_some() && outcome.after.asr.is_none());
    let checks: Vec<&str> = outcome.verification.checks.iter().map(|c| c.name.as_str()).collect();
    for check in ["parity-original", "parity-purified"] {
        assert!(checks.contains(&check), "{checks:?}");
    }
    assert_eq!(outcome.verification.structure.as_deref(), Some("as declared"));
    let of = |rule| pipeline::finding::of(&outcome.findings, rule);
    assert_eq!(of(Rule::RemovalNotMeasured).unwrap().severity, Severity::Note);
    assert!(of(Rule::ClassStandsOut).unwrap().message.contains("disc"));
    assert!(pipeline::finding::require_gates(&outcome.findings).is_ok());
    assert_eq!(purified.layer.input_sha256, model().sha256());
}

/// Stops as soon as the first step is done.
#[derive(Default)]
struct Stopper {
    steps: usize,
    parts: Vec<String>,
    plan: Option<pipeline::RunPlan>,
}

impl Observer for Stopper {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Training(pipeline::training::Event::Step { .. }) => self.steps += 1,
            Event::Plan(plan) => self.plan = Some(plan.clone()),
            Event::Progress { part, .. } if !self.parts.iter().any(|p| p == part) => {
                self.parts.push(part.to_owned());
            }
            _ => {}
        }
    }

    fn interrupted(&mut self) -> bool {
        self.steps > 0
    }
}

#[test]
fn an_observer_sees_every_part_and_stops_a_run() {
    let (model, clean) = (model(), images("clean"));
    let preprocessing = Preprocessing::preset("cifar10").unwrap();
    let job = Job { preprocessing, settings: short(0), ..Job::new(&model) }.with_images(&clean);
    let mut stopper = Stopper::default();
    let stopped = pipeline::purify(&job, &RunOptions::default(), &mut stopper);
    assert!(matches!(stopped, Err(Error::Interrupted)));
    assert_eq!(stopper.steps, 1);
    assert!(stopper.parts.iter().any(|p| p == "parity-original"), "{:?}", stopper.parts);
    let plan = stopper.plan.unwrap();
    let names: Vec<&str> = plan.parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["measure", "pool", "train"]);
    assert!(plan.parts.iter().all(|part| part.multiplications > 1_000_000));
    assert!(plan.seconds > 0.0 && plan.bytes > 10_000_000 && plan.epochs == [0, 1], "{plan:?}");
}

#[test]
fn wrong_requests_name_the_field() {
    let (model, clean) = (model(), images("clean"));
    let run = RunOptions::default();
    let said = |job: Job<'_>| match pipeline::purify(&job, &run, &mut ()).err() {
        Some(Error::Setting { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(said(Job::new(&model)), "images");
    assert_eq!(said(Job { holdout: Some(1.5), ..Job::new(&model).with_images(&clean) }), "holdout");
    let mut settings = short(0);
    settings.lr = f64::NAN;
    assert_eq!(said(Job { settings, ..Job::new(&model).with_images(&clean) }), "lr");
    let odd = Job::new(&model).with_images(&clean).with_triggered(&clean, "no such class");
    assert_eq!(said(odd), "target");
}

#[test]
fn arrays_serve_as_folders_do() {
    let (model, folder) = (model(), images("test"));
    let preprocessing = Preprocessing::preset("cifar10").unwrap();
    let target = preprocessing.target(3, Some([32, 32])).unwrap();
    let images = folder.load(&folder.classes(), &target).unwrap();
    let floats = images.pixels(&(0..images.len()).collect::<Vec<_>>());
    let arrays = Arrays::new("x", Pixels::F32(floats), images.shape, images.labels.clone()).unwrap();
    let measured = |job: Job<'_>| pipeline::evaluate(&job, &RunOptions::default(), &mut ()).unwrap().measures;
    let job =
        |preprocessing: &Preprocessing| Job { preprocessing: preprocessing.clone(), ..Job::new(&model) };
    let from_arrays = measured(job(&preprocessing).with_test(&arrays));
    assert_eq!(from_arrays, measured(job(&preprocessing).with_test(&folder)));
    assert!(from_arrays.acc.unwrap() > 99.0);
}
