//! Checks on labelled images whether another preprocessing or class order fits the model clearly better, one change at a
//! time, before any long work.

use std::time::{Duration, Instant};

use super::{
    Job,
    finding::{Finding, Rule, Severity},
    findings,
    images::ask,
    observer::{Event, Watcher},
    order::Order,
    outcome::Labels,
};
use crate::{
    Error, Result,
    base::rows::evenly,
    data::{ImageSet, Origin, PRESETS, Preprocessing, Reading, choose},
    error::printable,
    verify::{
        Judge,
        evaluate::{mcnemar, tied},
    },
};

/// Images on which alternatives are compared.
const IMAGES: usize = 200;
/// Images on which an alternative must not be worse to be compared on all of them.
const SCREENED: usize = 64;
/// The least of those, whatever the time.
const LEAST: usize = 16;
/// Time for all alternatives.
const TIME: Duration = Duration::from_secs(40);
/// Difference in accuracy, in points, from which the images are refused.
const CLEARLY: f64 = 10.0;
/// Probability of such a difference by chance, below which it counts.
const BY_CHANCE: f64 = 0.001;
/// The same for a warning, from which difference in points.
const WARNED_BY_CHANCE: f64 = 0.01;
const WARNED_FROM: f64 = 3.0;

/// A change of the preprocessing.
struct Alternative {
    /// Parts and their texts.
    changes: Vec<(&'static str, String)>,
    preprocessing: Preprocessing,
}

impl Alternative {
    /// None if nothing would change, or the parts do not fit each other or the model.
    fn new(now: &Preprocessing, set: &ImageSet<'_>, changes: &[(&'static str, &str)]) -> Option<Self> {
        let mut preprocessing = now.clone();
        for (name, text) in changes {
            preprocessing = preprocessing.with(name, text, Origin::Given).ok()?;
        }
        let shown =
            |p: &Preprocessing| p.parts().map(|(piece, text, _)| (piece.name, text)).collect::<Vec<_>>();
        let (before, after) = (shown(now), shown(&preprocessing));
        let changed = before.into_iter().zip(after).filter(|(a, b)| a != b);
        let changes: Vec<_> = changed.map(|(_, after)| after).collect();
        let [channels, h, w] = set.shape();
        preprocessing.target(channels, Some([h, w])).ok()?;
        (!changes.is_empty()).then_some(Self { changes, preprocessing })
    }

    /// `resize` stretch and `crop` none.
    fn text(&self) -> String {
        let each = self.changes.iter().map(|(name, text)| format!("`{name}` {text}"));
        each.collect::<Vec<_>>().join(" and ")
    }
}

/// Images among which those with several highest scores are counted.
const TIES_AMONG: usize = 64;

/// The changes that are tried: what people mistake for each other.
fn alternatives(now: &Preprocessing, set: &ImageSet<'_>) -> Vec<Alternative> {
    let mut all: Vec<Vec<(&'static str, String)>> = Vec::new();
    let mut add = |changes: &[(&'static str, &str)]| {
        all.push(changes.iter().map(|(name, text)| (*name, (*text).to_owned())).collect());
    };
    add(&[("resize", "stretch"), ("crop", "none")]);
    for share in ["0.875", "1.0"] {
        add(&[("resize", &format!("shortest-edge:{share}")), ("crop", "center")]);
    }
    for filter in ["bilinear", "bicubic", "nearest", "torch-bilinear"] {
        add(&[("interpolation", filter)]);
    }
    for order in ["rgb", "bgr"] {
        add(&[("channels", order)]);
    }
    for range in ["normalized-0-1", "0-255", "normalized-1-1"] {
        add(&[("mean", "0"), ("std", "1"), ("range", range)]);
    }
    for preset in PRESETS {
        let Ok(preset) = Preprocessing::preset(preset) else { continue };
        let texts: Vec<_> = preset.parts().map(|(piece, text, _)| (piece.name, text)).collect();
        let of = |name: &str| texts.iter().find(|(own, _)| *own == name).map_or("0", |(_, text)| text);
        add(&[("mean", of("mean")), ("std", of("std")), ("range", "normalized-0-1")]);
    }
    let borrowed = |changes: &Vec<(&'static str, String)>| {
        let changes: Vec<_> = changes.iter().map(|(name, text)| (*name, text.as_str())).collect();
        Alternative::new(now, set, &changes)
    };
    let mut found: Vec<Alternative> = all.iter().filter_map(borrowed).collect();
    let mut seen: Vec<Preprocessing> = Vec::new();
    found.retain(|one| {
        let new = !seen.contains(&one.preprocessing);
        seen.push(one.preprocessing.clone());
        new
    });
    found
}

/// What the check needs.
pub(super) struct Check<'c, 'j, 'w> {
    pub judge: &'c Judge<'j>,
    pub job: &'c Job<'j>,
    pub order: &'c Order,
    /// Name of the images in messages.
    pub name: &'c str,
    pub watcher: &'c Watcher<'w>,
}

impl Check<'_, '_, '_> {
    /// Compares the alternatives on at most 200 of the images. What is better with significance is an error from ten
    /// points on, unless the job accepts it, and a finding below; findings are also reported at once.
    ///
    /// # Errors
    /// [`Error::Input`] with both accuracies and what to set; errors of the judge; [`Error::Interrupted`].
    pub fn run(&self, set: &ImageSet<'_>, labels: Labels) -> Result<Vec<Finding>> {
        let mut found: Vec<Finding> = findings::contradicted(self.job).map(|one| self.tell(one)).collect();
        found.extend(findings::of_sources(self.job));
        if labels == Labels::Model {
            found.extend(self.unlabelled());
            return Ok(found);
        }
        let mut some = set.select(&choose(Some(set.labels()), set.len(), Some(IMAGES), None, 0));
        // asked about once for each alternative
        some.read(&Reading { keep: usize::MAX, skip: 0, progress: &|_| Ok(()) })?;
        let now = &self.job.preprocessing;
        let began = Instant::now();
        let answers = self.answers(&some, now)?;
        let each = began.elapsed().as_secs_f64() / some.len().max(1) as f64;
        if let Some(note) = &self.order.note {
            let finding = Finding::new(Rule::ClassOrder, Severity::Note, "classes", note);
            found.push(self.tell(finding));
        }
        found.extend(self.class_order(&some, &answers)?);
        found.extend(self.ties(&some)?);
        let right: Vec<bool> = answers.iter().zip(some.labels()).map(|(a, l)| a == l).collect();
        let all = alternatives(now, &some);
        let screened = (TIME.as_secs_f64() / (all.len().max(1) as f64 * each.max(1e-6))) as usize;
        let screened = screened.clamp(LEAST, SCREENED).min(some.len());
        found.extend(self.preprocessing(&some, &right, &all, screened)?);
        Ok(found)
    }

    fn unlabelled(&self) -> Option<Finding> {
        if self.job.preprocessing.is_stated() {
            return None;
        }
        let message = "no preset, mean or std was given, so pixels from 0 to 1 are not normalised; without labels \
                       this cannot be checked";
        let rule = Rule::NormalisationNotStated;
        Some(self.tell(Finding::new(rule, Severity::Warning, "preprocessing", message)))
    }

    fn tell(&self, finding: Finding) -> Finding {
        self.watcher.tell(Event::Finding(&finding));
        finding
    }

    /// Many images whose highest scores are equal: what makes the scores has no room for the differences.
    fn ties(&self, some: &ImageSet<'_>) -> Result<Option<Finding>> {
        let few = some.select(&evenly(some.len(), TIES_AMONG).collect::<Vec<_>>());
        let tied = self
            .watcher
            .part("ties", few.len(), |watch| tied(self.judge, &few, &self.job.preprocessing, watch))?;
        if tied < 2 || tied * 20 < few.len() {
            return Ok(None);
        }
        let message = format!(
            "{tied} of {} images have two highest scores or more that are equal, as where a Sigmoid or Softmax \
             saturates; the first counts as the answer. Are the images prepared as for the training?",
            few.len()
        );
        let finding = Finding::new(Rule::ScoresTied, Severity::Warning, "the model's scores", message);
        Ok(Some(self.tell(finding)))
    }

    fn answers(&self, set: &ImageSet<'_>, preprocessing: &Preprocessing) -> Result<Vec<u32>> {
        ask(self.judge, set, preprocessing, "preprocessing", self.watcher)
    }

    /// Compares the preprocessing with each alternative, first on a few images.
    fn preprocessing(
        &self,
        some: &ImageSet<'_>,
        right: &[bool],
        all: &[Alternative],
        screened: usize,
    ) -> Result<Option<Finding>> {
        let [channels, h, w] = some.shape();
        let few: Vec<usize> = evenly(some.len(), screened).collect();
        let rest: Vec<usize> = (0..some.len()).filter(|i| few.binary_search(i).is_err()).collect();
        let mut best: Option<(Compared, &Alternative)> = None;
        for one in all {
            let converted = some.converted(&one.preprocessing.target(channels, Some([h, w]))?);
            let ask = |rows: &[usize]| -> Result<Vec<(bool, bool)>> {
                let set = converted.select(rows);
                let answers = self.answers(&set, &one.preprocessing)?;
                Ok(rows
                    .iter()
                    .zip(answers.iter().zip(set.labels()))
                    .map(|(&i, (a, l))| (right[i], a == l))
                    .collect())
            };
            let mut pairs = ask(&few)?;
            if Compared::of(&pairs).gained() <= 0.0 {
                continue;
            }
            pairs.extend(ask(&rest)?);
            let compared = Compared::of(&pairs);
            if compared.gained() > best.as_ref().map_or(0.0, |(best, _)| best.gained()) {
                best = Some((compared, one));
            }
        }
        let Some((compared, one)) = best.filter(|(compared, _)| compared.is_worth_a_warning()) else {
            return Ok(None);
        };
        let message = format!("{} with {} (p = {:.0e})", compared.text(), one.text(), compared.p);
        self.refuse_or_tell(compared, Rule::PreprocessingDoubtful, "preprocessing", message)
    }

    /// An error from ten points on, unless the job accepts it.
    fn refuse_or_tell(
        &self,
        compared: Compared,
        rule: Rule,
        subject: &str,
        message: String,
    ) -> Result<Option<Finding>> {
        if compared.gained() >= CLEARLY && compared.p < BY_CHANCE && !self.job.accept_preprocessing {
            let way_out = "give these, or `accept_preprocessing` to go on as it is";
            return Err(Error::images(self.name, format!("{message}; {way_out}")));
        }
        let finding = Finding::new(rule, Severity::Warning, subject, message);
        Ok(Some(self.tell(finding.measured(compared.gained(), CLEARLY))))
    }

    /// Compares the order of the classes with their natural order, and with the one that the answers suggest.
    fn class_order(&self, some: &ImageSet<'_>, answers: &[u32]) -> Result<Option<Finding>> {
        let labels = some.labels();
        let pairs = |other: &dyn Fn(u32) -> u32| -> Compared {
            let each = answers.iter().zip(labels).map(|(a, l)| (a == l, *a == other(*l)));
            Compared::of(&each.collect::<Vec<_>>())
        };
        let names = &self.order.classes;
        // a list that was given is in no order of folders
        if let Some(natural) = names.natural_order().filter(|_| self.job.classes.is_none()) {
            let place = |l: u32| names.0.get(l as usize).and_then(|name| natural.position(name)).unwrap_or(l);
            let compared = pairs(&place);
            if compared.is_worth_a_warning() {
                let message = format!(
                    "{} if the class folders are taken in natural order, {} (p = {:.0e}): they are sorted as bytes, \
                     {}; list them in the model's order in `classes`",
                    compared.text(),
                    listed(&natural.0),
                    compared.p,
                    listed(&names.0)
                );
                return self.refuse_or_tell(compared, Rule::ClassOrder, "classes", message);
            }
        }
        let Some((a, b)) = swapped(answers, labels) else { return Ok(None) };
        let compared = pairs(&|l| {
            if l == a {
                b
            } else if l == b {
                a
            } else {
                l
            }
        });
        if !compared.is_worth_a_warning() {
            return Ok(None);
        }
        let name = |class: u32| {
            names.0.get(class as usize).map_or_else(|| class.to_string(), |n| format!("\"{}\"", printable(n)))
        };
        let message = format!(
            "{} if {} and {} change places (p = {:.0e}): images of each are answered with the other; list the classes \
             in the model's order in `classes`",
            compared.text(),
            name(a),
            name(b),
            compared.p
        );
        self.refuse_or_tell(compared, Rule::ClassOrder, "classes", message)
    }
}

/// The first names of a list.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let first = names.iter().take(SHOWN).map(|n| printable(n).to_string()).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{first}, ...") } else { first }
}

/// Two classes of which most images of each are answered with the other.
fn swapped(answers: &[u32], labels: &[u32]) -> Option<(u32, u32)> {
    let mostly = |from: u32, to: u32| {
        let of = || answers.iter().zip(labels).filter(|(_, l)| **l == from);
        let hits = of().filter(|(a, _)| **a == to).count();
        hits >= 2 && 2 * hits > of().count()
    };
    let mut classes: Vec<u32> = labels.to_vec();
    classes.sort_unstable();
    classes.dedup();
    let wrong = answers.iter().zip(labels).filter(|(a, l)| a != l && a > l);
    let mut candidates: Vec<(u32, u32)> = wrong.map(|(a, l)| (*l, *a)).collect();
    candidates.sort_unstable();
    candidates.dedup();
    candidates.into_iter().find(|&(a, b)| mostly(a, b) && mostly(b, a))
}

/// Two ways of answering the same images.
#[derive(Clone, Copy, Debug)]
struct Compared {
    images: usize,
    /// Accuracy now and with the alternative, in percent.
    now: f64,
    other: f64,
    /// McNemar's exact test.
    p: f64,
}

impl Compared {
    /// Of each image whether it is answered rightly now and with the alternative.
    fn of(pairs: &[(bool, bool)]) -> Self {
        let share = |hit: &dyn Fn(&(bool, bool)) -> bool| {
            100.0 * pairs.iter().filter(|pair| hit(pair)).count() as f64 / pairs.len().max(1) as f64
        };
        let count = |wanted: (bool, bool)| pairs.iter().filter(|pair| **pair == wanted).count();
        Self {
            images: pairs.len(),
            now: share(&|pair| pair.0),
            other: share(&|pair| pair.1),
            p: mcnemar(count((false, true)), count((true, false))),
        }
    }

    /// Points of accuracy that the alternative gains.
    fn gained(&self) -> f64 {
        self.other - self.now
    }

    fn is_worth_a_warning(&self) -> bool {
        self.p < WARNED_BY_CHANCE && self.gained() >= WARNED_FROM
    }

    fn text(&self) -> String {
        format!(
            "the model classifies {:.1} % of {} images correctly as they are prepared now, but {:.1} %",
            self.now, self.images, self.other
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Images, Pixels};

    fn set(classes: u32) -> ImageSet<'static> {
        let n = 10 * classes as usize;
        ImageSet::of(Images {
            pixels: Pixels::U8(vec![0; 3 * n]),
            shape: [3, 1, 1],
            labels: Some((0..n as u32).map(|i| i % classes).collect()),
            names: (0..n).map(|i| format!("{i}.png")).collect(),
        })
    }

    #[test]
    fn alternatives_differ_from_what_is_set_and_from_each_other() {
        let set = set(2);
        let texts =
            |p: &Preprocessing| alternatives(p, &set).iter().map(Alternative::text).collect::<Vec<_>>();
        let plain = texts(&Preprocessing::default());
        assert!(plain.contains(&"`channels` bgr".to_owned()), "{plain:?}");
        assert!(plain.contains(&"`range` 0-255".to_owned()), "{plain:?}");
        let cifar10 = "`mean` 0.4914,0.4822,0.4465 and `std` 0.247,0.2435,0.2616";
        assert!(plain.iter().any(|t| t == cifar10), "{plain:?}");
        let preset = texts(&Preprocessing::preset("imagenet").unwrap());
        assert!(preset.contains(&"`resize` stretch and `crop` none".to_owned()), "{preset:?}");
        assert!(!preset.iter().any(|t| t.contains("0.485")), "{preset:?}");
        let mut unique = preset.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), preset.len());
    }

    #[test]
    fn two_classes_that_change_places_are_found() {
        let labels: Vec<u32> = (0..60).map(|i| i % 6).collect();
        let with = |a: u32, b: u32| {
            let swap = |l: &u32| {
                if *l == a {
                    b
                } else if *l == b {
                    a
                } else {
                    *l
                }
            };
            labels.iter().map(swap).collect::<Vec<u32>>()
        };
        assert_eq!(swapped(&with(1, 4), &labels), Some((1, 4)));
        assert_eq!(swapped(&labels, &labels), None);
        // all of one class answered with another: no swap
        let one_way: Vec<u32> = labels.iter().map(|l| if *l == 1 { 4 } else { *l }).collect();
        assert_eq!(swapped(&one_way, &labels), None);
    }

    #[test]
    fn a_difference_counts_by_its_size_and_by_its_significance() {
        let pairs = |gained: usize, lost: usize, n: usize| {
            let mut pairs = vec![(true, true); n - gained - lost];
            pairs.extend(vec![(false, true); gained]);
            pairs.extend(vec![(true, false); lost]);
            Compared::of(&pairs)
        };
        let clear = pairs(25, 1, 200);
        assert!((clear.gained() - 12.0).abs() < 1e-9 && clear.p < 1e-5);
        assert!(pairs(5, 0, 20).p > BY_CHANCE && pairs(5, 0, 20).gained() > CLEARLY);
        assert!(pairs(11, 0, 200).p < BY_CHANCE && pairs(11, 0, 200).gained() < CLEARLY);
    }

    #[test]
    fn images_of_all_classes_are_compared() {
        let labels: Vec<u32> = [vec![0; 900], vec![1; 30], vec![2; 500]].concat();
        let rows = choose(Some(&labels), labels.len(), Some(200), None, 0);
        let of = |class: u32| rows.iter().filter(|&&r| labels[r] == class).count();
        assert_eq!([of(0), of(1), of(2)], [85, 30, 85]);
    }
}
