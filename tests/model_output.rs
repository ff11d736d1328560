//! Which output is taken for the scores, what else is left in the file as it is, and files that are no classifiers.

mod common;
#[path = "common/onnx_builder.rs"]
mod onnx_builder;

use std::path::{Path, PathBuf};

use candle_core::Device;
use common::identity_layer;
use onnx_builder as b;
use onnx_protobuf::{Message as _, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use polarizer::{
    Result,
    data::{Folder, Preprocessing},
    internals::{
        graph::{Graph, ScoreForm, Scores, Wanted, choose},
        verify::{Fed, Judge, Monitor, reference::Reference},
    },
    onnx::Model,
    pipeline::{self, Evaluation, Job, RunOptions},
    rewrite::{self, Provenance},
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The small residual network with these nodes behind it, and these outputs: name, dims.
fn with(nodes: Vec<b::Msg>, outputs: &[(&str, &[i64])]) -> b::Parts {
    let mut parts = b::residual();
    parts.nodes.extend(nodes);
    parts.outputs = outputs.iter().map(|(name, dims)| b::value_info(name, dims)).collect();
    parts
}

fn model(parts: &b::Parts) -> Model {
    Model::from_bytes(parts.bytes(), "test.onnx", None).unwrap()
}

fn chosen(parts: &b::Parts, classes: Option<usize>) -> Result<Scores> {
    choose(&model(parts), &[1, 3, 8, 8], Wanted { name: None, classes })
}

fn softmax() -> b::Msg {
    b::node("Softmax", "soft", &["logits"], &["p"], vec![b::attr_int("axis", 1)])
}

/// An output of integers.
fn labels(name: &str) -> b::Msg {
    let tensor = b::Msg::new().int(1, 7).msg(2, b::Msg::new().msg(1, b::Msg::new().text(2, "N")));
    b::Msg::new().text(1, name).msg(2, b::Msg::new().msg(1, tensor))
}

#[test]
fn the_scores_are_found_by_shape_and_type_whatever_their_place() {
    let (logits, p, features): ((&str, &[i64]), (&str, &[i64]), (&str, &[i64])) =
        (("logits", &[-1, 5]), ("p", &[-1, 5]), ("h", &[-1, 4]));
    for (outputs, expected) in [
        (vec![p, logits], "logits"),
        (vec![logits, p], "logits"),
        (vec![features, logits], "logits"),
        (vec![logits, features], "logits"),
        (vec![features, p], "p"),
    ] {
        let found = chosen(&with(vec![softmax()], &outputs), None).unwrap();
        assert_eq!(found.name, expected, "{outputs:?}");
        assert_eq!(outputs[found.index].0, expected);
        assert!(found.why.contains("5 classes"), "{}", found.why);
    }
    let mut parts = with(vec![softmax()], &[p]);
    parts.nodes.push(b::node("ArgMax", "best", &["logits"], &["label"], vec![b::attr_int("axis", 1)]));
    for first in [false, true] {
        let mut parts = parts.clone();
        parts.outputs.insert(usize::from(!first), labels("label"));
        assert_eq!(chosen(&parts, None).unwrap().name, "p");
        // neither is what only another output needs lowered
        Graph::lower(&model(&parts), &[2, 3, 8, 8]).unwrap();
    }
    parts.outputs = vec![labels("label")];
    let refused = chosen(&parts, None).unwrap_err().to_string();
    assert!(refused.contains("INT64") && refused.contains("labels"), "{refused}");
}

#[test]
fn of_two_heads_the_number_of_classes_or_a_name_decides() {
    let second = |classes: i64| {
        let head = b::node("Gemm", "other", &["h", "w9"], &["second"], vec![b::attr_int("transB", 1)]);
        let mut parts = with(vec![head], &[("second", &[-1, classes]), ("logits", &[-1, 5])]);
        parts.initializers.push(b::tensor("w9", &[classes, 4], &b::noise(4 * classes as usize, 9, 0.5)));
        parts
    };
    assert_eq!(chosen(&second(7), Some(5)).unwrap().name, "logits");
    assert_eq!(chosen(&second(7), Some(7)).unwrap().name, "second");
    for (parts, classes) in [(second(7), None), (second(5), Some(5))] {
        let e = chosen(&parts, classes).unwrap_err().to_string();
        assert!(e.starts_with("model_output: ") && e.contains("`second`") && e.contains("`logits`"), "{e}");
    }
    let wanted = |name| choose(&model(&second(5)), &[1, 3, 8, 8], Wanted { name: Some(name), classes: None });
    assert_eq!((wanted("second").unwrap().index, wanted("logits").unwrap().index), (0, 1));
    let e = wanted("loggits").unwrap_err().to_string();
    assert!(e.contains("no output is named `loggits`") && e.contains("`logits` FLOAT (N, 5)"), "{e}");
}

#[test]
fn an_auxiliary_head_is_none() {
    // it parts before the block of two convolutions and the head behind it
    let aux = vec![
        b::node("GlobalAveragePool", "aux_pool", &["a"], &["ag"], vec![]),
        b::node("Flatten", "aux_flat", &["ag"], &["ah"], vec![]),
        b::node("Gemm", "aux_head", &["ah", "w3", "b3"], &["aux"], vec![b::attr_int("transB", 1)]),
    ];
    for outputs in [[("aux", [-1, 5]), ("logits", [-1, 5])], [("logits", [-1, 5]), ("aux", [-1, 5])]] {
        let outputs = outputs.each_ref().map(|(name, dims)| (*name, &dims[..]));
        assert_eq!(chosen(&with(aux.clone(), &outputs), None).unwrap().name, "logits");
    }
}

#[test]
fn what_is_no_classifier_is_refused_by_its_name() {
    let said = |parts: &b::Parts| chosen(parts, None).unwrap_err().to_string();
    let pixels = with(vec![], &[("f", &[-1, 4, 8, 8])]);
    assert!(said(&pixels).contains("segmentation"), "{}", said(&pixels));
    let boxes = with(vec![], &[("boxes", &[-1, 100, 4])]);
    let mut boxes = boxes;
    boxes.nodes.push(b::node("Identity", "boxes", &["h"], &["boxes"], vec![]));
    assert!(said(&boxes).contains("detector"), "{}", said(&boxes));
    let axis = vec![b::attr_ints("axes", &[1]), b::attr_int("keepdims", 1)];
    let normed = vec![
        b::node("ReduceL2", "length", &["logits"], &["n"], axis),
        b::node("Clip", "least", &["n", "eps"], &["n1"], vec![]),
        b::node("Div", "unit", &["logits", "n1"], &["of_length_1"], vec![]),
    ];
    let mut embedding = with(normed, &[("of_length_1", &[-1, 5])]);
    embedding.initializers.push(b::tensor("eps", &[], &[1e-12]));
    let e = said(&embedding);
    assert!(e.contains("embedding") && e.contains("unit"), "{e}");
    // a quotient that is no length is none
    let scaled =
        with(vec![b::node("Div", "scaled", &["logits", "g1"], &["half"], vec![])], &[("half", &[-1, 5])]);
    let mut scaled = scaled;
    scaled.initializers.push(b::tensor("g1", &[], &[2.0]));
    assert_eq!(chosen(&scaled, None).unwrap().name, "half");
}

fn rows(reference: &Reference<'_>, x: &[f32], n: usize) -> Vec<Vec<f32>> {
    reference.outputs(None, x, n, &Monitor::default()).unwrap()
}

#[test]
fn a_single_score_is_that_of_two_classes() {
    let x = b::noise(2 * 3 * 64, 77, 1.0);
    let head = b::node("MatMul", "one", &["h", "w1d"], &["z"], vec![]);
    let sigmoid = b::node("Sigmoid", "sigmoid", &["z"], &["p"], vec![]);
    let wide = b::node("Unsqueeze", "wide", &["p", "axes"], &["p4"], vec![]);
    let mut squared =
        with(vec![head.clone(), b::node("Mul", "square", &["z", "z"], &["q"], vec![])], &[("q", &[-1, 1])]);
    squared.initializers.push(b::tensor("w1d", &[4, 1], &[3.0, -2.0, 1.0, 0.5]));
    let e = chosen(&squared, None).unwrap_err().to_string();
    assert!(e.contains("one number for each image"), "{e}");
    for (output, form) in
        [("z", ScoreForm::Logit), ("p", ScoreForm::Probability), ("p4", ScoreForm::Probability)]
    {
        let dims: &[i64] = if output == "p4" { &[-1, 1, 1, 1] } else { &[-1, 1] };
        let mut parts = with(vec![head.clone(), sigmoid.clone(), wide.clone()], &[(output, dims)]);
        parts.initializers.push(b::tensor("w1d", &[4, 1], &[3.0, -2.0, 1.0, 0.5]));
        parts.initializers.push(b::tensor_i64("axes", &[2], &[2, 3]));
        let model = model(&parts);
        let scores = choose(&model, &[1, 3, 8, 8], Wanted::default()).unwrap();
        assert_eq!(scores.form, form);
        let one = rows(&Reference::new(&model, [3, 8, 8], &Device::Cpu).unwrap(), &x, 2);
        let reference = Reference::of_scores(&model, [3, 8, 8], &scores, &Device::Cpu).unwrap();
        let both = rows(&reference, &x, 2);
        let fed = Fed { output: scores.index, form, ..Fed::of([2, 3, 8, 8]) };
        let judge = Judge::load(&parts.bytes(), fed).unwrap();
        assert_eq!(judge.outputs(), 2);
        for ((one, both), judged) in one.iter().zip(&both).zip(judge.logits(&x, 2).unwrap()) {
            let first = if form == ScoreForm::Logit { 0.0 } else { 1.0 - one[0] };
            assert_eq!(both, &[first, one[0]]);
            assert!(both.iter().zip(&judged).all(|(a, b)| (a - b).abs() < 1e-6), "{both:?} {judged:?}");
        }
        let graph = reference.graph();
        assert_eq!(graph.value(graph.logits()).shape, [1, 2]);
        assert_eq!(graph.logits() == graph.output(), form == ScoreForm::Logit);
    }
}

#[test]
fn logits_lie_before_a_softmax_of_any_form() {
    type Case = (Vec<b::Msg>, &'static str, Vec<i64>, &'static str);
    let cases: [Case; 5] = [
        (vec![], "logits", vec![-1, 5], "logits"),
        (vec![softmax()], "p", vec![-1, 5], "logits"),
        (vec![b::node("Sigmoid", "s", &["logits"], &["p"], vec![])], "p", vec![-1, 5], "logits"),
        (
            vec![
                b::node("Unsqueeze", "wide", &["logits", "axes"], &["l4"], vec![]),
                b::node("Softmax", "soft", &["l4"], &["p4"], vec![b::attr_int("axis", 1)]),
                b::node("Flatten", "flat2", &["p4"], &["p"], vec![]),
            ],
            "p",
            vec![-1, 5],
            "l4",
        ),
        // over dimensions of one element: these are no scores of classes
        (
            vec![
                b::node("Unsqueeze", "wide", &["logits", "axes"], &["l4"], vec![]),
                b::node("Softmax", "soft", &["l4"], &["p4"], vec![b::attr_int("axis", 3)]),
            ],
            "p4",
            vec![-1, 5, 1, 1],
            "p4",
        ),
    ];
    for (nodes, output, dims, logits) in cases {
        let mut parts = with(nodes, &[(output, &dims)]);
        parts.initializers.push(b::tensor_i64("axes", &[2], &[2, 3]));
        let graph = Graph::lower(&model(&parts), &[2, 3, 8, 8]).unwrap();
        assert_eq!(graph.value(graph.logits()).name, logits);
    }
}

/// The fixture with nodes behind it and other outputs.
fn fixture_with(
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    outputs: &[(&str, i32, &[i64])],
) -> Model {
    let bytes = std::fs::read(fixture("model.onnx")).unwrap();
    let mut model = ModelProto::parse_from_bytes(&bytes).unwrap();
    let graph = model.graph.mut_or_insert_default();
    graph.node.extend(nodes);
    graph.initializer.extend(constants);
    graph.output = outputs.iter().map(|(name, elem, dims)| info(name, *elem, dims)).collect();
    Model::from_bytes(model.write_to_bytes().unwrap(), "model.onnx", None).unwrap()
}

fn info(name: &str, elem: i32, dims: &[i64]) -> ValueInfoProto {
    let bytes = b::value_info(name, dims).0;
    let mut info = ValueInfoProto::parse_from_bytes(&bytes).unwrap();
    let type_ = info.type_.mut_or_insert_default();
    if let Some(onnx_protobuf::type_proto::Value::TensorType(tensor)) = &mut type_.value {
        tensor.elem_type = elem;
    }
    info
}

fn node(op_type: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op_type.into(),
        name: format!("behind/{op_type}"),
        input: inputs.iter().map(|i| (*i).into()).collect(),
        output: vec![output.into()],
        ..NodeProto::new()
    }
}

fn job<'a>(model: &'a Model, test: &'a Folder, triggered: Option<&'a Folder>) -> Job<'a> {
    let job = Job { preprocessing: Preprocessing::preset("cifar10").unwrap(), ..Job::new(model) };
    let job = job.with_test(test);
    match triggered {
        Some(triggered) => job.with_triggered(triggered, "disc"),
        None => job,
    }
}

fn measured(model: &Model) -> Evaluation {
    let test = Folder::clean(&fixture("images/test")).unwrap();
    let triggered = Folder::triggered(&fixture("images/triggered")).unwrap();
    let job = job(model, &test, Some(&triggered));
    pipeline::evaluate(&job, &RunOptions::default(), &mut ()).unwrap()
}

#[test]
fn other_outputs_change_no_measure_and_stay_in_the_file() {
    let plain = measured(&Model::read(&fixture("model.onnx")).unwrap());
    assert!(plain.model_output.said().is_none());
    let labels = ("label", 7, &[-1, 1][..]);
    let p = ("p", 1, &[-1, 10][..]);
    let behind = || vec![node("Softmax", &["logits"], "p"), node("ArgMax", &["logits"], "label")];
    let mut argmax = behind();
    argmax[1].attribute.push(onnx_protobuf::AttributeProto {
        name: "axis".into(),
        i: 1,
        type_: onnx_protobuf::attribute_proto::AttributeType::INT.into(),
        ..Default::default()
    });
    for outputs in [[p, labels], [labels, p]] {
        let model = fixture_with(argmax.clone(), vec![], &outputs);
        let found = measured(&model);
        assert_eq!(found.measures, plain.measures);
        assert_eq!(found.model_output.output, "p");

        // a layer that changes nothing: everything but it is the file as it was, and both runtimes agree on the scores
        let inspection = pipeline::inspect(&model, None, None);
        let site = inspection.default_site.unwrap().site;
        let channels = inspection.sites.iter().map(|s| s.shape[0]).max().unwrap();
        let name = site.strip_prefix("value:").unwrap().to_owned();
        let place = pipeline::SitePlace::Value { name };
        let provenance = Provenance::new(site, vec![]);
        let bytes = rewrite::insert(&model, &place, &identity_layer(channels), &provenance).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("purified.onnx");
        std::fs::write(&path, &bytes).unwrap();
        let purified = Model::read(&path).unwrap();
        let names = |m: &Model| m.outputs().iter().map(|o| o.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&purified), names(&model));
        let test = Folder::clean(&fixture("images/test")).unwrap();
        let job = Job { images: Some(&test), ..job(&model, &test, None) };
        let verified = pipeline::verify(&job, &path, 16, &RunOptions::default(), &mut ()).unwrap();
        assert!(verified.verification.checks.iter().any(|c| c.name == "parity-purified"));
        let [other] = &verified.verification.other_outputs[..] else { panic!("one other output") };
        assert!(other.output == "label" && other.not_compared.as_deref().unwrap().contains("INT64"));
    }
}

#[test]
fn a_sigmoid_of_two_classes_measures_as_they_do() {
    // the difference between two of the ten scores, and the images of these two classes
    let (no, yes) = (3, 4); // cross, disc
    let mut weights = vec![0.0; 10];
    (weights[no], weights[yes]) = (-1.0, 1.0);
    let column = TensorProto {
        name: "column".into(),
        dims: vec![10, 1],
        data_type: 1,
        float_data: weights,
        ..TensorProto::new()
    };
    let nodes = vec![node("MatMul", &["logits", "column"], "z"), node("Sigmoid", &["z"], "p")];
    let folder = tempfile::tempdir().unwrap();
    for class in ["cross", "disc"] {
        let to = folder.path().join(class);
        std::fs::create_dir(&to).unwrap();
        for file in std::fs::read_dir(fixture("images/test").join(class)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    let test = Folder::clean(folder.path()).unwrap();
    for (output, single) in [("z", "logit"), ("p", "probability")] {
        let model = fixture_with(nodes.clone(), vec![column.clone()], &[(output, 1, &[-1, 1])]);
        let found = pipeline::evaluate(&job(&model, &test, None), &RunOptions::default(), &mut ()).unwrap();
        assert_eq!(found.model_output.single.as_deref(), Some(single));
        assert!(found.measures.acc.unwrap() > 99.0, "{:?}", found.measures);
    }
}

#[test]
fn saturated_scores_are_said() {
    let gain =
        TensorProto { name: "gain".into(), data_type: 1, float_data: vec![40.0], ..TensorProto::new() };
    let nodes = |of: &str| vec![node("Mul", &["logits", "gain"], "sharp"), node("Sigmoid", &[of], "p")];
    let tied = |of: &str| {
        let model = fixture_with(nodes(of), vec![gain.clone()], &[("p", 1, &[-1, 10])]);
        let found = measured(&model);
        (found.findings.iter().any(|f| f.rule.name() == "scores-tied"), found.measures)
    };
    let plain = measured(&Model::read(&fixture("model.onnx")).unwrap());
    assert_eq!(tied("logits"), (false, plain.measures));
    let (said, measures) = tied("sharp");
    assert!(said && measures.acc < plain.measures.acc, "{measures:?}");
}

#[test]
fn other_outputs_are_compared_where_both_runtimes_compute_them() {
    // features behind the layer, and an early head before it
    let nodes = vec![node("GlobalAveragePool", &["/conv1/Conv_output_0"], "early")];
    let outputs =
        [("early", 1, &[-1, 8, 1, 1][..]), ("logits", 1, &[-1, 10]), ("/Flatten_output_0", 1, &[-1, 64])];
    let model = fixture_with(nodes, vec![], &outputs);
    let test = Folder::clean(&fixture("images/test")).unwrap();
    let place = pipeline::SitePlace::Value { name: "/layer4/layer4.0/Add_output_0".into() };
    let mut layer = identity_layer(64);
    layer.weight.iter_mut().for_each(|w| *w *= 0.5);
    let provenance = Provenance::new("value:/layer4/layer4.0/Add_output_0", vec![]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purified.onnx");
    std::fs::write(&path, rewrite::insert(&model, &place, &layer, &provenance).unwrap()).unwrap();
    let job = Job { images: Some(&test), ..job(&model, &test, None) };
    let verified = pipeline::verify(&job, &path, 16, &RunOptions::default(), &mut ()).unwrap();
    let others = &verified.verification.other_outputs;
    let compared: Vec<_> = others.iter().map(|o| (o.output.as_str(), o.max_difference.unwrap())).collect();
    let [("early", early), ("/Flatten_output_0", features)] = compared[..] else { panic!("{compared:?}") };
    assert!(early < 1e-5 && features < 1e-4, "{compared:?}");
}
