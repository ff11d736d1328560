//! Files that take their images in another form: channels last, as bytes with the normalisation inside, as half floats,
//! one image at a time. Each is the fixture behind a few nodes, so that it must measure and purify as the fixture does.

use std::path::Path;

use onnx_protobuf::{
    AttributeProto, Message as _, ModelProto, NodeProto, TensorProto, attribute_proto::AttributeType,
    tensor_shape_proto::Dimension, type_proto,
};
use polarizer::{
    data::{Folder, Origin, Preprocessing},
    onnx::Model,
    pipeline::{self, Evaluation, Job, RunOptions},
};

const FLOAT: i32 = 1;
const UINT8: i32 = 2;
const FLOAT16: i32 = 10;
const MEAN: [f32; 3] = [0.4914, 0.4822, 0.4465];
const STD: [f32; 3] = [0.2470, 0.2435, 0.2616];

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn node(op_type: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op_type.into(),
        name: format!("front/{op_type}_{output}"),
        input: inputs.iter().map(|i| (*i).into()).collect(),
        output: vec![output.into()],
        ..NodeProto::new()
    }
}

fn cast(input: &str, output: &str, to: i32) -> NodeProto {
    let to = AttributeProto {
        name: "to".into(),
        i: i64::from(to),
        type_: AttributeType::INT.into(),
        ..AttributeProto::new()
    };
    NodeProto { attribute: vec![to], ..node("Cast", &[input], output) }
}

fn transpose(input: &str, output: &str) -> NodeProto {
    let perm = AttributeProto {
        name: "perm".into(),
        ints: vec![0, 3, 1, 2],
        type_: AttributeType::INTS.into(),
        ..AttributeProto::new()
    };
    NodeProto { attribute: vec![perm], ..node("Transpose", &[input], output) }
}

fn constant(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: FLOAT,
        float_data: values.to_vec(),
        ..TensorProto::new()
    }
}

/// The fixture with another input, of which `nodes` make the value `x0` that the network reads.
fn behind(elem_type: i32, dims: [i64; 4], nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> Model {
    let bytes = std::fs::read(fixture("model.onnx")).unwrap();
    let mut model = ModelProto::parse_from_bytes(&bytes).unwrap();
    let graph = model.graph.mut_or_insert_default();
    let name = graph.input[0].name.clone();
    for node in &mut graph.node {
        for input in node.input.iter_mut().filter(|input| **input == name) {
            *input = "x0".into();
        }
    }
    let rest = std::mem::take(&mut graph.node);
    graph.node = nodes.into_iter().chain(rest).collect();
    graph.initializer.extend(constants);
    graph.value_info.clear();
    let type_ = graph.input[0].type_.mut_or_insert_default();
    let Some(type_proto::Value::TensorType(tensor)) = &mut type_.value else { panic!("no tensor") };
    tensor.elem_type = elem_type;
    let shape = tensor.shape.mut_or_insert_default();
    for (dim, size) in shape.dim.iter_mut().zip(dims) {
        *dim = Dimension::new();
        if size > 0 {
            dim.set_dim_value(size);
        } else {
            dim.set_dim_param("batch".into());
        }
    }
    let input = "input".to_owned();
    graph.input[0].name = input;
    Model::from_bytes(model.write_to_bytes().unwrap(), "model.onnx", None).unwrap()
}

fn measured(model: &Model, preprocessing: Preprocessing) -> Evaluation {
    let test = Folder::clean(&fixture("images/test")).unwrap();
    let triggered = Folder::triggered(&fixture("images/triggered")).unwrap();
    let job = Job { preprocessing, ..Job::new(model) }.with_test(&test).with_triggered(&triggered, "disc");
    pipeline::evaluate(&job, &RunOptions::default(), &mut ()).unwrap()
}

fn cifar10() -> Preprocessing {
    Preprocessing::preset("cifar10").unwrap()
}

/// (pixel - 255 mean) / (255 std), as nodes.
fn normalised(input: &str, channels_last: bool) -> (Vec<NodeProto>, Vec<TensorProto>) {
    let dims: &[i64] = if channels_last { &[1, 1, 1, 3] } else { &[1, 3, 1, 1] };
    let scaled = |values: [f32; 3]| values.map(|v| 255.0 * v);
    let nodes =
        vec![node("Sub", &[input, "mean255"], "shifted"), node("Div", &["shifted", "std255"], "scaled")];
    (nodes, vec![constant("mean255", dims, &scaled(MEAN)), constant("std255", dims, &scaled(STD))])
}

#[test]
fn every_form_of_input_measures_as_the_plain_one() {
    let plain = measured(&Model::read(&fixture("model.onnx")).unwrap(), cifar10()).measures;
    let last = behind(FLOAT, [0, 32, 32, 3], vec![transpose("input", "x0")], vec![]);
    assert_eq!(measured(&last, cifar10()).measures, plain, "channels last");
    let open = behind(FLOAT, [0, 0, 0, 0], vec![transpose("input", "x0")], vec![]);
    assert_eq!(measured(&open, cifar10()).measures, plain, "every dimension dynamic");

    let (mut nodes, constants) = normalised("input", true);
    nodes.push(transpose("scaled", "x0"));
    let inside = behind(FLOAT, [0, 32, 32, 3], nodes, constants);
    let range = Preprocessing::default().with("range", "0-255", Origin::Given).unwrap();
    assert_eq!(measured(&inside, range).measures, plain, "0 to 255, channels last");

    for channels_last in [false, true] {
        let (inner, constants) = normalised("floats", channels_last);
        let mut nodes = vec![cast("input", "floats", FLOAT)];
        nodes.extend(inner);
        let end = if channels_last { transpose("scaled", "x0") } else { node("Identity", &["scaled"], "x0") };
        nodes.push(end);
        let dims = if channels_last { [0, 32, 32, 3] } else { [1, 3, 32, 32] };
        let bytes = behind(UINT8, dims, nodes, constants);
        let evaluation = measured(&bytes, Preprocessing::default());
        assert_eq!(evaluation.measures, plain, "bytes, channels last: {channels_last}");
        let range = evaluation.preprocessing.parts.iter().find(|part| part.name == "range").unwrap();
        assert_eq!((range.value.as_str(), range.origin.as_str()), ("0-255", "the model's UINT8 input"));
    }

    let half = behind(FLOAT16, [0, 3, 32, 32], vec![cast("input", "x0", FLOAT)], vec![]);
    let halves = measured(&half, cifar10()).measures;
    let near = |a: Option<f64>, b: Option<f64>| (a.unwrap() - b.unwrap()).abs() < 1.0;
    assert!(near(halves.acc, plain.acc) && near(halves.asr, plain.asr), "{halves:?}");
}

/// The fixture with its channels reversed, as its metadata says if `stated`.
fn blue_first(stated: bool) -> Model {
    let reversed = TensorProto {
        name: "reversed".into(),
        dims: vec![3],
        data_type: 7,
        int64_data: vec![2, 1, 0],
        ..TensorProto::new()
    };
    let axis = AttributeProto {
        name: "axis".into(),
        i: 1,
        type_: AttributeType::INT.into(),
        ..AttributeProto::new()
    };
    let gather = NodeProto { attribute: vec![axis], ..node("Gather", &["input", "reversed"], "x0") };
    let model = behind(FLOAT, [0, 3, 32, 32], vec![gather], vec![reversed]);
    let mut proto = ModelProto::parse_from_bytes(model.bytes()).unwrap();
    if stated {
        let entry = |key: &str, value: &str| onnx_protobuf::StringStringEntryProto {
            key: key.into(),
            value: value.into(),
            ..Default::default()
        };
        proto.metadata_props.push(entry("Image.BitmapPixelFormat", "Bgr8"));
        proto.metadata_props.push(entry("Image.ColorSpaceGamma", "SRGB"));
    }
    Model::from_bytes(proto.write_to_bytes().unwrap(), "model.onnx", None).unwrap()
}

#[test]
fn blue_first_is_believed_where_it_is_written_and_contradicted_aloud() {
    let plain = measured(&Model::read(&fixture("model.onnx")).unwrap(), cifar10()).measures;
    let evaluation = measured(&blue_first(true), cifar10());
    assert_eq!(evaluation.measures, plain);
    let channels = evaluation.preprocessing.parts.iter().find(|part| part.name == "channels").unwrap();
    assert!(channels.value == "bgr" && channels.origin.contains("metadata"), "{channels:?}");

    // the signs have no colours of their own, so that the other order costs no accuracy
    let stated = measured(&blue_first(true), cifar10().with("channels", "rgb", Origin::Given).unwrap());
    let said = stated.findings.iter().find(|f| f.rule.name() == "preprocessing-contradicted").unwrap();
    assert!(said.message.starts_with("channels is rgb (given), but bgr in the model's metadata"), "{said:?}");
    let silent = measured(&blue_first(false), cifar10());
    assert!(silent.findings.is_empty() && silent.preprocessing.parts.iter().any(|p| p.value == "rgb"));
}

#[test]
fn classes_in_another_order_than_the_outputs_are_found() {
    let folder = tempfile::tempdir().unwrap();
    for class in std::fs::read_dir(fixture("images/test")).unwrap().map(Result::unwrap) {
        let name = class.file_name().into_string().unwrap();
        // sorted as bytes, a capital comes first; the model's second class is `bolt`
        let name = if name == "bolt" { "Bolt".to_owned() } else { name };
        std::fs::create_dir(folder.path().join(&name)).unwrap();
        for file in std::fs::read_dir(class.path()).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), folder.path().join(&name).join(file.file_name())).unwrap();
        }
    }
    let model = Model::read(&fixture("model.onnx")).unwrap();
    let test = Folder::clean(folder.path()).unwrap();
    let job = Job { preprocessing: cifar10(), ..Job::new(&model) }.with_test(&test);
    let e = pipeline::evaluate(&job, &RunOptions::default(), &mut ()).unwrap_err().to_string();
    assert!(e.contains("natural order, arrow, Bolt, crescent") && e.contains("`classes`"), "{e}");
    let job = Job { accept_preprocessing: true, ..job };
    let accepted = pipeline::evaluate(&job, &RunOptions::default(), &mut ()).unwrap();
    assert!(accepted.measures.acc.unwrap() < 85.0);
    assert!(accepted.findings.iter().any(|f| f.rule.name() == "class-order"), "{:?}", accepted.findings);
    // two classes exchanged that are in no natural order either
    let names = accepted.data.classes.clone();
    let mut swapped: Vec<String> = names.iter().map(|name| name.to_lowercase()).collect();
    swapped.sort();
    swapped.swap(3, 7);
    let test = Folder::clean(&fixture("images/test")).unwrap();
    let classes = Some(polarizer::data::Classes(swapped));
    let job = Job { preprocessing: cifar10(), classes, ..Job::new(&model) }.with_test(&test);
    let e = pipeline::evaluate(&job, &RunOptions::default(), &mut ()).unwrap_err().to_string();
    assert!(e.contains("change places") && e.contains("cross") && e.contains("square"), "{e}");
}

#[test]
fn a_normalisation_beside_bytes_is_refused() {
    let bytes = behind(UINT8, [0, 3, 32, 32], vec![cast("input", "x0", FLOAT)], vec![]);
    let test = Folder::clean(&fixture("images/test")).unwrap();
    let job = Job { preprocessing: cifar10(), ..Job::new(&bytes) }.with_test(&test);
    let e = pipeline::evaluate(&job, &RunOptions::default(), &mut ()).unwrap_err().to_string();
    assert!(e.starts_with("preset: ") && e.contains("UINT8"), "{e}");
}

#[test]
fn computing_on_bytes_is_refused_and_so_is_a_layer_there() {
    let nodes = vec![node("Add", &["input", "input"], "twice"), cast("twice", "x0", FLOAT)];
    let wraps = behind(UINT8, [0, 3, 32, 32], nodes, vec![]);
    let refused = pipeline::inspect(&wraps, None, None).sites_unknown.unwrap();
    assert!(refused.contains("UINT8") && refused.contains("Add"), "{refused}");

    let bytes = behind(UINT8, [0, 32, 32, 3], vec![cast("input", "f", FLOAT), transpose("f", "x0")], vec![]);
    let clean = Folder::clean(&fixture("images/clean")).unwrap();
    let site = Some("value:input".into());
    let job = Job { site, accept_preprocessing: true, ..Job::new(&bytes) }.with_images(&clean);
    let e = pipeline::purify(&job, &RunOptions::default(), &mut ()).map(|_| ()).unwrap_err().to_string();
    assert!(e.starts_with("site: ") && e.contains("holds UINT8"), "{e}");
}
