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

/// A layer that changes nothing but for rounding.
pub fn identity_layer(channels: usize) -> polarizer::internals::layer::Layer {
    let mut weight = vec![0.0; channels * channels];
    weight.iter_mut().step_by(channels + 1).for_each(|w| *w = 1.0);
    let all = |value: f32| vec![value; channels];
    polarizer::internals::layer::Layer {
        channels,
        weight,
        scale: all(1.0),
        bias: all(0.0),
        mean: all(0.0),
        var: all(1.0),
        epsilon: 1e-5,
    }
}
