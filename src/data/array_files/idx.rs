//! The IDX files of MNIST and its kin (`train-images-idx3-ubyte`), plain or gzipped.

use std::{fs::File, io::Read, path::Path, sync::Arc};

use flate2::read::MultiGzDecoder;

use super::{
    element::{Element, Kind},
    positioned::Positioned,
    tensor::{Member, Place, Tensor},
};
use crate::{Error, Result};

/// Bytes of the longest header: four dimensions.
const HEADER: u64 = 4 + 4 * 4;

/// The array of an IDX file, named after the file.
///
/// # Errors
/// The file cannot be read, or its header is malformed.
pub fn member(path: &Path) -> Result<Member> {
    let invalid = |problem: String| Error::images(path.display(), problem);
    let file = Arc::new(Positioned::open(path)?);
    let gzipped = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"));
    let plain = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut start = Vec::new();
    let read = if gzipped {
        MultiGzDecoder::new(plain).take(HEADER).read_to_end(&mut start)
    } else {
        plain.take(HEADER).read_to_end(&mut start)
    };
    read.map_err(|e| invalid(format!("is no IDX file: {e}")))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (element, shape) =
        header(&start).ok_or_else(|| invalid("is no IDX file: malformed header".into()))?;
    let at = 4 + 4 * shape.len() as u64;
    // how long gzipped values are is known when they are unpacked: it must be what the header says
    let tensor = |shape: Vec<usize>, place| Tensor {
        name: name.clone(),
        element,
        shape,
        fortran: false,
        place,
        file: file.clone(),
    };
    let tensor = if gzipped {
        let bytes = shape.iter().try_fold(element.size() as u64, |all, &side| all.checked_mul(side as u64));
        match bytes.filter(|&bytes| Tensor::can_hold(file.len, bytes)) {
            Some(bytes) => tensor(shape, Place::Gzip { skip: at }).checked(bytes),
            None => Err(format!("has the shape {shape:?}, more than the file can hold")),
        }
    } else {
        let room = file.len.saturating_sub(at);
        tensor(shape, Place::At(at)).checked(room)
    };
    Ok(Member { name, tensor })
}

/// The type and the shape at the start of a file.
fn header(start: &[u8]) -> Option<(Element, Vec<usize>)> {
    let (&[0, 0, kind, dimensions], rest) = start.split_first_chunk()? else { return None };
    let kind = match kind {
        0x08 => Kind::U8,
        0x09 => Kind::I8,
        0x0b => Kind::I16,
        0x0c => Kind::I32,
        0x0d => Kind::F32,
        0x0e => Kind::F64,
        _ => return None,
    };
    let sides = rest.as_chunks().0.get(..usize::from(dimensions))?;
    let sides = sides.iter().map(|side| usize::try_from(u32::from_be_bytes(*side)).ok());
    Some((Element { kind, big: true }, sides.collect::<Option<_>>()?))
}

/// The file of the labels of a file of images.
pub fn labels_of(name: &str) -> String {
    name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let bytes = [0, 0, 8, 3, 0, 0, 0xea, 0x60, 0, 0, 0, 28, 0, 0, 0, 28, 1, 2, 3, 4];
        assert_eq!(header(&bytes).unwrap().1, [60000, 28, 28]);
        assert!(header(&bytes[..15]).is_none());
        assert!(header(&[0, 0, 7, 1, 0, 0, 0, 1]).is_none());
        assert!(header(&[0, 1, 8, 1, 0, 0, 0, 1]).is_none());
        assert!(header(&[]).is_none());
        assert_eq!(labels_of("train-images-idx3-ubyte.gz"), "train-labels-idx1-ubyte.gz");
    }
}
