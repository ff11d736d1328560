//! Whether a purified file is the original and one layer, and whether two runtimes agree on it.

use std::path::Path;

use candle_core::Device;

use super::{
    Job, RunOptions,
    classifier::Classifier,
    observer::{Observer, Watcher},
    outcome::Verification,
    probe::Probe,
    proof::{self, Written},
};
use crate::{
    Error, Result, data,
    data::Classes,
    onnx::Model,
    site,
    verify::{TOLERANCE, diff::Declared, reference::Reference},
};

/// A purified file that holds the original and one layer, and on which two runtimes agree.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Each check.
    pub verification: Verification,
    /// The layer that the file declares, and what it says of itself.
    pub declared: Declared,
    /// Where it stands, as `site` names it.
    pub site: String,
    /// True where the runtimes were asked about noise: there were no images.
    pub noise: bool,
}

/// Compares the job's model, the original, with the file at `purified`: byte for byte, and both through both runtimes on at
/// most `most` of the job's images, or on noise where it has none. Labels are not needed.
///
/// # Errors
/// [`Error::Check`] where a check does not hold; what is asked or read is wrong; [`Error::Interrupted`].
pub fn verify(
    job: &Job<'_>,
    purified: &Path,
    most: usize,
    run: &RunOptions,
    observer: &mut dyn Observer,
) -> Result<Verified> {
    let classifier = Classifier::of(job.model)?;
    let mut verification = Verification::new(TOLERANCE);
    // before any image is read: what is not the declared rewrite needs no second look
    let declared = proof::structure(job.model, &Model::read(purified)?, &mut verification)?;
    let watcher = Watcher::new(observer);
    run.install(|| {
        let target = classifier.target(&job.preprocessing)?;
        let probe = match job.images {
            Some(source) => {
                let classes = source.classes().unwrap_or_else(Classes::default);
                Probe::of(&[&data::load(source, &classes, &target)?], &job.preprocessing, most)
            }
            None => noise(job, &classifier, most)?,
        };
        prove(&classifier, purified, &declared, &probe, &mut verification, &watcher)
    })?;
    let site = site::text_of(job.model, &declared.place);
    Ok(Verified { verification, declared, site, noise: job.images.is_none() })
}

/// As [`proof::Written::prove`], with a network made for it.
pub(super) fn prove(
    classifier: &Classifier<'_>,
    path: &Path,
    declared: &Declared,
    probe: &Probe,
    verification: &mut Verification,
    watcher: &Watcher<'_>,
) -> Result<()> {
    let network = Reference::new(classifier.model, probe.shape, &Device::Cpu)?;
    Written { classifier, network: &network, path, declared }.prove(probe, verification, watcher)
}

/// `n` images of noise.
///
/// # Errors
/// The size is neither in the model nor requested.
pub(super) fn noise(job: &Job<'_>, classifier: &Classifier<'_>, n: usize) -> Result<Probe> {
    let target = classifier.target(&job.preprocessing)?;
    let Some([h, w]) = target.size else {
        return Err(Error::setting("size", "the model leaves its input's size open, so one is needed"));
    };
    Ok(Probe::random([target.channels, h, w], &job.preprocessing, n))
}
