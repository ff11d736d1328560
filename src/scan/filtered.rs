//! The way `filtered`: quantisation with or without ordered dithering, noise, blur. They resemble whole-image triggers:
//! coarse colours (BppAttack, arXiv 2205.13383), residuals of steganography (SSBA, arXiv 2012.03816), the interpolation
//! of a warp (WaNet, arXiv 2102.10369). Filters are tried one by one: rounding has no useful gradient.

use super::{
    filter::Filter,
    trial::Trial,
    tried::{passes, try_each},
    trigger::Trigger,
    way::{Aimed, AttackOutcome, Extent, Found, Way},
};
use crate::{
    Result,
    network::{Counts, Network},
};

/// The filters tried. Only mild ones: strong ones (two levels, say) make networks without a backdoor answer all images
/// with the same class too.
const FILTERS: [Trigger; 9] = [
    Trigger::Filter(Filter::Levels { levels: 4, dithered: true }),
    Trigger::Filter(Filter::Levels { levels: 8, dithered: true }),
    Trigger::Filter(Filter::Levels { levels: 16, dithered: true }),
    Trigger::Filter(Filter::Levels { levels: 8, dithered: false }),
    Trigger::Filter(Filter::Noise(0.03)),
    Trigger::Filter(Filter::Noise(0.06)),
    Trigger::Filter(Filter::Noise(0.1)),
    Trigger::Filter(Filter::Blur(0.6)),
    Trigger::Filter(Filter::Blur(1.0)),
];

/// Tries all [`FILTERS`].
pub struct Filtered;

impl Way for Filtered {
    fn name(&self) -> &'static str {
        "filtered"
    }

    fn meaning(&self) -> &'static str {
        "fewer levels, with or without dithering, noise or blur on all"
    }

    fn follows_layer(&self) -> bool {
        false
    }

    /// Filters resemble triggers the most, and training against a milder change restores more answers.
    fn is_preferred(&self) -> bool {
        true
    }

    fn passes(&self, extent: &Extent) -> Counts {
        passes(&FILTERS, extent)
    }

    fn search(&self, network: &mut Network<'_>, trial: &Trial<'_>) -> Result<Found> {
        try_each(network, trial, &FILTERS)
    }

    fn attack(&self, network: &mut Network<'_>, aimed: Aimed<'_>) -> Result<AttackOutcome> {
        aimed.by_found(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_accept_tiny_and_odd_image_shapes() {
        for shape in [[1, 1, 1], [1, 7, 3], [5, 2, 2]] {
            for filter in &FILTERS {
                let mut image = vec![0.4; shape.iter().product()];
                filter.put_on(&mut image, shape, 3);
                assert!(image.iter().all(|v| (0.0..=1.0).contains(v)), "{filter:?} {shape:?}");
            }
        }
    }
}
