//! Reports as files.

use std::path::Path;

use serde::Serialize;

use crate::{Error, Result, rewrite::Output};

/// The place of a report: one from an earlier run is overwritten without asking, as logs are.
pub fn report_place(path: Option<&Path>, inputs: &[&Path]) -> Result<Option<Output>> {
    path.map(|p| Output::new(p, inputs, true)).transpose()
}

/// Writes `report` as JSON.
pub fn write_report(place: Option<Output>, report: &impl Serialize) -> Result<()> {
    let Some(place) = place else { return Ok(()) };
    place.stage(json(report)?.as_bytes())?.commit()
}

/// As JSON, indented, a newline at the end.
pub fn json(value: &impl Serialize) -> Result<String> {
    let mut text = serde_json::to_string_pretty(value).map_err(Error::internal)?;
    text.push('\n');
    Ok(text)
}
