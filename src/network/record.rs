//! Events and progress of a run as plain data, and its observers.

use std::cell::{Cell, RefCell};

use serde::{Deserialize, Serialize};

use super::budget::Memory;
use crate::{Error, Result};

/// The two phases of the training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Cross-entropy on clean images, with the layer's BatchNorm in training mode.
    WarmUp,
    /// Bi-level training against the adversary.
    Train,
}

/// Means over an epoch's steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// The phase that the epoch belongs to.
    pub phase: Phase,
    /// From 1, per phase.
    pub epoch: usize,
    /// The loss that is minimised, the weighted sum of what follows.
    pub loss: f64,
    /// The loss of the epoch's first step.
    pub first_loss: f64,
    /// Cross-entropy on the clean images; null in the warm-up, as are the fields below.
    pub l1: Option<f64>,
    /// Cross-entropy of the adversarial images against the answers to keep.
    pub l2: Option<f64>,
    /// -log(1.0001 - p) of the likeliest wrong class.
    pub l3: Option<f64>,
    /// -log(1.0001 - p) of the adversary's target.
    pub l4: Option<f64>,
    /// KL divergence of the predictions on clean images from those without the layer; None if its weight is 0.
    pub retention: Option<f64>,
    /// Share of images classified as the adversary's target, in [0, 1].
    pub reached: Option<f64>,
    /// Wall-clock seconds of this epoch.
    pub seconds: f64,
}

/// A part of a run that is long enough to show its progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RunPart {
    /// Running the clean images through the frozen network once.
    Keep,
    /// Scoring the classes by every way of attack.
    Measure,
    /// Phase 1 of the training.
    WarmUp,
    /// Filling the pool of adversarial values.
    Pool,
    /// Phase 2 of the training.
    Train,
}

impl RunPart {
    /// Its name in progress and plans.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keep => "clean images",
            Self::Measure => "measure",
            Self::WarmUp => "warm-up",
            Self::Pool => "pool",
            Self::Train => "train",
        }
    }
}

/// The parts of a run in the order in which they begin, each with its estimated work in floating-point operations of
/// the network, from which the remaining time is estimated. Parts may alternate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkPlan {
    /// Each part and its work.
    pub parts: Vec<(RunPart, u64)>,
}

impl WorkPlan {
    /// Work of all parts together.
    pub fn total(&self) -> u64 {
        self.parts.iter().map(|(_, work)| work).sum()
    }
}

/// Progress of a whole plan, from the events of its parts.
#[derive(Clone, Debug, Default)]
pub struct Overall(Vec<(RunPart, u64, u64)>);

impl Overall {
    /// Whether the plan has this part.
    pub fn has(&self, part: RunPart) -> bool {
        self.0.iter().any(|(known, ..)| *known == part)
    }

    /// Processes an event. Returns the share of the whole work done, in [0, 1], if the event changes it.
    pub fn share(&mut self, event: &Event<'_>) -> Option<f64> {
        match event {
            Event::Plan(plan) => self.0 = plan.parts.iter().map(|&(part, total)| (part, 0, total)).collect(),
            Event::Progress { part, done, .. } => {
                self.0.iter_mut().filter(|(known, ..)| known == part).for_each(|(_, now, _)| *now = *done);
            }
            Event::Memory(_) | Event::Kept { .. } | Event::Step { .. } | Event::Epoch(_) => return None,
        }
        let [done, total] = [|p: &(RunPart, u64, u64)| p.1, |p: &(RunPart, u64, u64)| p.2]
            .map(|of| self.0.iter().map(of).sum::<u64>());
        Some(done as f64 / total.max(1) as f64)
    }
}

/// An event of a run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The memory plan, before anything is computed.
    Memory(&'a Memory),
    /// The plan, before any part begins.
    Plan(&'a WorkPlan),
    /// `done` of the `total` planned work of `part` is done. `done` never decreases and never exceeds `total`; in the
    /// last event of a part they are equal.
    Progress {
        /// The part of the plan.
        part: RunPart,
        /// The work of the part that is done, in floating-point operations.
        done: u64,
        /// All its work.
        total: u64,
    },
    /// `done` of `total` clean images have gone through the frozen network.
    Kept {
        /// Images done.
        done: usize,
        /// Images in all.
        total: usize,
    },
    /// A step was taken: `done` of `total` over both phases.
    Step {
        /// The phase that the step belongs to.
        phase: Phase,
        /// Steps done, in both phases.
        done: usize,
        /// Steps in all.
        total: usize,
    },
    /// An epoch ended.
    Epoch(&'a EpochRecord),
}

/// An observer of a run.
pub trait Observer {
    /// Called for each event.
    fn event(&mut self, event: Event<'_>);
    /// Returns true to stop the run, which then ends with [`Error::Interrupted`].
    fn interrupted(&self) -> bool {
        false
    }
}

/// Ignores all events.
impl Observer for () {
    fn event(&mut self, _: Event<'_>) {}
}

/// An observer behind a shared reference.
pub trait Watch {
    /// Passes an event on.
    fn event(&self, event: Event<'_>);

    /// Begins or resumes `part`; `work` is the network's current [`work`](super::Network::work).
    fn begin(&self, part: RunPart, work: u64);

    /// Reports progress: the network's work is now `work`.
    fn at(&self, work: u64);

    /// Suspends the current part at this work; `over`: it is finished.
    fn end(&self, work: u64, over: bool);

    /// Whether to go on.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the observer asked to stop.
    fn check(&self) -> Result<()>;
}

/// A [`Watch`] over an observer, with the plan of the run.
pub struct Watched<'a> {
    observer: RefCell<&'a mut dyn Observer>,
    /// (part, total work, work done).
    parts: RefCell<Vec<(RunPart, u64, u64)>>,
    /// Index of the current part, and the network's work and the part's work done when it was begun or resumed.
    now: Cell<Option<(usize, u64, u64)>>,
}

impl<'a> Watched<'a> {
    /// With an empty plan.
    pub fn new(observer: &'a mut dyn Observer) -> Self {
        Self { observer: RefCell::new(observer), parts: RefCell::default(), now: Cell::new(None) }
    }

    /// Sets the plan; with `tell` the observer gets it as an event.
    pub fn plan(&self, plan: &WorkPlan, tell: bool) {
        *self.parts.borrow_mut() = plan.parts.iter().map(|&(part, total)| (part, total, 0)).collect();
        if tell {
            self.event(Event::Plan(plan));
        }
    }

    fn tell(&self, index: usize, done: u64) {
        let (part, total) = {
            let mut parts = self.parts.borrow_mut();
            let (part, total, known) = &mut parts[index];
            *known = done.min(*total).max(*known);
            (*part, (*known, *total))
        };
        self.event(Event::Progress { part, done: total.0, total: total.1 });
    }
}

impl Watch for Watched<'_> {
    fn event(&self, event: Event<'_>) {
        self.observer.borrow_mut().event(event);
    }

    fn begin(&self, part: RunPart, work: u64) {
        let parts = self.parts.borrow();
        let index = parts.iter().position(|(known, ..)| *known == part);
        self.now.set(index.map(|index| (index, work, parts[index].2)));
    }

    fn at(&self, work: u64) {
        if let Some((index, from, before)) = self.now.get() {
            self.tell(index, before + work.saturating_sub(from));
        }
    }

    fn end(&self, work: u64, over: bool) {
        if let Some((index, from, before)) = self.now.take() {
            let done = if over { u64::MAX } else { before + work.saturating_sub(from) };
            self.tell(index, done);
        }
    }

    fn check(&self) -> Result<()> {
        if self.observer.borrow().interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Seen(Vec<(RunPart, u64, u64)>);

    impl Observer for Seen {
        fn event(&mut self, event: Event<'_>) {
            if let Event::Progress { part, done, total } = event {
                self.0.push((part, done, total));
            }
        }
    }

    #[test]
    fn the_share_is_that_of_the_whole() {
        let mut overall = Overall::default();
        let plan = WorkPlan { parts: vec![(RunPart::Keep, 10), (RunPart::Train, 30)] };
        assert_eq!((plan.total(), overall.share(&Event::Plan(&plan))), (40, Some(0.0)));
        assert_eq!(overall.share(&Event::Progress { part: RunPart::Keep, done: 10, total: 10 }), Some(0.25));
        assert_eq!(overall.share(&Event::Kept { done: 1, total: 2 }), None);
        assert_eq!(overall.share(&Event::Progress { part: RunPart::Train, done: 30, total: 30 }), Some(1.0));
    }

    #[test]
    fn parts_alternate_and_none_exceeds_its_plan() {
        let mut seen = Seen(Vec::new());
        let watch = Watched::new(&mut seen);
        watch.at(5); // nothing has begun
        watch.plan(&WorkPlan { parts: vec![(RunPart::Pool, 10), (RunPart::Train, 100)] }, true);
        watch.begin(RunPart::Pool, 1000);
        watch.at(1004);
        watch.end(1004, false);
        watch.begin(RunPart::Train, 1004);
        watch.at(1010);
        watch.begin(RunPart::Pool, 1010);
        watch.at(1030);
        watch.end(1030, true);
        watch.begin(RunPart::Measure, 1030); // not planned
        watch.at(1040);
        assert_eq!(
            seen.0,
            [
                (RunPart::Pool, 4, 10),
                (RunPart::Pool, 4, 10),
                (RunPart::Train, 6, 100),
                (RunPart::Pool, 10, 10),
                (RunPart::Pool, 10, 10)
            ]
        );
    }
}
