//! A contact sheet as a PNG picture.

use embedded_graphics::{
    Drawable as _, Pixel,
    mono_font::{MonoTextStyle, iso_8859_1::FONT_6X10},
    pixelcolor::{Rgb888, RgbColor as _},
    prelude::{DrawTarget, OriginDimensions, Point, Size},
    text::{Baseline, Text},
};

use crate::{
    Error, Result,
    pipeline::{Cell, Sheet},
};

/// Cells in a row.
const ACROSS: usize = 8;
/// Least side of an image on the sheet; smaller ones are enlarged by a whole factor.
const LEAST: usize = 96;
/// Height of a line of text, and width of a character, in pixels.
const LINE: usize = 11;
const CHARACTER: usize = 6;
/// Space around a cell.
const GAP: usize = 6;

/// An RGB picture to draw on.
struct Canvas {
    width: usize,
    height: usize,
    /// (H, W, 3).
    rgb: Vec<u8>,
}

impl Canvas {
    fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        if x < self.width && y < self.height {
            self.rgb[3 * (y * self.width + x)..][..3].copy_from_slice(&colour);
        }
    }

    /// Writes one line of at most `most` characters; what the font lacks becomes a question mark.
    fn write(&mut self, text: &str, at: [usize; 2], most: usize, colour: Rgb888) {
        let mut shown: String = text.chars().take(most).collect();
        if text.chars().count() > most {
            shown.pop();
            shown.push('~');
        }
        let style = MonoTextStyle::new(&FONT_6X10, colour);
        let at = Point::new(at[0] as i32, at[1] as i32);
        let _ = Text::with_baseline(&shown, at, style, Baseline::Top).draw(self); // infallible
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.width as u32, self.height as u32)
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = std::convert::Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Self::Error> {
        for Pixel(at, colour) in pixels {
            if let (Ok(x), Ok(y)) = (usize::try_from(at.x), usize::try_from(at.y)) {
                self.set(x, y, [colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}

/// The sheet as a PNG file: each image with its label, and the answer below it, green where they agree.
///
/// # Errors
/// [`Error::Internal`] if it cannot be encoded.
pub fn png(sheet: &Sheet) -> Result<Vec<u8>> {
    let [_, h, w] = sheet.shape;
    let factor = LEAST.div_ceil(h.min(w).max(1)).max(1);
    let (high, wide) = (h * factor, w * factor);
    let (row, column) = (high + 2 * LINE + GAP, wide + GAP);
    let across = ACROSS.min(sheet.cells.len().max(1));
    let rows = sheet.cells.len().div_ceil(across);
    let width = (GAP + across * column).max(LEAST);
    let characters = (width - 2 * GAP) / CHARACTER;
    let parts = lines(&sheet.preprocessing, characters);
    let head = GAP + parts.len() * LINE + GAP;
    let height = head + rows * row + GAP;
    let mut canvas = Canvas { width, height, rgb: vec![24; 3 * width * height] };
    for (i, line) in parts.iter().enumerate() {
        canvas.write(line, [GAP, GAP + i * LINE], characters, Rgb888::WHITE);
    }
    for (i, cell) in sheet.cells.iter().enumerate() {
        let [left, top] = [GAP + i % across * column, head + i / across * row];
        picture(&mut canvas, cell, sheet.shape, factor, [left, top]);
        let label = cell.label.as_deref().unwrap_or("unlabelled");
        canvas.write(label, [left, top + high + 1], wide / CHARACTER, Rgb888::WHITE);
        let colour = match &cell.label {
            Some(label) if *label == cell.answer => Rgb888::GREEN,
            Some(_) => Rgb888::RED,
            None => Rgb888::CYAN,
        };
        canvas.write(&cell.answer, [left, top + high + 1 + LINE], wide / CHARACTER, colour);
    }
    encoded(&canvas)
}

/// Words broken into lines of at most `most` characters.
fn lines(text: &str, most: usize) -> Vec<String> {
    let mut all = vec![String::new()];
    for word in text.split(' ') {
        let last = all.len() - 1;
        let length = all[last].chars().count();
        if length > 0 && length + 1 + word.chars().count() > most {
            all.push(word.to_owned());
        } else {
            all[last].push_str(if length == 0 { "" } else { " " });
            all[last].push_str(word);
        }
    }
    all
}

fn picture(canvas: &mut Canvas, cell: &Cell, [c, h, w]: [usize; 3], factor: usize, [left, top]: [usize; 2]) {
    for y in 0..h * factor {
        for x in 0..w * factor {
            let at = y / factor * w + x / factor;
            let value = |channel: usize| cell.pixels.get(channel.min(c - 1) * h * w + at).copied();
            canvas.set(left + x, top + y, [0, 1, 2].map(|channel| value(channel).unwrap_or_default()));
        }
    }
}

fn encoded(canvas: &Canvas) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let failed = |e: png::EncodingError| Error::internal(format!("the sheet cannot be encoded: {e}"));
    let mut encoder = png::Encoder::new(&mut bytes, canvas.width as u32, canvas.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&canvas.rgb).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_stand_on_the_sheet_enlarged_with_their_colours() {
        let cell = |label: Option<&str>, pixels: [u8; 12]| Cell {
            name: "a.png".into(),
            pixels: pixels.to_vec(),
            label: label.map(str::to_owned),
            answer: "disc".into(),
        };
        // red, green, blue and white
        let pixels = [255, 0, 0, 255, 0, 255, 0, 255, 0, 0, 255, 255];
        let sheet = Sheet {
            shape: [3, 2, 2],
            cells: vec![cell(Some("disc"), pixels), cell(Some("ring"), pixels), cell(None, pixels)],
            preprocessing: "size 2x2, resize none, crop none, channels rgb".into(),
        };
        let bytes = png(&sheet).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut rgb).unwrap();
        let wide = info.width as usize;
        assert_eq!(wide, GAP + 3 * (96 + GAP));
        let head = 2 * GAP + LINE * lines(&sheet.preprocessing, (wide - 2 * GAP) / CHARACTER).len();
        let colour = |x: usize, y: usize| &rgb[3 * ((head + y) * wide + GAP + x)..][..3];
        assert_eq!((colour(0, 0), colour(95, 0)), (&[255, 0, 0][..], &[0, 255, 0][..]));
        assert_eq!((colour(0, 95), colour(95, 95)), (&[0, 0, 255][..], &[255, 255, 255][..]));
        let has = |wanted: [u8; 3], rows: std::ops::Range<usize>| {
            rows.into_iter().any(|y| (0..wide - GAP).any(|x| colour(x, y) == wanted))
        };
        assert!(has([0, 255, 0], 97..118) && has([255, 0, 0], 97..118) && has([0, 255, 255], 97..118));
    }

    #[test]
    fn long_lines_are_broken_and_names_shortened() {
        assert_eq!(lines("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(lines("", 5), [""]);
        let odd =
            Cell { answer: "a long name \u{1b}[31m \u{4e2d}".into(), pixels: vec![0], ..Cell::default() };
        let sheet = Sheet { shape: [1, 1, 1], cells: vec![odd], preprocessing: String::new() };
        assert!(png(&sheet).unwrap().len() > 100);
        assert!(png(&Sheet { shape: [1, 1, 1], ..Sheet::default() }).is_ok());
    }
}
