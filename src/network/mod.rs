//! The frozen network, cut in two at the site: passes with and without tapes, the cached values of the clean images at
//! the cut, and gradient attacks on images and on values. Plans the memory for them; knows no training and no way of
//! attack by name.

pub mod attack;
mod budget;
mod deviations;
mod folded;
mod frozen;
mod kept;
mod latent;
pub mod losses;
mod normalisation;
mod prepare;
mod record;

pub use attack::{Attack, Batch, Climb, Pass, Pixel, scaled_radius};
pub use budget::{Load, Memory, Options};
pub(crate) use folded::identity;
pub use folded::{Folded, from_rows, rows};
pub use frozen::{AtCut, Counts, CutGradients, End, Network, PerImage, Tapes, concatenate, gather};
pub use kept::{Kept, Samples};
pub use latent::Latent;
pub use losses::Logits;
pub use normalisation::Normalisation;
pub use prepare::{Demand, Prepared, Subject};
pub use record::{EpochRecord, Event, Observer, Overall, Phase, RunPart, Watch, Watched, WorkPlan};
