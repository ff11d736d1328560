//! A graph around a site, ready to be asked: the frozen network cut in two, what its clean images bring to the cut, passes
//! with and without tapes, and what moves images or values against the gradient. Owns what of it is kept in memory; knows
//! no way of attack by name and no training.

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
pub use record::{EpochRecord, Event, Observer, Overall, Part, Phase, Plan, Watch, Watched};
