//! Inserting and reverting a layer: the written file is the original plus the layer, byte for byte; other runtimes
//! read it the same way; reverting restores the original.

mod common;

#[path = "common/onnx_builder.rs"]
mod builder;

use std::path::Path;

use builder::*;
use polarizer::{
    Error,
    internals::{
        layer::Layer,
        onnx::wire,
        site::SitePlace,
        verify::{Fed, diff::structural_diff, judge::Judge},
    },
    onnx::Model,
    rewrite::{self, LayerFile, Output, Provenance, Staged},
};

fn model(bytes: Vec<u8>) -> Model {
    Model::from_bytes(bytes, "model.onnx", None).unwrap()
}

fn scan(model: &Model) -> wire::Scan {
    wire::scan(model.bytes()).unwrap()
}

/// Reads a file that a test made, as `purified.onnx`.
fn purified(bytes: Vec<u8>) -> Model {
    Model::from_bytes(bytes, "purified.onnx", None).unwrap()
}

fn layer(channels: usize) -> Layer {
    Layer {
        channels,
        weight: noise(channels * channels, 11, 0.5),
        scale: noise(channels, 12, 1.0),
        bias: noise(channels, 13, 0.3),
        mean: noise(channels, 14, 0.3),
        var: noise(channels, 15, 0.4).iter().map(|v| v + 0.5).collect(),
        epsilon: 1e-5,
    }
}

fn edge(node: usize, input: usize) -> SitePlace {
    SitePlace::Edge { node, input }
}

fn value(name: &str) -> SitePlace {
    SitePlace::Value { name: name.into() }
}

/// The site of a place as a user writes it.
fn site(model: &Model, place: &SitePlace) -> String {
    match place {
        SitePlace::Edge { node, input } => format!("node:{}:{input}", model.nodes()[*node].name),
        SitePlace::Value { name } => format!("value:{name}"),
    }
}

fn provenance(model: &Model, place: &SitePlace) -> Provenance {
    let settings = [("epochs", "16"), ("rho", "3"), ("seed", "0")];
    Provenance::new(site(model, place), settings.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec())
}

fn insert(model: &Model, place: &SitePlace, layer: &Layer) -> Result<Vec<u8>, Error> {
    rewrite::insert(model, place, layer, &provenance(model, place))
}

/// A model whose `If` reads an outer value in its subgraphs, which have names of their own.
fn with_subgraph() -> Parts {
    let mut parts = residual();
    let branch = |name: &str, op: &str| {
        let inner = vec![node(op, "", &["a"], &[name], vec![])];
        Msg::new().msgs(1, inner).text(2, name).msg(12, value_info(name, &[-1, 4, 8, 8]))
    };
    let attributes = vec![
        attr_graph("then_branch", branch("then", "Relu")),
        attr_graph("else_branch", branch("polarizer_conv", "Neg")),
    ];
    parts.initializers.push(Msg::new().int(2, 9).text(8, "flag").bytes(9, &[1]));
    parts.nodes[3] = node("If", "choice", &["flag"], &["unused"], attributes);
    parts.nodes[4] = node("Conv", "tail", &["c", "w2"], &["e"], vec![attr_ints("pads", &[1; 4])]);
    parts
}

/// Models in many forms, with places where a layer of 4 channels can stand.
fn models() -> Vec<(&'static str, Vec<u8>, Vec<SitePlace>)> {
    let usual = || vec![edge(2, 0), edge(5, 1), edge(5, 0), edge(6, 0), value("a"), value("f"), value("e")];
    let with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = residual();
        change(&mut parts);
        parts.bytes()
    };
    vec![
        ("plain", residual_bytes(), usual()),
        ("lengths padded to 2 bytes", with(&|p| p.width = 2), usual()),
        ("lengths padded to 5 bytes", with(&|p| p.width = 5), usual()),
        ("IR 3, opset 7", with(&|p| (p.ir_version, p.opsets[0].1) = (3, 7)), usual()),
        ("opset 8", with(&|p| p.opsets[0].1 = 8), usual()),
        ("opset 14", with(&|p| p.opsets[0].1 = 14), usual()),
        ("newest", with(&|p| (p.ir_version, p.opsets[0].1) = (13, 26)), usual()),
        (
            "without node names",
            with(&|p| p.nodes[2] = node("Conv", "", &["a", "w1"], &["c"], vec![])),
            vec![value("c")],
        ),
        (
            "names as ours",
            with(&|p| {
                p.nodes[1] = node("Relu", "polarizer_conv", &["s"], &["a"], vec![]);
                p.nodes[3] = node("Relu", "polarizer_2_value", &["c"], &["d"], vec![]);
            }),
            usual(),
        ),
        (
            "metadata, unknown fields, functions and annotations",
            with(&|p| {
                p.graph_extra = Msg::new()
                    .msg(13, value_info("a", &[-1, 4, 8, 8]))
                    .msg(14, Msg::new().text(1, "a").msg(2, Msg::new().text(1, "SCALE_TENSOR").text(2, "s")))
                    .text(77, "unknown");
                p.model_extra = Msg::new()
                    .msg(14, Msg::new().text(1, "author").text(2, "x"))
                    .msg(25, Msg::new().text(1, "f").text(4, "a").text(10, "mine"))
                    .text(99, "unknown");
            }),
            usual(),
        ),
        (
            "a value that is an output too",
            with(&|p| p.outputs.push(value_info("f", &[-1, 4, 8, 8]))),
            usual(),
        ),
        (
            "a value that is read twice by one node",
            with(&|p| {
                p.nodes[5] = node("Add", "sum", &["a", "a"], &["f"], vec![]);
            }),
            vec![edge(5, 0), edge(5, 1), value("a")],
        ),
        (
            "a padded name",
            with(&|p| {
                p.nodes[2] = Msg::new()
                    .padded(1, b"a", 4)
                    .text(1, "w1")
                    .text(2, "c")
                    .text(3, "branch")
                    .text(4, "Conv")
                    .msg(5, attr_ints("pads", &[1; 4]));
            }),
            usual(),
        ),
        (
            "a subgraph that reads the value",
            with_subgraph().bytes(),
            vec![value("a"), edge(2, 0), value("c")],
        ),
    ]
}

#[test]
fn in_and_out_again_in_every_form() {
    for (what, bytes, places) in models() {
        let original = model(bytes.clone());
        for place in places {
            let label = format!("{what}, {place}");
            let layer = layer(4);
            let rewritten = insert(&original, &place, &layer).unwrap_or_else(|e| panic!("{label}: {e}"));
            let after = purified(rewritten.clone());
            let declared = structural_diff(&original, &after).unwrap_or_else(|e| panic!("{label}: {e}"));
            assert_eq!(declared.layer, layer, "{label}");
            assert_eq!(declared.place, place, "{label}");
            assert_eq!(declared.provenance, provenance(&original, &place), "{label}");
            assert_eq!(after.nodes().len(), original.nodes().len() + 2, "{label}");
            let again =
                rewrite::revert(&rewritten, "purified.onnx").unwrap_or_else(|e| panic!("{label}: {e}"));
            assert!(again == bytes, "{label}: other bytes came back");
        }
    }
}

/// The input of the graph has no producer, so its readers are renamed instead.
#[test]
fn at_the_input_of_the_graph() {
    let original = model(residual_bytes());
    let place = value("input");
    let rewritten = insert(&original, &place, &layer(3)).unwrap();
    let declared = structural_diff(&original, &purified(rewritten.clone())).unwrap();
    assert_eq!(declared.place, place);
    assert!(rewrite::revert(&rewritten, "purified.onnx").unwrap() == original.bytes());
    // the same bytes but for what is said of the place
    let rewritten = insert(&original, &edge(0, 0), &layer(3)).unwrap();
    assert_eq!(structural_diff(&original, &purified(rewritten)).unwrap().place, edge(0, 0));
}

/// Only lengths around an edit are written anew: an edit far away leaves padded lengths of other messages alone.
#[test]
fn everything_else_keeps_its_bytes() {
    let mut parts = residual();
    parts.width = 4;
    let original = model(parts.bytes());
    let rewritten = insert(&original, &edge(4, 0), &layer(4)).unwrap();
    let tail = &original.bytes()[original.bytes().len() - 6..];
    assert!(rewritten.windows(tail.len()).any(|w| w == tail));
    for index in [0, 1, 2, 3, 5, 6, 7, 8] {
        let node = scan(&original).children(1, 1).nth(index).unwrap().1.span();
        let bytes = &original.bytes()[node];
        assert!(rewritten.windows(bytes.len()).any(|w| w == bytes), "node {index}");
    }
}

#[test]
fn names_are_new_in_every_scope() {
    let original = model(with_subgraph().bytes());
    let rewritten = purified(insert(&original, &value("a"), &layer(4)).unwrap());
    assert!(rewritten.nodes().iter().any(|n| n.name == "polarizer_2_conv"), "{:?}", rewritten.nodes());
}

/// What tract makes of the written file is what the formula says: the suffix gets the polarized value, the residual
/// branch the value as it was.
#[test]
fn the_layer_computes_what_it_should() {
    let x = noise(2 * 3 * 8 * 8, 21, 1.0);
    let run = |bytes: &[u8]| Judge::load(bytes, Fed::of([2, 3, 8, 8])).unwrap().logits(&x, 2).unwrap();
    for (ir_version, opset) in [(3, 7), (4, 9), (8, 17), (10, 20)] {
        let mut parts = residual();
        (parts.ir_version, parts.opsets[0].1) = (ir_version, opset);
        let original = model(parts.bytes());
        let before = run(original.bytes());
        let identity = common::identity_layer(4);
        for place in [edge(2, 0), value("a"), value("f")] {
            let same = run(&insert(&original, &place, &identity).unwrap());
            for (a, b) in before.iter().flatten().zip(same.iter().flatten()) {
                assert!((a - b).abs() < 1e-4, "opset {opset}, {place}: {a} and {b}");
            }
        }
        let trained = layer(4);
        let on_edge = run(&insert(&original, &edge(2, 0), &trained).unwrap());
        let on_value = run(&insert(&original, &value("a"), &trained).unwrap());
        assert_ne!(on_edge, before);
        assert_ne!(on_edge, on_value);
        // The same as a model that was built with these nodes from the start.
        let built = run(&built_with_layer(&parts, &trained));
        for (a, b) in on_edge.iter().flatten().zip(built.iter().flatten()) {
            assert!((a - b).abs() < 1e-4, "opset {opset}: {a} and {b}");
        }
    }
}

/// The residual model with `layer` before node 2, the layer as one Mul and Add behind the convolution.
fn built_with_layer(parts: &Parts, layer: &Layer) -> Vec<u8> {
    let mut parts = parts.clone();
    let factor: Vec<f32> =
        layer.scale.iter().zip(&layer.var).map(|(s, v)| s / (v + layer.epsilon).sqrt()).collect();
    let shift: Vec<f32> = (0..4).map(|c| layer.bias[c] - layer.mean[c] * factor[c]).collect();
    parts.initializers.push(tensor("w", &[4, 4, 1, 1], &layer.weight));
    parts.initializers.push(tensor("factor", &[1, 4, 1, 1], &factor));
    parts.initializers.push(tensor("shift", &[1, 4, 1, 1], &shift));
    let pads = vec![attr_ints("kernel_shape", &[3, 3]), attr_ints("pads", &[1; 4])];
    parts.nodes.splice(
        2..3,
        [
            node("Conv", "p", &["a", "w"], &["p0"], vec![attr_ints("kernel_shape", &[1, 1])]),
            node("Mul", "q", &["p0", "factor"], &["p1"], vec![]),
            node("Add", "r", &["p1", "shift"], &["p2"], vec![]),
            node("Conv", "branch", &["p2", "w1", "b1"], &["c"], pads),
        ],
    );
    parts.bytes()
}

#[test]
fn what_cannot_hold_a_layer_is_refused() {
    let plain = model(residual_bytes());
    let subgraph = {
        let mut parts = with_subgraph();
        parts.nodes[0] = node("Conv", "stem", &["a", "w0"], &["s"], vec![]);
        parts.nodes[1] = node("Relu", "act", &["s"], &["z"], vec![]);
        parts.inputs.push(value_info("a", &[-1, 3, 8, 8]));
        model(parts.bytes())
    };
    let through = {
        let mut parts = residual();
        parts.outputs.push(value_info("input", &[-1, 3, 8, 8]));
        model(parts.bytes())
    };
    let mut nan = layer(4);
    nan.weight[3] = f32::NAN;
    let short = Layer { scale: vec![1.0; 3], ..layer(4) };
    let negative = Layer { var: vec![-1.0; 4], ..layer(4) };
    let flat = Layer { epsilon: 0.0, ..layer(4) };
    let good = layer(4);
    let cases: [(&Model, SitePlace, &Layer, &str); 13] = [
        (&plain, edge(99, 0), &good, "has 9 nodes, none at 99"),
        (&plain, edge(2, 3), &good, "node \"branch\" (Conv) has no input 3"),
        (&plain, edge(2, 1), &good, "is the initializer \"w1\""),
        (&plain, value("w1"), &good, "is an initializer"),
        (&plain, value("nothing"), &good, "no node produces \"nothing\""),
        (&plain, value(""), &good, "the name of the value is empty"),
        (&through, value("input"), &good, "is both an input and an output"),
        (&subgraph, value("a"), &good, "a subgraph of node \"choice\" (If) reads"),
        (&plain, edge(2, 0), &nan, "has NaN in weight"),
        (&plain, edge(2, 0), &short, "has 3 values of scale, expected 4"),
        (&plain, edge(2, 0), &negative, "negative variance -1"),
        (&plain, edge(2, 0), &flat, "epsilon 0"),
        (&plain, edge(2, 0), &Layer { channels: 0, ..good.clone() }, "no channel"),
    ];
    for (model, place, layer, expected) in cases {
        let error = rewrite::insert(model, &place, layer, &Provenance::new("x", vec![])).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error} lacks {expected:?}");
        assert_eq!(error.exit_code(), 2);
    }
    let once = model_with_layer();
    let error = insert(&once, &edge(2, 0), &good).unwrap_err();
    assert!(error.to_string().contains("already has a layer"), "{error}");
}

fn model_with_layer() -> Model {
    let plain = model(residual_bytes());
    purified(insert(&plain, &edge(2, 0), &layer(4)).unwrap())
}

#[test]
fn revert_of_what_is_not_or_no_longer_ours() {
    let error = rewrite::revert(&residual_bytes(), "plain.onnx").unwrap_err();
    assert!(error.to_string().contains("plain.onnx: was not written by polarizer"), "{error}");
    assert_eq!(error.exit_code(), 2);
    assert_eq!(rewrite::revert(b"\xff", "junk").unwrap_err().exit_code(), 2);
    let rewritten = model_with_layer().bytes().to_vec();
    // a bit of a weight of the original
    let mut other = rewritten.clone();
    let at = find(&other, b"w0") + 10;
    other[at] ^= 1;
    let error = rewrite::revert(&other, "purified.onnx").unwrap_err();
    assert!(
        error.to_string().starts_with("check failed: revert: purified.onnx: the file was modified"),
        "{error}"
    );
    assert_eq!(error.exit_code(), 1);
    // metadata with other keys, doubled keys, an undo of nonsense
    let extra = |key: &str, value: &str| {
        let mut bytes = rewritten.clone();
        bytes.extend(Msg::new().msg(14, Msg::new().text(1, key).text(2, value)).0);
        rewrite::revert(&bytes, "purified.onnx").unwrap_err().to_string()
    };
    assert!(extra("polarizer.evil", "").contains("unknown key \"polarizer.evil\""));
    assert!(extra("polarizer.site", "x").contains("two values for \"polarizer.site\""));
    let only = |undo: &str| {
        let entry = |key: &str, value: &str| Msg::new().text(1, &format!("polarizer.{key}")).text(2, value);
        let names = r#"{"conv":"","norm":"","between":"","value":"","weight":"","scale":"","bias":"","mean":"","var":""}"#;
        let rest = ["version", "site", "place", "input_sha256", "layer_sha256"].map(|key| entry(key, "x"));
        let ours = [entry("settings", "{}"), entry("names", names), entry("undo", undo)];
        let mut parts = residual();
        parts.model_extra = Msg::new().msgs(14, rest).msgs(14, ours);
        rewrite::revert(&parts.bytes(), "purified.onnx").unwrap_err()
    };
    for undo in [
        r#"{"end":99999999,"changes":[]}"#,
        r#"{"end":100,"changes":[[90,80,""]]}"#,
        r#"{"end":100,"changes":[[90,95,""],[10,20,""]]}"#,
        r#"{"end":100,"changes":[[10,20,"0g"]]}"#,
        r#"{"end":100,"changes":[[10,20,"0"]]}"#,
        r#"{"end":100,"changes":[[10,20,"é"]]}"#,
        r#"{"end":100,"changes":[]}"#,
        r#"{"end":-1,"changes":[]}"#,
        "",
    ] {
        assert_eq!(only(undo).exit_code(), 1, "{undo}");
    }
}

fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|w| w == what).unwrap()
}

/// Replaces one piece of text by another of the same length.
fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    let at = find(&bytes, from.as_bytes());
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    bytes
}

/// A rewritten file after one more edit of its graph: `from` (one field) is replaced by `to`.
fn respliced(model: &Model, message: usize, to: &[u8]) -> Vec<u8> {
    use polarizer::internals::onnx::splice::{Edit, apply, mend};
    let found = &scan(model).messages[message];
    let edit = Edit { inside: found.parent, at: found.span(), with: to.to_vec() };
    apply(model.bytes(), &mend(model.bytes(), &scan(model), vec![edit]).unwrap()).unwrap()
}

/// One modified file and the difference that the structural diff must report.
struct Change {
    what: String,
    bytes: Vec<u8>,
    expected: String,
}

fn change(what: &str, bytes: Vec<u8>, expected: &str) -> Change {
    Change { what: what.into(), bytes, expected: expected.into() }
}

/// A rewritten file to be modified.
struct Rewritten {
    original: Model,
    model: Model,
}

impl Rewritten {
    fn new() -> Self {
        Self { original: model(residual_bytes()), model: model_with_layer() }
    }

    fn bytes(&self) -> &[u8] {
        self.model.bytes()
    }

    /// Messages in field `number` of the graph.
    fn messages(&self, number: u32) -> Vec<usize> {
        scan(&self.model).children(1, number).map(|(index, _)| index).collect()
    }

    /// The message of the node `name`.
    fn node(&self, name: &str) -> usize {
        self.messages(1)[self.model.nodes().iter().position(|n| n.name == name).unwrap()]
    }

    fn field(&self, message: usize) -> Vec<u8> {
        self.bytes()[scan(&self.model).messages[message].span()].to_vec()
    }

    /// The file with `to` in place of the field `message`.
    fn with(&self, message: usize, to: &[u8]) -> Vec<u8> {
        respliced(&self.model, message, to)
    }

    /// One bit of each initializer: the original's are compared as bytes, the layer's by its digest.
    fn changed_bits(&self) -> Vec<Change> {
        let initializers = self.messages(5);
        let case = |(index, name): (usize, &str)| {
            let mut bytes = self.bytes().to_vec();
            bytes[scan(&self.model).messages[initializers[index]].span().end - 4] ^= 1;
            let expected = match index < 6 {
                true => format!("initializer \"{name}\" differs from the original"),
                false => "the layer has the digest".into(),
            };
            change(&format!("a bit of {name}"), bytes, &expected)
        };
        self.model.initializer_names().enumerate().map(case).collect()
    }

    fn other_sites(&self) -> Vec<Change> {
        let elsewhere = insert(&self.original, &edge(4, 0), &layer(4)).unwrap();
        let as_declared = replaced(&elsewhere, "node 4 input 0", "node 2 input 0");
        let expected = "the layer is at node 4 input 0, but node 2 input 0 is declared";
        let in_words = replaced(self.bytes(), "node:branch:0", "node:tailxx:0");
        let sum = Msg::new().msg(1, builder::node("Add", "sum", &["e", "polarizer_value"], &["f"], vec![])).0;
        let both = self.with(self.node("sum"), &sum);
        vec![
            change("another site than declared", as_declared, expected),
            change("another site in words", in_words, "the site is given as \"node:tailxx:0\""),
            change("both consumers read the layer", both, "2 of 2 consumers of \"a\" changed"),
        ]
    }

    /// Scale and bias exchanged (as values, and as names of the node's inputs), epsilon, other attributes.
    fn other_layers(&self) -> Vec<Change> {
        let other = Layer { scale: layer(4).bias, bias: layer(4).scale, ..layer(4) };
        let swapped = insert(&self.original, &edge(2, 0), &other).unwrap();
        let swapped = replaced(&swapped, &other.sha256(), &layer(4).sha256());
        let norm = self.node("polarizer_norm");
        let form = |inputs: &[&str], attribute: Msg| {
            let (name, output) = ("polarizer_norm", &["polarizer_value"]);
            let node = builder::node("BatchNormalization", name, inputs, output, vec![attribute]);
            self.with(norm, &Msg::new().msg(1, node).0)
        };
        let usual =
            ["polarizer_conv_output", "polarizer_scale", "polarizer_bias", "polarizer_mean", "polarizer_var"];
        // rebuilt without a change it is the same node
        assert_eq!(form(&usual, attr_float("epsilon", 1e-5)).len(), self.bytes().len());
        let mut exchanged = usual;
        exchanged.swap(1, 2);
        let names = form(&exchanged, attr_float("epsilon", 1e-5));
        let named = "node \"polarizer_norm\" (BatchNormalization) does not have the inputs";
        let conv = node_bytes("Conv", "polarizer_conv", &["a", "polarizer_weight"], "polarizer_conv_output");
        vec![
            change("scale and bias exchanged", swapped, "the layer has the digest"),
            change("their names exchanged", names, named),
            change("epsilon", form(&usual, attr_float("epsilon", 1e-3)), "the layer has the digest"),
            change("training mode", form(&usual, attr_int("training_mode", 1)), "has no epsilon"),
            change("attributes of Conv", self.with(self.node("polarizer_conv"), &conv), "has the attributes"),
        ]
    }

    /// A node after each node, an initializer, metadata.
    fn additions(&self) -> Vec<Change> {
        let evil = Msg::new().msg(1, builder::node("Relu", "evil", &["input"], &["evil"], vec![])).0;
        let second = |place: usize| {
            let bytes = self.with(place, &[self.field(place), evil.clone()].concat());
            change(&format!("a node after message {place}"), bytes, "node \"evil\" (Relu) was added")
        };
        let mut all: Vec<Change> = self.messages(1).into_iter().map(second).collect();
        let initializer = self.messages(5)[0];
        let evil = Msg::new().msg(5, tensor("evil", &[1], &[0.0])).0;
        let bytes = self.with(initializer, &[self.field(initializer), evil].concat());
        all.push(change("an initializer", bytes, "initializer \"evil\" was added"));
        let metadata = Msg::new().msg(14, Msg::new().text(1, "ort_config").text(2, "{}")).0;
        let bytes = [self.bytes(), &metadata].concat();
        all.push(change("metadata", bytes, "the model has an added metadata_props"));
        all
    }

    /// Outputs, an attribute, an operator, a field of the model.
    fn edits(&self) -> Vec<Change> {
        let bytes = self.bytes();
        let renamed = replaced(&replaced(bytes, "logits", "logitz"), "logits", "logitz");
        let relabelled = self.with(self.messages(12)[0], &Msg::new().msg(12, value_info("h", &[-1, 4])).0);
        let attribute = replaced(bytes, "transB", "transA");
        let operator = replaced(bytes, "Flatten", "Squeeze");
        let producer = replaced(bytes, "onnx_builder", "onnx_bvilder");
        vec![
            change("a renamed output", renamed, "output \"logitz\" differs from the original"),
            change("another output", relabelled, "output \"h\" differs from the original"),
            change("an attribute", attribute, "node \"head\" (Gemm) differs from the original"),
            change("an operator", operator, "node \"flat\" (Flatten) differs from the original"),
            change("the producer", producer, "the model's producer_name"),
        ]
    }

    /// The metadata: digest of the original, undo, none at all.
    fn other_records(&self) -> Vec<Change> {
        let bytes = self.bytes();
        let digest = replaced(bytes, &self.original.sha256(), &"0".repeat(64));
        let at = find(bytes, b"\"changes\":[[") + 12;
        let mut undo = bytes.to_vec();
        undo[at] = if undo[at] == b'1' { b'2' } else { b'1' };
        vec![
            change("the original's digest", digest, "but the original has"),
            change("no layer", residual_bytes(), "declares no layer"),
            change("the undo record", undo, ""),
        ]
    }
}

/// Negative controls: the structural diff reports every other change of a rewritten file.
#[test]
fn every_other_change_is_found() {
    let rewritten = Rewritten::new();
    assert!(structural_diff(&rewritten.original, &rewritten.model).is_ok());
    // the original may not have a layer
    assert!(structural_diff(&rewritten.model, &rewritten.model).is_err());
    let groups = [
        rewritten.changed_bits(),
        rewritten.other_sites(),
        rewritten.other_layers(),
        rewritten.additions(),
        rewritten.edits(),
        rewritten.other_records(),
    ];
    let mut failed = Vec::new();
    for Change { what, bytes, expected } in groups.into_iter().flatten() {
        match structural_diff(&rewritten.original, &purified(bytes)) {
            Ok(_) => failed.push(format!("{what}: not found")),
            Err(error) => {
                let text = error.to_string();
                let named = text.starts_with("check failed: structure: purified.onnx: ");
                if !named || !text.contains(&expected) || error.exit_code() != 1 {
                    failed.push(format!("{what}: {text:?} lacks {expected:?}"));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn node_bytes(op_type: &str, name: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    Msg::new().msg(1, node(op_type, name, inputs, &[output], vec![attr_ints("kernel_shape", &[1, 1])])).0
}

#[test]
fn the_layer_as_a_file() {
    let original = model(residual_bytes());
    let place = edge(2, 0);
    let file = LayerFile {
        layer: layer(4),
        place: place.clone(),
        input_sha256: original.sha256(),
        provenance: provenance(&original, &place),
    };
    let bytes = file.to_bytes().unwrap();
    assert_eq!(bytes, file.to_bytes().unwrap(), "the same bytes every time");
    let read = LayerFile::from_bytes(&bytes, "layer.safetensors").unwrap();
    assert_eq!(read, file);
    assert_eq!(rewrite::apply(&original, &read).unwrap(), insert(&original, &place, &file.layer).unwrap());
    // another model
    let mut parts = residual();
    parts.ir_version = 9;
    let error = rewrite::apply(&model(parts.bytes()), &read).unwrap_err();
    assert!(error.to_string().contains("the layer was trained for the file with"), "{error}");
    assert_eq!(error.exit_code(), 2);
    // what is no layer file
    for length in 0..bytes.len() {
        assert!(LayerFile::from_bytes(&bytes[..length], "layer").is_err());
    }
    let refused = |bytes: &[u8], expected: &str| {
        let error = LayerFile::from_bytes(bytes, "layer").expect_err(expected);
        assert!(error.to_string().contains(expected), "{error} lacks {expected:?}");
        assert_eq!(error.exit_code(), 2);
    };
    refused(b"", "not a layer file of polarizer");
    let end = bytes.len();
    refused(&[&bytes[..end - 4], &f32::NAN.to_le_bytes()].concat(), "has NaN in");
    refused(&replaced(&bytes, "node 2 input 0", "nose 2 input 0"), "is not a place");
    refused(&replaced(&bytes, r#"\"channels\":4"#, r#"\"channels\":5"#), "expected F32 [5");
    refused(&replaced(&bytes, r#"\"format\":1"#, r#"\"format\":2"#), "format 2; this version reads format 1");
    let mut random = bytes.clone();
    for at in 0..bytes.len() {
        random[at] ^= 0x55;
        let _ = LayerFile::from_bytes(&random, "layer");
        random[at] ^= 0x55;
    }
    // a changed bit of the numbers, which is a layer all the same
    let mut changed = bytes.clone();
    let last = changed.len() - 1;
    changed[last - 3] ^= 1;
    refused(&changed, "has been changed since");
    let broken = LayerFile { layer: Layer { epsilon: f32::NAN, ..layer(4) }, ..file };
    assert!(broken.to_bytes().is_err());
}

#[test]
fn nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("in.onnx"), b"original").unwrap();
    std::fs::write(path("there.onnx"), b"somebody's").unwrap();
    std::fs::create_dir(path("folder")).unwrap();
    let input = path("in.onnx");
    let refused = |output: &Path, force: bool, expected: &str| {
        let error = Output::new(output, &[&input], force).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error} lacks {expected:?}");
        assert_eq!(error.exit_code(), 2);
    };
    refused(&input, true, "is the input");
    refused(&dir.path().join(".").join("in.onnx"), true, "is the input");
    refused(&path("there.onnx"), false, "already exists");
    refused(&path("folder"), true, "not a file");
    refused(&path("none").join("out.onnx"), false, "its folder does not exist");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(path("there.onnx"), path("link.onnx")).unwrap();
        refused(&path("link.onnx"), true, "is a symbolic link");
        std::os::unix::fs::symlink(path("in.onnx"), path("other.onnx")).unwrap();
        refused(&path("other.onnx"), true, "is the input");
        std::fs::hard_link(path("in.onnx"), path("hard.onnx")).unwrap();
        refused(&path("hard.onnx"), true, "is the input");
    }
    // staged: on disk, not in place; gone when dropped
    let staged = Output::new(&path("out.onnx"), &[&input], false).unwrap().stage(b"new").unwrap();
    let temporary = staged.path().to_path_buf();
    assert_eq!(std::fs::read(&temporary).unwrap(), b"new");
    assert!(!path("out.onnx").exists());
    drop(staged);
    assert!(!temporary.exists());
    // somebody writes the file meanwhile
    let output = Output::new(&path("out.onnx"), &[&input], false).unwrap();
    let staged = output.stage(b"new").unwrap();
    std::fs::write(path("out.onnx"), b"meanwhile").unwrap();
    assert_eq!(staged.commit_to(output).unwrap_err().exit_code(), 2);
    assert_eq!(std::fs::read(path("out.onnx")).unwrap(), b"meanwhile");
    // staged elsewhere: copied, then put in place
    let elsewhere = tempfile::tempdir().unwrap();
    let staged = Staged::write(elsewhere.path(), b"from afar").unwrap();
    staged.commit_to(Output::new(&path("out.onnx"), &[], true).unwrap()).unwrap();
    assert_eq!(std::fs::read(path("out.onnx")).unwrap(), b"from afar");
    rewrite::write_atomically(&path("out.onnx"), b"told to", true).unwrap();
    assert_eq!(std::fs::read(path("out.onnx")).unwrap(), b"told to");
    let left = std::fs::read_dir(dir.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().ends_with(".tmp"));
    assert_eq!(left.count(), 0);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |name: &str| std::fs::metadata(path(name)).unwrap().permissions().mode();
        assert_eq!(mode("out.onnx"), mode("in.onnx"), "as any other new file");
    }
}

/// A model with weights beside it keeps them beside it.
#[test]
fn external_data_stays_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let content: Vec<u8> = noise(5, 6, 0.1).iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(dir.path().join("b3.bin"), &content).unwrap();
    let mut parts = residual();
    let place_of = Msg::new().text(1, "location").text(2, "b3.bin");
    parts.initializers[5] = Msg::new().ints(1, &[5]).int(2, 1).text(8, "b3").msg(13, place_of).int(14, 1);
    let path = dir.path().join("model.onnx");
    std::fs::write(&path, parts.bytes()).unwrap();
    let original = Model::read(&path).unwrap();
    rewrite::check_beside(&original, &dir.path().join("out.onnx")).unwrap();
    let error = rewrite::check_beside(&original, &elsewhere.path().join("out.onnx")).unwrap_err();
    assert!(error.to_string().contains("write the output to that folder"), "{error}");
    let out = dir.path().join("out.onnx");
    let rewritten = insert(&original, &edge(2, 0), &layer(4)).unwrap();
    rewrite::write_atomically(&out, &rewritten, false).unwrap();
    structural_diff(&original, &Model::read(&out).unwrap()).unwrap();
    // the same file beside other weights is not the same model
    std::fs::write(elsewhere.path().join("b3.bin"), [0; 20]).unwrap();
    std::fs::write(elsewhere.path().join("out.onnx"), &rewritten).unwrap();
    let other = Model::read(&elsewhere.path().join("out.onnx")).unwrap();
    let error = structural_diff(&original, &other).unwrap_err().to_string();
    assert!(error.contains("initializer \"b3\" has external data that differs"), "{error}");
}

/// The given models: in, found, out, at the default site and with all readers, and one flipped bit is found.
#[test]
fn the_given_models() {
    for (file, node, channels) in [
        ("preactresnet18-badnets", "/layer4/layer4.1/conv1/Conv", 512),
        ("preactresnet18-w16-wanet", "/layer4/layer4.1/conv1/Conv", 128),
        ("mobilenetv3s-badnets", "node_Conv_572", 96),
    ] {
        let Some(path) = common::shared(&format!("models/{file}.onnx")) else { return };
        let original = Model::read(&path).unwrap();
        let at = original.nodes().iter().position(|n| n.name == node).unwrap();
        let layer = layer(channels);
        for place in [edge(at, 0), value(&original.nodes()[at].inputs[0])] {
            let bytes = insert(&original, &place, &layer).unwrap();
            let declared = structural_diff(&original, &purified(bytes.clone())).unwrap();
            assert_eq!((declared.place, &declared.layer), (place, &layer));
            assert!(rewrite::revert(&bytes, "purified.onnx").unwrap() == original.bytes());
            // a bit in the middle of the file: some weight
            let mut changed = bytes.clone();
            let middle = changed.len() / 2;
            changed[middle] ^= 4;
            let error = structural_diff(&original, &purified(changed)).unwrap_err().to_string();
            assert!(
                error.contains("initializer \"") && error.contains("differs from the original"),
                "{error}"
            );
        }
    }
}

/// A file of another writer, with the layer, passes the same scan as any other.
#[test]
fn the_result_has_no_unknown_fields() {
    let scan = wire::scan(model_with_layer().bytes()).unwrap();
    assert_eq!(scan.unknown, 0);
}
