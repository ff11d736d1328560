//! The aim of the training's adversaries: how they use the findings of a scan.

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use crate::scan::{Findings, Found, NOTHING, Trigger, WAYS, Way};

/// Share of the targets drawn by score; the rest is drawn uniformly.
const FOCUS: f64 = 0.9;
/// Inverse temperature of the softmax over the scores.
const SHARPNESS: f64 = 2.5;
/// About the highest score of networks without a backdoor: 2.93 in the calibration, 3.3 on the images of trainings.
const NEAR: f64 = 3.0;

/// How a lot of images of the pool is attacked.
#[derive(Clone, Copy, Debug)]
pub enum Lot<'a> {
    /// Each image by itself, towards a class drawn for it.
    Alone,
    /// By a way and its findings: all images of other classes towards `class`; None: towards classes drawn per image.
    By { way: &'static dyn Way, found: &'a Found, class: Option<u32> },
    /// By the generator, all images towards this class; None: towards one class drawn.
    Generated(Option<u32>),
    /// By the triggers that scatter the most images.
    Scattered(&'a [(Trigger, f64)]),
}

impl Lot<'_> {
    /// Whether the attack is optimised against the current layer.
    pub fn follows_layer(&self) -> bool {
        match self {
            Self::Alone | Self::Generated(_) => true,
            Self::By { way, .. } => way.follows_layer(),
            Self::Scattered(_) => false,
        }
    }
}

/// The lots without a scan: the first way that changes images and follows the layer, then images by themselves.
pub fn lots_without_aim() -> Vec<Lot<'static>> {
    let first = WAYS.into_iter().find(|way| way.changes_images() && way.follows_layer());
    let by = first.map(|way| Lot::By { way, found: &NOTHING, class: None });
    by.into_iter().chain([Lot::Alone]).collect()
}

/// A scan's findings and the target probabilities that follow from them.
#[derive(Clone, Debug)]
pub struct Aim {
    pub findings: Findings,
    /// Probability of each class as a target; the sum is 1.
    shares: Vec<f64>,
}

impl Aim {
    /// Most targets go to the classes with the highest scores; for an all-to-all backdoor all classes get the same.
    pub fn at(findings: Findings) -> Self {
        let classes = findings.scores.len();
        let even = 1.0 / classes.max(1) as f64;
        if findings.all_to_all() && !findings.stands_out() {
            return Self { findings, shares: vec![even; classes] };
        }
        let most = findings.most();
        let weights: Vec<f64> = findings.scores.iter().map(|s| (SHARPNESS * (s - most)).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let even = (1.0 - FOCUS) / classes.max(1) as f64;
        Self { shares: weights.iter().map(|w| even + FOCUS * w / sum).collect(), findings }
    }

    /// Draws a target class other than `label`.
    pub fn draw(&self, rng: &mut ChaCha8Rng, label: u32) -> u32 {
        let own = self.shares.get(label as usize).copied().unwrap_or(0.0);
        let mut left = rng.random::<f64>() * (self.shares.iter().sum::<f64>() - own);
        let mut last = label;
        for (class, share) in self.shares.iter().enumerate().filter(|(class, _)| *class != label as usize) {
            last = class as u32;
            left -= share;
            if left < 0.0 {
                break;
            }
        }
        last
    }

    /// Factor of the retention's weight: 4 up to a highest score of [`NEAR`], as of networks without a backdoor, which
    /// have only accuracy to lose; falling to 1 where a class stands out.
    pub fn restraint(&self) -> f64 {
        let findings = &self.findings;
        if !findings.is_measurable() || findings.all_to_all() {
            return 1.0; // a low highest score means nothing here
        }
        let below = (Findings::STANDS_OUT - findings.most()) / (Findings::STANDS_OUT - NEAR);
        4f64.powf(below.clamp(0.0, 1.0))
    }

    /// The attacks of the pool's lots, in rotation:
    /// - all to all: the scattering triggers, and a lot for each class that stands out;
    /// - one class stands out and has the highest score: its way, towards classes drawn per image;
    /// - several stand out, or one without the highest score: a lot for each, as one may stand out by chance;
    /// - none: the two highest-scoring ways of the top class, alternating with images by themselves.
    pub fn lots(&self) -> Vec<Lot<'_>> {
        let order = self.findings.nearest_first();
        let stand_out: Vec<(WayScore<'_>, u32)> =
            (order.iter()).filter_map(|&class| Some((self.way_to(class)?, class as u32))).collect();
        let each = stand_out.iter().flat_map(|(way, class)| way.lots(Some(*class)));
        let scattering = self.findings.scattering();
        match &stand_out[..] {
            _ if self.findings.all_to_all() => {
                std::iter::once(Lot::Scattered(scattering)).chain(each).collect()
            }
            [] => {
                let nearest = self.nearest(order.first().copied().unwrap_or(0));
                match nearest.iter().map(|way| way.lot(None)).collect::<Vec<_>>()[..] {
                    [first, second, ..] => vec![first, Lot::Alone, first, Lot::Alone, second],
                    [first] => vec![first, Lot::Alone],
                    [] => vec![Lot::Alone],
                }
            }
            [(way, class)] if order.first() == Some(&(*class as usize)) => way.lots(None),
            _ => each.collect(),
        }
    }

    /// The ways that change images in descending order of their score for `class`; unmeasured ones last.
    fn nearest(&self, class: usize) -> Vec<WayScore<'_>> {
        let of = |way: &'static dyn Way| {
            let measured = self.findings.ways.iter().find(|measured| measured.way.name() == way.name());
            let score = measured.and_then(|measured| measured.found.scores.get(class).copied());
            let found = measured.map_or(&NOTHING, |measured| &measured.found);
            WayScore { way, found, score: score.unwrap_or(f64::NEG_INFINITY) }
        };
        let mut ways: Vec<_> = WAYS.into_iter().filter(|way| way.changes_images()).map(of).collect();
        ways.sort_by(|a, b| b.score.total_cmp(&a.score));
        ways
    }

    /// The way to train against `class`, if it stands out by a way that changes images: a preferred one by which it
    /// stands out, else the highest-scoring one.
    fn way_to(&self, class: usize) -> Option<WayScore<'_>> {
        let mut out = self.nearest(class);
        out.retain(|way| self.findings.is_measurable() && way.score >= Findings::STANDS_OUT);
        let preferred = out.iter().position(|way| way.way.is_preferred()).unwrap_or(0);
        (!out.is_empty()).then(|| out.swap_remove(preferred))
    }
}

/// Score of a class by one way.
struct WayScore<'a> {
    way: &'static dyn Way,
    found: &'a Found,
    score: f64,
}

impl<'a> WayScore<'a> {
    fn lot(&self, class: Option<u32>) -> Lot<'a> {
        Lot::By { way: self.way, found: self.found, class }
    }

    /// The lots of this way, with one of the generator if [`Way::stands_for_generated`].
    fn lots(&self, class: Option<u32>) -> Vec<Lot<'a>> {
        let generated = self.way.stands_for_generated().then_some(Lot::Generated(class));
        generated.into_iter().chain([self.lot(class)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng as _;

    use super::*;
    use crate::scan::{Filling, Stamp, samples};

    const EVEN: [f64; 10] = [-10.0, -11.0, -9.0, -10.5, -9.5, -10.2, -9.8, -10.1, -9.9, -10.3];

    fn with(class: usize, margin: f64) -> [f64; 10] {
        let mut margins = EVEN;
        margins[class] = margin;
        margins
    }

    fn of(margins: &[(&str, &[f64])]) -> Aim {
        Aim::at(samples::of(margins))
    }

    /// The lots as text.
    fn lots(aim: &Aim) -> Vec<String> {
        let towards = |class: &Option<u32>| class.map_or_else(String::new, |c| format!(" to {c}"));
        let word = |lot: &Lot<'_>| match lot {
            Lot::Alone => "alone".into(),
            Lot::By { way, class, .. } => format!("{way:?}{}", towards(class)),
            Lot::Generated(class) => format!("generated{}", towards(class)),
            Lot::Scattered(triggers) => format!("scattered by {}", triggers.len()),
        };
        aim.lots().iter().map(word).collect()
    }

    #[test]
    fn each_of_several_classes_that_stand_out_has_its_lots() {
        let aim = of(&[("bent", &with(4, 12.0)), ("stamped", &with(7, 6.0))]);
        assert_eq!(lots(&aim), ["bent to 4", "stamped to 7"]);
        // the top class stands out by values at the cut alone, so the other one needs its own lot
        let aim = of(&[("values", &with(4, 12.0)), ("stamped", &with(7, 6.0))]);
        assert_eq!(lots(&aim), ["stamped to 7"]);
    }

    #[test]
    fn a_class_with_a_far_higher_score_gets_most_of_the_targets() {
        let aim = of(&[("values", &EVEN), ("bent", &with(4, 12.0))]);
        assert_eq!((lots(&aim), aim.restraint()), (vec!["bent".to_owned()], 1.0));
        assert!(aim.shares[4] > 0.9 && (aim.shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{aim:?}");
        let aim = of(&[("values", &[f64::from(f32::MIN), -1.0, -2.0, -3.0])]);
        assert!(aim.shares.iter().all(|v| v.is_finite()) && aim.shares[0] < 0.1, "{aim:?}");
    }

    #[test]
    fn filters_are_preferred_if_the_class_stands_out_by_them() {
        let aim = of(&[("added", &with(4, 30.0)), ("filtered", &with(4, 12.0))]);
        assert_eq!(lots(&aim), ["filtered"]);
        let aim = of(&[("added", &with(4, 30.0)), ("filtered", &EVEN)]);
        assert_eq!(lots(&aim), ["generated", "added"]);
    }

    #[test]
    fn if_none_stands_out_retention_is_stronger_and_ways_alternate_with_single_images() {
        let aim = of(&[("values", &EVEN)]);
        assert!(aim.findings.most() < NEAR && aim.restraint() == 4.0, "{aim:?}");
        assert_eq!(lots(&aim), ["added", "alone", "added", "alone", "bent"]);
        assert!(aim.shares.iter().all(|p| *p < 0.9), "{aim:?}");
        let mut between = aim;
        between.findings.scores = vec![3.5, 0.0, 0.0, 0.0, 0.0];
        assert!((between.restraint() - 2.0).abs() < 1e-9);
        assert_eq!(of(&[("values", &[-9.0, 3.0])]).restraint(), 1.0, "too few classes to say");
        let without: Vec<bool> = lots_without_aim().iter().map(|lot| matches!(lot, Lot::Alone)).collect();
        assert_eq!(without, [false, true]);
    }

    #[test]
    fn scattering_triggers_come_first() {
        let stamp = Trigger::Stamp(Stamp { place: [0, 0], size: [1, 1], filling: Filling::Flat(1.0) });
        let of = |margins: &[f64]| {
            let mut findings = samples::of(&[("bent", margins), ("stamped", &EVEN)]);
            findings.ways[1].found.scattering = vec![(stamp.clone(), 0.8)];
            Aim::at(findings)
        };
        let aim = of(&EVEN);
        assert_eq!((lots(&aim), aim.restraint()), (vec!["scattered by 1".to_owned()], 1.0));
        assert!(aim.lots().iter().all(|lot| !lot.follows_layer()));
        assert!(aim.shares.iter().all(|p| (p - 0.1).abs() < 1e-12), "{aim:?}");
        // a class that stands out beside it keeps its lots and its targets
        let aim = of(&with(4, 12.0));
        assert_eq!(lots(&aim), ["scattered by 1", "bent to 4"]);
        assert!(aim.shares[4] > 0.9, "{aim:?}");
    }

    #[test]
    fn no_image_gets_its_label_as_target() {
        let aim = Aim { shares: vec![0.8, 0.1, 0.1], ..of(&[("values", &[0.0; 3])]) };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let drawn: Vec<u32> = (0..300).map(|_| aim.draw(&mut rng, 0)).collect();
        assert!(drawn.iter().all(|t| *t != 0) && drawn.contains(&1) && drawn.contains(&2));
        let often = (0..300).filter(|_| aim.draw(&mut rng, 1) == 0).count();
        assert!((230..300).contains(&often), "{often}");
    }
}
