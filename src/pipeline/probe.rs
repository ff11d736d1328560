//! The inputs for comparing two runtimes: images, or noise without images.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::{
    Result,
    base::rows::evenly,
    data::{ImageSet, Preprocessing},
    layer::Layer,
    site::SitePlace,
    verify::{Monitor, reference::Reference},
};

/// Default number of images for comparing the runtimes.
pub const IMAGES: usize = 256;

/// Inputs for comparing the runtimes.
pub(super) struct Probe {
    /// (n, C, H, W) row-major, normalised.
    pub x: Vec<f32>,
    /// Number of images.
    pub n: usize,
    /// C, H, W.
    pub shape: [usize; 3],
}

impl Probe {
    /// At most `most` images, shared evenly between the `sets` and spread over each, and so over its classes. All sets
    /// have the first one's shape.
    ///
    /// # Errors
    /// Errors of a source.
    pub fn of(sets: &[&ImageSet<'_>], preprocessing: &Preprocessing, most: usize) -> Result<Self> {
        let mut probe = Self { x: Vec::new(), n: 0, shape: sets.first().map_or([0; 3], |s| s.shape()) };
        for (i, images) in sets.iter().enumerate() {
            // what a small set does not use goes to later sets
            let share = (most.max(1) - probe.n).div_ceil(sets.len() - i);
            let rows: Vec<usize> = evenly(images.len(), share).collect();
            probe.x.extend(images.normalized(&rows, preprocessing)?);
            probe.n += rows.len();
        }
        Ok(probe)
    }

    /// Deterministic noise: pixels uniform in a random interval of [0, 1] for each image, then normalised.
    pub fn random(shape: [usize; 3], preprocessing: &Preprocessing, n: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut x = Vec::with_capacity(n * shape.iter().product::<usize>());
        for _ in 0..n {
            let (low, high): (f32, f32) = (rng.random(), rng.random());
            let numel = shape.iter().product::<usize>();
            x.extend((0..numel).map(|_| low + (high - low) * rng.random::<f32>()));
        }
        preprocessing.normalize(&mut x, shape);
        Self { x, n, shape }
    }

    /// The images of `rows`, as in [`Probe::x`].
    pub fn rows(&self, rows: &[usize]) -> Vec<f32> {
        let numel = self.shape.iter().product::<usize>();
        rows.iter().flat_map(|&i| &self.x[i * numel..(i + 1) * numel]).copied().collect()
    }

    /// Outputs of the network in candle, through the layer if given: the reference for the judge.
    ///
    /// # Errors
    /// As [`Reference::outputs`].
    pub fn answers(
        &self,
        network: &Reference<'_>,
        layer: Option<(&SitePlace, &Layer)>,
        watch: &Monitor<'_>,
    ) -> Result<Vec<Vec<f32>>> {
        network.outputs(layer, &self.x, self.n, watch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Images, Pixels};

    #[test]
    fn a_probe_takes_of_every_set() {
        // one grey pixel an image, its value the set's and its own number
        let set = |first: u8, n: u8| {
            ImageSet::of(Images {
                pixels: Pixels::U8((first..first + n).collect()),
                shape: [1, 1, 1],
                labels: Some(vec![0; usize::from(n)]),
                names: (0..n).map(|i| format!("{i}.png")).collect(),
            })
        };
        let taken = |sets: &[&ImageSet<'_>], most| {
            let probe = Probe::of(sets, &Preprocessing::default(), most).unwrap();
            assert_eq!(probe.x.len(), probe.n);
            probe.x.iter().map(|x| (x * 255.0).round() as u8).collect::<Vec<_>>()
        };
        let (many, few, last) = (set(0, 100), set(100, 2), set(200, 50));
        assert_eq!(taken(&[&many], 4), [0, 25, 50, 75]);
        // what the small set leaves over goes to the last
        assert_eq!(taken(&[&many, &few, &last], 9), [0, 33, 66, 100, 101, 200, 212, 225, 237]);
        assert_eq!(taken(&[&few], 256), [100, 101]);
    }
}
