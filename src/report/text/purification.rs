//! A purification as text.

use std::fmt::Write as _;

use super::{about_images, attacked, grouped, line, named, percent, prepared, time};
use crate::{
    memory::size,
    pipeline::{
        Purification, Rule, finding,
        outcome::{AccOn, AsrStatus, Labels, Memory, ProofForm},
    },
};

pub(super) fn summary(p: &Purification) -> String {
    let mut out = String::new();
    line(&mut out, "model", &named(&p.input));
    line(&mut out, "purified", &named(&p.output));
    line(&mut out, "site", &format!("{} ({})", p.site, p.site_reason));
    line(&mut out, "data", &data(p));
    if let Some(said) = p.model_output.said() {
        line(&mut out, "scores", &said);
    }
    line(&mut out, "pixels", &prepared(&p.preprocessing, p.data.shape));
    about_images(&mut out, &p.findings);
    line(&mut out, "training", &training(p));
    if let Some(scores) = &p.train.suspicion {
        line(&mut out, "suspect", &suspect(p, scores));
    }
    for rule in [Rule::LayerMixed, Rule::GuardOff] {
        if let Some(finding) = finding::of(&p.findings, rule) {
            line(&mut out, "guard", &finding.message);
        }
    }
    if let Some(found) = finding::of(&p.findings, Rule::RanOnProcessor) {
        line(&mut out, "device", &found.message);
    }
    if let Some(peak) = p.memory.peak {
        let kept = match p.memory {
            Memory { tape: 0, .. } => "",
            Memory { tape_kept: 0, .. } => "; the clean images' tape was not kept",
            _ => "; the clean images' tape was kept",
        };
        line(&mut out, "memory", &format!("{} at the most{kept}", size(peak)));
    }
    measures(&mut out, p);
    if let Some(lost) = finding::of(&p.findings, Rule::AccuracyLost) {
        line(&mut out, "warning", &lost.message);
    }
    line(&mut out, "checks", &checks(p));
    line(&mut out, "time", &time(p.seconds));
    let rewrite = if p.verification.is_verified() { "rewrite verified" } else { "rewrite NOT verified" };
    let _ = match p.asr_status {
        AsrStatus::Measured => {
            writeln!(out, "{rewrite}; backdoor removal measured on the given trigger only")
        }
        AsrStatus::Unknown => writeln!(out, "{rewrite}; backdoor removal NOT measured"),
    };
    out
}

fn data(p: &Purification) -> String {
    let mut data = format!("{} clean images trained on", grouped(p.data.train));
    if p.data.held_out > 0 {
        let _ = write!(data, ", {} held out", grouped(p.data.held_out));
    }
    if p.labels == Labels::Model {
        data.push_str("; unlabelled: the model's predictions were used");
    }
    data
}

fn training(p: &Purification) -> String {
    let train = &p.train;
    let mut trained = format!("{} epochs, {} steps", train.epochs.len(), grouped(train.steps));
    if let Some(precision) = p.settings["precision"].as_str().filter(|precision| *precision != "f32") {
        let _ = write!(trained, " in {precision}");
    }
    if p.device.starts_with("cuda") {
        let _ = write!(trained, " on {}", p.device);
    }
    format!("{trained}, {}", time(train.seconds))
}

/// The suspect class.
fn suspect(p: &Purification, scores: &[f64]) -> String {
    let rules = [Rule::TooFewClasses, Rule::ClassStandsOut, Rule::AllToAll];
    if let Some(found) = rules.into_iter().find_map(|rule| finding::of(&p.findings, rule)) {
        return found.message.clone();
    }
    let highest = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
    let (class, most) = highest.unwrap_or((0, &f64::NEG_INFINITY));
    format!("no class stands out; class {class} has the highest robust z-score, {most:.1}")
}

fn measures(out: &mut String, p: &Purification) {
    let on = match p.acc_on {
        Some(AccOn::Test) => format!("{} test images", grouped(p.data.test)),
        Some(AccOn::HeldOut) => format!("{} held-out images", grouped(p.data.held_out)),
        None => String::new(),
    };
    let triggered = p.target.as_ref().map(|t| attacked(p.data.triggered, t)).unwrap_or_default();
    let (b, a) = (p.before, p.after);
    let _ = writeln!(out, "            before    after");
    for (name, before, after, on) in
        [("ACC", b.acc, a.acc, &on), ("ASR", b.asr, a.asr, &triggered), ("RA", b.ra, a.ra, &triggered)]
    {
        if before.is_some() || after.is_some() {
            let _ = writeln!(out, "{name:<11}{} {} %  {on}", percent(before), percent(after));
        }
    }
    if b.acc.is_none() && a.acc.is_none() {
        line(out, "ACC", "not measured: nothing held out, no test images");
    }
}

fn checks(p: &Purification) -> String {
    let v = &p.verification;
    if !v.is_verified() {
        return "none: not verified that the file computes what was trained, only that it is the original plus the layer"
            .to_owned();
    }
    let images = v.checks.iter().map(|c| c.images).max().unwrap_or(0);
    let difference = v.max_difference.map_or("not finite".to_owned(), |d| format!("{d:.1e}"));
    let judges = v.judges.join(" and ");
    let mut text =
        format!("candle and {judges} differ by at most {difference} on {} images", grouped(images));
    if let Some(rounding) = v.rounding.filter(|_| v.allows_more() && v.proof == ProofForm::Outputs) {
        let _ =
            write!(text, ", within ten times what rounding makes of each (median {:.1e})", rounding.median);
    }
    if v.proof == ProofForm::Pieces {
        let _ = write!(text, ", by rounding alone: {} parts of the network agree", grouped(v.pieces.len()));
    }
    if !v.rewritten.is_empty() {
        let _ = write!(text, "; judged as a copy: {}", v.rewritten.join(", "));
    }
    if let Some(why) = &v.unread {
        let _ = write!(text, "; without tract: {why}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{
        Finding, Severity, Verification,
        outcome::{Check, DataSummary, Measures},
    };

    #[test]
    fn without_triggered_images_nothing_claims_removal() {
        let mut verification = Verification::new(1e-4);
        let check = |name: &str, difference: f64| Check {
            name: name.to_owned(),
            images: 256,
            max_difference: Some(difference),
            ..Check::default()
        };
        verification.checks = vec![check("parity-original", 2e-7), check("parity-purified", 3e-6)];
        verification.max_difference = Some(3e-6);
        verification.judges = vec!["tract".to_owned()];
        let text = summary(&Purification {
            data: DataSummary { train: 2_000, held_out: 500, ..DataSummary::default() },
            acc_on: Some(AccOn::HeldOut),
            before: Measures { acc: Some(85.05), ..Measures::default() },
            after: Measures { acc: Some(84.2), ..Measures::default() },
            verification,
            ..Purification::default()
        });
        assert!(text.contains("ACC          85.05   84.20 %  500 held-out images\n"), "{text}");
        assert!(text.contains("at most 3.0e-6 on 256 images"), "{text}");
        assert!(text.ends_with("rewrite verified; backdoor removal NOT measured\n"), "{text}");
        assert!(!text.contains("safe") && !text.contains("clean model"), "{text}");
    }

    #[test]
    fn what_ran_on_the_processor_is_said() {
        let found = Finding::new(Rule::RanOnProcessor, Severity::Note, "the GPU", "1 node ran on the CPU");
        assert!(!summary(&Purification::default()).contains("device"));
        let text = summary(&Purification { findings: vec![found], ..Purification::default() });
        assert!(text.contains("\ndevice     1 node ran on the CPU\n"), "{text}");
    }

    #[test]
    fn the_highest_score_is_named_where_none_stands_out() {
        let said = suspect(&Purification::default(), &[0.1, 2.0, 2.0, -1.0, 0.0]);
        assert_eq!(said, "no class stands out; class 1 has the highest robust z-score, 2.0");
    }
}
