//! External data: initializers stored in files beside the model. The (untrusted) model names the file, so its path
//! must be relative, of plain components and free of links. The checks use the opened file, not its name; nothing is
//! allocated before offset and length are known to lie within it.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
};

use onnx_protobuf::TensorProto;

use super::limits::MAX_FILE;
use crate::error::printable;

/// Location of a tensor's values.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    location: String,
    offset: u64,
    length: Option<u64>,
}

/// Parses `external_data`: only the keys that ONNX defines, each at most once.
fn place(proto: &TensorProto) -> Result<Place, String> {
    let mut location = None;
    let (mut offset, mut length, mut checksum) = (None, None, None);
    for entry in &proto.external_data {
        let slot = match entry.key.as_str() {
            "location" => &mut location,
            "offset" => &mut offset,
            "length" => &mut length,
            // SHA-1 of the file; ignored, as in other runtimes.
            "checksum" => &mut checksum,
            other => return Err(format!("has external_data with the unknown key \"{}\"", printable(other))),
        };
        if slot.replace(entry.value.as_str()).is_some() {
            return Err(format!("has external_data with two values for \"{}\"", entry.key));
        }
    }
    let number = |key: &str, text: Option<&str>| match text {
        None => Ok(None),
        Some(text) => match text.parse::<u64>() {
            Ok(n) => Ok(Some(n)),
            Err(_) => Err(format!("has external_data with {key} \"{}\", not a number", printable(text))),
        },
    };
    Ok(Place {
        location: location.ok_or("has external data without a location")?.to_owned(),
        offset: number("offset", offset)?.unwrap_or(0),
        length: number("length", length)?,
    })
}

/// Joins `location` to `dir`; every component must be a plain name, none a link.
fn resolve(dir: &Path, location: &str) -> Result<PathBuf, String> {
    let shown = printable(location);
    let relative = Path::new(location);
    let plain = relative.components().all(|c| matches!(c, Component::Normal(_)));
    // Backslash and colon are separators on Windows: the same model would name another file there.
    if location.is_empty() || !plain || location.contains(['\\', ':', '\0']) || location.starts_with("*/") {
        return Err(format!("external data in \"{shown}\": only a plain relative path is allowed"));
    }
    let mut path = dir.to_path_buf();
    for component in relative.components() {
        path.push(component);
        let metadata =
            fs::symlink_metadata(&path).map_err(|e| format!("external data in \"{shown}\": {e}"))?;
        if metadata.is_symlink() {
            return Err(format!("external data in \"{shown}\": \"{}\" is a link", path.display()));
        }
    }
    Ok(path)
}

/// Reads the `expected` bytes of one tensor. Returns them with the path of their file.
pub(super) fn read(dir: &Path, proto: &TensorProto, expected: usize) -> Result<(Vec<u8>, PathBuf), String> {
    let place = place(proto)?;
    let path = resolve(dir, &place.location)?;
    let fault = |problem: String| format!("external data in \"{}\": {problem}", printable(&place.location));
    let mut file = File::open(&path).map_err(|e| fault(e.to_string()))?;
    let metadata = file.metadata().map_err(|e| fault(e.to_string()))?;
    if !metadata.is_file() {
        return Err(fault("not a file".into()));
    }
    check_links(&path, &metadata).map_err(&fault)?;
    let length = place.length.unwrap_or_else(|| metadata.len().saturating_sub(place.offset));
    if length != expected as u64 || expected > MAX_FILE {
        return Err(fault(format!("{length} bytes, but type and dims require {expected}")));
    }
    if place.offset.checked_add(length).is_none_or(|end| end > metadata.len()) {
        let Place { offset, .. } = place;
        return Err(fault(format!(
            "{length} bytes from offset {offset}, but the file has {} bytes",
            metadata.len()
        )));
    }
    let mut bytes = vec![0; expected];
    file.seek(SeekFrom::Start(place.offset)).map_err(|e| fault(e.to_string()))?;
    file.read_exact(&mut bytes).map_err(|e| fault(e.to_string()))?;
    Ok((bytes, path))
}

/// Checks that the opened file is the one at `path` and has no other hard link, which could lie outside the folder.
#[cfg(unix)]
fn check_links(path: &Path, opened: &fs::Metadata) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    let named = fs::symlink_metadata(path).map_err(|e| e.to_string())?;
    if (named.dev(), named.ino()) != (opened.dev(), opened.ino()) {
        return Err("was replaced while it was opened".into());
    }
    if opened.nlink() > 1 {
        return Err("has more than one hard link and may belong to another folder; copy it".into());
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_links(_: &Path, _: &fs::Metadata) -> Result<(), String> {
    Ok(())
}
