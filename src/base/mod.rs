//! Foundations that all other modules use and that use none of them: errors, memory, devices, digests, parallel lanes,
//! profiling, and the threads and buffers of a run.

pub(crate) mod buffers;
pub mod device;
pub mod digest;
pub mod error;
pub mod guard;
pub(crate) mod lanes;
pub mod memory;
pub mod pixels;
pub mod profile;
pub mod rows;
pub mod runtime;
