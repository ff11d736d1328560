//! What a training will ask of the network, before it does: what progress is shown by.

use super::{
    pool::FILLS,
    settings::{AdversaryKind, Settings, Targets},
};
use crate::{
    network::{Counts, Network, Part},
    scan::{Extent, measuring},
};

/// A pass of values at the cut forward through the suffix, and back.
const SUFFIX: Counts =
    Counts { prefix_forward: 0, prefix_backward: 0, suffix_forward: 1, suffix_backward: 1 };
/// A pass of images forward through the whole network, and back.
const WHOLE: Counts = Counts { prefix_forward: 1, prefix_backward: 1, suffix_forward: 1, suffix_backward: 1 };

/// Whether a training begins with a measurement.
pub(super) fn measures(settings: &Settings) -> bool {
    settings.targets == Targets::Suspect && settings.epochs > 0
}

/// How many epochs go by between two fillings of the pool.
pub(super) fn epochs_a_fill(settings: &Settings) -> usize {
    settings.epochs.div_ceil(FILLS).max(1)
}

/// The parts after the clean images were kept, with their work.
pub(super) fn parts(
    settings: &Settings,
    network: &Network<'_>,
    image: [usize; 3],
    images: usize,
) -> Vec<(Part, u64)> {
    let fills = settings.epochs.div_ceil(epochs_a_fill(settings));
    let passes = [
        (Part::WarmUp, SUFFIX.times(settings.start.warmup() * images)),
        (
            Part::Measure,
            if measures(settings) {
                measuring(&Extent::of(network, image, images))
            } else {
                Counts::default()
            },
        ),
        // what fills it is not known yet: by an ascent of five steps, about
        (Part::Pool, (SUFFIX + WHOLE.times(5)).times(fills * settings.pool_images().min(images))),
        (Part::Train, a_step(settings).times(settings.epochs * images)),
    ];
    let work = passes.map(|(part, passes)| (part, network.work_of(passes)));
    work.into_iter().filter(|(_, work)| *work > 0).collect()
}

/// Passes of a step for each of its images.
fn a_step(settings: &Settings) -> Counts {
    let ascent = match settings.adversary {
        AdversaryKind::None => Counts::default(),
        AdversaryKind::Latent { steps, .. } => SUFFIX.times(steps + 1),
        AdversaryKind::Pixel { steps, .. } => WHOLE.times(steps) + SUFFIX,
    };
    let pool = if settings.pool.is_some() { SUFFIX } else { Counts::default() };
    SUFFIX + ascent + pool
}
