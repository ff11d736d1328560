//! Shows a training, and stops it.

use super::{Context, progress::Progress};
use crate::train::{Event, Observer, Phase, Settings};

/// Shows a run, and stops it.
pub struct Watcher {
    context: Context,
    epochs: [usize; 2],
    bar: Option<(&'static str, Progress)>,
    done: usize,
}

impl Watcher {
    pub fn new(context: Context, settings: &Settings) -> Self {
        Self { context, epochs: [settings.warmup, settings.epochs], bar: None, done: 0 }
    }

    fn advance(&mut self, what: &'static str, done: usize, total: usize) {
        if self.bar.as_ref().is_none_or(|(name, _)| *name != what) {
            self.bar = None; // the old one is wiped before the new one is drawn
            self.bar = Some((what, Progress::new(what, total, self.context.quiet)));
            self.done = 0;
        }
        if let Some((_, bar)) = &self.bar {
            bar.advance(done.saturating_sub(self.done));
        }
        self.done = done;
    }
}

impl Observer for Watcher {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Kept { done, total } => self.advance("clean images", done, total),
            Event::Step { done, total, .. } => self.advance("training", done, total),
            Event::Epoch(e) => {
                let Some((_, bar)) = &self.bar else { return };
                let of = self.epochs[usize::from(e.phase == Phase::Train)];
                let mut line = format!("{:<8} {:>3}/{of}  loss {:.4}", phase(e.phase), e.epoch, e.loss);
                if let Some(reached) = e.reached {
                    line.push_str(&format!("  adversary reaches {:.1} %", 100.0 * reached));
                }
                bar.line(&line);
            }
        }
    }

    fn interrupted(&self) -> bool {
        self.context.check().is_err()
    }
}

/// For people and reports.
pub fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::WarmUp => "warm-up",
        Phase::Train => "train",
    }
}
