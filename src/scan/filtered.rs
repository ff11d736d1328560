//! Images filtered: fewer levels, with or without ordered dithering, noise, blur. Whole-image triggers are often near to one of
//! these: coarse colours (BppAttack, arXiv 2205.13383), the faint residuals of steganography (SSBA, arXiv 2012.03816), the
//! interpolation of a warp (WaNet, arXiv 2102.10369). Gradients do not lead there: rounding has none, and a change that is the
//! same for all images is none of them. So filters, as blocks, are tried, not climbed to.

use super::{
    filter::Filter,
    trial::{Trial, nearness},
    trigger::{Trigger, changed},
    way::{Aimed, Brought, Extent, Found, Way},
};
use crate::{
    Result,
    network::{Counts, Network, gather},
};

/// What is tried. Mild ones alone: under strong ones (two levels, say) networks without a backdoor, too, answer all images
/// with one class or another.
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
/// Images that every filter is tried on, at most.
const IMAGES: usize = 160;
/// Filters of a class that are remembered.
const REMEMBERED: usize = 3;
/// All of [`FILTERS`], one after the other.
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

    /// Filters are nearest to what triggers do, and the milder the change, the more answers come back right.
    fn is_preferred(&self) -> bool {
        true
    }

    fn passes(&self, extent: &Extent) -> Counts {
        Counts::forward(FILTERS.len() * extent.images.min(IMAGES))
    }

    /// A class's score is its highest by any filter, each in the z-scores of its own margins.
    fn search(&self, network: &mut Network<'_>, trial: &Trial<'_>) -> Result<Found> {
        let classes = trial.kept.original.classes;
        let some = trial.some(IMAGES);
        let labels = trial.kept.labels_of(&some);
        // by filter and class
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
            // one that does half as much is another thing than the best one
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

    fn attack(&self, network: &mut Network<'_>, aimed: Aimed<'_>) -> Result<Brought> {
        aimed.by_found(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_images_and_odd_ones_go_through() {
        for shape in [[1, 1, 1], [1, 7, 3], [5, 2, 2]] {
            for filter in &FILTERS {
                let mut image = vec![0.4; shape.iter().product()];
                filter.put_on(&mut image, shape, 3);
                assert!(image.iter().all(|v| (0.0..=1.0).contains(v)), "{filter:?} {shape:?}");
            }
        }
    }
}
