//! The images that ways are measured on, and robust z-scores of their margins.

use super::settings::LEAST_SPREAD;
use crate::{
    base::rows::evenly,
    network::{Kept, Logits, Watch},
};

/// The images of a search.
pub struct Trial<'a> {
    pub kept: &'a Kept,
    /// Indices into the kept images.
    pub images: &'a [usize],
    /// Images per batch.
    pub batch: usize,
    /// Lower bound of the scale of z-scores: see [`Trial::new`].
    least: f64,
    pub watch: &'a dyn Watch,
}

impl<'a> Trial<'a> {
    /// A trial on these of the kept images. The scale of z-scores is bounded below by a share of the median margin of
    /// the clean images, so that small differences between similar classes do not score.
    pub fn new(kept: &'a Kept, images: &'a [usize], batch: usize, watch: &'a dyn Watch) -> Self {
        let rows = kept.original.rows().zip(&kept.labels);
        let own = median(rows.map(|(row, &label)| Logits::margin(row, label as usize)).collect()).max(0.0);
        Self { kept, images, batch, least: LEAST_SPREAD * own, watch }
    }

    /// At most `most` of the images, evenly spaced.
    pub fn some(&self, most: usize) -> Vec<usize> {
        evenly(self.images.len(), most).map(|i| self.images[i]).collect()
    }

    /// Robust z-scores of these margins, one per class: see [`z_scores`].
    pub fn z_scores(&self, margins: &[Option<f64>]) -> Vec<f64> {
        z_scores(margins, self.least)
    }
}

/// Mean margin of `class` (its logit minus the largest other logit) over the rows of logits that `counts` accepts; None
/// if it accepts none.
pub fn mean_margin<'a>(
    rows: impl Iterator<Item = &'a [f32]>,
    classes: &[u32],
    counts: impl Fn(u32) -> bool,
    class: u32,
) -> Option<f64> {
    let own = rows.zip(classes).filter(|(_, c)| counts(**c));
    let margins: Vec<f64> = own.map(|(row, _)| Logits::margin(row, class as usize)).collect();
    (!margins.is_empty()).then(|| margins.iter().sum::<f64>() / margins.len() as f64)
}

/// Mean margin of `class` over the images of other classes. `labels` are the rows' own classes.
pub fn nearness(rows: &[&[f32]], labels: &[u32], class: usize) -> Option<f64> {
    mean_margin(rows.iter().copied(), labels, |label| label as usize != class, class as u32)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Robust z-scores: distance from the median over 1.4826 times the median absolute deviation (MAD; P. J. Rousseeuw,
/// C. Croux, JASA 88, 1993), which is at least `least`. None, no image to push towards a class, gets the lowest score.
pub fn z_scores(margins: &[Option<f64>], least: f64) -> Vec<f64> {
    /// Finite, to keep sums finite.
    const FARTHEST: f64 = f32::MIN as f64;
    let values: Vec<f64> = margins.iter().map(|margin| margin.unwrap_or(FARTHEST)).collect();
    let middle = median(values.clone());
    let scale = 1.4826 * median(values.iter().map(|v| (v - middle).abs()).collect());
    let scale = scale.max(least).max(1e-6 * (1.0 + middle.abs()));
    values.iter().map(|v| (v - middle) / scale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_judged_by_the_images_of_others() {
        let rows: [&[f32]; 2] = [&[5.0, 1.0, 0.0], &[2.0, 1.0, 7.0]];
        assert_eq!(nearness(&rows, &[0, 2], 0), Some(-5.0));
        assert_eq!(nearness(&rows, &[0, 2], 1), Some((-4.0 - 6.0) / 2.0));
        assert_eq!(nearness(&rows, &[1, 1], 1), None);
    }

    #[test]
    fn missing_and_equal_margins_give_finite_scores() {
        let z = z_scores(&[None, Some(-1.0), Some(-2.0), Some(-3.0)], 0.0);
        assert!(z.iter().all(|v| v.is_finite()) && z[0] < z[3], "{z:?}");
        assert_eq!(z_scores(&[Some(1.0); 3], 0.0), [0.0; 3]);
        assert_eq!(z_scores(&[Some(0.0), Some(0.5), Some(1.0)], 1.0), [-0.5, 0.0, 0.5]);
    }
}
