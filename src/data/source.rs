//! Where images come from: a trait, and reading all of a source.

use super::{Classes, Images, Pixels, Target, limits};
use crate::{Error, Result};

/// Images read at a time: what is decoded and not yet copied stays small, and an error ends it early.
const AT_A_TIME: usize = 256;

/// A source of images: a folder, arrays in memory, a file of a data set. Rows are counted from 0 and keep their order.
///
/// Adding a format is one file with one implementation; the commands find it by its line in `src/data/formats.rs`.
pub trait Source: Sync {
    /// What messages call it: a folder's path.
    fn name(&self) -> String;

    /// How many images; at least one.
    fn count(&self) -> usize;

    /// What messages call the image of `row`, which is below [`count`](Self::count): its file.
    fn row_name(&self, row: usize) -> String;

    /// Names of the classes in the order of the model's outputs, where the source knows them.
    fn classes(&self) -> Option<Classes>;

    /// The index among `classes` of each image's class; None where the images are unlabelled.
    ///
    /// # Errors
    /// A class that is not among `classes`.
    fn labels(&self, classes: &Classes) -> Result<Option<Vec<u32>>>;

    /// C, H, W of what [`read`](Self::read) gives for `target`.
    ///
    /// # Errors
    /// An image that has to be looked at for that and cannot be read.
    fn shape(&self, target: &Target) -> Result<[usize; 3]>;

    /// The images of `rows`, brought to `target`, whose size is the one that [`shape`](Self::shape) gave: (rows, C, H, W)
    /// row-major. Results do not depend on the number of threads.
    ///
    /// # Errors
    /// An image that cannot be read or does not fit `target`, by its name.
    fn read(&self, rows: std::ops::Range<usize>, target: &Target) -> Result<Pixels>;

    /// True where the images have labels.
    fn is_labelled(&self) -> bool {
        self.classes().is_some()
    }
}

/// All images of a source, brought to `target`, labelled by their class's position in `classes`.
///
/// # Errors
/// What the source refuses; more values than fit in [`limits::TOTAL_BYTES`].
pub fn load(source: &dyn Source, classes: &Classes, target: &Target) -> Result<Images> {
    let labels = source.labels(classes)?;
    let shape = source.shape(target)?;
    let target = Target { size: Some([shape[1], shape[2]]), ..*target };
    let count = source.count();
    let total = shape.iter().product::<usize>().saturating_mul(count);
    if total > limits::TOTAL_BYTES {
        let [_, h, w] = shape;
        let problem = format!(
            "{count} images of {h}x{w} take {} MiB; at most {} are held in memory",
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
