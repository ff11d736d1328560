//! A saved layer put into the model it was trained for, and proved as a trained one is.

use std::path::Path;

use super::{
    Job, RunOptions,
    classifier::Classifier,
    observer::{Observer, Watcher},
    outcome::Verification,
    probe::IMAGES,
    proof,
    purify::Staging,
    verify::{noise, prove},
};
use crate::{
    Error, Result,
    onnx::Model,
    rewrite::{self, LayerFile, Output},
    verify::{TOLERANCE, diff::Declared},
};

/// A model with a saved layer in it, proved on noise: what [`apply`] gives.
pub struct Applied {
    /// Each check.
    pub verification: Verification,
    /// The layer, and what the file says of itself.
    pub declared: Declared,
    staging: Staging,
}

impl Applied {
    /// Puts the file at `path`, in one step. A file that is there is replaced only with `overwrite`.
    ///
    /// # Errors
    /// As [`super::Purified::save`].
    pub fn save(self, path: &Path, overwrite: bool) -> Result<()> {
        self.save_to(Output::new(path, &[], overwrite)?)
    }

    /// Puts the file in place, in one step.
    ///
    /// # Errors
    /// As [`super::Purified::save_to`].
    pub fn save_to(self, output: Output) -> Result<()> {
        self.staging.save_to(output)
    }
}

/// Inserts `layer` into the job's model: byte for byte what its purification wrote.
///
/// # Errors
/// A layer of another model; [`Error::Check`] where a check does not hold; [`Error::Interrupted`].
pub fn apply(
    job: &Job<'_>,
    layer: &LayerFile,
    run: &RunOptions,
    observer: &mut dyn Observer,
) -> Result<Applied> {
    let classifier = Classifier::of(job.model)?;
    let staging = Staging::of(run, job.model, &rewrite::apply(job.model, layer)?)?;
    let mut verification = Verification::new(TOLERANCE);
    let declared = proof::structure(job.model, &Model::read(staging.path())?, &mut verification)?;
    if declared.layer != layer.layer || declared.place != layer.place {
        return Err(Error::check("structure", "the written layer is not the one that was to be inserted"));
    }
    let watcher = Watcher::new(observer);
    run.install(|| {
        let probe = noise(job, &classifier, IMAGES)?;
        prove(&classifier, staging.path(), &declared, &probe, &mut verification, &watcher)
    })?;
    Ok(Applied { verification, declared, staging })
}
