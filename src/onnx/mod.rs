//! The file: what it holds, read without trusting it, and edits that leave every other byte as it was.

pub mod model;
pub mod tensor;
