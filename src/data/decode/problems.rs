//! What is wrong with a damaged file, in the same words for every format.

pub const CUT: &str = "is cut short: the file ends before its image does";
pub const LACKS: &str = "is damaged: a part of its image data is missing";
