//! Folders of data sets that hold `train`, `test` and the like, or files of arrays: one of them must be chosen.

use std::path::Path;

use super::{
    ArrayFile, cifar,
    listed::{entries, looks_like_image},
};
use crate::{Error, Result};

/// Names of the parts of a data set.
const PARTS: &[&str] =
    &["train", "training", "test", "testing", "val", "valid", "validation", "eval", "dev", "extra"];

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

/// Files of arrays in a folder without images and folders.
fn arrays(path: &Path) -> Vec<String> {
    let Ok(found) = entries(path) else { return Vec::new() };
    let is_image = |(name, is_folder): &(String, bool)| *is_folder || looks_like_image(Path::new(name));
    if found.iter().any(is_image) {
        return Vec::new();
    }
    let at = |name: &String| path.join(name);
    let is_array = |name: &String| ArrayFile::recognises(&at(name)) || cifar::recognises(&at(name));
    found.into_iter().map(|(name, _)| name).filter(is_array).collect()
}

/// Whether folders of these names are parts of a data set, not classes.
pub(super) fn are_parts<'n>(mut names: impl Iterator<Item = &'n str>) -> bool {
    let mut any = false;
    let part = |name: &str| PARTS.contains(&name.to_lowercase().as_str());
    names.all(|name| {
        any = true;
        part(name)
    }) && any
}

/// Whether `path` holds nothing but the parts of a data set, or files of arrays.
pub(super) fn recognises(path: &Path) -> bool {
    path.is_dir() && (!parts(path).is_empty() || !arrays(path).is_empty())
}

/// # Errors
/// Always: the parts, one of which is to be given.
pub(super) fn refuse<T>(path: &Path) -> Result<T> {
    let (mut names, mut what) = (parts(path), "the parts of a data set, not its classes");
    if names.is_empty() {
        (names, what) = (arrays(path), "files of arrays");
    }
    let paths: Vec<String> =
        names.iter().take(12).map(|name| path.join(name).display().to_string()).collect();
    Err(Error::images(path.display(), format!("holds {what}; give one of them: {}", paths.join(" or "))))
}
