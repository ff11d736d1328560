//! WebP, lossy and lossless. Animations are refused.

use std::io::Cursor;

use image_webp::WebPDecoder;

use super::{super::Picture, Budget, Decoded, problems::CUT, samples};

/// Reads a WebP file.
pub fn read(data: &[u8], budget: Budget) -> Result<Decoded, String> {
    let declared = data.get(4..8).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
    if (data.len() as u64) < u64::from(declared) + 8 {
        return Err(CUT.into());
    }
    let problem = |e| format!("is damaged: {e}");
    let mut decoder = WebPDecoder::new(Cursor::new(data)).map_err(problem)?;
    if decoder.is_animated() {
        return Err("is an animated WebP image, which is not read as an image; save its frames as PNG".into());
    }
    let (width, height) = decoder.dimensions();
    let size = [height as usize, width as usize];
    let per_pixel = if decoder.has_alpha() { 4 } else { 3 };
    // the decoder's planes or its four lossless channels, its result, ours
    budget.pixels(size, 4 + per_pixel + if per_pixel == 4 { 4 } else { 0 })?;
    let mut pixels = vec![0; size[0] * size[1] * per_pixel];
    decoder.read_image(&mut pixels).map_err(problem)?;
    let alpha = samples::alpha(&pixels, per_pixel, 3);
    Ok((Picture::of_bytes(size, 3, samples::first(pixels, per_pixel, 3)), alpha))
}
