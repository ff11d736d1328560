//! [`Stated`]: what files and a model's metadata state about preprocessing and class names. A file is read by the first
//! of [`KINDS`] that recognises it; what the parts of preprocessing cannot say is refused by file and field.

mod complete;
mod fields;
mod labels;
mod metadata;
mod processor;
mod timm;
mod torchvision;

pub use complete::Contradiction;
pub(super) use torchvision::weights;

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::{Origin, PIECES, Preprocessing};
use crate::{Error, Result, data::Classes, error::printable};
use fields::File;

/// Maximum bytes of such a file. The 21,841 names of ImageNet-22k, by index and the other way round, are about 2 MB.
pub const MAX_BYTES: u64 = 4 << 20;

/// Names of files beside a model, the one that is believed first in front.
const BESIDE: [&str; 3] = ["preprocessor_config.json", "processor_config.json", "config.json"];

/// A kind of file: what it is called in messages, and what reads it. None: the file is of another kind.
struct Kind {
    what: &'static str,
    read: fn(&File) -> Option<Result<Stated>>,
}

/// All kinds, the first that recognises a file reads it.
const KINDS: [Kind; 3] = [
    Kind { what: "preprocessor_config.json as Hugging Face writes it", read: processor::read },
    Kind { what: "config.json as Hugging Face or timm writes it", read: labels::read },
    Kind { what: "the text of torchvision's `ImageClassification(...)`", read: torchvision::read },
];

/// What a file, several files or a model's metadata state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stated {
    /// Parts of preprocessing: name, text as [`Preprocessing::with`] reads it, and the file with the field.
    pub parts: Vec<(&'static str, String, Origin)>,
    /// Class names in the order of the model's outputs, and the file with the field.
    pub classes: Option<(Classes, String)>,
    /// What a reader of the result should know: fields that were silent, files that say nothing of images.
    pub notes: Vec<String>,
    /// What one of several files says otherwise than the one that is believed.
    pub contradictions: Vec<Contradiction>,
}

impl Stated {
    /// Reads one file of any of the known kinds.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Input`] with the file and the field: of no known kind, larger than 4 MiB, wrong
    /// types, or something that the parts of preprocessing cannot say.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path, &text_of(path)?)
    }

    /// Reads `text` as that of the file at `path`, of which the name and the neighbours count.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let file = File::new(path, text)?;
        Self::of(&file)?.ok_or_else(|| {
            let kinds = KINDS.each_ref().map(|kind| kind.what).join("; ");
            Error::images(path.display(), format!("says nothing of preprocessing; expected {kinds}"))
        })
    }

    /// What the files beside the model at `model` state: `preprocessor_config.json`, `processor_config.json`,
    /// `config.json` in its folder and, where that is called `onnx`, in the one above it. Where they differ the first
    /// is believed and the others are in [`Stated::contradictions`].
    ///
    /// # Errors
    /// As [`read`](Self::read), but for a file of no known kind, which is noted.
    pub fn beside(model: &Path) -> Result<Self> {
        let mut all = Self::default();
        for name in BESIDE {
            let Some(path) = folders(model).into_iter().map(|dir| dir.join(name)).find(|path| path.is_file())
            else {
                continue;
            };
            let file = File::new(&path, &text_of(&path)?)?;
            match Self::of(&file)? {
                Some(stated) => all = all.above(stated)?,
                None => all.notes.push(format!("{name} says nothing of images and was left out")),
            }
        }
        Ok(all)
    }

    /// What ONNX's image metadata in a model's metadata states.
    ///
    /// # Errors
    /// [`Error::Input`]: a value that the standard does not name, or that is not supported; a key twice.
    pub fn of_metadata(metadata: &[(String, String)]) -> Result<Self> {
        metadata::read(metadata)
    }

    /// Reads a file of a known kind and checks that what it states is valid together.
    fn of(file: &File) -> Result<Option<Self>> {
        let Some(stated) = KINDS.iter().find_map(|kind| (kind.read)(file)) else { return Ok(None) };
        let stated = stated?;
        stated.alone().and_then(|all| all.check()).map_err(|e| file.error(None, e))?;
        Ok(Some(stated))
    }

    /// What files state of the model at `model`: the file `named`, else those beside it, believed in this order; with
    /// `none` for `named` nothing is read. `own`: what is stated already.
    ///
    /// # Errors
    /// As [`read`](Self::read) and [`beside`](Self::beside). Where `own` states all parts, what is wrong with the files
    /// beside the model is only noted.
    pub fn of_files(own: &Preprocessing, named: Option<&Path>, model: &Path) -> Result<Option<Self>> {
        if named == Some(Path::new("none")) {
            return Ok(None);
        }
        let files = named.map_or_else(|| Ok(Self::default()), Self::read)?;
        files.above_or_noted(Self::beside(model), own).map(Some)
    }

    /// `own` completed by these statements and, below them, by a model's `metadata`; and all that was read for it.
    ///
    /// # Errors
    /// As [`of_metadata`](Self::of_metadata), which is only noted where `own` states all parts.
    pub fn complete(
        self,
        own: &Preprocessing,
        metadata: &[(String, String)],
    ) -> Result<(Preprocessing, Self)> {
        let mut all = self.above_or_noted(Self::of_metadata(metadata), own)?;
        let (own, contradictions) = own.clone().completed_by(&all)?;
        all.contradictions.extend(contradictions);
        Ok((own, all))
    }

    fn above_or_noted(mut self, lower: Result<Self>, own: &Preprocessing) -> Result<Self> {
        let whole =
            PIECES.iter().all(|piece| piece.name == "size" || own.origin(piece.name) != &Origin::Default);
        match lower {
            Ok(lower) => self.above(lower),
            Err(e) if whole => {
                self.notes.push(format!("left out: {e}"));
                Ok(self)
            }
            Err(e) => Err(with_a_way_out(e)),
        }
    }

    /// These statements completed by `lower`, which is not believed where they differ.
    ///
    /// # Errors
    /// As [`Preprocessing::completed_by`].
    pub fn above(mut self, lower: Self) -> Result<Self> {
        let (both, contradictions) = self.alone()?.completed_by(&lower)?;
        let parts = both.parts().filter(|(_, _, origin)| **origin != Origin::Default);
        self.parts = parts.map(|(piece, text, origin)| (piece.name, text, origin.clone())).collect();
        self.classes = self.classes.or(lower.classes);
        self.notes.extend(lower.notes);
        self.contradictions.extend(lower.contradictions);
        self.contradictions.extend(contradictions);
        Ok(self)
    }

    /// The preprocessing of these parts and nothing else.
    fn alone(&self) -> Result<Preprocessing> {
        let mut all = Preprocessing::default();
        for (name, text, origin) in &self.parts {
            all = all.with(name, text, origin.clone())?;
        }
        Ok(all)
    }

    /// Whether nothing is stated at all.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.classes.is_none()
    }
}

/// An error about what nobody asked to be read.
fn with_a_way_out(e: Error) -> Error {
    match e {
        Error::Input { kind, subject, problem, .. } => {
            let problem =
                format!("{problem}; name another file as `preprocessing`, or none to leave this out");
            Error::input(kind, subject, problem)
        }
        other => other,
    }
}

/// The folders whose files describe the model at `model`.
fn folders(model: &Path) -> Vec<PathBuf> {
    let parent = |path: &Path| match path.parent() {
        Some(dir) if dir.as_os_str().is_empty() => Some(PathBuf::from(".")),
        dir => dir.map(Path::to_path_buf),
    };
    let Some(own) = parent(model) else { return Vec::new() };
    let above = own.file_name().is_some_and(|name| name == "onnx").then(|| parent(&own)).flatten();
    [Some(own), above].into_iter().flatten().collect()
}

/// The text of a file, at most [`MAX_BYTES`] of UTF-8.
fn text_of(path: &Path) -> Result<String> {
    let io = |e| Error::io(path, e);
    let invalid = |problem: String| Error::images(path.display(), problem);
    // checked before opening: opening a pipe would block until it has a writer
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(invalid("is not a regular file".into()));
    }
    let mut bytes = Vec::new();
    fs::File::open(path).map_err(io)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(invalid(format!("is larger than {MAX_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| invalid("is not UTF-8 text".into()))
}

/// Collects what a file states.
struct Saying<'a> {
    file: &'a File,
    stated: Stated,
}

impl<'a> Saying<'a> {
    fn new(file: &'a File) -> Self {
        Self { file, stated: Stated::default() }
    }

    /// States a part that the field says.
    fn part(&mut self, name: &'static str, text: impl ToString, field: &str) {
        let origin = Origin::File(self.origin(field));
        self.stated.parts.push((name, text.to_string(), origin));
    }

    fn note(&mut self, text: impl std::fmt::Display) {
        self.stated.notes.push(format!("{}: {text}", self.file.short()));
    }

    fn origin(&self, field: &str) -> String {
        format!("{}: {}", self.file.short(), printable(field))
    }
}

/// A height and a width as text: `224` for both.
fn sides([h, w]: [usize; 2]) -> String {
    if h == w { h.to_string() } else { format!("{h}x{w}") }
}

/// Numbers as [`Preprocessing::with`] reads them.
fn list(values: &[f64]) -> String {
    let text = |value: &f64| (*value as f32 + 0.0).to_string(); // no negative zero
    values.iter().map(text).collect::<Vec<_>>().join(",")
}
