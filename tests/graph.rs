//! Lowering, running, cutting and taking gradients back, on small networks made field by field.

#[path = "common/onnx_builder.rs"]
mod onnx_builder;

use candle_core::{Device, Tensor};
use onnx_builder::{
    Parts, attr_float, attr_int, attr_ints, divided, node, noise, residual, tensor, tensor_i64, value_info,
};
use polarizer::Error;
use polarizer::internals::graph::{Edge, Graph, Tape, VjpOptions};
use polarizer::internals::ops::{OPERATORS, Placement};
use polarizer::onnx::Model;

fn model(parts: &Parts) -> Model {
    Model::from_bytes(parts.bytes(), "test.onnx", None).unwrap()
}

fn lower(parts: &Parts, n: usize) -> Graph {
    Graph::lower(&model(parts), &[n, 3, 8, 8]).unwrap()
}

fn images(n: usize) -> Tensor {
    Tensor::from_vec(noise(n * 192, 77, 1.0), (n, 3, 8, 8), &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn rows(t: &Tensor, rows: &[u32]) -> Tensor {
    t.contiguous().unwrap().index_select(&Tensor::new(rows, &Device::Cpu).unwrap(), 0).unwrap()
}

fn close(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    let off = a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(off <= tolerance * scale, "off by {off} where the largest is {scale}");
}

/// A step by its node's name.
fn step(graph: &Graph, name: &str) -> usize {
    graph.steps().iter().position(|s| s.name == name).unwrap()
}

/// The network with BatchNormalization between its convolutions and their ReLUs, and one more behind the sum.
fn normalised() -> Parts {
    let mut parts = residual();
    let four = |name: &str, i: usize| [name, "g", "b", "m", "v"][i].to_string();
    let norm = |name: &str, from: &str, to: &str| {
        let inputs: Vec<String> = (0..5).map(|i| four(from, i)).collect();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        node("BatchNormalization", name, &inputs, &[to], vec![attr_float("epsilon", 1e-3)])
    };
    let conv = || vec![attr_ints("kernel_shape", &[3, 3]), attr_ints("pads", &[1; 4])];
    parts.nodes = vec![
        node("Conv", "stem", &["input", "w0"], &["s"], conv()),
        norm("stem_norm", "s", "sn"),
        node("Relu", "act", &["sn"], &["a"], vec![]),
        node("Conv", "branch", &["a", "w1", "b1"], &["c"], conv()),
        norm("branch_norm", "c", "cn"),
        node("Relu", "branch_act", &["cn"], &["d"], vec![]),
        node("Conv", "tail", &["d", "w2"], &["e"], conv()),
        node("Add", "sum", &["a", "e"], &["f"], vec![]),
        norm("sum_norm", "f", "fn"),
        node("Relu", "sum_act", &["fn"], &["r"], vec![]),
        node("Conv", "last", &["r", "w2"], &["t"], conv()),
        node("Add", "last_sum", &["t", "f"], &["u"], vec![]),
        node("Relu", "last_act", &["u"], &["uu"], vec![]),
        node("GlobalAveragePool", "pool", &["uu"], &["gap"], vec![]),
        node("Flatten", "flat", &["gap"], &["h"], vec![]),
        node("Gemm", "head", &["h", "w3", "b3"], &["logits"], vec![attr_int("transB", 1)]),
    ];
    let positive: Vec<f32> = noise(4, 12, 0.4).iter().map(|v| v + 0.6).collect();
    parts.initializers.extend([
        tensor("g", &[4], &noise(4, 8, 1.0).iter().map(|v| v + 1.2).collect::<Vec<_>>()),
        tensor("b", &[4], &noise(4, 9, 0.3)),
        tensor("m", &[4], &noise(4, 10, 0.3)),
        tensor("v", &[4], &positive),
    ]);
    parts
}

/// The edges worth a layer: one reader of a value with two, all of its readers, and every other convolution's input.
fn edges(graph: &Graph) -> Vec<Edge> {
    let mut all = Vec::new();
    for (s, step) in graph.steps().iter().enumerate() {
        for id in step.reads().take(1) {
            all.push(Edge { value: id, readers: vec![(s, 0)] });
        }
    }
    for name in ["a", "right"] {
        if let Some(value) = graph.find_value(name) {
            all.push(all_readers(graph, value));
        }
    }
    all
}

fn all_readers(graph: &Graph, value: usize) -> Edge {
    let reads = |s: usize| {
        let operands = graph.steps()[s].operands.iter().enumerate();
        let hit = move |(o, operand): (usize, &polarizer::internals::graph::Operand)| {
            matches!(operand, polarizer::internals::graph::Operand::Value(id) if *id == value)
                .then_some((s, o))
        };
        operands.filter_map(hit).collect::<Vec<_>>()
    };
    Edge { value, readers: (0..graph.steps().len()).flat_map(reads).collect() }
}

#[test]
fn prefix_then_suffix_is_the_whole_wherever_it_is_cut() {
    for parts in [residual(), normalised(), divided()] {
        let graph = lower(&parts, 3);
        let x = images(3);
        let whole = graph.segment(graph.output()).unwrap();
        let (y, tape) = whole.run_keeping(&[x.clone()], None).unwrap();
        let dy = Tensor::from_vec(noise(15, 3, 1.0), (3, 5), &Device::Cpu).unwrap();
        let dx = whole.vjp(&tape, &[Some(dy.clone())], VjpOptions::default()).unwrap()[0].clone().unwrap();
        for edge in edges(&graph) {
            let cut = graph.cut(&edge, graph.output()).unwrap();
            let (at, before) = cut.prefix.run_keeping(&[x.clone()], None).unwrap();
            assert_eq!(at.len(), 1 + cut.crossing.len());
            let (end, after) = cut.suffix.run_keeping(&at, None).unwrap();
            close(&values(&end[0]), &values(&y[0]), 1e-5);
            assert_eq!(values(&cut.suffix.run(&at, None).unwrap()[0]), values(&end[0]));
            let at_cut = cut.suffix.vjp(&after, &[Some(dy.clone())], VjpOptions::default()).unwrap();
            assert!(at_cut.iter().all(Option::is_some));
            let back = cut.prefix.vjp(&before, &at_cut, VjpOptions::default()).unwrap().remove(0).unwrap();
            close(&values(&back), &values(&dx), 1e-5);
            // only the edge's gradient: the same, and nothing else
            let mut only = vec![false; at.len()];
            only[0] = true;
            let some = cut
                .suffix
                .vjp(&after, &[Some(dy.clone())], VjpOptions { wanted: Some(&only), ..Default::default() })
                .unwrap();
            assert!(some[1..].iter().all(Option::is_none));
            assert_eq!(values(some[0].as_ref().unwrap()), values(at_cut[0].as_ref().unwrap()));
        }
    }
}

#[test]
fn the_edge_alone_is_replaced_and_the_residual_branch_is_not() {
    let graph = lower(&residual(), 2);
    let branch = step(&graph, "branch");
    let edge = Edge { value: graph.find_value("a").unwrap(), readers: vec![(branch, 0)] };
    let cut = graph.cut(&edge, graph.output()).unwrap();
    assert_eq!(cut.crossing, [edge.value]);
    let mut at = cut.prefix.run(&[images(2)], None).unwrap();
    assert_eq!(values(&at[0]), values(&at[1]));
    at[0] = at[0].zeros_like().unwrap();
    let changed = values(&cut.suffix.run(&at, None).unwrap()[0]);
    at[1] = at[1].zeros_like().unwrap();
    let both = values(&cut.suffix.run(&at, None).unwrap()[0]);
    assert!(changed.iter().zip(&both).any(|(a, b)| (a - b).abs() > 1e-3));
    // all readers: nothing crosses
    let sum = step(&graph, "sum");
    let edge = Edge { value: edge.value, readers: vec![(branch, 0), (sum, 1)] };
    assert!(graph.cut(&edge, graph.output()).unwrap().crossing.is_empty());
}

#[test]
fn gradients_of_a_network_agree_with_finite_differences() {
    agrees_with_finite_differences(&lower(&normalised(), 2), 2e-3);
    // one ReLU's kinks are all that is not linear: a step so small that hardly any lies within it
    agrees_with_finite_differences(&lower(&divided(), 2), 2e-4);
}

fn agrees_with_finite_differences(graph: &Graph, step: f32) {
    let whole = graph.segment(graph.output()).unwrap();
    let x = values(&images(2));
    let at = |x: &[f32]| Tensor::from_slice(x, (2, 3, 8, 8), &Device::Cpu).unwrap();
    let weights = noise(10, 21, 1.0);
    let loss = |x: &[f32]| -> f64 {
        let y = values(&whole.run(&[at(x)], None).unwrap()[0]);
        y.iter().zip(&weights).map(|(a, b)| f64::from(a * b)).sum()
    };
    let (_, tape) = whole.run_keeping(&[at(&x)], None).unwrap();
    let dy = Tensor::from_slice(&weights, (2, 5), &Device::Cpu).unwrap();
    let dx = values(whole.vjp(&tape, &[Some(dy)], VjpOptions::default()).unwrap()[0].as_ref().unwrap());
    // along random directions, so that a few kinks on the way hardly show
    for seed in 0..20 {
        let direction = noise(x.len(), 100 + seed, 1.0);
        let moved = |by: f32| x.iter().zip(&direction).map(|(x, d)| x + by * d).collect::<Vec<_>>();
        let slope = (loss(&moved(step)) - loss(&moved(-step))) / (2.0 * f64::from(step));
        let expected: f64 = dx.iter().zip(&direction).map(|(a, b)| f64::from(a * b)).sum();
        assert!((slope - expected).abs() < 0.02 * expected.abs().max(0.1), "{slope}, expected {expected}");
    }
}

#[test]
fn tapes_of_images_are_gathered_into_tapes_of_batches() {
    let parts = normalised();
    let model = model(&parts);
    let graph = Graph::lower(&model, &[4, 3, 8, 8]).unwrap();
    let x = images(4);
    let edge = Edge { value: graph.find_value("a").unwrap(), readers: vec![(step(&graph, "branch"), 0)] };
    let cut = graph.cut(&edge, graph.output()).unwrap();
    let (at, tape) = cut.prefix.run_keeping(&[x.clone()], None).unwrap();
    assert!(tape.bytes() > 0 && tape.bytes() < x.elem_count() * 4);

    let small = graph.lower_like(&model, 3).unwrap();
    let small = small.cut(&edge, small.output()).unwrap();
    let order = [2, 0, 3];
    let picked = rows(&x, &order);
    let (direct_at, direct) = small.prefix.run_keeping(&[picked], None).unwrap();
    let order: Vec<usize> = order.iter().map(|&i| i as usize).collect();
    let selected = tape.select(&order).unwrap();
    let one = |i: usize| tape.select(&[i]).unwrap();
    let joined = Tape::gather(&[&one(2), &one(0), &one(3)], &[(0, 0), (1, 0), (2, 0)]).unwrap();
    assert_eq!((selected.batch(), joined.bytes()), (3, selected.bytes()));
    let grads: Vec<Option<Tensor>> = direct_at
        .iter()
        .map(|t| Some(Tensor::from_vec(noise(t.elem_count(), 5, 1.0), t.shape(), &Device::Cpu).unwrap()))
        .collect();
    let expected = small.prefix.vjp(&direct, &grads, VjpOptions::default()).unwrap().remove(0).unwrap();
    for tape in [&selected, &joined] {
        let found = small.prefix.vjp(tape, &grads, VjpOptions::default()).unwrap().remove(0).unwrap();
        assert_eq!(values(&found), values(&expected));
    }
    assert_eq!(values(&rows(&at[0], &[2, 0, 3])), values(&direct_at[0]));
    // another batch's tape is refused, as are images that are not there
    assert!(small.prefix.vjp(&tape, &grads, VjpOptions::default()).is_err());
    assert!(tape.select(&[4]).is_none());
    assert!(Tape::gather(&[&tape], &[(1, 0)]).is_none());
    assert!(small.suffix.vjp(&selected, &[None], VjpOptions::default()).is_err());
}

#[test]
fn what_was_handed_out_does_not_change() {
    // values large enough to come from the pool of buffers
    let parts = normalised();
    let graph = Graph::lower(&model(&parts), &[64, 3, 8, 8]).unwrap();
    let edge = Edge { value: graph.find_value("a").unwrap(), readers: vec![(step(&graph, "branch"), 0)] };
    let cut = graph.cut(&edge, graph.output()).unwrap();
    let x = images(64);
    let (at, tape) = cut.prefix.run_keeping(&[x.clone()], None).unwrap();
    let (end, after) = cut.suffix.run_keeping(&at, None).unwrap();
    let grads = cut.suffix.vjp(&after, &[Some(end[0].clone())], VjpOptions::default()).unwrap();
    let dx = cut.prefix.vjp(&tape, &grads, VjpOptions::default()).unwrap();
    let all: Vec<Tensor> = [x, at[0].clone(), at[1].clone(), end[0].clone(), dx[0].clone().unwrap()]
        .into_iter()
        .chain(grads.iter().flatten().cloned())
        .collect();
    let before: Vec<Vec<f32>> = all.iter().map(values).collect();
    let other = images(64).affine(-2.0, 0.5).unwrap();
    for _ in 0..3 {
        let (again, tape) = cut.prefix.run_keeping(&[other.clone()], None).unwrap();
        let (end, after) = cut.suffix.run_keeping(&again, None).unwrap();
        let grads = cut.suffix.vjp(&after, &[Some(end[0].clone())], VjpOptions::default()).unwrap();
        cut.prefix.vjp(&tape, &grads, VjpOptions::default()).unwrap();
    }
    assert_eq!(all.iter().map(values).collect::<Vec<_>>(), before);
}

#[test]
fn the_same_bytes_for_any_number_of_threads() {
    let graph = lower(&normalised(), 5);
    let whole = graph.segment(graph.output()).unwrap();
    let run = || {
        let (y, tape) = whole.run_keeping(&[images(5)], None).unwrap();
        let dx = whole.vjp(&tape, &[Some(y[0].clone())], VjpOptions::default()).unwrap().remove(0).unwrap();
        (values(&y[0]), values(&dx))
    };
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    let one = pool(1).install(run);
    assert_eq!(pool(2).install(run), one);
    assert_eq!(pool(5).install(run), one);
}

#[test]
fn images_come_in_any_layout() {
    let graph = lower(&residual(), 2);
    let whole = graph.segment(graph.output()).unwrap();
    let x = images(2);
    let last = x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap().permute((0, 3, 1, 2)).unwrap();
    assert!(!last.is_contiguous());
    assert_eq!(values(&whole.run(&[x], None).unwrap()[0]), values(&whole.run(&[last], None).unwrap()[0]));
}

#[test]
fn what_nothing_needs_is_not_lowered() {
    let mut parts = residual();
    parts.nodes.push(node("Mystery", "dead", &["f"], &["unread"], vec![]));
    let graph = lower(&parts, 1);
    assert!(graph.find_value("unread").is_none());
    assert!(graph.segment(graph.output()).is_ok());
    let edge = Edge { value: graph.find_value("f").unwrap(), readers: vec![(step(&graph, "pool"), 0)] };
    let before = graph.find_value("a").unwrap();
    let error = graph.cut(&edge, before).err().unwrap();
    assert!(error.to_string().contains("does not depend on"), "{error}");
    assert!(graph.cut(&edge, graph.find_value("g").unwrap()).is_ok());
}

/// The network with a node that makes more than it computes behind its first ReLU; "more" is read by the output if
/// `read`.
fn with_more(made: onnx_builder::Msg, read: bool) -> Parts {
    let mut parts = residual();
    parts.nodes.insert(2, made);
    parts.nodes[3] = node("Conv", "branch", &["made", "w1", "b1"], &["c"], vec![attr_ints("pads", &[1; 4])]);
    if read {
        parts.nodes.push(node("Add", "reader", &["logits", "more"], &["sum"], vec![]));
        parts.outputs = vec![value_info("sum", &[-1, 5])];
    }
    parts.initializers.push(tensor("scale", &[8], &noise(8, 3, 1.0)));
    parts
}

#[test]
fn outputs_that_are_not_computed_may_be_there_but_not_be_read() {
    let norm = |outputs: &[&str]| node("LayerNormalization", "odd", &["a", "scale"], outputs, vec![]);
    let window = || vec![attr_ints("kernel_shape", &[3, 3]), attr_ints("pads", &[1; 4])];
    for (made, name) in [
        (node("MaxPool", "odd", &["a"], &["made", "more"], window()), "(Indices)"),
        (node("Dropout", "odd", &["a"], &["made", "more"], vec![]), "(mask)"),
        (norm(&["made", "more"]), "(Mean)"),
        (norm(&["made", "", "more"]), "(InvStdDev)"),
    ] {
        let graph = lower(&with_more(made.clone(), false), 2);
        assert!(graph.find_value("more").is_none());
        graph.segment(graph.output()).unwrap().run(&[images(2)], None).unwrap();
        let error = refused(&with_more(made.clone(), true));
        for says in ["\"odd\"", "\"more\"", name, "is not computed", "\"reader\" (Add) reads it"] {
            assert!(error.contains(says), "`{says}` is not in: {error}");
        }
        let mut answer = with_more(made, false);
        answer.outputs = vec![value_info("more", &[-1, 5])];
        assert!(refused(&answer).contains("the graph reads it"));
    }
    // before opset 14, more outputs than one mean training
    let mut norm = normalised();
    norm.opsets = vec![(String::new(), 13)];
    norm.nodes[1] = node("BatchNormalization", "odd", &["s", "g", "b", "m", "v"], &["sn", "more"], vec![]);
    assert!(refused(&norm).contains("expected inference"));
    let two = node("Relu", "odd", &["a"], &["made", "more"], vec![]);
    assert!(refused(&with_more(two, false)).contains("2 outputs, expected 1"));
}

#[test]
fn a_part_that_nobody_reads_is_not_run() {
    let mut parts = divided();
    parts.nodes[3] = node("Identity", "small", &["right"], &["c"], vec![]);
    parts.initializers[4] = tensor("w3", &[5, 8], &noise(40, 5, 0.7));
    let graph = lower(&parts, 2);
    let left = graph.find_value("left").unwrap();
    assert!(all_readers(&graph, left).readers.is_empty());
    graph.segment(graph.output()).unwrap().run(&[images(2)], None).unwrap();
}

#[test]
fn a_split_that_does_not_fit_is_refused() {
    let split = |opset: i64, inputs: &[&str], attributes: Vec<onnx_builder::Msg>| {
        let mut parts = divided();
        parts.opsets = vec![(String::new(), opset)];
        parts.nodes[2] = node("Split", "divide", inputs, &["left", "right"], attributes);
        parts.initializers.push(tensor_i64("wrong", &[2], &[2, 3]));
        parts.initializers.push(tensor_i64("three", &[3], &[1, 1, 2]));
        parts.initializers.push(tensor_i64("below", &[2], &[-1, 5]));
        refused(&parts)
    };
    let axis = || attr_int("axis", 1);
    for (opset, inputs, attributes, says) in [
        (17, &["a", "wrong"][..], vec![axis()], "parts of [2, 3] elements of a dimension of 4"),
        (17, &["a", "three"], vec![axis()], "3 parts, but 2 outputs"),
        (17, &["a", "below"], vec![axis()], "a part of negative length"),
        (17, &["a", "s"], vec![axis()], "input 1 (\"s\") has to be a constant"),
        (17, &["a"], vec![attr_int("axis", 4)], "axis 4 of a value with 4 dimensions"),
        (17, &["a"], vec![axis(), attr_ints("split", &[1, 3])], "`split` does not exist in opset 17"),
        (17, &["a"], vec![attr_int("axis", 0)], "1 elements cannot be split into 2 equal parts"),
        (18, &["a"], vec![axis()], "neither `split` nor `num_outputs`"),
        (18, &["a"], vec![axis(), attr_int("num_outputs", 3)], "but it has 2 outputs"),
        (18, &["a", "wrong"], vec![axis(), attr_int("num_outputs", 2)], "both `split` and `num_outputs`"),
    ] {
        let error = split(opset, inputs, attributes);
        assert!(error.contains("\"divide\" (Split)") && error.contains(says), "`{says}` is not in: {error}");
    }
}

#[test]
fn what_no_gradient_passes_is_refused_with_the_way_out() {
    let mut parts = residual();
    parts.nodes.push(node("Unique", "best", &["logits"], &["scores"], vec![]));
    parts.nodes.push(node("Hardmax", "", &["scores"], &["class"], vec![]));
    parts.outputs = vec![value_info("class", &[-1, 1])];
    let error = refused(&parts);
    for says in [
        "Unique (node \"best\" (Unique)): it selects elements by value",
        "Hardmax (the node that produces \"class\" (Hardmax)): it selects elements by value",
        "export the model up to its input",
    ] {
        assert!(error.contains(says), "`{says}` is not in: {error}");
    }
}

/// A rounded value may be a part of the scores, but not all of them.
#[test]
fn a_gradient_has_to_find_a_way_round_what_is_constant_almost_everywhere() {
    let stem = |nodes: Vec<onnx_builder::Msg>| {
        let mut parts = residual();
        parts.nodes.splice(1..2, nodes);
        let graph = lower(&parts, 1);
        let edge = all_readers(&graph, graph.find_value("a").unwrap());
        graph.check_gradient(&edge, graph.output()).map_err(|e| e.to_string())
    };
    assert_eq!(stem(vec![node("Relu", "act", &["s"], &["a"], vec![])]), Ok(()));
    let error = stem(vec![node("Floor", "steps", &["s"], &["a"], vec![])]).unwrap_err();
    assert!(error.contains("\"steps\" (Floor)") && error.contains("no gradient"), "{error}");
    let around = vec![
        node("Floor", "steps", &["s"], &["whole"], vec![]),
        node("Greater", "compares", &["s", "whole"], &["more"], vec![]),
        node("Where", "either", &["more", "whole", "s"], &["a"], vec![]),
    ];
    assert_eq!(stem(around), Ok(()));
    // behind the edge as well
    let mut parts = residual();
    parts.nodes.push(node("Round", "last", &["logits"], &["rounded"], vec![]));
    parts.outputs = vec![value_info("rounded", &[-1, 5])];
    let graph = lower(&parts, 1);
    let edge = all_readers(&graph, graph.find_value("a").unwrap());
    let error = graph.check_gradient(&edge, graph.output()).unwrap_err().to_string();
    assert!(error.contains("\"last\" (Round)"), "{error}");
}

#[test]
fn a_final_softmax_is_passed_by() {
    for (op, attributes) in [("Softmax", vec![]), ("LogSoftmax", vec![attr_int("axis", 1)])] {
        let mut parts = residual();
        parts.nodes.push(node(op, "soft", &["logits"], &["answer"], attributes));
        parts.outputs = vec![value_info("answer", &[-1, 5])];
        let graph = lower(&parts, 1);
        assert_eq!(graph.value(graph.logits()).name, "logits");
        assert_eq!(graph.value(graph.output()).name, "answer");
    }
    let graph = lower(&residual(), 1);
    assert_eq!(graph.logits(), graph.output());
}

/// The network with a Reshape in place of its Flatten, as exporters write it for a fixed batch of 2.
fn fixed_batch(shape: &[i64]) -> Parts {
    let mut parts = residual();
    parts.nodes[7] = node("Reshape", "flat", &["g", "shape"], &["h"], vec![]);
    parts.initializers.push(tensor_i64("shape", &[shape.len() as i64], shape));
    parts.inputs = vec![value_info("input", &[2, 3, 8, 8])];
    parts
}

#[test]
fn a_fixed_batch_is_no_obstacle() {
    let x = images(3);
    let expected = {
        let graph = lower(&residual(), 3);
        values(&graph.segment(graph.output()).unwrap().run(&[x.clone()], None).unwrap()[0])
    };
    for shape in [&[2, -1][..], &[2, 4], &[-1, 4], &[0, -1]] {
        let graph = lower(&fixed_batch(shape), 3);
        assert!(graph.value(graph.output()).per_image);
        let y = graph.segment(graph.output()).unwrap().run(&[x.clone()], None).unwrap();
        assert_eq!(values(&y[0]), expected, "{shape:?}");
    }
}

#[test]
fn shapes_are_computed_while_lowering() {
    // x.view(x.size(0), -1) as older exporters write it
    let mut parts = residual();
    parts.nodes.splice(
        7..8,
        [
            node("Shape", "", &["g"], &["sh"], vec![]),
            node("Gather", "", &["sh", "zero"], &["n"], vec![attr_int("axis", 0)]),
            node("Unsqueeze", "", &["n", "axes"], &["n1"], vec![]),
            node("Concat", "", &["n1", "minus"], &["target"], vec![attr_int("axis", 0)]),
            node("Reshape", "", &["g", "target"], &["h"], vec![]),
        ],
    );
    parts.initializers.extend([
        tensor_i64("zero", &[], &[0]),
        tensor_i64("axes", &[1], &[0]),
        tensor_i64("minus", &[1], &[-1]),
    ]);
    let graph = lower(&parts, 3);
    assert_eq!(graph.output_shape(), [3, 5]);
    assert!(graph.steps().iter().all(|s| !matches!(s.op_type, "Shape" | "Gather" | "Concat")));
}

/// The network with an If in place of the first ReLU; its branches have the same names inside.
fn with_choice(condition: i64, dynamic: bool) -> Parts {
    let mut parts = residual();
    let branch = |op: &str| {
        let inner = vec![
            node("Conv", "", &["s", "own"], &["inside"], vec![]),
            node(op, "", &["inside"], &["chosen"], vec![]),
        ];
        let own = tensor("own", &[4, 4, 1, 1], &noise(16, if op == "Relu" { 21 } else { 22 }, 1.0));
        onnx_builder::Msg::new()
            .msgs(1, inner)
            .text(2, op)
            .msg(5, own)
            .msg(12, value_info("chosen", &[-1; 4]))
    };
    let branches = || {
        vec![
            onnx_builder::attr_graph("then_branch", branch("Relu")),
            onnx_builder::attr_graph("else_branch", branch("Neg")),
        ]
    };
    parts.nodes[1] = node("If", "again", &["flag"], &["b"], branches());
    parts.nodes.insert(2, node("If", "choice", &[if dynamic { "s" } else { "flag" }], &["a"], branches()));
    parts.initializers.push(tensor_i64("flag", &[], &[condition]));
    parts
}

#[test]
fn the_branch_that_a_constant_chooses_takes_the_place_of_an_if() {
    for (condition, op, seed) in [(1, "Relu", 21), (0, "Neg", 22)] {
        let graph = lower(&with_choice(condition, false), 2);
        let mut plain = residual();
        plain.nodes.splice(
            1..2,
            vec![
                node("Conv", "", &["s", "own"], &["p"], vec![]),
                node(op, "", &["p"], &["b"], vec![]),
                node("Conv", "", &["s", "own"], &["q"], vec![]),
                node(op, "", &["q"], &["a"], vec![]),
            ],
        );
        plain.initializers.push(tensor("own", &[4, 4, 1, 1], &noise(16, seed, 1.0)));
        let expected = lower(&plain, 2);
        let run = |graph: &Graph| {
            let segment = graph.segment(graph.output()).unwrap();
            values(&segment.run(&[images(2)], None).unwrap()[0])
        };
        assert_eq!(run(&graph), run(&expected), "{op}");
        // its output keeps the file's name, what is inside has none of the file's
        assert!(graph.find_value("a").is_some() && graph.find_value("inside").is_none());
    }
    let error = refused(&with_choice(1, true));
    assert!(error.contains("\"choice\" (If)") && error.contains("depends on the image"), "{error}");
}

fn refused(parts: &Parts) -> String {
    match Model::from_bytes(parts.bytes(), "test.onnx", None).and_then(|m| Graph::lower(&m, &[1, 3, 8, 8])) {
        Ok(_) => panic!("not refused"),
        Err(e @ Error::Input { .. }) => e.to_string(),
        Err(e) => panic!("a fault of ours: {e}"),
    }
}

/// The network with one node in place of the first ReLU.
fn with(op: &str, inputs: &[&str], attributes: Vec<onnx_builder::Msg>) -> Parts {
    let mut parts = residual();
    parts.nodes[1] = node(op, "odd", inputs, &["a"], attributes);
    parts
        .initializers
        .extend([tensor_i64("far", &[1], &[i64::MAX]), tensor_i64("wide", &[2], &[1 << 40, 1 << 40])]);
    parts
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    let says = |parts: &Parts, texts: &[&str]| {
        let error = refused(parts);
        texts.iter().for_each(|t| assert!(error.contains(t), "`{t}` is not in: {error}"));
    };
    let mut unknown = residual();
    unknown.nodes[1] = node("Mystery", "first", &["s"], &["a"], vec![]);
    unknown.nodes[3] = node("Riddle", "second", &["c"], &["d"], vec![]);
    says(&unknown, &["Mystery", "\"first\"", "Riddle", "\"second\""]);
    says(&with("Relu", &["s"], vec![attr_int("slope", 1)]), &["\"odd\" (Relu)", "unknown attribute `slope`"]);
    says(&with("HardSwish", &["s"], vec![attr_float("alpha", 1.0)]), &["\"odd\"", "alpha"]);
    says(&with("LeakyRelu", &["s"], vec![attr_int("alpha", 1)]), &["`alpha` is an integer, expected float"]);
    says(&with("Relu", &["s", "s"], vec![]), &["\"odd\"", "2 inputs"]);
    says(&with("Relu", &["nowhere"], vec![]), &["nowhere"]);
    says(&with("Reshape", &["s", "wide"], vec![]), &["\"odd\"", "cannot reshape"]);
    says(&with("Expand", &["s", "wide"], vec![]), &["\"odd\""]);
    says(&with("Transpose", &["s"], vec![attr_ints("perm", &[0, 1, 2, 2])]), &["\"odd\"", "axis"]);
    says(&with("Flatten", &["s"], vec![attr_int("axis", i64::MIN)]), &["\"odd\"", "axis"]);
    let pool = |k: &[i64], extra: Vec<_>| {
        let mut attributes = vec![attr_ints("kernel_shape", k)];
        attributes.extend(extra);
        with("MaxPool", &["s"], attributes)
    };
    says(&pool(&[9, 9], vec![]), &["\"odd\"", "does not fit"]);
    says(&pool(&[0, 1], vec![]), &["\"odd\"", "kernel_shape"]);
    says(&pool(&[2, 2], vec![attr_ints("strides", &[0, 1])]), &["\"odd\"", "strides"]);
    says(&pool(&[2, 2], vec![attr_ints("pads", &[-1, 0, 0, 0])]), &["\"odd\"", "padding of -1"]);
    says(&pool(&[2, 2], vec![attr_ints("pads", &[2, 0, 0, 0])]), &["\"odd\"", "padding"]);
    says(&pool(&[2, 2], vec![attr_ints("pads", &[i64::MAX; 4])]), &["\"odd\""]);
    says(&pool(&[2, 2], vec![attr_ints("dilations", &[i64::MAX, 1])]), &["\"odd\""]);
    says(&pool(&[2, 2], vec![attr_ints("dilations", &[1 << 30, 1 << 30])]), &["\"odd\"", "does not fit"]);
    let huge = with("Pad", &["s"], vec![attr_ints("pads", &[0, 0, i64::MAX, 0, 0, 0, 1, 0])]);
    let huge = Parts { opsets: vec![(String::new(), 10)], ..huge };
    says(&huge, &["\"odd\""]);
}

#[test]
fn weights_that_are_no_numbers_are_refused_by_name() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for i in 0..residual().initializers.len() {
            let mut parts = residual();
            let (name, dims, count): (_, &[i64], _) = [
                ("w0", &[4, 3, 3, 3][..], 108),
                ("w1", &[4, 4, 3, 3], 144),
                ("b1", &[4], 4),
                ("w2", &[4, 4, 3, 3], 144),
                ("w3", &[5, 4], 20),
                ("b3", &[5], 5),
            ][i];
            let mut numbers = noise(count, 1, 0.5);
            numbers[count - 1] = bad;
            parts.initializers[i] = tensor(name, dims, &numbers);
            let error = refused(&parts);
            assert!(error.contains(name) && error.contains("expected finite numbers"), "{error}");
        }
    }
}

#[test]
fn one_input_and_one_output_with_scores() {
    let mut parts = residual();
    parts.inputs.push(value_info("second", &[-1, 3, 8, 8]));
    assert!(refused(&parts).contains("\"second\""));
    let mut parts = residual();
    parts.outputs.push(value_info("f", &[-1, 4, 8, 8]));
    let graph = lower(&parts, 1);
    assert_eq!(graph.value(graph.output()).name, "logits");
    let mut parts = residual();
    parts.inputs = vec![value_info("input", &[-1, 3, 32, 32])];
    assert!(refused(&parts).contains("[N, 3, 32, 32]"));
    let mut parts = residual();
    parts.opsets = vec![(String::new(), 6)];
    assert!(refused(&parts).contains("opset 6"));
}

/// What the table of operators says of a GPU is what running goes by.
#[test]
fn operators_without_kernels_are_those_that_say_so() {
    let mut compared = 0;
    for operator in OPERATORS {
        let parts = Parts {
            opsets: vec![(String::new(), 24)],
            nodes: vec![node(operator.name, "n", &["input"], &["y"], vec![])],
            initializers: vec![],
            inputs: vec![value_info("input", &[2, 3, 8, 8])],
            outputs: vec![value_info("y", &[-1; 4])],
            ..residual()
        };
        // those that need more inputs or attributes are not asked
        let Ok(model) = Model::from_bytes(parts.bytes(), "test.onnx", None) else { continue };
        let Ok(graph) = Graph::lower(&model, &[2, 3, 8, 8]) else { continue };
        let segment = graph.segment(graph.output()).unwrap();
        let lacks: Vec<_> = segment.without_kernels().cloned().collect();
        match operator.on_gpu {
            Placement::Kernel | Placement::Candle => assert_eq!(lacks, [], "{}", operator.name),
            Placement::Processor => assert_eq!(lacks, [("n".to_string(), operator.name)]),
            Placement::Partly | Placement::Nowhere => continue,
        }
        compared += 1;
    }
    assert!(compared >= 20, "{compared} operators compared");
}
