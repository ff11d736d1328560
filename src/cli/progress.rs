//! Progress on stderr: a bar with the remaining time on a terminal, otherwise occasional lines.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::{grouped, time};

/// Interval of lines without a terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(10);
/// The first line of a run comes earlier.
pub const PLAIN_FIRST: Duration = Duration::from_secs(1);

/// Progress of one part of known length.
pub struct Progress {
    bar: ProgressBar,
    plain: Option<Mutex<Plain>>,
    what: String,
    total: usize,
}

struct Plain {
    done: usize,
    started: Instant,
    next: Instant,
    lines: usize,
}

impl Progress {
    /// Starts a part, whose first line without a terminal comes after `wait`; shows nothing with `quiet`.
    pub fn new(what: &str, total: usize, quiet: bool, wait: Duration) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if quiet || !terminal {
            ProgressBar::hidden()
        } else {
            ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr())
        };
        let style = ProgressStyle::with_template("{msg:<22} {wide_bar} {pos}/{len} {eta:>4} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what.to_owned());
        let now = Instant::now();
        let plain = (!quiet && !terminal).then(|| {
            Mutex::new(Plain { done: 0, started: now, next: now + wait.min(PLAIN_EVERY), lines: 0 })
        });
        Self { bar, plain, what: what.to_owned(), total }
    }

    /// Reports `n` more as done; from any thread.
    pub fn advance(&self, n: usize) {
        self.bar.inc(n as u64);
        let Some(Ok(mut plain)) = self.plain.as_ref().map(|p| p.lock()) else { return };
        plain.done += n;
        if Instant::now() >= plain.next && plain.done < self.total {
            plain.next = Instant::now() + PLAIN_EVERY;
            plain.lines += 1;
            if plain.done == 0 {
                return say(&format!("{}: 0 of {}", self.what, grouped(self.total)));
            }
            let rate = plain.started.elapsed().as_secs_f64() / plain.done.max(1) as f64;
            let left = time(rate * (self.total - plain.done) as f64);
            say(&format!("{}: {} of {}, {left} left", self.what, grouped(plain.done), grouped(self.total)));
        }
    }

    /// Whether it has printed a line.
    pub fn has_said(&self) -> bool {
        self.plain.as_ref().is_some_and(|plain| plain.lock().is_ok_and(|plain| plain.lines > 0))
    }

    /// Prints a line above the bar; not with `quiet`.
    pub fn line(&self, text: &str) {
        if self.plain.is_some() {
            say(text);
        } else {
            self.bar.println(text);
        }
    }
}

/// Prints a line on stderr without a bar.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}"); // failing to show progress is not an error
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
