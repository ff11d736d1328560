//! Edits of a protobuf file as byte replacements. Enclosing lengths are updated; all other bytes are copied, including
//! padded varints and unknown fields. An updated length is written in its shortest form, so undoing an edit exactly
//! needs the replaced bytes ([`invert`]).

use std::{collections::BTreeMap, ops::Range};

use prost::encoding::encode_varint;

use crate::onnx::{limits::MAX_FILE, wire::Scan};

/// Replaces the bytes `at` by `with` in the body of the message `inside` (an index into [`Scan::messages`]; 0 is the
/// file itself). An empty range inserts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    pub inside: usize,
    pub at: Range<usize>,
    pub with: Vec<u8>,
}

/// A plain replacement of bytes, without regard to enclosing lengths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub at: Range<usize>,
    pub with: Vec<u8>,
}

impl Change {
    fn growth(&self) -> i64 {
        self.with.len() as i64 - self.at.len() as i64
    }
}

/// The edits together with the updates of all enclosing lengths, in file order.
///
/// # Errors
/// An edit outside its message, overlapping edits, or a result larger than [`MAX_FILE`].
pub fn mend(bytes: &[u8], scan: &Scan, edits: Vec<Edit>) -> Result<Vec<Change>, String> {
    // Growth of each message. A message comes before those inside it, so the last index is the innermost.
    let mut growth: BTreeMap<usize, i64> = BTreeMap::new();
    let mut changes = Vec::with_capacity(edits.len() + 4);
    for Edit { inside, at, with } in edits {
        let body = scan.messages.get(inside).map(|m| &m.body);
        if body.is_none_or(|b| at.start < b.start || at.end > b.end || at.start > at.end) {
            return Err(format!("an edit of bytes {at:?} outside its message"));
        }
        let change = Change { at, with };
        *growth.entry(inside).or_default() += change.growth();
        changes.push(change);
    }
    while let Some((index, grown)) = growth.pop_last() {
        let Some(message) = scan.messages.get(index).filter(|_| index > 0 && grown != 0) else { continue };
        let length = message.body.len() as i64 + grown;
        let mut with = Vec::new();
        encode_varint(u64::try_from(length).map_err(|_| "a message of negative length")?, &mut with);
        let change = Change { at: message.length_at..message.body.start, with };
        *growth.entry(message.parent).or_default() += grown + change.growth();
        changes.push(change);
    }
    changes.sort_by_key(|c| (c.at.start, c.at.end));
    if changes.windows(2).any(|pair| matches!(pair, [a, b] if a.at.end > b.at.start)) {
        return Err("two edits of the same bytes".into());
    }
    let total = bytes.len() as i64 + changes.iter().map(Change::growth).sum::<i64>();
    if total > MAX_FILE as i64 {
        return Err(format!("the result has {total} bytes; an ONNX file can have at most {MAX_FILE}"));
    }
    Ok(changes)
}

/// `bytes` with `changes`, which must be in order; None if they do not fit.
pub fn apply(bytes: &[u8], changes: &[Change]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len() + changes.iter().map(|c| c.with.len()).sum::<usize>());
    let mut at = 0;
    for change in changes {
        out.extend_from_slice(bytes.get(at..change.at.start)?);
        out.extend_from_slice(&change.with);
        if change.at.end < change.at.start {
            return None;
        }
        at = change.at.end;
    }
    out.extend_from_slice(bytes.get(at..)?);
    Some(out)
}

/// The changes that restore `bytes` from the result of `changes`.
pub fn invert(bytes: &[u8], changes: &[Change]) -> Vec<Change> {
    let mut shift = 0_i64;
    let mut inverted = Vec::with_capacity(changes.len());
    for change in changes {
        let start = (change.at.start as i64 + shift) as usize;
        let with = bytes.get(change.at.clone()).unwrap_or_default().to_vec();
        inverted.push(Change { at: start..start + change.with.len(), with });
        shift += change.growth();
    }
    inverted
}

/// Length prefix and `content`: a length-delimited field without its tag.
pub fn with_length(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 5);
    encode_varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::wire;

    /// A model whose graph's length is padded to three bytes, with one node.
    const BYTES: &[u8] = &[0x08, 8, 0x3a, 0x86, 0x80, 0x00, 0x0a, 4, 0x0a, 2, b'a', b'b', 0x42, 0];

    fn spliced(edits: Vec<Edit>) -> (Vec<u8>, Vec<Change>) {
        let changes = mend(BYTES, &wire::scan(BYTES).unwrap(), edits).unwrap();
        (apply(BYTES, &changes).unwrap(), changes)
    }

    #[test]
    fn lengths_around_an_edit_are_mended_and_restored() {
        let edit = Edit { inside: 2, at: 9..12, with: with_length(b"longer") };
        let (bytes, changes) = spliced(vec![edit]);
        assert_eq!(bytes, b"\x08\x08\x3a\x0a\x0a\x08\x0a\x06longer\x42\x00");
        assert!(wire::scan(&bytes).is_ok());
        assert_eq!(apply(&bytes, &invert(BYTES, &changes)).unwrap(), BYTES);
    }

    #[test]
    fn a_length_that_stays_keeps_its_form() {
        let (bytes, changes) = spliced(vec![Edit { inside: 2, at: 9..12, with: with_length(b"ba") }]);
        assert_eq!(bytes.len(), BYTES.len());
        assert_eq!(changes.len(), 1);
    }

    #[test]
    fn a_length_that_needs_another_byte_grows_what_is_around_it() {
        let name = "n".repeat(200);
        let (bytes, changes) =
            spliced(vec![Edit { inside: 2, at: 9..12, with: with_length(name.as_bytes()) }]);
        let scan = wire::scan(&bytes).unwrap();
        assert_eq!(scan.messages[2].body.len(), 203);
        assert_eq!(scan.messages[1].body.len(), 206);
        assert_eq!(apply(&bytes, &invert(BYTES, &changes)).unwrap(), BYTES);
    }

    #[test]
    fn edits_that_do_not_fit_are_refused() {
        let scan = wire::scan(BYTES).unwrap();
        let edit = |inside, at| Edit { inside, at, with: vec![0x42, 0] };
        assert!(mend(BYTES, &scan, vec![edit(2, 0..1)]).is_err());
        assert!(mend(BYTES, &scan, vec![edit(9, 0..1)]).is_err());
        assert!(mend(BYTES, &scan, vec![edit(2, 8..12), edit(1, 6..12)]).is_err());
        assert!(apply(BYTES, &[Change { at: 3..900, with: vec![] }]).is_none());
    }
}
