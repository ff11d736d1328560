//! Puts a trained layer into a model's file, and takes it out again.
//!
//! A rewrite is a splice of the input's bytes: two nodes, their initializers, the name of what the readers read (or of
//! what the producer makes), and metadata that says what was done. Everything else stays byte for byte as it was, and
//! the metadata holds what is needed to restore the original file exactly, its SHA-256 included.

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
