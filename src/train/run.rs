//! Bookkeeping of a training: steps, epochs, time.

use std::time::Instant;

use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use crate::{
    Result,
    network::{EpochRecord, Event, Phase, RunPart, Watch},
};

/// Seconds spent in each stage of a run.
pub(super) struct Stages {
    /// (name, seconds), in the order of their first end.
    pub ended: Vec<(&'static str, f64)>,
    since: Instant,
}

impl Stages {
    pub fn begin() -> Self {
        Self { ended: Vec::new(), since: Instant::now() }
    }

    /// Adds the time since the last call to this stage.
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

/// Losses of a step.
#[derive(Clone, Copy, Default)]
pub(super) struct StepLosses {
    pub loss: f64,
    /// L1 to L4.
    pub published: [f64; 4],
    pub retention: f64,
    pub reached: f64,
}

/// The images in random order.
pub(super) fn shuffled(images: &[usize], rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut order = images.to_vec();
    order.shuffle(rng);
    order
}

/// Counts steps, polls for an interruption and collects the epochs' records.
pub(super) struct TrainingRun<'a> {
    pub watch: &'a dyn Watch,
    pub epochs: Vec<EpochRecord>,
    pub stages: Stages,
    pub steps: usize,
    /// Steps of both phases.
    total: usize,
    epoch_began: Instant,
}

impl<'a> TrainingRun<'a> {
    /// A run of `total` steps, before the first.
    pub fn new(watch: &'a dyn Watch, total: usize) -> Self {
        Self {
            watch,
            epochs: Vec::new(),
            stages: Stages::begin(),
            steps: 0,
            total,
            epoch_began: Instant::now(),
        }
    }

    /// Begins an epoch in `part` of the plan; `work` is the network's current work.
    pub fn begin_epoch(&mut self, part: RunPart, work: u64) {
        self.epoch_began = Instant::now();
        self.watch.begin(part, work);
    }

    /// Ends a step.
    ///
    /// # Errors
    /// [`crate::Error::Interrupted`].
    pub fn step(&mut self, phase: Phase, work: u64) -> Result<()> {
        self.steps += 1;
        self.watch.event(Event::Step { phase, done: self.steps, total: self.total });
        self.watch.at(work);
        self.watch.check()
    }

    /// Ends an epoch: records the means over its steps. `retained`: retention is one of the losses.
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
            seconds: self.epoch_began.elapsed().as_secs_f64(),
        };
        self.watch.event(Event::Epoch(&record));
        self.epochs.push(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Watched;

    #[test]
    fn an_epochs_seconds_are_its_own() {
        let mut nobody = ();
        let watch = Watched::new(&mut nobody);
        let mut run = TrainingRun::new(&watch, 2);
        for epoch in 1..=2 {
            run.begin_epoch(RunPart::Train, 0);
            std::thread::sleep(std::time::Duration::from_millis(40));
            run.step(Phase::Train, 0).unwrap();
            run.epoch(Phase::Train, epoch, &[StepLosses::default()], false);
        }
        let seconds: Vec<f64> = run.epochs.iter().map(|e| e.seconds).collect();
        let whole = run.stages.since.elapsed().as_secs_f64();
        assert!(
            seconds.iter().all(|s| *s >= 0.04) && seconds.iter().sum::<f64>() <= whole,
            "{seconds:?} {whole}"
        );
    }

    #[test]
    fn times_of_a_repeated_stage_add_up() {
        let mut stages = Stages::begin();
        ["aim", "pool", "steps", "pool"].into_iter().for_each(|name| stages.end(name));
        let names: Vec<&str> = stages.ended.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["aim", "pool", "steps"]);
        assert!(stages.ended.iter().all(|(_, seconds)| *seconds >= 0.0));
    }
}
