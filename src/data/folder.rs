//! A folder of images: `<class>/<file>`, or files only.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Classes, Images, Picture, Source, Target, decode, limits, nearest};
use crate::{Error, Result, error::printable};

/// The listing of an image folder; no image is read yet. Class folders and files are sorted by their names as bytes.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    /// Every image file, class folder by class folder.
    files: Vec<PathBuf>,
    /// Name of each class folder and its number of files; empty without class folders.
    classes: Vec<(String, usize)>,
}

impl Folder {
    /// Lists a folder of clean images: at least two non-empty class folders, or unlabelled image files. Hidden files
    /// and folders are skipped.
    ///
    /// # Errors
    /// The folder cannot be listed; it has no images, or images beside class folders; an empty or single class folder;
    /// a file without an image's extension; a folder inside a class folder.
    pub fn clean(path: &Path) -> Result<Self> {
        let folder = Self::open(path)?;
        if let Some((name, _)) = folder.classes.iter().find(|(_, files)| *files == 0) {
            return Err(Error::images(path.join(name).display(), "class folder without images"));
        }
        if folder.classes.len() == 1 {
            let problem = format!(
                "only one class (\"{}\"), but at least two are needed",
                printable(&folder.classes[0].0)
            );
            return Err(Error::images(path.display(), problem));
        }
        Ok(folder)
    }

    /// Lists a folder of triggered images, in class folders named after their true class. Classes may be missing.
    ///
    /// # Errors
    /// As [`clean`](Self::clean), except for missing classes; images without class folders.
    pub fn triggered(path: &Path) -> Result<Self> {
        let folder = Self::open(path)?;
        if !folder.is_labelled() {
            let problem =
                "no class folders; triggered images must be in folders named after their true class";
            return Err(Error::images(path.display(), problem));
        }
        Ok(folder)
    }

    fn open(path: &Path) -> Result<Self> {
        let mut folder = Self { path: path.to_owned(), files: Vec::new(), classes: Vec::new() };
        let mut flat = Vec::new();
        for (name, at) in entries(path)? {
            // metadata follows links, so a class folder may be a link
            let meta = fs::metadata(&at).map_err(|e| Error::io(&at, e))?;
            if meta.is_dir() {
                let name = name.ok_or_else(|| Error::images(at.display(), "class name is not UTF-8"))?;
                let before = folder.files.len();
                for (_, file) in entries(&at)? {
                    if fs::metadata(&file).map_err(|e| Error::io(&file, e))?.is_dir() {
                        let problem = "is a folder inside a class folder, expected <class>/<file>";
                        return Err(Error::images(file.display(), problem));
                    }
                    folder.files.push(image_name(file)?);
                }
                folder.classes.push((name, folder.files.len() - before));
            } else {
                flat.push(image_name(at)?);
            }
            if folder.files.len() + flat.len() > limits::FILES {
                return Err(Error::images(path.display(), format!("more than {} images", limits::FILES)));
            }
        }
        if let (Some(file), false) = (flat.first(), folder.classes.is_empty()) {
            let problem = "is an image next to class folders; put all images into class folders, or none";
            return Err(Error::images(file.display(), problem));
        }
        folder.files.append(&mut flat);
        if folder.files.is_empty() {
            let problem = "no images; expected PNG or JPEG files in one folder per class";
            return Err(Error::images(path.display(), problem));
        }
        Ok(folder)
    }

    /// Path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True if images are in class folders.
    pub fn is_labelled(&self) -> bool {
        !self.classes.is_empty()
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Always false: a folder without images is an error.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names of the class folders, sorted as bytes: the default class order.
    pub fn classes(&self) -> Classes {
        Classes(self.classes.iter().map(|(name, _)| name.clone()).collect())
    }

    /// Reads all images, converted to `target` and labelled by their class's position in `classes`.
    ///
    /// # Errors
    /// A class folder that is not in `classes`; an image that cannot be read, or has another size and `target` does not
    /// resize. Each names the file.
    pub fn load(&self, classes: &Classes, target: &Target) -> Result<Images> {
        super::load(self, classes, target)
    }
}

/// Images are decoded in parallel; the order is that of the folder.
impl Source for Folder {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn count(&self) -> usize {
        self.len()
    }

    fn row_name(&self, row: usize) -> String {
        self.files[row].display().to_string()
    }

    fn classes(&self) -> Option<Classes> {
        self.is_labelled().then(|| Folder::classes(self))
    }

    fn labels(&self, classes: &Classes) -> Result<Option<Vec<u32>>> {
        let mut labels = Vec::new();
        for (name, files) in &self.classes {
            let label = classes.position(name).ok_or_else(|| {
                let hint = nearest(name, classes.0.iter().map(String::as_str));
                let problem = format!("not one of the {} classes{hint}", classes.len());
                Error::images(self.path.join(name).display(), problem)
            })?;
            labels.resize(labels.len() + files, label);
        }
        Ok(self.is_labelled().then_some(labels))
    }

    fn picture(&self, row: usize) -> Result<Picture> {
        decode::read(&self.files[row])
    }
}

/// Entries of a folder without hidden ones, sorted by name as bytes. A name is None if it is not UTF-8.
fn entries(path: &Path) -> Result<Vec<(Option<String>, PathBuf)>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(path).map_err(|e| Error::io(path, e))? {
        let name = entry.map_err(|e| Error::io(path, e))?.file_name();
        let bytes = name.as_encoded_bytes();
        if bytes.starts_with(b".") || [&b"Thumbs.db"[..], b"desktop.ini"].contains(&bytes) {
            continue;
        }
        out.push(name);
        if out.len() > limits::FILES {
            return Err(Error::images(path.display(), format!("more than {} entries", limits::FILES)));
        }
    }
    out.sort_by(|a, b| a.as_encoded_bytes().cmp(b.as_encoded_bytes()));
    Ok(out.into_iter().map(|name| (name.to_str().map(str::to_owned), path.join(&name))).collect())
}

fn image_name(file: PathBuf) -> Result<PathBuf> {
    let extension = file.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    match extension.as_deref() {
        Some("png" | "jpg" | "jpeg") => Ok(file),
        _ => Err(Error::images(file.display(), "not an image; expected .png, .jpg or .jpeg")),
    }
}
