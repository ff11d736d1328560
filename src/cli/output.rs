//! Output files and reports.

use std::path::{Path, PathBuf};

use crate::{
    Error, Result,
    onnx::Model,
    report::{RENDERERS, Renderer, Report, renderer, renderer_of},
    rewrite::Output,
};

/// As [`Output::new`]; the error mentions `--force` if that would help.
pub fn place(path: &Path, inputs: &[&Path], force: bool) -> Result<Output> {
    Output::new(path, inputs, force).map_err(|e| {
        if !force && path.is_file() && Output::new(path, inputs, true).is_ok() {
            Error::invalid(path.display(), "already exists (use --force)")
        } else {
            e
        }
    })
}

/// Rejects outputs that would overwrite external data of `model`, even with `--force`.
pub fn spare_weights<'a>(model: &Model, outputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    for output in outputs {
        let Ok(there) = output.canonicalize() else { continue };
        if model.external_files().any(|f| f.canonicalize().is_ok_and(|f| f == there)) {
            return Err(Error::invalid(output.display(), "holds weights of the model; choose another file"));
        }
    }
    Ok(())
}

/// Rejects outputs inside image folders: the next run would read them as images.
pub fn not_among<'a>(path: &Path, folders: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    match folders.into_iter().find(|folder| lies_in(path, folder)) {
        None => Ok(()),
        Some(folder) => {
            let problem = format!("is inside the image folder {}; choose another folder", folder.display());
            Err(Error::invalid(path.display(), problem))
        }
    }
}

/// Whether a file, existing or not, is inside a folder.
fn lies_in(path: &Path, folder: &Path) -> bool {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match (parent.canonicalize(), folder.canonicalize()) {
        (Ok(parent), Ok(folder)) => parent.starts_with(folder),
        _ => false,
    }
}

/// What `--report` writes, for help.
pub const REPORT: &str = "Write a JSON report";

/// Target and format of a report.
pub struct ReportPlace {
    place: Output,
    renderer: &'static dyn Renderer,
}

/// Target of a report in the format of its extension, else JSON. An existing report is overwritten, any other file is
/// not.
pub fn report_place(path: Option<&Path>, inputs: &[&Path]) -> Result<Option<ReportPlace>> {
    let Some(path) = path else { return Ok(None) };
    let place = Output::new(path, inputs, true)?;
    if path.exists() && !is_report(path) {
        return Err(Error::invalid(
            path.display(),
            "already exists and is not a report; choose another file",
        ));
    }
    let renderer = renderer_of(path).map_or_else(|| form("json"), Ok)?;
    Ok(Some(ReportPlace { place, renderer }))
}

/// Whether the file is a report in any format.
fn is_report(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|content| RENDERERS.iter().any(|r| r.recognises(&content)))
}

/// Writes `report` in the format of its target.
pub fn write_report(place: Option<ReportPlace>, report: Report<'_>) -> Result<()> {
    let Some(ReportPlace { place, renderer }) = place else { return Ok(()) };
    place.write(renderer.render(report)?.as_bytes())
}

/// `report` as JSON.
pub fn json(report: Report<'_>) -> Result<String> {
    form("json")?.render(report)
}

/// `report` as the printed summary.
pub fn text(report: Report<'_>) -> Result<String> {
    form("text")?.render(report)
}

fn form(name: &str) -> Result<&'static dyn Renderer> {
    renderer(name).ok_or_else(|| Error::internal(format!("no form {name}")))
}
