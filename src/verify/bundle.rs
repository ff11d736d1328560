//! Where two runtimes part, as files for a bug report: the part of the model, its inputs, both results.

use std::{fs, io::Write as _, path::Path};

use prost::Message as _;
use serde_json::json;

use super::{cut::Port, pieces::Parted, runtime::Value};
use crate::{Error, Result, error::printable, onnx::Model};

/// Writes `part.onnx`, the inputs and both results as .npy, and `bundle.json` into the new folder `dir`.
///
/// # Errors
/// [`Error::Io`]; nothing that exists is written to.
pub fn save(dir: &Path, check: &str, judge: &str, file: &Model, parted: &Parted) -> Result<()> {
    fs::create_dir(dir).map_err(|e| Error::io(dir, e))?;
    write(&dir.join("part.onnx"), &parted.model.encode_to_vec())?;
    let put =
        |what: &str, all: &mut dyn Iterator<Item = (&Port, &Value)>| -> Result<Vec<serde_json::Value>> {
            let mut entries = Vec::new();
            for (at, (port, value)) in all.enumerate() {
                let name = format!("{what}-{at}.npy");
                write(&dir.join(&name), &npy(value))?;
                entries.push(json!({
                    "file": name,
                    "value": printable(&port.name).to_string(),
                    "type": port.elem.name(),
                    "shape": value.shape,
                }));
            }
            Ok(entries)
        };
    let inputs = put("input", &mut parted.inputs.iter().map(|(port, value)| (port, value)))?;
    let expected = put("expected", &mut parted.expected.iter().map(|(port, value)| (port, value)))?;
    let found = put("found", &mut parted.expected.iter().map(|(port, _)| port).zip(&parted.found))?;
    let about = json!({
        "check": check,
        "judge": judge,
        "form": format!("{:?}", parted.form).to_lowercase(),
        "model": file.name(),
        "sha256": file.sha256(),
        "value": printable(&parted.value).to_string(),
        "nodes": parted.nodes,
        "difference": parted.difference.is_finite().then_some(parted.difference),
        "allowed": parted.allowed,
        "inputs": inputs,
        "expected": expected,
        "found": found,
        "version": env!("CARGO_PKG_VERSION"),
    });
    let text = serde_json::to_string_pretty(&about).map_err(Error::internal)? + "\n";
    write(&dir.join("bundle.json"), text.as_bytes())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = fs::File::create_new(path);
    file.and_then(|mut file| file.write_all(bytes)).map_err(|e| Error::io(path, e))
}

/// NumPy's format, version 1.0: float32, row-major.
fn npy(value: &Value) -> Vec<u8> {
    let dims: Vec<String> = value.shape.iter().map(|d| format!("{d},")).collect();
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", dims.join(" "));
    // magic, version, length and header with its newline are a multiple of 64
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((header.len() as u16).to_le_bytes());
    out.extend(header.as_bytes());
    out.extend(value.data.iter().flat_map(|v| v.to_le_bytes()));
    out
}
