//! Comparison of two runtimes' outputs for the same images.

use crate::{Error, Result};

/// Maximum allowed difference, relative to an image's largest output.
pub const TOLERANCE: f64 = 1e-4;

/// Result of comparing two runtimes' outputs, image by image.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parity {
    /// Images compared.
    pub images: usize,
    /// Largest difference of an image: max |a - b| / max(1e-3, max |b|). Infinite if an output is not finite.
    pub max_difference: f64,
    /// Images with different predictions although the two largest outputs of b differ by more than the tolerance.
    pub disagreements: usize,
}

impl Parity {
    /// True if every difference is at most `tolerance`, no prediction differs, and at least one image was compared.
    pub fn holds(&self, tolerance: f64) -> bool {
        self.images > 0 && self.max_difference <= tolerance && self.disagreements == 0
    }

    /// # Errors
    /// [`Error::Check`] named `check` if it does not hold.
    pub fn require(&self, check: &'static str, tolerance: f64) -> Result<()> {
        if self.holds(tolerance) {
            return Ok(());
        }
        let Self { images, max_difference, disagreements } = self;
        Err(Error::check(
            check,
            format!(
                "the two runtimes differ by {max_difference:.3e} on {images} images (at most {tolerance:.0e} is \
                 allowed); {disagreements} predictions differ"
            ),
        ))
    }

    /// Combines two comparisons.
    pub fn and(self, other: Self) -> Self {
        Self {
            images: self.images + other.images,
            max_difference: self.max_difference.max(other.max_difference),
            disagreements: self.disagreements + other.disagreements,
        }
    }
}

/// Compares outputs `a` with the reference `b`, one row per image. Predictions must agree unless the top-two margin of
/// b, relative like the difference, is below `tolerance`.
///
/// # Errors
/// Different numbers of images ([`Error::Internal`]) or of outputs per image ([`Error::Check`]).
pub fn compare(a: &[Vec<f32>], b: &[Vec<f32>], tolerance: f64) -> Result<Parity> {
    if a.len() != b.len() {
        return Err(Error::internal(format!("{} and {} rows of outputs compared", a.len(), b.len())));
    }
    let mut parity = Parity { images: a.len(), ..Parity::default() };
    for (a, b) in a.iter().zip(b) {
        if a.len() != b.len() {
            return Err(Error::check(
                "outputs",
                format!("the runtimes return {} and {} outputs per image", a.len(), b.len()),
            ));
        }
        let finite = a.iter().chain(b).all(|v| v.is_finite());
        let scale = b.iter().fold(1e-3, |m: f64, &v| m.max(f64::from(v).abs()));
        let apart = a.iter().zip(b).fold(0.0, |m: f64, (&a, &b)| m.max((f64::from(a) - f64::from(b)).abs()));
        let difference = if finite { apart / scale } else { f64::INFINITY };
        parity.max_difference = parity.max_difference.max(difference);
        if answer(a) != answer(b) && margin(b) / scale >= tolerance {
            parity.disagreements += 1;
        }
    }
    Ok(parity)
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
        let e = one(&[1.0], &[2.0]).require("parity-purified", TOLERANCE).unwrap_err();
        assert_eq!(e.exit_code(), 1);
        assert!(e.to_string().contains("parity-purified"));
    }

    #[test]
    fn the_first_of_equals_is_the_answer() {
        assert_eq!(answer(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(answer(&[f32::NEG_INFINITY, f32::NEG_INFINITY]), 0);
    }
}
