//! Observing and interrupting a run.

use std::sync::{Mutex, PoisonError};

use super::{Finding, RunPlan};
use crate::{Error, Result, network, verify::Monitor};

/// An event of a run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The plan; sent before the long work.
    Plan(&'a RunPlan),
    /// `done` of `total` images of a part are processed. Parts that run in parallel alternate.
    Progress {
        /// Name of the part: `accuracy`, `parity-original`.
        part: &'a str,
        /// Images processed.
        done: usize,
        /// Images in all.
        total: usize,
    },
    /// An event of the training or of a scan.
    Training(network::Event<'a>),
    /// A finding that is reported immediately.
    Finding(&'a Finding),
}

/// Observer of a run. Called from one thread at a time, though not always the same one.
pub trait Observer: Send {
    /// Receives an event.
    fn event(&mut self, event: Event<'_>);

    /// Returns true to stop the run; called several times a second. The run then ends with [`Error::Interrupted`].
    fn interrupted(&mut self) -> bool {
        false
    }
}

/// Ignores all events.
impl Observer for () {
    fn event(&mut self, _: Event<'_>) {}
}

/// An observer shared by several threads of a run.
pub(super) struct Watcher<'a>(Mutex<&'a mut dyn Observer>);

impl<'a> Watcher<'a> {
    pub fn new(observer: &'a mut dyn Observer) -> Self {
        Self(Mutex::new(observer))
    }

    pub fn tell(&self, event: Event<'_>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).event(event);
    }

    pub fn interrupted(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).interrupted()
    }

    /// # Errors
    /// [`Error::Interrupted`].
    pub fn check(&self) -> Result<()> {
        if self.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Runs `work` over `total` images and reports progress as the part `part`.
    pub fn part<T>(&self, part: &str, total: usize, work: impl FnOnce(&Monitor<'_>) -> T) -> T {
        let sum = Mutex::new(0);
        let done = |n: usize| {
            // sent while the sum is locked, so that progress never decreases
            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
            *sum += n;
            self.tell(Event::Progress { part, done: *sum, total });
        };
        self.tell(Event::Progress { part, done: 0, total });
        work(&Monitor { interrupted: Some(&|| self.interrupted()), done: Some(&done) })
    }

    /// The observer of a training.
    pub fn training(&self) -> Training<'_, 'a> {
        Training(self)
    }
}

/// Forwards the events of a training.
pub(super) struct Training<'w, 'a>(&'w Watcher<'a>);

impl network::Observer for Training<'_, '_> {
    fn event(&mut self, event: network::Event<'_>) {
        self.0.tell(Event::Training(event));
    }

    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Record {
        seen: Vec<(String, usize, usize)>,
        stop: bool,
    }

    impl Observer for Record {
        fn event(&mut self, event: Event<'_>) {
            if let Event::Progress { part, done, total } = event {
                self.seen.push((part.to_owned(), done, total));
            }
        }

        fn interrupted(&mut self) -> bool {
            self.stop
        }
    }

    #[test]
    fn a_part_is_told_from_its_start_to_its_end_by_any_thread() {
        let mut record = Record::default();
        let watcher = Watcher::new(&mut record);
        watcher.part("accuracy", 40, |watch| {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| watch.advance(10));
                }
            });
            assert!(watch.check().is_ok());
        });
        let done: Vec<usize> = record.seen.iter().map(|(_, done, _)| *done).collect();
        assert_eq!(done, [0, 10, 20, 30, 40]);
        assert!(record.seen.iter().all(|(part, _, total)| part == "accuracy" && *total == 40));
    }

    #[test]
    fn who_wants_it_to_stop_stops_it() {
        let mut record = Record { stop: true, ..Record::default() };
        let watcher = Watcher::new(&mut record);
        assert!(matches!(watcher.part("x", 1, |watch| watch.check()), Err(Error::Interrupted)));
        assert_eq!(watcher.check().unwrap_err().exit_code(), 130);
    }
}
