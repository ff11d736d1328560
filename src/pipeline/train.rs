//! The training step of a purification.

use super::{
    RunOptions,
    images::{LoadedImages, knows_its_images, normalisation, require_memory},
    observer::Watcher,
    outcome::{self, Labels},
};
use crate::{
    Result,
    data::Split,
    device::Place,
    network::{EpochRecord, Options, Phase, Samples, Subject},
    onnx::Model,
    scan::Findings,
    site::Site,
    train::{Settings, Trained, Trainer},
    verify::reference::Reference,
};

/// Inputs of the training.
pub(super) struct Task<'t, 'a> {
    pub model: &'a Model,
    pub network: &'t Reference<'a>,
    pub place: &'t Place,
    pub site: &'t Site,
    pub settings: &'t Settings,
    pub data: &'t LoadedImages<'a>,
}

impl<'a> Task<'_, 'a> {
    /// Prepares the training, which runs the network once over all clean images, and checks its accuracy on them.
    ///
    /// # Errors
    /// Unsupported operators, too little memory, accuracy near chance on labelled images.
    pub fn prepare(&self, run: &RunOptions, watcher: &Watcher<'_>) -> Result<Trainer<'a>> {
        let data = self.data;
        let shape = data.clean.shape();
        let labels = |rows: &[usize]| rows.iter().map(|&r| data.clean.labels()[r]).collect::<Vec<u32>>();
        let Split { train, held_out } = &data.split;
        require_memory(&data.clean, run)?;
        let train = (data.clean.raw(train)?, labels(train));
        let held = (data.clean.raw(held_out)?, labels(held_out));
        let held = (!held.1.is_empty()).then_some(Samples { pixels: &held.0, labels: Some(&held.1) });
        let subject = Subject {
            model: self.model,
            lowered: Some(self.network.graph().clone()),
            place: self.site.place.clone(),
            image: shape,
            normalisation: normalisation(&data.preprocessing, shape[0]),
            clean: Samples { pixels: &train.0, labels: Some(&train.1) },
            held_out: held,
        };
        let options = Options { memory: run.memory, profile: run.profile, place: self.place.clone() };
        let settings = self.settings.clone();
        let trainer = Trainer::prepare(subject, settings, &options, &mut watcher.training())?;
        if data.labels == Labels::Folders {
            knows_its_images(trainer.original_accuracy(), data.order.classes.len(), &data.name)?;
        }
        Ok(trainer)
    }
}

/// Name in reports.
fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::WarmUp => "warm-up",
        Phase::Train => "train",
    }
}

fn epoch(e: &EpochRecord) -> outcome::Epoch {
    outcome::Epoch {
        phase: phase(e.phase).to_owned(),
        epoch: e.epoch,
        loss: e.loss,
        first_loss: e.first_loss,
        losses: [("l1", e.l1), ("l2", e.l2), ("l3", e.l3), ("l4", e.l4), ("retention", e.retention)]
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect(),
        reached: e.reached.map(|share| 100.0 * share),
        seconds: e.seconds,
    }
}

/// Nodes that ran on the CPU in a training on a GPU.
pub(super) fn on_processor(trained: &Trained) -> Vec<outcome::Node> {
    let node = |(name, operator): &(String, &str)| outcome::Node {
        name: name.clone(),
        operator: (*operator).into(),
    };
    trained.on_processor.iter().map(node).collect()
}

/// The training's part of a report.
pub(super) fn report(trained: &Trained) -> outcome::Train {
    let findings = trained.findings.as_ref();
    outcome::Train {
        steps: trained.steps,
        rank: trained.rank,
        suspicion: findings.map(|f| f.scores.clone()),
        suspicion_ways: findings.map(Findings::by_name).unwrap_or_default(),
        all_to_all: findings.filter(|f| f.all_to_all()).map(|f| 100.0 * f.scattered()),
        seconds: trained.seconds,
        stages: trained
            .stages
            .iter()
            .map(|(name, seconds)| outcome::Timing { name: (*name).into(), seconds: *seconds })
            .collect(),
        epochs: trained.epochs.iter().map(epoch).collect(),
    }
}
