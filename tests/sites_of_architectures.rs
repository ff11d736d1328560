//! The structures that architectures are made of: what is a cut, where the default sites are, and that a layer there is
//! the same network for us, in the file and for the judge. The files and what onnxruntime and ONNX's evaluator say of
//! them come from `tests/scripts/site_models.py`.

#[path = "common/onnx_builder.rs"]
mod onnx_builder;

use std::path::PathBuf;

use candle_core::Device;
use onnx_builder::noise;
use polarizer::{
    internals::{
        graph::{Graph, ValueId},
        layer::{self, Form, Layer},
        site::{self, Site},
        verify::{Fed, Judge, Monitor, diff::structural_diff, reference::Reference},
    },
    onnx::{ImageInput, Model},
    rewrite::{self, Provenance},
};
use serde_json::Value;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/sites")
}

fn described() -> serde_json::Map<String, Value> {
    serde_json::from_slice(&std::fs::read(folder().join("sites.json")).unwrap()).unwrap()
}

/// A file and its images, (N, C, H, W).
fn open(name: &str, case: &Value) -> (Model, [usize; 4]) {
    let model = Model::read(&folder().join(format!("{name}.onnx"))).unwrap();
    let input: Vec<usize> = serde_json::from_value(case["input"].clone()).unwrap();
    let layout = ImageInput::of(&model).unwrap().layout;
    let [n, a, b, c] = input[..] else { panic!("{name}: {input:?}") };
    let shape = if layout.shape([n, a, b, c]) == [n, a, b, c] { [n, a, b, c] } else { [n, c, a, b] };
    (model, shape)
}

/// The images that the script feeds, in the file's order of dimensions, as (N, C, H, W).
fn picture(model: &Model, [n, c, h, w]: [usize; 4]) -> Vec<f32> {
    let value = |i: usize| ((((i as u64) * 2_654_435_761) >> 13) % 32) as f32 / 8.0 - 2.0;
    let last = ImageInput::of(model).unwrap().layout.shape([n, c, h, w]) != [n, c, h, w];
    let mut x = vec![0.0; n * c * h * w];
    for (i, v) in x.iter_mut().enumerate() {
        let (image, channel, at) = (i / (c * h * w), i / (h * w) % c, i % (h * w));
        *v = value(if last { (image * h * w + at) * c + channel } else { i });
    }
    x
}

fn apart(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(1e-3, |m: f64, v| m.max(f64::from(*v).abs()));
    a.iter().zip(b).fold(0.0, |m: f64, (a, b)| m.max(f64::from((a - b).abs()))) / scale
}

#[test]
fn scores_and_cuts_are_those_that_others_found() {
    for (name, case) in described() {
        let (model, shape) = open(&name, &case);
        let scores: Vec<Vec<f32>> = serde_json::from_value(case["scores"].clone()).unwrap();
        let x = picture(&model, shape);
        let [n, c, h, w] = shape;
        let reference = Reference::new(&model, [c, h, w], &Device::Cpu).unwrap();
        let ours = reference.outputs(None, &x, n, &Monitor::default()).unwrap();
        assert!(apart(&ours.concat(), &scores.concat()) < 2e-5, "{name}: {ours:?}");

        let graph = Graph::lower(&model, &[1, c, h, w]).unwrap();
        let theirs: Vec<(String, Vec<usize>)> = serde_json::from_value(case["cuts"].clone()).unwrap();
        let named = |v: &ValueId| (graph.value(*v).name.clone(), graph.value(*v).shape.clone());
        let chain = graph.dominators(graph.logits());
        // an input with channels last is a value of its own, laid out from the images
        let input = &model.inputs()[0].name;
        let own = chain[1..chain.len() - 1].iter().map(named).filter(|(name, _)| name != input);
        let own: Vec<_> = own.collect();
        let missing: Vec<_> = theirs.iter().filter(|cut| !own.contains(cut)).collect();
        let wrong: Vec<_> = own.iter().filter(|cut| !theirs.contains(cut)).collect();
        assert!(missing.is_empty() && wrong.is_empty(), "{name}: missing {missing:?}, wrong {wrong:?}");
    }
}

/// (file, the default recipe's site, the published recipe's), each with (C, H, W).
const PINNED: &[(&str, &str, &str)] = &[
    ("residual", "value:relu_28 6x8x8 conv2d", "node:/Conv_29 6x8x8 conv2d, passed by"),
    ("residual-preactivated", "value:add_24 6x8x8 conv2d", "node:/Conv_27 6x8x8 conv2d, passed by"),
    ("shuffle-split", "value:maxpool_4 8x8x8 conv2d", "node:/Conv_78 12x2x2 conv2d"),
    ("shuffle-slice", "value:maxpool_4 8x8x8 conv2d", "node:/Conv_81 12x2x2 conv2d"),
    ("inception", "value:concat_63 16x8x8 conv2d", "value:concat_87 16x4x4 conv2d"),
    ("dense", "value:conv_38 6x16x16 conv2d", "value:concat_46 9x8x8 conv2d"),
    ("squeeze-excite", "value:batchnormalization_39 8x8x8 conv2d", "node:/Conv_75 10x4x4 conv2d"),
    ("plain-head-on-map", "value:relu_3 8x16x16 conv2d", "node:/Conv_19 24x8x8 conv2d"),
    ("channels-last-inside", "value:relu_47 6x8x8 matmul", "node:/Conv_49 6x8x8 conv2d, passed by"),
    ("channels-last-input", "value:relu_46 6x8x8 matmul", "node:/Conv_48 6x8x8 conv2d, passed by"),
    ("vit-class-token", "value:add_42 8x17x1 matmul", "value:add_64 8x17x1 matmul"),
    ("vit-mean", "value:add_37 8x16x1 matmul", "value:add_59 8x16x1 matmul"),
    ("mixer", "value:add_27 8x16x1 matmul", "value:add_40 8x16x1 matmul"),
    ("swin", "value:add_139 8x4x4 matmul", "value:add_167 8x4x4 matmul"),
    ("convnext", "value:add_57 10x2x2 conv2d", "node:/Conv_58 10x2x2 conv2d, passed by"),
];

fn told(site: &Site) -> String {
    let [c, h, w] = site.shape;
    let passed = if site.passed_by { ", passed by" } else { "" };
    format!("{} {c}x{h}x{w} {}{passed}", site.text, site.form.name())
}

#[test]
fn default_sites_of_each_structure() {
    let mut found = Vec::new();
    for (name, case) in described() {
        let (model, [_, c, h, w]) = open(&name, &case);
        let graph = Graph::lower(&model, &[1, c, h, w]).unwrap();
        if name == "detour" {
            // a linear detector beside the network: nothing that the input passes through, so no default
            assert!(site::watched(&model, &graph).unwrap().passed_by);
            for found in [site::preferred(&model, &graph), site::resolve(&model, &graph, None)] {
                assert!(found.unwrap_err().to_string().contains("no site for a layer"), "{name}");
            }
            continue;
        }
        let preferred = site::preferred(&model, &graph).unwrap_or_else(|e| panic!("{name}: {e}"));
        let published = site::resolve(&model, &graph, None).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!preferred.passed_by, "{name}: {}", preferred.text);
        assert_eq!(site::candidates(&model, &graph).iter().filter(|c| c.default).count(), 1, "{name}");
        found.push((name, told(&preferred), told(&published)));
    }
    let pinned: Vec<_> =
        PINNED.iter().map(|(n, a, b)| ((*n).to_owned(), (*a).to_owned(), (*b).to_owned())).collect();
    let lines: Vec<String> = found.iter().map(|(n, a, b)| format!("    ({n:?}, {a:?}, {b:?}),")).collect();
    assert!(found == pinned, "found:\n{}", lines.join("\n"));
}

fn some_layer(channels: usize, form: Form) -> Layer {
    let identity = |i: usize| if i.is_multiple_of(channels + 1) { 1.0 } else { 0.0 };
    let noisy = noise(channels * channels, 11, 0.3);
    let made = Layer {
        channels,
        weight: noisy.iter().enumerate().map(|(i, v)| v + identity(i)).collect(),
        scale: noise(channels, 12, 0.3).iter().map(|v| v + 1.0).collect(),
        bias: noise(channels, 13, 0.3),
        mean: noise(channels, 14, 0.3),
        var: noise(channels, 15, 0.4).iter().map(|v| v + 1.0).collect(),
        epsilon: 1e-5,
    };
    if form == Form::MatMul { layer::folded(&made) } else { made }
}

/// At every cut that can hold a layer: what was trained, what is written, and what the judge reads are one network; the
/// file is proved to be the original and the layer, and goes back.
#[test]
fn a_layer_at_any_cut_is_one_network_for_everyone() {
    for (name, case) in described() {
        let (model, shape) = open(&name, &case);
        let [n, c, h, w] = shape;
        let x = picture(&model, shape);
        let graph = Graph::lower(&model, &[1, c, h, w]).unwrap();
        let reference = Reference::new(&model, [c, h, w], &Device::Cpu).unwrap();
        let fed = Fed { layout: ImageInput::of(&model).unwrap().layout, ..Fed::of(shape) };
        let theirs: Vec<(String, Vec<usize>)> = serde_json::from_value(case["cuts"].clone()).unwrap();
        let mut sites = Vec::from_iter(site::resolve(&model, &graph, None).ok());
        sites.extend(
            theirs
                .iter()
                .filter_map(|(value, _)| site::resolve(&model, &graph, Some(&format!("value:{value}"))).ok()),
        );
        assert!(sites.len() * 2 > theirs.len() || name == "detour", "{name}: {} sites", sites.len());
        for site in sites {
            let layer = some_layer(site.channels(), site.form);
            let trained = reference.outputs(Some((&site.place, &layer)), &x, n, &Monitor::default()).unwrap();
            let provenance = Provenance::new(site.text.clone(), Vec::new()).in_form(site.form);
            let bytes = rewrite::insert(&model, &site.place, &layer, &provenance).unwrap();
            let judged = Judge::load(&bytes, fed).unwrap().logits(&x, n).unwrap();
            let written = Model::from_bytes(bytes.clone(), "written.onnx", None).unwrap();
            let read = Reference::new(&written, [c, h, w], &Device::Cpu).unwrap();
            let read = read.outputs(None, &x, n, &Monitor::default()).unwrap();
            for (who, found) in [("we", &read), ("the judge", &judged)] {
                let off = apart(&found.concat(), &trained.concat());
                assert!(off < 1e-4, "{name} {}: in the file that {who} read it is off by {off}", site.text);
            }
            let declared = structural_diff(&model, &written).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!((declared.place, declared.layer), (site.place, layer), "{name} {}", site.text);
            assert_eq!(rewrite::revert(&bytes, "written.onnx").unwrap(), model.bytes(), "{name}");
        }
    }
}

#[test]
fn values_without_channels_are_refused() {
    let cases = described();
    for (name, value) in [("shuffle-split", "reshape_19"), ("shuffle-split", "transpose_20")] {
        let (model, [_, c, h, w]) = open(name, &cases[name]);
        let graph = Graph::lower(&model, &[1, c, h, w]).unwrap();
        let e = site::resolve(&model, &graph, Some(&format!("value:{value}"))).unwrap_err();
        assert_eq!(e.exit_code(), 2);
        assert!(e.to_string().contains("no dimension known to hold channels"), "{e}");
    }
}
