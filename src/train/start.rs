//! The initial layer: warm-up, identity or projection onto principal components.

use rand_chacha::ChaCha8Rng;

use super::{
    gradients::warm_up_gradients,
    layer::{Polarizer, Trainable},
    optimizer::{Optimizer, Sgd},
    principal::{self, Components, Principal},
    run::{StepLosses, TrainingRun, shuffled},
    settings::{self, Settings},
};
use crate::{
    Result,
    base::profile::Part as Timed,
    network::{Phase, Prepared, RunPart},
};

/// With fewer warm-up steps the running statistics would not settle (0.9^60 = 0.002 of their initial values remain), so
/// they are set exactly, from all clean images.
const STEPS_TO_SETTLE: usize = 60;

/// The layer before phase 2.
pub(super) struct Start {
    pub layer: Box<dyn Trainable>,
    pub exact_statistics: bool,
    pub rank: Option<usize>,
}

/// Inputs of the initial layer.
pub(super) struct StartInputs<'a, 'm> {
    pub prepared: &'a mut Prepared<'m>,
    pub settings: &'a Settings,
    /// Indices into the kept images to train on.
    pub images: &'a [usize],
}

impl StartInputs<'_, '_> {
    /// The layer before phase 2; `components` are those of the clean values, if computed already.
    pub fn start(
        &mut self,
        components: Option<Components>,
        run: &mut TrainingRun<'_>,
        rng: &mut ChaCha8Rng,
    ) -> Result<Start> {
        match self.settings.start {
            settings::Start::Principal { rank } => self.start_principal(rank, components),
            settings::Start::Whitening { warmup, warm_lr } => {
                let layer = self.warm_up(warmup, warm_lr, run, rng)?;
                let (layer, exact_statistics) = self.with_statistics(layer, warmup)?;
                Ok(Start { layer: Box::new(layer), exact_statistics, rank: None })
            }
            settings::Start::Identity => {
                let layer = self.untrained()?;
                let (mut layer, exact_statistics) = self.with_statistics(layer, 0)?;
                layer.become_identity()?;
                Ok(Start { layer: Box::new(layer), exact_statistics, rank: None })
            }
        }
    }

    fn start_principal(&mut self, rank: Option<usize>, components: Option<Components>) -> Result<Start> {
        let Prepared { network, kept, .. } = &mut *self.prepared;
        let components = match components {
            Some(components) => components,
            None => network.timed(Timed::Layer, || Components::of(&kept.all().edge))?,
        };
        let rank = match rank {
            Some(rank) => rank,
            None => principal::rank_that_keeps(Settings::KEPT_ANSWERS, &components, network, kept)?,
        };
        let layer = Box::new(Principal::new(&components, rank, network.device())?);
        Ok(Start { layer, exact_statistics: true, rank: Some(rank) })
    }

    fn untrained(&self) -> Result<Polarizer> {
        let Prepared { network, kept, .. } = &*self.prepared;
        Polarizer::new(kept.all().edge.dim(1)?, network.device())
    }

    /// Phase 1.
    fn warm_up(
        &mut self,
        epochs: usize,
        lr: f64,
        run: &mut TrainingRun<'_>,
        rng: &mut ChaCha8Rng,
    ) -> Result<Polarizer> {
        let layer = self.untrained()?;
        let mut sgd = Optimizer::Sgd(Sgd::new(lr, 0.0, 0.0));
        for epoch in 1..=epochs {
            run.begin_epoch(RunPart::WarmUp, self.prepared.network.work());
            let mut losses = Vec::new();
            for images in shuffled(self.images, rng).chunks(self.settings.batch) {
                let loss = self.warm_up_step(&layer, &mut sgd, images)?;
                losses.push(StepLosses { loss, ..StepLosses::default() });
                run.step(Phase::WarmUp, self.prepared.network.work())?;
            }
            run.epoch(Phase::WarmUp, epoch, &losses, false);
        }
        run.watch.end(self.prepared.network.work(), true);
        Ok(layer)
    }

    /// Sets exact statistics if `warmup` epochs are too few for the running ones; returns whether it did.
    fn with_statistics(&self, mut layer: Polarizer, warmup: usize) -> Result<(Polarizer, bool)> {
        let exact = warmup * self.images.len().div_ceil(self.settings.batch) < STEPS_TO_SETTLE;
        let Prepared { network, kept, .. } = &*self.prepared;
        if exact {
            network.timed(Timed::Layer, || layer.set_statistics(&kept.all().edge))?;
        }
        Ok((layer, exact))
    }

    /// A step of plain SGD on the cross-entropy, with batch statistics. Returns the loss.
    fn warm_up_step(&mut self, layer: &Polarizer, sgd: &mut Optimizer, images: &[usize]) -> Result<f64> {
        let Prepared { network, kept, .. } = &mut *self.prepared;
        let values = network.timed(Timed::Gather, || kept.values(images))?;
        let labels = kept.labels_of(images);
        let (loss, gradients) = warm_up_gradients(network, layer, &values, &labels)?;
        network.timed(Timed::Layer, || sgd.step(layer.trained(), &gradients))?;
        Ok(loss)
    }
}
