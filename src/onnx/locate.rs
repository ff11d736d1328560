//! [`locate`]: the ONNX file that a path means.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{Error, Result, error::printable};

/// Maximum entries of a folder that are looked at.
const ENTRIES: usize = 10_000;

/// The ONNX file at `path`: itself, or the only `.onnx` of the folder and of the folder `onnx` in it, as repositories of
/// models are laid out.
///
/// # Errors
/// [`Error::Input`] for a folder with no such file or several, which are named; [`Error::Io`] if it cannot be listed.
pub fn locate(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf()); // whatever is wrong with it is said when it is read
    }
    let mut found = Vec::new();
    for folder in [path.to_path_buf(), path.join("onnx")] {
        if folder.is_dir() {
            models(&folder, &mut found)?;
        }
    }
    found.sort();
    match &found[..] {
        [] => Err(Error::model(path.display(), "is a folder without an .onnx file, expected an ONNX file")),
        [one] => Ok(one.clone()),
        several => {
            let name = |file: &PathBuf| printable(&file.strip_prefix(path).unwrap_or(file).to_string_lossy());
            let mut names: Vec<String> = several.iter().take(10).map(name).collect();
            if several.len() > names.len() {
                names.push("...".into());
            }
            let problem = format!(
                "is a folder with {} ONNX files, choose one of them: {}",
                several.len(),
                names.join(", ")
            );
            Err(Error::model(path.display(), problem))
        }
    }
}

fn models(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))?.take(ENTRIES) {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx")) && path.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_means_its_only_model() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let said = || locate(root).unwrap_err().to_string();
        assert!(said().contains("without an .onnx file"));
        fs::create_dir(root.join("onnx")).unwrap();
        fs::write(root.join("onnx/model.onnx"), b"").unwrap();
        fs::write(root.join("config.json"), b"").unwrap();
        fs::write(root.join("._model.onnx"), b"").unwrap();
        assert_eq!(locate(root).unwrap(), root.join("onnx/model.onnx"));
        fs::write(root.join("onnx/model_fp16.ONNX"), b"").unwrap();
        assert!(said().contains("2 ONNX files"), "{}", said());
        assert!(said().contains("model.onnx, ") && said().contains("model_fp16.ONNX"), "{}", said());
        let none = root.join("other.onnx");
        assert_eq!(locate(&none).unwrap(), none);
    }
}
