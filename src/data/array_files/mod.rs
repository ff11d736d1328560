//! Images in files of arrays: `.npy`, `.npz`, `.safetensors` and IDX.
//!
//! Arrays that lie in a file as they are (`.npy`, stored `.npz` members, `.safetensors`) are read an image at a time;
//! deflated members and Fortran order are unpacked once, when the first image is asked for.

mod element;
mod idx;
mod labels;
mod layout;
mod npy;
mod npz;
mod pairs;
mod pixels;
pub(super) mod positioned;
mod safetensors;
mod tensor;

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use self::{
    layout::Layout,
    pixels::Range,
    tensor::{Member, Tensor},
};
pub(super) use self::{pixels::interleaved, positioned::Positioned};
use super::{Classes, Picture, Pixels, Role, Source, limits};
use crate::{Error, Result, error::printable};

/// The forms of array files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Npy,
    Npz,
    Safetensors,
    Idx,
}

/// Endings of files and their forms.
const ENDINGS: &[(&str, Form)] = &[
    (".npy", Form::Npy),
    (".npz", Form::Npz),
    (".safetensors", Form::Safetensors),
    ("idx3-ubyte", Form::Idx),
    ("idx3-ubyte.gz", Form::Idx),
];

/// The images of an array file as a [`Source`]. Labels are class indices.
///
/// A path may name the arrays behind a `#`: `data.npz#x_test,y_test`; for a file of one array, which has no name, the
/// file of the labels: `x.npy#y.npy`, `x.npy#labels.csv`, `x.npy#` for none.
#[derive(Debug)]
pub struct ArrayFile {
    name: String,
    images: Tensor,
    layout: Layout,
    range: Range,
    labels: Option<Vec<u32>>,
    notes: Vec<String>,
    unpacked: Mutex<Unpacked>,
}

/// All images of an array that cannot be read a row at a time, in the order of (count, H, W, C) or (count, C, H, W).
#[derive(Debug)]
enum Unpacked {
    NotYet,
    Whole(Arc<Pixels>),
    Failed(String),
}

impl ArrayFile {
    /// Whether `path` ends like an array file, with or without the names of its arrays.
    pub fn recognises(path: &Path) -> bool {
        !path.is_dir() && split(path).is_some()
    }

    /// Opens the images at `path`, and reads their labels and, unless they are bytes, the range of their values.
    ///
    /// # Errors
    /// The file cannot be read or is malformed; it holds no images, or more than one choice of images or labels; values
    /// that are no pixels; triggered images without labels.
    pub fn open(path: &Path, role: Role) -> Result<Self> {
        let unknown = || Error::images(path.display(), "is no .npy, .npz, .safetensors or IDX file");
        let (file, form, selector) = split(path).ok_or_else(unknown)?;
        let invalid = |problem: String| Error::images(file.display(), problem);
        let mut members = members(&file, form)?;
        let (images, labels) = match form {
            Form::Npy | Form::Idx => (0, None),
            _ => pairs::choose(&members, selector.as_deref()).map_err(invalid)?,
        };
        let labels = labels.map(|at| usable(&file, members[at].clone())).transpose()?;
        let images = usable(&file, members.swap_remove(images))?;
        let named = |problem: String| Error::images(subject(&file, &images.name), problem);
        let layout = Layout::of(&images.shape).map_err(named)?;
        let beside = match (&labels, form) {
            (Some(_), _) | (None, Form::Safetensors) => None,
            (None, _) => beside(&file, form, selector.as_deref())?,
        };
        if role == Role::Triggered && labels.is_none() && beside.is_none() {
            return Err(named(
                "has no labels; triggered images must be labelled with their true class".into(),
            ));
        }
        let name = name(&file, form, &images, labels.as_ref(), beside.as_deref());
        let range = Range::of(&images)?.map_err(named)?;
        let labels = match (labels, beside) {
            (Some(tensor), _) => Some(labels::named(&tensor, layout.count)?),
            (None, Some(name)) => Some(labels_in(&file.with_file_name(name), &file, layout.count)?),
            (None, None) => None,
        };
        let this = Self {
            notes: range.note().map(|note| format!("{name}: {note}")).into_iter().collect(),
            name,
            images,
            layout,
            range,
            labels,
            unpacked: Mutex::new(Unpacked::NotYet),
        };
        this.check_size()?;
        Ok(this)
    }

    fn check_size(&self) -> Result<()> {
        let invalid = |problem: String| Error::images(&self.name, problem);
        let value = self.images.element.size().max(4);
        if (self.layout.numel() * value) as u64 > limits::DECODER_BYTES {
            return Err(invalid(format!("one image takes more than {} MiB", limits::DECODER_BYTES >> 20)));
        }
        if self.unpacked_bytes() > limits::TOTAL_BYTES {
            let (takes, most) = (self.unpacked_bytes() >> 20, limits::TOTAL_BYTES >> 20);
            return Err(invalid(format!(
                "takes {takes} MiB unpacked, the limit is {most} MiB; saved with np.save or np.savez, not compressed \
                 and in C order, images are read one at a time"
            )));
        }
        Ok(())
    }

    /// Bytes of the unpacked images; 0 where rows are read from the file.
    fn unpacked_bytes(&self) -> usize {
        if self.images.is_seekable() { 0 } else { self.images.numel() * self.range.bytes() }
    }

    /// All images, unpacked once.
    fn unpacked(&self) -> Result<Arc<Pixels>> {
        let mut unpacked = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*unpacked, Unpacked::NotYet) {
            *unpacked = match pixels::whole(&self.images, self.range) {
                Ok(pixels) => Unpacked::Whole(Arc::new(pixels)),
                Err(e) => Unpacked::Failed(e.to_string()),
            };
        }
        match &*unpacked {
            Unpacked::Whole(pixels) => Ok(pixels.clone()),
            Unpacked::Failed(problem) => Err(Error::images(&self.name, problem)),
            Unpacked::NotYet => Err(Error::internal("images that were not unpacked")),
        }
    }
}

impl Source for ArrayFile {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn count(&self) -> usize {
        self.layout.count
    }

    fn row_name(&self, row: usize) -> String {
        format!("{}[{row}]", self.name)
    }

    fn classes(&self) -> Option<Classes> {
        None
    }

    fn labels(&self, classes: &Classes) -> Result<Option<Vec<u32>>> {
        let Some(labels) = &self.labels else { return Ok(None) };
        classes.of_indices(labels, |row| self.row_name(row)).map(Some)
    }

    fn picture(&self, row: usize) -> Result<Picture> {
        let Layout { size, channels, first, .. } = self.layout;
        let numel = self.layout.numel();
        let pixels = match self.images.row(row, numel)? {
            Some(bytes) => self.range.convert(self.images.element, bytes),
            None => self.unpacked()?.select(&[row], numel),
        };
        let pixels = if first { pixels::interleaved(pixels, channels) } else { pixels };
        Ok(Picture { size, channels, pixels })
    }

    fn memory(&self) -> usize {
        self.unpacked_bytes() + self.labels.as_ref().map_or(0, |labels| size_of_val(labels.as_slice()))
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn is_labelled(&self) -> bool {
        self.labels.is_some()
    }
}

fn form_of(path: &Path) -> Option<Form> {
    let name = path.to_string_lossy().to_ascii_lowercase();
    ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, form)| *form)
}

/// The file, its form, and what stands behind the `#`. A file whose own name has a `#` is found as it is.
fn split(path: &Path) -> Option<(PathBuf, Form, Option<String>)> {
    let text = path.to_string_lossy();
    let lower = text.to_ascii_lowercase();
    if let Some(form) = form_of(path)
        && (!text.contains('#') || path.is_file())
    {
        return Some((path.to_owned(), form, None));
    }
    let text = path.to_str()?;
    ENDINGS.iter().find_map(|(ending, form)| {
        let at = lower.find(&format!("{ending}#"))? + ending.len();
        Some((PathBuf::from(&text[..at]), *form, Some(text[at + 1..].to_owned())))
    })
}

fn members(file: &Path, form: Form) -> Result<Vec<Member>> {
    match form {
        Form::Npy => Ok(vec![npy::member(file)?]),
        Form::Npz => npz::members(file),
        Form::Idx => Ok(vec![idx::member(file)?]),
        Form::Safetensors => safetensors::members(file),
    }
}

fn subject(file: &Path, array: &str) -> String {
    format!("{}: \"{}\"", file.display(), printable(array))
}

fn usable(file: &Path, member: Member) -> Result<Tensor> {
    member.tensor.map_err(|problem| Error::images(subject(file, &member.name), problem))
}

/// The labels in a file of their own, an array or a table.
fn labels_in(path: &Path, images: &Path, count: usize) -> Result<Vec<u32>> {
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv")) {
        return labels::of_table(path, count);
    }
    let mut members = match form_of(path) {
        Some(form) => members(path, form)?,
        None => vec![idx::member(path)?],
    };
    if members.len() != 1 {
        let problem = format!("{} arrays, expected the labels of {} alone", members.len(), images.display());
        return Err(Error::images(path.display(), problem));
    }
    labels::named(&usable(path, members.remove(0))?, count)
}

/// The name of the file of labels: the one that `selector` names where the file has one array, else the one file beside
/// it that is named after it (`x_test.npy` and `y_test.npy`, `NAME.npy` and `NAME_labels.npy`), else `labels.csv`.
fn beside(file: &Path, form: Form, selector: Option<&str>) -> Result<Option<String>> {
    if let (Form::Npy | Form::Idx, Some(name)) = (form, selector) {
        return Ok((!name.is_empty()).then(|| name.to_owned()));
    }
    let (Some(stem), Some(name)) =
        (file.file_stem().and_then(|stem| stem.to_str()), file.file_name().and_then(|name| name.to_str()))
    else {
        return Ok(None);
    };
    let ending = file.extension().unwrap_or_default().to_string_lossy();
    let mut wanted: HashSet<String> = pairs::labels_of(stem)
        .into_iter()
        .flat_map(|stem| [format!("{stem}.{ending}"), format!("{stem}.csv")])
        .map(|name| name.to_ascii_lowercase())
        .collect();
    if form == Form::Idx {
        wanted = HashSet::from([idx::labels_of(name).to_ascii_lowercase()]);
    }
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut names: Vec<String> = fs::read_dir(folder)
        .map_err(|e| Error::io(folder, e))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|found| wanted.contains(&found.to_ascii_lowercase()) && found != name)
        .collect();
    names.sort();
    match &names[..] {
        [] if file.with_file_name("labels.csv").is_file() => Ok(Some("labels.csv".to_owned())),
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        several => {
            let (file, one) = (file.display(), &several[0]);
            let several = several.join(" or ");
            let problem =
                format!("its labels may be in {several}; append the one meant to the path, as {file}#{one}");
            Err(Error::images(file, problem))
        }
    }
}

/// The file and the arrays in it that are read, as they can be asked for.
fn name(file: &Path, form: Form, images: &Tensor, labels: Option<&Tensor>, beside: Option<&str>) -> String {
    let path = file.display();
    match (form, labels, beside) {
        (_, _, Some(beside)) => format!("{path}#{beside}"),
        (Form::Npy | Form::Idx, _, None) => path.to_string(),
        (_, Some(labels), None) => format!("{path}#{},{}", printable(&images.name), printable(&labels.name)),
        (_, None, None) => format!("{path}#{}", printable(&images.name)),
    }
}
