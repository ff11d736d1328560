//! A folder of images: `<class>/<file>`, or files only.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rayon::prelude::*;

use super::{
    Classes, Images, Picture, Source, Target,
    decode::{self, Stamp},
    limits, listing, nearest,
};
use crate::{Error, Result, error::printable};

/// The listing of an image folder; no image is read yet. Class folders and files are sorted by their names as bytes.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    /// Every image file, class folder by class folder, and what it was when it was listed; None: no regular file.
    files: Vec<(PathBuf, Option<Stamp>)>,
    /// Each class folder; empty without class folders.
    classes: Vec<Class>,
    passed_over: usize,
}

/// A class folder.
#[derive(Clone, Debug)]
struct Class {
    name: String,
    /// Number of images.
    files: usize,
    passed_over: usize,
}

impl Folder {
    /// Lists a folder of clean images: at least two non-empty class folders, or unlabelled image files. Folders in a
    /// class folder belong to the class. Hidden files and folders are passed over, and files without an image's ending.
    ///
    /// # Errors
    /// The folder cannot be listed; it has no images, or images beside class folders; an empty or single class folder.
    pub fn clean(path: &Path) -> Result<Self> {
        let folder = Self::open(path)?;
        if let Some(class) = folder.classes.iter().find(|class| class.files == 0) {
            let also = listing::also_passed_over(class.passed_over);
            let problem = format!("class folder without images{also}; remove it, or put its images into it");
            return Err(Error::images(path.join(&class.name).display(), problem));
        }
        if let [one] = folder.classes.as_slice() {
            let name = printable(&one.name);
            let problem = format!("only one class (\"{name}\"), but at least two are needed");
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
        let mut top = Listing::default();
        top.read(path)?;
        let mut files = Vec::new();
        let mut classes = Vec::new();
        let mut passed_over = top.passed_over;
        let below: Vec<_> = top.folders.par_iter().map(|folder| class(path, folder)).collect();
        for class in below {
            let (class, mut found) = class?;
            passed_over += class.passed_over;
            classes.push(class);
            files.append(&mut found);
            within_limit(path, files.len())?;
        }
        if let (Some(file), false) = (top.files.first(), classes.is_empty()) {
            let problem = "is an image next to class folders; put all images into class folders, or none";
            return Err(Error::images(file.display(), problem));
        }
        files.append(&mut top.files);
        if files.is_empty() {
            let also = listing::also_passed_over(passed_over);
            let problem = format!("no images; expected {} in one folder per class{also}", listing::EXPECTED);
            return Err(Error::images(path.display(), problem));
        }
        // links are followed; what is no file is an error when it is read
        let stamp = |file: &Path| fs::metadata(file).ok().filter(|m| m.is_file()).map(|m| Stamp::of(&m));
        let stamped = |file: PathBuf| (stamp(&file), file);
        let files = files.into_par_iter().map(stamped).map(|(stamp, file)| (file, stamp)).collect();
        Ok(Self { path: path.to_owned(), files, classes, passed_over })
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
        Classes(self.classes.iter().map(|class| class.name.clone()).collect())
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
        self.files[row].0.display().to_string()
    }

    fn classes(&self) -> Option<Classes> {
        self.is_labelled().then(|| Folder::classes(self))
    }

    fn labels(&self, classes: &Classes) -> Result<Option<Vec<u32>>> {
        let mut labels = Vec::new();
        for Class { name, files, .. } in &self.classes {
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
        let (file, listed) = &self.files[row];
        decode::read(file, listed.as_ref())
    }

    fn memory(&self) -> usize {
        self.files.iter().map(|(file, _)| size_of::<(PathBuf, Option<Stamp>)>() + file.capacity()).sum()
    }

    fn passed_over(&self) -> usize {
        self.passed_over
    }
}

/// Entries of a folder, and of the folders in it if they are asked for.
#[derive(Default)]
struct Listing {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    passed_over: usize,
}

impl Listing {
    /// Adds the entries of `path`, sorted by their names as bytes.
    fn read(&mut self, path: &Path) -> Result<()> {
        let (files, folders) = (self.files.len(), self.folders.len());
        for entry in fs::read_dir(path).map_err(|e| Error::io(path, e))? {
            let entry = entry.map_err(|e| Error::io(path, e))?;
            let name = entry.file_name();
            if listing::is_hidden(name.as_encoded_bytes()) {
                self.passed_over += 1;
                continue;
            }
            let kind = entry.file_type().map_err(|e| Error::io(entry.path(), e))?;
            // a link may lead to a folder; one that leads nowhere is an image that cannot be read, if its name is one
            let is_folder = kind.is_dir() || kind.is_symlink() && entry.path().is_dir();
            if is_folder {
                if kind.is_symlink() {
                    leads_on(&entry.path(), path)?;
                }
                self.folders.push(entry.path());
            } else if listing::is_image(name.as_encoded_bytes()) {
                self.files.push(entry.path());
            } else {
                self.passed_over += 1;
            }
            within_limit(path, self.files.len() + self.folders.len())?;
        }
        let by_bytes =
            |a: &PathBuf, b: &PathBuf| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes());
        self.files[files..].sort_by(by_bytes);
        self.folders[folders..].sort_by(by_bytes);
        Ok(())
    }
}

/// All images of the class folder `folder` and of the folders in it.
fn class(root: &Path, folder: &Path) -> Result<(Class, Vec<PathBuf>)> {
    let name = folder.strip_prefix(root).ok().and_then(Path::to_str).map(str::to_owned);
    let name = name.ok_or_else(|| Error::images(folder.display(), "class name is not UTF-8"))?;
    let mut all = Listing::default();
    let mut level = vec![folder.to_owned()];
    for _ in 0..=listing::DEPTH {
        for folder in std::mem::take(&mut level) {
            all.read(&folder)?;
        }
        level.append(&mut all.folders);
        if level.is_empty() {
            let class = Class { name, files: all.files.len(), passed_over: all.passed_over };
            return Ok((class, all.files));
        }
    }
    Err(Error::images(folder.display(), format!("has folders more than {} deep", listing::DEPTH)))
}

/// Refuses a link in `folder` that leads to the folder itself or one above it.
fn leads_on(link: &Path, folder: &Path) -> Result<()> {
    let real = |path: &Path| fs::canonicalize(path).map_err(|e| Error::io(path, e));
    if real(folder)?.starts_with(real(link)?) {
        return Err(Error::images(link.display(), "is a link to a folder above it; remove it"));
    }
    Ok(())
}

fn within_limit(path: &Path, images: usize) -> Result<()> {
    if images > limits::FILES {
        return Err(Error::images(path.display(), format!("more than {} images", limits::FILES)));
    }
    Ok(())
}
