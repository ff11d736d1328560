//! The file: what it holds, read without trusting it, and edits that leave every other byte as it was.
//!
//! [`wire`] scans the bytes first, against the table in `schema` and the limits in [`limits`]; only what it passed is
//! decoded, message by message, through onnx-protobuf ([`model`], [`tensor`]), whose parser could not be given
//! hostile bytes. Files that readers would understand differently are refused here, before anything is run. This room
//! never writes: [`splice`] turns a list of edits into new bytes, and what is not edited stays as it was.

mod check;
mod decode;
mod external;
pub mod limits;
pub mod model;
pub mod node;
mod storage;
pub mod tensor;

pub use model::Model;

pub(crate) use crate::internals::onnx::{schema, splice, wire};
