//! The way `filtered`: quantisation with or without ordered dithering, noise, blur. They resemble whole-image triggers:
//! coarse colours (BppAttack, arXiv 2205.13383), residuals of steganography (SSBA, arXiv 2012.03816), the interpolation
//! of a warp (WaNet, arXiv 2102.10369). Filters are tried one by one: rounding has no useful gradient.

use super::{
    filter::Filter,
    trial::{Trial, nearness},
    trigger::{Trigger, changed},
    way::{Aimed, AttackOutcome, Extent, Found, Way},
};
use crate::{
    Result,
    network::{Counts, Network, gather},
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
/// Images per filter, at most.
const IMAGES: usize = 160;
/// Filters kept per class.
const REMEMBERED: usize = 3;

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
        Counts::forward(FILTERS.len() * extent.images.min(IMAGES))
    }

    /// A class's score is its highest by any filter; each filter's margins have their own z-scores.
    fn search(&self, network: &mut Network<'_>, trial: &Trial<'_>) -> Result<Found> {
        let classes = trial.kept.original.classes;
        let some = trial.some(IMAGES);
        let labels = trial.kept.labels_of(&some);
        // (filter, class)
        let mut scores: Vec<Vec<f64>> = Vec::with_capacity(FILTERS.len());
        for filter in &FILTERS {
            let mut rows: Vec<Vec<f32>> = Vec::with_capacity(some.len());
            for images in some.chunks(trial.batch.max(1)) {
                trial.watch.check()?;
                let pixels = gather(&trial.kept.pixels, images)?;
                let changed = changed(&pixels, images, |_| Some(filter))?;
                let logits = network.forward(&trial.kept.normalisation.apply(&changed)?, None)?;
                rows.extend(logits.rows().map(<[f32]>::to_vec));
                trial.watch.at(network.work());
            }
            let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
            let margins: Vec<_> = (0..classes).map(|class| nearness(&rows, &labels, class)).collect();
            scores.push(trial.z_scores(&margins));
        }
        let of_class = |class: usize| {
            let mut order: Vec<usize> = (0..FILTERS.len()).collect();
            order.sort_by(|a, b| scores[*b][class].total_cmp(&scores[*a][class]));
            // a filter with less than half of the best score is not the same trigger
            let most = scores[order[0]][class];
            let near = order.into_iter().filter(|f| scores[*f][class] >= 0.5 * most).take(REMEMBERED);
            near.map(|f| FILTERS[f].clone()).collect()
        };
        let most = |class: usize| scores.iter().map(|s| s[class]).fold(f64::NEG_INFINITY, f64::max);
        Ok(Found {
            scores: (0..classes).map(most).collect(),
            triggers: (0..classes).map(of_class).collect(),
            scattering: Vec::new(),
        })
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
