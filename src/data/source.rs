//! [`Source`]: the trait of image sources.

use super::{Classes, Picture};
use crate::Result;

/// What images are for, which decides what they must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Training or measuring on images without a trigger, labelled or not.
    Clean,
    /// Measuring an attack: labelled by their true class.
    Triggered,
}

/// A source of images: a folder, arrays in memory, a file of a data set. Rows are counted from 0 and keep their order.
/// Opening a source lists its images; none is decoded before it is needed, and any may be decoded more than once.
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

    /// Decodes the image `row`. Called from several threads at once.
    ///
    /// # Errors
    /// An image that cannot be read or is damaged, or that changed since it was listed; the message names it.
    fn picture(&self, row: usize) -> Result<Picture>;

    /// Bytes of memory that this source holds while it is open, images that it keeps decoded included.
    fn memory(&self) -> usize {
        0
    }

    /// What was assumed about the images when they were opened, for the user to see: a sentence each.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Number of files that were passed over because they are no images.
    fn passed_over(&self) -> usize {
        0
    }

    /// True if the images have labels.
    fn is_labelled(&self) -> bool {
        self.classes().is_some()
    }
}
