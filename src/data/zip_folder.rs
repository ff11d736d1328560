//! [`ZipFolder`]: a zip archive of image folders. Members are unpacked in memory, one at a time; nothing is written, and
//! a member's path is but a name.

use std::{
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use flate2::{Crc, bufread::DeflateDecoder};
use zip::{CompressionMethod, ZipArchive, read::ZipFileEntry};

use super::{
    Classes, Picture, Role, Source,
    array_files::positioned::{Positioned, Stream},
    decode, limits, listing, nearest, splits,
};
use crate::{Error, Result, error::printable};

/// Most bytes that listing an archive may read: two million members of about 250 bytes.
const DIRECTORY_BYTES: u64 = 512 << 20;

/// Bytes of a member's header before its name.
const HEADER: usize = 30;

/// Most bytes that one byte of deflated data can stand for.
const DEFLATE: u64 = 1032;

/// The listing of a zip archive of `<class>/<file>` or of files only; folders around all of it are passed over. No image is
/// unpacked yet. The rules of [`Folder`](super::Folder) hold for what is an image, and for the order.
#[derive(Debug)]
pub struct ZipFolder {
    file: Positioned,
    /// Class by class.
    members: Vec<Member>,
    /// Name of each class and its number of images; empty without class folders.
    classes: Vec<(String, usize)>,
    passed_over: usize,
}

/// An image in the archive.
#[derive(Debug)]
struct Member {
    name: String,
    /// Where its header stands.
    header: u64,
    packed: u64,
    size: u64,
    crc: u32,
    deflated: bool,
}

impl ZipFolder {
    /// Whether `path` is called like a zip archive.
    pub(super) fn recognises(path: &Path) -> bool {
        path.extension().is_some_and(|e| e.eq_ignore_ascii_case("zip")) && path.is_file()
    }

    /// Lists an archive.
    ///
    /// # Errors
    /// It cannot be read, is damaged or encrypted, has a name twice, names that lead out of it, or links; otherwise as
    /// [`Folder::clean`](super::Folder::clean) and [`Folder::triggered`](super::Folder::triggered).
    pub fn open(path: &Path, role: Role) -> Result<Self> {
        let file = Positioned::open(path)?;
        let mut listed = Listed::read(&file)?;
        listed.strip(role);
        let (members, classes) = listed.sorted(path, role)?;
        Ok(Self { file, members, classes, passed_over: listed.passed_over })
    }

    /// A member's content.
    fn unpacked(&self, member: &Member) -> Result<Vec<u8>, String> {
        let read = |at, bytes: &mut [u8]| self.file.read(at, bytes).map_err(|e| e.to_string());
        let mut header = [0; HEADER];
        read(member.header, &mut header)?;
        let length = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
        if !header.starts_with(b"PK\x03\x04") {
            return Err("has no header where the archive says".into());
        }
        let start = member.header + HEADER as u64 + length(26) + length(28);
        if start.checked_add(member.packed).is_none_or(|end| end > self.file.len) {
            return Err("is cut short: the archive ends before it does".into());
        }
        let mut packed = vec![0; member.packed as usize];
        read(start, &mut packed)?;
        let bytes = if member.deflated {
            let mut bytes = Vec::with_capacity(member.size as usize);
            // one byte more than it says, to see that it has not more
            let unpacked =
                DeflateDecoder::new(packed.as_slice()).take(member.size + 1).read_to_end(&mut bytes);
            unpacked.map_err(|e| format!("cannot be unpacked: {e}"))?;
            bytes
        } else {
            packed
        };
        let mut crc = Crc::new();
        crc.update(&bytes);
        if bytes.len() as u64 != member.size || crc.sum() != member.crc {
            return Err("is damaged: its size or checksum is wrong".into());
        }
        Ok(bytes)
    }

    fn full_name(&self, member: &Member) -> String {
        format!("{}/{}", self.file.path.display(), printable(&member.name))
    }
}

impl Source for ZipFolder {
    fn name(&self) -> String {
        self.file.path.display().to_string()
    }

    fn count(&self) -> usize {
        self.members.len()
    }

    fn row_name(&self, row: usize) -> String {
        self.full_name(&self.members[row])
    }

    fn classes(&self) -> Option<Classes> {
        let names = || self.classes.iter().map(|(name, _)| name.clone()).collect();
        (!self.classes.is_empty()).then(|| Classes(names()))
    }

    fn labels(&self, classes: &Classes) -> Result<Option<Vec<u32>>> {
        let mut labels = Vec::new();
        for (name, count) in &self.classes {
            let label = classes.position(name).ok_or_else(|| {
                let hint = nearest(name, classes.0.iter().map(String::as_str));
                let name = printable(name);
                let problem = format!("class \"{name}\" is not one of the {}{hint}", classes.len());
                Error::images(self.name(), problem)
            })?;
            labels.resize(labels.len() + count, label);
        }
        Ok((!self.classes.is_empty()).then_some(labels))
    }

    fn picture(&self, row: usize) -> Result<Picture> {
        let member = &self.members[row];
        let picture = self.unpacked(member).and_then(|bytes| decode::picture(&bytes));
        picture.map_err(|problem| Error::images(self.full_name(member), problem))
    }

    fn memory(&self) -> usize {
        self.members.iter().map(|member| size_of::<Member>() + member.name.len()).sum()
    }

    fn passed_over(&self) -> usize {
        self.passed_over
    }
}

/// What is in an archive.
#[derive(Default)]
struct Listed {
    images: Vec<Member>,
    /// Other folders and files that are not hidden: they may be classes without images.
    others: Vec<String>,
    passed_over: usize,
    /// Bytes of folders around everything, at the start of each name.
    around: usize,
}

impl Listed {
    fn read(file: &Positioned) -> Result<Self> {
        let path = file.path.display();
        let damaged =
            |e: &dyn std::fmt::Display| Error::images(&path, format!("is no whole zip archive: {e}"));
        let directory = Capped { stream: Stream { file, at: 0 }, left: DIRECTORY_BYTES };
        let archive = ZipArchive::new(directory).map_err(|e| damaged(&e))?;
        if archive.has_duplicate_names() {
            return Err(Error::images(
                &path,
                "has two members of the same name; unpack it and name the folder",
            ));
        }
        if archive.len() > limits::FILES {
            return Err(Error::images(&path, format!("more than {} members", limits::FILES)));
        }
        let metadata = archive.metadata();
        let mut listed = Self::default();
        for i in 0..metadata.len() {
            let entry = metadata.entry(i).map_err(|e| damaged(&e))?;
            let name = entry.name().map_err(|e| damaged(&e))?.replace('\\', "/");
            let refused = |problem: &str| {
                let name = printable(&name);
                let problem = format!("{problem}; unpack the archive and name the folder");
                Error::images(format!("{path}/{name}"), problem)
            };
            let leaves = |part: &str| part == ".." || part.contains(['\0', ':']);
            if name.starts_with('/') || name.split('/').any(leaves) {
                return Err(refused("has a name that leads out of the archive"));
            }
            listed.add(&entry, name.clone()).map_err(refused)?;
        }
        Ok(listed)
    }

    fn add(&mut self, entry: &ZipFileEntry<'_>, name: String) -> Result<(), &'static str> {
        let hidden = name.split('/').any(|part| listing::is_hidden(part.as_bytes()));
        let is_folder = entry.is_dir() || name.ends_with('/');
        let last = name.rsplit('/').next().unwrap_or_default();
        if hidden || is_folder || !listing::is_image(last.as_bytes()) {
            self.passed_over += usize::from(!is_folder);
            if !hidden {
                self.others.push(name);
            }
            return Ok(());
        }
        let (packed, size) = (entry.compressed_size(), entry.size());
        if entry.is_symlink() {
            return Err("is a link");
        }
        if entry.encrypted() {
            return Err("is encrypted");
        }
        let deflated = match entry.compression() {
            CompressionMethod::Stored if packed == size => false,
            CompressionMethod::Deflated if size / DEFLATE <= packed => true,
            CompressionMethod::Stored | CompressionMethod::Deflated => return Err("has impossible sizes"),
            _ => return Err("is packed in another way than Deflate"),
        };
        if size.max(packed) > limits::FILE_BYTES {
            return Err("is larger than 64 MiB");
        }
        self.images.push(Member {
            name,
            header: entry.header_start(),
            packed,
            size,
            crc: entry.crc32(),
            deflated,
        });
        Ok(())
    }

    /// Leaves out folders around everything. A folder around files only is one too, unless it may be the only class.
    fn strip(&mut self, role: Role) {
        while let Some(first) = self.images.first() {
            let Some(end) = first.name[self.around..].find('/') else { return };
            let top = first.name[..=self.around + end].to_owned();
            let below = |member: &Member| member.name.strip_prefix(&top).map(|rest| rest.contains('/'));
            let deep: Option<Vec<bool>> = self.images.iter().map(below).collect();
            let Some(deep) = deep else { return };
            let flat = deep.iter().all(|deep| !deep) && role == Role::Clean;
            let siblings = self.others.iter().any(|name| name[..].contains('/') && !name.starts_with(&top));
            if siblings || !(flat || deep.iter().all(|&deep| deep)) {
                return;
            }
            self.around = top.len();
        }
    }

    /// The images class by class, and the classes.
    fn sorted(&mut self, path: &Path, role: Role) -> Result<(Vec<Member>, Vec<(String, usize)>)> {
        let around = self.around;
        let class =
            |name: &str| name.get(around..).and_then(|rest| rest.split_once('/')).map(|(c, _)| c.to_owned());
        let refuse = |problem: String| Err(Error::images(path.display(), problem));
        let mut images = std::mem::take(&mut self.images);
        images.sort_by(|a, b| (class(&a.name), &a.name).cmp(&(class(&b.name), &b.name)));
        if let Some(two) = images.windows(2).find(|two| two[0].name == two[1].name) {
            return refuse(format!("has two members called {}", printable(&two[0].name)));
        }
        let mut classes: Vec<(String, usize)> = Vec::new();
        let names = images.iter().map(|member| &member.name).chain(&self.others);
        classes.extend(names.filter_map(|name| class(name)).map(|name| (name, 0)));
        classes.sort();
        classes.dedup();
        for member in &images {
            match class(&member.name).map(|name| classes.binary_search_by(|(own, _)| own.cmp(&name))) {
                Some(Ok(at)) => classes[at].1 += 1,
                _ if classes.iter().all(|(_, count)| *count == 0)
                    && images.iter().all(|m| class(&m.name).is_none()) =>
                {
                    classes.clear();
                    break;
                }
                _ => {
                    let name = printable(&member.name);
                    return refuse(format!(
                        "{name} is an image next to class folders; put all into class folders"
                    ));
                }
            }
        }
        let also = listing::also_passed_over(self.passed_over);
        if images.is_empty() {
            return refuse(format!(
                "no images; expected {} in one folder per class{also}",
                listing::EXPECTED
            ));
        }
        if splits::are_parts(classes.iter().map(|(name, _)| name.as_str())) {
            return refuse(
                "holds the parts of a data set, not its classes; unpack it and name one of them".into(),
            );
        }
        let empty = classes.iter().find(|(_, count)| *count == 0);
        match (role, classes.as_slice(), empty) {
            (Role::Clean, _, Some((name, _))) => {
                refuse(format!("class folder \"{}\" without images{also}", printable(name)))
            }
            (Role::Clean, [(name, _)], _) => {
                refuse(format!("only one class (\"{}\"), but at least two are needed", printable(name)))
            }
            (Role::Triggered, [], _) => refuse(
                "no class folders; triggered images must be in folders named after their true class".into(),
            ),
            _ => Ok((images, classes)),
        }
    }
}

/// A stream of which only so many bytes may be read.
struct Capped<'f> {
    stream: Stream<'f>,
    left: u64,
}

impl Read for Capped<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(into)?;
        let left = self.left.checked_sub(read as u64);
        self.left = left.ok_or_else(|| io::Error::other("its directory is too large"))?;
        Ok(read)
    }
}

impl Seek for Capped<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.stream.seek(to)
    }
}
