//! Writing files: refused before the work where it cannot end well, never half done.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{Error, Result};

/// A place that a file will be written to, checked before any work is done for it.
#[derive(Clone, Debug)]
pub struct Place {
    path: PathBuf,
    folder: PathBuf,
    overwrite: bool,
}

impl Place {
    /// `inputs` are files that must not be overwritten, whatever `force` says.
    ///
    /// # Errors
    /// The folder is not there, something is there already and `force` is not given, it is no regular file, or one of
    /// `inputs`.
    pub fn new(path: &Path, force: bool, inputs: &[&Path]) -> Result<Self> {
        let invalid = |problem: &str| Error::invalid(path.display(), problem);
        let folder = match path.parent() {
            Some(p) if p.as_os_str().is_empty() => PathBuf::from("."),
            Some(p) => p.to_owned(),
            None => return Err(invalid("is not a file name")),
        };
        if path.file_name().is_none() {
            return Err(invalid("is not a file name"));
        }
        if !folder.is_dir() {
            return Err(Error::invalid(
                path.display(),
                format!("the folder {} is not there", folder.display()),
            ));
        }
        if let Ok(meta) = path.symlink_metadata() {
            if !meta.is_file() {
                return Err(invalid("is there and is not a regular file"));
            }
            let here = path.canonicalize().map_err(|e| Error::io(path, e))?;
            if inputs.iter().any(|i| i.canonicalize().is_ok_and(|i| i == here)) {
                return Err(invalid("is an input of this command; another name is needed"));
            }
            if !force {
                return Err(invalid("is there already; --force overwrites it"));
            }
        }
        Ok(Self { path: path.to_owned(), folder, overwrite: force })
    }

    /// Where it will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `bytes` to a temporary file beside the place: it can be read and checked there. It is gone when dropped.
    pub fn stage(&self, bytes: &[u8]) -> Result<Staged> {
        let io = |e| Error::io(&self.path, e);
        let name = format!(".{}.", self.path.file_name().unwrap_or_default().to_string_lossy());
        let mut builder = tempfile::Builder::new();
        builder.prefix(&name).suffix(".part");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            // as any new file, less what the umask takes away
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(&self.folder).map_err(io)?;
        file.write_all(bytes).map_err(io)?;
        file.as_file().sync_all().map_err(io)?;
        Ok(Staged { file, place: self.clone() })
    }
}

/// A written file that is not yet in its place.
#[derive(Debug)]
pub struct Staged {
    file: tempfile::NamedTempFile,
    place: Place,
}

impl Staged {
    /// Where it is for now.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Puts it in its place.
    pub fn commit(self) -> Result<()> {
        let done = if self.place.overwrite {
            self.file.persist(&self.place.path)
        } else {
            self.file.persist_noclobber(&self.place.path)
        };
        done.map(|_| ()).map_err(|e| Error::io(&self.place.path, e.error))
    }
}

/// The place of a report: overwritten without asking, as logs are.
pub fn report_place(path: Option<&Path>, inputs: &[&Path]) -> Result<Option<Place>> {
    path.map(|p| Place::new(p, true, inputs)).transpose()
}

/// Writes `report` as JSON.
pub fn write_report(place: Option<&Place>, report: &impl Serialize) -> Result<()> {
    let Some(place) = place else { return Ok(()) };
    let mut text = serde_json::to_string_pretty(report).map_err(Error::internal)?;
    text.push('\n');
    place.stage(text.as_bytes())?.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn nothing_is_overwritten_unasked_and_an_input_never() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "a").unwrap();
        let refused =
            |p: &Path, force, inputs: &[&Path]| Place::new(p, force, inputs).unwrap_err().to_string();
        assert!(refused(&a, false, &[]).contains("--force"));
        assert!(refused(&a, true, &[&a]).contains("input"));
        assert!(refused(dir.path(), true, &[]).contains("regular"));
        assert!(refused(&dir.path().join("no/b"), true, &[]).contains("not there"));
        let place = Place::new(&b, false, &[&a]).unwrap();
        let staged = place.stage(b"b").unwrap();
        let part = staged.path().to_owned();
        assert!(part.exists() && !b.exists());
        staged.commit().unwrap();
        assert!(!part.exists());
        assert_eq!(fs::read(&b).unwrap(), b"b");
        // came into being in the meantime
        assert!(place.stage(b"c").unwrap().commit().is_err());
        assert_eq!(fs::read(&b).unwrap(), b"b");
        drop(place.stage(b"d").unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
