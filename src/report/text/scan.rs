//! A scan as text: a table of the highest scores and their interpretation.

use std::fmt::Write as _;

use super::{about_images, grouped, line, named, prepared, time};
use crate::{
    error::printable,
    pipeline::{
        Rule, ScanOutcome, finding,
        outcome::{Calibration, Labels},
    },
};

/// Classes that the table shows.
const SHOWN: usize = 10;

pub(super) fn summary(s: &ScanOutcome) -> String {
    let mut out = String::new();
    line(&mut out, "model", &named(&s.input));
    let from = match s.labels {
        Labels::Folders => "labels from the folders",
        Labels::Model => "labels predicted by the model",
    };
    let images = grouped(s.data.train);
    line(&mut out, "images", &format!("{images}, {from}; {:.2} % classified as labelled", s.acc));
    if let Some(said) = s.model_output.said() {
        line(&mut out, "scores", &said);
    }
    line(&mut out, "pixels", &prepared(&s.preprocessing, s.data.shape));
    about_images(&mut out, &s.findings);
    table(&mut out, s);
    match finding::of(&s.findings, Rule::TooFewClasses) {
        Some(few) => line(&mut out, "suspect", &format!("{}: no conclusion", few.message)),
        None => said(&mut out, s),
    }
    line(
        &mut out,
        "shown",
        "how close each class is to the changes that were tried; other kinds of trigger are not detected",
    );
    if let Some(found) = finding::of(&s.findings, Rule::NotVerified) {
        line(&mut out, "warning", &found.message);
    }
    line(&mut out, "time", &time(s.seconds));
    out
}

fn name(s: &ScanOutcome, class: usize) -> String {
    s.data.classes.get(class).map(|name| format!(" {:?}", printable(name))).unwrap_or_default()
}

fn table(out: &mut String, s: &ScanOutcome) {
    let mut order: Vec<usize> = (0..s.scores.len()).collect();
    order.sort_by(|a, b| s.scores[*b].total_cmp(&s.scores[*a]));
    let heads: String = s.ways.keys().fold(String::new(), |mut heads, way| {
        let _ = write!(heads, "{way:>9}");
        heads
    });
    line(out, "robust z", &format!("{heads}  class"));
    for &class in order.iter().take(SHOWN) {
        let scores = s.ways.values().fold(String::new(), |mut row, way| {
            let _ = write!(row, "{:9.1}", way.get(class).copied().unwrap_or_default());
            row
        });
        line(out, "", &format!("{scores}  {class}{}", name(s, class)));
    }
    if let Some(more) = order.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        line(out, "", &format!("and {more} classes below these"));
    }
}

/// The conclusions, if there are enough classes.
fn said(out: &mut String, s: &ScanOutcome) {
    let least = s.stands_out_from;
    let suspect = match s.stands_out[..] {
        [] => format!("no class stands out (robust z-score of {least:.1} or more)"),
        [one] => format!("class {one}{} stands out (robust z-score of {least:.1} or more)", name(s, one)),
        _ => {
            let classes: Vec<String> = s.stands_out.iter().map(usize::to_string).collect();
            format!("classes {} stand out (robust z-score of {least:.1} or more)", classes.join(", "))
        }
    };
    line(out, "suspect", &suspect);
    let all = if s.all_to_all { "an all-to-all backdoor" } else { "no all-to-all backdoor seen" };
    let scattered = format!(
        "one small block scatters {:.1} % of the predictions over several classes: {all} (from {:.0} % on)",
        s.scattered, s.scatters_from
    );
    line(out, "all to all", &scattered);
    line(out, "by chance", &by_chance(s));
}

/// How often clean networks have such scores.
fn by_chance(s: &ScanOutcome) -> String {
    if let Some(why) = &s.not_calibrated {
        return format!("not calibrated: {why}");
    }
    let Calibration { networks, as_high, at_most } = s.calibration;
    format!(
        "as high a score in {as_high} of {networks} networks without a backdoor (ten classes, 320 images): {at_most:.0} % \
         at most (95 %)"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::pipeline::{Finding, Severity};

    fn scan(scores: &[f64], stands_out: &[usize]) -> ScanOutcome {
        ScanOutcome {
            scores: scores.to_vec(),
            ways: BTreeMap::from([("values".to_owned(), scores.to_vec())]),
            stands_out: stands_out.to_vec(),
            calibration: Calibration::of(7.0),
            ..ScanOutcome::default()
        }
    }

    #[test]
    fn too_few_classes_are_no_answer() {
        let few = Finding::new(Rule::TooFewClasses, Severity::Note, "", "2 classes are too few");
        let said = summary(&ScanOutcome { findings: vec![few], ..scan(&[0.0, -0.7], &[]) });
        assert!(
            said.contains("2 classes are too few: no conclusion") && !said.contains("by chance"),
            "{said}"
        );
        assert!(summary(&scan(&[0.0; 5], &[])).contains("no class stands out"));
        assert!(summary(&scan(&[7.0, 0.0, 0.0, 0.0, 5.0], &[0, 4])).contains("classes 0, 4 stand out"));
        let why = "the reference networks have 10 classes, this one has 43".to_owned();
        let said = summary(&ScanOutcome { not_calibrated: Some(why.clone()), ..scan(&[0.0; 5], &[]) });
        assert!(
            said.contains(&format!("not calibrated: {why}")) && !said.contains("networks without"),
            "{said}"
        );
        let all = ScanOutcome { scattered: 75.0, all_to_all: true, ..scan(&[0.0; 5], &[]) };
        let said = summary(&all);
        assert!(said.contains("75.0 %") && said.contains(": an all-to-all backdoor"), "{said}");
    }
}
