//! A user lets the tool choose a site, or names one.

mod common;
#[path = "common/onnx_builder.rs"]
mod onnx_builder;

use candle_core::Device;
use onnx_builder::{Msg, Parts, attr_ints, divided, node, noise, tensor, value_info};
use polarizer::{
    internals::{
        graph::Graph,
        layer::Layer,
        site::{self, SitePlace},
        verify::{Fed, Judge, Monitor, reference::Reference},
    },
    onnx::Model,
    rewrite::{self, Provenance},
};

fn open(model: &str, image: [usize; 3]) -> Option<(Model, Graph)> {
    let path = common::shared(model)?;
    let model = Model::read(&path).unwrap();
    let [c, h, w] = image;
    let graph = Graph::lower(&model, &[1, c, h, w]).unwrap();
    Some((model, graph))
}

#[test]
fn defaults_on_the_given_models() {
    for (file, want, shape) in [
        ("models/preactresnet18-badnets.onnx", "node:/layer4/layer4.1/conv1/Conv", [512, 4, 4]),
        ("models/preactresnet18-w16-wanet.onnx", "node:/layer4/layer4.1/conv1/Conv", [128, 4, 4]),
        ("models/preactresnet18-w16-blended.onnx", "node:/layer4/layer4.1/conv1/Conv", [128, 4, 4]),
        ("models/mobilenetv3s-badnets.onnx", "node:node_Conv_572", [96, 1, 1]),
    ] {
        let Some((model, graph)) = open(file, [3, 32, 32]) else { return };
        let site = site::resolve(&model, &graph, None).unwrap();
        assert_eq!(site.text, want, "{file}");
        assert_eq!(site.shape[0], shape[0], "{file}: {:?}", site.shape);
        let all = site::candidates(&model, &graph);
        assert_eq!(all.iter().filter(|c| c.default).count(), 1, "{file}");
        // What is listed can be named.
        for c in &all {
            assert_eq!(
                site::resolve(&model, &graph, Some(&c.text)).unwrap().place,
                c.place,
                "{file}: {}",
                c.text
            );
        }
        // No squeeze-and-excite branch is offered: those convolutions see one position of a larger image.
        if file.contains("mobilenet") {
            let convolutions = graph.steps().iter().filter(|s| s.op_type == "Conv").count();
            assert_eq!(
                convolutions - all.len(),
                18,
                "nine squeeze-and-excite branches of two convolutions each"
            );
        }
    }
}

#[test]
fn the_default_recipes_site_lets_nothing_pass_by() {
    for (file, want) in [
        ("models/preactresnet18-badnets.onnx", "value:/layer4/layer4.0/Add_output_0"),
        ("models/preactresnet18-w16-wanet.onnx", "value:/layer4/layer4.0/Add_output_0"),
        // a convolution comes behind its last block: before the expansion of the last block that halves the image
        ("models/mobilenetv3s-badnets.onnx", "value:add_759"),
    ] {
        let Some((model, graph)) = open(file, [3, 32, 32]) else { return };
        let site = site::preferred(&model, &graph).unwrap();
        assert_eq!(site.text, want, "{file}");
        assert_eq!(site::resolve(&model, &graph, Some(want)).unwrap().place, site.place);
    }
}

/// Convolutions in a row, each followed by a pooling that halves the image, as in VGG: input (N, 3, `size`, `size`).
fn row(size: i64, poolings: usize) -> (Model, Graph) {
    let mut parts = Parts {
        ir_version: 8,
        opsets: vec![(String::new(), 17)],
        nodes: Vec::new(),
        initializers: Vec::new(),
        inputs: vec![value_info("x", &[-1, 3, size, size])],
        outputs: vec![value_info("y", &[-1, 4])],
        graph_extra: Msg::default(),
        model_extra: Msg::default(),
        width: 0,
    };
    let (mut value, mut channels) = ("x".to_owned(), 3);
    for at in 0..=poolings {
        let (weight, seen, act) = (format!("w{at}"), format!("conv{at}"), format!("act{at}"));
        parts.initializers.push(tensor(
            &weight,
            &[4, channels, 3, 3],
            &noise(36 * channels as usize, 1, 0.2),
        ));
        let conv = vec![attr_ints("kernel_shape", &[3, 3]), attr_ints("pads", &[1; 4])];
        parts.nodes.push(node("Conv", &seen, &[&value, &weight], &[&seen], conv));
        parts.nodes.push(node("Relu", &act, &[&seen], &[&act], vec![]));
        (value, channels) = (act, 4);
        if at < poolings {
            let pooled = format!("pool{at}");
            let halves = vec![attr_ints("kernel_shape", &[2, 2]), attr_ints("strides", &[2, 2])];
            parts.nodes.push(node("MaxPool", &pooled, &[&value], &[&pooled], halves));
            value = pooled;
        }
    }
    parts.nodes.push(node("GlobalAveragePool", "mean", &[&value], &["mean"], vec![]));
    parts.nodes.push(node("Flatten", "flat", &["mean"], &["y"], vec![]));
    let model = Model::from_bytes(parts.bytes(), "row.onnx", None).unwrap();
    let graph = Graph::lower(&model, &[1, 3, size as usize, size as usize]).unwrap();
    (model, graph)
}

#[test]
fn without_residual_blocks_the_default_recipes_site_still_has_positions() {
    for (size, poolings, want) in [
        (32, 4, "value:act2"),  // 8x8 before the third pooling; the fourth reads 4x4
        (32, 2, "value:act1"),  // the last reads 16x16
        (224, 4, "value:act3"), // the last reads 28x28
        (8, 2, "value:act0"),
        (4, 1, "value:act0"), // fewer everywhere: before the last
        (4, 2, "value:act1"),
    ] {
        let (model, graph) = row(size, poolings);
        let site = site::preferred(&model, &graph).unwrap();
        assert_eq!(site.text, want, "{poolings} poolings of {size}x{size}");
    }
}

#[test]
fn named_sites() {
    let Some((model, graph)) = open("models/preactresnet18-badnets.onnx", [3, 32, 32]) else { return };
    let resolve = |text: &str| site::resolve(&model, &graph, Some(text));
    let node = "/layer4/layer4.1/conv1/Conv";
    let edge = resolve(&format!("node:{node}")).unwrap();
    assert_eq!(resolve(node).unwrap().place, edge.place);
    assert_eq!(resolve(&format!("node:{node}:0")).unwrap().place, edge.place);
    let value = resolve("value:/layer4/layer4.1/Relu_output_0").unwrap();
    assert_eq!(value.place, SitePlace::Value { name: "/layer4/layer4.1/Relu_output_0".into() });
    assert_eq!(resolve("/layer4/layer4.1/Relu_output_0").unwrap().place, value.place);
    // An addition has two edges.
    assert!(matches!(
        resolve("node:/layer4/layer4.1/Add:1").unwrap().place,
        SitePlace::Edge { input: 1, .. }
    ));

    for (text, says) in [
        ("node:/layer4/layer4.1/conv1/Conf", "nearest: node:/layer4/layer4.1/conv1/Conv"),
        ("nowhere", "no node or value is named `nowhere`"),
        ("node:/layer4/layer4.1/conv1/Conv:1", "constant"),
        ("node:/layer4/layer4.1/conv1/Conv:7", "constant or missing"),
        ("value:logits", "no node reads"),
    ] {
        let e = resolve(text).unwrap_err();
        assert!(e.to_string().contains(says), "{text}: {e}");
        assert_eq!(e.exit_code(), 2);
    }
}

fn layer(channels: usize) -> Layer {
    Layer {
        channels,
        weight: noise(channels * channels, 11, 1.0),
        scale: noise(channels, 12, 1.0).iter().map(|v| v + 1.5).collect(),
        bias: noise(channels, 13, 0.3),
        mean: noise(channels, 14, 0.3),
        var: noise(channels, 15, 0.4).iter().map(|v| v + 0.5).collect(),
        epsilon: 1e-5,
    }
}

/// What the file says and what was trained are the same network, whichever output of a node the layer stands behind.
#[test]
fn each_output_of_a_node_is_a_site_of_its_own() {
    let model = Model::from_bytes(divided().bytes(), "divided.onnx", None).unwrap();
    let graph = Graph::lower(&model, &[1, 3, 8, 8]).unwrap();
    let x = noise(2 * 192, 3, 1.0);
    let outputs = |model: &Model, layer: Option<(&SitePlace, &Layer)>| {
        let reference = Reference::new(model, [3, 8, 8], &Device::Cpu).unwrap();
        reference.outputs(layer, &x, 2, &Monitor::default()).unwrap().concat()
    };
    let mut answers = vec![("no layer", outputs(&model, None))];
    for (text, shape, reads, makes) in [
        ("value:left", [1, 8, 8], "small", Some("divide")),
        ("value:right", [3, 8, 8], "large", Some("divide")),
        ("node:divide", [4, 8, 8], "divide", None),
        ("node:small", [1, 8, 8], "small", None),
        ("node:large", [3, 8, 8], "large", None),
        ("node:both:1", [3, 8, 8], "both", None),
    ] {
        let site = site::resolve(&model, &graph, Some(text)).unwrap();
        assert_eq!((site.text.as_str(), site.shape), (text, shape));
        let layer = layer(site.channels());
        let trained = outputs(&model, Some((&site.place, &layer)));
        let provenance = Provenance::new(site.text, Vec::new());
        let bytes = rewrite::insert(&model, &site.place, &layer, &provenance).unwrap();
        let judged = Judge::load(&bytes, Fed::of([2, 3, 8, 8])).unwrap().logits(&x, 2).unwrap().concat();
        let written = Model::from_bytes(bytes, "written.onnx", None).unwrap();
        let read = outputs(&written, None);
        for (who, found) in [("we", &read), ("the judge", &judged)] {
            let off = trained.iter().zip(found).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(off < 1e-5, "{text}: in the file that {who} read, it is off by {off}");
        }
        // in the file, the layer is between the output that was meant and what reads it
        let by_name = |name: &str| written.nodes().iter().find(|n| n.name == name).unwrap();
        let conv = written.nodes().iter().find(|n| n.name.starts_with("polarizer")).unwrap();
        match makes {
            Some(node) => assert!(by_name(node).outputs.contains(&conv.inputs[0]), "{text}"),
            None => assert!(by_name(reads).inputs.iter().any(|i| i.starts_with("polarizer")), "{text}"),
        }
        for (other, answer) in &answers {
            // nothing but this convolution reads that output
            let same = (*other, text) == ("value:left", "node:small");
            assert_eq!(answer == &read, same, "{text} and {other}");
        }
        answers.push((text, read));
    }
    let found: Vec<_> =
        site::candidates(&model, &graph).into_iter().map(|c| (c.text, c.value, c.shape)).collect();
    assert!(found.contains(&("node:small".into(), "left".into(), [1, 8, 8])), "{found:?}");
    assert!(found.contains(&("node:large".into(), "right".into(), [3, 8, 8])), "{found:?}");
}

#[test]
fn an_unnamed_node_goes_by_the_first_output_that_it_names() {
    let mut parts = divided();
    parts.nodes[2] =
        node("Split", "", &["a", "parts"], &["", "right"], vec![onnx_builder::attr_int("axis", 1)]);
    parts.nodes[3] = node("Identity", "small", &["right"], &["c"], vec![]);
    parts.initializers[4] = tensor("w3", &[5, 8], &noise(40, 5, 0.7));
    let model = Model::from_bytes(parts.bytes(), "unnamed.onnx", None).unwrap();
    let graph = Graph::lower(&model, &[1, 3, 8, 8]).unwrap();
    assert_eq!(graph.steps().iter().filter(|s| s.op_type == "Split").count(), 1);
    let place = site::resolve(&model, &graph, Some("node:right")).unwrap().place;
    assert_eq!(place, SitePlace::Edge { node: 2, input: 0 });
    assert_eq!(site::text_of(&model, &place), "node:right");
}
