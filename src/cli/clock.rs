//! How long the parts of a command take.

use std::time::Instant;

use crate::report;

/// Where the time of the command goes.
pub struct Clock {
    pub started: Instant,
    phase: Instant,
    pub phases: Vec<report::Phase>,
}

impl Clock {
    pub fn new() -> Self {
        let now = Instant::now();
        Self { started: now, phase: now, phases: Vec::new() }
    }

    /// What was done since the last one ended.
    pub fn ends(&mut self, name: &str) {
        let seconds = self.phase.elapsed().as_secs_f64();
        self.phases.push(report::Phase { name: name.into(), seconds });
        self.phase = Instant::now();
    }
}
