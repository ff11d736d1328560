//! Verification: the written file is compared with the trained network by a second runtime that shares no code or state
//! with training. Also computes the reported measures.

pub mod bundle;
mod cut;
pub mod diff;
pub mod evaluate;
pub mod judge;
mod monitor;
mod onnxruntime;
pub mod parity;
pub mod pieces;
mod prune;
mod readable;
pub mod reference;
pub mod rounding;
mod runtime;
mod tract;

pub use evaluate::AttackRates;
pub use judge::{Choice as JudgeChoice, Judge};
pub use monitor::Monitor;
pub use parity::{Parity, TOLERANCE};
pub use runtime::{Fed, Form, Rows};
