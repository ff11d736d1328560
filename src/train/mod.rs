//! The training: the polarizer, the adversary, the losses, the recipe's settings and the loop over them. Owns the
//! learned numbers; never sees the file's bytes nor the judge.
//!
//! [`Trainer::prepare`] runs the frozen network once over the clean images and keeps what it needs of them;
//! [`Trainer::train`] runs the two phases of the neural polarizer (NeurIPS 2023, arXiv 2306.16697) and gives back the
//! layer as plain numbers.

pub mod adversary;
mod budget;
pub mod calibration;
mod filter;
mod generator;
mod guard;
pub mod kept;
pub mod latent;
pub mod layer;
#[cfg(feature = "cuda")]
mod layer_gpu;
pub mod losses;
pub mod network;
mod optimizer;
mod pool;
pub mod principal;
mod record;
mod settings;
mod stamp;
mod suspicion;
pub mod trainer;
mod trial;
mod warp;

pub use budget::{Memory, Options};
pub use guard::Guard;
pub use kept::Normalisation;
pub use network::{Counts, End, Network};
pub use optimizer::{Adam, Optimizer, Sgd};
pub use record::{EpochRecord, Phase};
pub use settings::{AdversaryKind, Descent, Original, Schedule, Settings, Start, Targets};
pub use suspicion::{Suspicion, Way};
pub use trainer::{Event, Observer, Samples, Trained, Trainer};
