//! Triggers as data, and attacks with a known trigger.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{filter::Filter, flow::bend, stamp::Stamp};
use crate::{
    Result,
    network::{Attack, Batch, Folded, Network, attack::rows_of},
};

/// A change of images by the same rule for all.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Trigger {
    /// Added to the pixels, which are then clipped to [0, 1].
    Added {
        /// (H, W, C), in pixels in [0, 1]: the mean over the images; they differ only where pixels were clipped.
        change: Vec<f32>,
    },
    /// An opaque block.
    Stamp(Stamp),
    /// A mild filter of the whole image.
    Filter(Filter),
    /// A displacement: each pixel takes the value at its position plus `field`.
    Flow {
        /// (H, W) of (down, right), in pixels.
        field: Vec<[f32; 2]>,
    },
}

impl Trigger {
    /// Changes one image (H, W, C) in [0, 1]. `seed` seeds its noise, if any.
    ///
    /// # Panics
    /// If the trigger was found on images of another shape.
    pub fn put_on(&self, image: &mut [f32], shape: [usize; 3], seed: u64) {
        match self {
            Self::Added { change } => {
                assert_eq!(image.len(), change.len());
                image.iter_mut().zip(change).for_each(|(v, by)| *v = (*v + by).clamp(0.0, 1.0));
            }
            Self::Stamp(stamp) => stamp.onto(image, shape[1], shape[2]),
            Self::Filter(filter) => filter.on(image, shape, seed),
            Self::Flow { field } => {
                let from = image.to_vec();
                bend(&from, image, shape, field);
            }
        }
    }
}

/// Pixels (N, C, H, W) with each image changed by the trigger that `by` returns for its index in the batch; `names`
/// seed the noise of the images.
///
/// # Errors
/// Errors of candle.
pub fn changed<'a>(
    pixels: &Tensor,
    names: &[usize],
    by: impl Fn(usize) -> Option<&'a Trigger> + Sync,
) -> Result<Tensor> {
    let (count, channels, height, width) = pixels.dims4()?;
    let mut rows = rows_of(pixels)?;
    rows.par_chunks_mut((height * width * channels).max(1)).zip(names).enumerate().for_each(
        |(i, (image, name))| {
            if let Some(trigger) = by(i) {
                trigger.put_on(image, [height, width, channels], *name as u64);
            }
        },
    );
    Ok(Tensor::from_vec(rows, (count, height, width, channels), pixels.device())?.permute((0, 3, 1, 2))?)
}

/// Attacks a batch with known triggers: `by` returns the trigger for each index in the batch.
///
/// # Errors
/// Errors of operators.
pub fn attack_by<'a>(
    network: &mut Network<'_>,
    layer: &Folded,
    batch: &Batch<'_>,
    targets: Vec<u32>,
    by: impl Fn(usize) -> Option<&'a Trigger> + Sync,
) -> Result<Attack> {
    let changed = changed(&batch.pixels(network)?, batch.images, by)?;
    let attack = Attack::by_images(network, layer, &batch.kept.normalisation.apply(&changed)?, targets)?;
    batch.watch.at(network.work());
    Ok(attack)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_changes_are_clipped_and_displacements_sample_neighbours() {
        let mut image = vec![0.2, 0.9, 0.5, 0.0];
        Trigger::Added { change: vec![0.3, 0.3, -0.6, 0.0] }.put_on(&mut image, [2, 2, 1], 0);
        assert_eq!(image, [0.5, 1.0, 0.0, 0.0]);
        Trigger::Flow { field: vec![[0.0, 1.0]; 4] }.put_on(&mut image, [2, 2, 1], 0);
        assert_eq!(image, [1.0, 1.0, 0.0, 0.0]);
    }
}
