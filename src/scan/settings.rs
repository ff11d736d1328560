//! What a scan is made with. A change here needs a new calibration.

/// Clean images of each class that are looked at, at most, and in all.
pub const IMAGES: usize = 32;
/// See [`IMAGES`]; with more classes than half of this, two of each class all the same.
pub const IN_ALL: usize = 320;
/// Fewest images of a class, where it has them.
pub const FEWEST: usize = 2;
/// Images of a class that are looked at, of a network with so many classes.
pub fn images_a_class(classes: usize) -> usize {
    (IN_ALL / classes.max(1)).clamp(FEWEST, IMAGES)
}

/// A class with this score stands out.
pub const STANDS_OUT: f64 = 4.0;
/// With fewer classes than these, none can stand out: what lies in the middle says too little about how far classes lie apart.
/// Of two, one is always the median.
pub const LEAST_CLASSES: usize = 5;

/// Images at a time.
pub(super) const BATCH: usize = 128;
/// With more classes than this, images are left alone by ways that follow the layer: each of their steps runs the whole
/// network.
pub const FEW_CLASSES: usize = 64;
/// A spread is at least this share of the network's own margin.
pub(super) const LEAST_SPREAD: f64 = 0.2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_classes_have_two_images_each() {
        assert_eq!([1, 10, 43, 160, 161, 1000].map(images_a_class), [32, 32, 7, 2, 2, 2]);
    }
}
