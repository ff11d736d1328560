//! What the pipeline did and found, as plain data: what reports are rendered from. Nothing here calls a model safe or clean:
//! what was not measured is None.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Finding;
use crate::{data, profile::Profile, scan::calibration, verify::evaluate::Aim};

/// Version of the reports' form. It grows when a key changes its meaning or goes; keys may be added without.
pub const SCHEMA: u32 = 1;
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

impl From<&data::Preprocessing> for Preprocessing {
    fn from(p: &data::Preprocessing) -> Self {
        Self {
            preset: p.preset.map(str::to_owned),
            mean: p.mean.clone(),
            std: p.std.clone(),
            resize: p.resize.name().to_owned(),
        }
    }
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
    /// Wall-clock time of this epoch alone.
    pub seconds: f64,
}

/// The training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Train {
    /// Optimiser steps in all.
    pub steps: usize,
    /// By class, in the original: robust z-score of how near adversaries of equal strength come to it.
    /// From [`STANDS_OUT`](super::scanning::STANDS_OUT) on a class stands out. Not there where it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspicion: Option<Vec<f64>>,
    /// The same for each way of coming nearer, by its name ([`crate::pipeline::scanning::WAYS`]).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub suspicion_ways: BTreeMap<String, Vec<f64>>,
    /// Of the images answered with their label, the share in percent that one small block scatters over several classes, where
    /// that is so much that there is a backdoor from all classes to all ([`ScanOutcome::scatters_from`]).
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

/// A node of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its operator.
    pub operator: String,
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
pub struct Purification {
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
    /// Nodes that ran on the processor although the training ran on a GPU, which has no kernels for their operators. Not
    /// there where all ran on the device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_processor: Vec<Node>,
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
    /// What is to be known of it.
    #[serde(default)]
    pub findings: Vec<Finding>,
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
pub struct Evaluation {
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

/// `polarizer scan`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScanOutcome {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `scan`.
    pub command: String,
    /// The model.
    pub input: File,
    /// The value whose change is one of the ways.
    pub site: String,
    /// Size and normalisation.
    pub preprocessing: Preprocessing,
    /// Where the labels come from.
    pub labels: Labels,
    /// The images used.
    pub data: Data,
    /// Of these images, the share answered with their label, in percent.
    pub acc: f64,
    /// By class: its highest robust z-score by any way.
    pub scores: Vec<f64>,
    /// The same for each way, by its name ([`crate::pipeline::scanning::WAYS`]).
    pub ways: BTreeMap<String, Vec<f64>>,
    /// Classes whose score is [`STANDS_OUT`](super::scanning::STANDS_OUT) or more, the highest first; none where there are fewer than
    /// [`LEAST_CLASSES`](super::scanning::LEAST_CLASSES).
    pub stands_out: Vec<usize>,
    /// The score from which on a class stands out.
    #[serde(default)]
    pub stands_out_from: f64,
    /// Of the images answered with their label, the share in percent that one small block takes to other classes, without the
    /// class that most of them go to; the block for which that is most.
    #[serde(default)]
    pub scattered: f64,
    /// Whether that is [`ScanOutcome::scatters_from`] or more: a backdoor from all classes to all. With
    /// fewer than [`LEAST_CLASSES`](super::scanning::LEAST_CLASSES) classes never.
    #[serde(default)]
    pub all_to_all: bool,
    /// The share in percent from which on `scattered` means that.
    #[serde(default)]
    pub scatters_from: f64,
    /// How networks without a backdoor did.
    pub calibration: Calibration,
    /// Why the scores cannot be held against those of networks without a backdoor. Not there where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_calibrated: Option<String>,
    /// What was checked.
    pub verification: Verification,
    /// Wall-clock time of the whole command.
    pub seconds: f64,
    /// What it ran on: `cpu`, or `cuda:N` and the GPU's name.
    pub device: String,
    /// Machine and program.
    pub environment: Environment,
    /// What is to be known of it.
    #[serde(default)]
    pub findings: Vec<Finding>,
}

/// The highest score held against those of networks without a backdoor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Networks without a backdoor; 0 where these scores are held against none: too few classes, or
    /// [`ScanOutcome::not_calibrated`].
    pub networks: usize,
    /// Of these, those whose highest score was as high as this one, or higher.
    pub as_high: usize,
    /// The share of such networks is at most this, in percent, with 95 % confidence.
    pub at_most: f64,
}

impl Calibration {
    /// For this score.
    pub fn of(score: f64) -> Self {
        let table = calibration::Calibration::table();
        let (networks, as_high) = table.map_or((0, 0), |table| table.as_high(score));
        Self { networks, as_high, at_most: 100.0 * calibration::upper_bound(as_high, networks) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_json() {
        let p = Purification {
            before: Measures { acc: Some(85.05), ..Measures::default() },
            acc_on: Some(AccOn::HeldOut),
            ..Purification::default()
        };
        assert_eq!(serde_json::from_str::<Purification>(&serde_json::to_string(&p).unwrap()).unwrap(), p);
    }

    #[test]
    fn a_difference_that_is_not_finite_is_null() {
        let mut v = Verification::new(1e-4);
        v.add("parity-original", 1, f64::INFINITY, 0);
        v.add("parity-purified", 1, 0.0, 0);
        assert_eq!(v.max_difference, None);
    }

    #[test]
    fn a_higher_score_than_any_before_is_still_no_proof() {
        let Calibration { networks, as_high, at_most } = Calibration::of(100.0);
        assert!(networks >= 12 && as_high == 0 && (10.0..30.0).contains(&at_most), "{at_most}");
        assert_eq!(Calibration::of(0.0).as_high, networks);
    }
}
