//! The result of a scan: the score of each class by each way, and the triggers. Not a verdict.

use std::collections::BTreeMap;

use super::{
    settings,
    trigger::Trigger,
    way::{Found, Way},
};

/// The result of one way.
#[derive(Clone, Debug)]
pub struct Measured {
    pub way: &'static dyn Way,
    pub found: Found,
}

/// The results of all ways for one network.
#[derive(Clone, Debug)]
pub struct Findings {
    /// Each class's highest robust z-score by any way (see [`Found::scores`]).
    pub scores: Vec<f64>,
    /// The measured ways, in the order of [`super::list::WAYS`].
    pub ways: Vec<Measured>,
    /// Images that each class was measured on, at most; images of other classes.
    pub images: usize,
    /// Images of all classes together.
    pub in_all: usize,
}

impl Findings {
    /// A class with this score or more stands out.
    pub const STANDS_OUT: f64 = settings::STANDS_OUT;
    /// A trigger that scatters this share of the images or more, in [0, 1], indicates an all-to-all backdoor.
    pub const SCATTERS: f64 = 0.5;

    /// Combines the results of the ways on `images` images for each class, of `in_all`.
    pub fn of(ways: Vec<Measured>, images: usize, in_all: usize) -> Self {
        let classes = ways.first().map_or(0, |way| way.found.scores.len());
        let most_of =
            |class: usize| ways.iter().map(|way| way.found.scores[class]).fold(f64::NEG_INFINITY, f64::max);
        Self { scores: (0..classes).map(most_of).collect(), ways, images, in_all }
    }

    /// The scores of each way by its name, for reports.
    pub fn by_name(&self) -> BTreeMap<String, Vec<f64>> {
        self.ways.iter().map(|way| (way.way.name().to_owned(), way.found.scores.clone())).collect()
    }

    /// The highest score of any class.
    pub fn most(&self) -> f64 {
        self.scores.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// The classes in descending order of score.
    pub fn nearest_first(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.scores.len()).collect();
        order.sort_by(|a, b| self.scores[*b].total_cmp(&self.scores[*a]));
        order
    }

    /// Whether there are enough classes for one to stand out: [`settings::LEAST_CLASSES`].
    pub fn is_measurable(&self) -> bool {
        self.scores.len() >= settings::LEAST_CLASSES
    }

    /// The classes that stand out, in descending order of score.
    pub fn standing_out(&self) -> Vec<usize> {
        let mut order = self.nearest_first();
        order.retain(|&class| self.is_measurable() && self.scores[class] >= Self::STANDS_OUT);
        order
    }

    /// Whether any class stands out, so that a backdoor is likely.
    pub fn stands_out(&self) -> bool {
        !self.standing_out().is_empty()
    }

    /// Whether one trigger moves most images to several wrong classes: an all-to-all backdoor.
    pub fn all_to_all(&self) -> bool {
        self.is_measurable() && self.scattered() >= Self::SCATTERS
    }

    /// The triggers that scatter the most images, in descending order, with that share in [0, 1]
    /// ([`Found::scattering`]).
    pub fn scattering(&self) -> &[(Trigger, f64)] {
        let share = |found: &Found| found.scattering.first().map_or(0.0, |(_, share)| *share);
        let most = self.ways.iter().map(|way| &way.found).max_by(|a, b| share(a).total_cmp(&share(b)));
        most.map_or(&[], |found| found.scattering.as_slice())
    }

    /// The share of correctly classified images, in [0, 1], that the most scattering trigger scatters.
    pub fn scattered(&self) -> f64 {
        self.scattering().first().map_or(0.0, |(_, share)| *share)
    }

    /// The best trigger of `class` and its way, the highest-scoring one with a trigger common to all images. None if no
    /// such way was measured.
    pub fn trigger(&self, class: usize) -> Option<(&'static dyn Way, &Trigger)> {
        let of = |way: &'_ Measured| way.found.scores.get(class).copied().unwrap_or(f64::NEG_INFINITY);
        let known =
            self.ways.iter().filter(|way| way.found.triggers.get(class).is_some_and(|t| !t.is_empty()));
        let nearest = known.max_by(|a, b| of(a).total_cmp(&of(b)))?;
        Some((nearest.way, &nearest.found.triggers[class][0]))
    }
}

/// Findings for tests.
#[cfg(test)]
pub mod samples {
    use super::{
        super::{list::WAYS, trial::z_scores},
        *,
    };

    /// The way with this name.
    pub fn way(name: &str) -> &'static dyn Way {
        WAYS.into_iter().find(|way| way.name() == name).unwrap()
    }

    /// Findings from the margins of each way.
    pub fn of(margins: &[(&str, &[f64])]) -> Findings {
        let measured = |(name, margins): &(&str, &[f64])| {
            let margins: Vec<Option<f64>> = margins.iter().map(|m| Some(*m)).collect();
            let found = Found { scores: z_scores(&margins, 0.0), ..Found::default() };
            Measured { way: way(name), found }
        };
        Findings::of(margins.iter().map(measured).collect(), 32, 320)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Filling, Stamp};

    const EVEN: [f64; 10] = [-10.0, -11.0, -9.0, -10.5, -9.5, -10.2, -9.8, -10.1, -9.9, -10.3];

    #[test]
    fn a_class_with_a_far_higher_score_stands_out() {
        let mut one = EVEN;
        one[4] = 12.0;
        let found = samples::of(&[("values", &EVEN), ("bent", &one)]);
        assert!(found.scores[4] > 20.0 && found.standing_out() == [4], "{found:?}");
        assert!(!samples::of(&[("values", &EVEN)]).stands_out());
        // of two classes one is the median, so neither can stand out
        assert!(!samples::of(&[("values", &[-9.0, 3.0])]).stands_out());
    }

    #[test]
    fn a_stamp_that_scatters_most_images_is_all_to_all() {
        let stamp = Stamp { place: [0, 0], size: [1, 1], filling: Filling::Flat(1.0) };
        let of = |margins: &[f64], share: f64| {
            let mut found = samples::of(&[("bent", margins), ("stamped", margins)]);
            found.ways[1].found.scattering = vec![(Trigger::Stamp(stamp), share)];
            found
        };
        let found = of(&EVEN, 0.8);
        assert!(found.all_to_all() && found.scattered() == 0.8, "{found:?}");
        // too small a share, or too few classes
        assert!(!of(&EVEN, 0.4).all_to_all() && !of(&EVEN[..2], 0.9).all_to_all());
    }

    #[test]
    fn the_trigger_is_that_of_the_highest_scoring_way_with_one() {
        let mut one = EVEN;
        one[4] = 12.0;
        let mut found = samples::of(&[("values", &one), ("bent", &EVEN), ("added", &EVEN)]);
        assert!(found.trigger(4).is_none());
        let flow = Trigger::Flow { field: vec![[0.0, 1.0]] };
        found.ways[1].found.triggers = vec![vec![flow.clone()]; 10];
        found.ways[2].found.triggers = vec![Vec::new(); 10];
        let (way, trigger) = found.trigger(4).unwrap();
        assert_eq!((way.name(), trigger), ("bent", &flow));
    }
}
