//! The outputs beside the scores: they must be what they were, with the layer where it lies before them.

use std::path::Path;

use candle_core::Device;

use super::{classifier::Classifier, observer::Watcher, outcome::OtherOutput, probe::Probe};
use crate::{
    Error, Result,
    base::rows::evenly,
    error::shortened,
    graph::{self, ScoreForm, Scores, Wanted},
    layer::Layer,
    onnx::{Model, paths::Paths},
    site::SitePlace,
    verify::{Form, JudgeChoice, parity, reference::Reference},
};

/// Images compared.
const IMAGES: usize = 16;

/// Largest difference, relative as for the scores: far above rounding, far below what a wrong rewrite makes.
const ALLOWED: f64 = 1e-2;

/// Compares the outputs of the rewritten file at `path` that are not the scores with the original and the layer in the
/// executor, as far as both runtimes can compute them.
///
/// # Errors
/// [`Error::Check`] named `other-outputs` with the first that differs; [`Error::Interrupted`].
pub(super) fn compare(
    classifier: &Classifier<'_>,
    path: &Path,
    layer: (&SitePlace, &Layer),
    probe: &Probe,
    judge: JudgeChoice,
    watcher: &Watcher<'_>,
) -> Result<Vec<OtherOutput>> {
    if judge == JudgeChoice::None {
        return Ok(Vec::new());
    }
    let model = classifier.model;
    let used = classifier.scores(probe.shape)?.index;
    let rows: Vec<usize> = evenly(probe.n, IMAGES).collect();
    let x = probe.rows(&rows);
    let mut all = Vec::new();
    for (index, info) in model.outputs().iter().enumerate().filter(|(index, _)| *index != used) {
        let wanted = Wanted { name: Some(&info.name), classes: None };
        let [c, h, w] = probe.shape;
        let found = graph::choose(model, &[1, c, h, w], wanted)
            .map(|scores| Scores { form: ScoreForm::EachClass, ..scores });
        let compared = found.and_then(|output| {
            let layer = Some(layer).filter(|(place, _)| leads_to(model, place, &info.name));
            let ours = Reference::of_scores(model, probe.shape, &output, &Device::Cpu)?;
            let fed = classifier.fed(probe.shape, index, ScoreForm::EachClass);
            let theirs = classifier.judge_as(path, fed, judge)?;
            watcher.part("other outputs", rows.len(), |watch| {
                let ours = ours.outputs(layer, &x, rows.len(), watch)?;
                let theirs = theirs.logits_watched(Form::Plain, &x, rows.len(), watch)?;
                Ok(parity::differences(&theirs, &ours)?.iter().fold(0.0, |most: f64, d| most.max(d.relative)))
            })
        });
        let output = info.name.clone();
        all.push(match compared {
            Ok(difference) if difference.is_nan() || difference > ALLOWED => {
                let problem =
                    format!("output \"{output}\" differs by {difference:.1e} from what it should be");
                return Err(Error::check("other-outputs", problem));
            }
            Ok(difference) => OtherOutput {
                output,
                images: rows.len(),
                max_difference: Some(difference),
                not_compared: None,
            },
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(e) => {
                let why = shortened(&e.to_string(), 200);
                OtherOutput { output, images: 0, max_difference: None, not_compared: Some(why) }
            }
        });
    }
    Ok(all)
}

/// Whether `output` depends on what a layer at `place` returns.
fn leads_to(model: &Model, place: &SitePlace, output: &str) -> bool {
    let needed = Paths::of(model).needed(output);
    let behind = |node: usize| needed.get(node) == Some(&true);
    match place {
        SitePlace::Edge { node, .. } => behind(*node),
        SitePlace::Value { name } => {
            name == output
                || model.nodes().iter().enumerate().any(|(i, node)| node.inputs.contains(name) && behind(i))
        }
    }
}
