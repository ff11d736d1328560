//! Shows the progress of a run and interrupts it.

use std::time::{Duration, Instant};

use super::{
    Context,
    progress::{PLAIN_FIRST, Progress},
};
use crate::{
    memory::size,
    pipeline::{
        Event, Observer, RunPlan,
        training::{self, Memory, Overall, Phase, RunPart},
    },
    report::{grouped, time},
};

/// Steps timed for the estimate of the remaining time; the first step of a phase is skipped, since it packs weights.
const TIMED: usize = 3;
/// Steps of the bar over a whole training or scan.
const BAR: f64 = 1000.0;
/// Minimum remaining seconds for showing the estimate.
const WORTH: f64 = 30.0;

/// Observer that shows a run and interrupts it.
pub struct Watcher {
    context: Context,
    epochs: [usize; 2],
    bar: Option<(String, Progress)>,
    began: Instant,
    /// A line of progress was printed.
    said: bool,
    done: usize,
    overall: Overall,
    estimate: Option<Estimate>,
}

/// Estimates the remaining time of a training once, after the first steps.
struct Estimate {
    /// The longer phase.
    phase: Phase,
    last: Option<Instant>,
    seconds: Vec<f64>,
}

impl Estimate {
    fn new(plan: &RunPlan) -> Self {
        let phase = if plan.epochs[1] > 0 { Phase::Train } else { Phase::WarmUp };
        Self { phase, last: None, seconds: Vec::new() }
    }

    /// Records a step of `phase` at `now` with `left` remaining. Returns the estimate when it is ready.
    fn step(&mut self, phase: Phase, left: usize, now: Instant) -> Option<String> {
        if phase != self.phase || self.seconds.len() >= TIMED {
            return None;
        }
        let last = self.last.replace(now)?;
        self.seconds.push((now - last).as_secs_f64());
        if self.seconds.len() < TIMED {
            return None;
        }
        // the median, so that a pause in one step does not count
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let each = sorted[TIMED / 2];
        let all = each * left as f64;
        let each = if each < 1.0 { format!("{each:.2} s") } else { time(each) };
        (all > WORTH).then(|| format!("about {} left ({} steps, {each} a step)", time(all), grouped(left)))
    }
}

/// Expected time, work and memory of a run.
fn planned(plan: &RunPlan) -> String {
    let all: u64 = plan.parts.iter().map(|part| part.multiplications).sum();
    let (billions, memory) = (grouped((all / 1_000_000_000) as usize), size(plan.bytes));
    format!("plan     about {} ({billions} billion multiplications), {memory} of memory", time(plan.seconds))
}

/// Message if the tape does not fit in memory.
fn memory_line(memory: &Memory) -> Option<String> {
    (memory.tape > 0 && !memory.tape_kept).then(|| {
        format!(
            "memory   the clean images' tape ({}) does not fit in {} and is not kept: each adversarial step reruns the \
             network before the site",
            size(memory.tape),
            size(memory.allowed)
        )
    })
}

impl Watcher {
    pub fn new(context: Context) -> Self {
        Self {
            context,
            epochs: [0; 2],
            bar: None,
            began: Instant::now(),
            said: false,
            done: 0,
            overall: Overall::default(),
            estimate: None,
        }
    }

    fn advance(&mut self, part: &str, done: usize, total: usize) {
        if self.bar.as_ref().is_none_or(|(name, _)| *name != part) || done < self.done {
            self.said |= self.bar.as_ref().is_some_and(|(_, bar)| bar.has_said());
            self.bar = None; // clear the old bar before drawing the new one
            let first = PLAIN_FIRST.saturating_sub(self.began.elapsed());
            let wait = if self.said { Duration::MAX } else { first };
            self.bar = Some((part.to_owned(), Progress::new(part, total, self.context.quiet, wait)));
            self.done = 0;
        }
        if let Some((_, bar)) = &self.bar {
            bar.advance(done.saturating_sub(self.done));
        }
        self.done = done;
    }

    /// Prints a line above the bar, if any.
    fn say(&self, text: &str) {
        match &self.bar {
            _ if self.context.quiet => {}
            Some((_, bar)) => bar.line(text),
            None => super::progress::say(text),
        }
    }

    fn training(&mut self, event: training::Event<'_>) {
        if let Some(share) = self.overall.share(&event) {
            let what = if self.overall.has(RunPart::Train) { "training" } else { "measuring" };
            self.advance(what, (BAR * share) as usize, BAR as usize);
        }
        match event {
            training::Event::Kept { .. } | training::Event::Plan(_) | training::Event::Progress { .. } => {}
            training::Event::Memory(memory) => {
                if let Some(line) = memory_line(memory) {
                    self.say(&line);
                }
            }
            training::Event::Step { phase, done, total } => {
                let estimate = self.estimate.as_mut();
                if let Some(line) = estimate.and_then(|e| e.step(phase, total - done, Instant::now())) {
                    self.say(&line);
                }
            }
            training::Event::Epoch(e) => {
                let of = self.epochs[usize::from(e.phase == Phase::Train)];
                let mut line = format!("{:<8} {:>3}/{of}  loss {:.4}", phase(e.phase), e.epoch, e.loss);
                if let Some(reached) = e.reached {
                    line.push_str(&format!("  adversary reaches {:.1} %", 100.0 * reached));
                }
                self.say(&line);
            }
        }
    }
}

impl Observer for Watcher {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Plan(plan) => {
                self.epochs = plan.epochs;
                if plan.seconds > WORTH {
                    self.say(&planned(plan));
                }
                self.estimate = Some(Estimate::new(plan));
            }
            Event::Progress { part, done, total } => self.advance(part, done, total),
            Event::Training(event) => self.training(event),
            Event::Finding(finding) => self.say(&format!("note: {}", finding.message)),
        }
    }

    fn interrupted(&mut self) -> bool {
        self.context.interrupted()
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::WarmUp => "warm-up",
        Phase::Train => "train",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// What is said over `steps` steps of so many seconds each, with `left` to come after the last.
    fn said(steps: &[f64], left: usize) -> Vec<String> {
        let mut estimate = Estimate::new(&RunPlan { epochs: [0, 5], ..RunPlan::default() });
        let mut now = Instant::now();
        let step = |(i, s): (usize, &f64)| {
            now += Duration::from_secs_f64(*s);
            estimate.step(Phase::Train, left + steps.len() - 1 - i, now)
        };
        steps.iter().enumerate().filter_map(step).collect()
    }

    #[test]
    fn the_time_left_is_told_once_where_it_is_long() {
        // the first step and a pause do not count
        let all = [9.0, 1.6, 1.6, 5.0, 1.6, 1.6];
        assert_eq!(said(&all, 158), ["about 4 min 16 s left (160 steps, 1.6 s a step)"]);
        assert_eq!(said(&[0.2, 0.05, 0.05, 0.05], 1_000), ["about 50.0 s left (1,000 steps, 0.05 s a step)"]);
        assert!(said(&all, 10).is_empty());
        assert!(said(&all[..3], 1_000).is_empty());
    }

    #[test]
    fn the_time_is_that_of_the_longer_phase() {
        let mut estimate = Estimate::new(&RunPlan { epochs: [0, 5], ..RunPlan::default() });
        let now = Instant::now();
        assert!((0..9).all(|i| estimate.step(Phase::WarmUp, 1_000, now + Duration::from_secs(i)).is_none()));
    }

    #[test]
    fn memory_is_mentioned_where_something_is_not_kept() {
        let tight = Memory { allowed: 800 << 20, expected: 700 << 20, tape: 180 << 20, tape_kept: false };
        let line = memory_line(&tight).unwrap();
        assert!(line.contains("tape (180 MiB) does not fit in 800 MiB and is not kept"), "{line}");
        assert_eq!(memory_line(&Memory { tape_kept: true, ..tight }), None);
        assert_eq!(memory_line(&Memory { tape: 0, ..tight }), None);
    }
}
