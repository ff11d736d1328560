//! Compressions of a strip or tile. Each gives exactly the wanted number of bytes, or an error.

use std::io::Read;

use flate2::read::ZlibDecoder;

use super::super::problems::{CODE, LACKS};

/// Unpacks `bytes` by TIFF's number of a compression.
pub fn unpack(bytes: &[u8], compression: u32, wanted: usize) -> Result<Vec<u8>, String> {
    let out = match compression {
        5 => lzw(bytes, wanted)?,
        8 | 32_946 => {
            let mut out = vec![0; wanted];
            ZlibDecoder::new(bytes).read_exact(&mut out).map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => LACKS,
                _ => CODE,
            })?;
            out
        }
        32_773 => pack_bits(bytes, wanted),
        _ => bytes[..bytes.len().min(wanted)].to_vec(),
    };
    if out.len() == wanted { Ok(out) } else { Err(LACKS.into()) }
}

/// Runs: a count, then one byte to repeat or that many bytes to copy.
fn pack_bits(mut bytes: &[u8], wanted: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(wanted);
    while let ([head, rest @ ..], true) = (bytes, out.len() < wanted) {
        let head = *head as i8;
        let left = wanted - out.len();
        bytes = match (head, rest) {
            (-128, _) => rest,
            (0.., _) => {
                let count = (head as usize + 1).min(rest.len());
                out.extend_from_slice(&rest[..count.min(left)]);
                &rest[count..]
            }
            (_, [value, rest @ ..]) => {
                out.extend(std::iter::repeat_n(*value, (1 - isize::from(head)) as usize).take(left));
                rest
            }
            (_, []) => break,
        };
    }
    out
}

const CLEAR: usize = 256;
const END: usize = 257;

/// LZW with the highest bit first. Codes grow one code early.
fn lzw(bytes: &[u8], wanted: usize) -> Result<Vec<u8>, String> {
    let mut out: Vec<u8> = Vec::with_capacity(wanted);
    // of each code above END where its string begins in `out`, and its length
    let mut strings: Vec<(usize, usize)> = Vec::with_capacity(4096);
    let (mut buffer, mut held, mut bytes) = (0u32, 0, bytes.iter());
    let mut last: Option<(usize, usize)> = None;
    while out.len() < wanted {
        // codes that the writer had when it wrote this one
        let next = END + 1 + strings.len() + usize::from(last.is_some());
        let width = match next {
            ..=511 => 9,
            512..=1023 => 10,
            1024..=2047 => 11,
            _ => 12,
        };
        while held < width {
            buffer = buffer << 8 | u32::from(*bytes.next().ok_or(LACKS)?);
            held += 8;
        }
        let code = (buffer >> (held - width)) as usize & ((1 << width) - 1);
        held -= width;
        match code {
            CLEAR => {
                strings.clear();
                last = None;
                continue;
            }
            END => break,
            _ => {}
        }
        let start = out.len();
        // the string before, longer by the first byte of this one, is the next entry: both lie in `out` side by side
        if let Some((at, length)) = last
            && strings.len() < 4096 - END - 1
        {
            strings.push((at, length + 1));
        }
        let length = match code.checked_sub(END + 1) {
            None => {
                out.push(code as u8);
                1
            }
            Some(entry) => {
                let &(at, length) = strings.get(entry).ok_or(CODE)?;
                for i in 0..length {
                    out.push(out[at + i]);
                }
                length
            }
        };
        last = Some((start, length));
    }
    out.truncate(wanted);
    Ok(out)
}
