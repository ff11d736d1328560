//! The way `added`: one change added to the pixels of all images, like a blended trigger.

use std::collections::BTreeMap;

use super::{
    trigger::Trigger,
    way::{Aimed, AttackOutcome, Extent, Purpose, Way, ascent},
};
use crate::{
    Result,
    network::{Climb, Counts, Network, Pixel, scaled_radius},
};

/// Steps of the ascent.
const STEPS: usize = 8;
/// L2 radius for images of 3x32x32, in pixels in [0, 1]: for scores, and in training.
const RADIUS: f32 = 10.0;
const IN_TRAINING: f32 = 4.0;
/// Step per value, as a share of the radius; so long that every step overshoots the ball.
const STEP: f32 = 0.02;

/// [`Pixel`] with one perturbation per target class.
pub struct Added;

impl Added {
    fn pixel(purpose: Purpose, image: [usize; 3]) -> Pixel {
        let radius = match purpose {
            Purpose::Measure => RADIUS,
            Purpose::Train => IN_TRAINING,
        };
        Pixel {
            climb: Climb { steps: STEPS, stop_share: None },
            step: STEP * radius,
            rho: scaled_radius(f64::from(radius), image) as f32,
            shared: true,
        }
    }
}

impl Way for Added {
    fn name(&self) -> &'static str {
        "added"
    }

    fn meaning(&self) -> &'static str {
        "one change added to all images"
    }

    fn follows_layer(&self) -> bool {
        true
    }

    fn stands_for_generated(&self) -> bool {
        true
    }

    fn passes(&self, extent: &Extent) -> Counts {
        ascent(STEPS).times(extent.pushed)
    }

    fn attack(&self, network: &mut Network<'_>, aimed: Aimed<'_>) -> Result<AttackOutcome> {
        let Aimed { layer, batch, targets, purpose, .. } = aimed;
        let [c, h, w] = batch.kept.image()?;
        let pixel = Self::pixel(purpose, [c, h, w]);
        let (attack, changes) = pixel.towards(network, layer, batch, targets)?;
        let triggers = match purpose {
            Purpose::Measure => by_class(&changes.rows()?, &attack.targets),
            Purpose::Train => Vec::new(),
        };
        Ok(AttackOutcome { attack, triggers })
    }
}

/// Mean change of the images of each target class; `changes` has one row per image.
fn by_class(changes: &[f32], targets: &[u32]) -> Vec<(u32, Trigger)> {
    let mut sums: BTreeMap<u32, (Vec<f32>, f32)> = BTreeMap::new();
    let image = (changes.len() / targets.len().max(1)).max(1);
    for (row, class) in changes.chunks_exact(image).zip(targets) {
        let (sum, count) = sums.entry(*class).or_insert_with(|| (vec![0.0; image], 0.0));
        sum.iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
        *count += 1.0;
    }
    let mean = |(class, (sum, count)): (u32, (Vec<f32>, f32))| {
        (class, Trigger::Added { change: sum.into_iter().map(|v| v / count).collect() })
    };
    sums.into_iter().map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_has_the_mean_of_its_images_changes() {
        let found = by_class(&[1.0, 0.0, 5.0, 5.0, 3.0, 1.0], &[4, 2, 4]);
        let change = |values: &[f32]| Trigger::Added { change: values.to_vec() };
        assert_eq!(found, [(2, change(&[5.0, 5.0])), (4, change(&[2.0, 0.5]))]);
    }

    #[test]
    fn the_radius_is_smaller_in_training() {
        let [scan, train] = [Purpose::Measure, Purpose::Train].map(|p| Added::pixel(p, [3, 32, 32]));
        assert_eq!([scan.rho, train.rho], [10.0, 4.0]);
        assert_eq!(Added::pixel(Purpose::Measure, [3, 64, 64]).rho, 20.0);
    }
}
