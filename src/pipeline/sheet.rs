//! What a network is fed: some images after preprocessing, with their labels and the network's answers.

use super::{
    Job, RunOptions,
    classifier::Classifier,
    images::{ask, required},
    observer::{Observer, Watcher},
    order::Order,
};
use crate::{
    Result,
    data::{self, ImageSet, Pixels},
    verify::JudgeChoice,
};

/// Images on a sheet.
const SHOWN: usize = 48;

/// Some images as a network is fed them, before normalisation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sheet {
    /// C, H, W.
    pub shape: [usize; 3],
    /// The images.
    pub cells: Vec<Cell>,
    /// The preprocessing in words: each part with its value.
    pub preprocessing: String,
}

/// An image of a sheet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    /// Its file.
    pub name: String,
    /// 8-bit values (C, H, W), in the network's order of channels.
    pub pixels: Vec<u8>,
    /// Name or index of its class; None if unlabelled.
    pub label: Option<String>,
    /// Name or index of the class that the network answers.
    pub answer: String,
}

/// Prepares up to 48 of the job's images, as many of each class, and asks the judge about them.
///
/// # Errors
/// Invalid settings or inputs; [`crate::Error::Interrupted`].
pub fn sheet(job: &Job<'_>, run: &RunOptions, observer: &mut dyn Observer) -> Result<Sheet> {
    let mut classifier = Classifier::of(job)?;
    let job = &classifier.job(job)?;
    let watcher = Watcher::new(observer);
    run.install(|| {
        let source = required(job.images, "images")?;
        let order = Order::of(job, &[Some(source)]);
        let set = ImageSet::open(source, &order.classes, &classifier.target(&job.preprocessing)?)?;
        let labels = set.is_labelled().then(|| set.labels());
        let set = set.select(&data::choose(labels, set.len(), Some(SHOWN), None, job.settings.seed));
        let images = ImageSet::of(set.images()?);
        // nothing is verified here: where tract cannot read the model, the executor answers
        let judge = classifier.judge(set.shape(), JudgeChoice::Tract);
        let judge = judge.or_else(|_| classifier.judge(set.shape(), JudgeChoice::None))?;
        order.require_count(judge.outputs())?;
        let answers = ask(&judge, &images, &job.preprocessing, "answers", &watcher)?;
        let class =
            |class: u32| order.classes.0.get(class as usize).cloned().unwrap_or_else(|| class.to_string());
        let cell = |i: usize| -> Result<Cell> {
            let pixels = match images.raw(&[i])? {
                Pixels::U8(values) => values,
                Pixels::F32(values) => values.iter().map(|v| (255.0 * v).round() as u8).collect(),
            };
            let label = set.labels().get(i).map(|l| class(*l));
            Ok(Cell { name: images.name(i), pixels, label, answer: class(answers[i]) })
        };
        let parts = job.preprocessing.parts().map(|(piece, text, _)| format!("{} {text}", piece.name));
        Ok(Sheet {
            shape: set.shape(),
            cells: (0..set.len()).map(cell).collect::<Result<_>>()?,
            preprocessing: parts.collect::<Vec<_>>().join(", "),
        })
    })
}
