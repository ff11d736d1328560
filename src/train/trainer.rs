//! A training: the preparation, both phases, the measurement on the images held out.

use std::{sync::Arc, time::Instant};

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{
    adversary::Adversary,
    aim::Aim,
    gradients::{Attacked, Clean, Outer, OuterLosses, outer_gradients},
    guard::{self, Guard, Guarded},
    layer::{FoldedGradients, Trainable},
    optimizer::{Adam, Optimizer, Sgd},
    plan,
    pool::{Filling, Pool},
    principal::{Components, Spread},
    run::{Run, StepLosses, shuffled},
    settings::{self, OptimizerKind, Original, PixelPool, Settings},
    start::{Start, Starting},
};
use crate::{
    Result,
    base::{
        profile::{Ceilings, Part as Timed, Profile, Profiler},
        runtime,
    },
    kernels::{Precision, buffers},
    layer::Layer,
    network::{
        Batch, Counts, Demand, EpochRecord, Memory, Network, Observer, Options, Part, Phase, Plan, Prepared,
        Samples, Subject, Watched,
    },
    scan::{self, Findings},
};

/// A run in preparation: the network is cut and the clean images' values are kept.
pub struct Trainer<'m> {
    settings: Settings,
    prepared: Prepared<'m>,
    /// (C, H, W).
    image: [usize; 3],
    profile: bool,
    /// Those of the kept images that are trained on.
    images: Vec<usize>,
}

/// What a run gave.
pub struct Trained {
    pub layer: Layer,
    pub epochs: Vec<EpochRecord>,
    /// SGD steps of both phases.
    pub steps: usize,
    /// Both phases, without the preparation.
    pub seconds: f64,
    /// Of that, in seconds: `start` (the layer before the second phase), `aim` (where the adversaries aim), `pool` (what an
    /// adversary of the pixels keeps for the steps), `steps`.
    pub stages: Vec<(&'static str, f64)>,
    /// True where the running statistics were set exactly, because the warm-up was too short for them.
    pub exact_statistics: bool,
    /// Principal components of a layer that started as their projection.
    pub rank: Option<usize>,
    /// Bytes of the tape kept before the site; 0 where it is computed again in each step.
    pub tape_bytes: usize,
    /// What was decided about memory.
    pub memory: Memory,
    /// Nodes and their operators that ran on the processor, since the GPU has no kernels for them.
    pub on_processor: Vec<(String, &'static str)>,
    /// Where the time went, if that was asked for.
    pub profile: Option<Profile>,
    /// Passes over images, the preparation included.
    pub counts: Counts,
    /// Share of held-out images answered with their class, in percent: without and with the layer.
    pub held_out: Option<(f64, f64)>,
    /// What was done to the layer because it cost too much accuracy.
    pub guard: Option<Guard>,
    /// How near each class of the original lies, if that was measured: it is where the adversaries aimed.
    pub findings: Option<Findings>,
}

impl<'m> Trainer<'m> {
    /// Cuts the network and runs it once over the clean images.
    ///
    /// # Errors
    /// Settings out of range, what lowering refuses, [`crate::Error::Interrupted`].
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
        // a mirror image that the network does not answer with its class teaches nothing: letters and signs are not symmetric
        let answers = prepared.kept.original.answers();
        let known = |&i: &usize| i < own || answers[i] == prepared.kept.labels[i];
        let images: Vec<usize> = (0..prepared.kept.count()).filter(known).collect();
        let settings = lengthened(&settings, images.len());
        Ok(Self { settings, prepared, image, profile: options.profile, images })
    }

    /// Share of all clean images, held out or not, that the original network answers with their class, in percent.
    pub fn original_accuracy(&self) -> f64 {
        self.prepared.original_accuracy()
    }

    /// The settings, with as many epochs as there will be.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.images.len().div_ceil(self.settings.batch)
    }

    /// Runs both phases.
    ///
    /// # Errors
    /// What an operator refuses, [`crate::Error::Interrupted`], [`crate::Error::Check`] where the training diverged.
    pub fn train(mut self, observer: &mut dyn Observer) -> Result<Trained> {
        buffers::clear(); // the training needs other sizes than the preparation
        let watch = Watched::new(observer);
        let began = Instant::now();
        let profiler = self.profile.then(Arc::<Profiler>::default);
        let network = &mut self.prepared.network;
        network.profile_into(profiler.clone());
        network.set_precision(self.settings.precision_here());
        let count = self.prepared.kept.count();
        let parts = plan::parts(&self.settings, &self.prepared.network, self.image, count);
        watch.plan(&Plan { parts }, false);
        let mut rng = ChaCha8Rng::seed_from_u64(self.settings.seed);
        let total = self.steps_per_epoch() * (self.settings.start.warmup() + self.settings.epochs);
        let mut run = Run::new(&watch, total);
        let (start, aim) = self.begin(&mut run, &mut rng)?;
        self.against_the_adversary(start.layer.as_ref(), aim.as_ref(), &mut run, &mut rng)?;
        let seconds = began.elapsed().as_secs_f64();
        self.finish(start, aim.map(|aim| aim.findings), run, seconds, profiler.as_deref())
    }

    /// The layer before the second phase, and where the adversaries aim.
    fn begin(&mut self, run: &mut Run<'_>, rng: &mut ChaCha8Rng) -> Result<(Start, Option<Aim>)> {
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
        let start = Starting { prepared, settings, images }.start(components, run, rng)?;
        run.stages.end("start");
        let aim = match ahead {
            Some(aim) => aim,
            None => self.aim(run)?,
        };
        run.stages.end("aim");
        Ok((start, aim))
    }

    /// The components of the clean values, which the processor finds, and where to aim, which a GPU finds meanwhile.
    fn aim_beside_components(&mut self, run: &Run<'_>) -> Result<(Components, Option<Aim>)> {
        let edge = &self.prepared.kept.all().edge;
        let spread = self.prepared.network.timed(Timed::Layer, || Spread::of(edge))?;
        let threads = rayon::current_num_threads();
        let (components, aim) = runtime::beside(threads, || spread.components(), || self.aim(run));
        Ok((components?, aim?))
    }

    /// Where the adversaries aim, where the settings leave that to a measurement.
    fn aim(&mut self, run: &Run<'_>) -> Result<Option<Aim>> {
        if !plan::measures(&self.settings) {
            return Ok(None);
        }
        let Prepared { network, kept, .. } = &mut self.prepared;
        let findings = scan::measure(network, kept, &self.images, self.settings.batch, run.watch)?;
        Ok(Some(Aim::at(findings)))
    }

    /// Phase 2.
    fn against_the_adversary(
        &mut self,
        layer: &dyn Trainable,
        aim: Option<&Aim>,
        run: &mut Run<'_>,
        rng: &mut ChaCha8Rng,
    ) -> Result<()> {
        let s = &self.settings;
        let mut bout = Bout {
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
                self.fill(&mut bout, aim, run, rng)?;
                run.stages.end("pool");
            }
            run.begin_epoch(Part::Train, self.prepared.network.work());
            let mut losses = Vec::new();
            for images in shuffled(&self.images, rng).chunks(self.settings.batch) {
                let share = self.settings.schedule.share(run.steps - before, of);
                bout.optimizer.set_lr(self.settings.lr * share);
                losses.push(self.step(&mut bout, images, run)?);
                run.step(Phase::Train, self.prepared.network.work())?;
            }
            run.epoch(Phase::Train, epoch, &losses, bout.retention > 0.0);
            run.watch.end(self.prepared.network.work(), epoch == self.settings.epochs);
            run.stages.end("steps");
        }
        Ok(())
    }

    /// One more lot of images for the pool, attacked with the layer as it stands.
    fn fill(
        &mut self,
        bout: &mut Bout<'_>,
        aim: Option<&Aim>,
        run: &Run<'_>,
        rng: &mut ChaCha8Rng,
    ) -> Result<()> {
        let Some(own) = self.settings.pool else { return Ok(()) };
        let PixelPool { images, .. } = own;
        let order: Vec<usize> = shuffled(&self.images, rng).into_iter().take(images).collect();
        let Prepared { network, kept, .. } = &mut self.prepared;
        run.watch.begin(Part::Pool, network.work());
        let filling = Filling::new(own, &self.settings, self.image, kept, aim, run.watch);
        bout.pool = filling.fill(bout.pool.take(), network, &bout.layer.fold()?, &order, rng)?;
        run.watch.end(network.work(), false);
        Ok(())
    }

    /// One bi-level step.
    fn step(&mut self, bout: &mut Bout<'_>, images: &[usize], run: &Run<'_>) -> Result<StepLosses> {
        let Prepared { network, kept, .. } = &mut self.prepared;
        let (layer, s) = (bout.layer, &self.settings);
        let folded = network.timed(Timed::Layer, || layer.fold())?;
        let batch = Batch::new(network, &folded, kept, images, run.watch)?;
        let attack = match &bout.adversary {
            Some(adversary) => Some(adversary.attack(network, &folded, &batch, run.steps)?),
            None => None,
        };
        let original = match s.original {
            Original::Current => batch.clean.logits.answers(),
            Original::Unchanged => kept.original_answers(images),
            Original::Labels => batch.labels.clone(),
        };
        let before = (bout.retention > 0.0).then(|| kept.original_logits(images)).transpose()?;
        let more = match &bout.pool {
            Some(pool) => pool.gradients(network, &folded, images.len(), [s.seed, run.steps as u64])?,
            None => FoldedGradients::default(),
        };
        let attacked =
            attack.as_ref().map(|a| Attacked { pass: &a.pass, targets: &a.targets, original: &original });
        let retained = before.as_ref().map(|z| (z, bout.retention));
        let clean = Clean { pass: &batch.clean, labels: &batch.labels, retained };
        let outer = Outer { clean, attacked, lambdas: s.lambdas, more };
        let (losses, gradients) = outer_gradients(network, layer, &folded, outer)?;
        network.timed(Timed::Layer, || bout.optimizer.step(layer.trained(), &gradients))?;
        let OuterLosses { published, retention } = losses;
        let sum: f64 = published.iter().zip(s.lambdas).map(|(l, weight)| l * weight).sum();
        let reached = attack.map_or(0.0, |a| a.reached);
        Ok(StepLosses { loss: sum + bout.retention * retention, published, retention, reached })
    }

    /// The layer as it goes into the file, measured on the images held out.
    fn finish(
        mut self,
        start: Start,
        findings: Option<Findings>,
        run: Run<'_>,
        seconds: f64,
        profiler: Option<&Profiler>,
    ) -> Result<Trained> {
        let Prepared { network, held_out, kept, memory } = &mut self.prepared;
        network.profile_into(None);
        // what is measured is the network as it is
        network.set_precision(Precision::F32);
        let limit = self.settings.max_acc_drop;
        let Guarded { layer, held_out, guard } =
            guard::guarded(start.layer.export()?, network, held_out.as_ref(), limit)?;
        let (tape_bytes, counts, memory) = (kept.tape_bytes(), network.counts(), *memory);
        let (is_cpu, on_processor) = (network.device().is_cpu(), network.on_processor());
        drop(self); // before the ceilings take memory of their own
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

/// What the second phase goes on with from step to step.
struct Bout<'a> {
    layer: &'a dyn Trainable,
    optimizer: Optimizer,
    adversary: Option<Adversary<'a>>,
    pool: Option<Pool>,
    /// Weight of the retention.
    retention: f64,
}

/// With as many epochs as so many images need for the least number of steps.
fn lengthened(settings: &Settings, images: usize) -> Settings {
    let mut settings = settings.clone();
    if settings.epochs > 0 {
        let an_epoch = images.div_ceil(settings.batch).max(1);
        settings.epochs = settings.epochs.max(settings.min_steps.unwrap_or(0).div_ceil(an_epoch));
    }
    settings
}

/// The images, and behind them their mirror images with the same labels.
fn with_mirrors(samples: Samples<'_>, [_, _, w]: [usize; 3]) -> (Vec<f32>, Option<Vec<u32>>) {
    let mut pixels = samples.pixels.to_vec();
    pixels.extend(samples.pixels.chunks(w.max(1)).flat_map(|row| row.iter().rev()));
    (pixels, samples.labels.map(|labels| labels.repeat(2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirror_images_come_behind_the_others() {
        let pixels = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let both = with_mirrors(Samples { pixels: &pixels, labels: Some(&[7]) }, [1, 2, 3]);
        assert_eq!(both.0, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 3.0, 2.0, 1.0, 6.0, 5.0, 4.0]);
        assert_eq!(both.1, Some(vec![7, 7]));
        assert!(with_mirrors(Samples { pixels: &pixels, labels: None }, [1, 2, 3]).1.is_none());
    }
}
