//! What can go wrong, said for people: every error names the file, node or field it is about, what was
//! found there and what was expected. An error carries its class, and the class is the exit code of the command.

use std::{fmt, io, path::Path};

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something was not done. [`Error::exit_code`] maps it to the exit code of the command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An input is wrong: `subject` (a file, a node, a folder), then what is wrong with it.
    #[error("{subject}: {problem}")]
    #[non_exhaustive]
    Input {
        /// What sort of input.
        kind: InputKind,
        /// What it is about, ready to print: `model.onnx`, `node "conv1" (Conv)`.
        subject: String,
        /// What was found, and what was expected.
        problem: String,
    },
    /// A value that the caller chose is out of its range, or does not fit the other values or the input.
    #[error("{field}: {problem}")]
    #[non_exhaustive]
    Setting {
        /// Name of the setting or argument: `epochs`, `site`, `images`. Others that `problem` speaks of stand in
        /// backquotes there.
        field: &'static str,
        /// What was found, and what was expected.
        problem: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    #[non_exhaustive]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A check or a gate did not hold. `check` is its stable name.
    #[error("check failed: {check}: {problem}")]
    #[non_exhaustive]
    Check {
        /// Stable name of the check: `parity-original`, `parity-purified`, `structure`, ...
        check: &'static str,
        /// What was found, and what was expected.
        problem: String,
    },
    /// The user stopped the run.
    #[error("interrupted")]
    Interrupted,
    /// A fault of ours, or of a library below us.
    #[error("internal fault: {0}")]
    Internal(String),
}

/// Sorts of input that can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InputKind {
    /// A model file, or something in it: not well-formed, or not supported.
    Model,
    /// Images, their folders, labels or class names.
    Images,
    /// Another file: one to be written, a saved layer.
    File,
}

impl Error {
    /// A file, or something in it, is wrong.
    pub fn invalid(subject: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::input(InputKind::File, subject, problem)
    }

    /// A model, or something in it, is wrong or not supported.
    pub fn model(subject: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::input(InputKind::Model, subject, problem)
    }

    /// Images, their folders, labels or class names are wrong.
    pub fn images(subject: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::input(InputKind::Images, subject, problem)
    }

    /// An input of this kind is wrong.
    pub fn input(kind: InputKind, subject: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::Input { kind, subject: subject.to_string(), problem: problem.to_string() }
    }

    /// The value of the setting or argument `field` is wrong.
    pub fn setting(field: &'static str, problem: impl fmt::Display) -> Self {
        Self::Setting { field, problem: problem.to_string() }
    }

    /// A file could not be read or written.
    pub fn io(path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io { path: path.as_ref().display().to_string(), source }
    }

    /// The check named `check` did not hold.
    pub fn check(check: &'static str, problem: impl fmt::Display) -> Self {
        Self::Check { check, problem: problem.to_string() }
    }

    /// A fault of ours.
    pub fn internal(problem: impl fmt::Display) -> Self {
        Self::Internal(problem.to_string())
    }

    /// 1: a check or gate failed; 2: the input or the usage is wrong; 3: an internal fault; 130: interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Check { .. } => 1,
            Self::Input { .. } | Self::Setting { .. } | Self::Io { .. } => 2,
            Self::Internal(_) => 3,
            Self::Interrupted => 130,
        }
    }
}

impl From<candle_core::Error> for Error {
    fn from(e: candle_core::Error) -> Self {
        Self::Internal(e.to_string())
    }
}

/// A name that comes from a file, made fit for a terminal: [`shortened`] to 120 characters.
pub fn printable(text: &str) -> String {
    shortened(text, 120)
}

/// Other people's text, made fit for a line of a terminal: quotes and control characters escaped, at most `most`
/// characters of it.
pub fn shortened(text: &str, most: usize) -> String {
    let mut out: String = text.chars().take(most).flat_map(char::escape_debug).collect();
    if text.chars().nth(most).is_some() {
        out.push('…');
    }
    out
}

/// Text of our own with other people's names in it, made fit for a terminal: control characters but line breaks escaped.
pub fn without_controls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(without_controls("a\u{1b}[31m\nb\u{7}"), "a\\u{1b}[31m\nb\\u{7}");
        assert_eq!(printable("a\n\"b\""), "a\\n\\\"b\\\"");
        assert_eq!(shortened("abcd", 3), "abc…");
    }

    #[test]
    fn callers_can_tell_errors_apart() {
        let e = Error::setting("epochs", "must be at least 1");
        assert!(matches!(e, Error::Setting { field: "epochs", .. }));
        assert_eq!((e.to_string().as_str(), e.exit_code()), ("epochs: must be at least 1", 2));
        let e = Error::images("a.png", "is empty");
        assert!(matches!(e, Error::Input { kind: InputKind::Images, .. }));
        let codes = [Error::check("structure", ""), Error::internal(""), Error::Interrupted];
        assert_eq!(codes.map(|e| e.exit_code()), [1, 3, 130]);
    }
}
