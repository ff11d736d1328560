//! What several test files need.
#![allow(dead_code)] // each test file uses its part

use std::path::{Path, PathBuf};

/// A file or folder of the development data beside the checkout (`../shared`); None, with a line that says so, where
/// it is missing. With CI=true its absence fails the test: a run that skips is no proof.
pub fn shared(path: &str) -> Option<PathBuf> {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if full.exists() {
        return Some(full);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "CI needs {}", full.display());
    println!("ignored: needs {}", full.display());
    None
}
