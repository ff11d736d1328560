//! Which classes a backdoor may lead to, measured before the training: how far adversaries of equal strength bring the
//! unchanged network towards each class. A trigger is a short way to its target; a network without a backdoor has ways of
//! about the same length to all classes. What comes of it is not a verdict, it is where the training's adversaries aim.

use std::collections::BTreeMap;

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use super::{calibration, filter::Filters, stamp::Stamps, trial::Trial, warp::Warp};
use crate::{
    Error, Result,
    network::{
        Folded, Kept, Latent, Logits, Network, Normalisation,
        attack::{self, Batch, Pixel, scaled_radius},
    },
};

/// Images a class, at most, and all together.
const IMAGES: usize = 32;
const IN_ALL: usize = 320;
/// With more classes than this, pixels are left alone: each step of theirs runs the whole network.
const FEW_CLASSES: usize = 64;
/// One perturbation for all images of a class: steps, and the ball for 3x32x32.
const PIXELS: (usize, f32) = (8, 10.0);
/// One displacement for all images of a class: steps, their length and how far they go, in pixels of an image 32 wide.
const WARP: (usize, f32, f32) = (8, 0.25, 1.0);
/// Steps at the cut and how far they go.
const LATENT: (usize, f32) = (4, 1.4);
/// A spread is at least this share of the network's own margin: where all classes lie equally far, small differences are none.
const LEAST_SPREAD: f64 = 0.2;
/// Share of the targets that is drawn by suspicion; the rest is drawn evenly.
const FOCUS: f64 = 0.9;
/// Shares go by e to this times the score.
const SHARPNESS: f64 = 2.5;
/// About as high as networks without a backdoor come: those of [`calibration::SCORES`] to 2.93, in trainings, on other images, to 3.3.
const NEAR: f64 = 3.0;

/// A way in which images are brought towards a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The values at the cut are moved, each image's by itself.
    Values,
    /// One change added to the pixels of all images.
    Added,
    /// One smooth displacement of all images.
    Bent,
    /// One small block of all images made white, black or chequered.
    Stamped,
    /// All images filtered alike: fewer levels, noise, blur.
    Filtered,
}

impl Way {
    /// As a report names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Values => "values",
            Self::Added => "added",
            Self::Bent => "bent",
            Self::Stamped => "stamped",
            Self::Filtered => "filtered",
        }
    }
}

/// How a lot of images in a pool is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lot {
    /// Each image by itself, towards a class drawn for it.
    Alone,
    /// In this way, all images of other classes towards this one, or towards classes drawn.
    By(Way, Option<u32>),
    /// By what one small network makes of each image, all towards this class, or towards one drawn.
    Generated(Option<u32>),
    /// By the stamps that take most images from their classes, whichever they go to.
    Scattered,
}

/// How suspicious each class is.
#[derive(Clone, Debug, PartialEq)]
pub struct Suspicion {
    /// By how many spreads (1.4826 times the median distance from the median) a class lies nearer than the median class, by
    /// whichever of the ways says more.
    pub scores: Vec<f64>,
    /// The same for each way that was measured.
    pub ways: Vec<(Way, Vec<f64>)>,
    /// Share of the targets, adding up to 1.
    pub shares: Vec<f64>,
    /// Which stamps lead to which class.
    pub(crate) stamps: Stamps,
    /// Which filters do.
    pub(crate) filters: Filters,
}

impl Suspicion {
    /// A class with this score stands out.
    pub const STANDS_OUT: f64 = calibration::STANDS_OUT;
    /// A stamp that scatters this share of the images is a trigger.
    pub const SCATTERS: f64 = 0.5;

    /// From the scores of each class by each way.
    fn of(ways: Vec<(Way, Vec<f64>)>, stamps: Stamps, filters: Filters) -> Self {
        let classes = ways.first().map_or(0, |(_, scores)| scores.len());
        let most_of = |t: usize| ways.iter().map(|(_, m)| m[t]).fold(f64::NEG_INFINITY, f64::max);
        let scores: Vec<f64> = (0..classes).map(most_of).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (SHARPNESS * (s - most)).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let even = (1.0 - FOCUS) / classes.max(1) as f64;
        let mut suspicion = Self {
            shares: weights.iter().map(|w| even + FOCUS * w / sum).collect(),
            scores,
            ways,
            stamps,
            filters,
        };
        if suspicion.all_to_all() && !suspicion.stands_out() {
            suspicion.shares = vec![1.0 / classes.max(1) as f64; classes];
        }
        suspicion
    }

    /// How the lots of a pool are changed, in turn. Where a class stands out it is the way by which it does most, and nothing
    /// else, but filters wherever it stands out by them: they are nearest to what triggers do, and the milder the change, the
    /// more answers come back right; and where it is what is added to all, a generator takes every other lot. Where several
    /// do, each has lots of its own: one of them may do so by chance. Where none does, the two nearest ways and single changes
    /// take turns.
    pub(crate) fn lots(&self) -> Vec<Lot> {
        let mut order: Vec<usize> = (0..self.scores.len()).collect();
        order.sort_by(|a, b| self.scores[*b].total_cmp(&self.scores[*a]));
        let by = |class: usize, way: Way| {
            let own = self.ways.iter().find(|(w, _)| *w == way).and_then(|(_, scores)| scores.get(class));
            own.copied().unwrap_or(f64::NEG_INFINITY)
        };
        let nearest = |class: usize| {
            let mut ways = [Way::Added, Way::Bent, Way::Stamped, Way::Filtered];
            ways.sort_by(|a, b| by(class, *b).total_cmp(&by(class, *a)));
            ways
        };
        let known = |class: usize, way: Way| self.is_measurable() && by(class, way) >= Self::STANDS_OUT;
        let stand_out = order.iter().filter_map(|&class| {
            let first = nearest(class)[0];
            let way = if known(class, Way::Filtered) { Way::Filtered } else { first };
            known(class, way).then_some((way, class as u32))
        });
        let stand_out: Vec<(Way, u32)> = stand_out.collect();
        let lots_of = |way: Way, class: Option<u32>| {
            let generated = (way == Way::Added).then_some(Lot::Generated(class));
            generated.into_iter().chain([Lot::By(way, class)])
        };
        let each = stand_out.iter().flat_map(|&(way, class)| lots_of(way, Some(class)));
        match &stand_out[..] {
            _ if self.all_to_all() => std::iter::once(Lot::Scattered).chain(each).collect(),
            [] => {
                let [first, second, ..] =
                    nearest(order.first().copied().unwrap_or(0)).map(|way| Lot::By(way, None));
                vec![first, Lot::Alone, first, Lot::Alone, second]
            }
            // it is the nearest, and drawn most of the time
            [(way, class)] if order.first() == Some(&(*class as usize)) => lots_of(*way, None).collect(),
            _ => each.collect(),
        }
    }

    /// The scores by each way's name, as reports have them.
    pub fn by_name(&self) -> BTreeMap<String, Vec<f64>> {
        self.ways.iter().map(|(way, scores)| (way.name().to_owned(), scores.clone())).collect()
    }

    /// The largest score.
    pub fn most(&self) -> f64 {
        self.scores.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// Whether a class can stand out at all: [`calibration::LEAST_CLASSES`].
    pub fn is_measurable(&self) -> bool {
        self.scores.len() >= calibration::LEAST_CLASSES
    }

    /// Whether a class lies so much nearer than the others that a backdoor is likely.
    pub fn stands_out(&self) -> bool {
        self.is_measurable() && self.most() >= Self::STANDS_OUT
    }

    /// Whether one stamp takes most images from their classes, and not to one: a backdoor from all classes to all.
    pub fn all_to_all(&self) -> bool {
        self.is_measurable() && self.scattered() >= Self::SCATTERS
    }

    /// Of the images answered with their label, the share in [0, 1] that the stamp which takes most from their classes takes to
    /// other ones, without the class that most of them go to.
    pub fn scattered(&self) -> f64 {
        self.stamps.scattering.first().map_or(0.0, |(_, share)| *share)
    }

    /// What the retention is multiplied by: where no class stands out there is less to be removed, and more to be lost. 4 up to
    /// [`NEAR`], as networks without a backdoor have it, falling to 1 where a class stands out.
    pub fn restraint(&self) -> f64 {
        if !self.is_measurable() || self.all_to_all() {
            return 1.0; // that none stands out says nothing then
        }
        4f64.powf(((Self::STANDS_OUT - self.most()) / (Self::STANDS_OUT - NEAR)).clamp(0.0, 1.0))
    }

    /// A class that is not `label`.
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
}

/// How far ahead the label is in the network's answers to the images: the median of its logit minus the largest other.
fn own_margin(kept: &Kept) -> f64 {
    let rows = kept.original.rows().zip(&kept.labels);
    median(rows.map(|(row, &label)| Logits::margin(row, label as usize)).collect()).max(0.0)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Distance of each from the median, in spreads; a spread is at least so much.
fn spreads(values: &[f64], least: f64) -> Vec<f64> {
    let middle = median(values.to_vec());
    let spread = 1.4826 * median(values.iter().map(|v| (v - middle).abs()).collect());
    let spread = spread.max(least).max(1e-6 * (1.0 + middle.abs()));
    values.iter().map(|v| (v - middle) / spread).collect()
}

/// An adversary that looks for one perturbation for all images that it pushes towards a class, in a ball of this radius for
/// images of 3x32x32; its steps are so long that it leaves the ball with each.
pub fn added(image: [usize; 3], normalisation: &Normalisation, rho: f32) -> Pixel {
    let (steps, step) = (PIXELS.0, 0.02 * rho);
    let rho = scaled_radius(f64::from(rho), image) as f32;
    Pixel { steps, step, rho, stop_share: 2.0, normalisation: normalisation.clone(), shared: true }
}

/// One that bends all images alike.
pub fn bent(normalisation: &Normalisation) -> Warp {
    let (steps, step, most) = WARP;
    Warp { steps, step, most, normalisation: normalisation.clone() }
}

/// Measures the classes of the network as it is, on images of other classes, evenly taken from `images`.
///
/// # Errors
/// What an operator refuses, [`Error::Interrupted`].
pub fn measure(
    network: &mut Network<'_>,
    kept: &Kept,
    normalisation: &Normalisation,
    images: &[usize],
    batch: usize,
    interrupted: &dyn Fn() -> bool,
) -> Result<Suspicion> {
    let classes = kept.original.classes;
    let each = (IN_ALL / classes.max(1)).clamp(2, IMAGES).min(images.len());
    let (_, c, h, w) = kept.pixels.dims4()?;
    let (added, bent) = (added([c, h, w], normalisation, PIXELS.1), bent(normalisation));
    let layer = Folded::identity(kept.all().edge.dim(1)?, network.device())?;
    let latent = Latent::new(LATENT.0, LATENT.1, kept)?;
    let climbing: &[Way] =
        if classes <= FEW_CLASSES { &[Way::Values, Way::Added, Way::Bent] } else { &[Way::Values] };
    let mut margins: Vec<(Way, Vec<f64>)> = climbing.iter().map(|way| (*way, Vec::new())).collect();
    // a GPU takes more at a time; what comes of it does not depend on that
    let batch = if network.device().is_cpu() { batch } else { batch.max(network.prefix_chunk()) };
    let at_once = (batch / each.max(1)).max(1);
    let all: Vec<u32> = (0..classes as u32).collect();
    for some in all.chunks(at_once) {
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for &target in some {
            let others: Vec<usize> = images.iter().copied().filter(|&i| kept.labels[i] != target).collect();
            let count = each.min(others.len());
            rows.extend((0..count).map(|i| others[i * others.len() / count]));
            targets.extend(std::iter::repeat_n(target, count));
        }
        if rows.is_empty() {
            return Err(Error::setting("images", "all clean images are of one class"));
        }
        let labels = kept.labels_of(&rows);
        let clean = attack::forward(network, &layer, kept.values(&rows)?)?;
        let batch = Batch { kept, images: &rows, labels: &labels, clean: &clean, step: 0, interrupted };
        for (way, margins) in &mut margins {
            let attack = match way {
                Way::Values => latent.towards(network, &layer, &batch, targets.clone())?,
                Way::Bent => bent.towards(network, &layer, &batch, targets.clone())?,
                Way::Added | Way::Stamped | Way::Filtered => {
                    added.towards(network, &layer, &batch, targets.clone())?
                }
            };
            margins.extend(some.iter().map(|&t| margin(&attack.pass.logits, &targets, t)));
        }
    }
    let least = LEAST_SPREAD * own_margin(kept);
    let mut ways: Vec<(Way, Vec<f64>)> =
        margins.iter().map(|(way, margins)| (*way, spreads(margins, least))).collect();
    let trial = Trial { kept, normalisation, images, batch, interrupted };
    let stamps = Stamps::search(network, &trial)?;
    ways.push((Way::Stamped, spreads(&stamps.margins(), least)));
    let filters = Filters::search(network, &trial, |margins| spreads(margins, least))?;
    ways.push((Way::Filtered, filters.scores().to_vec()));
    Ok(Suspicion::of(ways, stamps, filters))
}

/// The mean over the images pushed towards `class` of its logit minus the largest other. A class that no image was pushed
/// towards (all images are its own) is as far as can be.
fn margin(logits: &Logits, targets: &[u32], class: u32) -> f64 {
    let own = logits.rows().zip(targets).filter(|(_, t)| **t == class);
    let rows: Vec<f64> = own.map(|(row, _)| Logits::margin(row, class as usize)).collect();
    if rows.is_empty() { f64::from(f32::MIN) } else { rows.iter().sum::<f64>() / rows.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::{super::stamp::Stamp, *};
    use rand_chacha::rand_core::SeedableRng as _;

    fn of(margins: &[(Way, Vec<f64>)]) -> Suspicion {
        let ways = margins.iter().map(|(way, m)| (*way, spreads(m, 0.0))).collect();
        Suspicion::of(ways, Stamps::default(), Filters::default())
    }

    #[test]
    fn where_several_classes_stand_out_each_has_its_lots() {
        let even = [-10.0, -11.0, -9.0, -10.5, -9.5, -10.2, -9.8, -10.1, -9.9, -10.3];
        let (mut one, mut other) = (even, even);
        (one[4], other[7]) = (12.0, 6.0);
        let s = of(&[(Way::Bent, one.to_vec()), (Way::Stamped, other.to_vec())]);
        assert_eq!(s.lots(), [Lot::By(Way::Bent, Some(4)), Lot::By(Way::Stamped, Some(7))]);
        // the nearest one stands out at the cut alone: the other is not drawn often
        let s = of(&[(Way::Values, one.to_vec()), (Way::Stamped, other.to_vec())]);
        assert_eq!(s.lots(), [Lot::By(Way::Stamped, Some(7))]);
    }

    #[test]
    fn a_class_that_is_far_nearer_than_the_others_gets_most_of_the_targets() {
        let even = [-10.0, -11.0, -9.0, -10.5, -9.5, -10.2, -9.8, -10.1, -9.9, -10.3];
        let mut one = even.to_vec();
        one[4] = 12.0;
        let s = of(&[(Way::Values, even.to_vec()), (Way::Bent, one)]);
        assert_eq!(s.lots(), [Lot::By(Way::Bent, None)]);
        assert_eq!(s.restraint(), 1.0);
        assert!(s.stands_out() && s.scores[4] > 20.0 && s.shares[4] > 0.9, "{s:?}");
        assert!((s.shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        // filters come first wherever the class stands out by them, though another way says more
        let (mut far, mut near) = (even.to_vec(), even.to_vec());
        (far[4], near[4]) = (30.0, 12.0);
        let s = of(&[(Way::Added, far.clone()), (Way::Filtered, near)]);
        assert_eq!(s.lots(), [Lot::By(Way::Filtered, None)]);
        let s = of(&[(Way::Added, far), (Way::Filtered, even.to_vec())]);
        assert_eq!(s.lots(), [Lot::Generated(None), Lot::By(Way::Added, None)]);
        let s = of(&[(Way::Values, even.to_vec())]);
        assert!(s.most() < NEAR && s.restraint() == 4.0, "{s:?}");
        let between = Suspicion { scores: vec![3.5, 0.0, 0.0, 0.0, 0.0], ..s.clone() };
        assert!((between.restraint() - 2.0).abs() < 1e-9);
        assert_eq!(s.lots().iter().filter(|lot| **lot == Lot::Alone).count(), 2);
        assert!(!s.stands_out() && s.shares.iter().all(|p| *p < 0.9), "{s:?}");
        // of two classes, one is the median: that says nothing
        let s = of(&[(Way::Values, vec![-9.0, 3.0])]);
        assert!(!s.stands_out() && s.restraint() == 1.0);
        // as far as can be
        let s = of(&[(Way::Values, vec![f64::from(f32::MIN), -1.0, -2.0, -3.0])]);
        assert!(s.scores.iter().chain(&s.shares).all(|v| v.is_finite()) && s.shares[0] < 0.1, "{s:?}");
    }

    #[test]
    fn a_stamp_that_scatters_most_images_is_all_to_all() {
        let even = [-10.0, -11.0, -9.0, -10.5, -9.5, -10.2, -9.8, -10.1, -9.9, -10.3];
        let of = |margins: &[f64], share: f64| {
            let scattering = vec![(Stamp::sample(), share)];
            let stamps = Stamps { best: vec![Vec::new(); margins.len()], scattering };
            Suspicion::of(vec![(Way::Bent, spreads(margins, 0.0))], stamps, Filters::default())
        };
        let s = of(&even, 0.8);
        assert!(s.all_to_all() && s.scattered() == 0.8 && s.restraint() == 1.0, "{s:?}");
        assert_eq!(s.lots(), [Lot::Scattered]);
        assert!(s.shares.iter().all(|p| (p - 0.1).abs() < 1e-12), "{s:?}");
        // a class that stands out beside it keeps its lots and its targets
        let mut far = even;
        far[4] = 12.0;
        let s = of(&far, 0.8);
        assert_eq!(s.lots(), [Lot::Scattered, Lot::By(Way::Bent, Some(4))]);
        assert!(s.shares[4] > 0.9, "{s:?}");
        // too little, or too few classes to say
        assert!(!of(&even, 0.4).all_to_all() && !of(&even[..2], 0.9).all_to_all());
    }

    #[test]
    fn no_image_is_pushed_towards_its_own_class() {
        let s = Suspicion {
            scores: vec![0.0; 3],
            ways: Vec::new(),
            shares: vec![0.8, 0.1, 0.1],
            stamps: Stamps::default(),
            filters: Filters::default(),
        };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let drawn: Vec<u32> = (0..300).map(|_| s.draw(&mut rng, 0)).collect();
        assert!(drawn.iter().all(|t| *t != 0) && drawn.contains(&1) && drawn.contains(&2));
        let often = (0..300).filter(|_| s.draw(&mut rng, 1) == 0).count();
        assert!((230..300).contains(&often), "{often}");
    }
}
