//! Odd and hostile files: each is refused with one clear message and the right class, and none brings the reader down.
//! The files are made here, field by field.

mod common;

#[path = "common/onnx_builder.rs"]
mod builder;

use builder::*;
use polarizer::{
    Error,
    internals::{onnx::wire, site::SitePlace},
    onnx::Model,
    rewrite,
};
use prost::Message;
use tract_onnx::pb::ModelProto;

fn read(bytes: Vec<u8>) -> Result<Model, Error> {
    Model::from_bytes(bytes, "hostile.onnx", None)
}

/// The residual model after a change.
fn with(change: impl FnOnce(&mut Parts)) -> Vec<u8> {
    let mut parts = residual();
    change(&mut parts);
    parts.bytes()
}

/// A model with this message instead of the initializer b3.
fn with_tensor(tensor: Msg) -> Vec<u8> {
    with(|p| p.initializers[5] = tensor)
}

/// `depth` groups inside each other.
fn groups(depth: usize) -> Vec<u8> {
    let mut bytes = vec![0x0b; depth]; // field 1, start of group
    bytes.extend(vec![0x0c; depth]);
    bytes
}

/// A value_info whose type is `depth` optionals inside each other.
fn nested_type(depth: usize) -> Msg {
    let innermost = Msg::new().msg(1, Msg::new().int(1, 1));
    let wrapped = (0..depth).fold(innermost, |inner, _| Msg::new().msg(9, Msg::new().msg(1, inner)));
    Msg::new().text(1, "deep").msg(2, wrapped)
}

#[test]
fn each_is_refused_with_its_reason() {
    let function = |domain: &str| {
        let body = node("Neg", "", &["x"], &["y"], vec![]);
        Msg::new().text(1, "Relu").text(4, "x").text(5, "y").msg(7, body).text(10, domain)
    };
    let external = |entries: &[(&str, &str)]| {
        let entries = entries.iter().map(|(k, v)| Msg::new().text(1, k).text(2, v));
        Msg::new().ints(1, &[5]).int(2, 1).text(8, "b3").msgs(13, entries).int(14, 1)
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        // --- the file as a whole
        ("empty", vec![], "is empty"),
        ("text", b"this is no model, it is a sentence".to_vec(), "is not a well-formed ONNX file"),
        ("PNG", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0 \0\0\0 ".to_vec(), "is not a well-formed ONNX file"),
        ("zip", b"PK\x03\x04\x14\0\0\0\x08\0\0\0!\0".to_vec(), "is a zip archive"),
        ("zeros", vec![0; 64], "byte 0: is not a valid field"),
        ("no graph", Msg::new().int(1, 8).0, "has no graph"),
        ("cut in the middle", residual_bytes()[..900].to_vec(), "ModelProto at byte 16: field 7 has"),
        // --- wire form
        ("groups", groups(400_000), "field 1 is a group"),
        ("a group at the end", with(|p| p.model_extra = Msg::new().raw(&groups(1))), "is a group"),
        ("a group in the graph", with(|p| p.graph_extra = Msg::new().raw(&groups(9))), "GraphProto at byte"),
        ("an end of group", with(|p| p.model_extra = Msg::new().raw(&[0x0c])), "is a group"),
        ("wire type 6", with(|p| p.model_extra = Msg::new().raw(&[0x0e])), "is not a valid field"),
        (
            "too deep",
            with(|p| p.graph_extra = Msg::new().msg(13, nested_type(40))),
            "messages are nested more than 64 deep",
        ),
        (
            "a length beyond the end",
            with(|p| p.model_extra = Msg::new().raw(&[0x72, 0x7f])),
            "field 14 has 127 bytes, but only 0 remain",
        ),
        (
            "an inner length beyond the outer",
            with(|p| p.model_extra = Msg::new().bytes(14, &[0x0a, 9, b'k'])),
            "StringStringEntryProto at byte",
        ),
        (
            "a length of 2^63",
            with(|p| p.model_extra = Msg::new().raw(&[0x72]).raw(&padded_varint(1 << 63, 1))),
            "takes more than 5 bytes",
        ),
        (
            "a tag of ten bytes",
            with(|p| p.model_extra = Msg::new().padded(14, &[], 10)),
            "a tag of more than 5 bytes",
        ),
        (
            "a number without an end",
            with(|p| p.model_extra = Msg::new().raw(&[0x28]).raw(&[0xff; 11])),
            "is an unterminated varint",
        ),
        ("graph as a number", with(|p| p.model_extra = Msg::new().int(8, 3)), "opset_import at byte"),
        ("a name as a number", with(|p| p.graph_extra = Msg::new().int(2, 3)), "GraphProto.name at byte"),
        (
            "ir_version as a float",
            with(|p| p.model_extra = Msg::new().float(1, 8.0)),
            "ModelProto.ir_version",
        ),
        ("two graphs", with(|p| p.model_extra = Msg::new().msg(7, Msg::new())), "ModelProto.graph at byte"),
        ("ir_version twice", with(|p| p.model_extra = Msg::new().int(1, 8)), "ModelProto.ir_version at byte"),
        (
            "raw_data twice",
            with_tensor(tensor("b3", &[5], &[0.0; 5]).bytes(9, &[0; 20])),
            "TensorProto.raw_data at byte",
        ),
        ("node name twice", with(|p| p.nodes[0] = p.nodes[0].clone().text(3, "x")), "NodeProto.name at byte"),
        (
            "two kinds of type",
            with(|p| {
                p.graph_extra = Msg::new().msg(13, Msg::new().msg(2, Msg::new().bytes(1, &[]).bytes(4, &[])))
            }),
            "is set together with another",
        ),
        (
            "a name that is not UTF-8",
            with(|p| p.nodes[1] = Msg::new().bytes(1, b"s").bytes(2, b"a\xff").text(4, "Relu")),
            "NodeProto.output at byte",
        ),
        (
            "packed floats that end inside a number",
            with_tensor(Msg::new().ints(1, &[1]).int(2, 1).text(8, "b3").bytes(4, &[0; 6])),
            "TensorProto.float_data at byte",
        ),
        (
            "packed dims that end inside a number",
            with_tensor(Msg::new().bytes(1, &[0x85]).int(2, 1).text(8, "b3")),
            "TensorProto.dims at byte",
        ),
        (
            "a data type beyond 32 bits",
            with_tensor(Msg::new().ints(1, &[5]).int(2, (1 << 32) + 1).text(8, "b3")),
            "TensorProto.data_type at byte",
        ),
        // --- versions
        ("IR 2", with(|p| p.ir_version = 2), "has IR version 2; 3 to"),
        ("IR 99", with(|p| p.ir_version = 99), "has IR version 99"),
        ("IR negative", with(|p| p.ir_version = -1), "has IR version -1"),
        ("no opset", with(|p| p.opsets.clear()), "has no opset_import"),
        ("opset 6", with(|p| p.opsets[0].1 = 6), "is written for opset 6; 7 to"),
        ("opset 99", with(|p| p.opsets[0].1 = 99), "is written for opset 99"),
        ("opset twice", with(|p| p.opsets.push((String::new(), 11))), "as opset 17 and 11"),
        ("opset by both names", with(|p| p.opsets.push(("ai.onnx".into(), 17))), "as opset 17 and 17"),
        // --- names
        (
            "a cycle",
            with(|p| p.nodes[1] = node("Add", "act", &["s", "f"], &["a"], vec![])),
            "node \"act\" (Add) reads \"f\" before node \"sum\" (Add) produces it: the graph has a cycle",
        ),
        (
            "a node that reads itself",
            with(|p| p.nodes[1] = node("Relu", "act", &["a"], &["a"], vec![])),
            "has a cycle",
        ),
        ("unsorted", with(|p| p.nodes.swap(0, 1)), "the nodes are not in order"),
        (
            "a missing initializer",
            with(|p| drop(p.initializers.remove(1))),
            "node \"branch\" (Conv) reads \"w1\"",
        ),
        ("a missing input", with(|p| p.inputs.clear()), "reads \"input\", which is neither an input"),
        (
            "an initializer twice",
            with(|p| p.initializers.push(tensor("w1", &[1], &[0.0]))),
            "two initializers \"w1\"",
        ),
        (
            "an initializer without a name",
            with(|p| p.initializers.push(tensor("", &[1], &[0.0]))),
            "without a name",
        ),
        ("an input twice", with(|p| p.inputs.push(value_info("input", &[1]))), "two inputs \"input\""),
        (
            "an output that nobody makes",
            with(|p| p.outputs.push(value_info("ghost", &[1]))),
            "its output \"ghost\" is not produced by any node",
        ),
        ("an output twice", with(|p| p.outputs.push(value_info("logits", &[1]))), "two outputs \"logits\""),
        ("no output", with(|p| p.outputs.clear()), "has no output"),
        (
            "two producers",
            with(|p| p.nodes.push(node("Relu", "again", &["s"], &["a"], vec![]))),
            "\"a\" is produced twice, by node \"act\" (Relu) and by node \"again\" (Relu)",
        ),
        (
            "a node that makes an initializer",
            with(|p| p.nodes.push(node("Relu", "again", &["s"], &["w1"], vec![]))),
            "produces \"w1\", which is already an input or initializer",
        ),
        (
            "a node that makes an input",
            with(|p| p.nodes.push(node("Relu", "again", &["s"], &["input"], vec![]))),
            "produces \"input\", which is already an input or initializer",
        ),
        (
            "two nodes of one name",
            with(|p| p.nodes.push(node("Relu", "act", &["s"], &["z"], vec![]))),
            "two nodes named \"act\"",
        ),
        (
            "control characters in a name",
            with(|p| p.outputs.push(value_info("\u{1b}[31mred", &[1]))),
            "\"\\u{1b}[31mred\"",
        ),
        // --- tensors
        (
            "two data fields",
            with_tensor(tensor("b3", &[5], &[0.0; 5]).packed_floats(4, &[1.0; 5])),
            "tensor \"b3\" at byte 2182 has both raw_data and float_data",
        ),
        (
            "empty raw_data beside float_data",
            with_tensor(
                Msg::new().ints(1, &[5]).int(2, 1).text(8, "b3").bytes(9, &[]).packed_floats(4, &[1.0; 5]),
            ),
            "has both raw_data and float_data",
        ),
        (
            "external data beside raw_data",
            with_tensor(external(&[("location", "w.bin")]).bytes(9, &[0; 20])),
            "has both external data and raw_data",
        ),
        (
            "external entries without the mark",
            with_tensor(tensor("b3", &[5], &[0.0; 5]).msg(13, Msg::new().text(1, "location").text(2, "w"))),
            "its data_location is not EXTERNAL",
        ),
        (
            "external data, no folder",
            with_tensor(external(&[("location", "w.bin")])),
            "not read from a folder",
        ),
        (
            "data longer than the shape",
            with_tensor(tensor("b3", &[5], &[0.0; 6])),
            "20 bytes, but 24 bytes of raw_data",
        ),
        ("data shorter than the shape", with_tensor(tensor("b3", &[5], &[0.0; 4])), "20 bytes, but 16 bytes"),
        (
            "half a number",
            with_tensor(Msg::new().ints(1, &[5]).int(2, 1).text(8, "b3").bytes(9, &[0; 19])),
            "but 19 bytes of raw_data",
        ),
        ("no data", with_tensor(Msg::new().ints(1, &[5]).int(2, 1).text(8, "b3")), "but no data"),
        (
            "a negative dim",
            with_tensor(Msg::new().ints(1, &[-5]).int(2, 1).text(8, "b3")),
            "negative dimension",
        ),
        (
            "dims beyond 64 bits",
            with_tensor(Msg::new().ints(1, &[1 << 33, 1 << 33]).int(2, 1).text(8, "b3")),
            "overflows 64 bits",
        ),
        (
            "bytes beyond 64 bits",
            with_tensor(Msg::new().ints(1, &[1 << 62]).int(2, 11).text(8, "b3")),
            "overflows 64 bits",
        ),
        ("seventeen dims", with_tensor(Msg::new().ints(1, &[1; 17]).int(2, 1).text(8, "b3")), "17 dims"),
        (
            "an unknown type",
            with_tensor(Msg::new().ints(1, &[5]).int(2, 77).text(8, "b3")),
            "unknown data type 77",
        ),
        (
            "no type",
            with_tensor(Msg::new().ints(1, &[5]).text(8, "b3").bytes(9, &[0; 20])),
            "unknown data type 0",
        ),
        (
            "floats in int32_data",
            with_tensor(Msg::new().ints(1, &[5]).int(2, 1).text(8, "b3").packed_ints(5, &[0; 5])),
            "which is stored in float_data or raw_data, but has int32_data",
        ),
        ("a segment", with_tensor(tensor("b3", &[5], &[0.0; 5]).msg(3, Msg::new().int(1, 0))), "one segment"),
        (
            "two data fields in a function's attribute",
            with(|p| {
                let twice = attr_tensor("value", tensor("t", &[1], &[0.0]).packed_floats(4, &[1.0]));
                p.model_extra = Msg::new().msg(25, function("evil").msg(11, twice));
            }),
            "has both raw_data and float_data",
        ),
        // --- attributes
        (
            "an attribute twice",
            with(|p| {
                let axis = || attr_int("axis", 1);
                p.nodes[7] = node("Flatten", "flat", &["g"], &["h"], vec![axis(), axis()]);
            }),
            "has two attributes \"axis\"",
        ),
        (
            "an attribute with two values",
            with(|p| {
                p.nodes[7] = node("Flatten", "flat", &["g"], &["h"], vec![attr_int("axis", 1).float(2, 1.0)]);
            }),
            "attribute \"axis\" has two values",
        ),
        (
            "an attribute that is not what it says",
            with(|p| {
                let odd = Msg::new().text(1, "axis").float(2, 1.0).int(20, 2);
                p.nodes[7] = node("Flatten", "flat", &["g"], &["h"], vec![odd]);
            }),
            "is declared as INT, but holds FLOAT",
        ),
        (
            "an attribute without its tensor",
            with(|p| {
                let odd = Msg::new().text(1, "value").int(20, 4);
                p.nodes[7] = node("Flatten", "flat", &["g"], &["h"], vec![odd]);
            }),
            "is declared as TENSOR, but holds none",
        ),
        (
            "an attribute of an unknown type",
            with(|p| {
                p.nodes[7] =
                    node("Flatten", "flat", &["g"], &["h"], vec![Msg::new().text(1, "q").int(20, 99)])
            }),
            "unknown type 99",
        ),
        (
            "an attribute that refers to a function's",
            with(|p| {
                let odd = Msg::new().text(1, "axis").text(21, "outer").int(20, 2);
                p.nodes[7] = node("Flatten", "flat", &["g"], &["h"], vec![odd]);
            }),
            "refers to a function's attribute",
        ),
        // --- what is not supported
        (
            "a function in ONNX's domain",
            with(|p| p.model_extra = Msg::new().msg(25, function(""))),
            "has a function \"Relu\" in ONNX's own domain",
        ),
        (
            "a node that runs a function",
            with(|p| {
                p.nodes[1] = node("Relu", "act", &["s"], &["a"], vec![]).text(7, "evil");
                p.model_extra = Msg::new().msg(25, function("evil"));
            }),
            "node \"act\" (Relu) calls a model-local function",
        ),
        ("training_info", with(|p| p.model_extra = Msg::new().msg(20, Msg::new())), "has training_info"),
        (
            "a sparse initializer",
            with(|p| p.graph_extra = Msg::new().msg(15, Msg::new())),
            "has sparse initializers",
        ),
    ];
    for (what, bytes, expected) in cases {
        let error = read(bytes).expect_err(what);
        let text = error.to_string();
        assert!(text.starts_with("hostile.onnx: "), "{what}: {text}");
        assert!(text.contains(expected), "{what}: {text:?} lacks {expected:?}");
        assert!(!text.contains(|c: char| c.is_control()), "{what}: {text:?}");
        assert_eq!(error.exit_code(), 2, "{what}");
    }
}

/// Odd, but every reader understands it alike: accepted.
#[test]
fn odd_but_sound_files_are_read() {
    let metadata = || Msg::new().text(1, "k").text(2, "v");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("plain", residual_bytes()),
        ("padded lengths", with(|p| p.width = 5)),
        ("an unknown field", with(|p| p.model_extra = Msg::new().text(99, "future"))),
        ("IR 3 without the initializers as inputs", with(|p| p.ir_version = 3)),
        ("the other name of the domain", with(|p| p.opsets = vec![("ai.onnx".into(), 17)])),
        ("an import of another domain", with(|p| p.opsets.push(("com.microsoft".into(), 1)))),
        (
            "metadata of one key twice",
            with(|p| p.model_extra = Msg::new().msgs(14, [metadata(), metadata()])),
        ),
        (
            "unpacked float_data",
            with_tensor(Msg::new().ints(1, &[5]).int(2, 1).text(8, "b3").floats(4, &[1.0; 5])),
        ),
        (
            "packed dims",
            with_tensor(Msg::new().packed_ints(1, &[5]).int(2, 1).text(8, "b3").packed_floats(4, &[1.0; 5])),
        ),
        (
            "a function that nobody runs",
            with(|p| p.model_extra = Msg::new().msg(25, Msg::new().text(1, "f").text(10, "mine"))),
        ),
        ("stale value_info", with(|p| p.graph_extra = Msg::new().msg(13, value_info("a", &[7, 7])))),
        (
            "an empty optional input",
            with(|p| {
                p.nodes[2] = node("Conv", "branch", &["a", "w1", ""], &["c"], vec![]);
            }),
        ),
        ("30 types inside each other", with(|p| p.graph_extra = Msg::new().msg(13, nested_type(28)))),
    ];
    for (what, bytes) in cases {
        let model = read(bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
        other_reader_agrees(&model);
        let b3 = model.initializer("b3").unwrap().unwrap();
        assert_eq!(b3.dims, [5], "{what}");
    }
    let model = read(with(|p| p.model_extra = Msg::new().text(99, "future"))).unwrap();
    assert_eq!(model.unknown_fields(), 1);
    let weights_as_inputs = with(|p| p.inputs.push(value_info("w3", &[5, 4])));
    let model = read(weights_as_inputs).unwrap();
    assert_eq!(model.overridable(), ["w3"]);
    assert_eq!(model.inputs().len(), 1);
}

/// A cut file is refused, unless it ends between two of the model's fields with all in it that a model needs.
#[test]
fn cut_at_every_byte() {
    let bytes = with(|p| p.model_extra = Msg::new().msg(14, Msg::new().text(1, "key").text(2, "value")));
    let mut accepted = Vec::new();
    for length in 0..bytes.len() {
        match read(bytes[..length].to_vec()) {
            Ok(_) => accepted.push(length),
            Err(error) => assert_eq!(error.exit_code(), 2),
        }
    }
    assert_eq!(accepted, [residual_bytes().len()], "only without the metadata");
}

/// Whatever a bit is flipped to, the answer is a model or an error; a model can be asked for all it has.
#[test]
fn flipped_bits_bring_nothing_down() {
    let originals = [
        residual_bytes(),
        with(|p| {
            p.width = 3;
            p.model_extra = Msg::new().msg(25, Msg::new().text(1, "f").text(10, "mine"));
            p.graph_extra = Msg::new().msg(13, nested_type(5));
        }),
    ];
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for original in &originals {
        // Most bytes are weights, where nothing interesting happens: flip in the rest.
        let places: Vec<usize> = {
            let model = read(original.clone()).unwrap();
            let inside = |at: &usize| {
                wire::scan(model.bytes()).unwrap().messages.iter().any(|m| {
                    m.kind == polarizer::internals::onnx::schema::Type::Tensor
                        && m.body.contains(at)
                        && at + 24 < m.body.end
                        && *at > m.body.start + 24
                })
            };
            (0..original.len()).filter(|at| !inside(at)).collect()
        };
        for round in 0..30_000 {
            let mut bytes = original.clone();
            for _ in 0..1 + round % 3 {
                bytes[places[random(places.len())]] ^= 1 << random(8);
            }
            exercise(bytes);
        }
    }
}

fn exercise(bytes: Vec<u8>) {
    let _ = rewrite::revert(&bytes, "hostile.onnx");
    let Ok(model) = read(bytes) else { return };
    other_reader_agrees(&model);
    for name in model.initializer_names() {
        let _ = model.initializer(name);
    }
    let layer = common::identity_layer(4);
    let provenance = rewrite::Provenance::new("node:branch", vec![]);
    let place = SitePlace::Edge { node: 2, input: 0 };
    if let Ok(purified) = rewrite::insert(&model, &place, &layer, &provenance) {
        let again = rewrite::revert(&purified, "purified.onnx").expect("what was inserted can be taken out");
        assert!(again == model.bytes());
    }
}

/// What we read, prost reads the same: tract, for one, decodes with it.
fn other_reader_agrees(model: &Model) {
    let other = ModelProto::decode(model.bytes()).expect("prost reads what we read");
    let graph = other.graph.expect("a graph");
    assert_eq!(other.ir_version, model.ir_version());
    assert_eq!(graph.node.len(), model.nodes().len());
    for (a, b) in graph.node.iter().zip(model.nodes()) {
        assert_eq!((&a.name, &a.op_type, &a.input, &a.output), (&b.name, &b.op_type, &b.inputs, &b.outputs));
        assert!(a.attribute.iter().map(|x| &x.name).eq(b.attributes.iter().map(|x| &x.name)));
    }
    assert!(graph.initializer.iter().map(|t| t.name.as_str()).eq(model.initializer_names()));
    for tensor in &graph.initializer {
        let (_, dims) = model.initializer_shape(&tensor.name).expect("the same names");
        assert!(tensor.dims.iter().map(|&d| d as usize).eq(dims.iter().copied()));
    }
    let outputs = graph.output.iter().map(|o| &o.name);
    assert!(outputs.eq(model.outputs().iter().map(|o| &o.name)));
    assert_eq!(graph.input.len(), model.inputs().len() + model.overridable().len());
}

/// The parser behind our scan (RUSTSEC-2024-0437, see deny.toml) would recurse through these until the stack ends.
#[test]
fn groups_never_reach_the_parser() {
    for bytes in
        [groups(400_000), vec![0x0b; 800_000], with(|p| p.graph_extra = Msg::new().raw(&groups(400_000)))]
    {
        let fault = wire::scan(&bytes).unwrap_err();
        assert!(fault.problem.contains("group"), "{fault}");
    }
}

#[test]
fn more_messages_than_any_model_has() {
    let bytes = with(|p| p.model_extra = Msg::new().raw(&[0x72, 0].repeat((1 << 20) + 1)));
    assert!(read(bytes).unwrap_err().to_string().contains("more than 1048576 messages"));
}

/// A million unknown fields cost no memory, and a name of a megabyte no time.
#[test]
fn large_but_sound() {
    let model = read(with(|p| p.model_extra = Msg::new().raw(&[0x98, 0x06, 1].repeat(1 << 20)))).unwrap();
    assert_eq!(model.unknown_fields(), 1 << 20);
    let name = "n".repeat(1 << 20);
    let error = read(with(|p| p.outputs.push(value_info(&name, &[1])))).unwrap_err().to_string();
    assert!(error.len() < 300, "{}", error.len());
}

#[test]
fn files_that_are_not_there_or_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let error = Model::read(&dir.path().join("none.onnx")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.exit_code() == 2);
    let error = Model::read(dir.path()).unwrap_err();
    assert!(error.to_string().contains("is a folder"), "{error}");
}

/// External data: which file is read is the model's claim, so every way out of its folder is closed.
#[test]
fn external_data() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let values = [1.0_f32, 2.0, 3.0, 4.0, 5.0];
    let content: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let padded: Vec<u8> = [vec![0; 16], content.clone(), vec![0; 16]].concat();
    std::fs::write(path("w.bin"), &content).unwrap();
    std::fs::write(path("padded.bin"), &padded).unwrap();
    std::fs::create_dir(path("sub")).unwrap();
    std::fs::write(path("sub").join("w.bin"), &content).unwrap();
    #[cfg(unix)]
    {
        std::fs::write(path("two.bin"), &content).unwrap();
        std::fs::hard_link(path("two.bin"), path("hard.bin")).unwrap();
        std::os::unix::fs::symlink(path("w.bin"), path("soft.bin")).unwrap();
        std::os::unix::fs::symlink(path("sub"), path("softdir")).unwrap();
    }
    let make = |entries: &[(&str, &str)]| {
        let entries = entries.iter().map(|(k, v)| Msg::new().text(1, k).text(2, v));
        with_tensor(Msg::new().ints(1, &[5]).int(2, 1).text(8, "b3").msgs(13, entries).int(14, 1))
    };
    let read = |bytes: Vec<u8>| {
        std::fs::write(path("model.onnx"), bytes).unwrap();
        Model::read(&path("model.onnx"))
    };
    let good: [&[(&str, &str)]; 4] = [
        &[("location", "w.bin")],
        &[("location", "sub/w.bin"), ("offset", "0"), ("length", "20")],
        &[("location", "padded.bin"), ("offset", "16"), ("length", "20")],
        &[("location", "w.bin"), ("checksum", "whatever")],
    ];
    for entries in good {
        let model = read(make(entries)).unwrap_or_else(|e| panic!("{entries:?}: {e}"));
        let tensor = model.initializer("b3").unwrap().unwrap();
        assert_eq!(tensor.data, polarizer::onnx::tensor::Data::Float(values.to_vec()));
        assert!(model.has_external_data());
        // nothing is written over the weights, whatever is asked for
        let weights = path(entries[0].1);
        assert_eq!(model.external_files().collect::<Vec<_>>(), [weights.as_path()]);
        let before = std::fs::read(&weights).unwrap();
        let apply = std::process::Command::new(env!("CARGO_BIN_EXE_polarizer"))
            .args(["apply", "--force", "--polarizer"])
            .args([path("model.onnx"), path("model.onnx"), "-o".into(), weights.clone()])
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&apply.stderr);
        assert!(apply.status.code() == Some(2) && stderr.contains("holds weights of the model"), "{stderr}");
        assert_eq!(std::fs::read(&weights).unwrap(), before);
    }
    let absolute = path("w.bin").to_string_lossy().into_owned();
    let mut bad: Vec<(&[(&str, &str)], &str)> = vec![
        (&[("location", "../w.bin")], "only a plain relative path"),
        (&[("location", "sub/../w.bin")], "only a plain relative path"),
        (&[("location", "./w.bin")], "only a plain relative path"),
        (&[("location", "sub\\w.bin")], "only a plain relative path"),
        (&[("location", "C:w.bin")], "only a plain relative path"),
        (&[("location", "")], "only a plain relative path"),
        (
            &[("location", "*/_ORT_MEM_ADDR_/*"), ("offset", "140000"), ("length", "20")],
            "only a plain relative path",
        ),
        (&[], "without a location"),
        (&[("location", "none.bin")], "none.bin"),
        (&[("location", "sub")], "not a file"),
        (&[("location", "w.bin"), ("location", "w.bin")], "two values for \"location\""),
        (&[("location", "w.bin"), ("mode", "w")], "unknown key \"mode\""),
        (&[("location", "w.bin"), ("offset", "-1")], "not a number"),
        (&[("location", "w.bin"), ("offset", "4")], "16 bytes, but type and dims require 20"),
        (&[("location", "w.bin"), ("offset", "4"), ("length", "20")], "but the file has 20"),
        (&[("location", "w.bin"), ("length", "99999999999999")], "require 20"),
        (&[("location", "w.bin"), ("offset", "18446744073709551615"), ("length", "20")], "but the file has"),
        (&[("location", "padded.bin")], "52 bytes, but type and dims require 20"),
    ];
    let absolute = [("location", absolute.as_str())];
    bad.push((&absolute, "only a plain relative path"));
    if cfg!(unix) {
        bad.push((&[("location", "soft.bin")], "is a link"));
        bad.push((&[("location", "softdir/w.bin")], "is a link"));
        bad.push((&[("location", "hard.bin")], "hard link"));
    }
    for (entries, expected) in bad {
        let error = read(make(entries)).expect_err(expected).to_string();
        assert!(error.contains(expected), "{entries:?}: {error:?} lacks {expected:?}");
        assert!(error.contains("initializer \"b3\" "), "{error}");
    }
}
