//! [`Tensor`]: an array of a file, still on disk.

use std::{
    io::{BufReader, Read},
    sync::Arc,
};

use super::{
    element::Element,
    positioned::{Positioned, Stream},
};
use crate::{Error, Result, error::printable};

/// Bytes read at a time; a multiple of every element's size.
const BLOCK: usize = 1 << 18;

/// The most that deflate can shrink.
const DEFLATE: u64 = 1032;

/// An array of a file: all of its values are known to lie in the file, none is read.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name in its file.
    pub name: String,
    pub element: Element,
    /// Not empty; no dimension is 0.
    pub shape: Vec<usize>,
    /// The first dimension runs fastest, not the last.
    pub fortran: bool,
    pub place: Place,
    pub file: Arc<Positioned>,
}

/// Where an array's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this byte of the file.
    At(u64),
    /// In the deflated zip member of this number, from its byte `skip` on.
    Deflated { member: usize, skip: u64 },
    /// In the gzipped file, from its byte `skip` on.
    Gzip { skip: u64 },
}

/// An array of a file, or why it cannot be used: what is not asked for need not be readable.
#[derive(Clone, Debug)]
pub struct Member {
    pub name: String,
    pub tensor: Result<Tensor, String>,
}

impl Tensor {
    /// Checks that the values, `room` bytes in the file, are as many as the shape says.
    pub fn checked(self, room: u64) -> Result<Self, String> {
        let shape = format!("{:?}", self.shape);
        if self.shape.is_empty() || self.shape.contains(&0) {
            return Err(format!("has the shape {shape}: no values"));
        }
        let bytes = self.shape.iter().try_fold(self.element.size() as u64, |all, &side| {
            all.checked_mul(u64::try_from(side).unwrap_or(u64::MAX))
        });
        match bytes {
            Some(bytes) if bytes == room && usize::try_from(bytes).is_ok() => Ok(self),
            Some(bytes) => Err(format!("{shape} needs {bytes} bytes, but the file has {room} for it")),
            None => Err(format!("has the shape {shape}, more than any file holds")),
        }
    }

    /// Whether `compressed` bytes can hold a deflated member of `size` bytes.
    pub fn can_hold(compressed: u64, size: u64) -> bool {
        size <= compressed.saturating_mul(DEFLATE).saturating_add(BLOCK as u64)
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether single rows can be read.
    pub fn is_seekable(&self) -> bool {
        matches!(self.place, Place::At(_)) && (!self.fortran || self.shape.len() == 1)
    }

    /// Bytes of the row `row` of `numel` elements each; None unless it [`is_seekable`](Self::is_seekable).
    ///
    /// # Errors
    /// The file cannot be read or has changed.
    pub fn row(&self, row: usize, numel: usize) -> Result<Option<Vec<u8>>> {
        let (Place::At(at), true) = (self.place, self.is_seekable()) else { return Ok(None) };
        let mut bytes = vec![0; numel * self.element.size()];
        self.file.read(at + (row as u64) * (bytes.len() as u64), &mut bytes)?;
        Ok(Some(bytes))
    }

    /// Calls `each` with all values as they are in the file, a block of whole elements at a time.
    ///
    /// # Errors
    /// Those of `each`; the file cannot be read, has changed, or what is deflated is damaged.
    pub fn stream(&self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match self.place {
            Place::At(start) => {
                let bytes = self.numel() * self.element.size();
                let mut block = vec![0; bytes.min(BLOCK)];
                for at in (0..bytes).step_by(BLOCK) {
                    let part = &mut block[..BLOCK.min(bytes - at)];
                    self.file.read(start + at as u64, part)?;
                    each(part)?;
                }
            }
            Place::Deflated { member, skip } => {
                let stream = Stream { file: &self.file, at: 0 };
                let mut archive = zip::ZipArchive::new(stream).map_err(|e| self.damaged(&e))?;
                let mut reader = archive.by_index(member).map_err(|e| self.damaged(&e))?;
                self.unpack(&mut reader, skip, each)?;
            }
            Place::Gzip { skip } => {
                let stream = BufReader::new(Stream { file: &self.file, at: 0 });
                self.unpack(&mut flate2::bufread::MultiGzDecoder::new(stream), skip, each)?;
            }
        }
        Ok(())
    }

    /// The values in `reader` behind `skip` bytes, which must be all that it has.
    fn unpack(
        &self,
        reader: &mut dyn Read,
        skip: u64,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let bytes = self.numel() * self.element.size();
        let mut block = vec![0; bytes.min(BLOCK)];
        std::io::copy(&mut reader.take(skip), &mut std::io::sink()).map_err(|e| self.damaged(&e))?;
        for at in (0..bytes).step_by(BLOCK) {
            let part = &mut block[..BLOCK.min(bytes - at)];
            reader.read_exact(part).map_err(|e| self.damaged(&e))?;
            each(part)?;
        }
        // the checksum is compared at the end
        if reader.read(&mut [0; 1]).map_err(|e| self.damaged(&e))? != 0 {
            return Err(self.damaged(&"it is longer than it says"));
        }
        self.file.unchanged()
    }

    fn damaged(&self, e: &dyn std::fmt::Display) -> Error {
        let name = printable(&self.name);
        Error::images(self.file.path.display(), format!("\"{name}\" cannot be unpacked: {e}"))
    }
}
