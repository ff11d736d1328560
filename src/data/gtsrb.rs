//! GTSRB as it is downloaded: the official archives, torchvision's copy and Kaggle's.

use std::path::{Path, PathBuf};

use super::{Folder, Listed, Role, Source};
use crate::{Error, Result};

/// What a folder of GTSRB holds.
#[derive(Debug, Default)]
struct Parts {
    /// Class folders.
    train: Option<PathBuf>,
    /// A folder of images, and the table of their labels if it is there.
    test: Option<(PathBuf, Option<PathBuf>)>,
}

/// Whether `path` is a folder of GTSRB, above its images or the test images.
pub(super) fn recognises(path: &Path) -> bool {
    let parts = parts(path);
    parts.train.is_some() || parts.test.is_some()
}

/// The training images if only they are there, or the test images with the labels that their table gives.
///
/// # Errors
/// Both are there: one must be chosen; test images without their table; those of [`Folder`] and [`Listed`].
pub(super) fn open(path: &Path, role: Role) -> Result<Box<dyn Source>> {
    let invalid = |problem: String| Err(Error::images(path.display(), problem));
    match parts(path) {
        Parts { train: Some(train), test: Some((test, _)) } => invalid(format!(
            "holds GTSRB's training and test images; give one of them: {} or {}",
            train.display(),
            test.display()
        )),
        Parts { train: Some(train), .. } => Ok(Box::new(match role {
            Role::Clean => Folder::clean(&train)?,
            Role::Triggered => Folder::triggered(&train)?,
        })),
        Parts { test: Some((test, Some(table))), .. } => Ok(Box::new(Listed::by_table(&test, &table)?)),
        Parts { test: Some((test, None)), .. } => invalid(format!(
            "the labels of {} are in a file of their own, {TABLE} (GTSRB_Final_Test_GT.zip); put it beside the images",
            test.display()
        )),
        Parts { train: None, test: None } => invalid("is no folder of GTSRB".into()),
    }
}

/// The official table of the test images' classes.
const TABLE: &str = "GT-final_test.csv";

fn parts(path: &Path) -> Parts {
    let inner = path.join("GTSRB");
    [path, inner.as_path()].into_iter().fold(Parts::default(), |found, root| Parts {
        train: found.train.or_else(|| train(root)),
        test: found.test.or_else(|| test(root)),
    })
}

fn train(root: &Path) -> Option<PathBuf> {
    let below = |parts: &str| Some(root.join(parts)).filter(|at| at.join("00000").is_dir());
    let official = below("Final_Training/Images").or_else(|| below("Training"));
    let inside = || Some(root).filter(|at| at.ends_with("Final_Training")).and_then(|_| below("Images"));
    let kaggle = || Some(root.join("Train")).filter(|at| at.is_dir() && root.join("Train.csv").is_file());
    official.or_else(inside).or_else(kaggle)
}

fn test(root: &Path) -> Option<(PathBuf, Option<PathBuf>)> {
    let official = [("Final_Test/Images", ""), ("Images", "Final_Test"), ("", "Final_Test/Images")];
    for (below, within) in official {
        let images = if below.is_empty() { root.to_owned() } else { root.join(below) };
        if root.ends_with(within) && images.ends_with("Final_Test/Images") && images.is_dir() {
            let table = images.ancestors().take(5).map(|at| at.join(TABLE)).find(|at| at.is_file());
            return Some((images, table));
        }
    }
    let kaggle = |root: &Path| {
        let (images, table) = (root.join("Test"), root.join("Test.csv"));
        (images.is_dir() && table.is_file()).then_some((images, Some(table)))
    };
    kaggle(root).or_else(|| root.parent().filter(|_| root.ends_with("Test")).and_then(kaggle))
}
