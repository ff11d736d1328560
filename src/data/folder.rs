//! A folder of images: `<class>/<file>`, or files alone.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rayon::prelude::*;

use super::{Classes, Images, Resize, Target, decode, limits, nearest, resize};
use crate::{Error, Result, error::printable};

/// What a folder holds, before any image is read. Class folders and files are in the order of their names as bytes.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    classes: Vec<(String, Vec<PathBuf>)>,
    flat: Vec<PathBuf>,
}

impl Folder {
    /// A folder of clean images: class folders, at least two, none empty; or image files alone, unlabelled.
    ///
    /// # Errors
    /// The folder cannot be listed, holds neither, holds both, has an empty class folder, one class only, a file that is
    /// not named like an image, or a folder inside a class folder. Hidden files and folders are passed over.
    pub fn clean(path: &Path) -> Result<Self> {
        let folder = Self::open(path)?;
        if let Some((name, _)) = folder.classes.iter().find(|(_, files)| files.is_empty()) {
            return Err(Error::invalid(path.join(name).display(), "class folder without images"));
        }
        if folder.classes.len() == 1 {
            let problem =
                format!("one class only (\"{}\"); at least two are needed", printable(&folder.classes[0].0));
            return Err(Error::invalid(path.display(), problem));
        }
        Ok(folder)
    }

    /// A folder of triggered images in folders named by their true class. It may lack classes.
    ///
    /// # Errors
    /// As [`clean`](Self::clean), but for the classes that it lacks; files without class folders.
    pub fn triggered(path: &Path) -> Result<Self> {
        let folder = Self::open(path)?;
        if !folder.is_labelled() {
            let problem = "no class folders; triggered images stand in folders named by their true class";
            return Err(Error::invalid(path.display(), problem));
        }
        Ok(folder)
    }

    fn open(path: &Path) -> Result<Self> {
        let mut folder = Self { path: path.to_owned(), classes: Vec::new(), flat: Vec::new() };
        let mut count = 0;
        for (name, at) in entries(path)? {
            // follows a link, so a class folder may be one
            let meta = fs::metadata(&at).map_err(|e| Error::io(&at, e))?;
            if meta.is_dir() {
                let name = name.ok_or_else(|| Error::invalid(at.display(), "class name is not UTF-8"))?;
                let mut files = Vec::new();
                for (_, file) in entries(&at)? {
                    if fs::metadata(&file).map_err(|e| Error::io(&file, e))?.is_dir() {
                        let problem = "a folder inside a class folder; <class>/<file> is expected";
                        return Err(Error::invalid(file.display(), problem));
                    }
                    files.push(image_name(file)?);
                }
                count += files.len();
                folder.classes.push((name, files));
            } else {
                folder.flat.push(image_name(at)?);
                count += 1;
            }
            if count > limits::FILES {
                return Err(Error::invalid(path.display(), format!("more than {} images", limits::FILES)));
            }
        }
        if let (Some(file), false) = (folder.flat.first(), folder.classes.is_empty()) {
            let problem = "an image beside class folders; either all images stand in class folders or none";
            return Err(Error::invalid(file.display(), problem));
        }
        if count == 0 && folder.classes.iter().all(|(_, files)| files.is_empty()) {
            let problem = "no images (PNG or JPEG, in one folder a class)";
            return Err(Error::invalid(path.display(), problem));
        }
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True where images stand in class folders.
    pub fn is_labelled(&self) -> bool {
        !self.classes.is_empty()
    }

    /// How many images.
    pub fn len(&self) -> usize {
        self.flat.len() + self.classes.iter().map(|(_, files)| files.len()).sum::<usize>()
    }

    /// False: a folder without images is not made.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of its class folders, sorted as bytes: the class order, where nothing else gives it.
    pub fn classes(&self) -> Classes {
        Classes(self.classes.iter().map(|(name, _)| name.clone()).collect())
    }

    /// Every image, brought to `target`, labelled by its folder's position in `classes`. All cores decode; the order is
    /// the folder's.
    ///
    /// # Errors
    /// A class folder that is not among `classes`, an image that cannot be read or has another size where `target` does
    /// not resize, sizes that differ where `target` has none; each with the file's name.
    pub fn load(&self, classes: &Classes, target: &Target) -> Result<Images> {
        let mut images = Images::default();
        for (name, files) in &self.classes {
            let label = classes.position(name).ok_or_else(|| {
                let hint = nearest(name, classes.0.iter().map(String::as_str));
                let problem = format!("not one of the {} classes{hint}", classes.len());
                Error::invalid(self.path.join(name).display(), problem)
            })?;
            images.files.extend(files.iter().cloned());
            images.labels.resize(images.files.len(), label);
        }
        images.files.extend(self.flat.iter().cloned());

        let mut target = *target;
        // a portion at a time: what is decoded and not yet copied stays small, and an error ends it early
        for files in images.files.chunks(256) {
            let pictures: Vec<_> = files.par_iter().map(|f| decode::read(f, target.channels)).collect();
            let mut decoded = Vec::with_capacity(files.len());
            for (file, picture) in files.iter().zip(pictures) {
                let picture = picture?;
                let size = *target.size.get_or_insert(picture.size);
                if picture.size != size && target.resize == Resize::Never {
                    let ([h, w], [th, tw]) = (picture.size, size);
                    let problem =
                        format!("is {h}x{w}, but {th}x{tw} is expected; --size or --preset would resize it");
                    return Err(Error::invalid(file.display(), problem));
                }
                decoded.push(picture);
            }
            let Some(size) = target.size else { continue };
            images.shape = [target.channels, size[0], size[1]];
            let total = images.numel().saturating_mul(images.files.len());
            if total > limits::TOTAL_BYTES {
                let problem = format!(
                    "{} images of {}x{} take {} MiB; at most {} are held in memory",
                    images.files.len(),
                    size[0],
                    size[1],
                    total >> 20,
                    limits::TOTAL_BYTES >> 20
                );
                return Err(Error::invalid(self.path.display(), problem));
            }
            let planes: Vec<Vec<u8>> = decoded
                .into_par_iter()
                .map(|p| planes(&resize::fit(p, size, target.resize).bytes, target.channels))
                .collect();
            images.bytes.reserve_exact(total - images.bytes.len());
            planes.iter().for_each(|p| images.bytes.extend_from_slice(p));
        }
        Ok(images)
    }
}

/// (h, w, c) to (c, h, w).
fn planes(bytes: &[u8], channels: usize) -> Vec<u8> {
    (0..channels).flat_map(|c| bytes.iter().skip(c).step_by(channels)).copied().collect()
}

/// What a folder lists, hidden entries left out, in the order of the names as bytes. A name is None where it is not
/// UTF-8.
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
            return Err(Error::invalid(path.display(), format!("more than {} entries", limits::FILES)));
        }
    }
    out.sort_by(|a, b| a.as_encoded_bytes().cmp(b.as_encoded_bytes()));
    Ok(out.into_iter().map(|name| (name.to_str().map(str::to_owned), path.join(&name))).collect())
}

fn image_name(file: PathBuf) -> Result<PathBuf> {
    let extension = file.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    match extension.as_deref() {
        Some("png" | "jpg" | "jpeg") => Ok(file),
        _ => Err(Error::invalid(file.display(), "not an image; .png, .jpg and .jpeg files are expected")),
    }
}
