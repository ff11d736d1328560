//! On a GPU: every kernel and every way through a network against the processor's, the tape of chosen images, whole
//! trainings. In a build with the `cuda` feature; prints as ignored where there is no GPU. POLARIZER_MODELS names a
//! folder of further ONNX files for images of 3x32x32, all of which are compared.
#![cfg(feature = "cuda")]

#[path = "common/onnx_builder.rs"]
mod onnx_builder;

use candle_core::{Device, Tensor};
use onnx_builder::{Msg, Parts, attr_float, attr_int, attr_ints, node, noise, residual, tensor, value_info};
use polarizer::{
    device::{Choice, Place},
    internals::{
        graph::{Graph, Segment, VjpOptions},
        kernels::Precision,
        network::{End, Network, Normalisation, Options, Samples, Subject},
        ops::array::{self, Array},
        site,
        train::{
            Adam, AdversaryKind, Optimizer, Settings, Sgd, Start, Targets, Trainer,
            layer::{FoldedGradients, Polarizer, Trainable},
            principal::{Components, Principal},
        },
    },
    onnx::Model,
};

/// One device for all tests: each opens candle's, and what was opened stays.
fn gpu() -> Option<Place> {
    static PLACE: std::sync::OnceLock<Option<Place>> = std::sync::OnceLock::new();
    let open = || match Place::open(Choice::Cuda(0)) {
        Ok(place) => Some(place),
        Err(e) => {
            println!("ignored: {e}");
            None
        }
    };
    PLACE.get_or_init(open).clone()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_device(&Device::Cpu).unwrap().to_vec1().unwrap()
}

/// The largest difference as a share of the largest value.
fn apart(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (values(a), values(b));
    assert!(a.iter().all(|v| v.is_finite()), "not finite");
    let scale = b.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    f64::from(a.iter().zip(&b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / scale)
}

/// Forward, with and without a tape, and back, here and there: the largest difference of any.
fn compare(segment: &Segment, x: &Tensor, device: &Device) -> [f64; 2] {
    let there = x.to_device(device).unwrap();
    let (y, tape) = segment.run_keeping(&[x.clone()], None).unwrap();
    let (z, tape_there) = segment.run_keeping(&[there.clone()], None).unwrap();
    let plain = segment.run(&[there], None).unwrap();
    assert_eq!(values(&plain[0]), values(&z[0]), "a tape changes the result");
    let dy = Tensor::from_vec(noise(y[0].elem_count(), 3, 1.0), y[0].dims(), &Device::Cpu).unwrap();
    let dx = segment.vjp(&tape, &[Some(dy.clone())], VjpOptions::default()).unwrap().remove(0).unwrap();
    let dy = dy.to_device(device).unwrap();
    let dz = segment.vjp(&tape_there, &[Some(dy.clone())], VjpOptions::default()).unwrap().remove(0).unwrap();
    let again = segment.vjp(&tape_there, &[Some(dy)], VjpOptions::default()).unwrap().remove(0).unwrap();
    assert_eq!(values(&dz), values(&again), "not the same twice");
    [apart(&z[0], &y[0]), apart(&dz, &dx)]
}

/// A network of these nodes between "input" (n, c, h, w) and "y".
fn network(nodes: Vec<Msg>, initializers: Vec<Msg>, shape: [i64; 4]) -> Parts {
    Parts {
        opsets: vec![(String::new(), 20)],
        nodes,
        initializers,
        inputs: vec![value_info("input", &shape)],
        outputs: vec![value_info("y", &[-1; 4])],
        ..residual()
    }
}

fn graph(parts: &Parts, shape: &[usize], precision: Precision) -> Graph {
    let model = Model::from_bytes(parts.bytes(), "test.onnx", None).unwrap();
    let graph = Graph::lower(&model, shape).unwrap();
    if precision == Precision::F32 { graph } else { graph.lower_in(&model, shape[0], precision).unwrap() }
}

fn check(what: &str, parts: &Parts, shape: [usize; 4], device: &Device, within: f64) {
    let graph = graph(parts, &shape, Precision::F32);
    let x = Tensor::from_vec(noise(shape.iter().product(), 7, 2.0), &shape, &Device::Cpu).unwrap();
    let [y, dx] = compare(&graph.segment(graph.output()).unwrap(), &x, device);
    println!("{what} {shape:?}: {y:.1e} forward, {dx:.1e} back");
    assert!(y <= within && dx <= within, "{what} {shape:?}: {y:.1e} forward, {dx:.1e} back");
}

#[test]
fn convolutions() {
    let Some(place) = gpu() else { return };
    // n, c, h, w; out, group; kernel; stride; dilation; pads
    type Case = ([usize; 4], [usize; 2], [i64; 2], i64, i64, [i64; 4]);
    let cases: &[Case] = &[
        ([2, 3, 32, 32], [64, 1], [3, 3], 1, 1, [1; 4]),
        ([5, 64, 16, 16], [64, 1], [3, 3], 1, 1, [1; 4]),
        ([4, 64, 16, 16], [128, 1], [3, 3], 2, 1, [1; 4]),
        ([4, 64, 16, 16], [128, 1], [1, 1], 2, 1, [0; 4]),
        ([3, 16, 9, 7], [24, 1], [1, 1], 1, 1, [0; 4]),
        ([3, 8, 12, 10], [12, 4], [3, 3], 1, 1, [1; 4]),
        ([2, 8, 12, 12], [8, 1], [3, 3], 1, 2, [2; 4]),
        ([2, 6, 11, 13], [10, 1], [5, 3], 2, 1, [2, 1, 2, 1]),
        ([2, 6, 11, 13], [10, 1], [3, 3], 2, 1, [0, 0, 1, 1]),
        ([2, 6, 11, 13], [6, 1], [2, 2], 1, 1, [0, 1, 1, 0]),
        ([3, 24, 8, 8], [24, 24], [3, 3], 1, 1, [1; 4]),
        ([3, 40, 9, 9], [40, 40], [5, 5], 2, 1, [2; 4]),
        ([3, 7, 9, 9], [7, 7], [3, 3], 2, 1, [0, 0, 1, 1]),
        ([1, 5, 6, 6], [5, 5], [3, 3], 1, 2, [2; 4]),
    ];
    for (i, &(shape, [out, group], kernel, stride, dilation, pads)) in cases.iter().enumerate() {
        let each = shape[1] / group;
        let dims = [out as i64, each as i64, kernel[0], kernel[1]];
        let count = dims.iter().product::<i64>() as usize;
        let attributes = vec![
            attr_ints("kernel_shape", &kernel),
            attr_ints("strides", &[stride; 2]),
            attr_ints("dilations", &[dilation; 2]),
            attr_ints("pads", &pads),
            attr_int("group", group as i64),
        ];
        let mut nodes = vec![node("Conv", "conv", &["input", "w", "b"], &["s"], attributes)];
        nodes.push(node("Relu", "relu", &["s"], &["y"], vec![]));
        let weights = vec![
            tensor("w", &dims, &noise(count, i as u32, 0.3)),
            tensor("b", &[out as i64], &noise(out, 9, 0.1)),
        ];
        let parts = network(nodes, weights, shape.map(|d| d as i64));
        check("Conv", &parts, shape, place.device(), 2e-5);
    }
}

#[test]
fn pools_functions_and_products() {
    let Some(place) = gpu() else { return };
    let window = |kernel: i64, stride: i64, pad: i64| {
        vec![
            attr_ints("kernel_shape", &[kernel; 2]),
            attr_ints("strides", &[stride; 2]),
            attr_ints("pads", &[pad; 4]),
        ]
    };
    let with = |mut attributes: Vec<Msg>, more: Msg| {
        attributes.push(more);
        attributes
    };
    let one: Vec<(&str, Vec<Msg>)> = vec![
        ("MaxPool", window(2, 2, 0)),
        ("MaxPool", window(3, 2, 1)),
        ("MaxPool", with(window(3, 2, 0), attr_int("ceil_mode", 1))),
        ("MaxPool", with(window(2, 1, 0), attr_ints("dilations", &[2; 2]))),
        ("AveragePool", window(4, 4, 0)),
        ("AveragePool", window(3, 2, 1)),
        ("AveragePool", with(window(3, 2, 1), attr_int("count_include_pad", 1))),
        ("AveragePool", with(window(3, 2, 0), attr_int("ceil_mode", 1))),
        ("GlobalAveragePool", vec![]),
        ("GlobalMaxPool", vec![]),
        ("Relu", vec![]),
        ("LeakyRelu", vec![attr_float("alpha", 0.1)]),
        ("HardSwish", vec![]),
        ("HardSigmoid", vec![attr_float("alpha", 0.3), attr_float("beta", 0.4)]),
        ("Sigmoid", vec![]),
        ("Tanh", vec![]),
        ("Gelu", vec![]),
        // no kernel of its own: goes to the processor and back
        ("Softplus", vec![]),
        ("Elu", vec![]),
    ];
    for (op, attributes) in one {
        for shape in [[3, 5, 11, 9], [2, 32, 8, 8]] {
            let parts = network(
                vec![node(op, "n", &["input"], &["y"], attributes.clone())],
                vec![],
                shape.map(|d| d as i64),
            );
            check(op, &parts, shape, place.device(), 2e-5);
        }
    }
    // squeeze and excite
    for shape in [[3usize, 6, 7, 5], [2, 32, 8, 8]] {
        let c = shape[1] as i64;
        let nodes = vec![
            node("HardSwish", "a", &["input"], &["x"], vec![]),
            node("GlobalAveragePool", "gap", &["x"], &["g"], vec![]),
            node("Conv", "fc", &["g", "w"], &["f"], vec![attr_ints("kernel_shape", &[1, 1])]),
            node("HardSigmoid", "h", &["f"], &["s"], vec![]),
            node("Mul", "m", &["x", "s"], &["y"], vec![]),
        ];
        let weights = vec![tensor("w", &[c, c, 1, 1], &noise((c * c) as usize, 5, 0.5))];
        check(
            "squeeze and excite",
            &network(nodes, weights, shape.map(|d| d as i64)),
            shape,
            place.device(),
            2e-5,
        );
    }
    // BatchNormalization before a Relu, a residual sum, a reshape
    for shape in [[3usize, 6, 7, 5], [2, 32, 8, 8]] {
        let c = shape[1];
        let vector = |name: &str, seed: u32, least: f32| {
            tensor(name, &[c as i64], &noise(c, seed, 0.3).iter().map(|v| v + least).collect::<Vec<_>>())
        };
        let conv = || vec![attr_ints("kernel_shape", &[3, 3]), attr_ints("pads", &[1; 4])];
        let norm = |name: &str, from: &str, to: &str| {
            node("BatchNormalization", name, &[from, "g", "b", "m", "v"], &[to], vec![])
        };
        let nodes = vec![
            norm("n1", "input", "a"),
            node("Relu", "r1", &["a"], &["ar"], vec![]),
            node("Conv", "c1", &["ar", "w"], &["c"], conv()),
            norm("n2", "c", "d"),
            node("Relu", "r2", &["d"], &["dr"], vec![]),
            node("Conv", "c2", &["dr", "w"], &["e"], conv()),
            node("Add", "sum", &["e", "input"], &["f"], vec![]),
            norm("n3", "f", "h"),
            node("Relu", "r3", &["h"], &["hr"], vec![]),
            node("Conv", "c3", &["hr", "w"], &["k"], conv()),
            node("Add", "sum2", &["k", "f"], &["l"], vec![]),
            node("Relu", "r4", &["l"], &["m1"], vec![]),
            node("Transpose", "t", &["m1"], &["y"], vec![attr_ints("perm", &[0, 2, 1, 3])]),
        ];
        let dims = [c as i64, c as i64, 3, 3];
        let weights = vec![
            tensor("w", &dims, &noise(c * c * 9, 5, 0.2)),
            vector("g", 1, 1.0),
            vector("b", 2, 0.0),
            vector("m", 3, 0.0),
            vector("v", 4, 0.8),
        ];
        check(
            "residual blocks",
            &network(nodes, weights, shape.map(|d| d as i64)),
            shape,
            place.device(),
            5e-5,
        );
    }
}

/// What has no kernel is named, on a GPU alone.
#[test]
fn operators_that_run_on_the_processor_are_named() {
    let Some(place) = gpu() else { return };
    let nodes = vec![
        node("Conv", "conv", &["input", "w"], &["c"], vec![attr_ints("pads", &[1; 4])]),
        node("Elu", "elu", &["c"], &["e"], vec![]),
        node("Conv", "conv2", &["e", "w2"], &["y"], vec![attr_ints("pads", &[1; 4])]),
    ];
    let weights = vec![
        tensor("w", &[6, 3, 3, 3], &noise(162, 4, 0.3)),
        tensor("w2", &[6, 6, 3, 3], &noise(324, 5, 0.3)),
    ];
    let model = Model::from_bytes(network(nodes, weights, [1, 3, 8, 8]).bytes(), "test.onnx", None).unwrap();
    let lowered = Graph::lower(&model, &[1, 3, 8, 8]).unwrap();
    let at = site::resolve(&model, &lowered, Some("c")).unwrap().place;
    let mut network = Network::new(&model, [3, 8, 8], at, End::Output).unwrap();
    assert_eq!(network.on_processor(), []);
    network.place_on(place.device());
    assert_eq!(network.on_processor(), [("elu".to_string(), "Elu")]);
}

/// The fixture, and what POLARIZER_MODELS holds.
fn models() -> Vec<Model> {
    let mut paths = vec![std::path::PathBuf::from(
        std::env::var("POLARIZER_FIXTURE")
            .unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/model.onnx").into()),
    )];
    if let Some(folder) = std::env::var_os("POLARIZER_MODELS") {
        let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        paths.extend(entries.filter(|p| p.extension().is_some_and(|e| e == "onnx")));
    }
    paths.iter().map(|p| Model::read(p).unwrap()).collect()
}

fn images(n: usize) -> Vec<f32> {
    noise(n * 3072, 77, 0.5).iter().map(|v| v + 0.5).collect()
}

fn normalisation() -> Normalisation {
    Normalisation { mean: vec![0.5; 3], std: vec![0.25; 3] }
}

#[test]
fn whole_networks_either_way() {
    let Some(place) = gpu() else { return };
    for model in models() {
        let n = 16;
        let lowered = Graph::lower(&model, &[n, 3, 32, 32]).unwrap();
        let x = Tensor::from_vec(images(n), (n, 3, 32, 32), &Device::Cpu).unwrap();
        let x = normalisation().apply(&x).unwrap();
        // a mask that flips where a sum is as good as 0 changes a gradient by more than rounding
        for (precision, values, gradients) in
            [(Precision::F32, 1e-5, 3e-2), (Precision::Tf32, 5e-2, 0.3), (Precision::Bf16, 0.2, 1.0)]
        {
            let graph = lowered.lower_in(&model, n, precision).unwrap();
            let [y, dx] = compare(&graph.segment(graph.logits()).unwrap(), &x, place.device());
            let said = format!("{} in {}: {y:.1e} forward, {dx:.1e} back", model.name(), precision.name());
            println!("{said}");
            assert!(y <= values && dx <= gradients, "{said}");
        }
    }
}

#[test]
fn a_tape_of_chosen_images_is_the_tape_of_these() {
    let Some(place) = gpu() else { return };
    for model in models() {
        let lowered = Graph::lower(&model, &[1, 3, 32, 32]).unwrap();
        let at = site::resolve(&model, &lowered, None).unwrap().place;
        let mut network = Network::new(&model, [3, 32, 32], at, End::Logits).unwrap();
        network.place_on(place.device());
        let x = Tensor::from_vec(images(24), (24, 3, 32, 32), &Device::Cpu).unwrap();
        let x = normalisation().apply(&x.to_device(place.device()).unwrap()).unwrap();
        let first = network.prefix(&x.narrow(0, 0, 16).unwrap(), true).unwrap();
        let second = network.prefix(&x.narrow(0, 16, 8).unwrap(), true).unwrap();
        let mut tapes = first.1.unwrap();
        tapes.extend(second.1.unwrap());
        let rows = [20usize, 3, 17, 3];
        let chosen = tapes.gather(&rows, 256, place.device()).unwrap();
        let index = Tensor::new(rows.map(|r| r as u32).as_slice(), place.device()).unwrap();
        let (values_there, direct) =
            network.prefix(&x.contiguous().unwrap().index_select(&index, 0).unwrap(), true).unwrap();
        let grads = || polarizer::internals::network::CutGradients {
            edge: Some(values_there.edge.clone()),
            crossing: values_there.crossing.iter().cloned().map(Some).collect(),
        };
        let one = network.prefix_gradient(&chosen, grads()).unwrap().unwrap();
        let other = network.prefix_gradient(&direct.unwrap(), grads()).unwrap().unwrap();
        // masks of convolutions in batches of other sizes may differ where a sum is as good as 0
        let off = apart(&one, &other);
        println!("{}: {off:.1e}", model.name());
        assert!(off < 1e-3);
    }
}

/// Values (N, C, H, W) of a site.
fn at_a_site(n: usize, c: usize, seed: u32) -> Tensor {
    let rows = noise(n * c * 20, seed, 2.0);
    // channels that hang together, so that there are components
    let mixed: Vec<f32> =
        rows.iter().enumerate().map(|(i, v)| v + 0.5 * rows[i / c * c + (i * 7) % c]).collect();
    Tensor::from_vec(mixed, (n, 4, 5, c), &Device::Cpu).unwrap().permute((0, 3, 1, 2)).unwrap()
}

/// Answers, gradients and steps of both layers: on the processor by candle's graph, on a GPU written out.
#[test]
fn layers_and_their_steps() {
    let Some(place) = gpu() else { return };
    let there = |t: &Tensor| array::to_device(t, place.device()).unwrap();
    let (v, dy) = (at_a_site(6, 12, 1), at_a_site(6, 12, 2));
    let near = |what: &str, a: &Tensor, b: &Tensor, within: f64| {
        let off = apart(a, b);
        println!("{what}: {off:.1e}");
        assert!(off <= within, "{what}: {off:.1e}");
    };

    // in training mode, and the running statistics that come of it
    let matrix = Tensor::from_vec(noise(144, 5, 0.5), (12, 12), &Device::Cpu).unwrap();
    let vector = |seed, least: f32| {
        let values: Vec<f32> = noise(12, seed, 0.3).iter().map(|v| v + least).collect();
        Tensor::from_vec(values, 12, &Device::Cpu).unwrap()
    };
    let parts = [matrix, vector(6, 1.0), vector(7, 0.0), vector(8, 0.0), vector(9, 1.0)];
    let polarizer = |on: &dyn Fn(&Tensor) -> Tensor| {
        let [w, scale, bias, mean, var] = parts.each_ref().map(on);
        Polarizer::from_parts(&w, &scale, &bias, &mean, &var).unwrap()
    };
    let (one, other) = (polarizer(&Tensor::clone), polarizer(&there));
    let mut steps = [(); 2].map(|()| Optimizer::Sgd(Sgd::new(0.01, 0.9, 5e-4)));
    for step in 0..3 {
        let (pass, pass_there) = (one.forward_train(&v).unwrap(), other.forward_train(&there(&v)).unwrap());
        near("trained forward", &pass_there.output, &pass.output.detach(), 1e-5);
        let gradients = one.gradients(&pass, &dy).unwrap();
        let gradients_there = other.gradients(&pass_there, &there(&dy)).unwrap();
        for (a, b) in gradients_there.iter().zip(&gradients) {
            near("trained back", a, b, 1e-4);
        }
        // and as it is frozen
        let near_folded = |one: &dyn Trainable, other: &dyn Trainable, [a, b]: &mut [Optimizer; 2]| {
            let (folded, folded_there) = (one.fold().unwrap(), other.fold().unwrap());
            near(
                "folded forward",
                &folded_there.forward(&there(&v)).unwrap(),
                &folded.forward(&v).unwrap(),
                1e-5,
            );
            let sums = |v: &Tensor, dy: &Tensor| {
                let mut sums = FoldedGradients::default();
                sums.add(v, dy).unwrap();
                sums.add(dy, v).unwrap();
                sums
            };
            let gradients = one.unfold(&folded, sums(&v, &dy)).unwrap();
            let gradients_there = other.unfold(&folded_there, sums(&there(&v), &there(&dy))).unwrap();
            for (x, y) in gradients_there.iter().zip(&gradients) {
                near("folded back", x, y, 1e-4);
            }
            a.step(one.trained(), &gradients).unwrap();
            b.step(other.trained(), &gradients_there).unwrap();
            for (x, y) in other.trained().into_iter().zip(one.trained()) {
                near("stepped", x.as_tensor(), &y.as_detached_tensor(), 1e-4);
            }
        };
        near_folded(&one, &other, &mut steps);
        if step > 0 {
            continue;
        }
        let components = Components::of(&v).unwrap();
        near_folded(
            &Principal::new(&components, 4, &Device::Cpu).unwrap(),
            &Principal::new(&components, 4, place.device()).unwrap(),
            &mut [(); 2].map(|()| Optimizer::Adam(Adam::new(0.01))),
        );
        let again = Components::of(&there(&v)).unwrap();
        assert_eq!(again.most(), components.most());
    }
    let (a, b) = (other.export().unwrap(), one.export().unwrap());
    let off = a.mean.iter().zip(&b.mean).chain(a.var.iter().zip(&b.var)).map(|(a, b)| (a - b).abs());
    assert!(off.fold(0f32, f32::max) < 1e-4, "running statistics");
}

/// A training of a few steps with either adversary: the same losses as on the processor.
#[test]
fn trainings() {
    let Some(place) = gpu() else { return };
    for model in models() {
        let lowered = Graph::lower(&model, &[1, 3, 32, 32]).unwrap();
        let at = site::resolve(&model, &lowered, None).unwrap().place;
        let mut principal = Settings::principal();
        (principal.start, principal.min_steps) = (Start::Principal { rank: Some(4) }, None);
        let mut any_target = principal.clone();
        any_target.targets = Targets::Random;
        let recipes = [
            ("published", Settings::published()),
            ("principal, any target", any_target),
            ("principal", principal),
        ];
        for (name, mut settings) in recipes {
            let count = 96;
            let pixels = polarizer::data::Pixels::F32(images(count));
            let labels: Vec<u32> = (0..count as u32).map(|i| i % 10).collect();
            (settings.epochs, settings.batch, settings.precision) = (2, 32, Some(Precision::F32));
            if let Start::Whitening { warmup, .. } = &mut settings.start {
                *warmup = 1;
            }
            if let AdversaryKind::Pixel { stop_share, .. } = &mut settings.adversary {
                *stop_share = None;
            }
            let run = |place: Place| {
                let subject = Subject {
                    model: &model,
                    lowered: None,
                    place: at.clone(),
                    image: [3, 32, 32],
                    normalisation: normalisation(),
                    clean: Samples { pixels: &pixels, labels: Some(&labels) },
                    held_out: None,
                };
                let options = Options { place, ..Options::default() };
                Trainer::prepare(subject, settings.clone(), &options, &mut ())
                    .unwrap()
                    .train(&mut ())
                    .unwrap()
            };
            let (here, there, again) = (run(Place::default()), run(place.clone()), run(place.clone()));
            // what is measured goes by signs of gradients, so rounding alone moves it; and where the targets are drawn
            // by it, a draw that turns is one of the batch's losses
            let scores = [&here, &there].map(|t| t.findings.as_ref().map(|s| s.scores.clone()));
            let measured = scores.iter().any(Option::is_some);
            if let [Some(here), Some(there)] = &scores {
                println!("{} {name}: classes {here:.3?} here, {there:.3?} there", model.name());
                assert!(here.iter().zip(there).all(|(a, b)| (a - b).abs() <= 0.5));
            }
            for (a, b) in here.epochs.iter().zip(&there.epochs) {
                println!("{} {name}: loss {:.5} here, {:.5} there", model.name(), a.loss, b.loss);
                assert!((a.first_loss - b.first_loss).abs() <= 5e-2 * a.first_loss.abs());
            }
            let first = |t: &polarizer::internals::train::Trained| t.epochs[0].first_loss;
            let within = if measured { 5e-2 } else { 1e-3 };
            assert!((first(&here) - first(&there)).abs() <= within * first(&here).abs());
            assert_eq!(there.layer, again.layer, "not the same bytes twice");
        }
    }
}

#[test]
fn matrices_and_images_of_more_rows_than_a_grid_has() {
    let Some(place) = gpu() else { return };
    // no multiple of 32: one element a thread
    let (rows, columns) = (70_001, 6);
    let matrix = Tensor::from_vec(noise(rows * columns, 5, 1.0), (rows, columns), &Device::Cpu).unwrap();
    let more = Tensor::from_vec(noise(columns, 6, 1.0), columns, &Device::Cpu).unwrap();
    let expected = matrix.broadcast_add(&more).unwrap();
    let [there, more] = [&matrix, &more].map(|t| t.to_device(place.device()).unwrap());
    assert_eq!(values(&array::add_columns(&there, &more).unwrap()), values(&expected));
    let there = Array::from_tensor(&there).unwrap();
    let order: Vec<usize> = (0..rows).rev().collect();
    let turned: Vec<f32> = values(&matrix).chunks(columns).rev().flatten().copied().collect();
    assert_eq!(values(there.select(&order).unwrap().tensor()), turned);
}

#[test]
fn values_at_an_odd_address() {
    let Some(place) = gpu() else { return };
    // 315 floats an image, channels-last: the second one does not lie at a multiple of 16 bytes, even where 32 of them
    // could be taken in fours
    let convolution = node("Conv", "conv", &["input", "w"], &["y"], vec![attr_ints("pads", &[1; 4])]);
    let weights = tensor("w", &[6, 5, 3, 3], &noise(270, 4, 0.3));
    let relu = node("Relu", "relu", &["input"], &["y"], vec![]);
    for (what, node, weights, images) in
        [("Conv", convolution, vec![weights], 2), ("Relu", relu, Vec::new(), 32)]
    {
        let shape = [images, 5, 9, 7];
        let parts = network(vec![node], weights, shape.map(|d| d as i64));
        let graph = graph(&parts, &shape, Precision::F32);
        let segment = graph.segment(graph.output()).unwrap();
        let more = images + 1;
        let rows = Tensor::from_vec(noise(more * 315, 7, 2.0), (more, 9, 7, 5), &Device::Cpu).unwrap();
        let run = |rows: Tensor| {
            let x = rows.permute((0, 3, 1, 2)).unwrap().narrow(0, 1, images).unwrap();
            segment.run(&[x], None).unwrap().remove(0)
        };
        let off = apart(&run(rows.to_device(place.device()).unwrap()), &run(rows));
        assert!(off < 2e-5, "{what}: {off:.1e}");
    }
}
