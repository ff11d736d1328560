//! From samples of any depth to pixels, as Pillow's `convert` gives them.

/// 16 bits to 8, rounded.
pub fn narrow(value: u16) -> u8 {
    ((u32::from(value) + 128) / 257) as u8
}

/// The sample `at` of each pixel, if there are as many.
pub fn alpha(samples: &[u8], per_pixel: usize, at: usize) -> Option<Vec<u8>> {
    (at < per_pixel).then(|| samples.chunks_exact(per_pixel).map(|pixel| pixel[at]).collect())
}

/// The first samples of each pixel of `samples`, others (alpha) left out. `samples`: 8 bits, `per_pixel` of them.
pub fn first(samples: Vec<u8>, per_pixel: usize, kept: usize) -> Vec<u8> {
    if per_pixel == kept {
        return samples;
    }
    samples.chunks_exact(per_pixel).flat_map(|pixel| &pixel[..kept]).copied().collect()
}

/// Unpacks one row of `bits` (1, 2, 4) each, the first at the top of a byte; values as they are stored.
pub fn unpack(row: &[u8], bits: u32, count: usize, out: &mut Vec<u8>) {
    let per_byte = 8 / bits as usize;
    let mask = ((1u16 << bits) - 1) as u8;
    let value = |i: usize| row[i / per_byte] >> (8 - bits as usize * (i % per_byte + 1)) & mask;
    out.extend((0..count).map(value));
}

/// What values of `bits` (1, 2, 4, 8) are multiplied with to reach 255.
pub fn scale(bits: u32) -> u8 {
    match bits {
        1 => 255,
        2 => 85,
        4 => 17,
        _ => 1,
    }
}

/// Indices as RGB. An index beyond the palette is black, as Pillow's palettes are filled up.
pub fn look_up(indices: &[u8], palette: &[[u8; 3]]) -> Vec<u8> {
    indices.iter().flat_map(|&i| palette.get(usize::from(i)).copied().unwrap_or_default()).collect()
}

/// Pillow's CMYK to RGB.
pub fn cmyk(samples: &[u8], per_pixel: usize) -> Vec<u8> {
    let one = |pixel: &[u8]| {
        let white = 255 - i32::from(pixel[3]);
        [0, 1, 2].map(|c| {
            let product = i32::from(pixel[c]) * white + 128;
            (white - ((product + (product >> 8)) >> 8)).clamp(0, 255) as u8
        })
    };
    samples.chunks_exact(per_pixel).flat_map(one).collect()
}
