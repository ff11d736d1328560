//! How long the parts of a run take.

use std::time::Instant;

use super::outcome::Phase;

/// Where the time of a run goes.
pub(super) struct Clock {
    started: Instant,
    phase: Instant,
    pub phases: Vec<Phase>,
}

impl Clock {
    pub fn new() -> Self {
        let now = Instant::now();
        Self { started: now, phase: now, phases: Vec::new() }
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// What was done since the last part ended.
    pub fn ends(&mut self, name: &str) {
        self.took(name, self.phase.elapsed().as_secs_f64());
        self.phase = Instant::now();
    }

    /// A part that was done beside others took so many seconds.
    pub fn took(&mut self, name: &str, seconds: f64) {
        self.phases.push(Phase { name: name.into(), seconds });
    }
}
