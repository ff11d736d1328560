//! CIFAR's binary files (`data_batch_1.bin`, `train.bin`): rows of one or two label bytes and 32x32 RGB planes.

use std::path::Path;

use super::{
    Classes, Picture, Role, Source,
    array_files::{Positioned, interleaved},
    limits, table,
};
use crate::{Error, Result, base::pixels::Pixels};

/// Values of an image: three planes of 32x32.
const PIXELS: usize = 3 * 32 * 32;

/// A batch as a [`Source`].
#[derive(Debug)]
struct Batch {
    file: Positioned,
    /// Bytes before each image: CIFAR-10 has its label there, CIFAR-100 a superclass before it.
    before: usize,
    labels: Vec<u32>,
    classes: Option<Classes>,
}

/// Forms of batches: files of their names, bytes before each image, the file of names beside them, number of classes.
const FORMS: [(&[&str], usize, &str, u32); 2] = [
    (&["data_batch_", "test_batch"], 1, "batches.meta.txt", 10),
    (&["train", "test"], 2, "fine_label_names.txt", 100),
];

fn form(path: &Path) -> Option<(usize, &'static str, u32)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".bin")?;
    let (_, before, names, count) =
        FORMS.into_iter().find(|(starts, ..)| starts.iter().any(|s| name.starts_with(s)))?;
    Some((before, names, count))
}

/// Whether `path` is called like a batch.
pub(super) fn recognises(path: &Path) -> bool {
    form(path).is_some() && !path.is_dir()
}

/// # Errors
/// The file cannot be read, is no whole number of images, or has a label beyond the classes.
pub(super) fn open(path: &Path, _: Role) -> Result<Box<dyn Source>> {
    let invalid = |problem: String| Error::images(path.display(), problem);
    let (before, names, most) =
        form(path).ok_or_else(|| invalid("is not called like a CIFAR batch".into()))?;
    let file = Positioned::open(path)?;
    let row = (before + PIXELS) as u64;
    let count = usize::try_from(file.len / row).unwrap_or(usize::MAX);
    if file.len % row != 0 || count == 0 || count > limits::FILES {
        return Err(invalid(format!(
            "{} bytes are not a whole number of CIFAR images of {row} bytes",
            file.len
        )));
    }
    let mut labels = Vec::with_capacity(count);
    for at in 0..count {
        let mut label = [0];
        file.read(at as u64 * row + before as u64 - 1, &mut label)?;
        if u32::from(label[0]) >= most {
            return Err(invalid(format!(
                "image {at} is of class {}, but there are {most} classes",
                label[0]
            )));
        }
        labels.push(u32::from(label[0]));
    }
    let names = path.with_file_name(names);
    let classes = if names.is_file() { Some(names_in(&names)?) } else { None };
    Ok(Box::new(Batch { file, before, labels, classes: classes.filter(|c| c.len() == most as usize) }))
}

fn names_in(path: &Path) -> Result<Classes> {
    let text = table::text(path)?;
    Ok(Classes(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()))
}

impl Source for Batch {
    fn name(&self) -> String {
        self.file.path.display().to_string()
    }

    fn count(&self) -> usize {
        self.labels.len()
    }

    fn row_name(&self, row: usize) -> String {
        format!("{}[{row}]", self.name())
    }

    fn classes(&self) -> Option<Classes> {
        self.classes.clone()
    }

    fn labels(&self, classes: &Classes) -> Result<Option<Vec<u32>>> {
        let row = |row: usize| self.row_name(row);
        let Some(own) = self.classes.as_ref().filter(|own| *own != classes && !classes.is_empty()) else {
            return Ok(Some(self.labels.clone()));
        };
        // another order of the same names, else the numbers
        let places: Option<Vec<u32>> = own.0.iter().map(|name| classes.position(name)).collect();
        match places {
            Some(places) => Ok(Some(self.labels.iter().map(|&label| places[label as usize]).collect())),
            None => classes.of_indices(&self.labels, row).map(Some),
        }
    }

    fn picture(&self, row: usize) -> Result<Picture> {
        let mut planes = vec![0; PIXELS];
        self.file.read((row * (self.before + PIXELS) + self.before) as u64, &mut planes)?;
        Ok(Picture { size: [32, 32], channels: 3, pixels: interleaved(Pixels::U8(planes), 3) })
    }

    fn memory(&self) -> usize {
        size_of_val(self.labels.as_slice())
    }

    fn is_labelled(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn batches_are_read_with_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let image = |label: &[u8], value: u8| {
            [label, &[value; 1024][..], &[value + 1; 1024][..], &[value + 2; 1024][..]].concat()
        };
        let ten = dir.path().join("test_batch.bin");
        fs::write(&ten, [image(&[3], 10), image(&[9], 20)].concat()).unwrap();
        assert!(recognises(&ten));
        let source = open(&ten, Role::Clean).unwrap();
        assert_eq!((source.count(), source.classes()), (2, None));
        assert_eq!(source.labels(&Classes::default()).unwrap().unwrap(), [3, 9]);
        let Pixels::U8(pixels) = source.picture(1).unwrap().pixels else { panic!("floats") };
        assert_eq!(pixels[3069..], [20, 21, 22]);
        let names = "airplane automobile bird cat deer dog frog horse ship truck".replace(' ', "\n");
        fs::write(dir.path().join("batches.meta.txt"), format!("{names}\n\n")).unwrap();
        let mut classes = open(&ten, Role::Clean).unwrap().classes().unwrap();
        classes.0.reverse();
        let reversed = open(&ten, Role::Clean).unwrap().labels(&classes).unwrap().unwrap();
        assert_eq!(reversed, [6, 0]);
        let hundred = dir.path().join("train.bin");
        fs::write(&hundred, image(&[11, 42], 7)).unwrap();
        assert_eq!(open(&hundred, Role::Clean).unwrap().labels(&Classes::default()).unwrap().unwrap(), [42]);
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data_batch_1.bin");
        for (bytes, problem) in [(3072, "not a whole number"), (0, "not a whole number"), (3073, "class 255")]
        {
            fs::write(&path, vec![255; bytes]).unwrap();
            let e = open(&path, Role::Clean).map(|s| s.name()).unwrap_err().to_string();
            assert!(e.contains(problem), "{bytes}: {e}");
        }
        assert!(!recognises(&dir.path().join("weights.bin")));
    }
}
