//! JPEG: baseline, extended and progressive files with Huffman codes and 8 bits per sample. The values are those of
//! libjpeg-turbo as Pillow calls it. A file that lacks a part of its image data is an error, whatever lacks.

mod bits;
mod damage;
mod frame;
mod idct;
mod pixels;
mod scan;
mod tables;

use damage::Damage;
use frame::Frame;
use pixels::Colours;
use scan::Scan;
use tables::Tables;

use super::{super::Picture, Budget};

/// Most scans of one file: a progressive encoder writes about ten; each costs a pass over the image.
const SCANS: usize = 256;

/// Reads a JPEG file.
pub fn read(data: &[u8], budget: Budget) -> Result<Picture, String> {
    decode(data, budget).map_err(|damage| damage.to_string())
}

fn decode(data: &[u8], budget: Budget) -> Result<Picture, Damage> {
    let mut tables = Tables::default();
    let mut frame: Option<Frame> = None;
    let mut marks = Marks::default();
    let (mut at, mut scans) = (2, 0);
    loop {
        let (marker, start) = next_marker(data, at)?;
        if marker == 0xd9 {
            break;
        }
        if matches!(marker, 0x01 | 0xd0..=0xd8) {
            return Err(Damage::Header);
        }
        let length = data.get(start..start + 2).ok_or(Damage::Cut)?;
        let end = start + usize::from(u16::from_be_bytes([length[0], length[1]]));
        if end < start + 2 {
            return Err(Damage::Header);
        }
        let segment = data.get(start + 2..end).ok_or(Damage::Cut)?;
        at = end;
        match marker {
            0xc4 => tables.code(segment)?,
            0xdb => tables.quantise(segment)?,
            0xdd => match segment {
                [high, low] => tables.restart_interval = u16::from_be_bytes([*high, *low]).into(),
                _ => return Err(Damage::Header),
            },
            0xc0..=0xcf => {
                if frame.is_some() {
                    return Err(Damage::Header);
                }
                frame = Some(start_frame(marker, segment, budget)?);
            }
            0xda => {
                let frame = frame.as_mut().ok_or(Damage::Header)?;
                scans += 1;
                if scans > SCANS {
                    return Err(Damage::ManyScans);
                }
                at = Scan::parse(segment, frame)?.decode(frame, &tables, data, at)?;
            }
            _ => marks.note(marker, segment),
        }
    }
    let frame = frame.ok_or(Damage::Lacks)?;
    finish(frame, &marks)
}

/// The next marker and the position behind it. Bytes between segments are passed over, as other readers do.
fn next_marker(data: &[u8], mut at: usize) -> Result<(u8, usize), Damage> {
    loop {
        match (data.get(at), data.get(at + 1)) {
            (Some(0xff), Some(0xff)) => at += 1,
            (Some(0xff), Some(marker @ 1..)) => return Ok((*marker, at + 2)),
            (_, None) => return Err(Damage::Cut),
            _ => at += 1,
        }
    }
}

fn start_frame(marker: u8, segment: &[u8], budget: Budget) -> Result<Frame, Damage> {
    let progressive = match marker {
        0xc0 | 0xc1 => false,
        0xc2 => true,
        0xc3 | 0xc7 | 0xcb | 0xcf => return Err(Damage::Unsupported("a lossless JPEG file".into())),
        0xc9 | 0xca | 0xcd | 0xce => {
            return Err(Damage::Unsupported("a JPEG file with arithmetic codes".into()));
        }
        _ => return Err(Damage::Unsupported("a hierarchical JPEG file".into())),
    };
    let mut frame = Frame::parse(segment, progressive)?;
    budget.side(frame.size).and_then(|()| budget.bytes(frame.bytes())).map_err(Damage::Limit)?;
    frame.allocate();
    Ok(frame)
}

fn finish(mut frame: Frame, marks: &Marks) -> Result<Picture, Damage> {
    if frame.progressive {
        frame.finish()?;
    } else if !frame.components.iter().all(frame::Component::is_complete) {
        return Err(Damage::Lacks);
    }
    let colours = marks.colours(&frame);
    let channels = if colours == Colours::Grey { 1 } else { 3 };
    Ok(Picture::of_bytes(frame.size, channels, pixels::assemble(&frame.components, frame.size, colours)))
}

/// What application segments say of the colours.
#[derive(Default)]
struct Marks {
    jfif: bool,
    /// The transform that Adobe's segment names.
    adobe: Option<u8>,
}

impl Marks {
    fn note(&mut self, marker: u8, segment: &[u8]) {
        match (marker, segment) {
            (0xe0, [b'J', b'F', b'I', b'F', 0, ..]) if segment.len() >= 14 => self.jfif = true,
            (0xee, [b'A', b'd', b'o', b'b', b'e', ..]) if segment.len() >= 12 => {
                self.adobe = Some(segment[11])
            }
            _ => {}
        }
    }

    /// As libjpeg guesses.
    fn colours(&self, frame: &Frame) -> Colours {
        let ids: Vec<u8> = frame.components.iter().map(|c| c.id).collect();
        match (ids.len(), self.adobe) {
            (1, _) => Colours::Grey,
            (3, _) if self.jfif => Colours::YCbCr,
            (3, Some(0)) => Colours::Rgb,
            (3, None) if ids == *b"RGB" => Colours::Rgb,
            (3, _) => Colours::YCbCr,
            (_, None | Some(0)) => Colours::Cmyk,
            _ => Colours::Ycck,
        }
    }
}
