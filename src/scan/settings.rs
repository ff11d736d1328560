//! Constants of a scan. Changing one invalidates the calibration.

/// Clean images per class, at most.
pub const IMAGES: usize = 32;
/// Clean images of all classes together, at most, unless [`FEWEST`] per class are more.
pub const IN_ALL: usize = 320;
/// Clean images per class, at least.
pub const FEWEST: usize = 2;
/// Clean images per class for a network with this many classes.
pub fn images_a_class(classes: usize) -> usize {
    (IN_ALL / classes.max(1)).clamp(FEWEST, IMAGES)
}

/// A class with this robust z-score or more stands out.
pub const STANDS_OUT: f64 = 4.0;
/// With fewer classes no class can stand out: median and MAD of so few scores mean little. Of two, one is the median.
pub const LEAST_CLASSES: usize = 5;

/// Images per batch.
pub(super) const BATCH: usize = 128;
/// With more classes, ways that change images and follow the layer are skipped: each step runs the whole network.
pub const FEW_CLASSES: usize = 64;
/// Lower bound of the scale of z-scores, as a share of the network's median margin on clean images.
pub(super) const LEAST_SPREAD: f64 = 0.2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_classes_have_two_images_each() {
        assert_eq!([1, 10, 43, 160, 161, 1000].map(images_a_class), [32, 32, 7, 2, 2, 2]);
    }
}
