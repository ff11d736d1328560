//! The values at the cut, moved: each image's by itself.

use super::way::{Aimed, Brought, Extent, Way};
use crate::{
    Result,
    network::{Counts, Latent, Network},
};

/// Steps at the cut and how far they go.
const LATENT: Latent = Latent { steps: 4, rho: 1.4 };

/// [`Latent`], for all images by the same strength.
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

    fn attack(&self, network: &mut Network<'_>, aimed: Aimed<'_>) -> Result<Brought> {
        Ok(LATENT.towards(network, aimed.layer, aimed.batch, aimed.targets)?.into())
    }
}
