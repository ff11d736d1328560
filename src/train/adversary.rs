//! The training's adversaries: which of them the settings name, and towards which classes they push.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::settings::Targets;
use crate::{
    Result,
    network::{Attack, Batch, Folded, Latent, Network, Pixel},
    scan::Suspicion,
};

/// An adversary: pushes each image of a batch towards a wrong class of its choice.
pub trait Adversary {
    /// Attacks a batch against the layer as it stands.
    ///
    /// # Errors
    /// What an operator refuses.
    fn attack(&self, network: &mut Network<'_>, layer: &Folded, batch: &Batch<'_>) -> Result<Attack>;
}

/// The published one: [`Pixel`], towards the likeliest wrong class.
impl Adversary for Pixel {
    fn attack(&self, network: &mut Network<'_>, layer: &Folded, batch: &Batch<'_>) -> Result<Attack> {
        self.towards(network, layer, batch, batch.clean.logits.likeliest_wrong(batch.labels))
    }
}

/// [`Latent`], towards classes that are drawn.
pub struct Drawn {
    pub latent: Latent,
    pub targets: Targets,
    /// Of the targets' draw.
    pub seed: u64,
    /// For [`Targets::Suspect`].
    pub suspicion: Option<Suspicion>,
}

impl Drawn {
    /// A class for each image, and never its own.
    fn targets(&self, batch: &Batch<'_>) -> Vec<u32> {
        let classes = batch.clean.logits.classes as u32;
        if self.targets == Targets::LikeliestWrong || classes < 2 {
            return batch.clean.logits.likeliest_wrong(batch.labels);
        }
        // a stream of its own for each step: what is drawn does not depend on who else draws
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(batch.step as u64 + 1);
        if let (Targets::Suspect, Some(suspicion)) = (self.targets, &self.suspicion) {
            return batch.labels.iter().map(|&label| suspicion.draw(&mut rng, label)).collect();
        }
        let wrong = |label: &u32| {
            let t = rng.random_range(0..classes - 1);
            t + u32::from(t >= *label)
        };
        batch.labels.iter().map(wrong).collect()
    }
}

impl Adversary for Drawn {
    fn attack(&self, network: &mut Network<'_>, layer: &Folded, batch: &Batch<'_>) -> Result<Attack> {
        self.latent.towards(network, layer, batch, self.targets(batch))
    }
}
