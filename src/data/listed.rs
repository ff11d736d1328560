//! [`Listed`]: image files with labels from elsewhere than their folders' names.

use std::{
    fs::{self, Metadata},
    path::{Path, PathBuf},
};

use rayon::prelude::*;

use super::{
    Classes, Picture, Source,
    decode::{self, Stamp},
    limits, listing, nearest,
};
use crate::{Error, Result, error::printable};

/// Image files and their labels.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Name in messages.
    pub(super) name: String,
    files: Vec<PathBuf>,
    /// What each file was when it was listed; None for what is no file, which says so when it is read.
    stamps: Vec<Option<Stamp>>,
    pub(super) labels: Labels,
    /// Files that are not used.
    pub(super) passed_over: usize,
    pub(super) notes: Vec<String>,
}

/// Labels of files.
#[derive(Clone, Debug)]
pub(super) enum Labels {
    /// Class indices.
    Indices(Vec<u32>),
    /// Positions among classes that have names.
    Named(Classes, Vec<u32>),
}

impl Labels {
    /// Labels by name; the classes stand in the order of their names as bytes, as folders do.
    pub(super) fn named<'n>(names: impl Iterator<Item = &'n str> + Clone) -> Self {
        let mut classes: Vec<&str> = names.clone().collect();
        classes.sort_unstable();
        classes.dedup();
        let position = |name: &str| classes.binary_search(&name).unwrap_or_default() as u32;
        let labels = names.map(position).collect();
        Self::Named(Classes(classes.into_iter().map(str::to_owned).collect()), labels)
    }
}

impl Listed {
    /// These files, as many as labels.
    pub(super) fn of(
        name: String,
        files: Vec<PathBuf>,
        labels: Labels,
        passed_over: usize,
        notes: Vec<String>,
    ) -> Self {
        let stamp = |file: &PathBuf| fs::metadata(file).ok().filter(Metadata::is_file).map(|m| Stamp::of(&m));
        let stamps = files.par_iter().map(stamp).collect();
        Self { name, files, stamps, labels, passed_over, notes }
    }
}

impl Source for Listed {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn count(&self) -> usize {
        self.files.len()
    }

    fn row_name(&self, row: usize) -> String {
        self.files[row].display().to_string()
    }

    fn classes(&self) -> Option<Classes> {
        match &self.labels {
            Labels::Indices(_) => None,
            Labels::Named(classes, _) => Some(classes.clone()),
        }
    }

    fn labels(&self, classes: &Classes) -> Result<Option<Vec<u32>>> {
        match &self.labels {
            Labels::Indices(labels) => classes.of_indices(labels, |row| self.row_name(row)).map(Some),
            Labels::Named(own, labels) => {
                let place = |name: &String| {
                    classes.position(name).ok_or_else(|| {
                        let hint = nearest(name, classes.0.iter().map(String::as_str));
                        let name = printable(name);
                        let problem = format!("class \"{name}\" is not one of the {}{hint}", classes.len());
                        Error::images(&self.name, problem)
                    })
                };
                let places = own.0.iter().map(place).collect::<Result<Vec<u32>>>()?;
                Ok(Some(labels.iter().map(|&label| places[label as usize]).collect()))
            }
        }
    }

    fn picture(&self, row: usize) -> Result<Picture> {
        decode::read(&self.files[row], self.stamps[row].as_ref())
    }

    fn memory(&self) -> usize {
        let each = size_of::<PathBuf>() + size_of::<Option<Stamp>>() + size_of::<u32>();
        self.files.iter().map(|file| file.as_os_str().len() + each).sum()
    }

    fn passed_over(&self) -> usize {
        self.passed_over
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn is_labelled(&self) -> bool {
        true
    }
}

/// Folders below folders that are looked into.
const DEPTH: usize = 12;

/// All files below `folder`, sorted, without hidden ones.
///
/// # Errors
/// A folder cannot be listed; too many files, or folders below folders.
pub(super) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    walk(folder, 0, &mut out)?;
    out.sort_unstable();
    Ok(out)
}

fn walk(folder: &Path, depth: usize, out: &mut Vec<PathBuf>) -> Result<()> {
    if depth > DEPTH {
        return Err(Error::images(folder.display(), format!("is more than {DEPTH} folders deep")));
    }
    for (name, is_folder) in entries(folder)? {
        let path = folder.join(&name);
        if is_folder {
            walk(&path, depth + 1, out)?;
        } else {
            out.push(path);
        }
        if out.len() > limits::FILES {
            return Err(Error::images(folder.display(), format!("more than {} files", limits::FILES)));
        }
    }
    Ok(())
}

/// Names in a folder that are UTF-8 and not hidden, sorted as bytes, each with whether it is a folder.
///
/// # Errors
/// The folder cannot be listed, or has too many entries.
pub(super) fn entries(folder: &Path) -> Result<Vec<(String, bool)>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if listing::is_hidden(name.as_bytes()) {
            continue;
        }
        let kind = entry.file_type().map_err(|e| Error::io(folder, e))?;
        let is_folder = if kind.is_symlink() { entry.path().is_dir() } else { kind.is_dir() };
        out.push((name, is_folder));
        if out.len() > limits::FILES {
            return Err(Error::images(folder.display(), format!("more than {} entries", limits::FILES)));
        }
    }
    out.sort_unstable();
    Ok(out)
}

/// Whether a file's name is that of an image.
pub(super) fn looks_like_image(path: &Path) -> bool {
    path.file_name().is_some_and(|name| listing::is_image(name.as_encoded_bytes()))
}
