//! A user lets the tool choose a site, or names one.

mod common;

use polarizer::{graph::Graph, onnx::Model, rewrite::SitePlace, site};

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
        ("node:/layer4/layer4.1/conv1/Conv:7", "constant or absent"),
        ("value:logits", "no node reads"),
        ("value:/Flatten_output_0", "not image-shaped"),
    ] {
        let e = resolve(text).unwrap_err();
        assert!(e.to_string().contains(says), "{text}: {e}");
        assert_eq!(e.exit_code(), 2);
    }
}
