//! Results of the pipeline as plain data, from which reports are rendered. Nothing here calls a model safe or clean;
//! values that were not measured are None.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Finding;
use crate::{
    data,
    error::printable,
    graph,
    profile::Profile,
    scan::calibration,
    verify::{self, evaluate::Aim},
};

/// Version of the report format. It increases when a key is removed or changes its meaning, not when keys are added.
pub const SCHEMA: u32 = 1;
/// A file that was read or written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct File {
    /// Its path, as given.
    pub file: String,
    /// SHA-256 in hex.
    pub sha256: String,
    /// Length in bytes.
    pub bytes: u64,
}

/// The output whose values were taken for the scores of the classes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scores {
    /// Its name in the file.
    pub output: String,
    /// Why it is that one; empty for the only output.
    pub why: String,
    /// `probability` or `logit` of the second of two classes, where the file has one number for an image; else None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub single: Option<String>,
}

impl Scores {
    /// What there is to say of it; None for an only output with a score for each class.
    pub fn said(&self) -> Option<String> {
        let single = self.single.as_ref().map(|form| format!("the {form} of the second of two classes"));
        let said: Vec<&str> = [Some(self.why.as_str()), single.as_deref()].into_iter().flatten().collect();
        let said: Vec<&str> = said.into_iter().filter(|text| !text.is_empty()).collect();
        (!said.is_empty()).then(|| format!("output {} ({})", printable(&self.output), said.join("; ")))
    }
}

impl From<&graph::Scores> for Scores {
    fn from(scores: &graph::Scores) -> Self {
        let single = match scores.form {
            graph::ScoreForm::EachClass => None,
            graph::ScoreForm::Probability => Some("probability".to_owned()),
            graph::ScoreForm::Logit => Some("logit".to_owned()),
        };
        Self { output: scores.name.clone(), why: scores.why.clone(), single }
    }
}

/// ACC, ASR and RA in percent; None where not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Clean images classified correctly.
    pub acc: Option<f64>,
    /// Triggered images of other classes classified as the target.
    pub asr: Option<f64>,
    /// Triggered images of other classes classified as their true class.
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
    /// Predictions of the original model: the images are unlabelled.
    Model,
}

/// Which images ACC was measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccOn {
    /// Separate test images.
    Test,
    /// The held-out part of the clean images.
    HeldOut,
}

/// The images used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataSummary {
    /// Number of clean images for training.
    pub train: usize,
    /// Clean images held out.
    pub held_out: usize,
    /// Test images.
    pub test: usize,
    /// Triggered images whose true class is not the target.
    pub triggered: usize,
    /// C, H, W.
    pub shape: [usize; 3],
    /// Class names in the order of the model's outputs; empty if unknown.
    pub classes: Vec<String>,
}

/// Preprocessing: input = ((pixel - mean) / std) mapped to the range, pixels in the 0-1 scale.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Preprocessing {
    /// The preset that these values come from.
    pub preset: Option<String>,
    /// Per channel, or one for all.
    pub mean: Vec<f32>,
    /// Per channel, or one for all.
    pub std: Vec<f32>,
    /// How images were resized to `data.shape`: `none`, `stretch`, `shortest-edge:256`.
    pub resize: String,
    /// Every part in the order in which they are applied.
    #[serde(default)]
    pub parts: Vec<PreprocessingPart>,
}

/// A part of the preprocessing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreprocessingPart {
    /// Its field: `interpolation`.
    pub name: String,
    /// Its value as text: `bicubic`.
    pub value: String,
    /// Where it comes from: `default`, `given`, `preset imagenet`, a file.
    pub origin: String,
}

impl From<&data::Preprocessing> for Preprocessing {
    fn from(p: &data::Preprocessing) -> Self {
        let parts = p.parts().map(|(piece, value, origin)| PreprocessingPart {
            name: piece.name.to_owned(),
            value,
            origin: origin.to_string(),
        });
        let parts: Vec<_> = parts.collect();
        let resize = parts.iter().find(|part| part.name == "resize").map(|part| part.value.clone());
        Self {
            preset: p.preset.map(str::to_owned),
            mean: p.mean.clone(),
            std: p.std.clone(),
            resize: resize.unwrap_or_default(),
            parts,
        }
    }
}

/// Target of the trigger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Index of the class; None for the class after the true one (all to all).
    pub index: Option<u32>,
    /// Name of the class, or `next`.
    pub name: String,
}

impl Target {
    /// The target among `classes` classes.
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
    /// Mean total loss.
    pub loss: f64,
    /// Total loss of the epoch's first step.
    pub first_loss: f64,
    /// Unweighted loss terms by name.
    pub losses: BTreeMap<String, f64>,
    /// Images that the adversary moved to its target, in percent; None in the warm-up.
    pub reached: Option<f64>,
    /// Wall-clock seconds of this epoch.
    pub seconds: f64,
}

/// The training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Train {
    /// Optimiser steps in all.
    pub steps: usize,
    /// By class, in the original: robust z-score of how near adversaries of equal strength come to it.
    /// A class stands out from [`STANDS_OUT`](super::scanning::STANDS_OUT) on. Absent if not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspicion: Option<Vec<f64>>,
    /// The same for each way of coming nearer, by its name ([`crate::pipeline::scanning::WAYS`]).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub suspicion_ways: BTreeMap<String, Vec<f64>>,
    /// Share of correctly classified images that one small block scatters over several classes, in percent. Absent
    /// below [`ScanOutcome::scatters_from`], from which an all-to-all backdoor is assumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_to_all: Option<f64>,
    /// Number of principal components of the initial layer; None for other starts.
    pub rank: Option<usize>,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Its stages: `start`, `aim`, `pool`, `steps`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Timing>,
    /// Each epoch.
    pub epochs: Vec<Epoch>,
}

/// Mixing of the layer with the identity, because it cost more accuracy on held-out images than allowed. In points of
/// ACC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GuardOutcome {
    /// Maximum allowed cost (`max_acc_drop`).
    pub limit: f64,
    /// Cost of the layer as trained.
    pub lost: f64,
    /// Share of the layer in the written mixture, in [0, 1].
    pub share: f64,
    /// Cost of the mixture.
    pub lost_with_it: f64,
}

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Memory limit of the training.
    pub allowed: usize,
    /// Size of the clean images' tape before the site, kept or not; 0 if none is needed.
    pub tape: usize,
    /// Size of the part kept in memory; 0 if it was recomputed in each step.
    pub tape_kept: usize,
    /// Peak memory of the process; None if unknown.
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
    /// Largest difference, relative to an image's largest output; None if an output is not finite.
    pub max_difference: Option<f64>,
    /// Images with different predictions.
    pub disagreements: usize,
    /// The most that an image was allowed to differ.
    #[serde(default)]
    pub allowed: f64,
}

/// How it was shown that two runtimes compute the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProofForm {
    /// Their outputs agree.
    #[default]
    Outputs,
    /// Rounding makes too much of the outputs: parts of the network agree, each from the same values.
    Pieces,
}

/// What rounding makes of the network in the second runtime: the distance of an image's outputs from those of inputs
/// moved by one unit in the last place, and from those of the runtime's other form, as a median; relative as
/// `max_difference`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rounding {
    /// Images measured.
    pub images: usize,
    /// Median over these images.
    pub median: f64,
}

/// A part of the network on which the runtimes agree.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    /// The check that it belongs to.
    pub check: String,
    /// The value that it starts from.
    pub from: String,
    /// The value that it ends with.
    pub to: String,
    /// Images compared.
    pub images: usize,
    /// Largest difference, relative to the value's largest entry.
    pub max_difference: f64,
    /// The most that an image was allowed to differ.
    pub allowed: f64,
}

/// Checks of the written file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// Largest difference of all checks.
    pub max_difference: Option<f64>,
    /// What any image may differ by. More is allowed where rounding makes more of an image: ten times that, and 1e-2 at
    /// most; see `checks`.
    pub tolerance: f64,
    /// What rounding makes of the network, the largest of the checks; None if it was not measured.
    #[serde(default)]
    pub rounding: Option<Rounding>,
    /// What the agreement rests on.
    #[serde(default)]
    pub proof: ProofForm,
    /// The parts, if it rests on them.
    #[serde(default)]
    pub pieces: Vec<Piece>,
    /// Each comparison.
    pub checks: Vec<Check>,
    /// `as declared`: the files differ only by the declared layer. None if not compared.
    pub structure: Option<String>,
    /// The runtimes that judged; empty: nothing was verified but the bytes.
    #[serde(default)]
    pub judges: Vec<String>,
    /// Why tract was not among them, if it cannot read a file.
    #[serde(default)]
    pub unread: Option<String>,
    /// What was changed in the copies that the second runtime was given, since it cannot read the files themselves; the
    /// comparison of the bytes is of the files.
    #[serde(default)]
    pub rewritten: Vec<String>,
    /// True if tract's optimised form is wrong for the original, so that only its plain form was used.
    pub optimised_distrusted: bool,
    /// Why tract's optimised form of one of the files could not be built or run, so that only its plain form judged.
    #[serde(default)]
    pub optimised_failed: Option<String>,
    /// The outputs beside the scores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_outputs: Vec<OtherOutput>,
}

/// An output beside the scores: of the written file, compared with what it should be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OtherOutput {
    /// Its name in the file.
    pub output: String,
    /// Images compared.
    pub images: usize,
    /// Largest difference, relative as in [`Check`].
    pub max_difference: Option<f64>,
    /// Why it was not compared, only found in the file as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_compared: Option<String>,
}

impl Verification {
    /// No checks yet, with `tolerance`.
    pub fn new(tolerance: f64) -> Self {
        Self { tolerance, ..Self::default() }
    }

    /// Whether a second runtime judged.
    pub fn is_verified(&self) -> bool {
        !self.judges.is_empty()
    }

    /// Whether some image was allowed to differ by more than the tolerance, for what rounding makes of it.
    pub fn allows_more(&self) -> bool {
        self.checks.iter().any(|check| check.allowed > self.tolerance)
    }

    /// What there is to say of the optimised form, where the plain one judged alone.
    pub fn without_optimised(&self) -> Option<String> {
        if self.optimised_distrusted {
            return Some("tract's optimised form is wrong for the original and was not used".to_owned());
        }
        self.optimised_failed.as_ref()?;
        Some("tract's optimised form cannot be built or run: its plain form judged alone".to_owned())
    }

    /// Adds a comparison.
    pub(super) fn add(&mut self, name: &str, parity: &verify::Parity, rounding: &verify::rounding::Rounding) {
        let max_difference = parity.max_difference.is_finite().then_some(parity.max_difference);
        let verify::Parity { images, disagreements, allowed, .. } = *parity;
        self.checks.push(Check { name: name.to_owned(), images, max_difference, disagreements, allowed });
        let all: Option<Vec<f64>> = self.checks.iter().map(|c| c.max_difference).collect();
        self.max_difference = all.map(|d| d.into_iter().fold(0.0, f64::max));
        let known = self.rounding.map_or(-1.0, |known| known.median);
        if rounding.images() > 0 && rounding.median() > known {
            self.rounding = Some(Rounding { images: rounding.images(), median: rounding.median() });
        }
    }

    /// Adds parts on which the runtimes agree.
    pub(super) fn add_pieces(&mut self, check: &str, images: usize, pieces: Vec<verify::pieces::Piece>) {
        self.proof = ProofForm::Pieces;
        let piece = |piece: verify::pieces::Piece| Piece {
            check: check.to_owned(),
            from: piece.from,
            to: piece.to,
            images,
            max_difference: piece.difference,
            allowed: piece.allowed,
        };
        self.pieces.extend(pieces.into_iter().map(piece));
    }
}

/// Machine and program versions, for reproduction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Versions by component.
    pub versions: BTreeMap<String, String>,
    /// CPU kernels used: `portable`, `avx2`, `avx512`.
    pub cpu: String,
    /// Worker threads.
    pub threads: usize,
}

/// Result of a purification.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Purification {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `purify`.
    pub command: String,
    /// The original model.
    pub input: File,
    /// The written file.
    pub output: File,
    /// The output with the scores.
    #[serde(default)]
    pub model_output: Scores,
    /// Site of the layer, in the notation of a job's `site`.
    pub site: String,
    /// Reason for the site.
    pub site_reason: String,
    /// Size and normalisation.
    pub preprocessing: Preprocessing,
    /// The images used.
    pub data: DataSummary,
    /// Origin of the labels.
    pub labels: Labels,
    /// Images on which `before.acc` and `after.acc` were measured; None if not measured.
    pub acc_on: Option<AccOn>,
    /// The target class of the triggered images.
    pub target: Option<Target>,
    /// All settings of the training.
    pub settings: serde_json::Value,
    /// Measures of the original.
    pub before: Measures,
    /// Measures of the purified file.
    pub after: Measures,
    /// Whether `asr` and `ra` were measured.
    pub asr_status: AsrStatus,
    /// Defense effectiveness rating in percent; None unless ACC and ASR were measured.
    pub der: Option<f64>,
    /// The training.
    pub train: Train,
    /// Absent if the layer was written as trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<GuardOutcome>,
    /// Memory use.
    #[serde(default)]
    pub memory: Memory,
    /// Nodes that ran on the CPU in a training on a GPU, for lack of a GPU kernel. Absent if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_processor: Vec<Node>,
    /// Time profile of the training; absent unless requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// Checks.
    pub verification: Verification,
    /// Wall-clock seconds of the whole run.
    pub seconds: f64,
    /// Wall-clock seconds of its phases, in order.
    #[serde(default)]
    pub phases: Vec<Timing>,
    /// Device of the training: `cpu`, or `cuda:0 (name of the GPU)`.
    #[serde(default)]
    pub device: String,
    /// Machine and program.
    pub environment: Environment,
    /// What is to be known of it.
    #[serde(default)]
    pub findings: Vec<Finding>,
}

/// Time of one part of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Name of the part.
    pub name: String,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// Result of an evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `evaluate`.
    pub command: String,
    /// The model.
    pub input: File,
    /// The output with the scores.
    #[serde(default)]
    pub model_output: Scores,
    /// Size and normalisation.
    pub preprocessing: Preprocessing,
    /// The images used.
    pub data: DataSummary,
    /// The target class of the triggered images.
    pub target: Option<Target>,
    /// ACC, ASR, RA.
    #[serde(flatten)]
    pub measures: Measures,
    /// Whether `asr` and `ra` were measured.
    pub asr_status: AsrStatus,
    /// The runtime that answered: `tract`, `onnxruntime`; `none`: this crate's own executor.
    #[serde(default)]
    pub judge: String,
    /// Wall-clock time of the whole command.
    pub seconds: f64,
    /// Machine and program.
    pub environment: Environment,
    /// Findings.
    #[serde(default)]
    pub findings: Vec<Finding>,
}

/// Result of a scan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScanOutcome {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `scan`.
    pub command: String,
    /// The model.
    pub input: File,
    /// The output with the scores.
    #[serde(default)]
    pub model_output: Scores,
    /// Site of the value that the way `values` changes.
    pub site: String,
    /// Size and normalisation.
    pub preprocessing: Preprocessing,
    /// Where the labels come from.
    pub labels: Labels,
    /// The images used.
    pub data: DataSummary,
    /// Accuracy on these images, in percent.
    pub acc: f64,
    /// By class: its highest robust z-score by any way.
    pub scores: Vec<f64>,
    /// The same for each way, by its name ([`crate::pipeline::scanning::WAYS`]).
    pub ways: BTreeMap<String, Vec<f64>>,
    /// Classes with a score of [`STANDS_OUT`](super::scanning::STANDS_OUT) or more, highest first; empty with fewer
    /// than [`LEAST_CLASSES`](super::scanning::LEAST_CLASSES) classes.
    pub stands_out: Vec<usize>,
    /// Score from which a class stands out.
    #[serde(default)]
    pub stands_out_from: f64,
    /// Share of correctly classified images, in percent, that the most effective small block moves to other classes,
    /// without the class that most of them move to.
    #[serde(default)]
    pub scattered: f64,
    /// Whether `scattered` is at least `scatters_from`, which indicates an all-to-all backdoor. Always false with
    /// fewer than [`LEAST_CLASSES`](super::scanning::LEAST_CLASSES) classes.
    #[serde(default)]
    pub all_to_all: bool,
    /// Threshold of `scattered`, in percent.
    #[serde(default)]
    pub scatters_from: f64,
    /// Comparison with networks without a backdoor.
    pub calibration: Calibration,
    /// Why the scores cannot be compared with networks without a backdoor. Absent if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_calibrated: Option<String>,
    /// What was checked.
    pub verification: Verification,
    /// Wall-clock time of the whole command.
    pub seconds: f64,
    /// Device of the scan: `cpu`, or `cuda:N (name of the GPU)`.
    pub device: String,
    /// Machine and program.
    pub environment: Environment,
    /// What is to be known of it.
    #[serde(default)]
    pub findings: Vec<Finding>,
}

/// Comparison of the highest score with those of networks without a backdoor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Number of reference networks without a backdoor; 0 with too few classes or if [`ScanOutcome::not_calibrated`].
    pub networks: usize,
    /// Number of these whose highest score is at least this high.
    pub as_high: usize,
    /// Upper bound of their share, in percent, with 95 % confidence.
    pub at_most: f64,
}

impl Calibration {
    /// The comparison of `score`.
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
        let parity = |max_difference| verify::Parity { images: 1, max_difference, ..Default::default() };
        v.add("parity-original", &parity(f64::INFINITY), &verify::rounding::Rounding::default());
        v.add("parity-purified", &parity(0.0), &verify::rounding::Rounding::default());
        assert_eq!(v.max_difference, None);
    }

    #[test]
    fn a_higher_score_than_any_before_is_still_no_proof() {
        let Calibration { networks, as_high, at_most } = Calibration::of(100.0);
        assert!(networks >= 12 && as_high == 0 && (10.0..30.0).contains(&at_most), "{at_most}");
        assert_eq!(Calibration::of(0.0).as_high, networks);
    }
}
