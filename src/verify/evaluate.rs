//! ACC, ASR, RA and DER, from answers of the judge or of candle once it was held against the judge. All in percent.

use super::{judge::Judge, parity::answer, reference::Reference, watch::Watch};
use crate::{
    Error, Result,
    data::{Images, Preprocessing},
};

/// What triggered images do to a model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Attack {
    /// Triggered images whose true class is not the target: those that count.
    pub images: usize,
    /// Of these, answered with the target.
    pub asr: f64,
    /// Of these, answered with their true class.
    pub ra: f64,
}

/// The judge's answers, in the order of the images, all cores at work.
///
/// # Errors
/// As [`Judge::logits`]; an output that is not finite (`Invalid`, with the image's name); `Interrupted`.
pub fn answers(
    judge: &Judge,
    images: &Images,
    preprocessing: &Preprocessing,
    watch: &Watch,
) -> Result<Vec<u32>> {
    let logits = judge.logits_fast(images.len(), &rows_of(images, preprocessing), watch)?;
    finite_answers(&logits, images)
}

/// The answers of a network in candle, in the order of the images: for one that was held against the judge before, in a
/// fraction of its time.
///
/// # Errors
/// As [`Reference::outputs`]; an output that is not finite (`Invalid`, with the image's name); `Interrupted`.
pub fn answers_in_candle(
    network: &Reference<'_>,
    images: &Images,
    preprocessing: &Preprocessing,
    watch: &Watch,
) -> Result<Vec<u32>> {
    let rows = rows_of(images, preprocessing);
    let logits = network.outputs_of(None, images.len(), &rows, watch)?;
    finite_answers(&logits, images)
}

fn rows_of(images: &Images, preprocessing: &Preprocessing) -> impl Fn(usize, usize) -> Vec<f32> + Sync {
    move |from: usize, count: usize| {
        images.normalized(&(from..from + count).collect::<Vec<_>>(), preprocessing)
    }
}

fn finite_answers(logits: &[Vec<f32>], images: &Images) -> Result<Vec<u32>> {
    logits
        .iter()
        .zip(&images.names)
        .map(|(logits, file)| match logits.iter().find(|v| !v.is_finite()) {
            Some(v) => Err(Error::invalid(file, format!("the model answers this image with {v}"))),
            None => Ok(answer(logits) as u32),
        })
        .collect()
}

/// ACC: share of images answered with their label, in percent; None without images.
pub fn accuracy(answers: &[u32], labels: &[u32]) -> Option<f64> {
    let right = answers.iter().zip(labels).filter(|(a, l)| a == l).count();
    percent(right, labels.len())
}

/// Where a trigger leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// To one class.
    Class(u32),
    /// From each of so many classes to the one behind it, from the last to the first: all to all.
    Next(u32),
}

impl Aim {
    /// The answer that the trigger is to bring about on an image of class `label`; None where it is that class already.
    pub fn of(self, label: u32) -> Option<u32> {
        let wanted = match self {
            Self::Class(target) => target,
            Self::Next(classes) => (label + 1) % classes.max(1),
        };
        (wanted != label).then_some(wanted)
    }
}

/// ASR and RA over the triggered images that the trigger is to lead elsewhere; None without such images.
pub fn attack(answers: &[u32], labels: &[u32], aim: Aim) -> Option<Attack> {
    let counted = || answers.iter().zip(labels).filter_map(|(a, l)| Some((*a, *l, aim.of(*l)?)));
    let images = counted().count();
    Some(Attack {
        images,
        asr: percent(counted().filter(|(a, _, wanted)| a == wanted).count(), images)?,
        ra: percent(counted().filter(|(a, l, _)| a == l).count(), images)?,
    })
}

/// DER = (max(0, fall of ASR) - max(0, fall of ACC) + 1) / 2, in percent: 50 where nothing changed, 100 where a
/// complete backdoor was removed at no cost. Arguments and result in percent.
pub fn defense_effectiveness(acc: [f64; 2], asr: [f64; 2]) -> f64 {
    ((asr[0] - asr[1]).max(0.0) - (acc[0] - acc[1]).max(0.0) + 100.0) / 2.0
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
        assert_eq!(a, Attack { images: 4, asr: 50.0, ra: 25.0 });
        assert_eq!(attack(&answers[..2], &labels[..2], Aim::Class(0)), None);
        assert_eq!(accuracy(&answers, &labels), Some(50.0));
        assert_eq!(accuracy(&[], &[]), None);
    }

    #[test]
    fn all_to_all_counts_every_image_against_the_class_behind_its_own() {
        let a = attack(&[1, 2, 2, 0], &[0, 1, 2, 2], Aim::Next(3)).unwrap();
        assert_eq!(a, Attack { images: 4, asr: 75.0, ra: 25.0 });
    }

    #[test]
    fn der_rewards_a_fall_of_asr_and_punishes_a_fall_of_acc() {
        assert_eq!(defense_effectiveness([90.0, 90.0], [100.0, 0.0]), 100.0);
        assert_eq!(defense_effectiveness([90.0, 80.0], [100.0, 0.0]), 95.0);
        assert_eq!(defense_effectiveness([90.0, 95.0], [10.0, 20.0]), 50.0);
    }
}
