//! What two right runtimes may differ by is measured, and where that is so much that outputs prove nothing, parts of the
//! network are compared: what is right passes, what is changed is found, on well and on badly conditioned networks.

mod common;
#[path = "common/onnx_builder.rs"]
mod onnx_builder;

use std::path::Path;

use onnx_builder::{
    Msg, Parts, attr_int, attr_ints, attr_tensor, attr_text, node, noise, residual, tensor, value_info,
};
use polarizer::{
    Error,
    internals::{
        layer::{self, Layer},
        site::SitePlace,
        verify::{
            Fed, Form, Judge, Monitor, bundle,
            diff::structural_diff,
            parity::compare,
            pieces::{Apart, Claim, Fault, Parted, Piece},
            reference::Reference,
            rounding::{CEILING, FLOOR},
        },
    },
    onnx::Model,
    pipeline::{self, Job, JudgeChoice, RunOptions},
    rewrite::{Provenance, insert},
};

/// Blocks of [`folding`]: 1.9^32 is 8e8.
const BLOCKS: usize = 32;

/// A deep network that makes 1.9 times as much of a difference in every block: input (N, 3, 8, 8), output (N, 5).
/// A block is `expand` (Conv, doubles the channels), `norm` (BatchNormalization, variances of 1e-6), `bend` (Relu) and
/// `fold` (Conv), together x -> 1.9 x - 3.8 max(0, x - 0.5), which keeps values within [0, 1].
fn folding() -> Parts {
    let one = || vec![attr_ints("kernel_shape", &[1, 1])];
    let mut parts = residual();
    parts.nodes = vec![node("Conv", "stem", &["input", "w"], &["x0"], one())];
    parts.initializers = vec![
        tensor("w", &[4, 3, 1, 1], &noise(12, 1, 0.1).iter().map(|v| 1.0 / 3.0 + v).collect::<Vec<_>>()),
        tensor("head_w", &[5, 4], &noise(20, 2, 1.0)),
        tensor("head_b", &[5], &noise(5, 3, 0.1)),
        tensor("scale", &[8], &[1e-3; 8]),
        tensor("bias", &[8], &[0.0; 8]),
        tensor("mean", &[8], &[0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5]),
        tensor("var", &[8], &[1e-6; 8]),
    ];
    let small = || vec![Msg::new().text(1, "epsilon").float(2, 1e-12).int(20, 1)];
    for block in 0..BLOCKS {
        let name = |part: &str| format!("{part}{block}");
        // channel c is read by c and c + 4; what leaves goes to the next channel
        let both: Vec<f32> = (0..32).map(|i| f32::from(u8::from(i / 4 % 4 == i % 4))).collect();
        let fold = |i: usize| match (i / 8, i % 8) {
            (to, from) if from % 4 == (to + 1) % 4 => {
                if from < 4 {
                    1.9
                } else {
                    -3.8
                }
            }
            _ => 0.0,
        };
        let fold: Vec<f32> = (0..32).map(fold).collect();
        let to = format!("x{}", block + 1);
        parts.initializers.push(tensor(&name("both"), &[8, 4, 1, 1], &both));
        parts.initializers.push(tensor(&name("folds"), &[4, 8, 1, 1], &fold));
        let stats = [&*name("e"), "scale", "bias", "mean", "var"];
        parts.nodes.extend([
            node("Conv", &name("expand"), &[&name("x"), &name("both")], &[&name("e")], one()),
            node("BatchNormalization", &name("norm"), &stats, &[&name("n")], small()),
            node("Relu", &name("bend"), &[&name("n")], &[&name("r")], vec![]),
            node("Conv", &name("fold"), &[&name("r"), &name("folds")], &[&to], one()),
        ]);
    }
    let last = format!("x{BLOCKS}");
    parts.nodes.extend([
        node("GlobalAveragePool", "pool", &[&last], &["g"], vec![]),
        node("Flatten", "flat", &["g"], &["h"], vec![attr_int("axis", 1)]),
        node("Gemm", "head", &["h", "head_w", "head_b"], &["logits"], vec![attr_int("transB", 1)]),
    ]);
    parts
}

fn model(bytes: Vec<u8>, name: &str) -> Model {
    Model::from_bytes(bytes, name, None).unwrap()
}

/// Close to the identity.
fn layer() -> Layer {
    let weight = noise(16, 7, 0.01).into_iter().enumerate().map(|(i, v)| v + f32::from(u8::from(i % 5 == 0)));
    Layer {
        channels: 4,
        weight: weight.collect(),
        scale: vec![0.9, 0.8, 0.9, 0.8],
        bias: vec![0.01; 4],
        mean: vec![0.0; 4],
        var: vec![1.0; 4],
        epsilon: 1e-5,
    }
}

fn place(block: usize) -> SitePlace {
    SitePlace::Value { name: format!("x{block}") }
}

/// `original` with the layer at `place`.
fn with_layer(original: &Model, place: &SitePlace) -> Vec<u8> {
    with(original, place, &layer())
}

fn with(original: &Model, place: &SitePlace, layer: &Layer) -> Vec<u8> {
    let site = match place {
        SitePlace::Edge { node, input } => format!("node:{}:{input}", original.nodes()[*node].name),
        SitePlace::Value { name } => format!("value:{name}"),
    };
    insert(original, place, layer, &Provenance::new(site, Vec::new())).unwrap()
}

/// Pixels from 0 to 1.
fn images(n: usize) -> Vec<f32> {
    noise(n * 192, 9, 0.5).iter().map(|v| v + 0.5).collect()
}

fn judge(bytes: &[u8]) -> Judge<'static> {
    Judge::load(bytes, Fed { free_batch: true, ..Fed::of([4, 3, 8, 8]) }).unwrap()
}

/// Takes `judged` apart, which should be `original` with the layer at `layered`.
fn proved(original: &Model, judged: &Model, layered: Option<&SitePlace>) -> Result<Vec<Piece>, Fault> {
    let network = Reference::new(original, [3, 8, 8], &candle_core::Device::Cpu).unwrap();
    let layer = layer();
    let layer = layered.map(|place| (place, &layer));
    let judge = judge(judged.bytes());
    Apart::new(Claim { file: judged, network: &network, layer }, &judge, &images(4)).unwrap().prove()
}

/// Where they part.
fn parted(result: Result<Vec<Piece>, Fault>) -> Parted {
    match result {
        Err(Fault::Parted(parted)) => *parted,
        Err(Fault::Error(e)) => panic!("{e}"),
        Ok(pieces) => panic!("it passes: {pieces:?}"),
    }
}

fn verified(original: &Model, bytes: &[u8]) -> Result<pipeline::Verified, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purified.onnx");
    std::fs::write(&path, bytes).unwrap();
    pipeline::verify(&Job::new(original), &path, 64, &RunOptions::default(), &mut ())
}

#[test]
fn a_well_conditioned_network_is_proved_by_its_outputs() {
    let original = model(residual().bytes(), "residual.onnx");
    let site = SitePlace::Value { name: "a".into() };
    let verification = verified(&original, &with_layer(&original, &site)).unwrap().verification;
    println!("{verification:#?}");
    let rounding = verification.rounding.unwrap();
    assert!(rounding.images == 8 && rounding.median < 1e-6, "{rounding:?}");
    assert!(verification.checks.iter().all(|check| check.allowed == FLOOR), "{verification:?}");
    assert!(verification.pieces.is_empty());
    // the same by parts
    let purified = model(with_layer(&original, &site), "purified.onnx");
    let pieces = proved(&original, &purified, Some(&site)).unwrap_or_else(|_| panic!("it does not pass"));
    assert_eq!(pieces.len(), 3, "{pieces:?}");
}

#[test]
fn a_badly_conditioned_network_is_proved_by_its_parts() {
    let original = model(folding().bytes(), "folding.onnx");
    let purified = with_layer(&original, &place(BLOCKS / 2));
    let verification = verified(&original, &purified).unwrap().verification;
    println!("{verification:#?}");
    assert!(verification.max_difference.unwrap() > CEILING, "{verification:?}");
    assert!(verification.rounding.unwrap().median > CEILING / 10.0, "{verification:?}");
    for check in ["parity-original", "parity-purified"] {
        let pieces: Vec<_> = verification.pieces.iter().filter(|piece| piece.check == check).collect();
        assert!(pieces.len() >= 2, "{pieces:?}");
        assert!(pieces.iter().all(|piece| piece.max_difference <= piece.allowed && piece.allowed <= CEILING));
    }
    // without a gap: each starts where the one before it ends
    let of: Vec<_> = verification.pieces.iter().filter(|p| p.check == "parity-purified").collect();
    assert!(of.windows(2).all(|pair| pair[0].to == pair[1].from), "{of:?}");
    assert_eq!((of[0].from.as_str(), of[of.len() - 1].to.as_str()), ("\"input\"", "\"logits\""));
}

/// A weight changed by a part in a thousand, an operator, and a layer other than the one declared.
#[test]
fn what_is_changed_is_found_in_a_badly_conditioned_network() {
    let original = model(folding().bytes(), "folding.onnx");
    let at = place(BLOCKS / 2);
    let changed = |change: &dyn Fn(&mut Parts)| {
        let mut parts = folding();
        change(&mut parts);
        model(parts.bytes(), "changed.onnx")
    };
    let block = 20;
    let weight = changed(&|parts| {
        let name = format!("folds{block}");
        let mut fold: Vec<f32> = (0..32)
            .map(|i| match (i / 8, i % 8) {
                (to, from) if from % 4 == (to + 1) % 4 => {
                    if from < 4 {
                        1.9
                    } else {
                        -3.8
                    }
                }
                _ => 0.0,
            })
            .collect();
        fold[1] *= 1.001;
        let end = parts.initializers.len();
        let index = end - 2 * (BLOCKS - block) + 1;
        parts.initializers[index] = tensor(&name, &[4, 8, 1, 1], &fold);
    });
    let found = parted(proved(&original, &weight, None));
    assert_eq!((found.value.as_str(), found.nodes.len()), ("x21", 1), "{}", found.text());
    assert!(found.text().contains("made by node \"fold20\" (Conv)"), "{}", found.text());

    let swapped = changed(&|parts| {
        parts.nodes[1 + 4 * block + 2] = node("LeakyRelu", "bend20", &["n20"], &["r20"], vec![]);
    });
    let found = parted(proved(&original, &swapped, None));
    assert_eq!(found.value, "r20", "{}", found.text());

    let mut other = layer();
    other.weight[1] += 0.01;
    let bytes = with(&original, &at, &other);
    let found = parted(proved(&original, &model(bytes, "purified.onnx"), Some(&at)));
    assert_eq!(found.value, "x16", "{}", found.text());
    assert_eq!(found.nodes.len(), 2, "{:?}", found.nodes);
}

#[test]
fn where_they_part_is_saved_for_a_bug_report_and_nothing_is_overwritten() {
    let original = model(residual().bytes(), "residual.onnx");
    let mut parts = residual();
    parts.nodes[2] = node(
        "Conv",
        "branch",
        &["a", "w1", "b1"],
        &["c"],
        vec![attr_ints("kernel_shape", &[3, 3]), attr_ints("pads", &[2, 1, 0, 1])],
    );
    let changed = model(parts.bytes(), "changed.onnx");
    let network = Reference::new(&original, [3, 8, 8], &candle_core::Device::Cpu).unwrap();
    let judge = judge(changed.bytes());
    let claim = Claim { file: &changed, network: &network, layer: None };
    let apart = Apart::new(claim, &judge, &images(2)).unwrap();
    for form in [Form::Plain, Form::Optimised] {
        let found = apart.parted(form).unwrap().unwrap();
        assert_eq!(found.value, "c", "{}", found.text());
    }
    let found = apart.parted(Form::Plain).unwrap().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let save = |to: &Path| bundle::save(to, "parity-original", judge.name(), &changed, &found);
    save(&folder.path().join("bundle")).unwrap();
    assert!(save(&folder.path().join("bundle")).is_err());
    let read = |name: &str| std::fs::read(folder.path().join("bundle").join(name)).unwrap();
    let about: serde_json::Value = serde_json::from_slice(&read("bundle.json")).unwrap();
    assert_eq!((about["value"].as_str(), about["inputs"][0]["value"].as_str()), (Some("c"), Some("a")));
    // the other branch reads "a" too, so it is no output of the part
    assert_eq!(about["expected"].as_array().unwrap().len(), 1);
    let npy = read("input-0.npy");
    assert_eq!((&npy[..6], npy.len() % 64), (&b"\x93NUMPY"[..], 0));
    let part = Model::from_bytes(read("part.onnx"), "part.onnx", None).unwrap();
    assert_eq!((part.nodes().len(), part.inputs().len()), (1, 1));
}

#[test]
fn what_outputs_disagree_on_is_named_in_the_error() {
    // what is not finite is never agreed on
    let original = model(residual().bytes(), "residual.onnx");
    let site = SitePlace::Value { name: "a".into() };
    let mut huge = layer();
    huge.scale = vec![f32::MAX; 4];
    let bytes = with(&original, &site, &huge);
    let e = verified(&original, &bytes).unwrap_err();
    assert_eq!(e.exit_code(), 1, "{e}");
    assert!(e.to_string().contains("they part at the value"), "{e}");
}

/// One image of one pixel where the last block begins: tract 0.23.9 cannot optimise a residual block behind a layer there.
#[test]
fn without_an_optimised_form_the_plain_one_judges() {
    let mut parts = residual();
    let conv = |stride, pad| {
        vec![
            attr_ints("kernel_shape", &[3, 3]),
            attr_ints("strides", &[stride; 2]),
            attr_ints("pads", &[pad; 4]),
        ]
    };
    parts.nodes[0] = node("Conv", "stem", &["input", "w0"], &["s"], conv(8, 1));
    let original = model(parts.bytes(), "pixel.onnx");
    let site = SitePlace::Edge { node: 2, input: 0 };
    let verification = verified(&original, &with_layer(&original, &site)).unwrap().verification;
    println!("{verification:#?}");
    assert!(verification.optimised_failed.is_some());
    assert!(verification.without_optimised().unwrap().contains("plain form judged alone"));
}

/// Bfloat16 weights, which tract 0.23.9 cannot read, against the same network with float weights in the executor.
#[test]
fn what_tract_cannot_read_is_judged_as_a_copy() {
    let halves = || noise(144, 2, 0.3).into_iter().map(half::bf16::from_f32);
    let in_half = |change: u8| {
        let mut bytes: Vec<u8> = halves().flat_map(half::bf16::to_le_bytes).collect();
        bytes.iter_mut().skip(1).step_by(18).for_each(|high| *high ^= change);
        let mut parts = residual();
        parts.initializers[1] =
            Msg::new().ints(1, &[4, 4, 3, 3]).int(2, 16).text(8, "w1 in half").bytes(9, &bytes);
        parts.nodes.insert(0, node("Cast", "widen", &["w1 in half"], &["w1"], vec![attr_int("to", 1)]));
        model(parts.bytes(), "half.onnx")
    };
    let mut parts = residual();
    let widened: Vec<f32> = halves().map(half::bf16::to_f32).collect();
    parts.initializers[1] = tensor("w1", &[4, 4, 3, 3], &widened);
    let original = model(parts.bytes(), "float.onnx");
    let file = in_half(0);
    assert_eq!(judge(file.bytes()).rewritten(), ["1 tensors and types BFLOAT16 as FLOAT"]);
    assert!(judge(original.bytes()).rewritten().is_empty());
    assert!(proved(&original, &file, None).is_ok());
    let found = parted(proved(&original, &in_half(0x80), None));
    assert_eq!(found.value, "c", "{}", found.text());
}

#[test]
fn without_a_judge_nothing_is_called_verified() {
    let original = model(residual().bytes(), "residual.onnx");
    let bytes = with_layer(&original, &SitePlace::Value { name: "a".into() });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purified.onnx");
    std::fs::write(&path, bytes).unwrap();
    let run = RunOptions { judge: JudgeChoice::None, ..RunOptions::default() };
    let verified = pipeline::verify(&Job::new(&original), &path, 8, &run, &mut ()).unwrap();
    assert!(!verified.verification.is_verified() && verified.verification.checks.is_empty());
    assert_eq!(verified.verification.structure.as_deref(), Some("as declared"));
    // who answers then is the executor
    let network = Reference::new(&original, [3, 8, 8], &candle_core::Device::Cpu).unwrap();
    let ours = network.outputs(None, &images(3), 3, &Monitor::default()).unwrap();
    let judge = Judge::unjudged(network);
    assert_eq!((judge.outputs(), judge.judges()), (5, false));
    assert_eq!(judge.logits(&images(3), 3).unwrap(), ours);
}

/// Runs where `ORT_DYLIB_PATH` names onnxruntime's library.
#[test]
fn onnxruntime_judges_beside_tract() {
    if std::env::var_os("ORT_DYLIB_PATH").is_none() {
        println!("ORT_DYLIB_PATH is not set");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purified.onnx");
    let run = RunOptions { judge: JudgeChoice::OnnxRuntime, ..RunOptions::default() };
    for (parts, site) in [(residual(), "a"), (folding(), "x16")] {
        let original = model(parts.bytes(), "original.onnx");
        std::fs::write(&path, with_layer(&original, &SitePlace::Value { name: site.into() })).unwrap();
        let verification =
            pipeline::verify(&Job::new(&original), &path, 32, &run, &mut ()).unwrap().verification;
        println!("{verification:#?}");
        assert_eq!(verification.judges, ["tract", "onnxruntime"]);
        let asked = |name: &str| verification.checks.iter().any(|check| check.name == name);
        assert!(asked("parity-original-onnxruntime") && asked("parity-purified-onnxruntime-optimised"));
        if site == "x16" {
            assert!(verification.pieces.iter().any(|piece| piece.check == "parity-purified-onnxruntime"));
        }
    }
    // a changed weight is found by it too
    let original = model(residual().bytes(), "residual.onnx");
    let mut parts = residual();
    parts.initializers[2] = tensor("b1", &[4], &noise(4, 99, 0.1));
    let changed = model(parts.bytes(), "changed.onnx");
    let network = Reference::new(&original, [3, 8, 8], &candle_core::Device::Cpu).unwrap();
    let both = Judge::load_in_both(changed.bytes(), None, Fed::of([2, 3, 8, 8])).unwrap();
    let judge = both.all().last().unwrap();
    assert_eq!(judge.name(), "onnxruntime");
    let claim = Claim { file: &changed, network: &network, layer: None };
    let found = Apart::new(claim, judge, &images(2)).unwrap().parted(Form::Plain).unwrap().unwrap();
    assert_eq!(found.value, "c", "{}", found.text());
}

/// A layer on values whose channels come last, a MatMul and an Add: its parts start and end in the file's own shapes.
#[test]
fn a_layer_on_values_with_channels_last_is_compared_in_parts() {
    let mut parts = residual();
    let perm = |to: &[i64]| vec![attr_ints("perm", to)];
    parts.nodes.splice(
        2..6,
        [
            node("Transpose", "last", &["a"], &["t"], perm(&[0, 2, 3, 1])),
            node("MatMul", "dense", &["t", "m"], &["u"], vec![]),
            node("Relu", "bend", &["u"], &["v"], vec![]),
            node("Transpose", "first", &["v"], &["f"], perm(&[0, 3, 1, 2])),
        ],
    );
    parts.initializers.push(tensor("m", &[4, 4], &noise(16, 8, 1.0)));
    let original = model(parts.bytes(), "last.onnx");
    let site = SitePlace::Value { name: "t".into() };
    let told = Provenance::new("value:t", Vec::new()).in_form(layer::Form::MatMul);
    let bytes = insert(&original, &site, &layer::folded(&layer()), &told).unwrap();
    let purified = model(bytes.clone(), "purified.onnx");
    let declared = structural_diff(&original, &purified).unwrap();
    let network = Reference::new(&original, [3, 8, 8], &candle_core::Device::Cpu).unwrap();
    let judge = judge(&bytes);
    let prove = |layer: &Layer| {
        let claim = Claim { file: &purified, network: &network, layer: Some((&site, layer)) };
        Apart::new(claim, &judge, &images(3)).unwrap().prove()
    };
    let pieces = prove(&declared.layer).unwrap_or_else(|_| panic!("it does not pass"));
    assert_eq!(pieces.len(), 3, "{pieces:?}");
    let mut other = declared.layer.clone();
    other.weight[2] += 0.01;
    assert_eq!(parted(prove(&other)).nodes.len(), 2);
    assert!(verified(&original, &bytes).unwrap().verification.is_verified());
}

/// LpPool, which tract 0.23.9 does not have. Runs in part where `ORT_DYLIB_PATH` names onnxruntime's library.
#[test]
fn where_tract_cannot_read_a_file_it_says_so_and_onnxruntime_judges_alone() {
    let mut parts = residual();
    parts.nodes[6] = node("LpPool", "pool", &["f"], &["g"], vec![attr_ints("kernel_shape", &[8, 8])]);
    let e = Judge::load(&parts.bytes(), Fed::of([2, 3, 8, 8])).err().unwrap();
    assert_eq!(e.exit_code(), 1);
    assert!(e.to_string().contains("tract does not have the operator of node \"pool\" (LpPool)"), "{e}");
    if std::env::var_os("ORT_DYLIB_PATH").is_none() {
        return;
    }
    let judge = Judge::load_in_both(&parts.bytes(), None, Fed::of([2, 3, 8, 8])).unwrap();
    assert_eq!((judge.name(), judge.all().count(), judge.outputs()), ("onnxruntime", 1, 5));
    assert!(judge.unread().unwrap().contains("LpPool"));
    let [plain, fast] =
        [Form::Plain, Form::Optimised].map(|form| judge.logits_in(form, &images(3), 3).unwrap());
    assert_eq!(plain.len(), 3);
    assert!(compare(&plain, &fast, 1e-5).unwrap().holds(1e-5));
}

/// Upsample of 2x2 pixels by 3 in both of its forms, against its definition.
#[test]
fn upsample_is_judged_as_resize() {
    let nearest = |i: usize| (i / 3) as f32;
    // Upsample counts from a pixel's corner: at most the last pixel
    let linear = |i: usize| (i as f32 / 3.0).min(1.0);
    for (opset, mode, along) in
        [(9, "nearest", &nearest as &dyn Fn(usize) -> f32), (9, "linear", &linear), (8, "nearest", &nearest)]
    {
        let mut parts = residual();
        parts.opsets = vec![(String::new(), opset)];
        let scales = [1.0, 1.0, 3.0, 3.0];
        let mut attributes = vec![attr_text("mode", mode)];
        let mut inputs = vec!["input"];
        if opset == 9 {
            parts.initializers = vec![tensor("scales", &[4], &scales)];
            inputs.push("scales");
        } else {
            parts.initializers = vec![];
            attributes.push(Msg::new().text(1, "scales").floats(7, &scales).int(20, 6));
        }
        parts.inputs = vec![value_info("input", &[-1, 1, 2, 2])];
        parts.nodes = vec![
            node("Upsample", "up", &inputs, &["u"], attributes),
            node("Flatten", "flat", &["u"], &["logits"], vec![attr_int("axis", 1)]),
        ];
        parts.outputs = vec![value_info("logits", &[-1, 36])];
        let judge = Judge::load(&parts.bytes(), Fed::of([1, 1, 2, 2])).unwrap();
        assert_eq!(judge.rewritten(), ["1 Upsample as Resize"]);
        // pixels 0 1 / 2 3, so that a value is the place across plus twice the place down
        let expected: Vec<f32> = (0..36).map(|i| 2.0 * along(i / 6) + along(i % 6)).collect();
        for form in [Form::Plain, Form::Optimised] {
            let found = judge.logits_in(form, &[0.0, 1.0, 2.0, 3.0], 1).unwrap();
            assert!(
                compare(&found, &[expected.clone()], 1e-6).unwrap().max_difference < 1e-6,
                "{opset} {mode} {form:?}: {found:?}, expected {expected:?}"
            );
        }
    }
}

/// A function of the model, called twice, against the network without functions.
#[test]
fn functions_are_judged_inlined() {
    let mut parts = residual();
    for (at, name, from, to) in [(1, "act", "s", "a"), (3, "branch_act", "c", "d")] {
        parts.nodes[at] = node("Bend", name, &[from], &[to], vec![]).text(7, "own");
    }
    parts.opsets.push(("own".into(), 1));
    let inner = [
        node("Neg", "turn", &["x"], &["minus"], vec![]),
        node("Max", "most", &["x", "minus"], &["size"], vec![]),
        node("Add", "both", &["x", "size"], &["twice"], vec![]),
        node("Div", "half", &["twice", "two"], &["y"], vec![]),
        node("Constant", "two", &[], &["two"], vec![attr_tensor("value", tensor("", &[], &[2.0]))]),
    ];
    let order = [4, 0, 1, 2, 3].map(|at| inner[at].clone());
    let function = Msg::new()
        .text(1, "Bend")
        .text(4, "x")
        .text(5, "y")
        .msgs(7, order)
        .msg(9, Msg::new().text(1, "").int(2, 17))
        .text(10, "own");
    parts.model_extra = Msg::new().msg(25, function);
    let inlined = judge(&parts.bytes());
    assert_eq!(inlined.rewritten(), ["2 calls of model functions inlined"]);
    let found = inlined.logits(&images(4), 4).unwrap();
    let expected = judge(&residual().bytes()).logits(&images(4), 4).unwrap();
    assert!(compare(&found, &expected, 1e-6).unwrap().holds(1e-6));
    // a function that nothing defines is no operator of tract's
    parts.model_extra = Msg::new();
    let e = Judge::load(&parts.bytes(), Fed::of([1, 3, 8, 8])).err().unwrap().to_string();
    assert!(e.contains("node \"act\" (Bend of own)"), "{e}");
}
