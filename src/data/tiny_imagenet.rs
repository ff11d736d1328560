//! Tiny ImageNet as it is downloaded: `train/<wnid>/images/<file>`, and `val/images/<file>` with `val_annotations.txt`.
//!
//! Classes stand in the order of their wnids, as torchvision's `ImageFolder` sorts the training folders; `wnids.txt`
//! has another order, in which networks are not trained.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::{
    Classes, Role, Source,
    listed::{Labels, Listed, entries, looks_like_image},
    table::{self, Table},
};
use crate::{Error, Result, error::printable};

const IMAGES: &str = "images";
const ANNOTATIONS: &str = "val_annotations.txt";

/// Whether `path` is the folder of one of its parts.
pub(super) fn recognises(path: &Path) -> bool {
    validation(path).is_some() || is_train(path)
}

/// # Errors
/// A class folder without its images, annotations that do not fit the images.
pub(super) fn open(path: &Path, _: Role) -> Result<Box<dyn Source>> {
    let mut listed = match validation(path) {
        Some((images, annotations)) => annotated(&images, &annotations)?,
        None => train(path)?,
    };
    if let Labels::Named(classes, _) = &mut listed.labels
        && let Some(words) =
            path.ancestors().skip(1).take(2).map(|at| at.join("words.txt")).find(|at| at.is_file())
    {
        with_words(classes, &words)?;
    }
    listed.name = path.display().to_string();
    Ok(Box::new(listed))
}

/// The validation images and their annotations.
fn validation(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let root = if path.ends_with(IMAGES) { path.parent()? } else { path };
    let (images, annotations) = (root.join(IMAGES), root.join(ANNOTATIONS));
    (images.is_dir() && annotations.is_file()).then_some((images, annotations))
}

/// Whether the first of the class folders holds a folder of images and none beside it.
fn is_train(path: &Path) -> bool {
    let Ok(found) = entries(path) else { return false };
    let Some((first, _)) = found.iter().find(|(_, is_folder)| *is_folder) else { return false };
    let class = path.join(first);
    let beside = |(name, is_folder): &(String, bool)| {
        if *is_folder { name != IMAGES } else { looks_like_image(Path::new(name)) }
    };
    class.join(IMAGES).is_dir() && entries(&class).is_ok_and(|found| !found.iter().any(beside))
}

fn train(path: &Path) -> Result<Listed> {
    let mut files = Vec::new();
    let mut names = Vec::new();
    let mut passed_over = 0;
    for (class, is_folder) in entries(path)? {
        if !is_folder {
            passed_over += 1;
            continue;
        }
        let images = path.join(&class).join(IMAGES);
        passed_over += entries(&path.join(&class))?.iter().filter(|(_, is_folder)| !is_folder).count();
        let before = files.len();
        let found = entries(&images)?;
        let taken = found.iter().filter(|(name, is_folder)| !is_folder && looks_like_image(Path::new(name)));
        files.extend(taken.map(|(name, _)| images.join(name)));
        passed_over += found.len() - (files.len() - before);
        if files.len() == before {
            return Err(Error::images(images.display(), "class folder without images"));
        }
        names.resize(files.len(), class);
    }
    let labels = Labels::named(names.iter().map(String::as_str));
    Ok(Listed::of(String::new(), files, labels, passed_over, Vec::new()))
}

/// Lines of a file, a wnid and a box.
fn annotated(images: &Path, annotations: &Path) -> Result<Listed> {
    let invalid = |problem: String| Error::images(annotations.display(), problem);
    let rows = Table::read(annotations)?.rows;
    let found = entries(images)?;
    let known: HashMap<&str, usize> = (0..).zip(&found).map(|(at, (name, _))| (name.as_str(), at)).collect();
    let mut wnids = vec![None; found.len()];
    for row in &rows {
        let [file, wnid, ..] = &row[..] else {
            return Err(invalid("expected lines of a file, a wnid and a box, between tabs".into()));
        };
        let at = known.get(file.as_str());
        let at =
            at.ok_or_else(|| invalid(format!("\"{}\" is not in {}", printable(file), images.display())))?;
        wnids[*at] = Some(wnid.as_str());
    }
    let labelled = || found.iter().zip(&wnids).filter_map(|((name, _), wnid)| Some((name, (*wnid)?)));
    let files: Vec<PathBuf> = labelled().map(|(name, _)| images.join(name)).collect();
    if files.is_empty() {
        return Err(invalid("lists no images".into()));
    }
    let names: Vec<&str> = labelled().map(|(_, wnid)| wnid).collect();
    let passed_over = found.len() - files.len();
    let labels = Labels::named(names.into_iter());
    Ok(Listed::of(String::new(), files, labels, passed_over, Vec::new()))
}

/// Puts the words of `words.txt` (a wnid, a tab, words) behind the wnids.
fn with_words(classes: &mut Classes, words: &Path) -> Result<()> {
    let text = table::text(words)?;
    let words: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once('\t')).collect();
    for name in &mut classes.0 {
        if let Some(words) = words.get(name.as_str()) {
            name.push(' ');
            name.push_str(words.trim());
        }
    }
    Ok(())
}
