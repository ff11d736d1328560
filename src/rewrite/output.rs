//! Atomic writes: a file is staged under a temporary name, verified, and renamed to its target, so that a partial or
//! unchecked file is never visible. Existing files are replaced only on request.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use tempfile::NamedTempFile;

use crate::{Error, Result, onnx::Model};

/// Target of a write, checked in advance.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    dir: PathBuf,
    force: bool,
}

/// A file written under a temporary name; deleted on drop unless committed.
#[derive(Debug)]
pub struct Staged {
    file: NamedTempFile,
    /// Syncs to disk in the background while the file is verified.
    synced: JoinHandle<io::Result<()>>,
}

impl Output {
    /// Checks, before any work, that `path` can be written: its folder exists; it is neither a link, nor a folder, nor
    /// one of `inputs`; and it does not exist yet, unless `force`.
    ///
    /// # Errors
    /// [`Error::Input`] with the reason.
    pub fn new(path: &Path, inputs: &[&Path], force: bool) -> Result<Self> {
        let refused = |problem: &str| Err(Error::invalid(path.display(), problem));
        if path.as_os_str() == "-" {
            return refused(
                "writing to standard output is not supported; give a file name (`./-` for a file called -)",
            );
        }
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        if path.file_name().is_none() {
            return refused("is not a file name");
        }
        if !dir.is_dir() {
            return refused("its folder does not exist");
        }
        if let Ok(found) = fs::symlink_metadata(path) {
            if inputs.iter().any(|input| same_file(input, path)) {
                return refused("is the input; choose another file for the output");
            }
            if found.is_symlink() {
                return refused("is a symbolic link; the output must be a regular file");
            }
            if !found.is_file() {
                return refused("exists and is not a file");
            }
            if !force {
                return refused("already exists");
            }
        }
        Ok(Self { path: path.to_path_buf(), dir: dir.to_path_buf(), force })
    }

    /// The folder of the target.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Stages `bytes` in the target's folder. [`Staged::commit_to`] waits until they are on disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn stage(&self, bytes: &[u8]) -> Result<Staged> {
        Staged::write(&self.dir, bytes)
    }

    /// Writes `bytes` atomically.
    ///
    /// # Errors
    /// As [`Staged::commit_to`].
    pub fn write(self, bytes: &[u8]) -> Result<()> {
        self.stage(bytes)?.commit_to(self)
    }
}

impl Staged {
    /// Writes `bytes` to a temporary file in the folder `dir`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(dir: &Path, bytes: &[u8]) -> Result<Self> {
        let io = |e| Error::io(dir, e);
        let mut builder = tempfile::Builder::new();
        builder.prefix(".polarizer-").suffix(".tmp");
        #[cfg(unix)]
        {
            // Default permissions, restricted by the umask as for any new file.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(dir).map_err(io)?;
        file.write_all(bytes).map_err(io)?;
        let handle = file.as_file().try_clone().map_err(io)?;
        let synced = thread::Builder::new().spawn(move || handle.sync_all()).map_err(io)?;
        Ok(Self { file, synced })
    }

    /// Path of the temporary file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Renames the file to its target, after copying it to the target's folder if it was staged elsewhere.
    ///
    /// # Errors
    /// [`Error::Io`], also if the target was created in the meantime and `force` was not given.
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
        let synced = synced.join().unwrap_or_else(|_| Err(io::Error::other("the sync thread panicked")));
        synced.map_err(|e| Error::io(&path, e))?;
        let kept = if force { file.persist(&path) } else { file.persist_noclobber(&path) };
        kept.map_err(|e| Error::io(&path, e.error))?;
        // Sync the folder so that the rename survives a crash. Not every file system supports it; the content is safe.
        #[cfg(unix)]
        let _ = fs::File::open(&dir).and_then(|d| d.sync_all());
        #[cfg(not(unix))]
        let _ = dir;
        Ok(())
    }
}

/// Writes a file atomically.
///
/// # Errors
/// As [`Output::new`] and [`Staged::commit_to`].
pub fn write_atomically(path: &Path, bytes: &[u8], force: bool) -> Result<()> {
    Output::new(path, &[], force)?.write(bytes)
}

/// Checks that `output` is in the folder of `model`'s external data, without which the file would be useless.
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
                "{} has external weights in {}; write the output to that folder",
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
