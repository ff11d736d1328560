//! Reading files that are neither models nor images.

use std::{fs::File, io::Read as _, path::Path};

use crate::{Error, Result, onnx::limits::MAX_FILE};

/// Reads a whole file, at most of the maximum size of a model.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let io = |e| Error::io(path, e);
    let meta = path.metadata().map_err(io)?; // checked before opening: opening a pipe would block
    if !meta.is_file() {
        return Err(Error::invalid(path.display(), "is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|f| f.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)).map_err(io)?;
    if bytes.len() > MAX_FILE {
        return Err(Error::invalid(path.display(), format!("is larger than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}
