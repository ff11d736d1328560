//! Versions of this program and its components.

use std::collections::BTreeMap;

use super::outcome::Environment;
use crate::kernels;

/// The lock file of the build.
const LOCK: &str = include_str!("../../Cargo.lock");

/// Components whose version can change a number in a report.
const COMPONENTS: [&str; 5] = ["candle-core", "candle-nn", "gemm", "png", "tract-onnx"];

/// The environment as reported.
pub fn environment() -> Environment {
    let mut versions = BTreeMap::from([("polarizer".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
    for name in COMPONENTS {
        if let Some(version) = locked(name) {
            versions.insert(name.to_owned(), version.to_owned());
        }
    }
    Environment { versions, cpu: kernels::cpu_path().to_owned(), threads: rayon::current_num_threads() }
}

fn locked(name: &str) -> Option<&'static str> {
    let mut lines = LOCK.lines();
    lines.find(|line| line.strip_prefix("name = \"").and_then(|l| l.strip_suffix('"')) == Some(name))?;
    lines.next()?.strip_prefix("version = \"")?.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_is_in_the_lock_file() {
        for name in COMPONENTS {
            assert!(locked(name).is_some_and(|v| v.contains('.')), "{name}");
        }
        assert_eq!(locked("no-such-crate"), None);
    }
}
