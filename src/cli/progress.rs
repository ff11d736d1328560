//! Progress on stderr: a bar with the time left on a terminal, now and then a plain line otherwise.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::{grouped, time};

/// How often a plain line is written.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// One stretch of work of known length.
pub struct Progress {
    bar: ProgressBar,
    plain: Option<Mutex<Plain>>,
    what: String,
    total: usize,
}

struct Plain {
    done: usize,
    started: Instant,
    said: Instant,
}

impl Progress {
    /// Starts; nothing is ever shown with `quiet`.
    pub fn new(what: &str, total: usize, quiet: bool) -> Self {
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
        let plain = (!quiet && !terminal).then(|| Mutex::new(Plain { done: 0, started: now, said: now }));
        Self { bar, plain, what: what.to_owned(), total }
    }

    /// `n` more are done. From any thread.
    pub fn advance(&self, n: usize) {
        self.bar.inc(n as u64);
        let Some(Ok(mut plain)) = self.plain.as_ref().map(|p| p.lock()) else { return };
        plain.done += n;
        if plain.said.elapsed() >= PLAIN_EVERY && plain.done < self.total {
            plain.said = Instant::now();
            let rate = plain.started.elapsed().as_secs_f64() / plain.done.max(1) as f64;
            let left = time(rate * (self.total - plain.done) as f64);
            say(&format!("{}: {} of {}, {left} left", self.what, grouped(plain.done), grouped(self.total)));
        }
    }

    /// A line of its own, above the bar: an epoch is done. Not shown with `quiet`.
    pub fn line(&self, text: &str) {
        if self.plain.is_some() {
            say(text);
        } else {
            self.bar.println(text);
        }
    }
}

/// A line on stderr, where there is no bar.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}"); // progress that cannot be shown is no reason to stop
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
