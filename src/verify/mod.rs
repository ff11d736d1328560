//! Verification: the written file is compared with the trained network by a second runtime that shares no code or state
//! with training. Also computes the reported measures.

pub mod diff;
pub mod evaluate;
pub mod judge;
mod monitor;
pub mod parity;
pub mod reference;
mod tract;

pub use evaluate::AttackRates;
pub use judge::{Fed, Form, Judge, Rows};
pub use monitor::Monitor;
pub use parity::{Parity, TOLERANCE};
