//! Ways of bringing clean images towards a class, and how near each brings them: the scan for a backdoor. Owns the triggers that
//! are found and the networks without a backdoor that scores are held against; trains nothing.

pub mod calibration;
mod filter;
mod stamp;
mod suspicion;
mod trial;
mod warp;

pub(crate) use suspicion::{Lot, added, bent};
pub use suspicion::{Suspicion, Way, measure};
