//! What `polarizer scan` says: how suspicious each class is, and how often networks without a backdoor look as suspicious.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::{Deserialize, Serialize};

use super::{Data, Environment, File, Labels, Preprocessing, Verification, grouped, line, named, time};
use crate::{
    error::printable,
    train::{Suspicion, calibration},
};

/// `polarizer scan`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scan {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// `scan`.
    pub command: String,
    /// The model.
    pub input: File,
    /// The value whose change is one of the ways.
    pub site: String,
    /// Size and normalisation.
    pub preprocessing: Preprocessing,
    /// Where the labels come from.
    pub labels: Labels,
    /// The images used.
    pub data: Data,
    /// Of these images, the share answered with their label, in percent.
    pub acc: f64,
    /// By class: by how many spreads it lies nearer than the median class, by whichever way says more.
    pub scores: Vec<f64>,
    /// The same for each way: `values`, `added`, `bent`, `stamped`, `filtered`.
    pub ways: BTreeMap<String, Vec<f64>>,
    /// Classes whose score is [`calibration::STANDS_OUT`] or more, the highest first; none where there are fewer than
    /// [`calibration::LEAST_CLASSES`].
    pub stands_out: Vec<usize>,
    /// Of the images answered with their label, the share in percent that one small block takes to other classes, without the
    /// class that most of them go to; the block for which that is most.
    #[serde(default)]
    pub scattered: f64,
    /// Whether that is [`crate::train::Suspicion::SCATTERS`] (as a percentage) or more: a backdoor from all classes to all. With
    /// fewer than [`calibration::LEAST_CLASSES`] classes never.
    #[serde(default)]
    pub all_to_all: bool,
    /// How networks without a backdoor did.
    pub calibration: Calibration,
    /// What was checked.
    pub verification: Verification,
    /// Wall-clock time of the whole command.
    pub seconds: f64,
    /// What it ran on: `cpu`, or `cuda:N` and the GPU's name.
    pub device: String,
    /// Machine and program.
    pub environment: Environment,
}

/// The highest score held against those of networks without a backdoor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Networks without a backdoor; 0 where there are too few classes to compare.
    pub networks: usize,
    /// Of these, those whose highest score was as high as this one, or higher.
    pub as_high: usize,
    /// The share of such networks is at most this, in percent, with 95 % confidence.
    pub at_most: f64,
}

impl Calibration {
    /// For this score.
    pub fn of(score: f64) -> Self {
        let networks = calibration::SCORES.len();
        let as_high = calibration::SCORES.iter().filter(|s| **s >= score).count();
        Self { networks, as_high, at_most: 100.0 * calibration::upper_bound(as_high, networks) }
    }
}

/// Classes that the summary shows.
const SHOWN: usize = 10;

impl Scan {
    fn name(&self, class: usize) -> String {
        self.data.classes.get(class).map(|name| format!(" {:?}", printable(name))).unwrap_or_default()
    }

    fn is_measurable(&self) -> bool {
        self.scores.len() >= calibration::LEAST_CLASSES
    }

    /// The summary: a table of the most suspicious classes, and what that says and does not say.
    pub fn summary(&self) -> String {
        let mut out = String::new();
        line(&mut out, "model", &named(&self.input));
        let from = match self.labels {
            Labels::Folders => "labels from the folders",
            Labels::Model => "labels are the model's own answers",
        };
        let images = grouped(self.data.train);
        line(&mut out, "images", &format!("{images}, {from}; {:.2} % answered with them", self.acc));
        let mut order: Vec<usize> = (0..self.scores.len()).collect();
        order.sort_by(|a, b| self.scores[*b].total_cmp(&self.scores[*a]));
        let heads: String = self.ways.keys().fold(String::new(), |mut heads, way| {
            let _ = write!(heads, "{way:>9}");
            heads
        });
        line(&mut out, "spreads", &format!("{heads}  class"));
        for &class in order.iter().take(SHOWN) {
            let scores = self.ways.values().fold(String::new(), |mut row, way| {
                let _ = write!(row, "{:9.1}", way.get(class).copied().unwrap_or_default());
                row
            });
            line(&mut out, "", &format!("{scores}  {class}{}", self.name(class)));
        }
        if let Some(more) = order.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            line(&mut out, "", &format!("and {more} classes below these"));
        }
        let least = calibration::STANDS_OUT;
        let said = match self.stands_out[..] {
            _ if !self.is_measurable() => {
                format!("{} classes are too few for one to stand out: nothing is said", self.scores.len())
            }
            [] => format!("no class stands out ({least:.1} spreads and more)"),
            [one] => format!("class {one}{} stands out ({least:.1} spreads and more)", self.name(one)),
            _ => {
                let classes: Vec<String> = self.stands_out.iter().map(usize::to_string).collect();
                format!("classes {} stand out ({least:.1} spreads and more)", classes.join(", "))
            }
        };
        line(&mut out, "suspect", &said);
        if self.is_measurable() {
            let most = 100.0 * Suspicion::SCATTERS;
            let said = if self.all_to_all {
                "a backdoor from all classes to all"
            } else {
                "none from all to all seen"
            };
            let scattered = format!(
                "one small block scatters {:.1} % of the answers over several classes: {said} ({most:.0} % and more)",
                self.scattered
            );
            line(&mut out, "all to all", &scattered);
        }
        let Calibration { networks, as_high, at_most } = self.calibration;
        if self.is_measurable() {
            let chance = format!(
                "as high a score in {as_high} of {networks} networks without a backdoor (ten classes, 320 images): \
                 {at_most:.0} % at most (95 %)"
            );
            line(&mut out, "by chance", &chance);
        }
        line(
            &mut out,
            "shown",
            "how near each class lies to changes that were tried; a trigger of another kind is not seen",
        );
        line(&mut out, "time", &time(self.seconds));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(scores: &[f64], stands_out: &[usize]) -> String {
        let ways = BTreeMap::from([("values".to_owned(), scores.to_vec())]);
        let (scores, stands_out) = (scores.to_vec(), stands_out.to_vec());
        let scan = Scan { scores, ways, stands_out, calibration: Calibration::of(7.0), ..Scan::default() };
        scan.summary()
    }

    #[test]
    fn too_few_classes_are_no_answer() {
        let said = scan(&[0.0, -0.7], &[]);
        assert!(said.contains("2 classes are too few") && !said.contains("by chance"), "{said}");
        assert!(scan(&[0.0; 5], &[]).contains("no class stands out"));
        assert!(scan(&[7.0, 0.0, 0.0, 0.0, 5.0], &[0, 4]).contains("classes 0, 4 stand out"));
        let said =
            Scan { scores: vec![0.0; 5], scattered: 75.0, all_to_all: true, ..Scan::default() }.summary();
        assert!(said.contains("75.0 %") && said.contains("a backdoor from all classes to all"), "{said}");
    }

    #[test]
    fn a_higher_score_than_any_before_is_still_no_proof() {
        let Calibration { networks, as_high, at_most } = Calibration::of(100.0);
        assert!(networks >= 12 && as_high == 0 && (10.0..30.0).contains(&at_most), "{at_most}");
        assert_eq!(Calibration::of(0.0).as_high, networks);
    }
}
