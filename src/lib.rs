//! Takes the backdoor out of an image classifier in ONNX.

pub mod data;
pub mod device;
pub mod error;
pub mod graph;
pub mod kernels;
mod lanes;
pub mod memory;
pub mod onnx;
pub mod ops;
pub mod profile;
pub mod report;
pub mod rewrite;
pub mod site;
pub mod train;
pub mod verify;

#[cfg(feature = "cli")]
pub mod cli;

pub use error::{Error, Result};
