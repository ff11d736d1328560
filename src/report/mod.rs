//! Views of what the pipeline returned: a renderer for each form, behind one trait and in one list. A renderer shows; what
//! stands out, what failed and what was not measured is decided in the data already.

mod json;
mod text;

pub use text::{grouped, time};

use std::path::Path;

use crate::{
    Result,
    pipeline::{Evaluation, Inspection, Purification, ScanOutcome},
};

/// What can be rendered.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Report<'a> {
    /// Of a purification.
    Purification(&'a Purification),
    /// Of a scan.
    Scan(&'a ScanOutcome),
    /// Of an evaluation.
    Evaluation(&'a Evaluation),
    /// Of an inspection.
    Inspection(&'a Inspection),
}

/// A form of reports. Adding one is one file and one line of [`RENDERERS`].
pub trait Renderer: Sync {
    /// As a user names it: `text`, `json`.
    fn name(&self) -> &'static str;

    /// Endings of files that mean this form, without a dot.
    fn endings(&self) -> &'static [&'static str];

    /// The whole report, a newline at its end.
    ///
    /// # Errors
    /// Values that the form cannot hold.
    fn render(&self, report: Report<'_>) -> Result<String>;

    /// Whether `content` is a report in this form: such a file may be replaced by a new one without asking.
    fn recognises(&self, content: &[u8]) -> bool;
}

/// Every form.
pub const RENDERERS: &[&dyn Renderer] = &[&text::Text, &json::Json];

/// The form with this name.
pub fn renderer(name: &str) -> Option<&'static dyn Renderer> {
    RENDERERS.iter().copied().find(|r| r.name() == name)
}

/// The form that a file's ending means; None where it means none.
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
