//! Removes the layer from a rewritten file.

use super::Record;
use crate::{
    Error, Result,
    base::digest::sha256,
    error::printable,
    onnx::{schema::number, splice, wire},
};

/// Restores the original file of the rewritten `bytes` and checks it against the recorded SHA-256. `name` is used in
/// messages.
///
/// # Errors
/// [`Error::Input`] if it is not a rewritten file; [`Error::Check`] named `revert` if the result is not the original,
/// because the file was modified after the rewrite.
pub fn revert(bytes: &[u8], name: &str) -> Result<Vec<u8>> {
    let scan = wire::scan(bytes)
        .map_err(|fault| Error::invalid(name, format!("is not a well-formed ONNX file: {fault}")))?;
    let metadata: Vec<(String, String)> = scan
        .children(0, number::MODEL_METADATA_PROPS)
        .map(|(_, entry)| {
            let mut pair = (String::new(), String::new());
            for field in wire::fields(bytes, entry.body.clone()) {
                match field.number {
                    1 => pair.0 = wire::text(bytes, &field).to_owned(),
                    2 => pair.1 = wire::text(bytes, &field).to_owned(),
                    _ => {}
                }
            }
            pair
        })
        .collect();
    if !Record::is_there(&metadata) {
        return Err(Error::invalid(name, "was not written by polarizer (no polarizer.* in its metadata)"));
    }
    let failed = |problem: String| Error::check("revert", format!("{name}: {problem}"));
    let record = Record::from_metadata(&metadata).map_err(failed)?;
    let changes = record.undo.changes();
    let original = changes.and_then(|changes| splice::apply(bytes.get(..record.undo.end)?, &changes));
    let original =
        original.ok_or_else(|| failed("its metadata \"polarizer.undo\" does not fit the file".into()))?;
    let (found, expected) = (sha256(&original), printable(&record.input_sha256));
    if found != record.input_sha256 {
        return Err(failed(format!(
            "the file was modified after the rewrite: without the layer its SHA-256 is {found}, the original's is \
             {expected}"
        )));
    }
    Ok(original)
}
