//! Images and labels in, batches out. Owns folders, decoding, resizing, normalisation and the holdout split. Reads
//! image files and nothing else; what it returns depends on the files and the request alone, never on the number of
//! threads or the order in which a folder lists its entries.

mod classes;
mod decode;
mod folder;
mod preprocessing;
mod resize;
mod split;

pub use classes::{Classes, nearest};
pub use folder::Folder;
pub use preprocessing::{PRESETS, Preprocessing, Resize, Target};
pub use split::{Split, split};

use std::path::PathBuf;

/// What a folder may hold before it is refused: each limit far above what purifying or evaluating needs.
pub mod limits {
    /// Image files in one folder. ImageNet's training set has 1.3 million; a name takes about 100 bytes.
    pub const FILES: usize = 2_000_000;
    /// Bytes of one image file.
    pub const FILE_BYTES: u64 = 64 << 20;
    /// Pixels along one side of an image file.
    pub const SIDE: u32 = 16_384;
    /// Bytes one decoder may allocate; a decompression bomb of 16,384 x 16,384 would want 800 MB.
    pub const DECODER_BYTES: u64 = 256 << 20;
    /// Bytes of all decoded images of one folder together: 2,500 images of 224 x 224 are 0.4 GB.
    pub const TOTAL_BYTES: usize = 8 << 30;
}

/// Images as 8-bit values: what a decoder gives, and a quarter of what floats would take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// (count, C, H, W), row-major.
    pub bytes: Vec<u8>,
    /// C, H, W.
    pub shape: [usize; 3],
    /// Class index per image; empty where the folder has no class folders.
    pub labels: Vec<u32>,
    /// The file of each image, in the same order.
    pub files: Vec<PathBuf>,
}

impl Images {
    /// How many images.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// True where there is no image.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Values of one image: C * H * W.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// These images in pixel space: (rows, C, H, W) row-major, each value in [0, 1] (byte / 255).
    ///
    /// # Panics
    /// If a row is not below [`len`](Self::len).
    pub fn pixels(&self, rows: &[usize]) -> Vec<f32> {
        let numel = self.numel();
        let mut out = Vec::with_capacity(rows.len() * numel);
        for &row in rows {
            out.extend(self.bytes[row * numel..(row + 1) * numel].iter().map(|&b| f32::from(b) / 255.0));
        }
        out
    }

    /// These images as the network takes them: (rows, C, H, W) row-major, (pixel - mean) / std.
    ///
    /// # Panics
    /// If a row is not below [`len`](Self::len).
    pub fn normalized(&self, rows: &[usize], preprocessing: &Preprocessing) -> Vec<f32> {
        let mut out = self.pixels(rows);
        preprocessing.normalize(&mut out, self.shape);
        out
    }

    /// A copy of these images, in the order of `rows`.
    ///
    /// # Panics
    /// If a row is not below [`len`](Self::len).
    pub fn select(&self, rows: &[usize]) -> Images {
        let numel = self.numel();
        Images {
            bytes: rows.iter().flat_map(|&r| &self.bytes[r * numel..(r + 1) * numel]).copied().collect(),
            shape: self.shape,
            labels: if self.labels.is_empty() {
                Vec::new()
            } else {
                rows.iter().map(|&r| self.labels[r]).collect()
            },
            files: rows.iter().map(|&r| self.files[r].clone()).collect(),
        }
    }
}
