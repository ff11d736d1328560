//! The loop: keep, warm up, train against the adversary, measure on the images held out.

use std::{sync::Arc, time::Instant};

use rand::seq::SliceRandom as _;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{
    adversary::{Adversary, Drawn},
    guard::{self, Guard, Guarded},
    layer::{FoldedGradients, Gradients, Polarizer, Trainable},
    optimizer::{Adam, Optimizer, Sgd},
    pool::{self, Pool},
    principal::{self, Components, Principal, Spread},
    run::{Run, Stages, StepLosses},
    settings::{self, AdversaryKind, OptimizerKind, Original, Settings, Targets},
};
use candle_core::Tensor;

use crate::{
    Error, Result,
    base::runtime,
    kernels::{Precision, buffers},
    layer::Layer,
    network::{
        AtCut, Counts, End, EpochRecord, Event, Folded, Kept, Latent, Load, Memory, Network, Normalisation,
        Observer, Options, Pass, Phase, Pixel,
        attack::{self, Batch},
        losses,
    },
    onnx::Model,
    profile::{Ceilings, Part, Profile, Profiler},
    scan::{self, Suspicion},
    site::SitePlace,
};

/// Fewer warm-up steps than this and the running statistics would not settle (0.9^60 = 0.002 of their start would be
/// left): they are set exactly then, from one pass over all clean images.
const STEPS_TO_SETTLE: usize = 60;

/// Images with their classes.
#[derive(Clone, Copy)]
pub struct Samples<'a> {
    /// (N, C, H, W), row-major, in [0, 1].
    pub pixels: &'a [f32],
    /// Class of each image; empty where unknown: the network's own answers are taken then.
    pub labels: &'a [u32],
}

/// A run in preparation: the network is cut and the clean images' values are kept.
pub struct Trainer<'a> {
    pub(super) settings: Settings,
    memory: Memory,
    profile: bool,
    pub(super) normalisation: Normalisation,
    pub(super) image: [usize; 3],
    pub(super) network: Network<'a>,
    pub(super) kept: Kept,
    /// Those of the kept images that are trained on.
    images: Vec<usize>,
    held_out: Option<Kept>,
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
    /// Where the time went, if that was asked for.
    pub profile: Option<Profile>,
    /// Passes over images, the preparation included.
    pub counts: Counts,
    /// Share of held-out images answered with their class, in percent: without and with the layer.
    pub held_out: Option<(f64, f64)>,
    /// What was done to the layer because it cost too much accuracy.
    pub guard: Option<Guard>,
    /// Where the adversaries aimed, if that was measured.
    pub suspicion: Option<Suspicion>,
}

/// A layer before the second phase.
struct Start {
    layer: Box<dyn Trainable>,
    exact_statistics: bool,
    rank: Option<usize>,
}

impl<'a> Trainer<'a> {
    /// Cuts the network at `place` and runs it once over the clean images of shape `image` = (C, H, W).
    ///
    /// # Errors
    /// Settings out of range, what lowering refuses, [`Error::Interrupted`].
    #[allow(clippy::too_many_arguments)] // each is a thing of its own; a struct would only rename them
    pub fn prepare(
        model: &'a Model,
        place: SitePlace,
        image: [usize; 3],
        normalisation: Normalisation,
        clean: Samples<'_>,
        held_out: Option<Samples<'_>>,
        settings: Settings,
        options: &Options,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        settings.check()?;
        let mut network = match &options.lowered {
            Some(lowered) if lowered.input_shape().get(1..) == Some(&image) => {
                Network::from_lowered(model, lowered, place, End::Logits)?
            }
            _ => Network::new(model, image, place, End::Logits)?,
        };
        network.place_on(options.place.device());
        let per_image = image.iter().product::<usize>().max(1);
        let held = held_out.map_or(0, |s| s.pixels.len() / per_image);
        let own = clean.pixels.len() / per_image;
        let mirrored = settings.mirror.then(|| with_mirrors(clean, image));
        let clean = mirrored.as_ref().map_or(clean, |(pixels, labels)| Samples { pixels, labels });
        let count = clean.pixels.len() / per_image;
        let total = count + held;
        let load = Load {
            images: [count, held],
            batch: settings.batch,
            pixels: per_image * size_of::<f32>(),
            attacked: settings.moves_pixels(),
            pool: settings.pool_images().saturating_mul(settings.epochs).min(Pool::MOST),
        };
        let memory = Memory::plan(options, &mut network, &load)?;
        observer.event(Event::Memory(&memory));
        let mut keep = |samples: Samples<'_>, before: usize, keep_tape: bool| {
            Kept::new(
                &mut network,
                &normalisation,
                samples.pixels,
                image,
                samples.labels,
                keep_tape,
                |done| {
                    observer.event(Event::Kept { done: before + done, total });
                    if observer.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
                },
            )
        };
        let kept = keep(clean, 0, memory.tape_kept)?;
        let held_out = held_out.filter(|_| held > 0).map(|s| keep(s, count, false)).transpose()?;
        if kept.count() == 0 {
            return Err(Error::setting("images", "no clean image is left to train on"));
        }
        drop(mirrored);
        // a mirror image that the network does not know for what it is teaches nothing: letters and signs have sides
        let answers = kept.original.answers();
        let known = |&i: &usize| i < own || answers[i] == kept.labels[i];
        let images: Vec<usize> = (0..kept.count()).filter(known).collect();
        let profile = options.profile;
        let mut settings = settings;
        if settings.epochs > 0 {
            let an_epoch = images.len().div_ceil(settings.batch).max(1);
            settings.epochs = settings.epochs.max(settings.min_steps.unwrap_or(0).div_ceil(an_epoch));
        }
        Ok(Self { images, settings, memory, profile, normalisation, image, network, kept, held_out })
    }

    /// Share of all clean images, held out or not, that the original network answers with their class, in percent.
    pub fn original_accuracy(&self) -> f64 {
        let hits = |k: &Kept| k.original.answers().iter().zip(&k.labels).filter(|(a, b)| a == b).count();
        let all: usize = std::iter::once(&self.kept).chain(&self.held_out).map(Kept::count).sum();
        let right: usize = std::iter::once(&self.kept).chain(&self.held_out).map(hits).sum();
        100.0 * right as f64 / all.max(1) as f64
    }

    /// The settings, with as many epochs as there will be.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// SGD steps of an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.images.len().div_ceil(self.settings.batch)
    }

    /// Runs both phases.
    ///
    /// # Errors
    /// What an operator refuses, [`Error::Interrupted`], [`Error::Check`] where the training diverged.
    pub fn train(mut self, observer: &mut dyn Observer) -> Result<Trained> {
        buffers::clear(); // the training needs other sizes than the preparation
        let (began, mut stages) = (Instant::now(), Stages::begin());
        let profiler = self.profile.then(Arc::<Profiler>::default);
        self.network.profile_into(profiler.clone());
        self.network.set_precision(self.settings.precision_here());
        let mut rng = ChaCha8Rng::seed_from_u64(self.settings.seed);
        let mut run = Run { observer, epochs: Vec::new(), steps: 0, total: 0, began };
        let per_epoch = self.steps_per_epoch();
        run.total = per_epoch * (self.settings.start.warmup() + self.settings.epochs);
        let mut ahead = None;
        if matches!(self.settings.start, settings::Start::Principal { .. }) && !self.network.device().is_cpu()
        {
            ahead = Some(self.aim_beside_components(&run)?);
            stages.end("aim");
        }
        let (components, aimed) =
            ahead.map_or((None, None), |(components, aim)| (Some(components), Some(aim)));
        let Start { layer, exact_statistics, rank } = self.start(components, &mut run, &mut rng)?;
        let layer = layer.as_ref();
        stages.end("start");

        let suspicion = match aimed {
            Some(aimed) => aimed,
            None => self.aim(&run)?,
        };
        let adversary =
            adversary_of(&self.settings, self.image, &self.normalisation, &self.kept, suspicion.as_ref())?;
        stages.end("aim");
        self.settings.retention *= suspicion.as_ref().map_or(1.0, Suspicion::restraint);
        let mut pool = None;
        let s = &self.settings;
        let mut optimizer = match s.optimizer {
            OptimizerKind::Sgd { momentum, weight_decay } => {
                Optimizer::Sgd(Sgd::new(s.lr, momentum, weight_decay))
            }
            OptimizerKind::Adam => Optimizer::Adam(Adam::new(s.lr)),
        };
        let (before, of) = (run.steps, per_epoch * s.epochs);
        for epoch in 1..=self.settings.epochs {
            if (epoch - 1).is_multiple_of(self.settings.epochs.div_ceil(pool::FILLS)) {
                pool = self.fill(pool, layer, suspicion.as_ref(), &mut rng, &run)?;
                stages.end("pool");
            }
            let mut losses = Vec::new();
            for images in self.shuffled(&mut rng).chunks(self.settings.batch) {
                let share = self.settings.schedule.share(run.steps - before, of);
                optimizer.set_lr(self.settings.lr * share);
                losses.push(self.step(
                    layer,
                    &mut optimizer,
                    adversary.as_deref(),
                    pool.as_ref(),
                    images,
                    &run,
                )?);
                run.step(Phase::Train)?;
            }
            run.epoch(Phase::Train, epoch, &losses, self.settings.retention > 0.0);
            stages.end("steps");
        }
        let seconds = began.elapsed().as_secs_f64();
        self.network.profile_into(None);
        let (epochs, steps) = (run.epochs, run.steps);
        let exported = layer.export()?;
        // what is measured is the network as it is
        self.network.set_precision(Precision::F32);
        let limit = self.settings.max_acc_drop;
        let Guarded { layer: exported, held_out, guard } =
            guard::guarded(exported, &mut self.network, self.held_out.as_ref(), limit)?;
        let tape_bytes = self.kept.tape_bytes();
        let counts = self.network.counts();
        let memory = self.memory;
        let on_processor = self.network.device().is_cpu();
        drop(self); // before the ceilings take memory of their own
        buffers::clear();
        Ok(Trained {
            layer: exported,
            epochs,
            steps,
            seconds,
            stages: stages.ended,
            exact_statistics,
            rank,
            tape_bytes,
            memory,
            profile: profiler.map(|p| {
                let ceilings = if on_processor { Ceilings::measure() } else { Ceilings::default() };
                p.profile(seconds, ceilings)
            }),
            counts,
            held_out,
            guard,
            suspicion,
        })
    }

    /// The components of the clean values, which the processor finds, and where to aim, which a GPU finds meanwhile.
    fn aim_beside_components(&mut self, run: &Run<'_>) -> Result<(Components, Option<Suspicion>)> {
        let edge = &self.kept.all().edge;
        let spread = self.network.timed(Part::Layer, || Spread::of(edge))?;
        let threads = rayon::current_num_threads();
        let (components, suspicion) = runtime::beside(threads, || spread.components(), || self.aim(run));
        Ok((components?, suspicion?))
    }

    /// The layer as it goes into the second phase; `components` are those of the clean values, where they are known.
    fn start(
        &mut self,
        components: Option<Components>,
        run: &mut Run<'_>,
        rng: &mut ChaCha8Rng,
    ) -> Result<Start> {
        if let settings::Start::Principal { rank } = self.settings.start {
            let edge = &self.kept.all().edge;
            let components = match components {
                Some(components) => components,
                None => self.network.timed(Part::Layer, || Components::of(edge))?,
            };
            let rank = match rank {
                Some(rank) => rank,
                None => {
                    let share = Settings::KEPT_ANSWERS;
                    principal::rank_that_keeps(share, &components, &mut self.network, &self.kept)?
                }
            };
            let layer = Box::new(Principal::new(&components, rank, self.network.device())?);
            return Ok(Start { layer, exact_statistics: true, rank: Some(rank) });
        }
        let mut layer = Polarizer::new(self.kept.all().edge.dim(1)?, self.network.device())?;
        let (warmup, warm_lr) = match self.settings.start {
            settings::Start::Whitening { warmup, warm_lr } => (warmup, warm_lr),
            _ => (0, 0.0),
        };
        let mut sgd = Optimizer::Sgd(Sgd::new(warm_lr, 0.0, 0.0));
        for epoch in 1..=warmup {
            let mut losses = Vec::new();
            for images in self.shuffled(rng).chunks(self.settings.batch) {
                let loss = self.warm_up_step(&mut layer, &mut sgd, images)?;
                losses.push(StepLosses { loss, ..StepLosses::default() });
                run.step(Phase::WarmUp)?;
            }
            run.epoch(Phase::WarmUp, epoch, &losses, false);
        }
        let exact_statistics = warmup * self.steps_per_epoch() < STEPS_TO_SETTLE;
        if exact_statistics {
            self.network.timed(Part::Layer, || layer.set_statistics(&self.kept.all().edge))?;
        }
        if self.settings.start == settings::Start::Identity {
            layer.become_identity()?;
        }
        Ok(Start { layer: Box::new(layer), exact_statistics, rank: None })
    }

    /// Phase 1: batch statistics, plain SGD on the cross-entropy. Gives the loss.
    fn warm_up_step(&mut self, layer: &mut Polarizer, sgd: &mut Optimizer, images: &[usize]) -> Result<f64> {
        let values = self.network.timed(Part::Gather, || self.kept.values(images))?;
        let labels = self.kept.labels_of(images);
        let (loss, gradients) = warm_up_gradients(&mut self.network, layer, &values, &labels)?;
        self.network.timed(Part::Layer, || sgd.step(layer.trained(), &gradients))?;
        Ok(loss)
    }

    /// Phase 2: one bi-level step.
    fn step(
        &mut self,
        layer: &dyn Trainable,
        optimizer: &mut Optimizer,
        adversary: Option<&dyn Adversary>,
        pool: Option<&Pool>,
        images: &[usize],
        run: &Run<'_>,
    ) -> Result<StepLosses> {
        let labels = self.kept.labels_of(images);
        let folded = self.network.timed(Part::Layer, || layer.fold())?;
        let values = self.network.timed(Part::Gather, || self.kept.values(images))?;
        let clean = attack::forward(&mut self.network, &folded, values)?;
        let interrupted = || run.observer.interrupted();
        let batch = Batch {
            kept: &self.kept,
            images,
            labels: &labels,
            clean: &clean,
            step: run.steps,
            interrupted: &interrupted,
        };
        let attack = adversary.map(|a| a.attack(&mut self.network, &folded, &batch)).transpose()?;
        let original = match self.settings.original {
            Original::Current => clean.logits.answers(),
            Original::Unchanged => self.kept.original_answers(images),
            Original::Labels => labels.clone(),
        };
        let attacked =
            attack.as_ref().map(|a| Attacked { pass: &a.pass, targets: &a.targets, original: &original });
        let (lambdas, weight) = (self.settings.lambdas, self.settings.retention);
        let before = (weight > 0.0).then(|| self.kept.original_logits(images)).transpose()?;
        let clean = Clean { pass: &clean, labels: &labels, retained: before.as_ref().map(|z| (z, weight)) };
        let more = match pool {
            Some(pool) => self.pool_gradients(pool, &folded, images.len(), run.steps)?,
            None => FoldedGradients::default(),
        };
        let (losses, gradients) =
            outer_gradients(&mut self.network, layer, &folded, clean, attacked, lambdas, more)?;
        self.network.timed(Part::Layer, || optimizer.step(layer.trained(), &gradients))?;
        let OuterLosses { published, retention } = losses;
        let sum: f64 = published.iter().zip(lambdas).map(|(l, weight)| l * weight).sum();
        let reached = attack.map_or(0.0, |a| a.reached);
        Ok(StepLosses { loss: sum + weight * retention, published, retention, reached })
    }

    /// How suspicious each class of the network is, without the layer.
    ///
    /// # Errors
    /// What an operator refuses, [`Error::Interrupted`]; [`Error::Setting`] where all images are of one class.
    pub fn suspicion(&mut self, observer: &dyn Observer) -> Result<Suspicion> {
        let interrupted = || observer.interrupted();
        let (network, kept) = (&mut self.network, &self.kept);
        scan::measure(network, kept, &self.normalisation, &self.images, self.settings.batch, &interrupted)
    }

    /// Where the adversaries aim, where the settings leave that to a measurement.
    fn aim(&mut self, run: &Run<'_>) -> Result<Option<Suspicion>> {
        if self.settings.targets != Targets::Suspect || self.settings.epochs == 0 {
            return Ok(None);
        }
        self.suspicion(run.observer).map(Some)
    }

    pub(super) fn shuffled(&self, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let mut order = self.images.clone();
        order.shuffle(rng);
        order
    }
}

/// The adversary that the settings name; None for no adversary.
///
/// # Errors
/// What candle refuses.
fn adversary_of(
    settings: &Settings,
    image: [usize; 3],
    normalisation: &Normalisation,
    kept: &Kept,
    suspicion: Option<&Suspicion>,
) -> Result<Option<Box<dyn Adversary>>> {
    Ok(match settings.adversary {
        AdversaryKind::None => None,
        AdversaryKind::Pixel { steps, step, rho, stop_share } => Some(Box::new(Pixel {
            steps,
            step: step as f32,
            rho: rho.unwrap_or_else(|| Settings::pixel_rho(image)) as f32,
            stop_share: stop_share.unwrap_or(2.0),
            normalisation: normalisation.clone(),
            shared: false,
        })),
        AdversaryKind::Latent { steps, rho } => Some(Box::new(Drawn {
            latent: Latent::new(steps, rho as f32, kept)?,
            targets: settings.targets,
            seed: settings.seed,
            suspicion: suspicion.cloned(),
        })),
    })
}

/// The images, and behind them their mirror images with the same labels.
fn with_mirrors(samples: Samples<'_>, [_, _, w]: [usize; 3]) -> (Vec<f32>, Vec<u32>) {
    let mut pixels = samples.pixels.to_vec();
    pixels.extend(samples.pixels.chunks(w.max(1)).flat_map(|row| row.iter().rev()));
    (pixels, samples.labels.repeat(2))
}

/// Loss and gradients of the layer in training mode on a batch's values at the cut.
///
/// # Errors
/// What an operator refuses; [`Error::Setting`] where no gradient reaches the site.
pub fn warm_up_gradients(
    network: &mut Network<'_>,
    layer: &Polarizer,
    values: &AtCut,
    labels: &[u32],
) -> Result<(f64, Gradients)> {
    let pass = network.timed(Part::Layer, || layer.forward_train(&values.edge))?;
    let (logits, tapes) = network.suffix(&pass.output.detach(), &values.crossing, true)?;
    let tapes = tapes.ok_or_else(|| Error::internal("a tape was asked for and not kept"))?;
    let loss = network.timed(Part::Losses, || losses::cross_entropy(&logits, labels))?;
    let edge = network.suffix_gradient(&tapes, &loss.gradient)?.edge.ok_or_else(no_gradient)?;
    let gradients = network.timed(Part::Layer, || layer.gradients(&pass, &edge))?;
    Ok((loss.value, gradients))
}

/// An adversarial pass as the losses see it.
pub struct Attacked<'a> {
    pub pass: &'a Pass,
    /// The class that each image was pushed towards.
    pub targets: &'a [u32],
    /// The answer that each image is to keep.
    pub original: &'a [u32],
}

/// A clean pass as the losses see it.
pub struct Clean<'a> {
    pub pass: &'a Pass,
    pub labels: &'a [u32],
    /// The logits of the network without the layer, (B, K), which the answers are to stay near to, and the weight of that.
    pub retained: Option<(&'a Tensor, f64)>,
}

/// The outer losses, before weighting.
#[derive(Clone, Copy, Debug, Default)]
pub struct OuterLosses {
    /// L1 to L4.
    pub published: [f64; 4],
    /// KL divergence of the answers on the clean images from those without the layer; 0 where it is not asked for.
    pub retention: f64,
}

/// The losses and the layer's gradients of their weighted sum, and of what `sums` holds already.
///
/// # Errors
/// What an operator refuses; [`Error::Setting`] where no gradient reaches the site.
pub fn outer_gradients(
    network: &mut Network<'_>,
    layer: &dyn Trainable,
    folded: &Folded,
    clean: Clean<'_>,
    attacked: Option<Attacked<'_>>,
    lambdas: [f64; 4],
    mut sums: FoldedGradients,
) -> Result<(OuterLosses, Gradients)> {
    let Clean { pass: clean, labels, retained } = clean;
    let (l1, retention, gradient) = network.timed(Part::Losses, || -> Result<_> {
        let l1 = losses::cross_entropy(&clean.logits, labels)?;
        let gradient = (l1.gradient * lambdas[0])?;
        let Some((before, weight)) = retained else { return Ok((l1.value, 0.0, gradient)) };
        let kl = losses::retention(&clean.logits, before)?;
        Ok((l1.value, kl.value, (gradient + (kl.gradient * weight)?)?))
    })?;
    let edge = network.suffix_gradient(&clean.tapes, &gradient)?.edge.ok_or_else(no_gradient)?;
    network.timed(Part::Layer, || sums.add(&clean.values.edge, &edge))?;
    let mut published = [l1, 0.0, 0.0, 0.0];
    if let Some(Attacked { pass, targets, original }) = attacked {
        let weights = [lambdas[1], lambdas[2], lambdas[3]];
        let l = network
            .timed(Part::Losses, || losses::adversarial(&pass.logits, original, labels, targets, weights))?;
        let edge = network.suffix_gradient(&pass.tapes, &l.gradient)?.edge.ok_or_else(no_gradient)?;
        network.timed(Part::Layer, || sums.add(&pass.values.edge, &edge))?;
        published = [l1, l.l2, l.l3, l.l4];
    }
    let gradients = network.timed(Part::Layer, || layer.unfold(folded, sums))?;
    Ok((OuterLosses { published, retention }, gradients))
}

pub(super) fn no_gradient() -> Error {
    Error::setting("site", "no gradient of the answer reaches this site")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirror_images_come_behind_the_others() {
        let pixels = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let both = with_mirrors(Samples { pixels: &pixels, labels: &[7] }, [1, 2, 3]);
        assert_eq!(both.0, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 3.0, 2.0, 1.0, 6.0, 5.0, 4.0]);
        assert_eq!(both.1, [7, 7]);
        assert!(with_mirrors(Samples { pixels: &pixels, labels: &[] }, [1, 2, 3]).1.is_empty());
    }
}
