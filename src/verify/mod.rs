//! The written file against the trained network, asked of a second runtime that shares no code or state with the path
//! that trained it; and the measures that are reported. Knows nothing of training.

pub mod diff;
pub mod evaluate;
pub mod judge;
pub mod parity;
pub mod reference;
mod watch;

pub use evaluate::Attack;
pub use judge::{Form, Judge};
pub use parity::{Parity, TOLERANCE};
pub use watch::Watch;
