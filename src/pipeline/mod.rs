//! The high-level API: scan, purify, verify and evaluate, each complete and checked. Owns the order and parallelism of
//! the steps and the findings. Results are data; nothing here depends on a command line or a terminal.

mod apply;
mod check;
mod classifier;
mod clock;
mod environment;
mod evaluate;
pub mod finding;
mod findings;
mod images;
pub mod inspect;
mod job;
mod observer;
mod opening;
mod order;
mod others;
pub mod outcome;
mod plan;
mod probe;
mod proof;
mod purify;
mod scan;
mod sheet;
mod train;
mod verify;

pub use apply::{Applied, apply};
pub use evaluate::evaluate;
pub use finding::{Finding, Rule, Severity};
pub use findings::MUCH;
pub use inspect::{Inspection, inspect};
pub use job::{Job, RunOptions, Triggered};
pub use observer::{Event, Observer};
pub use outcome::{Evaluation, Purification, ScanOutcome, Verification};
pub use plan::{PlannedPart, RunPlan};
pub use probe::IMAGES;
pub use purify::{Purified, purify};
pub use scan::scan;
pub use sheet::{Cell, Sheet, sheet};
pub use verify::{Verified, verify};

pub use crate::{
    layer::Layer,
    site::SitePlace,
    verify::{JudgeChoice, diff::Declared, evaluate::Aim},
};

/// The settings that a [`Job`] takes.
pub mod settings {
    pub use crate::{
        kernels::Precision,
        train::{
            AdversaryKind, Form, Named, OptimizerKind, Original, PixelPool, Recipe, SETTINGS, Schedule,
            Setting, Settings, Start, Targets, Value,
        },
    };
}

/// What a scan tries, and on how many images of how many classes. Of a [`Way`](scanning::Way), its name and its
/// meaning are for callers; the rest of the trait is outside of any promise.
pub mod scanning {
    pub use crate::scan::{
        WAYS, Way,
        settings::{FEW_CLASSES, FEWEST, IMAGES, IN_ALL, LEAST_CLASSES, STANDS_OUT},
    };
}

/// Events of a training or a scan: see [`Event::Training`].
pub mod training {
    pub use crate::network::{EpochRecord, Event, Memory, Overall, Phase, RunPart, WorkPlan};
}

/// Checks a job's settings before any work.
fn check_settings(job: &Job<'_>) -> crate::Result<()> {
    job.settings.check()?;
    match job.max_score.filter(|score| !score.is_finite()) {
        Some(score) => Err(crate::Error::setting("max_score", format!("{score}; must be finite"))),
        None => Ok(()),
    }
}
