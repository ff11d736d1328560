//! Report renderers, one per format. A renderer only formats: all decisions (what stands out, what failed, what was not
//! measured) are in the pipeline's data.

mod json;
mod sheet;
mod text;

pub use sheet::png as contact_sheet;
pub use text::{grouped, time};

use std::path::Path;

use crate::{
    Result,
    pipeline::{Evaluation, Inspection, Purification, ScanOutcome},
};

/// A report to be rendered.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Report<'a> {
    /// A purification.
    Purification(&'a Purification),
    /// A scan.
    Scan(&'a ScanOutcome),
    /// An evaluation.
    Evaluation(&'a Evaluation),
    /// An inspection.
    Inspection(&'a Inspection),
}

/// A report format. Adding one takes one file and one line in [`RENDERERS`].
pub trait Renderer: Sync {
    /// Name of the format: `text`, `json`.
    fn name(&self) -> &'static str;

    /// File extensions of this format, without a dot.
    fn endings(&self) -> &'static [&'static str];

    /// The whole report, ending with a newline.
    ///
    /// # Errors
    /// Values that the format cannot represent.
    fn render(&self, report: Report<'_>) -> Result<String>;

    /// Whether `content` is a report in this format, which may be overwritten by a new one.
    fn recognises(&self, content: &[u8]) -> bool;
}

/// All formats.
pub const RENDERERS: &[&dyn Renderer] = &[&text::Text, &json::Json];

/// The format with this name.
pub fn renderer(name: &str) -> Option<&'static dyn Renderer> {
    RENDERERS.iter().copied().find(|r| r.name() == name)
}

/// The format of a file's extension; None if there is none.
pub fn renderer_of(path: &Path) -> Option<&'static dyn Renderer> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    RENDERERS.iter().copied().find(|r| r.endings().contains(&ending.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::outcome::Measures;

    #[test]
    fn each_form_renders_each_report_and_has_names_of_its_own() {
        let (purification, scan) = (Purification::default(), ScanOutcome::default());
        let inspection = Inspection::default();
        let evaluation = Evaluation {
            measures: Measures { acc: Some(1.0), ..Measures::default() },
            ..Evaluation::default()
        };
        for (i, renderer) in RENDERERS.iter().enumerate() {
            assert!(RENDERERS[..i].iter().all(|other| other.name() != renderer.name()));
            let reports = [
                Report::Purification(&purification),
                Report::Scan(&scan),
                Report::Evaluation(&evaluation),
                Report::Inspection(&inspection),
            ];
            for report in reports {
                assert!(renderer.render(report).unwrap().ends_with('\n'), "{report:?}");
            }
        }
        assert_eq!(super::renderer("json").map(|r| r.endings()), Some(&["json"][..]));
        assert_eq!(renderer_of(Path::new("a/b.JSON")).map(|r| r.name()), Some("json"));
        assert!(super::renderer("pdf").is_none() && renderer_of(Path::new("report")).is_none());
    }
}
