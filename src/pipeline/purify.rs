//! Purification: check and measure the original, train, insert, check and measure the written file.

use std::{path::Path, time::Instant};

use super::{
    Job, RunOptions,
    check::Check,
    check_settings,
    classifier::Classifier,
    clock::Clock,
    environment::environment,
    finding::{Finding, Rule, Severity},
    images::{self, LoadedImages, Triggered, only_target},
    observer::{Event, Observer, Watcher},
    opening::{self, open},
    others,
    outcome::{self, AsrStatus, File, Measures, Purification, SCHEMA, Verification},
    plan::{RunPlan, Speed},
    probe::{IMAGES, Probe},
    proof::{self, Comparison},
    train,
};
use crate::{
    Error, Result,
    base::{digest::sha256, runtime::beside},
    data::{ImageSet, split},
    device::Place,
    kernels::{Precision, bf16_is_native, cpu_path},
    layer::{self, Form},
    memory,
    onnx::Model,
    rewrite::{self, LayerFile, Output, Provenance, Record, Staged},
    site::{self, Site},
    train::{Named as _, Settings, Trained},
    verify::{
        Judge, TOLERANCE,
        evaluate::{accuracy, answers_in_candle, attack, defense_effectiveness},
        pieces::Claim,
        reference::Reference,
    },
};

/// Result of [`purify`]: a verified, purified model.
pub struct Purified {
    /// Settings, measures and findings of the run.
    pub outcome: Purification,
    /// The trained layer, its site and its model.
    pub layer: LayerFile,
    staging: Staging,
}

impl Purified {
    /// Bytes of the purified ONNX file, as verified.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn bytes(&self) -> Result<Vec<u8>> {
        std::fs::read(self.staging.path()).map_err(|e| Error::io(self.staging.path(), e))
    }

    /// Moves the purified file to `path` atomically. An existing file is replaced only with `overwrite`.
    ///
    /// # Errors
    /// As [`Output::new`] and [`Staged::commit_to`]; a folder other than that of the model's weights, where these
    /// stand in other files.
    pub fn save(self, path: &Path, overwrite: bool) -> Result<()> {
        self.save_to(Output::new(path, &[], overwrite)?)
    }

    /// Moves the purified file to `output` atomically.
    ///
    /// # Errors
    /// As [`Staged::commit_to`].
    pub fn save_to(self, output: Output) -> Result<()> {
        self.staging.save_to(output)
    }
}

/// A staged file; deleted on drop unless saved.
pub(super) struct Staging {
    staged: Staged,
    /// The temporary folder, if it is staged in one.
    _temporary: Option<tempfile::TempDir>,
}

impl Staging {
    /// Stages `bytes`, a rewrite of `model`: in the folder given by `run`, else in that of external data, else in a
    /// temporary one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn of(run: &RunOptions, model: &Model, bytes: &[u8]) -> Result<Self> {
        let weights = model.dir().filter(|_| model.has_external_data());
        if let Some(folder) = run.staging.as_deref().or(weights) {
            return Ok(Self { staged: Staged::write(folder, bytes)?, _temporary: None });
        }
        let temporary = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
        Ok(Self { staged: Staged::write(temporary.path(), bytes)?, _temporary: Some(temporary) })
    }

    pub fn path(&self) -> &Path {
        self.staged.path()
    }

    pub fn save_to(self, output: Output) -> Result<()> {
        self.staged.commit_to(output)
    }
}

/// Trains a layer against the backdoor of the job's model and inserts it. The result is verified: the original against
/// a second runtime, the written file against the trained network and, byte by byte, against the original. The
/// measures are those of the written file.
///
/// # Errors
/// [`Error::Setting`], [`Error::Input`] and [`Error::Io`] for invalid settings or inputs; [`Error::Check`] if a check
/// fails, the training diverges, or the layer costs too much accuracy; [`Error::Interrupted`].
pub fn purify(job: &Job<'_>, run: &RunOptions, observer: &mut dyn Observer) -> Result<Purified> {
    let mut clock = Clock::new();
    check_settings(job)?;
    split(&[], images::holdout(job), 0)?; // reject an invalid holdout before any work
    opening::check(job, run)?;
    let mut classifier = Classifier::of(job)?;
    if Record::is_there(job.model.metadata()) {
        let problem = "already has a layer; remove it with `polarizer revert` first";
        return Err(Error::invalid(job.model.name(), problem));
    }
    let watcher = Watcher::new(observer);
    let job = &classifier.job(job)?;
    run.install(|| {
        let mut original = Original::load(job, run, &classifier, &mut clock, &watcher)?;
        let trained = original.train(run, &mut clock, &watcher)?;
        original.write(run, trained, clock, &watcher)
    })
}

/// State of a purification: the original, its data, and the results so far.
struct Original<'a> {
    job: &'a Job<'a>,
    classifier: &'a Classifier<'a>,
    settings: Settings,
    place: Place,
    network: Reference<'a>,
    data: LoadedImages<'a>,
    site: Site,
    probe: Probe,
    speed: Speed,
    /// Its outputs for the probe in the executor.
    ours: Vec<Vec<f32>>,
    /// Dropped after the original is verified: the training needs its memory.
    judge: Option<Judge<'a>>,
    verification: Verification,
    findings: Vec<Finding>,
}

/// Result of the training, and the original's measures.
struct Fit {
    before: Measured,
    trained: Trained,
    settings: Settings,
}

/// Measures of one model.
#[derive(Default)]
struct Measured {
    measures: Measures,
    /// Number of triggered images of other classes than the target.
    triggered: usize,
}

impl<'a> Original<'a> {
    fn load(
        job: &'a Job<'a>,
        run: &RunOptions,
        classifier: &'a Classifier<'a>,
        clock: &mut Clock,
        watcher: &Watcher<'_>,
    ) -> Result<Self> {
        let threads = rayon::current_num_threads();
        let (opened, loaded) = beside(
            threads,
            || open(job, run, classifier),
            || LoadedImages::load(job, run, classifier, watcher),
        );
        let opened = opened?;
        let mut settings = job.settings.clone();
        settings.precision = Some(opened.place.precision(settings.precision)?);
        let mut findings = Vec::from_iter(bf16_finding(&settings, &opened.place, watcher));
        let (mut data, judge) = loaded?;
        clock.ends("load");
        let check = Check { judge: &judge, job, order: &data.order, name: &data.name, watcher };
        findings.extend(check.run(&data.clean, data.labels)?);
        findings.extend(super::findings::skipped(&data.skipped));
        let (place, network) = opened.for_shape(classifier, data.clean.shape())?;
        let site = match &job.site {
            None if job.recipe.everywhere() => site::preferred(classifier.model, network.graph()),
            text => site::resolve(classifier.model, network.graph(), text.as_deref()),
        }?;
        findings.extend(super::findings::passed_by(&site, job.site.is_some()));
        // from training and test images: the executor alone measures the rest of the latter
        let probe = Probe::of(&data.sets(), &data.preprocessing, IMAGES)?;
        let began = Instant::now();
        let ours = watcher.part("answers", probe.n, |watch| probe.answers(&network, None, watch))?;
        let speed = Speed::of(&network, probe.n, began.elapsed())?;
        data.label(job, &judge, watcher)?;
        let (judge, verification) = (Some(judge), Verification::new(TOLERANCE));
        Ok(Self {
            job,
            classifier,
            settings,
            place,
            network,
            data,
            site,
            probe,
            speed,
            ours,
            judge,
            verification,
            findings,
        })
    }

    /// Verifies the original, measures it and trains; on a GPU verification runs in parallel.
    fn train(&mut self, run: &RunOptions, clock: &mut Clock, watcher: &Watcher<'_>) -> Result<Fit> {
        let judge = self.judge.take().ok_or_else(|| Error::internal("the judge is gone"))?;
        let mut verification = std::mem::take(&mut self.verification);
        let verify = |verification: &mut Verification| -> Result<f64> {
            let began = Instant::now();
            let claim = Claim { file: self.classifier.model, network: &self.network, layer: None };
            let (ours, judge, probe) = (&self.ours, &judge, &self.probe);
            let bundle = run.bundle.as_deref();
            Comparison { claim, ours, judge, probe, bundle, watcher }.prove(verification)?;
            Ok(began.elapsed().as_secs_f64())
        };
        let fit = if self.place.is_cpu() {
            verify(&mut verification)?;
            clock.ends("verify the original");
            self.fit(run, clock, watcher)?
        } else {
            // leave most cores to the thread that drives the GPU
            let few = rayon::current_num_threads() / 4;
            let (checked, fit) = beside(few, || verify(&mut verification), || self.fit(run, clock, watcher));
            clock.took("verify the original", checked?);
            fit?
        };
        self.verification = verification;
        Ok(fit)
    }

    /// Measures with the executor, which was checked against the judge and is several times faster, then trains.
    fn fit(&self, run: &RunOptions, clock: &mut Clock, watcher: &Watcher<'_>) -> Result<Fit> {
        let before = self.measure(&self.network, watcher)?;
        clock.ends("evaluate the original");
        let task = train::Task {
            model: self.classifier.model,
            network: &self.network,
            place: &self.place,
            site: &self.site,
            settings: &self.settings,
            data: &self.data,
        };
        let trainer = task.prepare(run, watcher)?;
        clock.ends("prepare");
        watcher.tell(Event::Plan(&RunPlan::of(&trainer, self.speed)));
        let settings = trainer.settings().clone();
        let trained = trainer.train(&mut watcher.training())?;
        clock.ends("train");
        Ok(Fit { before, trained, settings })
    }

    /// ACC, ASR and RA of a network that was checked against the judge.
    fn measure(&self, network: &Reference<'_>, watcher: &Watcher<'_>) -> Result<Measured> {
        let data = &self.data;
        let answers = |images: &ImageSet<'_>, part: &str| {
            watcher.part(part, images.len(), |watch| {
                answers_in_candle(network, images, &data.preprocessing, watch)
            })
        };
        let mut out = Measured::default();
        // predictions of the model cannot measure the model
        if data.acc_on().is_some() {
            let held = data.test.is_none().then(|| data.clean.select(&data.split.held_out));
            if let Some(images) = held.as_ref().or(data.test.as_ref()) {
                out.measures.acc = accuracy(&answers(images, "accuracy")?, images.labels());
            }
        }
        if let Some(Triggered { name, images, target }) = &data.triggered {
            let aim = target.aim(data.order.classes.len());
            let attack = attack(&answers(images, "attack")?, images.labels(), aim)
                .ok_or_else(|| only_target(name, &target.name))?;
            out.measures.asr = Some(attack.asr);
            out.measures.ra = Some(attack.ra);
            out.triggered = attack.images;
        }
        Ok(out)
    }

    /// Inserts the layer, verifies the written file and measures it.
    fn write(
        mut self,
        run: &RunOptions,
        fit: Fit,
        mut clock: Clock,
        watcher: &Watcher<'_>,
    ) -> Result<Purified> {
        let layer = self.layer_file(&fit)?;
        let bytes = rewrite::insert(self.classifier.model, &layer.place, &layer.layer, &layer.provenance)?;
        let output = File { file: String::new(), sha256: sha256(&bytes), bytes: bytes.len() as u64 };
        let staging = Staging::of(run, self.classifier.model, &bytes)?;
        drop(bytes);
        let (purified, ours, theirs) = self.read_back(staging.path(), &layer, run, watcher)?;
        let mut verification = std::mem::take(&mut self.verification);
        let verify = |verification: &mut Verification| {
            let written = (&layer.place, &layer.layer);
            let claim = Claim { file: &purified, network: &self.network, layer: Some(written) };
            let (ours, judge, probe) = (&ours, &theirs, &self.probe);
            let bundle = run.bundle.as_deref();
            Comparison { claim, ours, judge, probe, bundle, watcher }.prove(verification)?;
            drop(theirs); // frees its memory
            let (path, probe) = (staging.path(), &self.probe);
            verification.other_outputs =
                others::compare(self.classifier, path, written, probe, run.judge, watcher)?;
            Ok(())
        };
        // measures the file as read back, not the layer as trained
        let measure = || {
            let network = self.classifier.network(&purified, self.data.clean.shape(), self.place.device())?;
            self.measure(&network, watcher)
        };
        let after = if self.place.is_cpu() {
            verify(&mut verification)?;
            clock.ends("rewrite and verify");
            measure()?
        } else {
            let (checked, after) =
                beside(rayon::current_num_threads(), || verify(&mut verification), measure);
            checked?;
            clock.ends("rewrite and verify");
            after?
        };
        clock.ends("evaluate the written file");
        watcher.check()?;
        self.verification = verification;
        let outcome = self.outcome(fit, after, output, clock)?;
        super::finding::require_gates(&outcome.findings)?;
        Ok(Purified { outcome, layer, staging })
    }

    fn layer_file(&self, fit: &Fit) -> Result<LayerFile> {
        let (form, stored) = (self.site.form, self.site.stored);
        let mut pairs = fit.settings.pairs(self.data.clean.shape());
        pairs.extend(self.data.pairs());
        let layer = match form {
            Form::MatMul => layer::folded(&fit.trained.layer),
            _ => fit.trained.layer.clone(),
        };
        let layer = layer
            .stored_as(stored, form)
            .map_err(|why| Error::check("structure", format!("the layer {why}")))?;
        Ok(LayerFile {
            layer,
            place: self.site.place.clone(),
            input_sha256: self.classifier.model.sha256(),
            provenance: Provenance::new(self.site.text.clone(), pairs).in_form(form).stored_as(stored),
        })
    }

    /// The staged file as a model, the executor's outputs with its layer, and its judge. The judge loads the file in
    /// parallel to the structural diff.
    fn read_back(
        &mut self,
        path: &Path,
        layer: &LayerFile,
        run: &RunOptions,
        watcher: &Watcher<'_>,
    ) -> Result<(Model, Vec<Vec<f32>>, Judge<'a>)> {
        let mut verification = std::mem::take(&mut self.verification);
        let check = || -> Result<_> {
            let purified = Model::read(path)?;
            let declared = proof::structure(self.classifier.model, &purified, &mut verification)?;
            if declared.layer != layer.layer || declared.place != layer.place {
                return Err(Error::check("structure", "the written layer differs from the trained one"));
            }
            let with = Some((&layer.place, &layer.layer));
            let ours = watcher
                .part("answers", self.probe.n, |watch| self.probe.answers(&self.network, with, watch))?;
            Ok((purified, ours))
        };
        let (ours, theirs) =
            rayon::join(check, || self.classifier.judge_of(path, self.data.clean.shape(), run.judge));
        self.verification = verification;
        // errors of the structural diff take precedence over the judge's
        let (purified, ours) = ours?;
        Ok((purified, ours, theirs?))
    }

    /// The effective settings and the recipe.
    fn settings_of(&self, settings: &Settings) -> serde_json::Value {
        let mut all = settings.json(self.data.clean.shape());
        all.insert("recipe".into(), self.job.recipe.word().into());
        all.insert("holdout".into(), self.data.holdout(self.job).into());
        all.into()
    }

    fn outcome(self, fit: Fit, after: Measured, output: File, clock: Clock) -> Result<Purification> {
        let Fit { before, trained, settings } = fit;
        let guard = trained.guard.as_ref().map(|g| outcome::GuardOutcome {
            limit: settings.max_acc_drop.unwrap_or_default(),
            lost: g.lost,
            share: g.share,
            lost_with_it: g.lost_with_it,
        });
        let measured = self.data.triggered.is_some();
        let reported = self.settings_of(&settings);
        let mut purification = Purification {
            schema: SCHEMA,
            command: "purify".into(),
            input: self.classifier.file(),
            output,
            model_output: self.classifier.scores(self.data.clean.shape())?.into(),
            site: self.site.text,
            site_reason: self.site.why,
            preprocessing: (&self.data.preprocessing).into(),
            acc_on: self.data.acc_on(),
            settings: reported,
            der: der(before.measures, after.measures),
            before: before.measures,
            after: after.measures,
            asr_status: if measured { AsrStatus::Measured } else { AsrStatus::Unknown },
            data: self.data.counts(before.triggered),
            train: train::report(&trained),
            guard,
            memory: outcome::Memory {
                allowed: trained.memory.allowed,
                tape: trained.memory.tape,
                tape_kept: trained.tape_bytes,
                peak: memory::peak(),
            },
            on_processor: train::on_processor(&trained),
            target: self.data.triggered.map(|t| t.target),
            labels: self.data.labels,
            profile: trained.profile,
            verification: self.verification,
            seconds: clock.seconds(),
            phases: clock.phases,
            device: self.place.name(),
            environment: environment(),
            findings: self.findings,
        };
        purification.findings.extend(super::findings::of_purification(&purification, &settings));
        Ok(purification)
    }
}

/// Finding for emulated bfloat16, reported at once because it is slow.
fn bf16_finding(settings: &Settings, place: &Place, watcher: &Watcher<'_>) -> Option<Finding> {
    let emulated = settings.precision_here() == Precision::Bf16 && place.is_cpu() && !bf16_is_native();
    emulated.then(|| {
        let message = format!("{} has no bfloat16: it is emulated, slower than f32", cpu_path());
        let finding = Finding::new(Rule::Bf16Emulated, Severity::Note, "precision", message);
        watcher.tell(Event::Finding(&finding));
        finding
    })
}

fn der(before: Measures, after: Measures) -> Option<f64> {
    Some(defense_effectiveness([before.acc?, after.acc?], [before.asr?, after.asr?]))
}
