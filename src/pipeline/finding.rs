//! Findings of a run as data: rule, severity, subject, measured value and threshold.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For information.
    Note,
    /// Should be reviewed.
    Warning,
    /// A gate that failed: the command ends with exit code 1.
    Error,
}

/// The rules that produce findings. Names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Rule {
    /// A class has a high robust z-score, which makes a backdoor likely.
    ClassStandsOut,
    /// One small block moves images from their classes to several others: an all-to-all backdoor.
    AllToAll,
    /// There are too few classes for robust z-scores.
    TooFewClasses,
    /// The scores cannot be compared with those of the clean reference networks.
    NotCalibrated,
    /// The highest score is above the given limit.
    MaxScore,
    /// The layer cost too much accuracy and was mixed with the identity.
    LayerMixed,
    /// No images are held out, so the layer's cost in accuracy is not limited.
    GuardOff,
    /// A large drop in accuracy.
    AccuracyLost,
    /// There are no triggered images to measure the removal.
    RemovalNotMeasured,
    /// No normalisation was given, and without labels a missing one cannot be detected.
    NormalisationNotStated,
    /// Another preprocessing fits the model better.
    PreprocessingDoubtful,
    /// Another source states the preprocessing differently than the one that is believed.
    PreprocessingContradicted,
    /// Another order of the classes fits the model better.
    ClassOrder,
    /// Many images have several highest scores.
    ScoresTied,
    /// What was made of a source of images, or files of it that were passed over.
    ImagesNoted,
    /// Images were left out because they are damaged.
    ImagesSkipped,
    /// Some way from the input to the scores does not lead through the layer.
    SitePassedBy,
    /// bfloat16 was requested, but the CPU emulates it.
    Bf16Emulated,
    /// The judge's optimised form is wrong for the original, so only its plain form was used.
    OptimisedDistrusted,
    /// No second runtime was asked.
    NotVerified,
    /// A second runtime was given a copy of the file that it can read.
    JudgedACopy,
    /// Operators without a GPU kernel ran on the CPU.
    RanOnProcessor,
    /// The tape does not fit in memory and is recomputed in each step.
    TapeNotKept,
}

impl Rule {
    /// Name in reports and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClassStandsOut => "class-stands-out",
            Self::AllToAll => "all-to-all",
            Self::TooFewClasses => "too-few-classes",
            Self::NotCalibrated => "not-calibrated",
            Self::MaxScore => "max-score",
            Self::LayerMixed => "layer-mixed",
            Self::GuardOff => "guard-off",
            Self::AccuracyLost => "accuracy-lost",
            Self::RemovalNotMeasured => "removal-not-measured",
            Self::NormalisationNotStated => "normalisation-not-stated",
            Self::PreprocessingDoubtful => "preprocessing-doubtful",
            Self::PreprocessingContradicted => "preprocessing-contradicted",
            Self::ClassOrder => "class-order",
            Self::ScoresTied => "scores-tied",
            Self::ImagesNoted => "images-noted",
            Self::ImagesSkipped => "images-skipped",
            Self::SitePassedBy => "site-passed-by",
            Self::Bf16Emulated => "bf16-emulated",
            Self::OptimisedDistrusted => "optimised-distrusted",
            Self::NotVerified => "not-verified",
            Self::JudgedACopy => "judged-a-copy",
            Self::RanOnProcessor => "ran-on-processor",
            Self::TapeNotKept => "tape-not-kept",
        }
    }
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Its rule.
    pub rule: Rule,
    /// Its severity.
    pub severity: Severity,
    /// Its subject: `class 3 "disc"`, `the layer`, a node.
    pub subject: String,
    /// Measured value in the rule's unit; None if there is none.
    pub value: Option<f64>,
    /// The threshold for `value`.
    pub threshold: Option<f64>,
    /// The finding as a sentence.
    pub message: String,
}

impl Finding {
    /// A finding without numbers.
    pub fn new(
        rule: Rule,
        severity: Severity,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            rule,
            severity,
            subject: subject.into(),
            value: None,
            threshold: None,
            message: message.into(),
        }
    }

    /// Adds the measured value and its threshold.
    pub fn measured(self, value: f64, threshold: f64) -> Self {
        Self { value: Some(value), threshold: Some(threshold), ..self }
    }
}

/// The first finding of this rule.
pub fn of(findings: &[Finding], rule: Rule) -> Option<&Finding> {
    findings.iter().find(|f| f.rule == rule)
}

/// # Errors
/// [`Error::Check`] for the first gate that failed.
pub fn require_gates(findings: &[Finding]) -> Result<()> {
    match findings.iter().find(|f| f.severity == Severity::Error) {
        Some(finding) => Err(Error::check(finding.rule.name(), &finding.message)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_named_in_json_as_in_messages() {
        let all = [Rule::ClassStandsOut, Rule::AllToAll, Rule::Bf16Emulated, Rule::RemovalNotMeasured];
        for rule in all {
            assert_eq!(serde_json::to_value(rule).unwrap(), rule.name());
        }
    }

    #[test]
    fn a_gate_that_does_not_hold_is_an_error() {
        let note = Finding::new(Rule::GuardOff, Severity::Note, "the layer", "nothing held out");
        let gate = Finding::new(Rule::MaxScore, Severity::Error, "class 1", "too near").measured(5.0, 4.0);
        assert!(require_gates(&[note.clone()]).is_ok());
        let e = require_gates(&[note, gate]).unwrap_err();
        assert_eq!((e.exit_code(), e.to_string()), (1, "check failed: max-score: too near".to_owned()));
    }
}
