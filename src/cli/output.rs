//! Files that are written, reports among them.

use std::path::{Path, PathBuf};

use crate::{
    Error, Result,
    onnx::Model,
    report::{RENDERERS, Renderer, Report, renderer, renderer_of},
    rewrite::Output,
};

/// A place to write to; as [`Output::new`], and says what `--force` would do where that is all that is in the way.
pub fn place(path: &Path, inputs: &[&Path], force: bool) -> Result<Output> {
    Output::new(path, inputs, force).map_err(|e| {
        if !force && path.is_file() && Output::new(path, inputs, true).is_ok() {
            Error::invalid(path.display(), "already exists (use --force)")
        } else {
            e
        }
    })
}

/// Refuses to write over the files that hold the weights of `model`, `--force` or not.
pub fn spare_weights<'a>(model: &Model, outputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    for output in outputs {
        let Ok(there) = output.canonicalize() else { continue };
        if model.external_files().any(|f| f.canonicalize().is_ok_and(|f| f == there)) {
            return Err(Error::invalid(
                output.display(),
                "holds weights of the model; it is not overwritten",
            ));
        }
    }
    Ok(())
}

/// Refuses to write into the folders of images or below them: the next run would read it as one.
pub fn not_among<'a>(path: &Path, folders: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    match folders.into_iter().find(|folder| lies_in(path, folder)) {
        None => Ok(()),
        Some(folder) => {
            let problem = format!("lies among the images in {}", folder.display());
            Err(Error::invalid(path.display(), problem))
        }
    }
}

/// A file, which need not be there yet, in a folder or below it.
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

/// Where a report goes, and its form.
pub struct ReportPlace {
    place: Output,
    renderer: &'static dyn Renderer,
}

/// The place of a report, in the form that its ending means, JSON where it means none: one from an earlier run is overwritten without asking, as logs are; any other file is not.
pub fn report_place(path: Option<&Path>, inputs: &[&Path]) -> Result<Option<ReportPlace>> {
    let Some(path) = path else { return Ok(None) };
    let place = Output::new(path, inputs, true)?;
    if path.exists() && !is_report(path) {
        return Err(Error::invalid(
            path.display(),
            "already exists and is no report of ours; it is not overwritten",
        ));
    }
    let renderer = renderer_of(path).map_or_else(|| form("json"), Ok)?;
    Ok(Some(ReportPlace { place, renderer }))
}

/// A report of ours, in whatever form.
fn is_report(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|content| RENDERERS.iter().any(|r| r.recognises(&content)))
}

/// Writes `report`, in the form of its place.
pub fn write_report(place: Option<ReportPlace>, report: Report<'_>) -> Result<()> {
    let Some(ReportPlace { place, renderer }) = place else { return Ok(()) };
    place.write(renderer.render(report)?.as_bytes())
}

/// `report` as JSON.
pub fn json(report: Report<'_>) -> Result<String> {
    form("json")?.render(report)
}

/// What is printed of `report`.
pub fn text(report: Report<'_>) -> Result<String> {
    form("text")?.render(report)
}

fn form(name: &str) -> Result<&'static dyn Renderer> {
    renderer(name).ok_or_else(|| Error::internal(format!("no form {name}")))
}
