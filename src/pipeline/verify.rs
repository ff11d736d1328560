//! Verification: a purified file is the original plus one layer, and two runtimes agree on it.

use std::path::Path;

use candle_core::Device;

use super::{
    Job, RunOptions,
    classifier::Classifier,
    observer::{Observer, Watcher},
    others,
    outcome::Verification,
    probe::Probe,
    proof::{self, Written},
};
use crate::{
    Error, Result,
    data::ImageSet,
    onnx::Model,
    site,
    verify::{TOLERANCE, diff::Declared},
};

/// Result of [`verify`].
#[derive(Clone, Debug)]
pub struct Verified {
    /// The checks that were made.
    pub verification: Verification,
    /// The declared layer and its provenance.
    pub declared: Declared,
    /// Its site, in the notation of a job's `site`.
    pub site: String,
    /// True if the runtimes were compared on noise, for lack of images.
    pub noise: bool,
}

/// Compares the job's model, the original, with the file at `purified`: byte by byte, and in both runtimes on at most
/// `most` of the job's images, or on noise without images. Labels are not needed.
///
/// # Errors
/// [`Error::Check`] if a check fails; invalid settings or inputs; [`Error::Interrupted`].
pub fn verify(
    job: &Job<'_>,
    purified: &Path,
    most: usize,
    run: &RunOptions,
    observer: &mut dyn Observer,
) -> Result<Verified> {
    let mut classifier = Classifier::of(job)?;
    let job = &classifier.job(job)?;
    let mut verification = Verification::new(TOLERANCE);
    // before any image is read: if the structure is wrong, nothing else matters
    let written = Model::read(purified)?;
    let declared = proof::structure(job.model, &written, &mut verification)?;
    let watcher = Watcher::new(observer);
    run.install(|| {
        let target = classifier.target(&job.preprocessing)?;
        let probe = match job.images {
            Some(source) => {
                let classes = source.classes().unwrap_or_default();
                let set = ImageSet::open(source, &classes, &target)?;
                Probe::of(&[&set], &job.preprocessing, most)?
            }
            None => noise(job, &classifier, most)?,
        };
        let file = Rewritten { path: purified, model: &written, declared: &declared, run };
        prove(&classifier, file, &probe, &mut verification, &watcher)
    })?;
    let site = site::text_of(job.model, &declared.place);
    Ok(Verified { verification, declared, site, noise: job.images.is_none() })
}

/// A rewritten file, as read back.
pub(super) struct Rewritten<'a> {
    pub path: &'a Path,
    pub model: &'a Model,
    pub declared: &'a Declared,
    pub run: &'a RunOptions,
}

/// [`proof::Written::prove`] with a new reference network.
pub(super) fn prove(
    classifier: &Classifier<'_>,
    file: Rewritten<'_>,
    probe: &Probe,
    verification: &mut Verification,
    watcher: &Watcher<'_>,
) -> Result<()> {
    let network = classifier.network(classifier.model, probe.shape, &Device::Cpu)?;
    let Rewritten { path, model: purified, declared, run } = file;
    Written { classifier, network: &network, path, purified, declared, run }.prove(
        probe,
        verification,
        watcher,
    )?;
    let layer = (&declared.place, &declared.layer);
    verification.other_outputs = others::compare(classifier, path, layer, probe, run.judge, watcher)?;
    Ok(())
}

/// `n` images of noise.
///
/// # Errors
/// [`Error::Setting`] if the size is neither static in the model nor given.
pub(super) fn noise(job: &Job<'_>, classifier: &Classifier<'_>, n: usize) -> Result<Probe> {
    let target = classifier.target(&job.preprocessing)?;
    let Some([h, w]) = target.size else {
        return Err(Error::setting("size", "is required, because the model's input size is dynamic"));
    };
    let mut probe = Probe::random([target.channels, h, w], &job.preprocessing, n);
    if classifier.takes_integers() {
        probe.x.iter_mut().for_each(|x| *x = x.round());
    }
    Ok(probe)
}
