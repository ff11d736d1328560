//! Plain text summaries, which end with what was and was not measured.

mod evaluation;
mod inspection;
mod purification;
mod scan;

use std::fmt::Write as _;

use super::{Renderer, Report};
use crate::{
    Result,
    pipeline::outcome::{File, Target},
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
