//! What a run says of each epoch and of its time, as plain data.

use std::time::Instant;

use serde::{Deserialize, Serialize};

/// The two phases of the training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The layer's BatchNorm in training mode; cross-entropy on clean images.
    WarmUp,
    /// The bi-level training against the adversary.
    Train,
}

/// Means over an epoch's steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    pub phase: Phase,
    /// From 1, per phase.
    pub epoch: usize,
    pub loss: f64,
    /// The loss of the epoch's first step.
    pub first_loss: f64,
    /// Cross-entropy on the clean images; null in the warm-up, like what follows.
    pub l1: Option<f64>,
    /// Cross-entropy of the adversarial images against the answers on the clean ones.
    pub l2: Option<f64>,
    /// -log(1.0001 - p) of the likeliest wrong class.
    pub l3: Option<f64>,
    /// -log(1.0001 - p) of the adversary's target.
    pub l4: Option<f64>,
    /// KL divergence of the answers on the clean images from those without the layer; None where it has no weight.
    pub retention: Option<f64>,
    /// Share of images that the adversary brought to its target, in [0, 1].
    pub reached: Option<f64>,
    /// Since the start of the training.
    pub seconds: f64,
}

/// Where the time of a run goes.
pub(super) struct Stages {
    /// In the order of their first end, with seconds.
    pub ended: Vec<(&'static str, f64)>,
    since: Instant,
}

impl Stages {
    pub fn begin() -> Self {
        Self { ended: Vec::new(), since: Instant::now() }
    }

    /// What was done since the last end; a stage that comes again adds to itself.
    pub fn end(&mut self, name: &'static str) {
        let now = Instant::now();
        let seconds = (now - self.since).as_secs_f64();
        self.since = now;
        match self.ended.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += seconds,
            None => self.ended.push((name, seconds)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_comes_again_adds_to_itself() {
        let mut stages = Stages::begin();
        ["aim", "pool", "steps", "pool"].into_iter().for_each(|name| stages.end(name));
        let names: Vec<&str> = stages.ended.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["aim", "pool", "steps"]);
        assert!(stages.ended.iter().all(|(_, seconds)| *seconds >= 0.0));
    }
}
