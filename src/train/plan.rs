//! Estimated work of a training, for the progress display.

use super::{
    pool::FILLS,
    settings::{AdversaryKind, Settings, Targets},
};
use crate::{
    network::{Counts, Network, RunPart},
    scan::{Extent, measuring},
};

/// Forward and backward pass of the suffix.
const SUFFIX: Counts =
    Counts { prefix_forward: 0, prefix_backward: 0, suffix_forward: 1, suffix_backward: 1 };
/// Forward and backward pass of the whole network.
const WHOLE: Counts = Counts { prefix_forward: 1, prefix_backward: 1, suffix_forward: 1, suffix_backward: 1 };

/// Whether the training begins with a scan.
pub(super) fn measures(settings: &Settings) -> bool {
    settings.targets == Targets::Suspect && settings.epochs > 0
}

/// Epochs between two fills of the pool.
pub(super) fn epochs_a_fill(settings: &Settings) -> usize {
    settings.epochs.div_ceil(FILLS).max(1)
}

/// The parts after the preparation, with their work.
pub(super) fn parts(
    settings: &Settings,
    network: &Network<'_>,
    image: [usize; 3],
    images: usize,
) -> Vec<(RunPart, u64)> {
    let fills = settings.epochs.div_ceil(epochs_a_fill(settings));
    let passes = [
        (RunPart::WarmUp, SUFFIX.times(settings.start.warmup() * images)),
        (
            RunPart::Measure,
            if measures(settings) {
                measuring(&Extent::of(network, image, images))
            } else {
                Counts::default()
            },
        ),
        // the ways are not known yet: estimated as an ascent of five steps
        (RunPart::Pool, (SUFFIX + WHOLE.times(5)).times(fills * settings.pool_images().min(images))),
        (RunPart::Train, a_step(settings).times(settings.epochs * images)),
    ];
    let work = passes.map(|(part, passes)| (part, network.work_of(passes)));
    work.into_iter().filter(|(_, work)| *work > 0).collect()
}

/// Passes of a step per image.
fn a_step(settings: &Settings) -> Counts {
    let ascent = match settings.adversary {
        AdversaryKind::None => Counts::default(),
        AdversaryKind::Latent { steps, .. } => SUFFIX.times(steps + 1),
        AdversaryKind::Pixel { steps, .. } => WHOLE.times(steps) + SUFFIX,
    };
    let pool = if settings.pool.is_some() { SUFFIX } else { Counts::default() };
    SUFFIX + ascent + pool
}
