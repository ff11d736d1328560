//! What suspicion tries changes of images on that no gradient leads to, and how near they bring them to a class.

use candle_core::Tensor;

use crate::{
    Result,
    network::{
        Folded, Kept, Logits, Network, Normalisation,
        attack::{self, Attack},
    },
};

/// What is tried on.
pub struct Trial<'a> {
    pub kept: &'a Kept,
    pub normalisation: &'a Normalisation,
    /// Which of the kept images.
    pub images: &'a [usize],
    /// Images at a time.
    pub batch: usize,
    pub interrupted: &'a dyn Fn() -> bool,
}

impl Trial<'_> {
    /// So many of the images at most, evenly taken.
    pub fn some(&self, most: usize) -> Vec<usize> {
        let count = most.min(self.images.len());
        (0..count).map(|i| self.images[i * self.images.len() / count]).collect()
    }
}

/// The mean over images of other classes of the class's logit minus the largest other; as far as can be without any.
pub fn nearness(rows: &[&[f32]], labels: &[u32], class: usize) -> f64 {
    let others = rows.iter().zip(labels).filter(|(_, label)| **label as usize != class);
    let margins: Vec<f64> = others.map(|(row, _)| Logits::margin(row, class)).collect();
    if margins.is_empty() { f64::from(f32::MIN) } else { margins.iter().sum::<f64>() / margins.len() as f64 }
}

/// The attack that these images, as the network reads them, (N, C, H, W), are.
///
/// # Errors
/// What an operator refuses.
pub fn pass_of(
    network: &mut Network<'_>,
    layer: &Folded,
    images: &Tensor,
    targets: Vec<u32>,
) -> Result<Attack> {
    let (values, _) = network.prefix(images, false)?;
    let pass = attack::forward(network, layer, values)?;
    let reached = pass.logits.share_answered(&targets);
    Ok(Attack { pass, targets, reached })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_judged_by_the_images_of_others() {
        let rows: [&[f32]; 2] = [&[5.0, 1.0, 0.0], &[2.0, 1.0, 7.0]];
        assert_eq!(nearness(&rows, &[0, 2], 0), -5.0);
        assert_eq!(nearness(&rows, &[0, 2], 1), (-4.0 - 6.0) / 2.0);
        assert_eq!(nearness(&rows, &[1, 1], 1), f64::from(f32::MIN));
    }
}
