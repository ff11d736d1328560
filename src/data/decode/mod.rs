//! Decodes an image file to 8-bit pixels, as Pillow's `convert` gives them. The format is determined from the content;
//! a damaged file is an error, even where other readers make something of it.

mod bmp;
mod jpeg;
mod kind;
mod png;
mod pnm;
mod problems;
mod samples;
mod tiff;
mod webp;

use std::{
    fs::{self, File, Metadata},
    io::Read,
    path::Path,
    time::SystemTime,
};

use kind::Kind;

use super::{Picture, limits};
use crate::{Error, Result, base::guard::caught};

/// What a file was when it was listed: a file that is another one when it is read is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    pub fn of(meta: &Metadata) -> Self {
        Self { bytes: meta.len(), modified: meta.modified().ok() }
    }
}

/// Bounds of one image, checked before memory is taken.
#[derive(Clone, Copy)]
pub(super) struct Budget;

impl Budget {
    /// Height and width.
    fn side(self, size: [usize; 2]) -> std::result::Result<(), String> {
        if size.contains(&0) {
            return Err("has no pixels".into());
        }
        if size.iter().any(|&side| side > limits::SIDE as usize) {
            let [h, w] = size;
            return Err(format!("is {h}x{w}, beyond the limit of {} pixels a side", limits::SIDE));
        }
        Ok(())
    }

    /// Everything that is in memory at once while the image is decoded, the file left out.
    fn bytes(self, bytes: u64) -> std::result::Result<(), String> {
        if bytes <= limits::DECODER_BYTES {
            return Ok(());
        }
        let (needed, most) = (bytes >> 20, limits::DECODER_BYTES >> 20);
        Err(format!("would take {needed} MiB to decode, beyond the limit of {most} MiB; make it smaller"))
    }

    /// A picture of this size and `per_pixel` bytes a pixel in memory at once.
    fn pixels(self, size: [usize; 2], per_pixel: usize) -> std::result::Result<(), String> {
        self.side(size)?;
        self.bytes((size[0] * size[1]) as u64 * per_pixel as u64)
    }
}

impl Picture {
    /// Reads an image file: PNG, JPEG, WebP, BMP, TIFF (its first page) or PNM, by its content. Alpha is dropped without
    /// blending, as by Pillow's `convert`; 16 bits are rounded to 8.
    ///
    /// # Errors
    /// The file cannot be read, is too large, or is not a whole image of one of these formats.
    pub fn read(path: &Path) -> Result<Self> {
        read(path, None)
    }

    /// As [`read`](Self::read), of a file's content. `name` is used in messages.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn from_bytes(name: impl std::fmt::Display, bytes: &[u8]) -> Result<Self> {
        picture(bytes).map_err(|problem| Error::images(name, problem))
    }
}

/// Reads the file at `path` as grey or RGB, whichever it holds. Alpha is dropped without blending, as by Pillow's
/// `convert`; 16 bits are rounded to 8.
///
/// # Errors
/// The file cannot be read, is no longer what `listed` says, is too large, or is not a whole image of a known format.
pub(super) fn read(path: &Path, listed: Option<&Stamp>) -> Result<Picture> {
    let bytes = read_capped(path, listed)?;
    picture(&bytes).map_err(|problem| Error::images(path.display(), problem))
}

/// As [`read`], with the opacity of each pixel (0 to 255); None where the file has none.
///
/// # Errors
/// As [`read`].
pub(super) fn read_with_alpha(path: &Path) -> Result<Decoded> {
    let bytes = read_capped(path, None)?;
    decoded(&bytes).map_err(|problem| Error::images(path.display(), problem))
}

/// A picture, and the opacity of each pixel.
type Decoded = (Picture, Option<Vec<u8>>);

/// The image that `bytes` are, as [`read`].
///
/// # Errors
/// What is wrong with it, to be put behind its name.
pub(super) fn picture(bytes: &[u8]) -> std::result::Result<Picture, String> {
    decoded(bytes).map(|(picture, _)| picture)
}

fn decoded(bytes: &[u8]) -> std::result::Result<Decoded, String> {
    // a decoder that panics has met a damaged file that its authors have not thought of
    caught(|| decoded_by_kind(bytes))
        .unwrap_or_else(|_| Err("is damaged in a way that its decoder gives up on".into()))
}

fn decoded_by_kind(bytes: &[u8]) -> std::result::Result<Decoded, String> {
    let budget = Budget;
    match Kind::of(bytes) {
        Kind::Jpeg => jpeg::read(bytes, budget).map(|picture| (picture, None)),
        Kind::Png => png::read(bytes, budget),
        Kind::WebP => webp::read(bytes, budget),
        Kind::Bmp => bmp::read(bytes, budget).map(|picture| (picture, None)),
        Kind::Tiff => tiff::read(bytes, budget),
        Kind::Pnm => pnm::read(bytes, budget).map(|picture| (picture, None)),
        Kind::Empty => Err("is empty".into()),
        Kind::Foreign(what, way_out) => Err(format!("is {what}, which is not read as an image; {way_out}")),
        Kind::Unknown => Err(format!("is not an image; expected {}", kind::EXPECTED)),
    }
}

/// The content of a regular file.
fn read_capped(path: &Path, listed: Option<&Stamp>) -> Result<Vec<u8>> {
    let io = |e| Error::io(path, e);
    let regular = |meta: &Metadata| match meta.is_file() {
        true => Ok(()),
        false => Err(Error::images(path.display(), "is not a regular file")),
    };
    // checked before opening: opening a pipe would block until it has a writer
    regular(&fs::metadata(path).map_err(io)?)?;
    let file = File::open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    regular(&meta)?;
    let changed = || Error::images(path.display(), "changed while it was in use; run again");
    if listed.is_some_and(|listed| *listed != Stamp::of(&meta)) {
        return Err(changed());
    }
    if meta.len() > limits::FILE_BYTES {
        let most = limits::FILE_BYTES >> 20;
        return Err(Error::images(path.display(), format!("is larger than {most} MiB")));
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize + 1);
    file.take(limits::FILE_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 != meta.len() {
        return Err(changed());
    }
    Ok(bytes)
}
