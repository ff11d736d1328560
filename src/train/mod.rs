//! The training: the layer, the adversaries, the losses, the settings and the training loop. Owns the learned numbers;
//! sees neither the file's bytes nor the judge.
//!
//! [`Trainer::prepare`] runs the frozen network once over the clean images and caches their values at the cut;
//! [`Trainer::train`] runs the two phases of the neural polarizer (NeurIPS 2023, arXiv 2306.16697) and returns the
//! layer as plain numbers.

mod adversary;
mod aim;
mod generator;
pub mod gradients;
mod guard;
pub mod layer;
mod layer_gpu;
pub mod losses;
mod optimizer;
mod plan;
mod pool;
pub mod principal;
mod run;
mod settings;
mod start;
mod trainer;

pub use guard::IdentityMix;
pub use optimizer::{Adam, Optimizer, Sgd};
pub use settings::{
    AdversaryKind, Form, Named, OptimizerKind, Original, PixelPool, Recipe, SETTINGS, Schedule, Setting,
    Settings, Start, Targets, Value,
};
pub use trainer::{Trained, Trainer};
