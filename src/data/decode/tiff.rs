//! TIFF, by the crate `tiff`: the first page, in strips or tiles; plain, PackBits, LZW and Deflate; 1 to 16 bits; grey,
//! palette, RGB, CMYK. From samples to pixels, and to the side that is up, it is ours.

use std::io::{Cursor, ErrorKind};

use ::tiff::{
    ColorType, TiffError,
    decoder::{Decoder, DecodingResult, Limits},
    tags::Tag,
};

use super::{
    super::{Picture, limits},
    Budget, Decoded,
    problems::CUT,
    samples,
};

type Reader<'a> = Decoder<Cursor<&'a [u8]>>;

const PALETTE: u16 = 3;

/// Reads the first page of a TIFF file.
pub fn read(data: &[u8], budget: Budget) -> Result<Decoded, String> {
    let mut reader = open(data)?;
    let palette = match number(&mut reader, Tag::PhotometricInterpretation, 1)? {
        PALETTE => Some(palette(&mut reader)?),
        _ => None,
    };
    let relabelled;
    if palette.is_some() {
        relabelled = as_grey(data, &mut reader)?;
        reader = open(&relabelled)?;
    }
    let page = Page::of(&mut reader, budget)?;
    let mut samples = page.samples(&mut reader)?;
    let colours = page.colour.num_samples().into();
    let alpha = if page.alpha { samples::alpha(&samples, colours, page.colours()) } else { None };
    let alpha = alpha.map(|alpha| turned(page.size, 1, alpha, page.orientation).1);
    if page.associated && colours > 3 {
        samples.chunks_exact_mut(colours).for_each(unassociate);
    }
    let (channels, pixels) = match (palette, page.colour) {
        (Some(palette), _) => (3, samples::look_up(&samples, &palette)),
        (None, ColorType::CMYK(_) | ColorType::CMYKA(_)) => (3, samples::cmyk(&samples, colours)),
        _ => (page.colours(), samples::first(samples, colours, page.colours())),
    };
    let scale = if channels == 1 { samples::scale(page.bits.into()) } else { 1 };
    let pixels = if scale == 1 { pixels } else { pixels.into_iter().map(|v| v * scale).collect() };
    let (size, pixels) = turned(page.size, channels, pixels, page.orientation);
    Ok((Picture::of_bytes(size, channels, pixels), alpha))
}

fn open(data: &[u8]) -> Result<Reader<'_>, String> {
    let mut most = Limits::default();
    most.decoding_buffer_size = limits::DECODER_BYTES as usize;
    most.intermediate_buffer_size = limits::FILE_BYTES as usize;
    Ok(Decoder::new(Cursor::new(data)).map_err(problem)?.with_limits(most))
}

/// The first value of a tag.
fn number(reader: &mut Reader<'_>, tag: Tag, default: u16) -> Result<u16, String> {
    let all = reader.find_tag_unsigned_vec(tag).map_err(problem)?;
    Ok(all.and_then(|all| all.first().copied()).unwrap_or(default))
}

/// What the first page's tags say.
struct Page {
    /// Height and width.
    size: [usize; 2],
    /// Kind and number of the samples of a pixel as the library gives them.
    colour: ColorType,
    bits: u8,
    /// The first sample behind the colours is opacity, which the colours are multiplied with or not.
    alpha: bool,
    associated: bool,
    orientation: u16,
}

impl Page {
    fn of(reader: &mut Reader<'_>, budget: Budget) -> Result<Self, String> {
        let (width, height) = reader.dimensions().map_err(problem)?;
        let size = [height as usize, width as usize];
        let colour = reader.colortype().map_err(problem)?;
        let bits = colour.bit_depth();
        let stored = number(reader, Tag::SamplesPerPixel, 1)?;
        let unread = |what| Err(format!("is a TIFF file {what}, which is not read; convert it to PNG"));
        let known = matches!(
            colour,
            ColorType::Gray(_)
                | ColorType::Multiband { .. }
                | ColorType::RGB(_)
                | ColorType::RGBA(_)
                | ColorType::CMYK(_)
                | ColorType::CMYKA(_)
        );
        if !known || !matches!(bits, 1 | 2 | 4 | 8 | 16) || bits < 8 && stored > 1 || stored > 8 {
            return unread(format!("of {stored} samples of {bits} bits ({colour:?})"));
        }
        if number(reader, Tag::PlanarConfiguration, 1)? == 2 && stored > 1 {
            return unread("with its colours in separate planes".into());
        }
        if number(reader, Tag::FillOrder, 1)? == 2 {
            return unread("with the bits of its bytes in reverse".into());
        }
        // the library would undo the differences when it has dropped samples already
        if number(reader, Tag::Predictor, 1)? == 2 && stored != colour.num_samples() {
            return unread("of differences between pixels with more samples than colours".into());
        }
        let wide = if bits == 16 { 2 } else { 1 };
        // the library's samples, ours, the result
        budget.pixels(size, usize::from(colour.num_samples()) * (1 + wide) + 4)?;
        // of all pieces together: a small image in vast tiles would take forever
        let (across, down) = reader.chunk_dimensions();
        let [across, down] = [u64::from(across), u64::from(down.min(height))];
        let pieces = u64::from(width).div_ceil(across) * u64::from(height).div_ceil(down);
        let per_pixel = u64::from(stored) * wide as u64;
        budget.bytes([across, down, per_pixel].into_iter().fold(pieces, u64::saturating_mul))?;
        let extra = number(reader, Tag::ExtraSamples, 0)?;
        Ok(Self {
            size,
            colour,
            bits,
            alpha: matches!(extra, 1 | 2),
            associated: extra == 1 && matches!(colour, ColorType::RGBA(_)),
            orientation: number(reader, Tag::Orientation, 1)?,
        })
    }

    /// Samples of a pixel that are colours.
    fn colours(&self) -> usize {
        match self.colour {
            ColorType::Gray(_) | ColorType::Multiband { .. } => 1,
            ColorType::CMYK(_) | ColorType::CMYKA(_) => 4,
            _ => 3,
        }
    }

    /// All samples, interleaved, 8 bits each; those of fewer bits as they are stored.
    fn samples(&self, reader: &mut Reader<'_>) -> Result<Vec<u8>, String> {
        let [height, width] = self.size;
        match reader.read_image().map_err(problem)? {
            DecodingResult::U8(packed) if self.bits < 8 => {
                let mut out = Vec::with_capacity(height * width);
                let row = (width * usize::from(self.bits)).div_ceil(8);
                packed
                    .chunks_exact(row)
                    .for_each(|row| samples::unpack(row, self.bits.into(), width, &mut out));
                Ok(out)
            }
            DecodingResult::U8(samples) => Ok(samples),
            DecodingResult::U16(samples) => Ok(samples.into_iter().map(samples::narrow).collect()),
            _ => Err(
                "is a TIFF file of signed or floating-point samples, which is not read; convert it to PNG"
                    .into(),
            ),
        }
    }
}

/// The colours that indices stand for.
fn palette(reader: &mut Reader<'_>) -> Result<Vec<[u8; 3]>, String> {
    let bits = number(reader, Tag::BitsPerSample, 1)?;
    let map: Vec<u16> = reader.find_tag_unsigned_vec(Tag::ColorMap).map_err(problem)?.unwrap_or_default();
    if bits > 8 || map.len() != 3 << bits {
        return Err("is damaged: its palette is malformed".into());
    }
    let count = 1 << bits;
    Ok((0..count).map(|i| [0, 1, 2].map(|c| (map[c * count + i] >> 8) as u8)).collect())
}

/// The file with its indices declared grey: the library reads no palettes, but these.
fn as_grey(data: &[u8], reader: &mut Reader<'_>) -> Result<Vec<u8>, String> {
    const DAMAGED: &str = "is damaged: its TIFF header is malformed";
    let start = reader.ifd_pointer().ok_or(DAMAGED)?.0 as usize;
    let (tag, grey) = match data.starts_with(b"MM") {
        true => (262u16.to_be_bytes(), 1u16.to_be_bytes()),
        false => (262u16.to_le_bytes(), 1u16.to_le_bytes()),
    };
    let mut relabelled = data.to_vec();
    // behind their number; each is a tag, its kind, its count, its value
    let entries = relabelled.get_mut(start + 2..).ok_or(DAMAGED)?.as_chunks_mut::<12>().0;
    let entry = entries.iter_mut().find(|entry| entry[..2] == tag).ok_or(DAMAGED)?;
    entry[8..10].copy_from_slice(&grey);
    Ok(relabelled)
}

fn problem(e: TiffError) -> String {
    match e {
        TiffError::IoError(e) if e.kind() == ErrorKind::UnexpectedEof => CUT.into(),
        TiffError::LimitsExceeded => {
            format!("would take more than the limit of {} MiB to decode", limits::DECODER_BYTES >> 20)
        }
        TiffError::UnsupportedError(e) => {
            format!("is a TIFF file of a kind that is not read ({e}); convert it to PNG")
        }
        other => format!("is damaged: {other}"),
    }
}

/// Takes the alpha out of premultiplied colours, as Pillow.
fn unassociate(pixel: &mut [u8]) {
    let (colours, rest) = pixel.split_at_mut(3);
    let alpha = u32::from(rest[0]);
    for colour in colours {
        *colour = match alpha {
            0 => 0,
            _ => (u32::from(*colour) * 255 / alpha).min(255) as u8,
        };
    }
}

/// The picture as its orientation tag says it is to be seen, which Pillow follows in TIFF files.
fn turned(
    [height, width]: [usize; 2],
    channels: usize,
    pixels: Vec<u8>,
    orientation: u16,
) -> ([usize; 2], Vec<u8>) {
    if !(2..=8).contains(&orientation) {
        return ([height, width], pixels);
    }
    let swapped = orientation >= 5;
    let [h, w] = if swapped { [width, height] } else { [height, width] };
    let mut out = Vec::with_capacity(pixels.len());
    for y in 0..h {
        for x in 0..w {
            let [row, column] = match orientation {
                2 => [y, width - 1 - x],
                3 => [height - 1 - y, width - 1 - x],
                4 => [height - 1 - y, x],
                5 => [x, y],
                6 => [height - 1 - x, y],
                7 => [height - 1 - x, width - 1 - y],
                _ => [x, width - 1 - y],
            };
            let at = (row * width + column) * channels;
            out.extend_from_slice(&pixels[at..at + channels]);
        }
    }
    ([h, w], out)
}
