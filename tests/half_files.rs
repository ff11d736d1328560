//! Files whose weights are float16 or bfloat16: computed in float32, and the layer is stored as the file's other numbers.

mod common;

use std::path::{Path, PathBuf};

use common::identity_layer;
use half::{bf16, f16};
use onnx_protobuf::{
    AttributeProto, Message as _, ModelProto, NodeProto, attribute_proto::AttributeType, type_proto,
};
use polarizer::{
    data::{Folder, Preprocessing},
    internals::layer::{Form, Layer, Stored},
    onnx::{Model, tensor::DataType},
    pipeline::{self, Job, RunOptions, SitePlace},
    rewrite::{self, Provenance},
};

const FLOAT: i32 = 1;
const SITE: &str = "/layer4/layer4.0/Add_output_0";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn cast(from: &str, to: &str, code: i32) -> NodeProto {
    let attribute = AttributeProto {
        name: "to".into(),
        i: i64::from(code),
        type_: AttributeType::INT.into(),
        ..AttributeProto::new()
    };
    NodeProto {
        op_type: "Cast".into(),
        name: format!("cast/{to}"),
        input: vec![from.into()],
        output: vec![to.into()],
        attribute: vec![attribute],
        ..NodeProto::new()
    }
}

/// The fixture with its weights in 16 bits, of type `code`. `keep_ends`: input and output stay float32, behind Casts.
fn halved(code: i32, keep_ends: bool) -> Model {
    let bytes = std::fs::read(fixture("model.onnx")).unwrap();
    let mut model = ModelProto::parse_from_bytes(&bytes).unwrap();
    let graph = model.graph.mut_or_insert_default();
    graph.value_info.clear();
    for tensor in graph.initializer.iter_mut().filter(|t| t.data_type == FLOAT) {
        let raw = tensor.raw_data.to_vec();
        let listed: Vec<u8> = tensor.float_data.iter().flat_map(|v| v.to_le_bytes()).collect();
        let raw = if raw.is_empty() { listed } else { raw };
        let narrow = |b: &[u8]| {
            let value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            if code == 10 { f16::from_f32(value).to_le_bytes() } else { bf16::from_f32(value).to_le_bytes() }
        };
        let halves: Vec<u8> = raw.chunks_exact(4).flat_map(narrow).collect();
        (tensor.float_data, tensor.data_type, tensor.raw_data) = (vec![], code, halves);
    }
    let mut ends = vec![&mut graph.input[0], &mut graph.output[0]];
    if keep_ends {
        let (input, output) = (ends[0].name.clone(), ends[1].name.clone());
        for node in &mut graph.node {
            node.input.iter_mut().filter(|name| **name == input).for_each(|name| *name = "x0".into());
            node.output.iter_mut().filter(|name| **name == output).for_each(|name| *name = "y0".into());
        }
        graph.node.insert(0, cast(&input, "x0", code));
        graph.node.push(cast("y0", &output, FLOAT));
    } else {
        for end in &mut ends {
            let value = &mut end.type_.mut_or_insert_default().value;
            let Some(type_proto::Value::TensorType(tensor)) = value else { panic!("no tensor") };
            tensor.elem_type = code;
        }
    }
    Model::from_bytes(model.write_to_bytes().unwrap(), "half.onnx", None).unwrap()
}

/// Near the identity, with numbers that 16 bits do not hold and variances beyond float16's range.
fn layer() -> Layer {
    let mut layer = identity_layer(64);
    for (i, weight) in layer.weight.iter_mut().enumerate() {
        *weight = 300.0 * (*weight + 0.001 * (i % 7) as f32);
    }
    layer.var.iter_mut().for_each(|v| *v = 90_000.0);
    layer.mean.iter_mut().enumerate().for_each(|(i, m)| *m = 0.3 * i as f32);
    layer
}

#[test]
fn a_layer_has_the_type_of_the_file() {
    let test = Folder::clean(&fixture("images/test")).unwrap();
    let place = SitePlace::Value { name: SITE.into() };
    for (code, stored, elem, keep_ends) in [
        (10, Stored::Float16, DataType::Float16, true),
        (10, Stored::Float16, DataType::Float16, false),
        (16, Stored::Bfloat16, DataType::Bfloat16, true),
    ] {
        let model = halved(code, keep_ends);
        let provenance = || Provenance::new(format!("value:{SITE}"), vec![]).stored_as(stored);
        let e = rewrite::insert(&model, &place, &layer(), &provenance()).unwrap_err().to_string();
        assert!(e.contains(stored.name()), "{e}");
        let rounded = layer().stored_as(stored, Form::Conv2d).unwrap();
        let bytes = rewrite::insert(&model, &place, &rounded, &provenance()).unwrap();
        assert_eq!(rewrite::revert(&bytes, "purified.onnx").unwrap(), model.bytes());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("purified.onnx");
        std::fs::write(&path, &bytes).unwrap();
        let purified = Model::read(&path).unwrap();
        let added: Vec<_> = purified.initializer_names().filter(|n| n.starts_with("polarizer")).collect();
        assert_eq!(added.len(), 5);
        assert!(added.iter().all(|name| purified.initializer_shape(name).unwrap().0 == elem));
        let preprocessing = Preprocessing::preset("cifar10").unwrap();
        let job = Job { preprocessing, ..Job::new(&model) }.with_images(&test);
        let verified = pipeline::verify(&job, &path, 32, &RunOptions::default(), &mut ()).unwrap();
        assert_eq!(verified.declared.layer, rounded);
        assert!(verified.verification.max_difference.unwrap() < 1e-4, "{:?}", verified.verification);
    }
}

#[test]
fn a_half_file_measures_as_the_fixture_and_offers_its_sites() {
    let test = Folder::clean(&fixture("images/test")).unwrap();
    for (code, keep_ends) in [(10, true), (10, false), (16, true)] {
        let model = halved(code, keep_ends);
        let preprocessing = Preprocessing::preset("cifar10").unwrap();
        let job = Job { preprocessing, ..Job::new(&model) }.with_test(&test);
        let found = pipeline::evaluate(&job, &RunOptions::default(), &mut ()).unwrap();
        assert!(found.measures.acc.unwrap() > 99.0, "{:?}", found.measures);
        let inspection = pipeline::inspect(&model, None, None);
        assert!(inspection.default_site.is_some(), "{:?}", inspection.sites_unknown);
    }
}
