//! [`Positioned`]: a file that is read at positions, from several threads at once.

#[cfg(not(unix))]
use std::sync::{Mutex, PoisonError};
use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{Error, Result};

/// An open file. One that is written to while it is open is refused, since its parts would not belong together.
#[derive(Debug)]
pub struct Positioned {
    pub path: PathBuf,
    pub len: u64,
    modified: Option<SystemTime>,
    #[cfg(unix)]
    file: File,
    #[cfg(not(unix))]
    file: Mutex<File>,
}

impl Positioned {
    /// # Errors
    /// The file cannot be opened, or is no regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e| Error::io(path, e);
        // checked before opening: opening a pipe would block until it has a writer
        if !fs::metadata(path).map_err(io)?.is_file() {
            return Err(Error::images(path.display(), "is not a regular file"));
        }
        let file = File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        let modified = meta.modified().ok();
        #[cfg(not(unix))]
        let file = Mutex::new(file);
        Ok(Self { path: path.to_owned(), len: meta.len(), modified, file })
    }

    /// Fills `into` from the byte `at` on.
    ///
    /// # Errors
    /// The file ends before, cannot be read, or has changed since it was opened.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        self.fill(at, into).map_err(|e| Error::io(&self.path, e))?;
        self.unchanged()
    }

    /// # Errors
    /// The length or the time of the last change is another than when the file was opened.
    pub fn unchanged(&self) -> Result<()> {
        let meta = self.metadata().map_err(|e| Error::io(&self.path, e))?;
        if meta.len() == self.len && meta.modified().ok() == self.modified {
            return Ok(());
        }
        Err(Error::images(self.path.display(), "has changed since it was opened"))
    }

    #[cfg(unix)]
    fn fill(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, into, at)
    }

    #[cfg(unix)]
    fn metadata(&self) -> io::Result<fs::Metadata> {
        self.file.metadata()
    }

    #[cfg(not(unix))]
    fn fill(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(into)
    }

    #[cfg(not(unix))]
    fn metadata(&self) -> io::Result<fs::Metadata> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).metadata()
    }
}

/// A [`Positioned`] as a stream of its own.
pub struct Stream<'f> {
    pub file: &'f Positioned,
    pub at: u64,
}

impl Read for Stream<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.file.len.saturating_sub(self.at);
        let most = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.file.fill(self.at, &mut into[..most])?;
        self.at += most as u64;
        Ok(most)
    }
}

impl Seek for Stream<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.file.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seek before the start"))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, [0, 1, 2, 3]).unwrap();
        let file = Positioned::open(&path).unwrap();
        let mut two = [0; 2];
        file.read(1, &mut two).unwrap();
        assert_eq!(two, [1, 2]);
        assert!(file.read(3, &mut two).is_err());
        fs::write(&path, [9; 5]).unwrap();
        assert!(file.read(1, &mut two).unwrap_err().to_string().contains("has changed"));
        assert!(Positioned::open(dir.path()).unwrap_err().to_string().contains("not a regular file"));
    }
}
