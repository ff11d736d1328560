//! The tags of a TIFF file's first page.

use super::super::problems::CUT;

pub const MALFORMED: &str = "is damaged: its TIFF header is malformed";

/// Most values of one tag: a strip for every row of the largest image and sample, or a palette.
const VALUES: usize = 1 << 18;

/// The tags that matter here.
#[derive(Clone, Copy)]
pub enum Tag {
    Width = 256,
    Height = 257,
    BitsPerSample = 258,
    Compression = 259,
    Photometric = 262,
    FillOrder = 266,
    StripOffsets = 273,
    Orientation = 274,
    SamplesPerPixel = 277,
    RowsPerStrip = 278,
    StripLengths = 279,
    Planar = 284,
    Predictor = 317,
    ColourMap = 320,
    TileWidth = 322,
    TileHeight = 323,
    TileOffsets = 324,
    TileLengths = 325,
    ExtraSamples = 338,
    SampleFormat = 339,
}

/// The first page's directory.
pub struct Tags<'a> {
    data: &'a [u8],
    big_endian: bool,
    /// Twelve bytes each: tag, type, count, value or its offset.
    entries: &'a [[u8; 12]],
}

impl<'a> Tags<'a> {
    pub fn parse(data: &'a [u8]) -> Result<Self, String> {
        let mut tags = Self { data, big_endian: data.starts_with(b"MM"), entries: &[] };
        let start = tags.u32(data.get(4..8).ok_or(CUT)?) as usize;
        let directory = data.get(start..).ok_or(CUT)?;
        let count = usize::from(tags.u16(directory.get(..2).ok_or(CUT)?));
        // behind the entries stands where the next page is
        tags.entries = directory.get(..6 + 12 * count).ok_or(CUT)?[2..2 + 12 * count].as_chunks().0;
        Ok(tags)
    }

    pub fn big_endian(&self) -> bool {
        self.big_endian
    }

    fn u16(&self, bytes: &[u8]) -> u16 {
        let two = bytes.first_chunk().copied().unwrap_or_default();
        if self.big_endian { u16::from_be_bytes(two) } else { u16::from_le_bytes(two) }
    }

    fn u32(&self, bytes: &[u8]) -> u32 {
        let four = bytes.first_chunk().copied().unwrap_or_default();
        if self.big_endian { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
    }

    fn find(&self, tag: Tag) -> Option<&'a [u8; 12]> {
        self.entries.iter().find(|entry| self.u16(&entry[..2]) == tag as u16)
    }

    pub fn has(&self, tag: Tag) -> bool {
        self.find(tag).is_some()
    }

    /// All values of a tag of whole numbers.
    pub fn all(&self, tag: Tag) -> Result<Option<Vec<u32>>, String> {
        let Some(entry) = self.find(tag) else { return Ok(None) };
        let size = match self.u16(&entry[2..4]) {
            1 => 1,
            3 => 2,
            4 => 4,
            _ => return Err(MALFORMED.into()),
        };
        let count = self.u32(&entry[4..8]) as usize;
        if count > VALUES {
            return Err(MALFORMED.into());
        }
        let bytes = match count * size {
            bytes @ ..=4 => &entry[8..8 + bytes],
            bytes => {
                self.data.get(self.u32(&entry[8..]) as usize..).and_then(|d| d.get(..bytes)).ok_or(CUT)?
            }
        };
        let value = |bytes: &[u8]| match size {
            1 => bytes[0].into(),
            2 => self.u16(bytes).into(),
            _ => self.u32(bytes),
        };
        Ok(Some(bytes.chunks_exact(size).map(value).collect()))
    }

    /// The only value of a tag.
    pub fn one(&self, tag: Tag, default: u32) -> Result<u32, String> {
        match self.all(tag)?.as_deref() {
            None => Ok(default),
            Some([one, ..]) => Ok(*one),
            Some([]) => Err(MALFORMED.into()),
        }
    }
}
