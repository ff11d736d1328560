//! Folders of data sets that hold `train`, `test` and the like: one of them must be chosen.

use std::path::Path;

use super::listed::{entries, looks_like_image};
use crate::{Error, Result};

/// Names of the parts of a data set.
const PARTS: &[&str] =
    &["train", "training", "test", "testing", "val", "valid", "validation", "eval", "dev", "train2", "extra"];

fn parts(path: &Path) -> Vec<String> {
    let Ok(found) = entries(path) else { return Vec::new() };
    let is_part = |name: &String| PARTS.contains(&name.to_lowercase().as_str());
    let folders: Vec<String> =
        found.iter().filter(|(_, is_folder)| *is_folder).map(|(n, _)| n.clone()).collect();
    let images = found.iter().any(|(name, is_folder)| !is_folder && looks_like_image(Path::new(name)));
    // a class may be called "train": parts hold folders
    let deep =
        |name: &String| entries(&path.join(name)).is_ok_and(|below| below.iter().any(|(_, folder)| *folder));
    if images || !folders.iter().all(is_part) || !folders.iter().any(deep) { Vec::new() } else { folders }
}

/// Whether `path` holds nothing but the parts of a data set.
pub(super) fn recognises(path: &Path) -> bool {
    !parts(path).is_empty()
}

/// # Errors
/// Always: the parts, one of which is to be given.
pub(super) fn refuse<T>(path: &Path) -> Result<T> {
    let parts: Vec<String> = parts(path).iter().map(|name| path.join(name).display().to_string()).collect();
    let problem =
        format!("holds the parts of a data set, not its classes; give one of them: {}", parts.join(" or "));
    Err(Error::images(path.display(), problem))
}
