//! BMP: palettes, 16, 24 and 32 bits, bit fields, run lengths; OS/2 and Windows headers.

use super::{super::Picture, Budget, problems::CUT, samples};

const HEADER: &str = "is damaged: its BMP header is malformed";

/// What the headers say.
struct Header {
    /// Height and width.
    size: [usize; 2],
    top_down: bool,
    bits: u32,
    compression: u32,
    /// Where the pixels begin in the file.
    pixels: usize,
    palette: Vec<[u8; 3]>,
    /// Bits of red, green and blue in a pixel of 16 or 32 bits.
    masks: [u32; 3],
}

/// Reads a BMP file.
pub fn read(data: &[u8], budget: Budget) -> Result<Picture, String> {
    let header = Header::parse(data)?;
    let [height, width] = header.size;
    budget.pixels(header.size, 4)?;
    let body = data.get(header.pixels..).ok_or(CUT)?;
    let mut pixels = Vec::with_capacity(height * width * 3);
    if matches!(header.compression, 1 | 2) {
        let indices = unpack_runs(body, header.size, header.compression == 2)?;
        pixels = samples::look_up(&indices, &header.palette);
    } else {
        let stride = (width * header.bits as usize).div_ceil(32) * 4;
        // the last row may lack its padding
        let used = (width * header.bits as usize).div_ceil(8);
        if body.len() < stride * (height - 1) + used {
            return Err(CUT.into());
        }
        for row in body.chunks(stride).take(height) {
            header.row(&row[..used], &mut pixels);
        }
    }
    if !header.top_down {
        pixels = pixels.chunks_exact(width * 3).rev().flatten().copied().collect();
    }
    Ok(Picture::of_bytes(header.size, 3, pixels))
}

impl Header {
    fn parse(data: &[u8]) -> Result<Self, String> {
        let u16_at = |at: usize| {
            data.get(at..).and_then(|d| d.first_chunk()).map(|b| u16::from_le_bytes(*b)).ok_or(CUT)
        };
        let u32_at = |at: usize| {
            data.get(at..).and_then(|d| d.first_chunk()).map(|b| u32::from_le_bytes(*b)).ok_or(CUT)
        };
        let length = u32_at(14)? as usize;
        let core = length == 12;
        if !core && !matches!(length, 16 | 40 | 52 | 56 | 64 | 108 | 124) {
            return Err(HEADER.into());
        }
        let (width, height, bits) = match core {
            true => (u16_at(18)?.into(), i32::from(u16_at(20)?), u16_at(24)?),
            false => (u32_at(18)?, u32_at(22)? as i32, u16_at(28)?),
        };
        let compression = if core || length < 40 { 0 } else { u32_at(30)? };
        let bits = u32::from(bits);
        match (compression, bits) {
            (0, 1 | 4 | 8 | 16 | 24 | 32) | (1, 8) | (2, 4) | (3 | 6, 16 | 24 | 32) => {}
            (4 | 5, _) => return Err("is a BMP file around a JPEG or PNG image, which is not read".into()),
            _ => {
                return Err(format!(
                    "is a BMP file of {bits} bits and compression {compression}, which is not read"
                ));
            }
        }
        let fields = matches!(compression, 3 | 6);
        let masks = match (fields, bits) {
            (true, _) => [u32_at(54)?, u32_at(58)?, u32_at(62)?],
            (false, 16) => [0x7c00, 0x03e0, 0x001f],
            _ => [0xff_0000, 0xff00, 0xff],
        };
        // masks behind the oldest Windows header stand where the palette would
        let behind =
            14 + length + if fields && length == 40 { if compression == 6 { 16 } else { 12 } } else { 0 };
        let used = if core || length < 40 { 0 } else { u32_at(46)? as usize };
        let palette = if bits > 8 {
            Vec::new()
        } else {
            let count = if used == 0 { 1 << bits } else { used.min(1 << bits) };
            let entry = if core { 3 } else { 4 };
            let bytes = data.get(behind..behind + count * entry).ok_or(CUT)?;
            bytes.chunks_exact(entry).map(|e| [e[2], e[1], e[0]]).collect()
        };
        Ok(Self {
            size: [height.unsigned_abs() as usize, width as usize],
            top_down: height < 0,
            bits,
            compression,
            pixels: u32_at(10)? as usize,
            palette,
            masks,
        })
    }

    /// Appends one stored row as RGB.
    fn row(&self, row: &[u8], out: &mut Vec<u8>) {
        match self.bits {
            bits @ ..8 => {
                let mut indices = Vec::with_capacity(self.size[1]);
                samples::unpack(row, bits, self.size[1], &mut indices);
                out.extend(samples::look_up(&indices, &self.palette));
            }
            8 => out.extend(samples::look_up(row, &self.palette)),
            bits => {
                for pixel in row.chunks_exact(bits as usize / 8) {
                    let value = pixel.iter().rev().fold(0, |all, &byte| all << 8 | u32::from(byte));
                    out.extend(self.masks.map(|mask| field(value, mask)));
                }
            }
        }
    }
}

/// The bits of `mask` in `value`, scaled to 255.
fn field(value: u32, mask: u32) -> u8 {
    if mask == 0 {
        return 0;
    }
    let shift = mask.trailing_zeros();
    let most = u64::from(mask >> shift);
    (u64::from((value & mask) >> shift) * 255 / most) as u8
}

/// Run lengths of 8-bit indices, or of pairs of 4-bit ones. Pixels that are passed over are 0.
fn unpack_runs(data: &[u8], [height, width]: [usize; 2], halves: bool) -> Result<Vec<u8>, String> {
    let mut out = vec![0; height * width];
    let (mut x, mut y) = (0, 0);
    let mut bytes = data.iter().copied();
    let mut put = |x: &mut usize, y: usize, value: u8| {
        if *x < width && y < height {
            out[y * width + *x] = value;
        }
        *x += 1;
    };
    let part = |byte: u8, i: usize| match (halves, i % 2) {
        (false, _) => byte,
        (true, 0) => byte >> 4,
        (true, _) => byte & 15,
    };
    loop {
        let (count, value) = (bytes.next().ok_or(CUT)?, bytes.next().ok_or(CUT)?);
        match (count, value) {
            (0, 0) => (x, y) = (0, y + 1),
            (0, 1) => return Ok(out),
            (0, 2) => {
                x += usize::from(bytes.next().ok_or(CUT)?);
                y += usize::from(bytes.next().ok_or(CUT)?);
            }
            (0, count) => {
                let count = usize::from(count);
                let stored = if halves { count.div_ceil(2) } else { count };
                let mut byte = 0;
                for i in 0..count {
                    if !halves || i % 2 == 0 {
                        byte = bytes.next().ok_or(CUT)?;
                    }
                    put(&mut x, y, part(byte, i));
                }
                if stored % 2 == 1 {
                    bytes.next();
                }
            }
            (count, value) => (0..usize::from(count)).for_each(|i| put(&mut x, y, part(value, i))),
        }
        if y > height {
            return Err("is damaged: it has more rows than its header says".into());
        }
    }
}
