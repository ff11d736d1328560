//! Images labelled by a list: a table of files and their labels.

use std::{
    collections::{HashMap, HashSet},
    path::{Component, Path, PathBuf},
};

use super::{
    limits,
    listed::{Labels, Listed, files_below, looks_like_image},
    nearest,
    table::Table,
};
use crate::{Error, Result, error::printable};

/// Names of the column of files, in lower case without separators, most telling first.
const FILES: &[&str] =
    &["file", "filename", "filepath", "path", "image", "imagepath", "img", "imageid", "name", "id"];

/// Names of the column of labels.
const LABELS: &[&str] = &["label", "class", "classid", "classname", "labelname", "target", "category", "y"];

impl Listed {
    /// Whether `path` is a file that ends like a table.
    pub(super) fn is_table(path: &Path) -> bool {
        let ending = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        matches!(ending.as_deref(), Some("csv" | "tsv")) && path.is_file()
    }

    /// The images that a table lists, in the folder that it is in.
    ///
    /// # Errors
    /// As [`by_table`](Self::by_table).
    pub(super) fn beside_table(table: &Path) -> Result<Self> {
        let folder = table.parent().filter(|at| !at.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut listed = Self::by_table(folder, table)?;
        listed.name = table.display().to_string();
        Ok(listed)
    }

    /// The images that the table `labels` lists, one row each: a column of files, relative to `folder` or to a folder
    /// above it, and one of labels. Columns are found by their names (file, filename, path, image; label, class, ClassId, target);
    /// two columns need none. Labels that are all whole numbers are class indices, others are names of classes.
    ///
    /// # Errors
    /// The table cannot be read or has no such columns; files that do not exist, the first named and all counted; a file
    /// outside of the folder, or one listed twice.
    pub fn by_table(folder: &Path, labels: &Path) -> Result<Self> {
        let invalid = |problem: String| Error::images(labels.display(), problem);
        let table = Table::read(labels)?;
        let (columns, rows) = columns(&table.rows).map_err(invalid)?;
        if rows.is_empty() {
            return Err(invalid("lists no images".into()));
        }
        let names: Vec<&str> = rows.iter().map(|row| row[columns.file].as_str()).collect();
        let given: Vec<&str> = rows.iter().map(|row| row[columns.label].as_str()).collect();
        let present = files_below(folder)?;
        let files = found(&names, folder, labels, &present)?;
        let used: HashSet<&PathBuf> = files.iter().collect();
        let passed_over =
            present.iter().filter(|file| looks_like_image(file) && !used.contains(file)).count();
        let (labels_of, what) = of_text(&given).map_err(invalid)?;
        let notes = vec![format!("{}: {}{what}", labels.display(), columns.note)];
        Ok(Self::of(folder.display().to_string(), files, labels_of, passed_over, notes))
    }
}

struct Columns {
    file: usize,
    label: usize,
    note: String,
}

/// The columns, and the rows without that of their names.
fn columns(rows: &[Vec<String>]) -> Result<(Columns, &[Vec<String>]), String> {
    let Some((first, rest)) = rows.split_first() else { return Err("is empty".into()) };
    let plain = |name: &String| name.to_lowercase().replace(['_', '-', ' ', '.'], "");
    let plain: Vec<String> = first.iter().map(plain).collect();
    let find = |words: &[&str]| words.iter().find_map(|word| plain.iter().position(|name| name == word));
    match (find(FILES), find(LABELS)) {
        (Some(file), Some(label)) => {
            let note = format!("files from \"{}\", labels from \"{}\"; ", first[file], first[label]);
            Ok((Columns { file, label, note }, rest))
        }
        _ if first.len() == 2 && first.iter().any(|name| looks_like_image(Path::new(name))) => {
            let file = usize::from(!looks_like_image(Path::new(&first[0])));
            Ok((Columns { file, label: 1 - file, note: String::new() }, rows))
        }
        (file, _) => {
            let missing = if file.is_none() {
                "files (file, filename, path)"
            } else {
                "labels (label, class, ClassId)"
            };
            let names: Vec<String> =
                first.iter().take(12).map(|name| format!("\"{}\"", printable(name))).collect();
            Err(format!(
                "no column of {missing} among {}; name the columns in the first line",
                names.join(", ")
            ))
        }
    }
}

/// Labels as numbers or names, and what was taken them for.
fn of_text(given: &[&str]) -> Result<(Labels, &'static str), String> {
    if let Some(row) = given.iter().position(|label| label.is_empty()) {
        return Err(format!("image {} of the list has no label", row + 1));
    }
    let number = |label: &&str| label.bytes().all(|b| b.is_ascii_digit());
    if !given.iter().all(number) {
        return Ok((Labels::named(given.iter().copied()), "labels are names of classes"));
    }
    let index = |label: &&str| {
        let index = label.parse().ok().filter(|&i: &u32| (i as usize) < limits::CLASSES);
        index.ok_or_else(|| format!("the label {} is beyond {} classes", printable(label), limits::CLASSES))
    };
    let labels = given.iter().map(index).collect::<Result<_, _>>()?;
    Ok((Labels::Indices(labels), "labels are class indices"))
}

/// Where a listed file may be: below the folder, or below one that the folder is in (`Test/1.png` of the folder `Test`).
fn places(folder: &Path, relative: &Path) -> Vec<PathBuf> {
    let parts: Vec<Component<'_>> = relative.components().collect();
    let outer = (1..parts.len()).filter_map(|n| {
        let (above, below): (PathBuf, PathBuf) = (parts[..n].iter().collect(), parts[n..].iter().collect());
        folder.ends_with(above).then(|| folder.join(below))
    });
    std::iter::once(folder.join(relative)).chain(outer).collect()
}

/// Files by their paths without ending; None where there are several.
fn by_stem(files: &[PathBuf]) -> HashMap<PathBuf, Option<&Path>> {
    let mut stems: HashMap<PathBuf, Option<&Path>> = HashMap::new();
    for file in files {
        stems.entry(file.with_extension("")).and_modify(|one| *one = None).or_insert(Some(file));
    }
    stems
}

/// The files of these names in `folder`; a name may lack its ending.
fn found(names: &[&str], folder: &Path, table: &Path, present: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let known: HashSet<&Path> = present.iter().map(PathBuf::as_path).collect();
    let mut stems = None;
    let mut missing: Vec<&str> = Vec::new();
    let mut seen = HashSet::new();
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        let relative = Path::new(name.strip_prefix("./").unwrap_or(name));
        let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain {
            let problem = format!("\"{}\" is not a path inside the folder", printable(name));
            return Err(Error::images(table.display(), problem));
        }
        let places = places(folder, relative);
        let at = places.iter().find_map(|at| known.get(at.as_path()).copied());
        let at = at.or_else(|| {
            let stems = stems.get_or_insert_with(|| by_stem(present));
            places.iter().find_map(|at| stems.get(at).copied().flatten())
        });
        match at {
            None => missing.push(name),
            Some(file) if seen.insert(file) => files.push(file.to_owned()),
            Some(_) => {
                let problem = format!("\"{}\" is listed twice", printable(name));
                return Err(Error::images(table.display(), problem));
            }
        }
    }
    match missing.first() {
        None => Ok(files),
        Some(first) => {
            let of = present.iter().filter_map(|file| file.file_name()?.to_str());
            let hint = if present.len() < 10_000 { nearest(first, of) } else { String::new() };
            let (first, all) = (printable(first), names.len());
            let problem = format!(
                "{} of {all} listed files are not in {}, the first is \"{first}\"{hint}",
                missing.len(),
                folder.display()
            );
            Err(Error::images(table.display(), problem))
        }
    }
}
