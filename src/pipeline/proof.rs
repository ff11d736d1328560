//! Verification of a rewrite: both files in both forms of the judge against this crate's executor, and the files'
//! bytes.

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

/// Which of the two files is compared with the executor.
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

/// Compares the original's outputs in the executor, `ours`, with those in the judge: `parity-original`.
///
/// # Errors
/// [`Error::Check`] if they differ by more than the tolerance; errors of the judge.
pub fn original_against(
    ours: &[Vec<f32>],
    judge: &Judge,
    probe: &Probe,
    verification: &mut Verification,
    watcher: &Watcher<'_>,
) -> Result<()> {
    compare(ours, Which::Original, judge, probe, verification, watcher)
}

/// Checks that `purified` is `original` plus exactly the declared layer: `structure`.
///
/// # Errors
/// [`Error::Check`] with the first difference.
pub fn structure(original: &Model, purified: &Model, verification: &mut Verification) -> Result<Declared> {
    let declared = structural_diff(original, purified)?;
    verification.structure = Some("as declared".to_owned());
    Ok(declared)
}

/// A file at `path` with the original and the layer `declared`.
pub struct Written<'a> {
    pub classifier: &'a Classifier<'a>,
    pub network: &'a Reference<'a>,
    pub path: &'a Path,
    pub declared: &'a Declared,
}

impl Written<'_> {
    /// Compares both files with the executor on `probe`: `parity-original`, `parity-purified`.
    ///
    /// # Errors
    /// [`Error::Check`] if they differ by more than the tolerance; errors of either runtime.
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

/// Compares the rewritten file in the judge with the outputs of the original plus layer in the executor, `ours`:
/// `parity-purified`.
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
        // tract optimises on one thread; the others run the plain form meanwhile
        let (fast, plain) = rayon::join(|| ask(Form::Optimised, &all), || ask(Form::Plain, &few));
        let trusted = matches!(&fast, Ok(fast) if fast.holds(TOLERANCE));
        (fast, if trusted { plain } else { ask(Form::Plain, &all) })
    });
    let plain = plain?;
    verification.add(check, plain.images, plain.max_difference, plain.disagreements);
    plain.require(check, TOLERANCE)?;
    optimised(fast, which, verification)
}

/// The optimised form rounds differently and is what most users of tract run. If it is wrong for the original already
/// (two patterns are known), only the plain form counts.
fn optimised(fast: Result<Parity>, which: Which, verification: &mut Verification) -> Result<()> {
    match fast {
        Ok(fast) if fast.holds(TOLERANCE) => {
            verification.add(which.optimised(), fast.images, fast.max_difference, fast.disagreements);
            Ok(())
        }
        Err(Error::Interrupted) => Err(Error::Interrupted),
        // it cannot be built or run: the plain form, which held, judges alone
        Err(Error::Check { check: "judge", problem }) => {
            verification.optimised_failed.get_or_insert(problem);
            Ok(())
        }
        _ if which == Which::Original => {
            verification.optimised_distrusted = true;
            Ok(())
        }
        _ if verification.optimised_distrusted => Ok(()),
        Ok(fast) => fast.require(which.optimised(), TOLERANCE),
        Err(e) => Err(e),
    }
}
