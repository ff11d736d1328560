//! Inserts a trained layer into a model's file, and removes it again.
//!
//! A rewrite splices bytes into the original: two nodes, their initializers, one renamed value, and metadata that
//! records the change. All other bytes stay the same. The metadata allows restoring the original file exactly and
//! contains its SHA-256.

mod encode;
mod insert;
mod layer;
mod output;
mod provenance;
mod revert;

pub use insert::{apply, insert};
pub use layer::LayerFile;
pub use output::{Output, Staged, check_beside, write_atomically};
pub use provenance::{Names, Provenance, Record};
pub use revert::revert;
