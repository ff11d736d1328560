//! Images on disk in any format: the list of formats, and the choice among them.

use std::path::Path;

use super::{ArrayFile, Folder, Listed, Role, Source, ZipFolder, cifar, gtsrb, splits, tiny_imagenet};
use crate::Result;

/// A format of images on disk. Adding one is one file and one line of [`FORMATS`].
struct Format {
    /// Whether a path is in this format, by its name and kind alone.
    recognises: fn(&Path) -> bool,
    open: fn(&Path, Role) -> Result<Box<dyn Source>>,
}

/// All formats; the first that recognises a path opens it. Folders are last: their errors say what is expected.
const FORMATS: &[Format] = &[
    Format {
        recognises: ArrayFile::recognises,
        open: |path, role| Ok(Box::new(ArrayFile::open(path, role)?)),
    },
    Format { recognises: cifar::recognises, open: cifar::open },
    Format { recognises: gtsrb::recognises, open: gtsrb::open },
    Format { recognises: tiny_imagenet::recognises, open: tiny_imagenet::open },
    Format { recognises: splits::recognises, open: |path, _| splits::refuse(path) },
    Format { recognises: Listed::is_table, open: |path, _| Ok(Box::new(Listed::beside_table(path)?)) },
    Format {
        recognises: ZipFolder::recognises,
        open: |path, role| Ok(Box::new(ZipFolder::open(path, role)?)),
    },
    Format { recognises: |_| true, open: folder },
];

fn folder(path: &Path, role: Role) -> Result<Box<dyn Source>> {
    Ok(Box::new(match role {
        Role::Clean => Folder::clean(path)?,
        Role::Triggered => Folder::triggered(path)?,
    }))
}

/// The images at `path`.
///
/// # Errors
/// What the format refuses: for a folder as [`Folder::clean`] and [`Folder::triggered`].
pub fn open(path: &Path, role: Role) -> Result<Box<dyn Source>> {
    let format = FORMATS.iter().find(|format| (format.recognises)(path));
    format.map_or_else(|| folder(path, role), |format| (format.open)(path, role))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_opened_for_its_role() {
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/images");
        for (name, role) in [("clean", Role::Clean), ("triggered", Role::Triggered)] {
            let source = open(&images.join(name), role).unwrap();
            assert!(source.is_labelled() && source.count() > 100, "{name}");
        }
        assert!(open(&images.join("none"), Role::Clean).is_err());
    }
}
