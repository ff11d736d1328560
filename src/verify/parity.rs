//! Comparison of two runtimes' outputs for the same images.

use crate::{Error, Result};

/// Maximum allowed difference, relative to an image's largest output.
pub const TOLERANCE: f64 = 1e-4;

/// Two runtimes' outputs for one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// max |a - b| / max |b|, the latter at least 1e-3. Infinite if an output is not finite.
    pub relative: f64,
    /// Whether the predictions differ.
    pub other_answer: bool,
    /// Difference of the two largest outputs of b, relative as above.
    pub margin: f64,
}

/// Result of comparing two runtimes' outputs, image by image.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parity {
    /// Images compared.
    pub images: usize,
    /// Largest difference of an image: max |a - b| / max(1e-3, max |b|). Infinite if an output is not finite.
    pub max_difference: f64,
    /// Images with different predictions although the two largest outputs of b differ by more than the tolerance.
    pub disagreements: usize,
    /// Further images whose difference is more than they are allowed.
    pub beyond: usize,
    /// The most that an image was allowed.
    pub allowed: f64,
}

impl Parity {
    /// Sums up `differences`; the image `i` may differ by `allowed(i)`, and its prediction by that only if its two
    /// largest outputs are closer.
    pub fn of(differences: &[Difference], allowed: impl Fn(usize) -> f64) -> Self {
        let mut parity = Self { images: differences.len(), ..Self::default() };
        for (i, difference) in differences.iter().enumerate() {
            let allowed = allowed(i);
            parity.max_difference = parity.max_difference.max(difference.relative);
            parity.allowed = parity.allowed.max(allowed);
            let disagrees = difference.disagrees(allowed);
            parity.beyond += usize::from(difference.is_beyond(allowed) && !disagrees);
            parity.disagreements += usize::from(disagrees);
        }
        parity
    }

    /// True if no image differs by more than it is allowed, no prediction differs, and at least one image was compared.
    pub fn stands(&self) -> bool {
        self.images > 0 && self.beyond == 0 && self.disagreements == 0
    }

    /// True if every difference is at most `tolerance`, no prediction differs, and at least one image was compared.
    pub fn holds(&self, tolerance: f64) -> bool {
        self.images > 0 && self.max_difference <= tolerance && self.disagreements == 0
    }

    /// # Errors
    /// [`Error::Check`] named `check` if it does not [stand](Self::stands).
    pub fn require(&self, check: &'static str) -> Result<()> {
        if self.stands() {
            return Ok(());
        }
        let Self { images, max_difference, disagreements, beyond, allowed } = self;
        Err(Error::check(
            check,
            format!(
                "the two runtimes differ by {max_difference:.3e} on {images} images (at most {allowed:.0e} is \
                 allowed, {beyond} differ by more); {disagreements} predictions differ"
            ),
        ))
    }
}

impl Difference {
    /// Whether the predictions differ although b's two largest outputs are at least `allowed` apart.
    fn disagrees(&self, allowed: f64) -> bool {
        self.other_answer && self.margin >= allowed
    }

    /// Whether it is more than `allowed`, or not finite, or the predictions differ in spite of it.
    pub fn is_beyond(&self, allowed: f64) -> bool {
        self.relative > allowed || self.disagrees(allowed)
    }
}

/// Compares outputs `a` with the reference `b`, one row per image. Predictions must agree unless the top-two margin of
/// b, relative like the difference, is below `tolerance`.
///
/// # Errors
/// Different numbers of images ([`Error::Internal`]) or of outputs per image ([`Error::Check`]).
pub fn compare(a: &[Vec<f32>], b: &[Vec<f32>], tolerance: f64) -> Result<Parity> {
    Ok(Parity::of(&differences(a, b)?, |_| tolerance))
}

/// The differences of outputs `a` from the reference `b`, one row per image.
///
/// # Errors
/// As [`compare`].
pub fn differences(a: &[Vec<f32>], b: &[Vec<f32>]) -> Result<Vec<Difference>> {
    if a.len() != b.len() {
        return Err(Error::internal(format!("{} and {} rows of outputs compared", a.len(), b.len())));
    }
    let one = |(a, b): (&Vec<f32>, &Vec<f32>)| {
        if a.len() != b.len() {
            return Err(Error::check(
                "outputs",
                format!("the runtimes return {} and {} outputs per image", a.len(), b.len()),
            ));
        }
        let scale = b.iter().fold(1e-3, |m: f64, &v| m.max(f64::from(v).abs()));
        Ok(Difference {
            relative: quotient(apart(a, b), scale),
            other_answer: answer(a) != answer(b),
            margin: margin(b) / scale,
        })
    };
    a.iter().zip(b).map(one).collect()
}

/// A distance in proportion; infinite if the distance is, whatever the scale.
pub fn quotient(apart: f64, scale: f64) -> f64 {
    if apart.is_finite() { apart / scale } else { f64::INFINITY }
}

/// max |a - b|; infinite if a value is not finite.
pub fn apart(a: &[f32], b: &[f32]) -> f64 {
    if !a.iter().chain(b).all(|v| v.is_finite()) {
        return f64::INFINITY;
    }
    a.iter().zip(b).fold(0.0, |m: f64, (&a, &b)| m.max((f64::from(a) - f64::from(b)).abs()))
}

/// The predicted class: index of the largest output, the first of equals; 0 without outputs.
pub fn answer(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in logits.iter().enumerate() {
        if *v > logits[best] {
            best = i;
        }
    }
    best
}

fn margin(logits: &[f32]) -> f64 {
    let best = answer(logits);
    let others = logits.iter().enumerate().filter(|(i, _)| *i != best).map(|(_, &v)| v);
    let second = others.fold(f32::NEG_INFINITY, f32::max);
    logits.get(best).map_or(0.0, |&b| f64::from(b) - f64::from(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(a: &[f32], b: &[f32]) -> Parity {
        compare(&[a.to_vec()], &[b.to_vec()], TOLERANCE).unwrap()
    }

    #[test]
    fn the_difference_is_relative_to_the_largest_output() {
        assert!((one(&[10.0, -20.0], &[10.0, -20.002]).max_difference - 1e-4).abs() < 1e-6);
        // below 1e-3 it is relative to 1e-3
        assert!((one(&[0.0, 1e-7], &[0.0, 0.0]).max_difference - 1e-4).abs() < 1e-9);
    }

    #[test]
    fn answers_must_agree_unless_the_margin_is_tiny() {
        assert_eq!(one(&[1.0, 1.01], &[1.01, 1.0]).disagreements, 1);
        let tie = one(&[1.0, 1.000_01], &[1.000_01, 1.0]);
        assert_eq!(tie.disagreements, 0);
        assert!(tie.holds(TOLERANCE));
    }

    #[test]
    fn what_is_not_finite_never_holds() {
        assert!(!one(&[f32::NAN, 1.0], &[f32::NAN, 1.0]).holds(TOLERANCE));
        assert!(!one(&[f32::INFINITY, 1.0], &[f32::INFINITY, 1.0]).holds(f64::MAX));
    }

    #[test]
    fn nothing_compared_is_not_parity() {
        assert!(!compare(&[], &[], TOLERANCE).unwrap().holds(TOLERANCE));
        assert!(compare(&[vec![0.0]], &[], TOLERANCE).is_err());
        assert!(compare(&[vec![0.0]], &[vec![0.0, 1.0]], TOLERANCE).is_err());
        let e = one(&[1.0], &[2.0]).require("parity-purified").unwrap_err();
        assert_eq!(e.exit_code(), 1);
        assert!(e.to_string().contains("parity-purified"));
    }

    #[test]
    fn the_first_of_equals_is_the_answer() {
        assert_eq!(answer(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(answer(&[f32::NEG_INFINITY, f32::NEG_INFINITY]), 0);
    }
}
