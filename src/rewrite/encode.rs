//! Encodes the few protobuf messages that a rewrite adds. They are small, so each is written to its own buffer and then
//! wrapped.

use prost::encoding::{WireType, bytes, encode_key, encode_varint, float, int32, int64, string};

use crate::{layer::Stored, onnx::schema::number};

/// `body` as the message field `number`.
pub(super) fn message(number: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 8);
    encode_key(number, WireType::LengthDelimited, &mut out);
    encode_varint(body.len() as u64, &mut out);
    out.extend_from_slice(body);
    out
}

fn text(number: u32, value: &str, out: &mut Vec<u8>) {
    string::encode(number, &value.to_owned(), out);
}

/// Value of a written attribute.
pub(super) enum Value<'a> {
    Float(f32),
    Int(i64),
    Ints(&'a [i64]),
}

fn attribute(name: &str, value: &Value<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    text(1, name, &mut out);
    let kind = match value {
        Value::Float(v) => {
            float::encode(2, v, &mut out);
            1
        }
        Value::Int(v) => {
            int64::encode(3, v, &mut out);
            2
        }
        Value::Ints(v) => {
            int64::encode_repeated(8, v, &mut out);
            7
        }
    };
    int32::encode(20, &kind, &mut out);
    out
}

/// A NodeProto as field of a graph.
pub(super) fn node(
    name: &str,
    op_type: &str,
    inputs: &[&str],
    output: &str,
    attributes: &[(&str, Value<'_>)],
) -> Vec<u8> {
    let mut out = Vec::new();
    for input in inputs {
        text(1, input, &mut out);
    }
    text(2, output, &mut out);
    text(3, name, &mut out);
    text(4, op_type, &mut out);
    for (name, value) in attributes {
        out.extend(message(5, &attribute(name, value)));
    }
    message(number::GRAPH_NODE, &out)
}

/// TensorProto.DataType of a type.
fn data_type(stored: Stored) -> i32 {
    match stored {
        Stored::Float => 1,
        Stored::Float16 => 10,
        Stored::Bfloat16 => 16,
    }
}

/// A TensorProto as initializer of a graph.
pub(super) fn initializer(name: &str, dims: &[i64], values: &[f32], stored: Stored) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.len() * 4 + name.len() + 64);
    int64::encode_repeated(1, dims, &mut out);
    int32::encode(2, &data_type(stored), &mut out);
    text(8, name, &mut out);
    let raw: Vec<u8> = values.iter().flat_map(|v| stored.bytes(*v)).collect();
    bytes::encode(9, &raw, &mut out);
    message(number::GRAPH_INITIALIZER, &out)
}

/// A ValueInfoProto of a tensor as input of a graph.
pub(super) fn graph_input(name: &str, dims: &[i64], stored: Stored) -> Vec<u8> {
    let mut shape = Vec::new();
    for dim in dims {
        let mut dimension = Vec::new();
        int64::encode(1, dim, &mut dimension);
        shape.extend(message(1, &dimension));
    }
    let mut tensor = Vec::new();
    int32::encode(1, &data_type(stored), &mut tensor);
    tensor.extend(message(2, &shape));
    let mut out = Vec::new();
    text(1, name, &mut out);
    out.extend(message(2, &message(1, &tensor)));
    message(number::GRAPH_INPUT, &out)
}

/// An entry of metadata_props.
pub(super) fn metadata(key: &str, value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    text(1, key, &mut out);
    text(2, value, &mut out);
    message(number::MODEL_METADATA_PROPS, &out)
}
