//! What a run found, as data: the rule that it broke or met, about what, by how much.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For the record.
    Note,
    /// To be looked at.
    Warning,
    /// A gate that did not hold: the command ends with exit code 1.
    Error,
}

/// What can be found. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Rule {
    /// A class lies so much nearer than the others that a backdoor is likely.
    ClassStandsOut,
    /// One small block takes the images from their classes to several others: a backdoor from all classes to all.
    AllToAll,
    /// The measure of how near classes lie means nothing for so few classes.
    TooFewClasses,
    /// The scores cannot be held against those of the reference networks without a backdoor.
    NotCalibrated,
    /// The highest score is above the limit that was given.
    MaxScore,
    /// The layer cost more accuracy than it may and was mixed with the identity.
    LayerMixed,
    /// Nothing is held out to limit what the layer costs.
    GuardOff,
    /// Much accuracy was lost.
    AccuracyLost,
    /// There were no triggered images to measure the removal with.
    RemovalNotMeasured,
    /// No normalisation was stated and no labels could show that one is missing.
    NormalisationNotStated,
    /// The processor has no bfloat16 and it was asked for.
    Bf16Emulated,
    /// The judge's optimised form is wrong about the original, so its plain form alone was asked.
    OptimisedDistrusted,
    /// Operators without a kernel on the GPU ran on the processor.
    RanOnProcessor,
    /// What could be kept in memory is computed again in each step.
    TapeNotKept,
}

impl Rule {
    /// As reports and messages write it.
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
            Self::Bf16Emulated => "bf16-emulated",
            Self::OptimisedDistrusted => "optimised-distrusted",
            Self::RanOnProcessor => "ran-on-processor",
            Self::TapeNotKept => "tape-not-kept",
        }
    }
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What sort of thing.
    pub rule: Rule,
    /// How much it weighs.
    pub severity: Severity,
    /// What it is about: `class 3 "disc"`, `the layer`, a node.
    pub subject: String,
    /// What was measured, in the rule's unit; None where it is no number.
    pub value: Option<f64>,
    /// The limit that it was held against.
    pub threshold: Option<f64>,
    /// The whole of it in one sentence.
    pub message: String,
}

impl Finding {
    /// Without numbers.
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

    /// With what was measured and what it was held against.
    pub fn measured(self, value: f64, threshold: f64) -> Self {
        Self { value: Some(value), threshold: Some(threshold), ..self }
    }
}

/// The first finding of this rule.
pub fn of(findings: &[Finding], rule: Rule) -> Option<&Finding> {
    findings.iter().find(|f| f.rule == rule)
}

/// # Errors
/// [`Error::Check`] for the first gate that did not hold.
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
