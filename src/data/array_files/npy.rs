//! NumPy's `.npy`: its header, versions 1 to 3. The header is a Python dictionary of three entries, read without Python.

use std::{path::Path, sync::Arc};

use super::{
    element::{Element, Kind},
    positioned::Positioned,
    tensor::{Member, Place, Tensor},
};
use crate::{Error, Result, error::printable};

/// Bytes of the longest header, as NumPy limits it.
const HEADER: usize = 10_000;

/// Bytes at the start of a file that hold its whole header.
pub const START: usize = HEADER + 12;

/// What a header says.
#[derive(Debug)]
pub struct Header {
    pub element: Result<Element, String>,
    pub fortran: bool,
    pub shape: Vec<usize>,
    /// Where the values start.
    pub at: usize,
}

/// The array of a `.npy` file, named after the file.
///
/// # Errors
/// The file cannot be read, or its header is malformed.
pub fn member(path: &Path) -> Result<Member> {
    let file = Arc::new(Positioned::open(path)?);
    let mut start = vec![0; START.min(usize::try_from(file.len).unwrap_or(START))];
    file.read(0, &mut start)?;
    let header = header(&start).map_err(|problem| Error::images(path.display(), problem))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (at, room) = (header.at as u64, file.len - header.at as u64);
    Ok(header.member(name, Place::At(at), room, file))
}

impl Header {
    /// The array with this header, whose values take `room` bytes at `place`.
    pub fn member(self, name: String, place: Place, room: u64, file: Arc<Positioned>) -> Member {
        let (shape, fortran) = (self.shape, self.fortran);
        let tensor = self.element.and_then(|element| {
            Tensor { name: name.clone(), element, shape, fortran, place, file }.checked(room)
        });
        Member { name, tensor }
    }
}

/// Reads the header at the start of `bytes`.
///
/// # Errors
/// What is wrong with it. An unknown type of number is no error yet: the array may not be asked for.
pub fn header(bytes: &[u8]) -> Result<Header, String> {
    let cut = || "its NumPy header is cut short".to_owned();
    if bytes.get(..6) != Some(b"\x93NUMPY") {
        return Err("is not a NumPy array (no \\x93NUMPY at its start)".to_owned());
    }
    let &[major, _, a, b] = bytes[6..].first_chunk().ok_or_else(cut)?;
    let (start, length) = match major {
        1 => (10, usize::from(u16::from_le_bytes([a, b]))),
        2 | 3 => {
            let &[c, d] = bytes[10..].first_chunk().ok_or_else(cut)?;
            (12, usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX))
        }
        other => return Err(format!("is of NumPy's format version {other}; 1, 2 and 3 are known")),
    };
    if length > HEADER {
        return Err(format!("its NumPy header is {length} bytes long; NumPy's limit is {HEADER}"));
    }
    let text = bytes.get(start..start + length).ok_or_else(cut)?;
    let text = std::str::from_utf8(text).map_err(|_| "its NumPy header is no text".to_owned())?;
    let malformed =
        |what: &str| format!("its NumPy header is malformed ({what}): {}", printable(text.trim()));
    let [mut descr, mut fortran, mut shape] = [None; 3];
    for (key, value) in entries(text).ok_or_else(|| malformed("not a dictionary"))? {
        match key {
            "descr" => descr = Some(value),
            "fortran_order" => fortran = Some(value),
            "shape" => shape = Some(value),
            _ => return Err(malformed("an unknown entry")),
        }
    }
    Ok(Header {
        element: element(descr.ok_or_else(|| malformed("no descr"))?),
        fortran: match fortran {
            Some("True") => true,
            Some("False") => false,
            _ => return Err(malformed("no fortran_order")),
        },
        shape: shape.and_then(sides).ok_or_else(|| malformed("no shape of whole numbers"))?,
        at: start + length,
    })
}

/// Keys and values of a dictionary in Python's writing, values as they are written.
fn entries(text: &str) -> Option<Vec<(&str, &str)>> {
    let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    let mut out = Vec::new();
    while !rest.is_empty() {
        let quote = rest.chars().next().filter(|c| ['\'', '"'].contains(c))?;
        let (key, after) = rest[1..].split_once(quote)?;
        let after = after.trim_start().strip_prefix(':')?.trim_start();
        let end = value_end(after)?;
        out.push((key, after[..end].trim()));
        rest = after[end..].strip_prefix(',').unwrap_or(&after[end..]).trim_start();
    }
    Some(out)
}

/// Where a value ends: at a comma outside brackets and quotes, or with the text.
fn value_end(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0usize, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.checked_sub(1)?,
            (None, ',') if depth == 0 => return Some(at),
            _ => {}
        }
    }
    (depth == 0 && quote.is_none()).then_some(text.len())
}

/// A tuple of whole numbers; Python 2 wrote them as `10L`.
fn sides(text: &str) -> Option<Vec<usize>> {
    let inside = text.strip_prefix('(')?.strip_suffix(')')?;
    let numbers = inside.split(',').map(str::trim).filter(|n| !n.is_empty());
    numbers.map(|n| n.strip_suffix('L').unwrap_or(n).parse().ok()).collect()
}

fn element(descr: &str) -> Result<Element, String> {
    let unquoted = descr.strip_prefix(['\'', '"']).and_then(|d| d.strip_suffix(['\'', '"']));
    let Some(code) = unquoted else {
        return Err(format!("holds records ({}), not numbers", printable(descr)));
    };
    let (big, kind) = match code.as_bytes() {
        [b'>', ..] => (true, &code[1..]),
        [b'<' | b'=' | b'|', ..] => (false, &code[1..]),
        _ => (false, code),
    };
    let kind = match kind {
        "u1" => Kind::U8,
        "u2" => Kind::U16,
        "u4" => Kind::U32,
        "u8" => Kind::U64,
        "i1" => Kind::I8,
        "i2" => Kind::I16,
        "i4" => Kind::I32,
        "i8" => Kind::I64,
        "f2" => Kind::F16,
        "f4" => Kind::F32,
        "f8" => Kind::F64,
        _ if kind.starts_with('O') => {
            return Err("holds Python objects (pickled), which are never loaded; save numbers: \
                        np.save(file, np.stack(images).astype(np.uint8))"
                .to_owned());
        }
        _ => return Err(format!("holds values of the type \"{}\", not numbers", printable(code))),
    };
    Ok(Element { kind, big })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(version: u8, text: &str) -> Vec<u8> {
        let mut out = b"\x93NUMPY".to_vec();
        out.extend([version, 0]);
        match version {
            1 => out.extend((text.len() as u16).to_le_bytes()),
            _ => out.extend((text.len() as u32).to_le_bytes()),
        }
        out.extend(text.as_bytes());
        out
    }

    fn read(text: &str) -> Result<Header, String> {
        header(&npy(1, text))
    }

    #[test]
    fn headers_of_all_versions() {
        for version in [1, 2, 3] {
            let text = "{'descr': '>i4', 'fortran_order': True, 'shape': (60000L, 28), }   \n";
            let h = header(&npy(version, text)).unwrap();
            assert_eq!(h.element.unwrap(), Element { kind: Kind::I32, big: true });
            assert_eq!((h.fortran, h.shape.as_slice()), (true, &[60000, 28][..]));
            assert_eq!(h.at, text.len() + if version == 1 { 10 } else { 12 });
        }
        let h = read("{\"shape\": (), \"fortran_order\": False, \"descr\": \"|u1\"}").unwrap();
        assert!(h.shape.is_empty());
    }

    #[test]
    fn malformed_headers_are_refused() {
        for text in [
            "",
            "{",
            "{}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1.5, 3)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999,)}",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (3,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'more': 1}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3,",
            "{descr: '<f4', 'fortran_order': False, 'shape': (3,)}",
            "{'descr': '<f4' 'fortran_order': False)}",
        ] {
            assert!(read(text).unwrap_err().contains("malformed"), "{text}");
        }
        assert!(header(b"\x93NUMPY").unwrap_err().contains("cut short"));
        assert!(header(b"\x93NUMPY\x01\x00\xff\x00{").unwrap_err().contains("cut short"));
        assert!(header(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{").unwrap_err().contains("limit"));
        assert!(header(b"\x93NUMPY\x09\x00\xff\x00{").unwrap_err().contains("version 9"));
        assert!(header(b"PK").unwrap_err().contains("not a NumPy array"));
    }

    #[test]
    fn what_holds_no_numbers_says_what_it_holds() {
        let of = |descr: &str| {
            let text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (3,)}}");
            read(&text).unwrap().element.unwrap_err()
        };
        assert!(of("'|O'").contains("Python objects"));
        assert!(of("'|b1'").contains("\"|b1\""));
        assert!(of("'<U5'").contains("\"<U5\""));
        assert!(of("[('x', '<f4')]").contains("records"));
    }
}
