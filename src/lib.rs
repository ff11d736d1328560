//! Takes the backdoor out of an image classifier in ONNX.

pub mod base;
pub mod data;
pub mod graph;
pub mod kernels;
pub mod layer;
pub mod network;
pub mod onnx;
pub mod ops;
pub mod pipeline;
pub mod report;
pub mod rewrite;
pub mod scan;
pub mod site;
pub mod train;
pub mod verify;

#[cfg(feature = "cli")]
pub mod cli;

pub(crate) use base::lanes;
pub use base::{device, error, memory, profile};
pub use error::{Error, Result};
