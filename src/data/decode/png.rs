//! PNG.

use std::io::Cursor;

use ::png::{ColorType, Decoder, Limits, Transformations};

use super::{
    super::{Picture, limits},
    Budget, Decoded,
    problems::CUT,
    samples,
};

/// Reads a PNG file: of an animated one the image that readers without animation show.
pub fn read(data: &[u8], budget: Budget) -> Result<Decoded, String> {
    let mut decoder =
        Decoder::new_with_limits(Cursor::new(data), Limits { bytes: limits::DECODER_BYTES as usize });
    decoder.set_transformations(Transformations::EXPAND);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.ignore_checksums(false);
    let mut reader = decoder.read_info().map_err(problem)?;
    let (width, height) = reader.info().size();
    let size = [height as usize, width as usize];
    let (colour, depth) = reader.output_color_type();
    let wide = depth as u8 == 16;
    let per_pixel = colour.samples();
    // the decoder's result and ours
    budget.pixels(size, per_pixel * if wide { 2 } else { 1 } + 4)?;
    let mut pixels = vec![0; reader.output_buffer_size().ok_or("is too large")?];
    let frame = reader.next_frame(&mut pixels).map_err(problem)?;
    if [frame.height as usize, frame.width as usize] != size {
        return Err("is damaged: its first frame is smaller than the image".into());
    }
    // up to the end of the file: a file that is cut behind the pixels is cut
    reader.finish().map_err(problem)?;
    if wide {
        pixels = pixels.as_chunks::<2>().0.iter().map(|&b| samples::narrow(u16::from_be_bytes(b))).collect();
    }
    let channels = match colour {
        ColorType::Grayscale | ColorType::GrayscaleAlpha => 1,
        _ => 3,
    };
    let alpha = samples::alpha(&pixels, per_pixel, channels);
    Ok((Picture::of_bytes(size, channels, samples::first(pixels, per_pixel, channels)), alpha))
}

fn problem(e: ::png::DecodingError) -> String {
    match e {
        ::png::DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => CUT.into(),
        ::png::DecodingError::LimitsExceeded => {
            format!("would take more than the limit of {} MiB to decode", limits::DECODER_BYTES >> 20)
        }
        other => format!("is damaged: {other}"),
    }
}
