//! The plan of a run: parts, multiplications, memory, time, epochs.

use std::time::Duration;

use serde::Serialize;

use crate::{Result, network::RunPart, train::Trainer, verify::reference::Reference};

/// A part of a planned run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannedPart {
    /// Name, as in progress events: `measure`, `pool`, `train`.
    pub name: String,
    /// Estimated multiplications of the network's operators.
    pub multiplications: u64,
}

/// The plan of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RunPlan {
    /// The parts of the training, in their order.
    pub parts: Vec<PlannedPart>,
    /// Expected memory of the process in bytes.
    pub bytes: usize,
    /// Expected seconds of the parts, at the speed at which this machine has run the network before.
    pub seconds: f64,
    /// Epochs of the warm-up and of the adversarial training.
    pub epochs: [usize; 2],
}

/// Measured speed of a network on this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speed {
    /// Floating-point operations per second.
    flops: f64,
}

impl Speed {
    /// Speed of `network`, which ran `images` images in `time`.
    ///
    /// # Errors
    /// Errors of cutting the graph.
    pub fn of(network: &Reference<'_>, images: usize, time: Duration) -> Result<Self> {
        Ok(Self { flops: network.flops(images)? as f64 / time.as_secs_f64().max(1e-9) })
    }
}

impl RunPlan {
    /// The plan of a prepared training.
    pub(super) fn of(trainer: &Trainer<'_>, speed: Speed) -> Self {
        let settings = trainer.settings();
        let plan = trainer.plan();
        let part = |(part, flops): &(RunPart, u64)| PlannedPart {
            name: part.name().to_owned(),
            multiplications: flops / 2,
        };
        Self {
            parts: plan.parts.iter().map(part).collect(),
            bytes: trainer.memory().expected,
            seconds: plan.total() as f64 / speed.flops,
            epochs: [settings.start.warmup(), settings.epochs],
        }
    }
}
