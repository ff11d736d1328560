//! What a run says of itself while it works, as plain data, and whom it tells.

use serde::{Deserialize, Serialize};

use super::budget::Memory;

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

/// What happens during a run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// What is kept in memory is decided; nothing has been computed yet.
    Memory(&'a Memory),
    /// `done` of `total` clean images have gone through the frozen network.
    Kept { done: usize, total: usize },
    /// A step is done: `done` of `total` over both phases.
    Step { phase: Phase, done: usize, total: usize },
    /// An epoch is done.
    Epoch(&'a EpochRecord),
}

/// Whoever watches a run.
pub trait Observer {
    /// Something happened.
    fn event(&mut self, event: Event<'_>);
    /// True once the run shall stop.
    fn interrupted(&self) -> bool {
        false
    }
}

/// Watches nothing.
impl Observer for () {
    fn event(&mut self, _: Event<'_>) {}
}
