//! What will be done, before it is: parts, images, multiplications, memory, time.

use serde::Serialize;

use crate::train::Trainer;

/// A part of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// As progress names it.
    pub name: String,
    /// Multiplications of the network's operators.
    pub multiplications: f64,
}

/// What a run will do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    /// The parts, in their order.
    pub parts: Vec<Part>,
    /// Bytes of memory that the process is expected to take, about.
    pub bytes: usize,
    /// Epochs of the warm-up and against the adversary.
    pub epochs: [usize; 2],
}

impl Plan {
    /// Of a training that is prepared.
    pub(super) fn of(trainer: &Trainer<'_>) -> Self {
        let settings = trainer.settings();
        Self { epochs: [settings.start.warmup(), settings.epochs], ..Self::default() }
    }
}
