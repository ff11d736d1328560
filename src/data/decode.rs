//! Decodes an image file to 8-bit pixels. The format (PNG or JPEG) is determined from the content.

use std::{
    fs::{self, File},
    io::{Cursor, Read},
    path::Path,
};

use image::{ImageFormat, ImageReader, Limits};

use super::{Picture, limits};
use crate::{Error, Result};

/// Reads `path` as grey or RGB, whichever it holds. Alpha is dropped without blending, as by Pillow's `convert`; 16 bits
/// are rounded to 8.
///
/// # Errors
/// The file cannot be read, is too large, or is not a valid PNG or JPEG image.
pub fn read(path: &Path) -> Result<Picture> {
    let invalid = |problem: String| Error::images(path.display(), problem);
    let bytes = read_capped(path)?;
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| Error::io(path, e))?;
    match reader.format() {
        Some(ImageFormat::Png | ImageFormat::Jpeg) => {}
        Some(other) => return Err(invalid(format!("is a {other:?} file; only PNG and JPEG are supported"))),
        None => return Err(invalid("is neither a PNG nor a JPEG file".into())),
    }
    let mut caps = Limits::default();
    caps.max_image_width = Some(limits::SIDE);
    caps.max_image_height = Some(limits::SIDE);
    caps.max_alloc = Some(limits::DECODER_BYTES);
    reader.limits(caps);
    let image = reader.decode().map_err(|e| invalid(format!("cannot be decoded: {e}")))?;
    let size = [image.height() as usize, image.width() as usize];
    if size.contains(&0) {
        return Err(invalid("has no pixels".into()));
    }
    Ok(match image {
        i if i.color().has_color() => Picture::of_bytes(size, 3, i.into_rgb8().into_raw()),
        i => Picture::of_bytes(size, 1, i.into_luma8().into_raw()),
    })
}

fn read_capped(path: &Path) -> Result<Vec<u8>> {
    // checked before opening: opening a pipe would block until it has a writer
    let meta = fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !meta.is_file() {
        return Err(Error::images(path.display(), "is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|f| f.take(limits::FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|e| Error::io(path, e))?;
    if bytes.len() as u64 > limits::FILE_BYTES {
        let most = limits::FILE_BYTES >> 20;
        return Err(Error::images(path.display(), format!("is larger than {most} MiB")));
    }
    if bytes.is_empty() {
        return Err(Error::images(path.display(), "is empty"));
    }
    Ok(bytes)
}
