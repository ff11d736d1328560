//! The trait of a way of attack, with its inputs and results.

use std::fmt;

use super::{
    settings::FEW_CLASSES,
    trial::Trial,
    trigger::{Trigger, attack_by},
};
use crate::{
    Result,
    network::{Attack, Batch, Counts, Folded, Network},
};

/// A way of pushing images towards a class.
///
/// A way that follows the layer is a gradient ascent: its score comes from its attacks, and [`Way::search`] is never
/// called. Any other way searches once, against the network without a layer, and attacks with the triggers it found.
pub trait Way: Sync {
    /// Its name in reports and tables: one lower-case word.
    fn name(&self) -> &'static str;

    /// What it does to images, for help texts and documents: `one change added to all images`.
    fn meaning(&self) -> &'static str;

    /// Whether each attack is optimised against the current layer.
    fn follows_layer(&self) -> bool;

    /// Whether it changes images rather than values at the cut. Only such ways fill the pool of a training.
    fn changes_images(&self) -> bool {
        true
    }

    /// Whether a class that stands out by it is trained against by this way alone, even if another way scores higher.
    fn is_preferred(&self) -> bool {
        false
    }

    /// Whether the generator is trained against besides. Triggers that differ between images score highest by this way,
    /// but survive a training against it alone.
    fn stands_for_generated(&self) -> bool {
        false
    }

    /// Estimated passes of the network that measuring takes, for the progress display.
    fn passes(&self, extent: &Extent) -> Counts;

    /// Searches for triggers on the clean images. The default finds nothing.
    ///
    /// # Errors
    /// Errors of operators; [`crate::Error::Interrupted`].
    fn search(&self, network: &mut Network<'_>, trial: &Trial<'_>) -> Result<Found> {
        let _ = (network, trial);
        Ok(Found::default())
    }

    /// Pushes each image of a batch towards its target class.
    ///
    /// # Errors
    /// Errors of operators; [`crate::Error::Interrupted`].
    fn attack(&self, network: &mut Network<'_>, aimed: Aimed<'_>) -> Result<AttackOutcome>;
}

impl dyn Way {
    /// Whether it is skipped for networks with this many classes: it runs the whole network once per step and class.
    pub fn is_left_out(&self, classes: usize) -> bool {
        classes > FEW_CLASSES && self.follows_layer() && self.changes_images()
    }
}

impl fmt::Debug for dyn Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Size of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub classes: usize,
    /// (C, H, W).
    pub image: [usize; 3],
    /// Number of clean images.
    pub images: usize,
    /// Attacked images, summed over all target classes.
    pub pushed: usize,
}

/// A batch to attack and its targets.
pub struct Aimed<'a> {
    pub layer: &'a Folded,
    pub batch: &'a Batch<'a>,
    /// Target class of each image.
    pub targets: Vec<u32>,
    /// Result of [`Way::search`]; [`NOTHING`] for a way that follows the layer.
    pub found: &'a Found,
    pub purpose: Purpose,
}

impl Aimed<'_> {
    /// Attacks with the triggers found for each image's target class, cycling through them.
    ///
    /// # Errors
    /// Errors of operators.
    pub fn by_found(self, network: &mut Network<'_>) -> Result<AttackOutcome> {
        let Self { layer, batch, targets, found, .. } = self;
        let classes = targets.clone();
        let by = |i: usize| {
            let best = found.triggers.get(classes[i] as usize).filter(|best| !best.is_empty())?;
            best.get(i % best.len())
        };
        Ok(attack_by(network, layer, batch, targets, by)?.into())
    }
}

/// Purpose of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To score a class.
    Measure,
    /// To train against it, with smaller changes: those of the scan visibly damage images.
    Train,
}

/// An attack and its triggers.
pub struct AttackOutcome {
    pub attack: Attack,
    /// (class, trigger) for each target class, if the way uses one trigger per class and the purpose is to measure.
    pub triggers: Vec<(u32, Trigger)>,
}

impl From<Attack> for AttackOutcome {
    fn from(attack: Attack) -> Self {
        Self { attack, triggers: Vec::new() }
    }
}

/// What a way found in a network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Robust z-score of each class: how much further images move towards it than towards the median class, in units of
    /// 1.4826 times the median absolute deviation.
    pub scores: Vec<f64>,
    /// The best triggers of each class, in descending order; empty for ways without a trigger common to all images.
    pub triggers: Vec<Vec<Trigger>>,
    /// The triggers that scatter the most images, in descending order, with the share in [0, 1]: of the correctly
    /// classified images, those moved to a wrong class other than the most frequent one. An all-to-all backdoor
    /// scatters most images, a backdoor to a single class none.
    pub scattering: Vec<(Trigger, f64)>,
}

/// The result of a way that found nothing or did not search.
pub static NOTHING: Found = Found { scores: Vec::new(), triggers: Vec::new(), scattering: Vec::new() };

/// Passes of a gradient ascent on the pixels of one image, including one to rebuild the clean image's tape.
pub(super) fn ascent(steps: usize) -> Counts {
    Counts {
        prefix_forward: steps + 1,
        prefix_backward: steps,
        suffix_forward: steps,
        suffix_backward: steps,
    }
}
