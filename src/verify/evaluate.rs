//! ACC, ASR, RA and DER in percent, from predictions of the judge or of a candle network that was checked against it.

use super::{judge::Judge, monitor::Monitor, parity::answer, reference::Reference};
use crate::{
    Error, Result,
    data::{ImageSet, Preprocessing},
};

/// Effect of a trigger on a model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AttackRates {
    /// Number of triggered images whose true class is not the target; the rates refer to these.
    pub images: usize,
    /// Attack success rate: predicted as the target, in percent.
    pub asr: f64,
    /// Robust accuracy: predicted as their true class, in percent.
    pub ra: f64,
}

/// The judge's predictions, in the order of the images, computed on all cores.
///
/// # Errors
/// As [`Judge::logits`]; [`Error::Input`] with the image's name if an output is not finite; [`Error::Interrupted`].
pub fn answers(
    judge: &Judge,
    images: &ImageSet<'_>,
    preprocessing: &Preprocessing,
    watch: &Monitor,
) -> Result<Vec<u32>> {
    let rows = rows_of(images, preprocessing);
    judge.map_fast(images.len(), &rows, &|image, logits| finite_answer(images, image, &logits), watch)
}

/// How many images have two highest scores that are equal: their answer is the first of the two.
///
/// # Errors
/// As [`answers`].
pub fn tied(
    judge: &Judge,
    images: &ImageSet<'_>,
    preprocessing: &Preprocessing,
    watch: &Monitor,
) -> Result<usize> {
    let rows = rows_of(images, preprocessing);
    let tied = |_: usize, scores: Vec<f32>| {
        let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        Ok(scores.iter().filter(|score| **score == most).count() > 1)
    };
    let all = judge.map_fast(images.len(), &rows, &tied, watch)?;
    Ok(all.into_iter().filter(|tied| *tied).count())
}

/// Predictions of a candle network, in the order of the images: several times faster than the judge, for a network
/// that was checked against it.
///
/// # Errors
/// As [`Reference::outputs`]; [`Error::Input`] with the image's name if an output is not finite;
/// [`Error::Interrupted`].
pub fn answers_in_candle(
    network: &Reference<'_>,
    images: &ImageSet<'_>,
    preprocessing: &Preprocessing,
    watch: &Monitor,
) -> Result<Vec<u32>> {
    let rows = rows_of(images, preprocessing);
    network.map(None, images.len(), &rows, &|image, logits| finite_answer(images, image, &logits), watch)
}

fn rows_of(
    images: &ImageSet<'_>,
    preprocessing: &Preprocessing,
) -> impl Fn(usize, usize) -> Result<Vec<f32>> + Sync {
    move |from: usize, count: usize| {
        images.normalized(&(from..from + count).collect::<Vec<_>>(), preprocessing)
    }
}

fn finite_answer(images: &ImageSet<'_>, image: usize, logits: &[f32]) -> Result<u32> {
    match logits.iter().find(|v| !v.is_finite()) {
        Some(v) => {
            let problem = format!("the model's output for this image contains {v}");
            Err(Error::invalid(images.name(image), problem))
        }
        None => Ok(answer(logits) as u32),
    }
}

/// ACC: share of images predicted as their label, in percent; None without images.
pub fn accuracy(answers: &[u32], labels: &[u32]) -> Option<f64> {
    let right = answers.iter().zip(labels).filter(|(a, l)| a == l).count();
    percent(right, labels.len())
}

/// The class that a trigger leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// One class (all to one).
    Class(u32),
    /// From each of this many classes to the next, from the last to the first (all to all).
    Next(u32),
}

impl Aim {
    /// The target for an image of class `label`; None if that is its class already.
    pub fn of(self, label: u32) -> Option<u32> {
        let wanted = match self {
            Self::Class(target) => target,
            Self::Next(classes) => (label + 1) % classes.max(1),
        };
        (wanted != label).then_some(wanted)
    }
}

/// ASR and RA over the triggered images whose class is not the target; None without such images.
pub fn attack(answers: &[u32], labels: &[u32], aim: Aim) -> Option<AttackRates> {
    let counted = || answers.iter().zip(labels).filter_map(|(a, l)| Some((*a, *l, aim.of(*l)?)));
    let images = counted().count();
    Some(AttackRates {
        images,
        asr: percent(counted().filter(|(a, _, wanted)| a == wanted).count(), images)?,
        ra: percent(counted().filter(|(a, l, _)| a == l).count(), images)?,
    })
}

/// DER = (max(0, drop of ASR) - max(0, drop of ACC) + 1) / 2, in percent: 50 if nothing changed, 100 if a complete
/// backdoor was removed at no cost. Arguments are (before, after) in percent.
pub fn defense_effectiveness(acc: [f64; 2], asr: [f64; 2]) -> f64 {
    ((asr[0] - asr[1]).max(0.0) - (acc[0] - acc[1]).max(0.0) + 100.0) / 2.0
}

/// McNemar's exact test, two-sided: the probability of at least as uneven a share of the `b + c` images that only one of
/// two classifiers answers rightly, if each is as likely to be the one.
pub fn mcnemar(b: usize, c: usize) -> f64 {
    let (n, most) = (b + c, b.max(c));
    // terms of the binomial distribution, from the logarithm of n! / (k! (n - k)!) / 2^n
    let ln_factorial = |k: usize| (1..=k).map(|i| (i as f64).ln()).sum::<f64>();
    let term = |k: usize| {
        let choose = ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k);
        (choose - n as f64 * std::f64::consts::LN_2).exp()
    };
    (2.0 * (most..=n).map(term).sum::<f64>()).min(1.0)
}

fn percent(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| 100.0 * part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_the_target_class_do_not_count_as_attacked() {
        let labels = [0, 0, 1, 1, 2, 2];
        let answers = [0, 0, 0, 1, 0, 1];
        let a = attack(&answers, &labels, Aim::Class(0)).unwrap();
        assert_eq!(a, AttackRates { images: 4, asr: 50.0, ra: 25.0 });
        assert_eq!(attack(&answers[..2], &labels[..2], Aim::Class(0)), None);
        assert_eq!(accuracy(&answers, &labels), Some(50.0));
        assert_eq!(accuracy(&[], &[]), None);
    }

    #[test]
    fn mcnemars_test_gives_the_published_values() {
        // scipy.stats.binomtest(b, b + c, 0.5).pvalue
        for (b, c, p) in
            [(0, 0, 1.0), (5, 5, 1.0), (10, 0, 0.001953125), (11, 0, 0.0009765625), (15, 5, 0.04138947)]
        {
            assert!((mcnemar(b, c) - p).abs() < 1e-7, "{b} {c}: {}", mcnemar(b, c));
            assert_eq!(mcnemar(b, c), mcnemar(c, b));
        }
    }

    #[test]
    fn all_to_all_counts_every_image_against_the_class_behind_its_own() {
        let a = attack(&[1, 2, 2, 0], &[0, 1, 2, 2], Aim::Next(3)).unwrap();
        assert_eq!(a, AttackRates { images: 4, asr: 75.0, ra: 25.0 });
    }

    #[test]
    fn der_rewards_a_fall_of_asr_and_punishes_a_fall_of_acc() {
        assert_eq!(defense_effectiveness([90.0, 90.0], [100.0, 0.0]), 100.0);
        assert_eq!(defense_effectiveness([90.0, 80.0], [100.0, 0.0]), 95.0);
        assert_eq!(defense_effectiveness([90.0, 95.0], [10.0, 20.0]), 50.0);
    }
}
