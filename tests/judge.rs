//! The judge on real models and images: both of its forms agree, and it measures what the models' makers measured.

mod common;
#[path = "common/onnx_builder.rs"]
mod onnx_builder;

use onnx_builder::{attr_ints, node, noise, residual, residual_bytes, tensor, value_info};
use polarizer::{
    data::{Folder, ImageSet, Images, Preprocessing},
    internals::{
        site::SitePlace,
        verify::{
            Fed, Form, Judge, Monitor, TOLERANCE,
            evaluate::{Aim, accuracy, answers, attack},
            parity::compare,
            reference,
        },
    },
    onnx::Model,
    rewrite::{Provenance, insert},
};

fn images(folder: &str, keep_every: usize) -> Option<(Images, Preprocessing)> {
    let path = common::shared(folder)?;
    let classes = Folder::clean(&common::shared("images/test")?).unwrap().classes();
    let cifar10 = Preprocessing::preset("cifar10").unwrap();
    let all = Folder::triggered(&path).unwrap().load(&classes, &cifar10.target(3, None).unwrap()).unwrap();
    let rows: Vec<usize> = (0..all.len()).step_by(keep_every).collect();
    Some((all.select(&rows), cifar10))
}

#[test]
fn it_measures_accuracy_and_attack() {
    let Some((clean, cifar10)) = images("images/test", 4) else { return };
    let Some((triggered, _)) = images("images/triggered-blended", 3) else { return };
    let Some(path) = common::shared("models/preactresnet18-w16-blended.onnx") else { return };
    let judge = Judge::open(&path, Fed { free_batch: true, ..Fed::of([16, 3, 32, 32]) }).unwrap();
    let set = |images: &Images| ImageSet::of(images.clone());
    let answers = |images: &Images| answers(&judge, &set(images), &cifar10, &Monitor::default()).unwrap();
    let acc = accuracy(&answers(&clean), clean.labels()).unwrap();
    let attack = attack(&answers(&triggered), triggered.labels(), Aim::Class(0)).unwrap();
    println!("ACC {acc} {attack:?}");
    assert!((78.0..88.0).contains(&acc), "{acc}");
    assert!(attack.asr > 97.0 && attack.ra < 3.0, "{attack:?}");
    assert!(!judge.optimised_is_distrusted());
}

/// Candle and tract on 256 real images: the figures that a purification starts from.
#[test]
fn candle_and_tract_agree_on_every_model() {
    let Some((images, cifar10)) = images("images/test", 1) else { return };
    let n = 256;
    let rows: Vec<usize> = (0..n).map(|i| i * images.len() / n).collect();
    let x = images.normalized(&rows, &cifar10);
    for name in [
        "preactresnet18-badnets",
        "mobilenetv3s-badnets",
        "preactresnet18-w16-blended",
        "preactresnet18-w16-wanet",
    ] {
        let Some(path) = common::shared(&format!("models/{name}.onnx")) else { return };
        let model = Model::read(&path).unwrap();
        let ours = reference::outputs(
            &model,
            [3, 32, 32],
            None,
            &x,
            n,
            &candle_core::Device::Cpu,
            &Monitor::default(),
        )
        .unwrap();
        let judge = Judge::open(&path, Fed { free_batch: true, ..Fed::of([16, 3, 32, 32]) }).unwrap();
        for form in [Form::Plain, Form::Optimised] {
            let parity = compare(&judge.logits_in(form, &x, n).unwrap(), &ours, TOLERANCE).unwrap();
            println!("{name} {form:?}: {parity:?}");
            assert!(parity.holds(TOLERANCE), "{name} {form:?}: {parity:?}");
        }
    }
}

fn outputs(bytes: &[u8], batch: usize, x: &[f32], n: usize) -> Vec<Vec<f32>> {
    Judge::load(bytes, Fed::of([batch, 3, 8, 8])).unwrap().logits(x, n).unwrap()
}

#[test]
fn the_batch_makes_no_difference() {
    let x = noise(7 * 192, 9, 1.0);
    let one = outputs(&residual_bytes(), 1, &x, 7);
    let mut fixed = residual();
    fixed.inputs = vec![value_info("input", &[4, 3, 8, 8])];
    fixed.outputs = vec![value_info("logits", &[4, 5])];
    for (bytes, batch) in [(residual_bytes(), 3), (residual_bytes(), 16), (fixed.bytes(), 4)] {
        let other = outputs(&bytes, batch, &x, 7); // the last run is short
        assert!(compare(&other, &one, 1e-6).unwrap().holds(1e-6), "batch {batch}");
    }
    let model = Model::from_bytes(fixed.bytes(), "fixed.onnx", None).unwrap();
    let ours =
        reference::outputs(&model, [3, 8, 8], None, &x, 7, &candle_core::Device::Cpu, &Monitor::default())
            .unwrap();
    assert!(compare(&ours, &one, TOLERANCE).unwrap().holds(TOLERANCE));
}

#[test]
fn a_layer_in_candle_is_the_layer_in_the_file() {
    let model = Model::from_bytes(residual_bytes(), "residual.onnx", None).unwrap();
    let mut layer = common::identity_layer(4);
    layer.weight = noise(16, 20, 0.7);
    layer.mean = noise(4, 21, 0.3);
    layer.bias = noise(4, 22, 0.3);
    layer.scale = noise(4, 23, 1.0);
    layer.var = noise(4, 24, 0.5).iter().map(|v| v.abs() + 0.1).collect();
    let x = noise(40 * 192, 10, 1.0);
    let places = [
        SitePlace::Edge { node: 2, input: 0 },
        SitePlace::Edge { node: 5, input: 1 },
        SitePlace::Value { name: "a".into() },
    ];
    let plain =
        reference::outputs(&model, [3, 8, 8], None, &x, 40, &candle_core::Device::Cpu, &Monitor::default())
            .unwrap();
    for place in places {
        let bytes = insert(&model, &place, &layer, &Provenance::new(place.to_string(), Vec::new())).unwrap();
        let theirs = outputs(&bytes, 16, &x, 40);
        let watch = Monitor::default();
        let ours = reference::outputs(
            &model,
            [3, 8, 8],
            Some((&place, &layer)),
            &x,
            40,
            &candle_core::Device::Cpu,
            &watch,
        )
        .unwrap();
        assert!(compare(&theirs, &ours, TOLERANCE).unwrap().holds(TOLERANCE), "{place}");
        assert!(!compare(&theirs, &plain, TOLERANCE).unwrap().holds(TOLERANCE), "{place}: no effect");
    }
}

#[test]
fn what_the_judge_cannot_run_is_an_error_and_no_crash() {
    let load = |parts: onnx_builder::Parts| Judge::load(&parts.bytes(), Fed::of([2, 3, 8, 8])).err();
    let stem = |attributes| {
        let mut parts = residual();
        parts.nodes[0] = node("Conv", "stem", &["input", "w0"], &["s"], attributes);
        parts
    };
    // tract 0.23.9 panics on these; the reader refuses them before it is asked
    for attributes in [
        vec![attr_ints("kernel_shape", &[3, 3]), attr_ints("strides", &[0, 0])],
        vec![attr_ints("kernel_shape", &[3, 3]), attr_ints("pads", &[1])],
    ] {
        let e = load(stem(attributes)).unwrap();
        assert!(e.exit_code() == 1 && e.to_string().contains("tract"), "{e}");
    }
    let mut nothing_makes_it = residual();
    nothing_makes_it.outputs = vec![value_info("nowhere", &[-1, 5])];
    assert!(load(nothing_makes_it).unwrap().to_string().contains("tract"));
    let mut two_inputs = residual();
    two_inputs.inputs.push(value_info("more", &[1]));
    assert!(load(two_inputs).is_some());
    let mut unknown = residual();
    unknown.nodes[1] = node("NoSuchOperator", "act", &["s"], &["a"], vec![]);
    let e = load(unknown).unwrap().to_string();
    assert!(e.contains("tract does not have the operator of node \"act\" (NoSuchOperator)"), "{e}");
}

/// `const - Conv(x)` with a constant per channel: tract 0.23.9 folds it wrongly.
#[test]
fn a_wrong_optimised_form_is_found_and_left_alone() {
    let mut parts = residual();
    parts.nodes[1] = node("Sub", "act", &["k", "s"], &["a"], vec![]);
    parts.initializers.push(tensor("k", &[1, 4, 1, 1], &noise(4, 30, 2.0)));
    let judge = Judge::load(&parts.bytes(), Fed::of([4, 3, 8, 8])).unwrap();
    let x = noise(8 * 192, 11, 1.0);
    let rows = |from: usize, count: usize| Ok(x[from * 192..(from + count) * 192].to_vec());
    let fast = judge.logits_fast(8, &rows, &Monitor::default()).unwrap();
    assert!(judge.optimised_is_distrusted());
    let model = Model::from_bytes(parts.bytes(), "sub.onnx", None).unwrap();
    let ours =
        reference::outputs(&model, [3, 8, 8], None, &x, 8, &candle_core::Device::Cpu, &Monitor::default())
            .unwrap();
    assert!(compare(&fast, &ours, TOLERANCE).unwrap().holds(TOLERANCE));
}

#[test]
fn what_is_no_row_of_scores_is_refused() {
    let mut parts = residual();
    parts.outputs = vec![value_info("f", &[-1, 4, 8, 8])];
    parts.nodes.truncate(6);
    let judge = Judge::load(&parts.bytes(), Fed::of([2, 3, 8, 8])).unwrap();
    let e = judge.logits(&noise(384, 12, 1.0), 2).unwrap_err().to_string();
    assert!(e.contains("[2, 4, 8, 8]"), "{e}");
    // (N, K, 1, 1) is one
    parts.nodes.push(node("GlobalAveragePool", "pool", &["f"], &["g"], vec![]));
    parts.outputs = vec![value_info("g", &[-1, 4, 1, 1])];
    let judge = Judge::load(&parts.bytes(), Fed::of([2, 3, 8, 8])).unwrap();
    assert_eq!(judge.outputs(), 4);
    assert_eq!(judge.logits(&noise(384, 12, 1.0), 2).unwrap()[1].len(), 4);
}
