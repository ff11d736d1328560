//! What makes a proof of a rewrite: both files in both of the judge's forms against our executor, and the files' bytes.

use std::path::Path;

use super::{
    classifier::{Classifier, PLAIN_IMAGES},
    observer::Watcher,
    outcome::Verification,
    probe::Probe,
};
use crate::{
    Error, Result,
    base::rows::evenly,
    layer::Layer,
    onnx::Model,
    site::SitePlace,
    verify::{
        Form, Judge, Parity, TOLERANCE,
        diff::{Declared, structural_diff},
        parity,
        reference::Reference,
    },
};

/// Which of the two files is held against our executor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Original,
    Purified,
}

impl Which {
    fn check(self) -> &'static str {
        match self {
            Self::Original => "parity-original",
            Self::Purified => "parity-purified",
        }
    }

    fn optimised(self) -> &'static str {
        match self {
            Self::Original => "parity-original-optimised",
            Self::Purified => "parity-purified-optimised",
        }
    }
}

/// The original in our executor, whose answers to the probe are `ours`, against the original in the judge:
/// `parity-original`.
///
/// # Errors
/// `Check` where they differ by more than the tolerance; what the judge refuses.
pub fn original_against(
    ours: &[Vec<f32>],
    judge: &Judge,
    probe: &Probe,
    verification: &mut Verification,
    watcher: &Watcher<'_>,
) -> Result<()> {
    compare(ours, Which::Original, judge, probe, verification, watcher)
}

/// `purified`, read from its file, is `original` and the layer it declares, nothing else: `structure`.
///
/// # Errors
/// `Check` with the first difference.
pub fn structure(original: &Model, purified: &Model, verification: &mut Verification) -> Result<Declared> {
    let declared = structural_diff(original, purified)?;
    verification.structure = Some("as declared".to_owned());
    Ok(declared)
}

/// A file at `path` that holds the original and `declared`.
pub struct Written<'a> {
    pub classifier: &'a Classifier<'a>,
    pub network: &'a Reference<'a>,
    pub path: &'a Path,
    pub declared: &'a Declared,
}

impl Written<'_> {
    /// Both files against our executor, asked about `probe`: `parity-original`, `parity-purified`.
    ///
    /// # Errors
    /// `Check` where they differ by more than the tolerance; what either runtime refuses.
    pub fn prove(&self, probe: &Probe, verification: &mut Verification, watcher: &Watcher<'_>) -> Result<()> {
        let answers = |layer: Option<(&SitePlace, &Layer)>| {
            watcher.part("answers", probe.n, |watch| probe.answers(self.network, layer, watch))
        };
        let judge = self.classifier.judge(probe.shape)?;
        original_against(&answers(None)?, &judge, probe, verification, watcher)?;
        let ours = answers(Some((&self.declared.place, &self.declared.layer)))?;
        let judge = self.classifier.judge_of(self.path, probe.shape)?;
        purified_against(&ours, &judge, probe, verification, watcher)
    }
}

/// The rewritten file, read from disk by the judge, against the original network with the layer in our executor, whose
/// answers to the probe are `ours`: `parity-purified`.
///
/// # Errors
/// As [`original_against`].
pub fn purified_against(
    ours: &[Vec<f32>],
    judge: &Judge,
    probe: &Probe,
    verification: &mut Verification,
    watcher: &Watcher<'_>,
) -> Result<()> {
    compare(ours, Which::Purified, judge, probe, verification, watcher)
}

fn compare(
    ours: &[Vec<f32>],
    which: Which,
    judge: &Judge,
    probe: &Probe,
    verification: &mut Verification,
    watcher: &Watcher<'_>,
) -> Result<()> {
    let check = which.check();
    let all: Vec<usize> = (0..probe.n).collect();
    let few: Vec<usize> = evenly(probe.n, PLAIN_IMAGES).collect();
    let (fast, plain) = watcher.part(check, all.len() + few.len(), |watch| {
        let ask = |form, images: &[usize]| -> Result<Parity> {
            let ours: Vec<Vec<f32>> = images.iter().filter_map(|&i| ours.get(i).cloned()).collect();
            let theirs = judge.logits_watched(form, &probe.rows(images), images.len(), watch)?;
            parity::compare(&theirs, &ours, TOLERANCE)
        };
        // tract optimises on one thread: the others have the plain form to run
        let (fast, plain) = rayon::join(|| ask(Form::Optimised, &all), || ask(Form::Plain, &few));
        let trusted = matches!(&fast, Ok(fast) if fast.holds(TOLERANCE));
        (fast, if trusted { plain } else { ask(Form::Plain, &all) })
    });
    let plain = plain?;
    verification.add(check, plain.images, plain.max_difference, plain.disagreements);
    plain.require(check, TOLERANCE)?;
    optimised(fast, which, verification)
}

/// The optimised form computes other roundings and is what most users of tract run. Where it is wrong about the original
/// already (two patterns are known) it is no judge, and the plain form stands alone.
fn optimised(fast: Result<Parity>, which: Which, verification: &mut Verification) -> Result<()> {
    match fast {
        Ok(fast) if fast.holds(TOLERANCE) => {
            verification.add(which.optimised(), fast.images, fast.max_difference, fast.disagreements);
            Ok(())
        }
        Err(Error::Interrupted) => Err(Error::Interrupted),
        _ if which == Which::Original => {
            verification.optimised_distrusted = true;
            Ok(())
        }
        _ if verification.optimised_distrusted => Ok(()),
        Ok(fast) => fast.require(which.optimised(), TOLERANCE),
        Err(e) => Err(e),
    }
}
