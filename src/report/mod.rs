//! What was done, as plain data, and how it is said to people. Knows nothing of how it was done. Nothing here calls a
//! model safe or clean: what was not measured is `null`, and the summary says so.

mod scan;

use std::{collections::BTreeMap, fmt::Write as _};

use serde::{Deserialize, Serialize};

pub use scan::{Calibration, Scan};

use crate::{
    error::printable,
    memory::size,
    profile::Profile,
    train::{Suspicion, calibration},
    verify::evaluate::Aim,
};

/// Version of the reports' form. It grows when a key changes its meaning or goes; keys may be added without.
pub const SCHEMA: u32 = 1;
/// Points of ACC from which on the summary warns of the loss.
const MUCH: f64 = 15.0;

/// A file that was read or written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct File {
    /// Its path, as given.
    pub file: String,
    /// SHA-256 in hex.
    pub sha256: String,
    /// Length.
    pub bytes: u64,
}

/// ACC, ASR and RA in percent; None where not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Clean images answered right.
    pub acc: Option<f64>,
    /// Triggered images of other classes answered with the target.
    pub asr: Option<f64>,
    /// Triggered images of other classes answered with their true class.
    pub ra: Option<f64>,
}

/// Whether ASR was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AsrStatus {
    /// On triggered images.
    Measured,
    /// There were no triggered images.
    #[default]
    Unknown,
}

/// Where the labels of the clean images come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Labels {
    /// Class folders.
    #[default]
    Folders,
    /// The answers of the original model: the folder was flat.
    Model,
}

/// Which images ACC was measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccOn {
    /// Images of their own (`--test`).
    Test,
    /// The held-out part of the clean images.
    HeldOut,
}

/// The images used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// Clean images trained on.
    pub train: usize,
    /// Clean images held out.
    pub held_out: usize,
    /// Test images.
    pub test: usize,
    /// Triggered images whose true class is not the target.
    pub triggered: usize,
    /// C, H, W.
    pub shape: [usize; 3],
    /// Class names, in the order of the network's outputs. Empty where nothing names them.
    pub classes: Vec<String>,
}

/// Size and normalisation: input = (pixel - mean) / std, pixels in [0, 1].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Preprocessing {
    /// The preset these come from.
    pub preset: Option<String>,
    /// Per channel, or one for all.
    pub mean: Vec<f32>,
    /// Per channel, or one for all.
    pub std: Vec<f32>,
    /// How images of another size were brought to `data.shape`: `never`, `stretch`, `shorter-side`.
    pub resize: String,
}

/// What triggered images are to be answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The class's index; None where it is the class behind the true one.
    pub index: Option<u32>,
    /// Its name; `next`.
    pub name: String,
}

impl Target {
    /// Among so many classes.
    pub fn aim(&self, classes: usize) -> Aim {
        self.index.map_or(Aim::Next(classes as u32), Aim::Class)
    }
}

/// One pass over the training images; means over its steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// `warm-up` or `train`.
    pub phase: String,
    /// Counted from 1 within its phase.
    pub epoch: usize,
    /// The loss that is descended.
    pub loss: f64,
    /// The same in the epoch's first step.
    pub first_loss: f64,
    /// Each term before weighting, by its name.
    pub losses: BTreeMap<String, f64>,
    /// Images that the adversary brought to its target, in percent; None in the warm-up.
    pub reached: Option<f64>,
    /// Since the start of the training.
    pub seconds: f64,
}

/// The training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Train {
    /// Optimiser steps in all.
    pub steps: usize,
    /// By class: by how many spreads adversaries of equal strength come nearer to it than to the median class, in the original.
    /// From [`crate::train::calibration::STANDS_OUT`] on a class stands out. Not there where it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspicion: Option<Vec<f64>>,
    /// The same for each way of coming nearer: `values`, `added`, `bent`, `stamped`, `filtered`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub suspicion_ways: BTreeMap<String, Vec<f64>>,
    /// Of the images answered with their label, the share in percent that one small block scatters over several classes, where
    /// that is so much that there is a backdoor from all classes to all ([`crate::train::Suspicion::SCATTERS`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_to_all: Option<f64>,
    /// Principal components that the layer started from; None where it started otherwise.
    pub rank: Option<usize>,
    /// Wall-clock time.
    pub seconds: f64,
    /// Its parts: `start`, `aim`, `pool`, `steps`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Phase>,
    /// Each epoch.
    pub epochs: Vec<Epoch>,
}

/// The layer was mixed with the identity because it cost more accuracy on the held-out images than was allowed. In points
/// of ACC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// What a layer may cost (`--max-acc-drop`).
    pub limit: f64,
    /// What it cost as trained.
    pub lost: f64,
    /// Its share in the mixture that was written.
    pub share: f64,
    /// What that costs.
    pub lost_with_it: f64,
}

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// What the program was allowed to take while it trained.
    pub allowed: usize,
    /// What the tape of the clean images before the site takes, kept or not; 0 where none is needed.
    pub tape: usize,
    /// What of it was kept; 0 where it was computed again in each step.
    pub tape_kept: usize,
    /// The most that the whole program took until the report; None where the system does not say.
    pub peak: Option<usize>,
}

/// One comparison of two runtimes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Its stable name: `parity-original`, `parity-purified`.
    pub name: String,
    /// Images compared.
    pub images: usize,
    /// Largest difference, relative to an image's largest output; None where an output is not finite.
    pub max_difference: Option<f64>,
    /// Images answered differently.
    pub disagreements: usize,
}

/// What was checked about the written file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// Largest of all differences.
    pub max_difference: Option<f64>,
    /// What a difference may be.
    pub tolerance: f64,
    /// Each comparison.
    pub checks: Vec<Check>,
    /// `as declared`: the files differ by the inserted layer and nothing else. None where not compared.
    pub structure: Option<String>,
    /// True where tract's optimised form gets the original wrong, so that only its plain form was asked.
    pub optimised_distrusted: bool,
}

impl Verification {
    /// With `tolerance`, nothing checked yet.
    pub fn new(tolerance: f64) -> Self {
        Self { tolerance, ..Self::default() }
    }

    /// Adds a comparison.
    pub fn add(&mut self, name: &str, images: usize, max_difference: f64, disagreements: usize) {
        let max_difference = max_difference.is_finite().then_some(max_difference);
        self.checks.push(Check { name: name.to_owned(), images, max_difference, disagreements });
        let all: Option<Vec<f64>> = self.checks.iter().map(|c| c.max_difference).collect();
        self.max_difference = all.map(|d| d.into_iter().fold(0.0, f64::max));
    }
}

/// The machine and the program, for whoever wants to do it again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Name of a component, its version.
    pub versions: BTreeMap<String, String>,
    /// Which kernels ran: `portable`, `avx2`, `avx512`.
    pub cpu: String,
    /// Worker threads.
    pub threads: usize,
}

/// `polarizer purify`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Purify {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `purify`.
    pub command: String,
    /// The backdoored model.
    pub input: File,
    /// What was written.
    pub output: File,
    /// The edge the layer stands on, as `--site` takes it.
    pub site: String,
    /// Why there.
    pub site_reason: String,
    /// Size and normalisation.
    pub preprocessing: Preprocessing,
    /// The images used.
    pub data: Data,
    /// Where the labels come from.
    pub labels: Labels,
    /// What `before.acc` and `after.acc` were measured on; None where on nothing.
    pub acc_on: Option<AccOn>,
    /// The target class of the triggered images.
    pub target: Option<Target>,
    /// Every setting of the training.
    pub settings: serde_json::Value,
    /// The original.
    pub before: Measures,
    /// The purified file.
    pub after: Measures,
    /// Whether `asr` and `ra` were measured.
    pub asr_status: AsrStatus,
    /// Defense effectiveness rating in percent, where both ACC and ASR were measured.
    pub der: Option<f64>,
    /// The training.
    pub train: Train,
    /// Not there where the layer is as trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Memory allowed, kept and taken.
    #[serde(default)]
    pub memory: Memory,
    /// Where the time of the training went. Not there without `--profile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// What was checked.
    pub verification: Verification,
    /// Wall-clock time of the whole command.
    pub seconds: f64,
    /// Where it went, in the order of the command.
    #[serde(default)]
    pub phases: Vec<Phase>,
    /// Where the training ran: `cpu`, or `cuda:0 (the card's name)`.
    #[serde(default)]
    pub device: String,
    /// Machine and program.
    pub environment: Environment,
}

/// A part of a command's time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// What was done.
    pub name: String,
    /// Wall-clock time.
    pub seconds: f64,
}

/// `polarizer evaluate`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluate {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `evaluate`.
    pub command: String,
    /// The model.
    pub input: File,
    /// Size and normalisation.
    pub preprocessing: Preprocessing,
    /// The images used.
    pub data: Data,
    /// The target class of the triggered images.
    pub target: Option<Target>,
    /// ACC, ASR, RA.
    #[serde(flatten)]
    pub measures: Measures,
    /// Whether `asr` and `ra` were measured.
    pub asr_status: AsrStatus,
    /// Wall-clock time of the whole command.
    pub seconds: f64,
    /// Machine and program.
    pub environment: Environment,
}

impl Purify {
    /// The class that adversaries come nearest to, for people.
    fn suspect(&self, scores: &[f64]) -> String {
        let (mut class, mut most) = (0, f64::NEG_INFINITY);
        for (c, score) in scores.iter().enumerate() {
            if *score > most {
                (class, most) = (c, *score);
            }
        }
        if scores.len() < calibration::LEAST_CLASSES {
            return format!("{} classes are too few for one to stand out", scores.len());
        }
        if let Some(share) = self.train.all_to_all.filter(|_| most < Suspicion::STANDS_OUT) {
            return format!(
                "all to all: one small block scatters {share:.1} % of the answers over several classes"
            );
        }
        if most < Suspicion::STANDS_OUT {
            return format!("no class stands out; {class} the most, by {most:.1} spreads");
        }
        let name =
            self.data.classes.get(class).map(|name| format!(" {:?}", printable(name))).unwrap_or_default();
        format!("class {class}{name} lies {most:.1} spreads nearer to adversaries than the median class")
    }

    /// Points of ACC that the layer costs; None where it was not measured.
    fn accuracy_lost(&self) -> Option<f64> {
        Some(self.before.acc? - self.after.acc?)
    }

    /// The summary, a few aligned lines. It ends with what was and what was not shown.
    pub fn summary(&self) -> String {
        let mut out = String::new();
        line(&mut out, "model", &named(&self.input));
        line(&mut out, "purified", &named(&self.output));
        line(&mut out, "site", &format!("{} ({})", self.site, self.site_reason));
        let mut data = format!("{} clean images trained on", grouped(self.data.train));
        if self.data.held_out > 0 {
            let _ = write!(data, ", {} held out", grouped(self.data.held_out));
        }
        if self.labels == Labels::Model {
            data.push_str("; no labels: the model's own answers stood in");
        }
        line(&mut out, "data", &data);
        let train = &self.train;
        let mut trained = format!("{} epochs, {} steps", train.epochs.len(), grouped(train.steps));
        if let Some(precision) = self.settings["precision"].as_str().filter(|p| *p != "f32") {
            let _ = write!(trained, " in {precision}");
        }
        if self.device.starts_with("cuda") {
            let _ = write!(trained, " on {}", self.device);
        }
        line(&mut out, "training", &format!("{trained}, {}", time(train.seconds)));
        if let Some(scores) = &self.train.suspicion {
            line(&mut out, "suspect", &self.suspect(scores));
        }
        if let Some(g) = &self.guard {
            let (share, lost) = (100.0 * g.share, g.lost);
            let why = format!("{lost:.1} points of held-out ACC were lost, more than {}", g.limit);
            line(
                &mut out,
                "guard",
                &format!("{why}: {share:.0} % of the layer, the rest identity; now {:.1}", g.lost_with_it),
            );
        }
        if self.settings["max_acc_drop"].is_number() && self.data.held_out == 0 {
            line(&mut out, "guard", "off: no images with labels are held out");
        }
        if let Some(peak) = self.memory.peak {
            let kept = match self.memory {
                Memory { tape: 0, .. } => "",
                Memory { tape_kept: 0, .. } => "; the clean images' tape was not kept",
                _ => "; the clean images' tape was kept",
            };
            line(&mut out, "memory", &format!("{} at the most{kept}", size(peak)));
        }
        let on = match self.acc_on {
            Some(AccOn::Test) => format!("{} test images", grouped(self.data.test)),
            Some(AccOn::HeldOut) => format!("{} held-out images", grouped(self.data.held_out)),
            None => String::new(),
        };
        let triggered = self.target.as_ref().map(|t| attacked(self.data.triggered, t)).unwrap_or_default();
        let (b, a) = (self.before, self.after);
        let _ = writeln!(out, "            before    after");
        for (name, before, after, on) in
            [("ACC", b.acc, a.acc, &on), ("ASR", b.asr, a.asr, &triggered), ("RA", b.ra, a.ra, &triggered)]
        {
            if before.is_some() || after.is_some() {
                let _ = writeln!(out, "{name:<11}{} {} %  {on}", percent(before), percent(after));
            }
        }
        if b.acc.is_none() && a.acc.is_none() {
            let _ = writeln!(out, "ACC        not measured: nothing held out, no --test");
        }
        if let Some(lost) = self.accuracy_lost().filter(|lost| *lost >= MUCH) {
            let _ = writeln!(
                out,
                "warning    {lost:.1} points of accuracy are lost: this network is spoilt for most uses"
            );
        }
        let v = &self.verification;
        let images = v.checks.iter().map(|c| c.images).max().unwrap_or(0);
        let difference = v.max_difference.map_or("not finite".to_owned(), |d| format!("{d:.1e}"));
        let checked =
            format!("candle and tract differ by at most {difference} on {} images", grouped(images));
        line(&mut out, "checks", &checked);
        line(&mut out, "time", &time(self.seconds));
        out.push_str(match self.asr_status {
            AsrStatus::Measured => "rewrite verified; backdoor removal measured on the given trigger only\n",
            AsrStatus::Unknown => "rewrite verified; backdoor removal NOT measured\n",
        });
        out
    }
}

impl Evaluate {
    /// The summary, a few aligned lines.
    pub fn summary(&self) -> String {
        let mut out = String::new();
        line(&mut out, "model", &named(&self.input));
        let m = self.measures;
        if let Some(acc) = m.acc {
            line(&mut out, "ACC", &format!("{acc:6.2} %  {} test images", grouped(self.data.test)));
        }
        if let (Some(asr), Some(ra), Some(target)) = (m.asr, m.ra, &self.target) {
            let on = attacked(self.data.triggered, target);
            line(&mut out, "ASR", &format!("{asr:6.2} %  {on}"));
            line(&mut out, "RA", &format!("{ra:6.2} %  {on}"));
        } else {
            line(&mut out, "ASR", "not measured: no triggered images");
        }
        line(&mut out, "time", &time(self.seconds));
        out
    }
}

fn line(out: &mut String, name: &str, text: &str) {
    let _ = writeln!(out, "{name:<11}{text}");
}

fn named(file: &File) -> String {
    format!("{}  (sha256 {}...)", file.file, file.sha256.get(..16).unwrap_or_default())
}

fn attacked(images: usize, target: &Target) -> String {
    let images = grouped(images);
    match target.index {
        Some(index) => format!("{images} triggered images, target {index} \"{}\"", target.name),
        None => format!("{images} triggered images, target the class behind the true one"),
    }
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| format!("{:>7}", "-"), |v| format!("{v:7.2}"))
}

/// 1234567 as `1,234,567`.
pub fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Seconds as `4.2 s` or `3 min 05 s`.
pub fn time(seconds: f64) -> String {
    if seconds < 99.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    if whole < 3600 {
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        format!("{} h {:02} min", whole / 3600, whole % 3600 / 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Purify {
        let mut verification = Verification::new(1e-4);
        verification.add("parity-original", 256, 2e-7, 0);
        verification.add("parity-purified", 256, 3e-6, 0);
        Purify {
            schema: SCHEMA,
            command: "purify".into(),
            data: Data { train: 2_000, held_out: 500, ..Data::default() },
            acc_on: Some(AccOn::HeldOut),
            before: Measures { acc: Some(85.05), ..Measures::default() },
            after: Measures { acc: Some(84.2), ..Measures::default() },
            verification,
            ..Purify::default()
        }
    }

    #[test]
    fn without_triggered_images_nothing_claims_removal() {
        let r = report();
        let json = serde_json::to_value(&r).unwrap();
        assert_eq!(json["asr_status"], "unknown");
        assert!(json["before"]["asr"].is_null() && json["after"]["ra"].is_null());
        assert_eq!(json["verification"]["max_difference"], 3e-6);
        let text = r.summary();
        assert!(text.ends_with("rewrite verified; backdoor removal NOT measured\n"), "{text}");
        assert!(!text.contains("safe") && !text.contains("clean model"), "{text}");
    }

    #[test]
    fn a_report_survives_json() {
        let r = report();
        assert_eq!(serde_json::from_str::<Purify>(&serde_json::to_string(&r).unwrap()).unwrap(), r);
        let e =
            Evaluate { measures: Measures { acc: Some(1.0), ..Measures::default() }, ..Evaluate::default() };
        let json = serde_json::to_value(&e).unwrap();
        assert_eq!((json["acc"].as_f64(), json["asr"].is_null()), (Some(1.0), true));
    }

    #[test]
    fn a_difference_that_is_not_finite_is_null() {
        let mut v = Verification::new(1e-4);
        v.add("parity-original", 1, f64::INFINITY, 0);
        v.add("parity-purified", 1, 0.0, 0);
        assert_eq!(v.max_difference, None);
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([4.24, 185.0, 3_660.0].map(time), ["4.2 s", "3 min 05 s", "1 h 01 min"]);
    }
}
