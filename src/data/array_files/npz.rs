//! NumPy's `.npz`: a zip of `.npy` members, stored or deflated. Nothing is unpacked to disk.

use std::{io::Read, path::Path, sync::Arc};

use zip::{CompressionMethod, ZipArchive, read::ZipFile, result::ZipResult};

use super::{
    npy,
    positioned::{Positioned, Stream},
    tensor::{Member, Place, Tensor},
};
use crate::{Error, Result, error::printable};

/// Arrays in one file.
const MEMBERS: usize = 4096;

/// The arrays of a `.npz` file, in their order; members of other kinds are passed over.
///
/// # Errors
/// The file cannot be read, is no zip file, or has more than [`MEMBERS`] members.
pub fn members(path: &Path) -> Result<Vec<Member>> {
    let file = Arc::new(Positioned::open(path)?);
    let damaged =
        |e: &dyn std::fmt::Display| Error::images(path.display(), format!("is no NumPy .npz file: {e}"));
    let mut archive = ZipArchive::new(Stream { file: &file, at: 0 }).map_err(|e| damaged(&e))?;
    if archive.len() > MEMBERS {
        return Err(damaged(&format!("{} members, the limit is {MEMBERS}", archive.len())));
    }
    let mut out = Vec::new();
    for index in 0..archive.len() {
        let raw = name(&archive.by_index_raw(index)).map_err(|e| damaged(&e))?;
        if let Some(name) = raw.strip_suffix(".npy") {
            out.push(match member(&mut archive, index, name, &file) {
                Ok(member) => member,
                Err(problem) => Member { name: name.to_owned(), tensor: Err(problem) },
            });
        }
    }
    Ok(out)
}

fn name(member: &ZipResult<ZipFile<'_, Stream<'_>>>) -> Result<String, String> {
    let member = member.as_ref().map_err(ToString::to_string)?;
    Ok(member.name().map_err(|e| e.to_string())?.into_owned())
}

/// The array in a zip member; an error says why it cannot be read.
fn member(
    archive: &mut ZipArchive<Stream<'_>>,
    index: usize,
    name: &str,
    file: &Arc<Positioned>,
) -> Result<Member, String> {
    let damaged = |e: &dyn std::fmt::Display| format!("cannot be unpacked: {e}");
    let raw = archive.by_index_raw(index).map_err(|e| damaged(&e))?;
    let (size, compressed, method) = (raw.size(), raw.compressed_size(), raw.compression());
    let start = raw.data_start();
    if raw.encrypted() {
        return Err("is encrypted".to_owned());
    }
    drop(raw);
    let mut bytes = Vec::new();
    let reader = archive.by_index(index).map_err(|e| damaged(&e))?;
    reader.take(npy::START as u64).read_to_end(&mut bytes).map_err(|e| damaged(&e))?;
    let header = npy::header(&bytes)?;
    let at = header.at as u64;
    let room = size.checked_sub(at).ok_or("is shorter than its header")?;
    let place = match (method, start) {
        (CompressionMethod::Stored, Some(start)) => {
            let end = start.checked_add(size).filter(|&end| size == compressed && end <= file.len);
            end.ok_or("is longer than the file")?;
            Place::At(start + at)
        }
        (CompressionMethod::Deflated, _) if Tensor::can_hold(compressed, size) => {
            Place::Deflated { member: index, skip: at }
        }
        (CompressionMethod::Deflated, _) => {
            return Err(format!("says that {compressed} deflated bytes hold {size}, which deflate cannot"));
        }
        (other, _) => return Err(format!("is packed with {}", printable(&other.to_string()))),
    };
    Ok(header.member(name.to_owned(), place, room, file.clone()))
}
