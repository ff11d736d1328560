//! What a run says of itself while it works, as plain data, and whom it tells.

use std::cell::{Cell, RefCell};

use serde::{Deserialize, Serialize};

use super::budget::Memory;
use crate::{Error, Result};

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
    /// Wall-clock time of this epoch alone.
    pub seconds: f64,
}

/// A part of a run that takes long enough to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Part {
    /// The clean images go through the frozen network once.
    Keep,
    /// The classes are measured by every way of attack.
    Measure,
    /// The first phase of the training.
    WarmUp,
    /// The pool of adversarial values is filled.
    Pool,
    /// The second phase of the training.
    Train,
}

/// The parts of a run in the order in which they begin, each with the work that it is expected to take, in floating-point
/// operations of the network. Parts may take turns. An estimate: what is left of a run's time follows from the work left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub parts: Vec<(Part, u64)>,
}

impl Plan {
    /// The work of all parts.
    pub fn total(&self) -> u64 {
        self.parts.iter().map(|(_, work)| work).sum()
    }
}

/// How much of a plan is done, from what is told of its parts.
#[derive(Clone, Debug, Default)]
pub struct Overall(Vec<(Part, u64, u64)>);

impl Overall {
    /// Whether this part is planned.
    pub fn has(&self, part: Part) -> bool {
        self.0.iter().any(|(known, ..)| *known == part)
    }

    /// Takes in what happened. The share of the whole run's work that is done, in [0, 1], where the event tells of that.
    pub fn share(&mut self, event: &Event<'_>) -> Option<f64> {
        match event {
            Event::Plan(plan) => self.0 = plan.parts.iter().map(|&(part, total)| (part, 0, total)).collect(),
            Event::Progress { part, done, .. } => {
                self.0.iter_mut().filter(|(known, ..)| known == part).for_each(|(_, now, _)| *now = *done);
            }
            Event::Memory(_) | Event::Kept { .. } | Event::Step { .. } | Event::Epoch(_) => return None,
        }
        let [done, total] = [|p: &(Part, u64, u64)| p.1, |p: &(Part, u64, u64)| p.2]
            .map(|of| self.0.iter().map(of).sum::<u64>());
        Some(done as f64 / total.max(1) as f64)
    }
}

/// What happens during a run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// What is kept in memory is decided; nothing has been computed yet.
    Memory(&'a Memory),
    /// What will be done, before anything is.
    Plan(&'a Plan),
    /// Of the work that the plan gives to `part`, so much is done. `done` never falls and never exceeds `total`; the last
    /// event of a part has `done` equal to `total`.
    Progress { part: Part, done: u64, total: u64 },
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

/// An observer that is told from several places at once.
pub trait Watch {
    /// Tells the observer.
    fn event(&self, event: Event<'_>);

    /// Goes on with `part` of the plan; the network's count of its work stands at `work`.
    fn begin(&self, part: Part, work: u64);

    /// The network's count of its work stands at `work` now.
    fn at(&self, work: u64);

    /// The part that was begun has come so far for now, at this count; `over`: it will not go on.
    fn end(&self, work: u64, over: bool);

    /// # Errors
    /// [`Error::Interrupted`] once the run shall stop.
    fn check(&self) -> Result<()>;
}

/// [`Watch`] over an observer, with the plan that its events refer to.
pub struct Watched<'a> {
    observer: RefCell<&'a mut dyn Observer>,
    /// Each part's work and what of it is done.
    parts: RefCell<Vec<(Part, u64, u64)>>,
    /// The part that goes on, and the network's count and the work done when it began.
    now: Cell<Option<(usize, u64, u64)>>,
}

impl<'a> Watched<'a> {
    /// Nothing is planned yet.
    pub fn new(observer: &'a mut dyn Observer) -> Self {
        Self { observer: RefCell::new(observer), parts: RefCell::default(), now: Cell::new(None) }
    }

    /// What will be done; told to the observer with `tell`, where it was not before.
    pub fn plan(&self, plan: &Plan, tell: bool) {
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

    fn begin(&self, part: Part, work: u64) {
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

    struct Seen(Vec<(Part, u64, u64)>);

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
        let plan = Plan { parts: vec![(Part::Keep, 10), (Part::Train, 30)] };
        assert_eq!((plan.total(), overall.share(&Event::Plan(&plan))), (40, Some(0.0)));
        assert_eq!(overall.share(&Event::Progress { part: Part::Keep, done: 10, total: 10 }), Some(0.25));
        assert_eq!(overall.share(&Event::Kept { done: 1, total: 2 }), None);
        assert_eq!(overall.share(&Event::Progress { part: Part::Train, done: 30, total: 30 }), Some(1.0));
    }

    #[test]
    fn parts_take_turns_and_none_exceeds_its_plan() {
        let mut seen = Seen(Vec::new());
        let watch = Watched::new(&mut seen);
        watch.at(5); // nothing has begun
        watch.plan(&Plan { parts: vec![(Part::Pool, 10), (Part::Train, 100)] }, true);
        watch.begin(Part::Pool, 1000);
        watch.at(1004);
        watch.end(1004, false);
        watch.begin(Part::Train, 1004);
        watch.at(1010);
        watch.begin(Part::Pool, 1010);
        watch.at(1030);
        watch.end(1030, true);
        watch.begin(Part::Measure, 1030); // not planned
        watch.at(1040);
        assert_eq!(
            seen.0,
            [
                (Part::Pool, 4, 10),
                (Part::Pool, 4, 10),
                (Part::Train, 6, 100),
                (Part::Pool, 10, 10),
                (Part::Pool, 10, 10)
            ]
        );
    }
}
