//! Errors. Each names its subject (file, node or field), what was found and what was expected. Its variant determines
//! the exit code of the command.

use std::{fmt, io, path::Path};

/// Result of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the library. [`Error::exit_code`] maps it to the exit code of the command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An invalid or unsupported input.
    #[error("{subject}: {problem}")]
    #[non_exhaustive]
    Input {
        /// Kind of input.
        kind: InputKind,
        /// The input, escaped for printing: `model.onnx`, `node "conv1" (Conv)`.
        subject: String,
        /// What was found, and what was expected.
        problem: String,
    },
    /// A setting or argument that is out of range, or inconsistent with others or with the input.
    #[error("{field}: {problem}")]
    #[non_exhaustive]
    Setting {
        /// Name of the setting or argument: `epochs`, `site`, `images`. In `problem`, names of others are in
        /// backquotes.
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
        /// Error of the system.
        source: io::Error,
    },
    /// A check or gate failed.
    #[error("check failed: {check}: {problem}")]
    #[non_exhaustive]
    Check {
        /// Its stable name: `parity-original`, `parity-purified`, `structure`, ...
        check: &'static str,
        /// What was found, and what was expected.
        problem: String,
    },
    /// The run was interrupted by its observer.
    #[error("interrupted")]
    Interrupted,
    /// A bug in this crate or one of its dependencies.
    #[error("internal fault: {0}")]
    Internal(String),
}

/// Kinds of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InputKind {
    /// A model file or a part of it.
    Model,
    /// Images, their folders, labels or class names.
    Images,
    /// Another file: an output, a layer file.
    File,
}

impl Error {
    /// An [`Error::Input`] about a file that is neither model nor image.
    pub fn invalid(subject: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::input(InputKind::File, subject, problem)
    }

    /// An [`Error::Input`] about a model or a part of it.
    pub fn model(subject: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::input(InputKind::Model, subject, problem)
    }

    /// An [`Error::Input`] about images, their folders, labels or class names.
    pub fn images(subject: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::input(InputKind::Images, subject, problem)
    }

    /// An [`Error::Input`] of this kind.
    pub fn input(kind: InputKind, subject: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::Input { kind, subject: subject.to_string(), problem: problem.to_string() }
    }

    /// An [`Error::Setting`] about the setting or argument `field`.
    pub fn setting(field: &'static str, problem: impl fmt::Display) -> Self {
        Self::Setting { field, problem: problem.to_string() }
    }

    /// An [`Error::Io`] about `path`.
    pub fn io(path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io { path: path.as_ref().display().to_string(), source }
    }

    /// An [`Error::Check`]: `check` failed.
    pub fn check(check: &'static str, problem: impl fmt::Display) -> Self {
        Self::Check { check, problem: problem.to_string() }
    }

    /// An [`Error::Internal`].
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

/// Escapes a name from a file for printing: [`shortened`] to 120 characters.
pub(crate) fn printable(text: &str) -> String {
    shortened(text, 120)
}

/// Escapes untrusted text for one line of a terminal: quotes and control characters escaped, truncated to `most`
/// characters.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    let mut out: String = text.chars().take(most).flat_map(char::escape_debug).collect();
    if text.chars().nth(most).is_some() {
        out.push('…');
    }
    out
}

/// Escapes the control characters of a message except line breaks.
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
