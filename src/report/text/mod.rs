//! Plain text summaries, which end with what was and was not measured.

mod evaluation;
mod inspection;
mod purification;
mod scan;

use std::fmt::Write as _;

use super::{Renderer, Report};
use crate::{
    Result,
    error::without_controls,
    pipeline::{
        Finding, Rule,
        outcome::{File, Preprocessing, Target},
    },
};

/// The summary that commands print.
pub(super) struct Text;

impl Renderer for Text {
    fn name(&self) -> &'static str {
        "text"
    }

    fn endings(&self) -> &'static [&'static str] {
        // for the terminal only
        &[]
    }

    fn render(&self, report: Report<'_>) -> Result<String> {
        Ok(match report {
            Report::Purification(p) => purification::summary(p),
            Report::Scan(s) => scan::summary(s),
            Report::Evaluation(e) => evaluation::summary(e),
            Report::Inspection(i) => inspection::summary(i),
        })
    }

    fn recognises(&self, content: &[u8]) -> bool {
        content.starts_with(b"model      ")
    }
}

fn line(out: &mut String, name: &str, text: &str) {
    let _ = writeln!(out, "{name:<11}{text}");
}

fn named(file: &File) -> String {
    format!("{}  (sha256 {}...)", file.file, file.sha256.get(..16).unwrap_or_default())
}

fn attacked(images: usize, target: &Target) -> String {
    let images = grouped(images);
    match target.index {
        Some(index) => format!("{images} triggered images, target {index} \"{}\"", target.name),
        None => format!("{images} triggered images, target the class after the true one"),
    }
}

/// The whole preprocessing in one line, with where its parts come from.
fn prepared(p: &Preprocessing, [_, h, w]: [usize; 3]) -> String {
    let part =
        |name: &str| p.parts.iter().find(|part| part.name == name).map_or("", |part| part.value.as_str());
    let mut said = vec![format!("{h}x{w}"), part("resize").to_owned()];
    said.retain(|text| text != "none");
    let unless = |name: &str, usual: &[&str]| {
        let value = part(name);
        (!usual.contains(&value))
            .then(|| if name == "crop" { format!("crop {value}") } else { value.to_owned() })
    };
    said.extend(unless("crop", &["none", ""]));
    if part("resize") != "none" {
        said.extend(unless("interpolation", &[""]));
    }
    said.extend(unless("channels", &["rgb", ""]));
    said.extend(unless("mean", &["0", ""]).map(|mean| format!("mean {mean}")));
    said.extend(unless("std", &["1", ""]).map(|std| format!("std {std}")));
    said.push(part("range").to_owned());
    let mut origins: Vec<&str> = p.parts.iter().map(|part| part.origin.as_str()).collect();
    origins.retain(|origin| *origin != "default");
    origins.dedup();
    let mut unique: Vec<&str> = Vec::new();
    origins.into_iter().for_each(|origin| {
        if !unique.contains(&origin) {
            unique.push(origin)
        }
    });
    let from =
        if unique.is_empty() { "nothing stated".to_owned() } else { without_controls(&unique.join(", ")) };
    format!("{} ({from})", said.join(", "))
}

/// The findings about the images as lines.
fn about_images(out: &mut String, findings: &[Finding]) {
    for note in findings.iter().filter(|f| f.rule == Rule::ImagesNoted) {
        line(out, "note", &without_controls(&note.message));
    }
    for rule in [
        Rule::PreprocessingContradicted,
        Rule::PreprocessingDoubtful,
        Rule::ClassOrder,
        Rule::ScoresTied,
        Rule::ImagesSkipped,
    ] {
        findings.iter().filter(|f| f.rule == rule).for_each(|f| line(out, "warning", &f.message));
    }
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| format!("{:>7}", "-"), |v| format!("{v:7.2}"))
}

/// Formats 1234567 as `1,234,567`.
pub fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Formats seconds as `4.2 s` or `3 min 05 s`.
pub fn time(seconds: f64) -> String {
    if seconds < 99.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    if whole < 3600 {
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        format!("{} h {:02} min", whole / 3600, whole % 3600 / 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([4.24, 185.0, 3_660.0].map(time), ["4.2 s", "3 min 05 s", "1 h 01 min"]);
    }
}
