//! The plan of a run: parts, multiplications, memory, epochs.

use serde::Serialize;

use crate::train::Trainer;

/// A part of a planned run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannedPart {
    /// Name, as in progress events.
    pub name: String,
    /// Multiplications of the network's operators.
    pub multiplications: f64,
}

/// The plan of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RunPlan {
    /// The parts, in their order.
    pub parts: Vec<PlannedPart>,
    /// Expected memory of the process in bytes.
    pub bytes: usize,
    /// Epochs of the warm-up and of the adversarial training.
    pub epochs: [usize; 2],
}

impl RunPlan {
    /// The plan of a prepared training.
    pub(super) fn of(trainer: &Trainer<'_>) -> Self {
        let settings = trainer.settings();
        Self { epochs: [settings.start.warmup(), settings.epochs], ..Self::default() }
    }
}
