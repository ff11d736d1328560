//! JSON: the data with keys in field order. `schema` is the version of the format.

use serde::Serialize;

use super::{Renderer, Report};
use crate::{Error, Result};

/// Indented JSON.
pub(super) struct Json;

impl Renderer for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn endings(&self) -> &'static [&'static str] {
        &["json"]
    }

    fn render(&self, report: Report<'_>) -> Result<String> {
        match report {
            Report::Purification(p) => pretty(p),
            Report::Scan(s) => pretty(s),
            Report::Evaluation(e) => pretty(e),
            Report::Inspection(i) => pretty(i),
        }
    }

    fn recognises(&self, content: &[u8]) -> bool {
        let value = serde_json::from_slice::<serde_json::Value>(content);
        value.is_ok_and(|v| v["schema"].is_u64() && v["command"].is_string())
    }
}

fn pretty(value: &impl Serialize) -> Result<String> {
    let mut text = serde_json::to_string_pretty(value).map_err(Error::internal)?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Evaluation, Purification, outcome::Measures};

    #[test]
    fn what_was_not_measured_is_null() {
        let p = Purification {
            before: Measures { acc: Some(85.05), ..Measures::default() },
            ..Purification::default()
        };
        let text = Json.render(Report::Purification(&p)).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&json["asr_status"], json["before"]["acc"].as_f64()), (&"unknown".into(), Some(85.05)));
        assert!(json["before"]["asr"].is_null() && json["after"]["ra"].is_null());
        assert_eq!(serde_json::from_str::<Purification>(&text).unwrap(), p);
        let e = Evaluation { measures: p.before, ..Evaluation::default() };
        let json: serde_json::Value =
            serde_json::from_str(&Json.render(Report::Evaluation(&e)).unwrap()).unwrap();
        assert_eq!((json["acc"].as_f64(), json["asr"].is_null()), (Some(85.05), true));
    }

    #[test]
    fn a_report_is_recognised() {
        let p = Purification { schema: 1, command: "purify".into(), ..Purification::default() };
        assert!(Json.recognises(Json.render(Report::Purification(&p)).unwrap().as_bytes()));
        assert!(!Json.recognises(b"notes of mine") && !Json.recognises(b"{\"schema\": 1}"));
    }
}
