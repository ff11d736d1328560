//! A copy of a model that the judge can read, where it cannot read the file: floats of 16 bits as float32, Upsample as Resize,
//! the calls of model functions replaced by their nodes. The proof that the file is the original plus a layer stays with
//! the file's own bytes.

use std::{collections::HashMap, fs::File, io::Read as _, io::Seek as _, io::SeekFrom, path::Path};

use half::{bf16, f16};
use tract_onnx::pb::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType, tensor_proto::DataType, type_proto,
};

use crate::{Error, Result, error::printable};

const BF16: i32 = DataType::Bfloat16 as i32;
const F16: i32 = DataType::Float16 as i32;
const FLOAT: i32 = DataType::Float as i32;
const INT64: i32 = DataType::Int64 as i32;
/// Functions within functions.
const DEPTH: usize = 16;
/// Nodes of a copy: functions that call functions grow quickly.
const NODES: usize = 200_000;

/// A float of 16 bits.
struct Half {
    code: i32,
    name: &'static str,
    float: fn(u16) -> f32,
}

/// tract has no bfloat16, and rounds float16 after each step of a sum: nothing could be told from its outputs.
const HALVES: &[Half] = &[
    Half { code: BF16, name: "BFLOAT16", float: |bits| bf16::from_bits(bits).to_f32() },
    Half { code: F16, name: "FLOAT16", float: |bits| f16::from_bits(bits).to_f32() },
];

/// Whether constants or Casts of a graph are of this type.
fn computes_in(graph: &GraphProto, code: i32) -> bool {
    let attributes = graph.node.iter().flat_map(|node| &node.attribute);
    graph.initializer.iter().any(|tensor| tensor.data_type == code)
        || attributes.into_iter().any(|a| {
            a.name == "to" && a.i == i64::from(code) || a.t.as_ref().is_some_and(|t| t.data_type == code)
        })
}

/// `model` as the judge reads it, and what was changed for that, in words. External data is in `folder`.
///
/// # Errors
/// [`Error::Check`] named `judge` with what cannot be rewritten.
pub fn readable(mut model: ModelProto, folder: Option<&Path>) -> Result<(ModelProto, Vec<String>)> {
    let mut changes = Vec::new();
    inline(&mut model, &mut changes)?;
    upsample(&mut model, &mut changes)?;
    for half in HALVES {
        let Some(graph) = &mut model.graph else { continue };
        // an input alone, which a Cast turns into floats, is read as it is
        if half.code == F16 && !computes_in(graph, F16) {
            continue;
        }
        let mut widened = 0;
        widen(graph, folder, half, &mut widened)?;
        if widened > 0 {
            changes.push(format!("{widened} tensors and types {} as FLOAT", half.name));
        }
    }
    Ok((model, changes))
}

fn refused(problem: String) -> Error {
    Error::check("judge", problem)
}

fn label(node: &NodeProto) -> String {
    let name = if node.name.is_empty() { node.output.first().unwrap_or(&node.name) } else { &node.name };
    format!("node \"{}\" ({})", printable(name), printable(&node.op_type))
}

/// Replaces calls of the model's functions by the functions' nodes.
fn inline(model: &mut ModelProto, changes: &mut Vec<String>) -> Result<()> {
    if model.functions.is_empty() {
        return Ok(());
    }
    let functions = std::mem::take(&mut model.functions);
    let versions: HashMap<&str, i64> =
        model.opset_import.iter().map(|opset| (domain(&opset.domain), opset.version)).collect();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let by_name: HashMap<(String, String), &FunctionProto> =
        functions.iter().map(|f| ((text(&f.domain), text(&f.name)), f)).collect();
    let Some(graph) = &mut model.graph else { return Ok(()) };
    let mut inliner = Inliner { functions: &by_name, versions: &versions, calls: 0, out: Vec::new() };
    for node in std::mem::take(&mut graph.node) {
        inliner.node(node, 0)?;
    }
    if inliner.calls > 0 {
        changes.push(format!("{} calls of model functions inlined", inliner.calls));
    }
    graph.node = inliner.out;
    Ok(())
}

/// ONNX's own domain has two names.
fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

struct Inliner<'a> {
    functions: &'a HashMap<(String, String), &'a FunctionProto>,
    versions: &'a HashMap<&'a str, i64>,
    calls: usize,
    out: Vec<NodeProto>,
}

impl Inliner<'_> {
    fn node(&mut self, node: NodeProto, depth: usize) -> Result<()> {
        let Some(function) = self.functions.get(&(node.domain.clone(), node.op_type.clone())) else {
            self.out.push(node);
            return match self.out.len() {
                0..=NODES => Ok(()),
                _ => Err(refused(format!("its functions come to more than {NODES} nodes"))),
            };
        };
        if depth == DEPTH {
            return Err(refused(format!("{}: functions call each other {DEPTH} deep", label(&node))));
        }
        for opset in &function.opset_import {
            let version = self.versions.get(domain(&opset.domain));
            if domain(&opset.domain).is_empty() && version.is_some_and(|&version| version != opset.version) {
                let problem = "is a function of another opset than the model's, which cannot be inlined";
                return Err(refused(format!("{} {problem}", label(&node))));
            }
        }
        self.calls += 1;
        let call = self.calls;
        let mut names: HashMap<String, String> = HashMap::new();
        for (formal, actual) in [(&function.input, &node.input), (&function.output, &node.output)] {
            for (at, name) in formal.iter().enumerate() {
                let own = actual.get(at).cloned().unwrap_or_default();
                names.insert(name.clone(), own);
            }
        }
        for inner in &function.node {
            let inner = called(inner, &node, call, &mut names)?;
            self.node(inner, depth + 1)?;
        }
        Ok(())
    }
}

/// A function's node as the call has it: names of values and attributes replaced.
fn called(
    inner: &NodeProto,
    call: &NodeProto,
    number: usize,
    names: &mut HashMap<String, String>,
) -> Result<NodeProto> {
    let mut node = inner.clone();
    let own = |name: &str| format!("{}/{number}/{name}", call.name);
    node.name = own(&inner.name);
    if inner.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty()) {
        let problem = "holds a subgraph inside a function, which is not inlined";
        return Err(refused(format!("{} {problem}", label(inner))));
    }
    for name in node.input.iter_mut().filter(|name| !name.is_empty()) {
        *name = names.get(name).cloned().unwrap_or_else(|| own(name));
    }
    for name in node.output.iter_mut().filter(|name| !name.is_empty()) {
        // an output that the call does not want still needs a name of its own
        let known = names.get(name).filter(|known| !known.is_empty()).cloned();
        let new = known.unwrap_or_else(|| own(name));
        names.insert(name.clone(), new.clone());
        *name = new;
    }
    let attribute = |attribute: &AttributeProto| match attribute.ref_attr_name.as_str() {
        "" => Some(attribute.clone()),
        wanted => {
            let given = call.attribute.iter().find(|a| a.name == wanted)?;
            Some(AttributeProto { name: attribute.name.clone(), ..given.clone() })
        }
    };
    node.attribute = inner.attribute.iter().filter_map(attribute).collect();
    Ok(node)
}

/// Upsample as Resize of opset 10, which is the first that has it; Slice is written as that opset has it.
fn upsample(model: &mut ModelProto, changes: &mut Vec<String>) -> Result<()> {
    let Some(graph) = &mut model.graph else { return Ok(()) };
    let found = graph.node.iter().filter(|node| node.op_type == "Upsample").count();
    if found == 0 {
        return Ok(());
    }
    let opset = model.opset_import.iter_mut().find(|opset| domain(&opset.domain).is_empty());
    let raised = opset.filter(|opset| opset.version < 10).map(|opset| opset.version = 10).is_some();
    let mut constants = Vec::new();
    for (at, node) in graph.node.iter_mut().enumerate() {
        match node.op_type.as_str() {
            "Upsample" => {
                node.op_type = "Resize".to_owned();
                if let Some(scales) = take(node, "scales") {
                    let name = format!("{at}/scales for the judge");
                    node.input.push(name.clone());
                    constants.push(floats(name, &scales.floats));
                }
                for attribute in node.attribute.iter_mut().filter(|a| a.name == "mode" && a.s == b"bilinear")
                {
                    attribute.s = b"linear".to_vec();
                }
                // as Upsample is defined, and Resize of opset 10
                node.attribute.push(text("nearest_mode", "floor"));
                node.attribute.push(text("coordinate_transformation_mode", "asymmetric"));
            }
            "Slice" if raised => {
                let starts = take(node, "starts").map(|a| a.ints).unwrap_or_default();
                let ends = take(node, "ends").map(|a| a.ints).unwrap_or_default();
                let axes = take(node, "axes").map_or_else(|| (0..starts.len() as i64).collect(), |a| a.ints);
                for (part, values) in [("starts", starts), ("ends", ends), ("axes", axes)] {
                    let name = format!("{at}/{part} for the judge");
                    node.input.push(name.clone());
                    constants.push(integers(name, &values));
                }
            }
            "TopK" if raised => {
                let problem = "beside Upsample: the judge's copy is of opset 10, where it differs";
                return Err(refused(format!("{} {problem}", label(node))));
            }
            _ => {}
        }
    }
    let as_inputs: Vec<ValueInfoProto> = match model.ir_version {
        ..4 => constants.iter().map(declared).collect(),
        _ => Vec::new(),
    };
    graph.input.extend(as_inputs);
    graph.initializer.extend(constants);
    changes.push(format!("{found} Upsample as Resize"));
    Ok(())
}

fn take(node: &mut NodeProto, name: &str) -> Option<AttributeProto> {
    let at = node.attribute.iter().position(|a| a.name == name)?;
    Some(node.attribute.remove(at))
}

fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::String as i32,
        s: value.as_bytes().to_vec(),
        ..AttributeProto::default()
    }
}

fn floats(name: String, values: &[f32]) -> TensorProto {
    let raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    TensorProto {
        name,
        dims: vec![values.len() as i64],
        data_type: FLOAT,
        raw_data,
        ..TensorProto::default()
    }
}

fn integers(name: String, values: &[i64]) -> TensorProto {
    let raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    TensorProto {
        name,
        dims: vec![values.len() as i64],
        data_type: INT64,
        raw_data,
        ..TensorProto::default()
    }
}

/// A graph input for a constant, as files before IR 4 have them.
fn declared(tensor: &TensorProto) -> ValueInfoProto {
    let value = type_proto::Tensor { elem_type: tensor.data_type, shape: None };
    ValueInfoProto {
        name: tensor.name.clone(),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(value)), ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}

/// Makes every number of this type in a graph a float: constants, declared types, the targets of Casts.
fn widen(graph: &mut GraphProto, folder: Option<&Path>, half: &Half, widened: &mut usize) -> Result<()> {
    for tensor in &mut graph.initializer {
        widen_tensor(tensor, folder, half, widened)?;
    }
    for info in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
        if let Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), .. }) = &mut info.r#type
            && tensor.elem_type == half.code
        {
            tensor.elem_type = FLOAT;
            *widened += 1;
        }
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        if matches!(attribute.name.as_str(), "to" | "dtype") && attribute.i == i64::from(half.code) {
            attribute.i = i64::from(FLOAT);
            *widened += 1;
        }
        for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
            widen_tensor(tensor, folder, half, widened)?;
        }
        for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            widen(graph, folder, half, widened)?;
        }
    }
    Ok(())
}

fn widen_tensor(
    tensor: &mut TensorProto,
    folder: Option<&Path>,
    half: &Half,
    widened: &mut usize,
) -> Result<()> {
    if tensor.data_type != half.code {
        return Ok(());
    }
    let halves: Vec<u16> = if tensor.data_location == Some(1) {
        pairs(&external(tensor, folder)?)
    } else if tensor.raw_data.is_empty() {
        tensor.int32_data.iter().map(|&bits| bits as u16).collect()
    } else {
        pairs(&tensor.raw_data)
    };
    tensor.raw_data = halves.iter().flat_map(|&bits| (half.float)(bits).to_le_bytes()).collect();
    tensor.data_type = FLOAT;
    tensor.int32_data = Vec::new();
    tensor.data_location = None;
    tensor.external_data = Vec::new();
    *widened += 1;
    Ok(())
}

fn pairs(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// The external data of a tensor, from a file in `folder` itself.
fn external(tensor: &TensorProto, folder: Option<&Path>) -> Result<Vec<u8>> {
    let fault = |problem: &str| refused(format!("initializer \"{}\" {problem}", printable(&tensor.name)));
    let entry = |key: &str| tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
    let location = entry("location").ok_or_else(|| fault("has no location"))?;
    let folder = folder.ok_or_else(|| fault("has external data, but no folder is known"))?;
    if Path::new(location).file_name().is_none_or(|name| name != location) {
        return Err(fault("has its data outside of the model's folder"));
    }
    let number =
        |key: &str| entry(key).map(str::parse::<u64>).transpose().map_err(|_| fault("has a bad range"));
    let elements = tensor.dims.iter().try_fold(2u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?));
    let bytes = elements.ok_or_else(|| fault("has a bad shape"))?;
    let path = folder.join(location);
    let io = |e| Error::io(&path, e);
    let mut file = File::open(&path).map_err(io)?;
    file.seek(SeekFrom::Start(number("offset")?.unwrap_or(0))).map_err(io)?;
    let mut data = Vec::new();
    file.take(bytes).read_to_end(&mut data).map_err(io)?;
    if data.len() as u64 != bytes {
        return Err(fault("has less data than its shape needs"));
    }
    Ok(data)
}

/// A node of which tract could only guess: it looks at an operator's name and not at its domain.
pub fn of_another_domain(model: &ModelProto) -> Option<&NodeProto> {
    let nodes = model.graph.iter().flat_map(|graph| &graph.node);
    nodes.into_iter().find(|node| !domain(&node.domain).is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::cut::makers;

    fn node(op_type: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        NodeProto {
            op_type: op_type.to_owned(),
            name: op_type.to_lowercase(),
            input: owned(inputs),
            output: owned(outputs),
            ..NodeProto::default()
        }
    }

    fn model(nodes: Vec<NodeProto>) -> ModelProto {
        let opset = tract_onnx::pb::OperatorSetIdProto { domain: String::new(), version: 9 };
        ModelProto {
            ir_version: 8,
            opset_import: vec![opset],
            graph: Some(GraphProto { node: nodes, ..GraphProto::default() }),
            ..ModelProto::default()
        }
    }

    #[test]
    fn bfloat16_becomes_float_in_both_of_its_forms() {
        let bits = |v: f32| bf16::from_f32(v).to_bits();
        let mut model = model(vec![]);
        let raw = TensorProto {
            dims: vec![2],
            data_type: BF16,
            raw_data: [bits(1.5), bits(-3.0)].iter().flat_map(|b| b.to_le_bytes()).collect(),
            ..TensorProto::default()
        };
        let listed = TensorProto {
            dims: vec![1],
            data_type: BF16,
            int32_data: vec![i32::from(bits(0.25))],
            ..TensorProto::default()
        };
        model.graph.as_mut().unwrap().initializer = vec![raw, listed];
        let (model, changes) = readable(model, None).unwrap();
        let constants = &model.graph.as_ref().unwrap().initializer;
        assert_eq!(constants[0], floats(String::new(), &[1.5, -3.0]));
        assert_eq!(constants[1], floats(String::new(), &[0.25]));
        assert_eq!(changes, ["2 tensors and types BFLOAT16 as FLOAT"]);
        assert!(readable(model, None).unwrap().1.is_empty());
    }

    #[test]
    fn float16_becomes_float_where_the_network_computes_in_it() {
        let to = AttributeProto { name: "to".into(), i: i64::from(F16), ..AttributeProto::default() };
        let cast = NodeProto { attribute: vec![to], ..node("Cast", &["x"], &["h"]) };
        let (cast, changes) = readable(model(vec![cast]), None).unwrap();
        assert_eq!(cast.graph.unwrap().node[0].attribute[0].i, i64::from(FLOAT));
        assert_eq!(changes, ["1 tensors and types FLOAT16 as FLOAT"]);
        assert!(readable(model(vec![node("Relu", &["x"], &["h"])]), None).unwrap().1.is_empty());
    }

    #[test]
    fn functions_are_inlined_with_their_attributes_and_their_own_names() {
        let mut concat = node("Concat", &["a", "b"], &["c"]);
        concat.attribute = vec![AttributeProto {
            name: "axis".into(),
            ref_attr_name: "dim".into(),
            ..AttributeProto::default()
        }];
        let function = FunctionProto {
            name: Some("Twice".into()),
            domain: Some("own".into()),
            input: vec!["a".into()],
            output: vec!["d".into()],
            node: vec![node("Relu", &["a"], &["b"]), concat, node("Relu", &["c"], &["d"])],
            ..FunctionProto::default()
        };
        let call = |from: &str, to: &str| {
            let mut call = node("Twice", &[from], &[to]);
            call.domain = "own".into();
            call.attribute = vec![AttributeProto { name: "dim".into(), i: 1, ..AttributeProto::default() }];
            call
        };
        let mut model = model(vec![call("x", "y"), call("y", "z")]);
        model.functions = vec![function];
        assert!(of_another_domain(&model).is_some());
        let (model, changes) = readable(model, None).unwrap();
        assert_eq!(changes, ["2 calls of model functions inlined"]);
        assert!(of_another_domain(&model).is_none());
        let graph = model.graph.as_ref().unwrap();
        let io: Vec<(&str, &str)> =
            graph.node.iter().map(|n| (n.input[0].as_str(), n.output[0].as_str())).collect();
        assert_eq!((io[0].0, io[2].1, io[3].0, io[5].1), ("x", "y", "y", "z"));
        assert_eq!(graph.node[1].attribute[0].name, "axis");
        assert_eq!((graph.node[1].attribute[0].i, graph.node[1].input[0].as_str()), (1, "x"));
        assert_eq!(makers(graph).len(), 6, "a name is made twice");
    }

    #[test]
    fn upsample_becomes_resize_and_slice_follows_the_opset() {
        let mut up = node("Upsample", &["x", "s"], &["y"]);
        up.attribute = vec![text("mode", "nearest")];
        let mut slice = node("Slice", &["y"], &["z"]);
        slice.attribute = ["starts", "ends"]
            .map(|name| AttributeProto { name: name.into(), ints: vec![2], ..AttributeProto::default() })
            .to_vec();
        let (model, _) = readable(model(vec![up, slice]), None).unwrap();
        let graph = model.graph.as_ref().unwrap();
        assert_eq!((graph.node[0].op_type.as_str(), model.opset_import[0].version), ("Resize", 10));
        assert_eq!((graph.node[1].input.len(), graph.node[1].attribute.len()), (4, 0));
        assert_eq!(graph.initializer[2], integers("1/axes for the judge".into(), &[0]));
    }

    #[test]
    fn what_calls_itself_ends() {
        let mut own = node("Own", &["a"], &["b"]);
        own.domain = "own".into();
        let function = FunctionProto {
            name: Some("Own".into()),
            domain: Some("own".into()),
            input: vec!["a".into()],
            output: vec!["b".into()],
            node: vec![own.clone()],
            ..FunctionProto::default()
        };
        let mut model = model(vec![own]);
        model.functions = vec![function];
        assert!(readable(model, None).unwrap_err().to_string().contains("deep"));
    }
}
