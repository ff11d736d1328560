//! Files that are written: first beside their target under another name, then put in place in one step, so that there
//! is never half a file, and never one that was not checked. Nothing that is there is replaced without being told to.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use tempfile::NamedTempFile;

use crate::{Error, Result, onnx::Model};

/// A file that is going to be written.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    dir: PathBuf,
    force: bool,
}

/// A file's content on disk under another name, until it is put in place; gone when dropped.
#[derive(Debug)]
pub struct Staged {
    file: NamedTempFile,
    /// Waits for the disk: what is checked meanwhile reads the same bytes.
    synced: JoinHandle<io::Result<()>>,
}

impl Output {
    /// Checks, before anything is computed, that `path` can be written: its folder is there; it is no link, no folder
    /// and none of `inputs`; and no file is there yet, unless `force`.
    ///
    /// # Errors
    /// [`Error::Input`] with what stands in the way.
    pub fn new(path: &Path, inputs: &[&Path], force: bool) -> Result<Self> {
        let refused = |problem: &str| Err(Error::invalid(path.display(), problem));
        if path.as_os_str() == "-" {
            return refused(
                "writing to standard output is not supported; name a file (`./-` for one of this name)",
            );
        }
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        if path.file_name().is_none() {
            return refused("names no file to write");
        }
        if !dir.is_dir() {
            return refused("its folder does not exist");
        }
        if let Ok(found) = fs::symlink_metadata(path) {
            if inputs.iter().any(|input| same_file(input, path)) {
                return refused("is the input; the output has to be another file");
            }
            if found.is_symlink() {
                return refused("is a symbolic link; the output has to be a plain file");
            }
            if !found.is_file() {
                return refused("is there and not a file");
            }
            if !force {
                return refused("already exists; it is not overwritten");
            }
        }
        Ok(Self { path: path.to_path_buf(), dir: dir.to_path_buf(), force })
    }

    /// The folder that it is written to.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes `bytes` beside the target. [`Staged::commit_to`] waits until they are on the disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn stage(&self, bytes: &[u8]) -> Result<Staged> {
        Staged::write(&self.dir, bytes)
    }

    /// Writes `bytes` in one step.
    ///
    /// # Errors
    /// As [`Staged::commit_to`].
    pub fn write(self, bytes: &[u8]) -> Result<()> {
        self.stage(bytes)?.commit_to(self)
    }
}

impl Staged {
    /// Writes `bytes` to a file of its own in the folder `dir`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(dir: &Path, bytes: &[u8]) -> Result<Self> {
        let io = |e| Error::io(dir, e);
        let mut builder = tempfile::Builder::new();
        builder.prefix(".polarizer-").suffix(".tmp");
        #[cfg(unix)]
        {
            // As any other new file: what the umask leaves of it.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(dir).map_err(io)?;
        file.write_all(bytes).map_err(io)?;
        let handle = file.as_file().try_clone().map_err(io)?;
        let synced = thread::Builder::new().spawn(move || handle.sync_all()).map_err(io)?;
        Ok(Self { file, synced })
    }

    /// Where the content stands until it is put in place.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Puts the file in place: renames it where it was staged beside its target, else copies it there first.
    ///
    /// # Errors
    /// [`Error::Io`], also where a file has appeared there since and was not to be overwritten.
    pub fn commit_to(self, output: Output) -> Result<()> {
        let beside = match (self.path().parent().map(Path::canonicalize), output.dir.canonicalize()) {
            (Some(Ok(own)), Ok(wanted)) => own == wanted,
            _ => false,
        };
        if !beside {
            let bytes = fs::read(self.path()).map_err(|e| Error::io(self.path(), e))?;
            return output.stage(&bytes)?.rename_to(output);
        }
        self.rename_to(output)
    }

    fn rename_to(self, output: Output) -> Result<()> {
        let Self { file, synced } = self;
        let Output { path, dir, force } = output;
        let synced = synced.join().unwrap_or_else(|_| Err(io::Error::other("did not come to its end")));
        synced.map_err(|e| Error::io(&path, e))?;
        let kept = if force { file.persist(&path) } else { file.persist_noclobber(&path) };
        kept.map_err(|e| Error::io(&path, e.error))?;
        // The new name, too, is to survive a crash. Not every file system can do this; the file itself is safe.
        #[cfg(unix)]
        let _ = fs::File::open(&dir).and_then(|d| d.sync_all());
        #[cfg(not(unix))]
        let _ = dir;
        Ok(())
    }
}

/// Writes a file in one step.
///
/// # Errors
/// As [`Output::new`] and [`Staged::commit`].
pub fn write_atomically(path: &Path, bytes: &[u8], force: bool) -> Result<()> {
    Output::new(path, &[], force)?.write(bytes)
}

/// Refuses to write `model` with its layer to another folder than its external data is in: the file would lose it.
///
/// # Errors
/// [`Error::Input`] with both folders.
pub fn check_beside(model: &Model, output: &Path) -> Result<()> {
    if !model.has_external_data() {
        return Ok(());
    }
    let target = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let home = model.dir().unwrap_or(Path::new("."));
    match (fs::canonicalize(home), fs::canonicalize(target)) {
        (Ok(a), Ok(b)) if a == b => Ok(()),
        _ => {
            let problem = format!(
                "{} has weights in other files in {}; the output has to be written to that folder",
                model.name(),
                home.display()
            );
            Err(Error::invalid(output.display(), problem))
        }
    }
}

#[cfg(unix)]
fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn same_file(a: &Path, b: &Path) -> bool {
    matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}
