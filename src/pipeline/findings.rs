//! Derives the findings of a result. Reports only show them.

use super::{
    Job,
    finding::{Finding, Rule, Severity},
    outcome::{Measures, Node, Purification, ScanOutcome, Verification},
};
use crate::{
    data::Damaged,
    error::printable,
    memory::size,
    scan::{Findings, calibration},
    site::Site,
    train::Settings,
    verify::Judge,
};

/// Drop of ACC, in points, from which a model is considered unusable for most purposes.
pub const MUCH: f64 = 15.0;

/// `class 3 "disc"`.
pub(super) fn class_name(class: usize, names: &[String]) -> String {
    match names.get(class) {
        Some(name) => format!("class {class} {:?}", printable(name)),
        None => format!("class {class}"),
    }
}

/// Findings about what other sources state of the preprocessing than the ones that are believed.
pub(super) fn contradicted(job: &Job<'_>) -> impl Iterator<Item = Finding> {
    let contradictions = job.described.iter().flat_map(|stated| &stated.contradictions);
    contradictions.map(|c| {
        Finding::new(Rule::PreprocessingContradicted, Severity::Warning, "preprocessing", c.to_string())
    })
}

/// Findings about the sources of images: what was read how, and files that were passed over.
pub(super) fn of_sources(job: &Job<'_>) -> Vec<Finding> {
    let triggered = job.triggered.as_ref().map(|t| t.images);
    let mut found: Vec<Finding> = Vec::new();
    for source in [job.images, job.test, triggered].into_iter().flatten() {
        let mut notes = source.notes();
        match source.passed_over() {
            0 => {}
            1 => notes.push("1 file that is no image was passed over".into()),
            n => notes.push(format!("{n} files that are no images were passed over")),
        }
        let name = source.name();
        let finding = |note: String| {
            let message = if note.starts_with(&name) { note } else { format!("{name}: {note}") };
            Finding::new(Rule::ImagesNoted, Severity::Note, name.clone(), message)
        };
        found.extend(notes.into_iter().map(finding));
    }
    found.dedup(); // a trigger is put on the test images
    found
}

/// Finding for a site that some way to the scores does not lead through; `chosen` by name, not by the recipe.
pub(super) fn passed_by(site: &Site, chosen: bool) -> Option<Finding> {
    let subject = format!("site {}", printable(&site.text));
    let (severity, more) = match chosen {
        true => (Severity::Warning, "a backdoor may take that way; the default site has none"),
        false => (Severity::Note, "as published: the residual passes by the layer"),
    };
    let message =
        format!("{subject}: some way from the input to the scores does not lead through it; {more}");
    site.passed_by.then(|| Finding::new(Rule::SitePassedBy, severity, subject, message))
}

/// Finding for damaged images that were left out.
pub(super) fn skipped(damaged: &[Damaged]) -> Option<Finding> {
    let first = damaged.first()?;
    let more = if damaged.len() > 1 { format!(" and {} more", damaged.len() - 1) } else { String::new() };
    let message =
        format!("{} images were left out because they are damaged: {}{more}", damaged.len(), first.problem);
    let finding = Finding::new(Rule::ImagesSkipped, Severity::Warning, "the images", message);
    Some(Finding { value: Some(damaged.len() as f64), ..finding })
}

/// The class with the highest score, and the score.
fn highest(scores: &[f64]) -> (usize, f64) {
    let mut best = (0, f64::NEG_INFINITY);
    for (class, score) in scores.iter().enumerate() {
        if *score > best.1 {
            best = (class, *score);
        }
    }
    best
}

/// Finding for too few classes.
fn too_few(scores: &[f64]) -> Finding {
    let message = format!("{} classes are too few for one to stand out", scores.len());
    Finding::new(Rule::TooFewClasses, Severity::Note, "the classes", message)
        .measured(scores.len() as f64, calibration::LEAST_CLASSES as f64)
}

/// The class that stands out, as a training reports it.
fn aimed_at(scores: &[f64], all_to_all: Option<f64>, names: &[String]) -> Option<Finding> {
    let (class, most) = highest(scores);
    if scores.len() < calibration::LEAST_CLASSES {
        return Some(too_few(scores));
    }
    if most >= Findings::STANDS_OUT {
        let name = class_name(class, names);
        let message = format!("{name} stands out: adversaries reach it with a robust z-score of {most:.1}");
        return Some(
            Finding::new(Rule::ClassStandsOut, Severity::Warning, name, message)
                .measured(most, Findings::STANDS_OUT),
        );
    }
    all_to_all.map(scattering)
}

/// Finding for a block that scatters `share` percent of the predictions.
fn scattering(share: f64) -> Finding {
    let message =
        format!("all to all: one small block scatters {share:.1} % of the predictions over several classes");
    Finding::new(Rule::AllToAll, Severity::Warning, "all classes", message)
        .measured(share, 100.0 * Findings::SCATTERS)
}

/// Findings of a purification.
pub(super) fn of_purification(p: &Purification, settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(scores) = &p.train.suspicion {
        found.extend(aimed_at(scores, p.train.all_to_all, &p.data.classes));
    }
    if let Some(g) = &p.guard {
        let message = format!(
            "{:.1} points of held-out ACC lost, more than {}: mixed with the identity ({:.0} % layer), now {:.1}",
            g.lost,
            g.limit,
            100.0 * g.share,
            g.lost_with_it
        );
        found.push(
            Finding::new(Rule::LayerMixed, Severity::Warning, "the layer", message).measured(g.lost, g.limit),
        );
    }
    if settings.max_acc_drop.is_some() && p.data.held_out == 0 {
        let message = "off: no labelled images are held out";
        found.push(Finding::new(Rule::GuardOff, Severity::Note, "the layer", message));
    }
    if p.memory.tape > 0 && p.memory.tape_kept == 0 {
        let message = format!("the clean images' tape ({}) was not kept in memory", size(p.memory.tape));
        found.push(Finding::new(Rule::TapeNotKept, Severity::Note, "memory", message));
    }
    found.extend(ran_on_processor(&p.on_processor));
    found.extend(accuracy_lost(p.before, p.after, settings.max_acc_drop));
    found.extend(of_verification(&p.verification));
    if p.target.is_none() {
        let message = "backdoor removal NOT measured: no triggered images";
        found.push(Finding::new(Rule::RemovalNotMeasured, Severity::Note, "the purified file", message));
    }
    found
}

/// Maximum number of nodes that a finding names.
const NAMED: usize = 3;

/// Finding for nodes without a GPU kernel: values are copied to the CPU and back at each.
fn ran_on_processor(nodes: &[Node]) -> Option<Finding> {
    let first =
        nodes.iter().take(NAMED).map(|n| format!("{} ({})", printable(&n.name), printable(&n.operator)));
    let mut named = first.collect::<Vec<_>>().join(", ");
    if let Some(more) = nodes.len().checked_sub(NAMED).filter(|more| *more > 0) {
        named.push_str(&format!(" and {more} more"));
    }
    let counted = if nodes.len() == 1 { "1 node".to_owned() } else { format!("{} nodes", nodes.len()) };
    let message = format!("{counted} ran on the CPU for lack of a GPU kernel: {named}");
    let finding = Finding::new(Rule::RanOnProcessor, Severity::Note, "the GPU", message);
    (!nodes.is_empty()).then_some(Finding { value: Some(nodes.len() as f64), ..finding })
}

/// Finding for a drop in accuracy of [`MUCH`] or more; a gate if it also exceeds the given limit.
fn accuracy_lost(before: Measures, after: Measures, limit: Option<f64>) -> Option<Finding> {
    let lost = before.acc? - after.acc?;
    if lost < MUCH {
        return None;
    }
    let limit = limit.map(|limit| limit.max(MUCH));
    let (severity, message) = match limit.filter(|limit| lost > *limit) {
        Some(limit) => (
            Severity::Error,
            format!(
                "{lost:.1} points of accuracy are lost, more than {limit}: the model is unusable for most purposes (raise \
                 `max_acc_drop` to accept it)"
            ),
        ),
        None => (Severity::Warning, format!("{lost:.1} points of accuracy are lost")),
    };
    let finding = Finding::new(Rule::AccuracyLost, severity, "the purified file", message);
    Some(finding.measured(lost, limit.unwrap_or(MUCH)))
}

/// Who judged, and what they were given.
fn of_verification(v: &Verification) -> Vec<Finding> {
    let mut found = Vec::from_iter((!v.is_verified()).then(not_verified));
    if let Some(message) = v.without_optimised() {
        found.push(Finding::new(Rule::OptimisedDistrusted, Severity::Note, "the judge", message));
    }
    found.extend(judged_a_copy(&v.rewritten));
    found
}

/// The same of a judge that answered alone.
pub(super) fn of_judge(judge: &Judge<'_>) -> Vec<Finding> {
    if !judge.judges() {
        return vec![not_verified()];
    }
    let mut found = Vec::from_iter(judged_a_copy(judge.rewritten()));
    if judge.optimised_is_distrusted() {
        let message =
            format!("{}'s optimised form is wrong or cannot be built: its plain form answered", judge.name());
        found.push(Finding::new(Rule::OptimisedDistrusted, Severity::Note, "the judge", message));
    }
    found
}

fn not_verified() -> Finding {
    let message = "no second runtime was asked: only candle computed the model";
    Finding::new(Rule::NotVerified, Severity::Warning, "the judge", message)
}

fn judged_a_copy(changes: &[String]) -> Option<Finding> {
    let message = || format!("tract cannot read the file and was given a copy: {}", changes.join(", "));
    (!changes.is_empty()).then(|| Finding::new(Rule::JudgedACopy, Severity::Note, "the judge", message()))
}

/// Findings of a scan, with the gate `max_score` if given.
pub(super) fn of_scan(s: &ScanOutcome, max_score: Option<f64>) -> Vec<Finding> {
    let mut found = of_verification(&s.verification);
    if s.scores.len() < calibration::LEAST_CLASSES {
        found.push(too_few(&s.scores));
    }
    for &class in &s.stands_out {
        let (name, score) = (class_name(class, &s.data.classes), s.scores[class]);
        let message = format!("{name} stands out with a robust z-score of {score:.1}");
        found.push(
            Finding::new(Rule::ClassStandsOut, Severity::Warning, name, message)
                .measured(score, Findings::STANDS_OUT),
        );
    }
    if s.all_to_all {
        found.push(scattering(s.scattered));
    }
    found.extend(not_calibrated(s, max_score));
    found.extend(max_score.and_then(|most| gate(s, most)));
    found
}

/// Finding for scores without a known false alarm rate: a warning if there is a gate.
fn not_calibrated(s: &ScanOutcome, max_score: Option<f64>) -> Option<Finding> {
    let why = s.not_calibrated.as_ref()?;
    let (severity, message) = match max_score {
        Some(most) => {
            let message =
                format!("not calibrated: {why}; the false alarm rate of `max_score` {most} is unknown");
            (Severity::Warning, message)
        }
        None => (Severity::Note, format!("not calibrated: {why}")),
    };
    Some(Finding::new(Rule::NotCalibrated, severity, "the scores", message))
}

/// The gate on a scan's highest score and on all-to-all scattering.
fn gate(s: &ScanOutcome, most: f64) -> Option<Finding> {
    let (class, score) = highest(&s.scores);
    let name = class_name(class, &s.data.classes);
    if score > most {
        let outside =
            s.not_calibrated.as_ref().map(|why| format!(" (not calibrated: {why})")).unwrap_or_default();
        let message = format!("a class has a robust z-score of {score:.2}, more than {most}{outside}");
        return Some(Finding::new(Rule::MaxScore, Severity::Error, name, message).measured(score, most));
    }
    s.all_to_all.then(|| {
        let message =
            format!("one small block scatters {:.1} % of the predictions over several classes", s.scattered);
        Finding::new(Rule::MaxScore, Severity::Error, "all classes", message)
            .measured(s.scattered, 100.0 * Findings::SCATTERS)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(scores: &[f64], scattered: f64) -> ScanOutcome {
        ScanOutcome {
            scores: scores.to_vec(),
            stands_out: (0..scores.len()).filter(|&c| scores[c] >= Findings::STANDS_OUT).collect(),
            scattered,
            all_to_all: scattered >= 50.0,
            verification: Verification { judges: vec!["tract".to_owned()], ..Verification::default() },
            ..ScanOutcome::default()
        }
    }

    #[test]
    fn a_gate_is_held_against_the_highest_score_and_against_what_scatters() {
        let found = of_scan(&scan(&[0.0, 5.5, 0.1, 0.2, -0.3], 3.0), Some(5.0));
        assert_eq!(found.iter().map(|f| f.rule).collect::<Vec<_>>(), [Rule::ClassStandsOut, Rule::MaxScore]);
        assert_eq!(
            (found[1].severity, found[1].value, found[1].threshold),
            (Severity::Error, Some(5.5), Some(5.0))
        );
        let found = of_scan(&scan(&[0.0; 6], 77.0), Some(5.0));
        assert_eq!(found.iter().map(|f| f.rule).collect::<Vec<_>>(), [Rule::AllToAll, Rule::MaxScore]);
        assert!(
            of_scan(&scan(&[0.0, 5.5, 0.1, 0.2, -0.3], 3.0), Some(6.0))
                .iter()
                .all(|f| f.severity < Severity::Error)
        );
        assert_eq!(of_scan(&scan(&[0.0; 4], 0.0), None)[0].rule, Rule::TooFewClasses);
    }

    #[test]
    fn a_gate_outside_the_calibration_holds_and_says_so() {
        let why = "this one has 43";
        let outside =
            ScanOutcome { not_calibrated: Some(why.into()), ..scan(&[0.0, 5.5, 0.1, 0.2, -0.3], 3.0) };
        let found = of_scan(&outside, Some(5.0));
        assert_eq!(
            found.iter().map(|f| (f.rule, f.severity)).collect::<Vec<_>>(),
            [
                (Rule::ClassStandsOut, Severity::Warning),
                (Rule::NotCalibrated, Severity::Warning),
                (Rule::MaxScore, Severity::Error)
            ]
        );
        assert!(found[1..].iter().all(|f| f.message.contains(why)), "{found:?}");
        let ungated = of_scan(&outside, None);
        assert_eq!((ungated[1].rule, ungated[1].severity), (Rule::NotCalibrated, Severity::Note));
        let inside = of_scan(&scan(&[0.0, 5.5, 0.1, 0.2, -0.3], 3.0), Some(5.0));
        assert!(inside.iter().all(|f| !f.message.contains("calibrated")), "{inside:?}");
    }

    #[test]
    fn what_ran_on_the_processor_is_counted_and_the_first_are_named() {
        let nodes = ["a", "b", "c", "d", "e"].map(|name| Node { name: name.into(), operator: "Elu".into() });
        assert_eq!(ran_on_processor(&[]), None);
        let one = ran_on_processor(&nodes[..1]).unwrap();
        assert_eq!((one.rule, one.severity, one.value), (Rule::RanOnProcessor, Severity::Note, Some(1.0)));
        assert!(one.message.starts_with("1 node ") && one.message.ends_with(": a (Elu)"), "{}", one.message);
        let all = ran_on_processor(&nodes).unwrap().message;
        assert!(all.starts_with("5 nodes") && all.ends_with("c (Elu) and 2 more"), "{all}");
    }

    #[test]
    fn much_lost_accuracy_is_a_gate_unless_it_was_allowed() {
        let measures = |acc| Measures { acc: Some(acc), ..Measures::default() };
        let lost = |points: f64, allowed| accuracy_lost(measures(90.0), measures(90.0 - points), allowed);
        assert!(lost(14.9, Some(10.0)).is_none());
        assert_eq!(lost(16.0, Some(10.0)).unwrap().severity, Severity::Error);
        assert!(lost(16.0, Some(10.0)).unwrap().message.contains("unusable"));
        assert_eq!(lost(16.0, Some(20.0)).unwrap().severity, Severity::Warning);
        assert_eq!(lost(20.5, Some(20.0)).unwrap().severity, Severity::Error);
        assert_eq!(lost(40.0, None).unwrap().severity, Severity::Warning);
        assert!(accuracy_lost(Measures::default(), measures(1.0), None).is_none());
    }
}
