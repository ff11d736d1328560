//! JPEG, by `zune-jpeg` in its strict mode: baseline and progressive files of 8 bits a sample. What the library lets
//! pass is looked for here: a file without its end, and sizes beyond our limits.

use zune_jpeg::{
    JpegDecoder,
    errors::DecodeErrors,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use super::{super::Picture, Budget, problems};

/// Most scans of one file: a progressive encoder writes about ten; each costs a pass over the image.
const SCANS: usize = 256;

/// Reads a JPEG file: grey, or RGB.
pub fn read(data: &[u8], budget: Budget) -> Result<Picture, String> {
    let outline = Outline::of(data).ok_or(problems::CUT)?;
    outline.check()?;
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_max_scans(SCANS)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(data), options);
    decoder.decode_headers().map_err(problem)?;
    let (Some(info), Some(colours)) = (decoder.info(), decoder.input_colorspace()) else {
        return Err("is damaged: it has no image".into());
    };
    let parts = usize::from(info.components);
    if !matches!(parts, 1 | 3 | 4) {
        return Err(unread(&format!("a JPEG file of {parts} colour components")));
    }
    let size = [info.height, info.width].map(usize::from);
    let channels = if colours == ColorSpace::Luma { 1 } else { 3 };
    budget.side(size)?;
    budget.bytes(needed(size, channels, if outline.scans > 1 { parts } else { 0 }))?;
    if channels == 1 {
        decoder.set_options(options.jpeg_set_out_colorspace(ColorSpace::Luma));
    }
    let mut pixels = vec![0; size[0] * size[1] * channels];
    decoder.decode_into(&mut pixels).map_err(problem)?;
    Ok(Picture::of_bytes(size, channels, pixels))
}

/// Bytes of the result, and of the coefficients of `kept` components, which files of several scans need at once: 16 bits
/// each, the sides rounded up to the largest unit (MCU).
fn needed([height, width]: [usize; 2], channels: usize, kept: usize) -> u64 {
    let whole = height.next_multiple_of(32) as u64 * width.next_multiple_of(32) as u64;
    (height * width * channels) as u64 + whole * 2 * kept as u64
}

/// What the markers of a file say.
#[derive(Default)]
struct Outline {
    /// The marker of its first frame; 0: none.
    frame: u8,
    /// Of each colour component the samples in a unit (MCU), across and down.
    sampling: Vec<[u8; 2]>,
    scans: usize,
    /// Colour components of the last scan.
    in_scan: u8,
}

impl Outline {
    /// None if the marker that ends the image (EOI) does not come.
    fn of(data: &[u8]) -> Option<Self> {
        let mut outline = Self::default();
        let mut at = 2;
        loop {
            // codes of a scan, and bytes that belong to nothing, are passed over
            let segment = |two: &[u8]| two[0] == 0xff && !matches!(two[1], 0 | 0x01 | 0xd0..=0xd8 | 0xff);
            at += data.get(at..)?.windows(2).position(segment)?;
            let marker = data[at + 1];
            if marker == 0xd9 {
                return Some(outline);
            }
            let length = data.get(at + 2..)?.first_chunk().copied().map(u16::from_be_bytes)?;
            match marker {
                0xda => {
                    outline.scans += 1;
                    outline.in_scan = data.get(at + 4).copied()?;
                }
                0xc4 | 0xc8 | 0xcc => {}
                0xc0..=0xcf if outline.frame == 0 => {
                    outline.frame = marker;
                    let parts = data.get(at + 10..at + 2 + usize::from(length)).unwrap_or_default();
                    outline.sampling =
                        parts.chunks_exact(3).map(|part| [part[1] >> 4, part[1] & 15]).collect();
                }
                _ => {}
            }
            at += 2 + usize::from(length);
        }
    }

    /// Refuses by its name what the library does not read, and what it reads wrongly without a word.
    fn check(&self) -> Result<(), String> {
        let parts = self.sampling.len();
        let separate = self.scans > 1 || self.scans == 1 && usize::from(self.in_scan) != parts;
        let finest = |axis: usize| self.sampling.iter().map(|sampling| sampling[axis]).max();
        let first = |axis: usize| self.sampling.first().map(|sampling| sampling[axis]);
        let kind = match self.frame {
            0xc3 | 0xc7 | 0xcb | 0xcf => "a lossless JPEG file",
            0xc9 | 0xca | 0xcd | 0xce => "a JPEG file with arithmetic codes",
            0xc5 | 0xc6 => "a hierarchical JPEG file",
            0xc0 | 0xc1 if separate => "a baseline JPEG file with its colours in separate scans",
            _ if self.scans > SCANS => "a JPEG file of more scans than any encoder writes",
            _ if [0, 1].iter().any(|&axis| finest(axis) > first(axis)) => {
                "a JPEG file whose first colour component is coarser than another"
            }
            _ => return Ok(()),
        };
        Err(unread(kind))
    }
}

fn unread(what: &str) -> String {
    format!("is {what}, which is not read; convert it to a plain JPEG or PNG file")
}

fn problem(e: DecodeErrors) -> String {
    match e {
        DecodeErrors::ExhaustedData => problems::LACKS.into(),
        DecodeErrors::ZeroError => "has no pixels".into(),
        other => format!("is damaged: {other:?}"),
    }
}
