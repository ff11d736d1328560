//! The scan for a backdoor: how easily clean images are pushed towards each class, by several ways of attack. Owns the
//! list of ways, the triggers they find and the calibration on networks without a backdoor; trains nothing.
//!
//! How to add a way: `docs/adding-ways.md`.

mod added;
mod bent;
pub mod calibration;
mod filter;
mod filtered;
mod findings;
mod flow;
mod list;
mod scanner;
pub mod settings;
mod stamp;
mod stamped;
mod trial;
mod tried;
mod trigger;
mod values;
mod way;

pub use filter::Filter;
#[cfg(test)]
pub(crate) use findings::samples;
pub use findings::{Findings, Measured};
pub use list::WAYS;
pub use scanner::{Scanner, measure, measuring};
pub use stamp::{Filling, Stamp};
pub use trial::Trial;
pub use trigger::{Trigger, attack_by, changed};
pub use way::{Aimed, AttackOutcome, Extent, Found, NOTHING, Purpose, Way};
