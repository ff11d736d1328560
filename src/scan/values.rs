//! The way `values`: the values at the cut, moved for each image by itself.

use super::way::{Aimed, AttackOutcome, Extent, Way};
use crate::{
    Result,
    network::{Counts, Latent, Network},
};

/// Gradient steps, and the radius in standard deviations.
const LATENT: Latent = Latent { steps: 4, rho: 1.4 };

/// [`Latent`] with the same radius for all images.
pub struct Values;

impl Way for Values {
    fn name(&self) -> &'static str {
        "values"
    }

    fn meaning(&self) -> &'static str {
        "the values before the last layers, moved"
    }

    fn follows_layer(&self) -> bool {
        true
    }

    fn changes_images(&self) -> bool {
        false
    }

    fn passes(&self, extent: &Extent) -> Counts {
        Counts { suffix_forward: LATENT.steps, suffix_backward: LATENT.steps, ..Counts::default() }
            .times(extent.pushed)
    }

    fn attack(&self, network: &mut Network<'_>, aimed: Aimed<'_>) -> Result<AttackOutcome> {
        Ok(LATENT.towards(network, aimed.layer, aimed.batch, aimed.targets)?.into())
    }
}
