//! Verification of a rewrite: both files in both forms of the judge against this crate's executor, and the files'
//! bytes.

use std::path::Path;

use super::{
    RunOptions,
    classifier::{Classifier, PLAIN_IMAGES},
    observer::Watcher,
    outcome::Verification,
    probe::Probe,
};
use crate::{
    Error, Result,
    base::rows::evenly,
    onnx::{Model, tensor::DataType},
    verify::{
        Form, Judge, Monitor, Parity, bundle,
        diff::{Declared, structural_diff},
        parity,
        pieces::{Apart, Claim, Fault, Parted},
        reference::Reference,
        rounding::{self, CEILING, FLOOR, Rounding},
    },
};

/// Images, evenly spread, on which it is measured what rounding makes of the network.
const MEASURED: usize = 8;
/// The most of those that differ by more than any image may on which it is measured as well, the worst ones.
const MEASURED_WORST: usize = 24;
/// The most images of which values inside the network are compared.
const IN_PIECES: usize = 8;

/// What an image may differ by in any case where values are rounded to float16 between operators: about 20 of its steps.
const FLOAT16: f64 = 1e-2;
/// The same for bfloat16, whose steps are eight times as large.
const BFLOAT16: f64 = 8e-2;
/// The same where values are rounded to integers: one that lies at an edge becomes the next one in another runtime.
const QUANTISED: f64 = 3e-2;

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
    pub purified: &'a Model,
    pub declared: &'a Declared,
    pub run: &'a RunOptions,
}

impl Written<'_> {
    /// Compares both files with the executor on `probe`: `parity-original`, `parity-purified`.
    ///
    /// # Errors
    /// [`Error::Check`] if they differ by more than the tolerance; errors of either runtime.
    pub fn prove(&self, probe: &Probe, verification: &mut Verification, watcher: &Watcher<'_>) -> Result<()> {
        let Self { network, run, .. } = *self;
        let bundle = run.bundle.as_deref();
        let with = (&self.declared.place, &self.declared.layer);
        let original = Claim { file: self.classifier.model, network, layer: None };
        let purified = Claim { file: self.purified, network, layer: Some(with) };
        for claim in [original, purified] {
            let ours =
                watcher.part("answers", probe.n, |watch| probe.answers(network, claim.layer, watch))?;
            let judge = match claim.layer {
                None => self.classifier.judge(probe.shape, run.judge)?,
                Some(_) => self.classifier.judge_of(self.path, probe.shape, run.judge)?,
            };
            Comparison { claim, ours: &ours, judge: &judge, probe, bundle, watcher }.prove(verification)?;
        }
        Ok(())
    }
}

/// A file in the judge and the network that it should be, in the executor.
pub struct Comparison<'a, 'w> {
    /// Without a layer it is the original: `parity-original`; with it the rewritten file: `parity-purified`.
    pub claim: Claim<'a>,
    /// The executor's outputs for the probe.
    pub ours: &'a [Vec<f32>],
    pub judge: &'a Judge<'a>,
    pub probe: &'a Probe,
    /// A new folder for what a bug report needs, where the runtimes disagree.
    pub bundle: Option<&'a Path>,
    pub watcher: &'a Watcher<'w>,
}

/// What comparing a form's outputs came to.
struct Judged {
    parity: Parity,
    rounding: Rounding,
    verdict: Verdict,
}

enum Verdict {
    Stands,
    /// Rounding makes so much of these images that their outputs prove nothing.
    SaysNothing(Vec<usize>),
    /// These images differ by more than they may.
    Parts(Vec<usize>),
}

impl Comparison<'_, '_> {
    /// Compares both forms of each judge with the executor.
    ///
    /// # Errors
    /// [`Error::Check`] if they differ by more than is allowed; errors of a judge.
    pub fn prove(&self, verification: &mut Verification) -> Result<()> {
        if let Some(why) = self.judge.unread() {
            verification.unread.get_or_insert(why.to_owned());
        }
        for judge in self.judge.all().filter(|judge| judge.judges()) {
            let name = judge.name().to_owned();
            if !verification.judges.contains(&name) {
                verification.judges.push(name);
            }
            Comparison { judge, ..*self }.prove_in_one(verification)?;
        }
        Ok(())
    }

    fn prove_in_one(&self, verification: &mut Verification) -> Result<()> {
        verification.tolerance = verification.tolerance.max(self.floor());
        for change in self.judge.rewritten() {
            if !verification.rewritten.contains(change) {
                verification.rewritten.push(change.clone());
            }
        }
        let all: Vec<usize> = (0..self.probe.n).collect();
        let few: Vec<usize> = evenly(self.probe.n, PLAIN_IMAGES).collect();
        let (fast, plain) = self.watcher.part(self.check(Form::Plain), all.len() + few.len(), |watch| {
            // tract optimises on one thread; the others run the plain form meanwhile
            let (fast, plain) =
                rayon::join(|| self.ask(Form::Optimised, &all, watch), || self.ask(Form::Plain, &few, watch));
            let trusted = matches!(&fast, Ok(Judged { verdict: Verdict::Stands, .. }));
            (fast, if trusted { plain } else { self.ask(Form::Plain, &all, watch) })
        });
        let plain = plain?;
        verification.add(self.check(Form::Plain), &plain.parity, &plain.rounding);
        match plain.verdict {
            Verdict::Stands => {}
            Verdict::SaysNothing(images) => self.in_pieces(&images, verification)?,
            Verdict::Parts(images) => return Err(self.fault(Form::Plain, &plain.parity, &images)),
        }
        self.optimised(fast, verification)
    }

    /// The optimised form rounds differently and is what most users of tract run. If it is wrong for the original already
    /// (two patterns are known), or cannot be built, only the plain form counts.
    fn optimised(&self, fast: Result<Judged>, verification: &mut Verification) -> Result<()> {
        match fast {
            Err(Error::Check { check: "judge", problem }) => {
                verification.optimised_failed.get_or_insert(problem);
                Ok(())
            }
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Ok(Judged { parity, rounding, verdict: Verdict::Stands | Verdict::SaysNothing(_) }) => {
                verification.add(self.check(Form::Optimised), &parity, &rounding);
                Ok(())
            }
            _ if self.claim.layer.is_none() => {
                verification.optimised_distrusted = true;
                Ok(())
            }
            _ if verification.optimised_distrusted => Ok(()),
            Ok(Judged { parity, verdict: Verdict::Parts(images), .. }) => {
                Err(self.fault(Form::Optimised, &parity, &images))
            }
            Err(e) => Err(e),
        }
    }

    fn check(&self, form: Form) -> &'static str {
        match (self.judge.name(), self.claim.layer, form) {
            ("onnxruntime", None, Form::Plain) => "parity-original-onnxruntime",
            ("onnxruntime", None, Form::Optimised) => "parity-original-onnxruntime-optimised",
            ("onnxruntime", Some(_), Form::Plain) => "parity-purified-onnxruntime",
            ("onnxruntime", Some(_), Form::Optimised) => "parity-purified-onnxruntime-optimised",
            (_, None, Form::Plain) => "parity-original",
            (_, None, Form::Optimised) => "parity-original-optimised",
            (_, Some(_), Form::Plain) => "parity-purified",
            (_, Some(_), Form::Optimised) => "parity-purified-optimised",
        }
    }

    /// What any image may differ by: more where values are rounded to integers, or a runtime rounds to 16 bits what the
    /// executor computes in 32.
    fn floor(&self) -> f64 {
        let as_float = self.judge.rewritten().iter().any(|change| change.ends_with("FLOAT16 as FLOAT"));
        let held = |elem| self.claim.network.graph().values().iter().any(|value| value.elem == elem);
        let quantised = self.claim.network.graph().steps().iter().any(|s| s.op_type == "QuantizeLinear");
        match () {
            () if quantised => QUANTISED,
            () if as_float => FLOOR,
            () if held(DataType::Bfloat16) => BFLOAT16,
            () if held(DataType::Float16) => FLOAT16,
            () => FLOOR,
        }
    }

    /// Compares `images` of the probe in a form of the judge. What rounding makes of an image is measured where it
    /// differs by more than any image may, and on a few images of the original in any case.
    fn ask(&self, form: Form, images: &[usize], watch: &Monitor<'_>) -> Result<Judged> {
        let ours: Vec<Vec<f32>> = images.iter().filter_map(|&i| self.ours.get(i).cloned()).collect();
        let theirs = self.judge.logits_watched(form, &self.probe.rows(images), images.len(), watch)?;
        let differences = parity::differences(&theirs, &ours)?;
        let floor = self.floor();
        let mut worst: Vec<usize> = (0..images.len()).filter(|&i| differences[i].is_beyond(floor)).collect();
        worst.sort_by(|&a, &b| differences[b].relative.total_cmp(&differences[a].relative));
        let mut measured = Vec::new();
        if !worst.is_empty() || (self.claim.layer.is_none() && form == Form::Optimised) {
            measured.extend(evenly(images.len(), MEASURED));
            measured.extend(worst.iter().take(MEASURED_WORST).copied());
            measured.sort_unstable();
            measured.dedup();
        }
        let rounding = self.rounding(form, &measured, images)?;
        let allowed = |i| rounding.allowed(i).min(CEILING).max(floor);
        let parity = Parity::of(&differences, allowed);
        let beyond: Vec<usize> =
            worst.into_iter().filter(|&i| differences[i].is_beyond(allowed(i))).collect();
        let lost = rounding::allowed(rounding.median()) > CEILING;
        let of_probe = |rows: &[usize]| rows.iter().filter_map(|&i| images.get(i).copied()).collect();
        let verdict = if !beyond.iter().all(|&i| rounding.allowed(i) > CEILING) {
            Verdict::Parts(of_probe(&beyond))
        } else if lost || !beyond.is_empty() {
            let few: Vec<usize> = evenly(images.len(), IN_PIECES).collect();
            Verdict::SaysNothing(of_probe(if beyond.is_empty() { &few } else { &beyond }))
        } else {
            Verdict::Stands
        };
        Ok(Judged { parity, rounding, verdict })
    }

    /// What rounding makes of the rows `measured` of `images`, by row.
    fn rounding(&self, form: Form, measured: &[usize], images: &[usize]) -> Result<Rounding> {
        if measured.is_empty() {
            return Ok(Rounding::default());
        }
        let of_probe: Vec<usize> = measured.iter().map(|&i| images[i]).collect();
        let run = |form: Form, x: &[f32]| self.judge.logits_in(form, x, measured.len());
        let all = rounding::measured(&run, form, &self.probe.rows(&of_probe))?;
        Ok(Rounding::of(measured.iter().copied().zip(all).collect()))
    }

    /// Compares prefix, layer and suffix from injected values.
    fn in_pieces(&self, images: &[usize], verification: &mut Verification) -> Result<()> {
        let few = &images[..images.len().min(IN_PIECES)];
        let apart = Apart::new(self.claim, self.judge, &self.probe.rows(few))?;
        match apart.prove() {
            Ok(pieces) => {
                verification.add_pieces(self.check(Form::Plain), few.len(), pieces);
                Ok(())
            }
            Err(Fault::Error(e)) => Err(e),
            Err(Fault::Parted(parted)) => {
                let problem = "outputs prove nothing of this network, and in parts the runtimes differ";
                Err(self.parted(Form::Plain, problem.to_owned(), &parted))
            }
        }
    }

    /// The error that the runtimes disagree on `images`, with where they part if that can be found.
    fn fault(&self, form: Form, parity: &Parity, images: &[usize]) -> Error {
        let problem = match parity.require(self.check(form)) {
            Err(Error::Check { problem, .. }) => problem,
            _ => "the two runtimes differ".to_owned(),
        };
        let few = &images[..images.len().min(IN_PIECES)];
        let found = Apart::new(self.claim, self.judge, &self.probe.rows(few));
        match found.and_then(|apart| apart.parted(form)) {
            Ok(Some(parted)) => self.parted(form, problem, &parted),
            Ok(None) => {
                Error::check(self.check(form), format!("{problem}; from the same values each part agrees"))
            }
            Err(e) => {
                Error::check(self.check(form), format!("{problem}; where they part was not found: {e}"))
            }
        }
    }

    fn parted(&self, form: Form, problem: String, parted: &Parted) -> Error {
        let check = self.check(form);
        let saved = match self.bundle {
            Some(dir) => match bundle::save(dir, check, self.judge.name(), self.claim.file, parted) {
                Ok(()) => format!("; what a bug report needs is in {}", dir.display()),
                Err(e) => format!("; what a bug report needs was not saved: {e}"),
            },
            None => String::new(),
        };
        Error::check(check, format!("{problem}; {}{saved}", parted.text()))
    }
}
