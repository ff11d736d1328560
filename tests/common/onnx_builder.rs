//! Small ONNX files, written field by field: well-formed ones for any test, and every malformed one that a reader may
//! meet. Nothing here uses the crate under test.
#![allow(dead_code)] // each test file uses its part

use prost::encoding::{WireType, encode_key, encode_varint};

/// A protobuf message under construction. Methods append a field and give the message back.
#[derive(Clone, Debug, Default)]
pub struct Msg(pub Vec<u8>);

impl Msg {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn int(mut self, number: u32, value: i64) -> Self {
        encode_key(number, WireType::Varint, &mut self.0);
        encode_varint(value as u64, &mut self.0);
        self
    }

    /// One by one, each with its own tag.
    pub fn ints(self, number: u32, values: &[i64]) -> Self {
        values.iter().fold(self, |msg, &v| msg.int(number, v))
    }

    pub fn packed_ints(self, number: u32, values: &[i64]) -> Self {
        let mut body = Vec::new();
        values.iter().for_each(|&v| encode_varint(v as u64, &mut body));
        self.bytes(number, &body)
    }

    pub fn float(mut self, number: u32, value: f32) -> Self {
        encode_key(number, WireType::ThirtyTwoBit, &mut self.0);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn floats(self, number: u32, values: &[f32]) -> Self {
        values.iter().fold(self, |msg, &v| msg.float(number, v))
    }

    pub fn packed_floats(self, number: u32, values: &[f32]) -> Self {
        self.bytes(number, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
    }

    pub fn bytes(mut self, number: u32, value: &[u8]) -> Self {
        encode_key(number, WireType::LengthDelimited, &mut self.0);
        encode_varint(value.len() as u64, &mut self.0);
        self.0.extend_from_slice(value);
        self
    }

    pub fn text(self, number: u32, value: &str) -> Self {
        self.bytes(number, value.as_bytes())
    }

    pub fn msg(self, number: u32, value: Msg) -> Self {
        self.bytes(number, &value.0)
    }

    pub fn msgs(self, number: u32, values: impl IntoIterator<Item = Msg>) -> Self {
        values.into_iter().fold(self, |msg, v| msg.msg(number, v))
    }

    /// With tag and length each padded to `width` bytes, as writers do that leave room for a length not yet known.
    pub fn padded(mut self, number: u32, value: &[u8], width: usize) -> Self {
        self.0.extend(padded_varint(u64::from(number << 3 | 2), width));
        self.0.extend(padded_varint(value.len() as u64, width));
        self.0.extend_from_slice(value);
        self
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// A varint of at least `width` bytes.
pub fn padded_varint(mut value: u64, width: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 || out.len() + 1 < width {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

pub fn attr_int(name: &str, value: i64) -> Msg {
    Msg::new().text(1, name).int(3, value).int(20, 2)
}

pub fn attr_ints(name: &str, values: &[i64]) -> Msg {
    Msg::new().text(1, name).ints(8, values).int(20, 7)
}

pub fn attr_float(name: &str, value: f32) -> Msg {
    Msg::new().text(1, name).float(2, value).int(20, 1)
}

pub fn attr_text(name: &str, value: &str) -> Msg {
    Msg::new().text(1, name).text(4, value).int(20, 3)
}

pub fn attr_tensor(name: &str, value: Msg) -> Msg {
    Msg::new().text(1, name).msg(5, value).int(20, 4)
}

pub fn attr_graph(name: &str, value: Msg) -> Msg {
    Msg::new().text(1, name).msg(6, value).int(20, 5)
}

/// A NodeProto.
pub fn node(op_type: &str, name: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<Msg>) -> Msg {
    let mut msg = Msg::new();
    msg = inputs.iter().fold(msg, |m, i| m.text(1, i));
    msg = outputs.iter().fold(msg, |m, o| m.text(2, o));
    msg.text(3, name).text(4, op_type).msgs(5, attributes)
}

/// A TensorProto of floats in raw_data.
pub fn tensor(name: &str, dims: &[i64], values: &[f32]) -> Msg {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Msg::new().ints(1, dims).int(2, 1).text(8, name).bytes(9, &raw)
}

/// A TensorProto of int64 in raw_data.
pub fn tensor_i64(name: &str, dims: &[i64], values: &[i64]) -> Msg {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Msg::new().ints(1, dims).int(2, 7).text(8, name).bytes(9, &raw)
}

/// A ValueInfoProto of a tensor of floats; a negative dim becomes the symbol "N".
pub fn value_info(name: &str, dims: &[i64]) -> Msg {
    let dim = |&d: &i64| if d < 0 { Msg::new().text(2, "N") } else { Msg::new().int(1, d) };
    let shape = Msg::new().msgs(1, dims.iter().map(dim));
    Msg::new().text(1, name).msg(2, Msg::new().msg(1, Msg::new().int(1, 1).msg(2, shape)))
}

/// The parts of a model, to be changed before it is written.
#[derive(Clone, Debug)]
pub struct Parts {
    pub ir_version: i64,
    pub opsets: Vec<(String, i64)>,
    pub nodes: Vec<Msg>,
    pub initializers: Vec<Msg>,
    pub inputs: Vec<Msg>,
    pub outputs: Vec<Msg>,
    /// Appended to the graph.
    pub graph_extra: Msg,
    /// Appended to the model.
    pub model_extra: Msg,
    /// Tags and lengths of graph and nodes are padded to this many bytes.
    pub width: usize,
}

impl Parts {
    /// The GraphProto.
    pub fn graph(&self) -> Msg {
        let nodes = self.nodes.iter().fold(Msg::new(), |m, n| m.padded(1, &n.0, self.width));
        nodes
            .text(2, "main")
            .msgs(5, self.initializers.clone())
            .msgs(11, self.inputs.clone())
            .msgs(12, self.outputs.clone())
            .raw(&self.graph_extra.0)
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let opsets = self.opsets.iter().map(|(domain, version)| Msg::new().text(1, domain).int(2, *version));
        Msg::new()
            .int(1, self.ir_version)
            .text(2, "onnx_builder")
            .padded(7, &self.graph().0, self.width)
            .msgs(8, opsets)
            .raw(&self.model_extra.0)
            .0
    }
}

/// Values that look random and are the same everywhere.
pub fn noise(count: usize, seed: u32, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 24) as f32 - 0.5) * 2.0 * scale
    };
    (0..count).map(|_| next()).collect()
}

/// A small classifier with a residual block: input (N, 3, 8, 8), 4 channels, output (N, 5).
///
/// Nodes: 0 stem (Conv) 1 act (Relu) 2 branch (Conv) 3 branch_act (Relu) 4 tail (Conv) 5 sum (Add, reads "a" too)
/// 6 pool (GlobalAveragePool) 7 flat (Flatten) 8 head (Gemm).
pub fn residual() -> Parts {
    let conv = |pad| vec![attr_ints("kernel_shape", &[3, 3]), attr_ints("pads", &[pad; 4])];
    Parts {
        ir_version: 8,
        opsets: vec![(String::new(), 17)],
        nodes: vec![
            node("Conv", "stem", &["input", "w0"], &["s"], conv(1)),
            node("Relu", "act", &["s"], &["a"], vec![]),
            node("Conv", "branch", &["a", "w1", "b1"], &["c"], conv(1)),
            node("Relu", "branch_act", &["c"], &["d"], vec![]),
            node("Conv", "tail", &["d", "w2"], &["e"], conv(1)),
            node("Add", "sum", &["e", "a"], &["f"], vec![]),
            node("GlobalAveragePool", "pool", &["f"], &["g"], vec![]),
            node("Flatten", "flat", &["g"], &["h"], vec![attr_int("axis", 1)]),
            node("Gemm", "head", &["h", "w3", "b3"], &["logits"], vec![attr_int("transB", 1)]),
        ],
        initializers: vec![
            tensor("w0", &[4, 3, 3, 3], &noise(108, 1, 0.4)),
            tensor("w1", &[4, 4, 3, 3], &noise(144, 2, 0.3)),
            tensor("b1", &[4], &noise(4, 3, 0.1)),
            tensor("w2", &[4, 4, 3, 3], &noise(144, 4, 0.3)),
            tensor("w3", &[5, 4], &noise(20, 5, 0.5)),
            tensor("b3", &[5], &noise(5, 6, 0.1)),
        ],
        inputs: vec![value_info("input", &[-1, 3, 8, 8])],
        outputs: vec![value_info("logits", &[-1, 5])],
        graph_extra: Msg::new(),
        model_extra: Msg::new(),
        width: 1,
    }
}

/// The same as a file.
pub fn residual_bytes() -> Vec<u8> {
    residual().bytes()
}

/// A small classifier whose channels are divided: input (N, 3, 8, 8), output (N, 5).
///
/// Nodes: 0 stem (Conv) 1 act (Relu) 2 divide (Split, makes "left", 1 channel, and "right", 3) 3 small (Conv, reads
/// "left") 4 large (Conv, reads "right") 5 both (Concat, reads "right" too) 6 pool (GlobalAveragePool) 7 flat (Flatten)
/// 8 head (Gemm).
pub fn divided() -> Parts {
    let conv = || vec![attr_ints("kernel_shape", &[3, 3]), attr_ints("pads", &[1; 4])];
    let mut parts = residual();
    parts.nodes.splice(
        2..6,
        [
            node("Split", "divide", &["a", "parts"], &["left", "right"], vec![attr_int("axis", 1)]),
            node("Conv", "small", &["left", "w1"], &["c"], conv()),
            node("Conv", "large", &["right", "w2"], &["d"], conv()),
            node("Concat", "both", &["c", "right", "d"], &["f"], vec![attr_int("axis", 1)]),
        ],
    );
    parts.initializers = vec![
        tensor("w0", &[4, 3, 3, 3], &noise(108, 1, 0.4)),
        tensor_i64("parts", &[2], &[1, 3]),
        tensor("w1", &[2, 1, 3, 3], &noise(18, 2, 0.5)),
        tensor("w2", &[2, 3, 3, 3], &noise(54, 3, 0.4)),
        tensor("w3", &[5, 7], &noise(35, 5, 0.7)),
        tensor("b3", &[5], &noise(5, 6, 0.1)),
    ];
    parts
}
