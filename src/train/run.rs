//! What a training keeps of its steps, epochs and time.

use std::time::Instant;

use crate::{
    Error, Result,
    network::{EpochRecord, Event, Observer, Phase},
};

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

/// What a step says of itself.
#[derive(Clone, Copy, Default)]
pub(super) struct StepLosses {
    pub loss: f64,
    /// L1 to L4.
    pub published: [f64; 4],
    pub retention: f64,
    pub reached: f64,
}

/// Counts steps, polls for an interruption and collects the epochs' records.
pub(super) struct Run<'a> {
    pub observer: &'a mut dyn Observer,
    pub epochs: Vec<EpochRecord>,
    pub steps: usize,
    pub total: usize,
    pub began: Instant,
}

impl Run<'_> {
    pub fn step(&mut self, phase: Phase) -> Result<()> {
        self.steps += 1;
        self.observer.event(Event::Step { phase, done: self.steps, total: self.total });
        if self.observer.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Means over an epoch's steps.
    pub fn epoch(&mut self, phase: Phase, epoch: usize, steps: &[StepLosses], retained: bool) {
        let mean =
            |f: &dyn Fn(&StepLosses) -> f64| steps.iter().map(f).sum::<f64>() / steps.len().max(1) as f64;
        let train = |f: &dyn Fn(&StepLosses) -> f64| (phase == Phase::Train).then(|| mean(f));
        let record = EpochRecord {
            phase,
            epoch,
            loss: mean(&|s| s.loss),
            first_loss: steps.first().map_or(f64::NAN, |s| s.loss),
            l1: train(&|s| s.published[0]),
            l2: train(&|s| s.published[1]),
            l3: train(&|s| s.published[2]),
            l4: train(&|s| s.published[3]),
            retention: train(&|s| s.retention).filter(|_| retained),
            reached: train(&|s| s.reached),
            seconds: self.began.elapsed().as_secs_f64(),
        };
        self.observer.event(Event::Epoch(&record));
        self.epochs.push(record);
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
