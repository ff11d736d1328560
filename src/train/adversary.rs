//! The adversary of each training step, and the choice of its target classes.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{
    aim::Aim,
    settings::{AdversaryKind, Settings, Targets},
};
use crate::{
    Result,
    network::{Attack, Batch, Climb, Folded, Latent, Network, Pixel},
};

/// Pushes each image of a batch towards a wrong class.
pub enum Adversary<'a> {
    /// The published one: [`Pixel`], towards the likeliest wrong class.
    Pixel(Pixel),
    /// [`Latent`], towards the classes of a [`TargetChoice`].
    Latent(Latent, TargetChoice<'a>),
}

/// How target classes are chosen.
pub enum TargetChoice<'a> {
    LikeliestWrong,
    /// Uniformly among the wrong classes, with this seed.
    Even(u64),
    /// With the probabilities of an [`Aim`], with this seed.
    Aimed(u64, &'a Aim),
}

impl<'a> Adversary<'a> {
    /// The adversary of the settings, for images of shape `image` = (C, H, W); None for no adversary.
    pub fn of(settings: &Settings, image: [usize; 3], aim: Option<&'a Aim>) -> Option<Self> {
        match settings.adversary {
            AdversaryKind::None => None,
            AdversaryKind::Pixel { steps, step, rho, stop_share } => Some(Self::Pixel(Pixel {
                climb: Climb { steps, stop_share },
                step: step as f32,
                rho: rho.unwrap_or_else(|| Settings::pixel_rho(image)) as f32,
                shared: false,
            })),
            AdversaryKind::Latent { steps, rho } => {
                let choice = match (settings.targets, aim) {
                    (Targets::LikeliestWrong, _) => TargetChoice::LikeliestWrong,
                    (Targets::Suspect, Some(aim)) => TargetChoice::Aimed(settings.seed, aim),
                    (Targets::Random | Targets::Suspect, _) => TargetChoice::Even(settings.seed),
                };
                Some(Self::Latent(Latent { steps, rho: rho as f32 }, choice))
            }
        }
    }

    /// Attacks a batch through the current layer, in training step `step`.
    ///
    /// # Errors
    /// Errors of operators; [`crate::Error::Interrupted`].
    pub fn attack(
        &self,
        network: &mut Network<'_>,
        layer: &Folded,
        batch: &Batch<'_>,
        step: usize,
    ) -> Result<Attack> {
        match self {
            Self::Pixel(pixel) => {
                let targets = batch.clean.logits.likeliest_wrong(&batch.labels);
                Ok(pixel.towards(network, layer, batch, targets)?.0)
            }
            Self::Latent(latent, choice) => {
                latent.towards(network, layer, batch, choice.targets(batch, step))
            }
        }
    }
}

impl TargetChoice<'_> {
    /// A target class for each image, never its label if there are two classes or more.
    fn targets(&self, batch: &Batch<'_>, step: usize) -> Vec<u32> {
        let classes = batch.clean.logits.classes as u32;
        // one random stream per step, so that draws elsewhere do not change these
        let stream = |seed: u64| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(step as u64 + 1);
            rng
        };
        match self {
            Self::Aimed(seed, aim) if classes >= 2 => {
                let mut rng = stream(*seed);
                batch.labels.iter().map(|&label| aim.draw(&mut rng, label)).collect()
            }
            Self::Even(seed) if classes >= 2 => {
                let mut rng = stream(*seed);
                let wrong = |label: &u32| {
                    let t = rng.random_range(0..classes - 1);
                    t + u32::from(t >= *label)
                };
                batch.labels.iter().map(wrong).collect()
            }
            Self::LikeliestWrong | Self::Aimed(..) | Self::Even(_) => {
                batch.clean.logits.likeliest_wrong(&batch.labels)
            }
        }
    }
}
