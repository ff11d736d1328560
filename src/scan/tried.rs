//! The search of ways that try a fixed list of triggers, all on the same images.

use super::{
    trial::{Trial, nearness},
    trigger::{Trigger, changed},
    way::{Extent, Found},
};
use crate::{
    Result,
    network::{Counts, Network},
};

/// Images per trigger, at most.
const IMAGES: usize = 160;
/// Triggers kept per class.
const REMEMBERED: usize = 3;

/// The passes of [`try_each`].
pub(super) fn passes(triggers: &[Trigger], extent: &Extent) -> Counts {
    Counts::forward(triggers.len() * extent.images.min(IMAGES))
}

/// Tries each of `triggers`. A class's score is its highest by any trigger; each trigger's margins have their own
/// z-scores.
///
/// # Errors
/// Errors of operators; [`crate::Error::Interrupted`].
pub(super) fn try_each(network: &mut Network<'_>, trial: &Trial<'_>, triggers: &[Trigger]) -> Result<Found> {
    let classes = trial.kept.original.classes;
    let some = trial.some(IMAGES);
    let labels = trial.kept.labels_of(&some);
    // (trigger, class)
    let mut scores: Vec<Vec<f64>> = Vec::with_capacity(triggers.len());
    for trigger in triggers {
        let mut rows: Vec<Vec<f32>> = Vec::with_capacity(some.len());
        for images in some.chunks(trial.batch.max(1)) {
            trial.watch.check()?;
            let pixels = trial.kept.pixels(images)?;
            let changed = changed(&pixels, images, |_| Some(trigger))?;
            let logits = network.forward(&trial.kept.normalisation.apply(&changed)?, None)?;
            rows.extend(logits.rows().map(<[f32]>::to_vec));
            trial.watch.at(network.work());
        }
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let margins: Vec<_> = (0..classes).map(|class| nearness(&rows, &labels, class)).collect();
        scores.push(trial.z_scores(&margins));
    }
    let of_class = |class: usize| {
        let mut order: Vec<usize> = (0..triggers.len()).collect();
        order.sort_by(|a, b| scores[*b][class].total_cmp(&scores[*a][class]));
        // a trigger with less than half of the best score is not the same trigger
        let most = scores[order[0]][class];
        let near = order.into_iter().filter(|t| scores[*t][class] >= 0.5 * most).take(REMEMBERED);
        near.map(|t| triggers[t].clone()).collect()
    };
    let most = |class: usize| scores.iter().map(|s| s[class]).fold(f64::NEG_INFINITY, f64::max);
    Ok(Found {
        scores: (0..classes).map(most).collect(),
        triggers: (0..classes).map(of_class).collect(),
        scattering: Vec::new(),
    })
}
