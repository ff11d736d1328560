//! Inserts a saved layer into the model that it was trained for, and verifies the result.

use std::path::Path;

use super::{
    Job, RunOptions,
    classifier::Classifier,
    observer::{Observer, Watcher},
    outcome::Verification,
    probe::IMAGES,
    proof,
    purify::Staging,
    verify::{Rewritten, noise, prove},
};
use crate::{
    Error, Result,
    onnx::Model,
    rewrite::{self, LayerFile, Output},
    verify::{TOLERANCE, diff::Declared},
};

/// Result of [`apply`]: a model with a saved layer, verified on noise.
pub struct Applied {
    /// The checks that were made.
    pub verification: Verification,
    /// The inserted layer and its declared provenance.
    pub declared: Declared,
    staging: Staging,
}

impl Applied {
    /// Moves the file to `path` atomically. An existing file is replaced only with `overwrite`.
    ///
    /// # Errors
    /// As [`super::Purified::save`].
    pub fn save(self, path: &Path, overwrite: bool) -> Result<()> {
        self.save_to(Output::new(path, &[], overwrite)?)
    }

    /// Moves the file to `output` atomically.
    ///
    /// # Errors
    /// As [`super::Purified::save_to`].
    pub fn save_to(self, output: Output) -> Result<()> {
        self.staging.save_to(output)
    }
}

/// Inserts `layer` into the job's model. The bytes are those that its purification wrote.
///
/// # Errors
/// [`Error::Input`] if the layer was trained for another model; [`Error::Check`] if a check fails;
/// [`Error::Interrupted`].
pub fn apply(
    job: &Job<'_>,
    layer: &LayerFile,
    run: &RunOptions,
    observer: &mut dyn Observer,
) -> Result<Applied> {
    let mut classifier = Classifier::of(job)?;
    let job = &classifier.job(job)?;
    let staging = Staging::of(run, job.model, &rewrite::apply(job.model, layer)?)?;
    let mut verification = Verification::new(TOLERANCE);
    let written = Model::read(staging.path())?;
    let declared = proof::structure(job.model, &written, &mut verification)?;
    if declared.layer != layer.layer || declared.place != layer.place {
        return Err(Error::check("structure", "the written layer differs from the one to insert"));
    }
    let watcher = Watcher::new(observer);
    run.install(|| {
        let probe = noise(job, &classifier, IMAGES)?;
        let file = Rewritten { path: staging.path(), model: &written, declared: &declared, run };
        prove(&classifier, file, &probe, &mut verification, &watcher)
    })?;
    Ok(Applied { verification, declared, staging })
}
