//! PBM, PGM and PPM, plain (P1 to P3) and raw (P4 to P6).

use super::{super::Picture, Budget, problems::CUT, samples};

/// Reads a PNM file; of several images in a file the first.
pub fn read(data: &[u8], budget: Budget) -> Result<Picture, String> {
    let kind = data.get(1).copied().unwrap_or_default();
    let mut words = Words { data, at: 2 };
    let width = words.number()?;
    let height = words.number()?;
    let bilevel = matches!(kind, b'1' | b'4');
    let most = if bilevel { 1 } else { words.number()? };
    if !(1..=65_535).contains(&most) {
        return Err(format!("is damaged: its largest value is {most}, expected 1 to 65535"));
    }
    let size = [height as usize, width as usize];
    let channels = if matches!(kind, b'3' | b'6') { 3 } else { 1 };
    budget.pixels(size, channels)?;
    let count = size[0] * size[1] * channels;
    // the header ends with one blank
    let start = words.at + 1;
    let raw = |bytes: usize| data.get(start..).and_then(|rest| rest.get(..bytes)).ok_or(CUT);
    let pixels = match kind {
        b'1' => words.bits(count)?,
        b'2' | b'3' => {
            // each takes at least a digit and a blank
            if data.len().saturating_sub(words.at) < count {
                return Err(CUT.into());
            }
            (0..count).map(|_| words.number().and_then(|v| scaled(v, most))).collect::<Result<_, _>>()?
        }
        b'4' => {
            let row = size[1].div_ceil(8);
            let mut out = Vec::with_capacity(count);
            for row in raw(row * size[0])?.chunks_exact(row) {
                samples::unpack(row, 1, size[1], &mut out);
            }
            out.iter().map(|&black| if black == 1 { 0 } else { 255 }).collect()
        }
        _ if most < 256 => raw(count)?.iter().map(|&v| scaled(v.into(), most)).collect::<Result<_, _>>()?,
        _ => {
            let pairs = raw(2 * count)?.as_chunks::<2>().0;
            pairs.iter().map(|&b| scaled(u16::from_be_bytes(b).into(), most)).collect::<Result<_, _>>()?
        }
    };
    Ok(Picture::of_bytes(size, channels, pixels))
}

/// A value of at most `most` as one of at most 255, rounded; halves to even as Python does.
fn scaled(value: u32, most: u32) -> Result<u8, String> {
    if value > most {
        return Err(format!("is damaged: it holds the value {value}, but {most} is its largest"));
    }
    let (whole, rest) = (value * 255 / most, value * 255 % most);
    let up = 2 * rest > most || 2 * rest == most && whole % 2 == 1;
    Ok((whole + u32::from(up)) as u8)
}

/// Numbers in ASCII.
struct Words<'a> {
    data: &'a [u8],
    at: usize,
}

impl Words<'_> {
    /// Passes over blanks and comments.
    fn skip(&mut self) {
        while let Some(&byte) = self.data.get(self.at) {
            if byte == b'#' {
                let rest = &self.data[self.at..];
                self.at += rest.iter().position(|&b| b == b'\n' || b == b'\r').unwrap_or(rest.len());
            } else if byte.is_ascii_whitespace() {
                self.at += 1;
            } else {
                return;
            }
        }
    }

    fn number(&mut self) -> Result<u32, String> {
        self.skip();
        let rest = &self.data[self.at.min(self.data.len())..];
        let digits = rest.iter().take(10).take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            let problem = if rest.is_empty() { CUT } else { "is damaged: expected a number" };
            return Err(problem.into());
        }
        self.at += digits;
        let number = std::str::from_utf8(&rest[..digits]).ok().and_then(|text| text.parse().ok());
        number.ok_or_else(|| "is damaged: a number is too large".into())
    }

    /// `count` digits 0 (white) or 1 (black), which need no blanks between them.
    fn bits(&mut self, count: usize) -> Result<Vec<u8>, String> {
        if self.data.len() - self.at < count {
            return Err(CUT.into());
        }
        let mut out = Vec::with_capacity(count);
        for _ in 0..count {
            self.skip();
            out.push(match self.data.get(self.at) {
                Some(b'0') => 255,
                Some(b'1') => 0,
                Some(_) => return Err("is damaged: expected 0 or 1".into()),
                None => return Err(CUT.into()),
            });
            self.at += 1;
        }
        Ok(out)
    }
}
