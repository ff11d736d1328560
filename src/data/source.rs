//! [`Source`]: the trait of image sources, and reading all of one.

use super::{Classes, Images, Pixels, Target, limits};
use crate::{Error, Result};

/// Images read at a time: bounds the memory of decoded images and stops early on an error.
const AT_A_TIME: usize = 256;

/// A source of images: a folder, arrays in memory, a file of a data set. Rows are counted from 0 and keep their order.
///
/// Adding a format is one file with one implementation; the commands find it by its line in `src/data/formats.rs`.
pub trait Source: Sync {
    /// Name in messages: a folder's path.
    fn name(&self) -> String;

    /// Number of images; at least one.
    fn count(&self) -> usize;

    /// Name in messages of the image `row`, which is below [`count`](Self::count): its file.
    fn row_name(&self, row: usize) -> String;

    /// Class names in the order of the model's outputs, if known.
    fn classes(&self) -> Option<Classes>;

    /// Each image's class as an index into `classes`; None if the images are unlabelled.
    ///
    /// # Errors
    /// A class that is not in `classes`.
    fn labels(&self, classes: &Classes) -> Result<Option<Vec<u32>>>;

    /// (C, H, W) of what [`read`](Self::read) returns for `target`.
    ///
    /// # Errors
    /// An image whose size is needed cannot be read.
    fn shape(&self, target: &Target) -> Result<[usize; 3]>;

    /// Reads the images `rows`, converted to `target`, whose size is that of [`shape`](Self::shape): (rows, C, H, W)
    /// row-major. Results do not depend on the number of threads.
    ///
    /// # Errors
    /// An image that cannot be read or does not fit `target`; the message names it.
    fn read(&self, rows: std::ops::Range<usize>, target: &Target) -> Result<Pixels>;

    /// True if the images have labels.
    fn is_labelled(&self) -> bool {
        self.classes().is_some()
    }
}

/// Reads all images of a source, converted to `target` and labelled by their class's position in `classes`.
///
/// # Errors
/// Errors of the source; more than [`limits::TOTAL_BYTES`] in all.
pub fn load(source: &dyn Source, classes: &Classes, target: &Target) -> Result<Images> {
    let labels = source.labels(classes)?;
    let shape = source.shape(target)?;
    let target = Target { size: Some([shape[1], shape[2]]), ..*target };
    let count = source.count();
    let total = shape.iter().product::<usize>().saturating_mul(count);
    if total > limits::TOTAL_BYTES {
        let [_, h, w] = shape;
        let problem = format!(
            "{count} images of {h}x{w} take {} MiB, more than the limit of {} MiB; use fewer or smaller images",
            total >> 20,
            limits::TOTAL_BYTES >> 20
        );
        return Err(Error::images(source.name(), problem));
    }
    let mut pixels = Pixels::U8(Vec::with_capacity(total));
    for start in (0..count).step_by(AT_A_TIME) {
        pixels.append(source.read(start..(start + AT_A_TIME).min(count), &target)?);
    }
    Ok(Images { pixels, shape, labels, names: (0..count).map(|row| source.row_name(row)).collect() })
}
