//! A way of bringing images towards a class: what it is asked, and what it answers.

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

/// A way of bringing images towards a class.
///
/// One that follows the layer is an ascent: it is measured by what its attacks reach, and its [`Way::search`] is never asked.
/// One that does not is tried: it searches once, against the network without a layer, and attacks with what it found.
pub trait Way: Sync {
    /// As reports and tables name it: one lower-case word.
    fn name(&self) -> &'static str;

    /// What is done to images, for help and documents: `one change added to all`.
    fn meaning(&self) -> &'static str;

    /// Whether it searches anew against the layer as it stands whenever it attacks.
    fn follows_layer(&self) -> bool;

    /// Whether it changes images; one that does not moves values at the cut. Only changed images fill a training's pool.
    fn changes_images(&self) -> bool {
        true
    }

    /// Whether it is trained against alone wherever a class stands out by it, even where another way says more.
    fn is_preferred(&self) -> bool {
        false
    }

    /// Whether triggers that differ from image to image are trained against beside it: they lie nearest to it and stay where
    /// it alone is fought.
    fn stands_for_generated(&self) -> bool {
        false
    }

    /// Passes of the network that measuring takes, about: what progress is shown by.
    fn passes(&self, extent: &Extent) -> Counts;

    /// Tries what it knows on the clean images.
    ///
    /// # Errors
    /// What an operator refuses, [`crate::Error::Interrupted`].
    fn search(&self, network: &mut Network<'_>, trial: &Trial<'_>) -> Result<Found> {
        let _ = (network, trial);
        Ok(Found::default())
    }

    /// Brings the images of a batch towards the classes that they are aimed at.
    ///
    /// # Errors
    /// What an operator refuses, [`crate::Error::Interrupted`].
    fn attack(&self, network: &mut Network<'_>, aimed: Aimed<'_>) -> Result<Brought>;
}

impl dyn Way {
    /// Whether networks with so many classes are not measured by it: each of its steps runs the whole network for each class.
    pub fn is_left_out(&self, classes: usize) -> bool {
        classes > FEW_CLASSES && self.follows_layer() && self.changes_images()
    }
}

impl fmt::Debug for dyn Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much there is to measure.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub classes: usize,
    /// (C, H, W).
    pub image: [usize; 3],
    /// Clean images.
    pub images: usize,
    /// Images that are pushed towards a class, over all classes.
    pub pushed: usize,
}

/// A batch and where it is to be brought.
pub struct Aimed<'a> {
    pub layer: &'a Folded,
    pub batch: &'a Batch<'a>,
    /// A class for each image.
    pub targets: Vec<u32>,
    /// What [`Way::search`] found; [`NOTHING`] for a way that follows the layer.
    pub found: &'a Found,
    pub purpose: Purpose,
}

impl Aimed<'_> {
    /// The attack by the triggers that were found for each image's class, in turn.
    ///
    /// # Errors
    /// What an operator refuses.
    pub fn by_found(self, network: &mut Network<'_>) -> Result<Brought> {
        let Self { layer, batch, targets, found, .. } = self;
        let classes = targets.clone();
        let by = |i: usize| {
            let best = found.triggers.get(classes[i] as usize).filter(|best| !best.is_empty())?;
            best.get(i % best.len())
        };
        Ok(attack_by(network, layer, batch, targets, by)?.into())
    }
}

/// What an attack is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Measuring how near a class lies.
    Measure,
    /// Training against it: changes are smaller, since those of the scan damage images visibly.
    Train,
}

/// An attack, and what was done to the images.
pub struct Brought {
    pub attack: Attack,
    /// For each class that a way with one trigger a class aimed at, that trigger. Only where the purpose is to measure.
    pub triggers: Vec<(u32, Trigger)>,
}

impl From<Attack> for Brought {
    fn from(attack: Attack) -> Self {
        Self { attack, triggers: Vec::new() }
    }
}

/// What a way found in one network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// For each class the robust z-score of how near images come to it: by how many times 1.4826 times the median distance
    /// from the median it lies nearer than the median class.
    pub scores: Vec<f64>,
    /// For each class the triggers that bring images nearest to it, the best first; none for ways that have no one trigger
    /// for all images.
    pub triggers: Vec<Vec<Trigger>>,
    /// Triggers that scatter the most images, the best first, and their share in [0, 1]: of the images answered with their
    /// class those that are then answered with another one, without the class that most of them go to. That is what a
    /// backdoor from all classes to all does; one to a single class scatters none.
    pub scattering: Vec<(Trigger, f64)>,
}

/// What a way found that found nothing, or did not search.
pub static NOTHING: Found = Found { scores: Vec::new(), triggers: Vec::new(), scattering: Vec::new() };

/// Passes of an ascent by the pixels, for one image: the clean image's tape may have to be made.
pub(super) fn ascent(steps: usize) -> Counts {
    Counts {
        prefix_forward: steps + 1,
        prefix_backward: steps,
        suffix_forward: steps,
        suffix_backward: steps,
    }
}
