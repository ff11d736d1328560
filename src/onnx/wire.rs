//! The protobuf wire format: one scan of untrusted bytes that checks them against the table in [`super::schema`] and
//! records the position of every message.
//!
//! It rejects groups, lengths that exceed their message, wrong wire types, repeated singular fields, text that is not
//! UTF-8, and too many or too deeply nested messages. It uses an explicit stack, allocates for each message rather than
//! for claimed lengths, and never panics. prost decodes varints and tags.

use std::{fmt, ops::Range};

use prost::encoding::{WireType, decode_key, decode_varint};

use crate::onnx::{
    limits::{MAX_DEPTH, MAX_MESSAGES, MAX_SHORT_VARINT},
    schema::{Count, Field, Kind, Type},
};

/// An error of the wire format and its position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// Type of the message with the fault.
    pub message: Type,
    /// The field, `""` if unknown.
    pub field: &'static str,
    /// Byte offset in the file.
    pub offset: usize,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.field.is_empty() { "" } else { "." };
        write!(f, "{}{dot}{} at byte {}: {}", self.message.name(), self.field, self.offset, self.problem)
    }
}

impl Type {
    /// A fault in a message of this type.
    pub(crate) fn fault(self, field: &'static str, offset: usize, problem: impl Into<String>) -> Fault {
        Fault { message: self, field, offset, problem: problem.into() }
    }
}

/// Position of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: Type,
    /// Index of the enclosing message in [`Scan::messages`]; its own index for the outermost.
    pub parent: usize,
    /// Number of its field in `parent`; 0 for the outermost.
    pub number: u32,
    /// Offset of its tag.
    pub start: usize,
    /// Offset of its length, which occupies `length_at..body.start`.
    pub length_at: usize,
    /// Its fields, without tag and length.
    pub body: Range<usize>,
}

impl Message {
    /// Tag, length and body.
    pub fn span(&self) -> Range<usize> {
        self.start..self.body.end
    }
}

/// The messages of a file that passed the scan, in file order: each before those inside it.
#[derive(Clone, Debug)]
pub struct Scan {
    /// Never empty: the first is the ModelProto.
    pub messages: Vec<Message>,
    /// Number of fields that ONNX does not define; they are kept and never read.
    pub unknown: usize,
    /// The first of them, as (message, number, byte offset).
    pub first_unknown: Option<(Type, u32, usize)>,
}

impl Scan {
    /// The messages in field `number` of `parent`, with their indices.
    pub fn children(&self, parent: usize, number: u32) -> impl Iterator<Item = (usize, &Message)> {
        let end = self.messages.get(parent).map_or(0, |m| m.body.end);
        let inside =
            self.messages.iter().enumerate().skip(parent + 1).take_while(move |(_, m)| m.start < end);
        inside.filter(move |(_, m)| m.parent == parent && m.number == number)
    }
}

/// Position of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawField {
    pub number: u32,
    pub wire_type: WireType,
    /// Offset of the tag.
    pub start: usize,
    /// Offset after the tag: of the length if there is one, else of the value.
    pub after_tag: usize,
    /// The value, without tag and length.
    pub value: Range<usize>,
}

impl RawField {
    /// Tag, length and value.
    pub fn span(&self) -> Range<usize> {
        self.start..self.value.end
    }
}

/// The fields of a body that passed the scan. Ends early if the bytes are malformed.
pub fn fields(bytes: &[u8], body: Range<usize>) -> impl Iterator<Item = RawField> {
    let mut at = body.start;
    std::iter::from_fn(move || {
        let field = (at < body.end).then(|| read_field(bytes, at, body.end).ok())??;
        at = field.value.end;
        Some(field)
    })
}

/// The text of a field that passed the scan as text; empty otherwise.
pub fn text<'a>(bytes: &'a [u8], field: &RawField) -> &'a str {
    bytes.get(field.value.clone()).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default()
}

/// Reads a varint at the start of `bytes`. Returns its value and length in bytes.
pub fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut rest = bytes;
    let value = decode_varint(&mut rest).ok()?;
    Some((value, bytes.len() - rest.len()))
}

/// Reads one field at `at`; it must end at or before `end`.
fn read_field(bytes: &[u8], at: usize, end: usize) -> Result<RawField, String> {
    let mut rest = bytes.get(at..end).unwrap_or_default();
    let available = rest.len();
    let (number, wire_type) = decode_key(&mut rest).map_err(|e| format!("is not a valid field ({e})"))?;
    if available - rest.len() > MAX_SHORT_VARINT {
        return Err(format!("a tag of more than {MAX_SHORT_VARINT} bytes"));
    }
    let after_tag = end - rest.len();
    let length = match wire_type {
        WireType::Varint => {
            varint(rest).ok_or_else(|| format!("field {number} is an unterminated varint"))?.1
        }
        WireType::ThirtyTwoBit => 4,
        WireType::SixtyFourBit => 8,
        WireType::LengthDelimited => {
            let (length, taken) = varint(rest)
                .ok_or_else(|| format!("the length of field {number} is an unterminated varint"))?;
            if taken > MAX_SHORT_VARINT {
                return Err(format!("the length of field {number} takes more than {MAX_SHORT_VARINT} bytes"));
            }
            rest = rest.get(taken..).unwrap_or_default();
            usize::try_from(length).unwrap_or(usize::MAX)
        }
        WireType::StartGroup | WireType::EndGroup => {
            return Err(format!("field {number} is a group, which ONNX does not use"));
        }
    };
    if length > rest.len() {
        return Err(format!("field {number} has {length} bytes, but only {} remain", rest.len()));
    }
    let value = end - rest.len();
    Ok(RawField { number, wire_type, start: at, after_tag, value: value..value + length })
}

/// An open message of the scan.
struct Frame {
    message: usize,
    at: usize,
    /// A bit for each field number seen (all are below 32); bit 0: the oneof.
    seen: u32,
}

/// Scans `bytes` as a ModelProto.
///
/// # Errors
/// The first fault, with message, field and byte.
pub fn scan(bytes: &[u8]) -> Result<Scan, Fault> {
    scan_as(bytes, Type::Model)
}

/// Scans `bytes` as one message of type `kind`.
fn scan_as(bytes: &[u8], kind: Type) -> Result<Scan, Fault> {
    let root = Message { kind, parent: 0, number: 0, start: 0, length_at: 0, body: 0..bytes.len() };
    let mut scan = Scan { messages: vec![root], unknown: 0, first_unknown: None };
    let mut open = vec![Frame { message: 0, at: 0, seen: 0 }];
    while let Some(frame) = open.last_mut() {
        let Message { kind, body, .. } = &scan.messages[frame.message];
        let (kind, end) = (*kind, body.end);
        if frame.at == end {
            open.pop();
            continue;
        }
        let raw = read_field(bytes, frame.at, end).map_err(|problem| kind.fault("", frame.at, problem))?;
        frame.at = raw.value.end;
        let Some(field) = kind.field(raw.number) else {
            scan.unknown += 1;
            scan.first_unknown.get_or_insert((kind, raw.number, raw.start));
            continue;
        };
        let bit = match field.count {
            Count::Many => 0,
            Count::Once => 1 << (field.number & 31),
            Count::OneOf => 1,
        };
        if frame.seen & bit != 0 {
            let what = if field.count == Count::OneOf {
                "is set together with another field of its oneof"
            } else {
                "occurs twice"
            };
            return Err(kind.fault(field.name, raw.start, what));
        }
        frame.seen |= bit;
        check_value(bytes, &raw, field).map_err(|problem| kind.fault(field.name, raw.start, problem))?;
        if let Kind::Message(inner) = field.kind {
            if open.len() >= MAX_DEPTH {
                let problem = format!("messages are nested more than {MAX_DEPTH} deep");
                return Err(kind.fault(field.name, raw.start, problem));
            }
            if scan.messages.len() >= MAX_MESSAGES {
                return Err(kind.fault(field.name, raw.start, format!("more than {MAX_MESSAGES} messages")));
            }
            let parent = open.last().map_or(0, |f| f.message);
            open.push(Frame { message: scan.messages.len(), at: raw.value.start, seen: 0 });
            scan.messages.push(Message {
                kind: inner,
                parent,
                number: raw.number,
                start: raw.start,
                length_at: raw.after_tag,
                body: raw.value,
            });
        }
    }
    Ok(scan)
}

/// Checks one field against its table entry: wire type, UTF-8, and the length and range of numbers.
fn check_value(bytes: &[u8], raw: &RawField, field: &Field) -> Result<(), String> {
    let plain = match field.kind {
        Kind::Int32 | Kind::Int64 | Kind::Uint64 => WireType::Varint,
        Kind::Float => WireType::ThirtyTwoBit,
        Kind::Double => WireType::SixtyFourBit,
        Kind::Text | Kind::Bytes | Kind::Message(_) => WireType::LengthDelimited,
    };
    let value = bytes.get(raw.value.clone()).unwrap_or_default();
    let packed = raw.wire_type == WireType::LengthDelimited && field.count == Count::Many;
    if raw.wire_type != plain && !packed {
        return Err(format!("is stored as {:?}, expected {plain:?}", raw.wire_type));
    }
    match field.kind {
        Kind::Message(_) | Kind::Bytes => Ok(()),
        Kind::Text => std::str::from_utf8(value).map(|_| ()).map_err(|e| format!("is not UTF-8 ({e})")),
        Kind::Float if !value.len().is_multiple_of(4) => Err("is not a whole number of 32-bit values".into()),
        Kind::Double if !value.len().is_multiple_of(8) => {
            Err("is not a whole number of 64-bit values".into())
        }
        Kind::Float | Kind::Double => Ok(()),
        Kind::Int32 | Kind::Int64 | Kind::Uint64 => {
            let mut rest = value;
            while !rest.is_empty() {
                let (number, taken) = varint(rest).ok_or("ends inside a varint")?;
                // Negative numbers are stored as 64-bit two's complement.
                if field.kind == Kind::Int32 && i32::try_from(number as i64).is_err() {
                    return Err(format!("holds {}, which does not fit 32 bits", number as i64));
                }
                rest = rest.get(taken..).unwrap_or_default();
            }
            Ok(())
        }
    }
}
