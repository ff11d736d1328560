//! Images and labels: folders, decoding, resizing, normalisation and the holdout split. Results depend only on the
//! files and the request, not on the number of threads or the order in which the file system lists entries.

mod array_files;
mod arrays;
mod cifar;
mod classes;
mod decode;
mod folder;
mod formats;
mod gtsrb;
mod images;
mod labelled;
mod listed;
mod listing;
mod picture;
mod preprocessing;
mod set;
mod source;
mod split;
mod splits;
mod table;
mod tiny_imagenet;
mod trigger;
mod zip_folder;

pub use array_files::ArrayFile;
pub use arrays::Arrays;
pub use classes::{Classes, nearest};
pub use folder::Folder;
pub use formats::open;
pub use images::Images;
pub use listed::Listed;
pub use picture::Picture;
pub use preprocessing::{
    ChannelOrder, Contradiction, Crop, Extent, Interpolation, Origin, PIECES, PRESETS, Piece, PixelRange,
    Preprocessing, Resize, Stated, Target, sides,
};
pub use set::{Damaged, ImageSet, Reading, load};
pub use source::{Role, Source};
pub use split::{Split, choose, split};
pub use trigger::{Stamped, Trigger};
pub use zip_folder::ZipFolder;

pub use crate::base::pixels::Pixels;

/// Limits of image input, all far above what purifying or evaluating needs.
pub mod limits {
    /// Maximum image files in one folder. ImageNet's training set has 1.3 million; a name takes about 100 bytes.
    pub const FILES: usize = 2_000_000;
    /// Maximum bytes of one image file.
    pub const FILE_BYTES: u64 = 64 << 20;
    /// Maximum pixels along one side of an image.
    pub const SIDE: u32 = 16_384;
    /// Maximum bytes that one decoder may allocate; a decompression bomb of 16,384 x 16,384 would need 800 MB.
    pub const DECODER_BYTES: u64 = 256 << 20;
    /// Maximum classes; ImageNet has 21,841 with all of its synsets.
    pub const CLASSES: usize = 1 << 20;
    /// Maximum bytes of all decoded images of one source: 2,500 images of 224 x 224 are 0.4 GB.
    pub const TOTAL_BYTES: usize = 8 << 30;
}
