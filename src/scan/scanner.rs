//! The scan: all ways, on evenly spaced clean images, against the original network.

use super::{
    findings::{Findings, Measured},
    list::WAYS,
    settings::{BATCH, images_a_class},
    trial::{Trial, mean_margin},
    way::{Aimed, Extent, Found, NOTHING, Purpose, Way},
};
use crate::{
    Error, Result,
    base::rows::evenly,
    network::{
        Batch, Counts, Demand, Folded, Kept, Network, Observer, Options, Prepared, RunPart, Subject, Watch,
        Watched,
    },
};

/// A network and its clean images, prepared for a scan.
pub struct Scanner<'m> {
    prepared: Prepared<'m>,
    extent: Extent,
}

impl<'m> Scanner<'m> {
    /// Cuts the network and runs it once over the clean images.
    ///
    /// # Errors
    /// Errors of lowering and cutting; [`Error::Setting`] without an image or with too little memory;
    /// [`Error::Interrupted`].
    pub fn prepare(subject: Subject<'m, '_>, options: &Options, observer: &mut dyn Observer) -> Result<Self> {
        let image = subject.image;
        let images = subject.clean.pixels.len() / image.iter().product::<usize>().max(1);
        let demand = Demand { batch: BATCH, attacked: false, pool: 0 };
        let plan = |network: &Network<'_>| {
            let work = measuring(&Extent::of(network, image, images));
            vec![(RunPart::Measure, network.work_of(work))]
        };
        let prepared = Prepared::new(subject, demand, options, plan, &Watched::new(observer))?;
        let extent = Extent::of(&prepared.network, image, images);
        Ok(Self { prepared, extent })
    }

    /// Accuracy of the original network on these images, in percent.
    pub fn original_accuracy(&self) -> f64 {
        self.prepared.original_accuracy()
    }

    /// Scores every class by every way.
    ///
    /// # Errors
    /// Errors of operators; [`Error::Interrupted`]; [`Error::Setting`] if all images are of one class.
    pub fn scan(mut self, observer: &mut dyn Observer) -> Result<Findings> {
        let watch = Watched::new(observer);
        let Prepared { network, kept, .. } = &mut self.prepared;
        let work = network.work_of(measuring(&self.extent));
        watch.plan(&crate::network::WorkPlan { parts: vec![(RunPart::Measure, work)] }, false);
        let images: Vec<usize> = (0..kept.count()).collect();
        measure(network, kept, &images, BATCH, &watch)
    }
}

impl Extent {
    /// The extent for a network and this many images of shape `image` = (C, H, W).
    pub fn of(network: &Network<'_>, image: [usize; 3], images: usize) -> Self {
        let classes = network.classes();
        Self { classes, image, images, pushed: classes * images_a_class(classes).min(images) }
    }
}

/// Estimated passes of [`measure`].
pub fn measuring(extent: &Extent) -> Counts {
    let clean = Counts { suffix_forward: extent.pushed, ..Counts::default() };
    measured(extent.classes).fold(clean, |sum, way| sum + way.passes(extent))
}

/// The ways used for a network with this many classes.
fn measured(classes: usize) -> impl Iterator<Item = &'static dyn Way> {
    WAYS.into_iter().filter(move |way| !way.is_left_out(classes))
}

/// Scores the classes of the network without a layer, each on images of other classes, evenly spaced in `images`
/// (indices into the kept ones); at most `batch` at a time.
///
/// # Errors
/// Errors of operators; [`Error::Interrupted`]; [`Error::Setting`] if all images are of one class.
pub fn measure(
    network: &mut Network<'_>,
    kept: &Kept,
    images: &[usize],
    batch: usize,
    watch: &dyn Watch,
) -> Result<Findings> {
    watch.begin(RunPart::Measure, network.work());
    // larger batches on a GPU; results do not depend on it
    let batch = if network.device().is_cpu() { batch } else { batch.max(network.prefix_chunk()) };
    let trial = Trial::new(kept, images, batch, watch);
    let classes = kept.original.classes;
    let (ascents, tried): (Vec<_>, Vec<_>) = measured(classes).partition(|way| way.follows_layer());
    let mut found = climb(network, &trial, ascents)?;
    for way in tried {
        found.push(Measured { way, found: way.search(network, &trial)? });
    }
    let place = |measured: &Measured| WAYS.iter().position(|way| way.name() == measured.way.name());
    found.sort_by_key(place);
    watch.end(network.work(), true);
    Ok(Findings::of(found, images_a_class(classes).min(images.len()), images.len()))
}

/// Scores by ways that follow the layer. They share the batches and their clean passes.
fn climb(network: &mut Network<'_>, trial: &Trial<'_>, ways: Vec<&'static dyn Way>) -> Result<Vec<Measured>> {
    let kept = trial.kept;
    let classes = kept.original.classes;
    let each = images_a_class(classes).min(trial.images.len());
    let layer = Folded::identity(kept.all().edge.dim(1)?, network.device())?;
    let mut margins = vec![Vec::with_capacity(classes); ways.len()];
    let mut triggers = vec![vec![Vec::new(); classes]; ways.len()];
    let all: Vec<u32> = (0..classes as u32).collect();
    for some in all.chunks((trial.batch / each.max(1)).max(1)) {
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for &target in some {
            let others: Vec<usize> =
                trial.images.iter().copied().filter(|&i| kept.labels[i] != target).collect();
            rows.extend(evenly(others.len(), each).map(|i| others[i]));
            targets.resize(rows.len(), target);
        }
        if rows.is_empty() {
            return Err(Error::setting("images", "all clean images are of one class"));
        }
        let batch = Batch::new(network, &layer, kept, &rows, trial.watch)?;
        for ((way, margins), triggers) in ways.iter().zip(&mut margins).zip(&mut triggers) {
            let targets = targets.clone();
            let (layer, batch, purpose) = (&layer, &batch, Purpose::Measure);
            let outcome = way.attack(network, Aimed { layer, batch, targets, found: &NOTHING, purpose })?;
            let (logits, targets) = (&outcome.attack.pass.logits, &outcome.attack.targets);
            margins.extend(some.iter().map(|&c| mean_margin(logits.rows(), targets, |t| t == c, c)));
            for (class, trigger) in outcome.triggers {
                triggers[class as usize].push(trigger);
            }
        }
    }
    let measured = ways.into_iter().zip(margins).zip(triggers).map(|((way, margins), triggers)| {
        let found = Found { scores: trial.z_scores(&margins), triggers, scattering: Vec::new() };
        Measured { way, found }
    });
    Ok(measured.collect())
}
