//! What can be wrong with a JPEG file.

use std::fmt;

use super::super::problems;

/// What is wrong with a file.
#[derive(Debug)]
pub enum Damage {
    Cut,
    Lacks,
    Surplus,
    Code,
    Scans,
    Order,
    Table,
    Header,
    NoPixels,
    ManyScans,
    /// Too large.
    Limit(String),
    /// Valid, but not read here.
    Unsupported(String),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cut => problems::CUT,
            Self::Lacks => problems::LACKS,
            Self::Surplus => "is damaged: its image ends before its image data does",
            Self::Code => problems::CODE,
            Self::Scans => "is damaged: the last scans of a progressive JPEG file are missing",
            Self::Order => "is damaged: its scans are out of order",
            Self::Table => "is damaged: a table of its JPEG header is missing",
            Self::Header => "is damaged: its JPEG header is malformed",
            Self::NoPixels => "has no pixels",
            Self::ManyScans => "is a JPEG file of more scans than any encoder writes",
            Self::Limit(problem) => problem,
            Self::Unsupported(what) => {
                return write!(f, "is {what}, which is not read; convert it to a plain JPEG or PNG file");
            }
        })
    }
}
