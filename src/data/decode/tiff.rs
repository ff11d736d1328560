//! TIFF: the first page, in strips or tiles; plain, PackBits, LZW and Deflate; 1 to 16 bits; grey, palette, RGB, CMYK.

mod tags;
mod unpack;

use tags::{MALFORMED, Tag, Tags};

use super::{super::Picture, Budget, Decoded, problems::CUT, samples};

/// What the first page's tags say.
struct Page {
    /// Height and width.
    size: [usize; 2],
    bits: u32,
    compression: u32,
    colours: Colours,
    /// Stored samples of a pixel.
    per_pixel: usize,
    /// Each sample in a plane of its own.
    planar: bool,
    /// Samples are differences to the pixel on the left.
    differences: bool,
    big_endian: bool,
    /// The first pixel is in the lowest bit of a byte.
    reversed_bits: bool,
    /// Height and width of a strip or tile, and whether the ones at the edge are whole.
    piece: [usize; 2],
    tiled: bool,
    /// The first sample behind the colours is opacity, which the colours are multiplied with or not.
    alpha: bool,
    associated: bool,
    orientation: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colours {
    BlackIsZero,
    WhiteIsZero,
    Rgb,
    Palette,
    Cmyk,
}

impl Colours {
    fn samples(self) -> usize {
        match self {
            Self::BlackIsZero | Self::WhiteIsZero | Self::Palette => 1,
            Self::Rgb => 3,
            Self::Cmyk => 4,
        }
    }
}

/// Reads the first page of a TIFF file.
pub fn read(data: &[u8], budget: Budget) -> Result<Decoded, String> {
    let tags = Tags::parse(data)?;
    let page = Page::parse(&tags)?;
    // a piece (at most 16 bits a sample), the samples, the result
    budget.pixels(page.size, page.per_pixel * 3 + 4)?;
    let samples = page.samples(&tags, data, budget)?;
    let alpha =
        if page.alpha { samples::alpha(&samples, page.per_pixel, page.colours.samples()) } else { None };
    let alpha = alpha.map(|alpha| turned(page.size, 1, alpha, page.orientation).1);
    let (channels, pixels) = page.pixels(&tags, samples)?;
    let (size, pixels) = turned(page.size, channels, pixels, page.orientation);
    Ok((Picture::of_bytes(size, channels, pixels), alpha))
}

impl Page {
    fn parse(tags: &Tags<'_>) -> Result<Self, String> {
        let one = |tag, default| tags.one(tag, default);
        let needed = |tag| {
            tags.one(tag, 0).and_then(|v| if v == 0 { Err(MALFORMED.to_owned()) } else { Ok(v as usize) })
        };
        let size = [needed(Tag::Height)?, needed(Tag::Width)?];
        let depths = tags.all(Tag::BitsPerSample)?.unwrap_or_else(|| vec![1]);
        let unread =
            |what: String| Err(format!("is a TIFF file {what}, which is not read; convert it to PNG"));
        let bits = depths.first().copied().unwrap_or(1);
        if !matches!(bits, 1 | 2 | 4 | 8 | 16) || depths.iter().any(|&d| d != bits) {
            return unread(format!("of {depths:?} bits per sample"));
        }
        if tags.all(Tag::SampleFormat)?.is_some_and(|formats| formats.iter().any(|&f| f != 1)) {
            return unread("of signed or floating-point samples".into());
        }
        let compression = one(Tag::Compression, 1)?;
        if !matches!(compression, 1 | 5 | 8 | 32_773 | 32_946) {
            let name = match compression {
                2..=4 => "fax",
                6 | 7 => "JPEG",
                50_000 => "Zstandard",
                50_001 => "WebP",
                34_925 => "LZMA",
                _ => "unknown",
            };
            return unread(format!("with {name} compression ({compression})"));
        }
        let colours = match one(Tag::Photometric, 1)? {
            0 => Colours::WhiteIsZero,
            1 => Colours::BlackIsZero,
            2 => Colours::Rgb,
            3 => Colours::Palette,
            5 => Colours::Cmyk,
            other => return unread(format!("with colours of kind {other}")),
        };
        let per_pixel = one(Tag::SamplesPerPixel, 1)? as usize;
        let fits =
            (colours.samples()..=8).contains(&per_pixel) && (bits != 16 || colours != Colours::Palette);
        if !fits || bits < 8 && per_pixel > 1 {
            return unread(format!("of {per_pixel} samples of {bits} bits"));
        }
        let predictor = one(Tag::Predictor, 1)?;
        if predictor > 2 || predictor == 2 && bits < 8 {
            return unread(format!("with predictor {predictor}"));
        }
        let extra = tags.all(Tag::ExtraSamples)?.and_then(|extra| extra.first().copied());
        let tiled = tags.has(Tag::TileWidth);
        let piece = if tiled {
            [needed(Tag::TileHeight)?, needed(Tag::TileWidth)?]
        } else {
            [(one(Tag::RowsPerStrip, u32::MAX)? as usize).clamp(1, size[0]), size[1]]
        };
        Ok(Self {
            size,
            bits,
            compression,
            colours,
            per_pixel,
            planar: one(Tag::Planar, 1)? == 2,
            differences: predictor == 2,
            big_endian: tags.big_endian(),
            reversed_bits: one(Tag::FillOrder, 1)? == 2,
            piece,
            tiled,
            alpha: matches!(extra, Some(1 | 2)),
            associated: extra == Some(1),
            orientation: one(Tag::Orientation, 1)?,
        })
    }

    /// All samples, interleaved, 8 bits each; palette indices as they are.
    fn samples(&self, tags: &Tags<'_>, data: &[u8], budget: Budget) -> Result<Vec<u8>, String> {
        let (offsets, lengths) = match self.tiled {
            true => (Tag::TileOffsets, Tag::TileLengths),
            false => (Tag::StripOffsets, Tag::StripLengths),
        };
        let offsets = tags.all(offsets)?.ok_or(MALFORMED)?;
        // files of old programs lack the lengths of their only strip
        let lengths = tags.all(lengths)?.unwrap_or_else(|| vec![u32::MAX; offsets.len().min(1)]);
        let [height, width] = self.size;
        let pieces = [height.div_ceil(self.piece[0]), width.div_ceil(self.piece[1])];
        let planes = if self.planar { self.per_pixel } else { 1 };
        let stored = self.per_pixel / planes;
        let count = pieces[0] * pieces[1] * planes;
        // of all pieces together: a small image in vast tiles would take forever
        let piece = (self.piece[0] as u64).saturating_mul(self.piece[1] as u64 * stored as u64 * 2);
        budget.bytes(piece.saturating_mul(count as u64))?;
        if offsets.len() < count || lengths.len() < count {
            return Err(MALFORMED.into());
        }
        let mut out = vec![0; height * width * self.per_pixel];
        for (i, (&offset, &length)) in offsets.iter().zip(&lengths).take(count).enumerate() {
            let (plane, at) = (i / (pieces[0] * pieces[1]), i % (pieces[0] * pieces[1]));
            let [top, left] = [at / pieces[1] * self.piece[0], at % pieces[1] * self.piece[1]];
            let rows = if self.tiled { self.piece[0] } else { self.piece[0].min(height - top) };
            let bytes = data.get(offset as usize..).ok_or(CUT)?;
            if self.compression != 1 && length != u32::MAX && bytes.len() < length as usize {
                return Err(CUT.into());
            }
            let bytes = &bytes[..bytes.len().min(length as usize)];
            let piece = self.piece(bytes, rows, stored)?;
            let row_samples = self.piece[1] * stored;
            let columns = self.piece[1].min(width - left);
            for (y, row) in piece.chunks_exact(row_samples).enumerate().take(height.saturating_sub(top)) {
                let start = ((top + y) * width + left) * self.per_pixel;
                let target = &mut out[start..start + columns * self.per_pixel];
                for (target, source) in target.chunks_exact_mut(self.per_pixel).zip(row.chunks_exact(stored))
                {
                    target[plane..plane + stored].copy_from_slice(source);
                }
            }
        }
        Ok(out)
    }

    /// The samples of one strip or tile, 8 bits each.
    fn piece(&self, bytes: &[u8], rows: usize, stored: usize) -> Result<Vec<u8>, String> {
        let row_samples = self.piece[1] * stored;
        let row_bytes = (row_samples * self.bits as usize).div_ceil(8);
        let flipped: Vec<u8>;
        let bytes = if self.reversed_bits {
            flipped = bytes.iter().map(|b| b.reverse_bits()).collect();
            &flipped
        } else {
            bytes
        };
        let mut packed = unpack::unpack(bytes, self.compression, row_bytes * rows)?;
        let mut out = Vec::with_capacity(row_samples * rows);
        for row in packed.chunks_exact_mut(row_bytes) {
            match self.bits {
                16 => {
                    let value = |b: &[u8; 2]| {
                        if self.big_endian { u16::from_be_bytes(*b) } else { u16::from_le_bytes(*b) }
                    };
                    let mut values: Vec<u16> = row.as_chunks::<2>().0.iter().map(value).collect();
                    if self.differences {
                        (stored..values.len())
                            .for_each(|i| values[i] = values[i].wrapping_add(values[i - stored]));
                    }
                    out.extend(values.into_iter().map(samples::narrow));
                }
                8 => {
                    if self.differences {
                        (stored..row.len()).for_each(|i| row[i] = row[i].wrapping_add(row[i - stored]));
                    }
                    out.extend_from_slice(row);
                }
                bits => samples::unpack(row, bits, row_samples, &mut out),
            }
        }
        Ok(out)
    }

    /// Channels and pixels from the samples.
    fn pixels(&self, tags: &Tags<'_>, mut samples: Vec<u8>) -> Result<(usize, Vec<u8>), String> {
        match self.colours {
            Colours::BlackIsZero | Colours::WhiteIsZero => {
                let mut grey = samples::first(samples, self.per_pixel, 1);
                let (scale, white) = (samples::scale(self.bits), self.colours == Colours::WhiteIsZero);
                grey.iter_mut().for_each(|v| *v = if white { 255 - *v * scale } else { *v * scale });
                Ok((1, grey))
            }
            Colours::Rgb => {
                if self.associated && self.per_pixel > 3 {
                    samples.chunks_exact_mut(self.per_pixel).for_each(unassociate);
                }
                Ok((3, samples::first(samples, self.per_pixel, 3)))
            }
            Colours::Palette => {
                let map = tags.all(Tag::ColourMap)?.ok_or(MALFORMED)?;
                let count = 1 << self.bits;
                if map.len() != 3 * count {
                    return Err(MALFORMED.into());
                }
                let palette: Vec<_> =
                    (0..count).map(|i| [0, 1, 2].map(|c| (map[c * count + i] >> 8) as u8)).collect();
                Ok((3, samples::look_up(&samples::first(samples, self.per_pixel, 1), &palette)))
            }
            Colours::Cmyk => Ok((3, samples::cmyk(&samples, self.per_pixel))),
        }
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
    orientation: u32,
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
