//! ONNX files: parsing of untrusted bytes, and edits that leave all other bytes unchanged.
//!
//! `wire` scans the bytes first, against the table in `schema` and the limits in [`limits`]. Only bytes that pass are
//! decoded, message by message, with onnx-protobuf ([`model`], [`tensor`]), whose parser is not hardened. Files that
//! runtimes would interpret differently are rejected here. This module writes no files: `splice` turns a list of edits
//! into new bytes.

mod check;
mod decode;
mod external;
mod image;
pub mod limits;
mod locate;
pub mod model;
pub mod node;
pub(crate) mod paths;
mod storage;
pub mod tensor;

pub use image::{ImageInput, ImageLayout, TO_NHWC};
pub use locate::locate;
pub use model::Model;

pub(crate) use crate::internals::onnx::{schema, splice, wire};
