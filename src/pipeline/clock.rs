//! Times of a run's phases.

use std::time::Instant;

use super::outcome::Timing;

/// Measures the phases of a run.
pub(super) struct Clock {
    started: Instant,
    phase: Instant,
    pub phases: Vec<Timing>,
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

    /// Ends the current phase and starts the next.
    pub fn ends(&mut self, name: &str) {
        self.took(name, self.phase.elapsed().as_secs_f64());
        self.phase = Instant::now();
    }

    /// Records a phase that ran in parallel to others.
    pub fn took(&mut self, name: &str, seconds: f64) {
        self.phases.push(Timing { name: name.into(), seconds });
    }
}
