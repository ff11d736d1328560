//! Converts onnx-protobuf's messages to this crate's types, field by field: `AttributeProto::as_value` panics if the
//! declared type and the stored value disagree.

use onnx_protobuf::{
    AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, tensor_shape_proto::dimension,
    type_proto,
};

use super::{
    node::{Attribute, AttributeValue, Dim, Node, Subgraph, ValueInfo},
    storage,
    tensor::DataType,
    wire::{self, Scan},
};
use crate::error::printable;

/// The attribute kinds: number of AttributeProto.type, ONNX's name, number of the field that holds the value.
const KINDS: [(i32, &str, u32); 14] = [
    (1, "FLOAT", 2),
    (2, "INT", 3),
    (3, "STRING", 4),
    (4, "TENSOR", 5),
    (5, "GRAPH", 6),
    (6, "FLOATS", 7),
    (7, "INTS", 8),
    (8, "STRINGS", 9),
    (9, "TENSORS", 10),
    (10, "GRAPHS", 11),
    (11, "SPARSE_TENSOR", 22),
    (12, "SPARSE_TENSORS", 23),
    (13, "TYPE_PROTO", 14),
    (14, "TYPE_PROTOS", 15),
];

/// Checks one serialised attribute, `body`: its type is known, and it has at most one value, of that type.
pub(super) fn check_attribute(bytes: &[u8], body: std::ops::Range<usize>) -> Result<(), String> {
    let mut name = String::new();
    let mut declared = None;
    let mut held: Option<(u32, &str)> = None;
    for field in wire::fields(bytes, body) {
        match field.number {
            1 => name = printable(wire::text(bytes, &field)),
            20 => declared = bytes.get(field.value.clone()).and_then(wire::varint).map(|(n, _)| n as i32),
            number => {
                let Some(kind) = KINDS.iter().find(|k| k.2 == number) else { continue };
                if let Some((_, other)) = held.filter(|h| h.0 != number) {
                    return Err(format!("attribute \"{name}\" has two values, {other} and {}", kind.1));
                }
                held = Some((number, kind.1));
            }
        }
    }
    let Some(declared) = declared.filter(|&d| d != 0) else { return Ok(()) };
    let Some(kind) = KINDS.iter().find(|k| k.0 == declared) else {
        return Err(format!("attribute \"{name}\" has the unknown type {declared}"));
    };
    match held {
        Some((_, held)) if held != kind.1 => {
            Err(format!("attribute \"{name}\" is declared as {}, but holds {held}", kind.1))
        }
        _ => Ok(()),
    }
}

pub(super) fn node(proto: NodeProto) -> Result<Node, String> {
    let mut attributes: Vec<Attribute> = Vec::with_capacity(proto.attribute.len());
    let mut seen = std::collections::HashSet::new();
    for attribute in proto.attribute {
        let name = attribute.name.clone();
        if !seen.insert(name.clone()) {
            return Err(format!("has two attributes \"{}\"", printable(&name)));
        }
        let value =
            attribute_value(attribute).map_err(|p| format!("attribute \"{}\" {p}", printable(&name)))?;
        attributes.push(Attribute { name, value });
    }
    if !proto.overload.is_empty() {
        return Err(format!(
            "has the overload \"{}\"; only functions can be overloaded",
            printable(&proto.overload)
        ));
    }
    // "ai.onnx" and "" both name the default domain.
    let domain = if proto.domain == "ai.onnx" { String::new() } else { proto.domain };
    let (name, op_type) = (proto.name, proto.op_type);
    Ok(Node { name, op_type, domain, inputs: proto.input, outputs: proto.output, attributes })
}

fn attribute_value(proto: AttributeProto) -> Result<AttributeValue, String> {
    if !proto.ref_attr_name.is_empty() {
        return Err("refers to a function's attribute, but is outside any function".into());
    }
    let kind = match proto.type_.value() {
        // Old files have no type: infer it from the value.
        0 => infer(&proto).ok_or("has neither a type nor a value")?,
        number => KINDS.iter().find(|k| k.0 == number).map(|k| k.1).ok_or("has an unknown type")?,
    };
    Ok(match kind {
        "FLOAT" => AttributeValue::Float(proto.f),
        "INT" => AttributeValue::Int(proto.i),
        "STRING" => AttributeValue::String(proto.s),
        "FLOATS" => AttributeValue::Floats(proto.floats),
        "INTS" => AttributeValue::Ints(proto.ints),
        "STRINGS" => AttributeValue::Strings(proto.strings),
        "TENSOR" => match proto.t.0 {
            Some(t) => tensor_value(&t)?,
            None => return Err("is declared as TENSOR, but holds none".into()),
        },
        // one that cannot be read is kept and not interpreted
        "GRAPH" => match proto.g.0.and_then(|graph| subgraph(*graph).ok()) {
            Some(graph) => AttributeValue::Graph(Box::new(graph)),
            None => AttributeValue::Other("GRAPH"),
        },
        other => AttributeValue::Other(other),
    })
}

fn subgraph(proto: GraphProto) -> Result<Subgraph, String> {
    if !proto.sparse_initializer.is_empty() {
        return Err("sparse initializers".into());
    }
    let constant = |proto: &TensorProto| match tensor_value(proto)? {
        AttributeValue::Tensor(tensor) => Ok(tensor),
        _ => Err("an initializer of no supported type".to_owned()),
    };
    Ok(Subgraph {
        initializers: proto.initializer.iter().map(constant).collect::<Result<_, _>>()?,
        nodes: proto.node.into_iter().map(node).collect::<Result<_, _>>()?,
        inputs: proto.input.into_iter().map(|input| input.name).collect(),
        outputs: proto.output.into_iter().map(|output| output.name).collect(),
    })
}

fn infer(proto: &AttributeProto) -> Option<&'static str> {
    let held = [
        (proto.f != 0.0, "FLOAT"),
        (proto.i != 0, "INT"),
        (!proto.s.is_empty(), "STRING"),
        (proto.t.is_some(), "TENSOR"),
        (proto.g.is_some(), "GRAPH"),
        (!proto.floats.is_empty(), "FLOATS"),
        (!proto.ints.is_empty(), "INTS"),
        (!proto.strings.is_empty(), "STRINGS"),
        (!proto.tensors.is_empty(), "TENSORS"),
        (!proto.graphs.is_empty(), "GRAPHS"),
    ];
    held.into_iter().find_map(|(present, kind)| present.then_some(kind))
}

fn tensor_value(proto: &TensorProto) -> Result<AttributeValue, String> {
    let layout = storage::layout(proto, !proto.raw_data.is_empty())?;
    if layout.external {
        return Ok(AttributeValue::Other("TENSOR with external data"));
    }
    if matches!(layout.data_type, DataType::String | DataType::Complex64 | DataType::Complex128) {
        return Ok(AttributeValue::Other("TENSOR of strings or complex numbers"));
    }
    storage::decode(proto, &layout, None).map(AttributeValue::Tensor)
}

pub(super) fn value_info(proto: ValueInfoProto) -> ValueInfo {
    let mut info = ValueInfo { name: proto.name, elem_type: None, shape: None };
    if let Some(type_proto::Value::TensorType(tensor)) = proto.type_.0.and_then(|t| t.value) {
        info.elem_type = DataType::from_onnx(tensor.elem_type);
        info.shape = tensor.shape.0.map(|shape| shape.dim.into_iter().map(|d| dim(d.value)).collect());
    }
    info
}

fn dim(value: Option<dimension::Value>) -> Dim {
    match value {
        // Some exporters write -1 for an unknown size.
        Some(dimension::Value::DimValue(n)) => {
            usize::try_from(n).map_or_else(|_| Dim::Symbol(String::new()), Dim::Fixed)
        }
        Some(dimension::Value::DimParam(symbol)) => Dim::Symbol(symbol),
        _ => Dim::Symbol(String::new()),
    }
}

/// Decodes one message of the file with onnx-protobuf.
pub(super) fn decode_message<M: onnx_protobuf::Message>(
    bytes: &[u8],
    scan: &Scan,
    index: usize,
) -> Result<M, String> {
    let body = scan.messages.get(index).map_or(0..0, |m| m.body.clone());
    let at = body.start;
    M::parse_from_bytes(bytes.get(body).unwrap_or_default())
        .map_err(|e| format!("{} at byte {at}: {e}", M::NAME))
}

/// Decodes the messages directly in `parent`'s field `number`, each with its index in the scan.
pub(super) fn decoded<'a, M: onnx_protobuf::Message>(
    bytes: &'a [u8],
    scan: &'a Scan,
    parent: usize,
    number: u32,
) -> impl Iterator<Item = (usize, Result<M, String>)> + 'a {
    scan.children(parent, number).map(move |(index, _)| (index, decode_message(bytes, scan, index)))
}
