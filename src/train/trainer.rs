//! A training: preparation, both phases, the guard on held-out images.

use std::{sync::Arc, time::Instant};

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{
    adversary::Adversary,
    aim::Aim,
    gradients::{AdversarialPass, CleanPass, Outer, OuterLosses, outer_gradients},
    guard::{self, Guarded, IdentityMix},
    layer::{FoldedGradients, Trainable},
    optimizer::{Adam, Optimizer, Sgd},
    plan,
    pool::{Pool, PoolFiller},
    principal::{Components, MeanCovariance},
    run::{StepLosses, TrainingRun, shuffled},
    settings::{self, OptimizerKind, Original, PixelPool, Settings},
    start::{Start, StartInputs},
};
use crate::{
    Result,
    base::{
        pixels::Pixels,
        profile::{Ceilings, Part as Timed, Profile, Profiler},
        runtime,
    },
    kernels::{Precision, buffers},
    layer::Layer,
    network::{
        Batch, Counts, Demand, EpochRecord, Memory, Network, Observer, Options, Phase, Prepared, RunPart,
        Samples, Subject, Watched, WorkPlan,
    },
    scan::{self, Findings},
};

/// A prepared training: the cut network and the cached clean images.
pub struct Trainer<'m> {
    settings: Settings,
    prepared: Prepared<'m>,
    /// (C, H, W).
    image: [usize; 3],
    profile: bool,
    /// Indices into the kept images to train on.
    images: Vec<usize>,
}

/// The result of a training.
pub struct Trained {
    pub layer: Layer,
    pub epochs: Vec<EpochRecord>,
    /// Optimizer steps of both phases.
    pub steps: usize,
    /// Seconds of both phases, without the preparation.
    pub seconds: f64,
    /// Seconds by stage: `start` (the initial layer), `aim` (the scan), `pool` (filling the pool), `steps`.
    pub stages: Vec<(&'static str, f64)>,
    /// Whether the running statistics were set exactly, because the warm-up was too short.
    pub exact_statistics: bool,
    /// Rank of a layer that started as the projection onto principal components.
    pub rank: Option<usize>,
    /// Bytes of the kept prefix tape; 0 if it is recomputed in each step.
    pub tape_bytes: usize,
    /// The memory plan.
    pub memory: Memory,
    /// Nodes, with their operators, that ran on the processor because the GPU has no kernels for them.
    pub on_processor: Vec<(String, &'static str)>,
    /// The profile, if [`Options::profile`] is set.
    pub profile: Option<Profile>,
    /// Counts of passes, including the preparation.
    pub counts: Counts,
    /// Held-out accuracy in percent, without and with the layer.
    pub held_out: Option<(f64, f64)>,
    /// The mixture with the identity, if the layer cost too much accuracy.
    pub guard: Option<IdentityMix>,
    /// Findings of the scan that the adversaries aimed by, if there was one.
    pub findings: Option<Findings>,
}

impl<'m> Trainer<'m> {
    /// Cuts the network and runs it once over the clean images.
    ///
    /// # Errors
    /// [`crate::Error::Setting`]; errors of lowering and cutting; [`crate::Error::Interrupted`].
    pub fn prepare(
        subject: Subject<'m, '_>,
        settings: Settings,
        options: &Options,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        settings.check()?;
        let image = subject.image;
        let own = subject.clean.pixels.len() / image.iter().product::<usize>().max(1);
        let mirrored = settings.mirror.then(|| with_mirrors(subject.clean, image));
        let clean = match &mirrored {
            Some((pixels, labels)) => Samples { pixels, labels: labels.as_deref() },
            None => subject.clean,
        };
        let count = if settings.mirror { 2 * own } else { own };
        let demand = Demand {
            batch: settings.batch,
            attacked: settings.moves_pixels(),
            pool: settings.pool_images().saturating_mul(settings.epochs).min(Pool::MOST),
        };
        let parts = |network: &Network<'_>| plan::parts(&lengthened(&settings, count), network, image, count);
        let subject = Subject { clean, ..subject };
        let prepared = Prepared::new(subject, demand, options, parts, &Watched::new(observer))?;
        // train only on flips that the model classifies correctly: text and signs are not symmetric
        let answers = prepared.kept.original.answers();
        let known = |&i: &usize| i < own || answers[i] == prepared.kept.labels[i];
        let images: Vec<usize> = (0..prepared.kept.count()).filter(known).collect();
        let settings = lengthened(&settings, images.len());
        Ok(Self { settings, prepared, image, profile: options.profile, images })
    }

    /// Accuracy of the original network on all clean images, held out or not, in percent.
    pub fn original_accuracy(&self) -> f64 {
        self.prepared.original_accuracy()
    }

    /// The settings, with the actual number of epochs.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Work left after the preparation.
    pub fn plan(&self) -> WorkPlan {
        let count = self.prepared.kept.count();
        WorkPlan { parts: plan::parts(&self.settings, &self.prepared.network, self.image, count) }
    }

    /// Memory plan of the run.
    pub fn memory(&self) -> &Memory {
        &self.prepared.memory
    }

    /// Steps per epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.images.len().div_ceil(self.settings.batch)
    }

    /// Runs both phases.
    ///
    /// # Errors
    /// Errors of operators; [`crate::Error::Interrupted`]; [`crate::Error::Check`] if the training diverged or the
    /// layer costs too much accuracy.
    pub fn train(mut self, observer: &mut dyn Observer) -> Result<Trained> {
        buffers::clear(); // the training needs buffers of other sizes
        let watch = Watched::new(observer);
        let began = Instant::now();
        let profiler = self.profile.then(Arc::<Profiler>::default);
        let network = &mut self.prepared.network;
        network.profile_into(profiler.clone());
        network.set_precision(self.settings.precision_here());
        watch.plan(&self.plan(), false);
        let mut rng = ChaCha8Rng::seed_from_u64(self.settings.seed);
        let total = self.steps_per_epoch() * (self.settings.start.warmup() + self.settings.epochs);
        let mut run = TrainingRun::new(&watch, total);
        let (start, aim) = self.begin(&mut run, &mut rng)?;
        self.against_the_adversary(start.layer.as_ref(), aim.as_ref(), &mut run, &mut rng)?;
        let seconds = began.elapsed().as_secs_f64();
        self.finish(start, aim.map(|aim| aim.findings), run, seconds, profiler.as_deref())
    }

    /// The initial layer and the aim of the adversaries.
    fn begin(&mut self, run: &mut TrainingRun<'_>, rng: &mut ChaCha8Rng) -> Result<(Start, Option<Aim>)> {
        let (components, ahead) = if matches!(self.settings.start, settings::Start::Principal { .. })
            && !self.prepared.network.device().is_cpu()
        {
            let (components, aim) = self.aim_beside_components(run)?;
            run.stages.end("aim");
            (Some(components), Some(aim))
        } else {
            (None, None)
        };
        let (prepared, settings, images) = (&mut self.prepared, &self.settings, &self.images);
        let start = StartInputs { prepared, settings, images }.start(components, run, rng)?;
        run.stages.end("start");
        let aim = match ahead {
            Some(aim) => aim,
            None => self.aim(run)?,
        };
        run.stages.end("aim");
        Ok((start, aim))
    }

    /// Computes the principal components on the processor while the GPU scans.
    fn aim_beside_components(&mut self, run: &TrainingRun<'_>) -> Result<(Components, Option<Aim>)> {
        let edge = &self.prepared.kept.all().edge;
        let statistics = self.prepared.network.timed(Timed::Layer, || MeanCovariance::of(edge))?;
        let threads = rayon::current_num_threads();
        let (components, aim) = runtime::beside(threads, || statistics.components(), || self.aim(run));
        Ok((components?, aim?))
    }

    /// The aim of the adversaries; None if the settings do not need a scan.
    fn aim(&mut self, run: &TrainingRun<'_>) -> Result<Option<Aim>> {
        if !plan::measures(&self.settings) {
            return Ok(None);
        }
        let Prepared { network, kept, .. } = &mut self.prepared;
        let findings = scan::measure(network, kept, &self.images, self.settings.batch, run.watch)?;
        Ok(Some(Aim::at(findings)))
    }

    /// Phase 2: bi-level training against the adversary.
    fn against_the_adversary(
        &mut self,
        layer: &dyn Trainable,
        aim: Option<&Aim>,
        run: &mut TrainingRun<'_>,
        rng: &mut ChaCha8Rng,
    ) -> Result<()> {
        let s = &self.settings;
        let mut state = AdversarialPhase {
            layer,
            adversary: Adversary::of(s, self.image, aim),
            retention: s.retention * aim.map_or(1.0, Aim::restraint),
            optimizer: match s.optimizer {
                OptimizerKind::Sgd { momentum, weight_decay } => {
                    Optimizer::Sgd(Sgd::new(s.lr, momentum, weight_decay))
                }
                OptimizerKind::Adam => Optimizer::Adam(Adam::new(s.lr)),
            },
            pool: None,
        };
        let (before, of) = (run.steps, self.steps_per_epoch() * self.settings.epochs);
        for epoch in 1..=self.settings.epochs {
            if (epoch - 1).is_multiple_of(plan::epochs_a_fill(&self.settings)) {
                self.fill(&mut state, aim, run, rng)?;
                run.stages.end("pool");
            }
            run.begin_epoch(RunPart::Train, self.prepared.network.work());
            let mut losses = Vec::new();
            for images in shuffled(&self.images, rng).chunks(self.settings.batch) {
                let share = self.settings.schedule.share(run.steps - before, of);
                state.optimizer.set_lr(self.settings.lr * share);
                losses.push(self.step(&mut state, images, run)?);
                run.step(Phase::Train, self.prepared.network.work())?;
            }
            run.epoch(Phase::Train, epoch, &losses, state.retention > 0.0);
            run.watch.end(self.prepared.network.work(), epoch == self.settings.epochs);
            run.stages.end("steps");
        }
        Ok(())
    }

    /// Adds newly attacked images to the pool.
    fn fill(
        &mut self,
        state: &mut AdversarialPhase<'_>,
        aim: Option<&Aim>,
        run: &TrainingRun<'_>,
        rng: &mut ChaCha8Rng,
    ) -> Result<()> {
        let Some(own) = self.settings.pool else { return Ok(()) };
        let PixelPool { images, .. } = own;
        let order: Vec<usize> = shuffled(&self.images, rng).into_iter().take(images).collect();
        let Prepared { network, kept, .. } = &mut self.prepared;
        run.watch.begin(RunPart::Pool, network.work());
        let filling = PoolFiller::new(own, &self.settings, self.image, kept, aim, run.watch);
        state.pool = filling.fill(state.pool.take(), network, &state.layer.fold()?, &order, rng)?;
        run.watch.end(network.work(), false);
        Ok(())
    }

    /// One bi-level training step.
    fn step(
        &mut self,
        state: &mut AdversarialPhase<'_>,
        images: &[usize],
        run: &TrainingRun<'_>,
    ) -> Result<StepLosses> {
        let Prepared { network, kept, .. } = &mut self.prepared;
        let (layer, s) = (state.layer, &self.settings);
        let folded = network.timed(Timed::Layer, || layer.fold())?;
        let batch = Batch::new(network, &folded, kept, images, run.watch)?;
        let attack = match &state.adversary {
            Some(adversary) => Some(adversary.attack(network, &folded, &batch, run.steps)?),
            None => None,
        };
        let original = match s.original {
            Original::Current => batch.clean.logits.answers(),
            Original::Unchanged => kept.original_answers(images),
            Original::Labels => batch.labels.clone(),
        };
        let before = (state.retention > 0.0).then(|| kept.original_logits(images)).transpose()?;
        let more = match &state.pool {
            Some(pool) => pool.gradients(network, &folded, images.len(), [s.seed, run.steps as u64])?,
            None => FoldedGradients::default(),
        };
        let attacked = attack.as_ref().map(|a| AdversarialPass {
            pass: &a.pass,
            targets: &a.targets,
            original: &original,
        });
        let retained = before.as_ref().map(|z| (z, state.retention));
        let clean = CleanPass { pass: &batch.clean, labels: &batch.labels, retained };
        let outer = Outer { clean, attacked, lambdas: s.lambdas, more };
        let (losses, gradients) = outer_gradients(network, layer, &folded, outer)?;
        network.timed(Timed::Layer, || state.optimizer.step(layer.trained(), &gradients))?;
        let OuterLosses { published, retention } = losses;
        let sum: f64 = published.iter().zip(s.lambdas).map(|(l, weight)| l * weight).sum();
        let reached = attack.map_or(0.0, |a| a.reached);
        Ok(StepLosses { loss: sum + state.retention * retention, published, retention, reached })
    }

    /// Exports the layer and applies the accuracy guard.
    fn finish(
        mut self,
        start: Start,
        findings: Option<Findings>,
        run: TrainingRun<'_>,
        seconds: f64,
        profiler: Option<&Profiler>,
    ) -> Result<Trained> {
        let Prepared { network, held_out, kept, memory } = &mut self.prepared;
        network.profile_into(None);
        // accuracy is measured in full precision
        network.set_precision(Precision::F32);
        let limit = self.settings.max_acc_drop;
        let Guarded { layer, held_out, guard } =
            guard::guarded(start.layer.export()?, network, held_out.as_ref(), limit)?;
        let (tape_bytes, counts, memory) = (kept.tape_bytes(), network.counts(), *memory);
        let (is_cpu, on_processor) = (network.device().is_cpu(), network.on_processor());
        drop(self); // frees memory for the measurement of the ceilings
        buffers::clear();
        let ceilings = || if is_cpu { Ceilings::measure() } else { Ceilings::default() };
        Ok(Trained {
            layer,
            epochs: run.epochs,
            steps: run.steps,
            seconds,
            stages: run.stages.ended,
            exact_statistics: start.exact_statistics,
            rank: start.rank,
            tape_bytes,
            memory,
            on_processor,
            profile: profiler.map(|p| p.profile(seconds, ceilings())),
            counts,
            held_out,
            guard,
            findings,
        })
    }
}

/// State of phase 2.
struct AdversarialPhase<'a> {
    layer: &'a dyn Trainable,
    optimizer: Optimizer,
    adversary: Option<Adversary<'a>>,
    pool: Option<Pool>,
    /// Weight of the retention loss.
    retention: f64,
}

/// The settings with more epochs, if `images` give fewer than the minimum number of steps.
fn lengthened(settings: &Settings, images: usize) -> Settings {
    let mut settings = settings.clone();
    if settings.epochs > 0 {
        let an_epoch = images.div_ceil(settings.batch).max(1);
        settings.epochs = settings.epochs.max(settings.min_steps.unwrap_or(0).div_ceil(an_epoch));
    }
    settings
}

/// The images followed by their horizontal flips with the same labels.
fn with_mirrors(samples: Samples<'_>, [_, _, w]: [usize; 3]) -> (Pixels, Option<Vec<u32>>) {
    fn both<T: Copy>(values: &[T], w: usize) -> Vec<T> {
        let mut all = Vec::with_capacity(2 * values.len());
        all.extend_from_slice(values);
        all.extend(values.chunks(w.max(1)).flat_map(|row| row.iter().rev()));
        all
    }
    let pixels = match samples.pixels {
        Pixels::U8(values) => Pixels::U8(both(values, w)),
        Pixels::F32(values) => Pixels::F32(both(values, w)),
    };
    (pixels, samples.labels.map(|labels| labels.repeat(2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flips_follow_the_images() {
        let pixels = Pixels::U8(vec![1, 2, 3, 4, 5, 6]);
        let both = with_mirrors(Samples { pixels: &pixels, labels: Some(&[7]) }, [1, 2, 3]);
        assert_eq!(both.0, Pixels::U8(vec![1, 2, 3, 4, 5, 6, 3, 2, 1, 6, 5, 4]));
        assert_eq!(both.1, Some(vec![7, 7]));
        assert!(with_mirrors(Samples { pixels: &pixels, labels: None }, [1, 2, 3]).1.is_none());
    }
}
