//! Training computes what PyTorch computes: gradients of the layer and of the images, and the update rules, against
//! numbers made by tests/scripts/reference_gradients.py (its docstring says what each key holds); and single operators,
//! against those of tests/scripts/torch_operators.py.

mod common;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use polarizer::onnx::tensor::DataType;
use polarizer::{
    data::{self, Picture},
    internals::{
        kernels::{
            Precision,
            pixels::{Descent, Pixels},
        },
        network::{
            End, Logits, Network, Normalisation, Tapes,
            attack::{self, Pass},
        },
        ops::{self, Array, ConvCache, Input, Output, Run, Saved, Setting},
        site,
        train::{
            Sgd,
            gradients::{self, AdversarialPass, CleanPass, Outer},
            layer::{Gradients, Polarizer, Trainable as _},
        },
    },
    onnx::{
        Model,
        node::{Attribute, AttributeValue, Node},
    },
};
use safetensors::SafeTensors;
use serde_json::Value;

fn vectors(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

/// The script's numbers in [-1, 1) that both sides can make.
fn u(seed: u32, count: usize) -> Vec<f32> {
    let number = |i: u32| {
        let mut x = i.wrapping_add(0x9E37_79B9u32.wrapping_mul(seed));
        x ^= x >> 16;
        x = x.wrapping_mul(0x7FEB_352D);
        x ^= x >> 15;
        x = x.wrapping_mul(0x846C_A68B);
        x ^= x >> 16;
        (x >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count as u32).map(number).collect()
}

struct Stored<'a>(SafeTensors<'a>);

impl Stored<'_> {
    fn floats(&self, key: &str) -> Vec<f32> {
        let t = self.0.tensor(key).unwrap_or_else(|e| panic!("{key}: {e}"));
        assert_eq!(t.dtype(), safetensors::Dtype::F32, "{key}");
        t.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    fn ints(&self, key: &str) -> Option<Vec<usize>> {
        let t = self.0.tensor(key).ok()?;
        assert_eq!(t.dtype(), safetensors::Dtype::I64, "{key}");
        Some(t.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as usize).collect())
    }

    fn classes(&self, key: &str) -> Vec<u32> {
        self.ints(key).unwrap_or_else(|| panic!("{key}")).into_iter().map(|c| c as u32).collect()
    }
}

/// max |a - b| over the entries stored, as a share of the whole tensor's largest entry.
fn share(got: &[f32], want: &[f32], index: Option<&[usize]>, largest: f32) -> f64 {
    let at = |i: usize| index.map_or(i, |index| index[i]);
    assert!(index.is_some() || got.len() == want.len());
    let worst = want.iter().enumerate().map(|(i, w)| (got[at(i)] - w).abs()).fold(0f32, f32::max);
    f64::from(worst / largest)
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn logits_share(got: &Logits, want: &[f32]) -> f64 {
    let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    share(&got.values, want, None, largest)
}

fn check_layer(what: &str, got: &Gradients, stored: &Stored, within: f64) {
    for (name, tensor) in ["conv.weight", "bn.weight", "bn.bias"].into_iter().zip(got) {
        let key = format!("{what}.{name}");
        let index = stored.ints(&format!("{key}.index"));
        let largest = stored.floats(&format!("{key}.max"))[0];
        let s = share(&flat(tensor), &stored.floats(&format!("{key}.value")), index.as_deref(), largest);
        println!("{key}: {s:.2e} of the largest entry");
        assert!(s <= within, "{key}: {s:.2e} > {within:.0e}");
    }
}

/// Per image: stored entries against ours, as a share of the image's largest; images with norm below 1e-6 left out.
fn check_images(what: &str, got: &Tensor, stored: &Stored, within: f64) {
    let index = stored.ints(&format!("{what}.index")).unwrap();
    let (value, max, norm) = (
        stored.floats(&format!("{what}.value")),
        stored.floats(&format!("{what}.max")),
        stored.floats(&format!("{what}.norm")),
    );
    let mut shares: Vec<f64> = Vec::new();
    for (n, want) in value.chunks_exact(index.len()).enumerate() {
        if norm[n] < 1e-6 {
            continue;
        }
        shares.push(share(&flat(&got.get(n).unwrap()), want, Some(&index), max[n]));
    }
    shares.sort_by(f64::total_cmp);
    let worst = shares.last().copied().unwrap();
    println!(
        "{what}: worst image {worst:.2e}, median {:.2e}, {} images",
        shares[shares.len() / 2],
        shares.len()
    );
    assert!(worst <= within, "{what}: {worst:.2e} > {within:.0e}");
}

/// What each comparison may differ by, as a share of the largest entry.
struct Marks {
    warmup: f64,
    bilevel: f64,
    inner: [f64; 2],
}

fn compare(name: &str, marks: &Marks) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read(vectors(&format!("gradients-{name}.json"))).unwrap();
    let meta: Value = serde_json::from_slice(&text).unwrap();
    let bytes = std::fs::read(vectors(&format!("gradients-{name}.safetensors"))).unwrap();
    let stored = Stored(SafeTensors::deserialize(&bytes).unwrap());
    let model = Model::read(&root.join(meta["model"].as_str().unwrap())).unwrap();
    assert_eq!(model.sha256(), meta["sha256"].as_str().unwrap(), "the vectors belong to another file");
    let numbers = |key: &str| -> Vec<f32> {
        meta[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
    };
    let normalisation = Normalisation { mean: numbers("mean"), std: numbers("std") };

    let mut pixels = Vec::new();
    let mut shape = (0, 0);
    for file in meta["files"].as_array().unwrap() {
        let path = root.join(meta["folder"].as_str().unwrap()).join(file.as_str().unwrap());
        let picture = Picture::read(&path).unwrap();
        shape = (picture.size[0], picture.size[1]);
        let data::Pixels::U8(bytes) = picture.pixels else { panic!("decoded as floats") };
        pixels.extend(bytes.into_iter().map(|b| f32::from(b) / 255.0));
    }
    let (h, w) = shape;
    let n = meta["batch"].as_u64().unwrap() as usize;
    // Decoded as rows of (R, G, B): channels-last already.
    let x = Tensor::from_vec(pixels, (n, h, w, 3), &Device::Cpu).unwrap().permute((0, 3, 1, 2)).unwrap();

    let graph = polarizer::internals::graph::Graph::lower(&model, &[1, 3, h, w]).unwrap();
    let place = site::resolve(&model, &graph, Some(&format!("node:{}", meta["site"].as_str().unwrap())))
        .unwrap()
        .place;
    let mut network = Network::new(&model, [3, h, w], place, End::Logits).unwrap();
    let c = meta["channels"].as_u64().unwrap() as usize;
    let mut weight = u(1, c * c);
    weight.iter_mut().enumerate().for_each(|(i, v)| *v = f32::from(u8::from(i / c == i % c)) + 0.02 * *v);
    let scale: Vec<f32> = u(2, c).into_iter().map(|v| 1.0 + 0.1 * v).collect();
    let bias: Vec<f32> = u(3, c).into_iter().map(|v| 0.1 * v).collect();
    let vector = |v: Vec<f32>| Tensor::from_vec(v, c, &Device::Cpu).unwrap();
    let start = || {
        Polarizer::from_parts(
            &Tensor::from_slice(&weight, (c, c), &Device::Cpu).unwrap(),
            &vector(scale.clone()),
            &vector(bias.clone()),
            &vector(stored.floats("running_mean")),
            &vector(stored.floats("running_var")),
        )
        .unwrap()
    };
    let labels = stored.classes("labels");
    let number = |key: &str| meta[key].as_f64().unwrap();
    let near = |what: &str, got: f64, want: f64| {
        println!("{what}: {got:.6}, PyTorch {want:.6}");
        assert!((got - want).abs() <= 1e-4 * want.abs().max(1.0), "{what}: {got} instead of {want}");
    };

    // warm-up
    let (values, clean_tapes) = network.prefix(&normalisation.apply(&x).unwrap(), true).unwrap();
    let layer = start();
    let (loss, gradients) = gradients::warm_up_gradients(&mut network, &layer, &values, &labels).unwrap();
    near("warmup.loss", loss, number("warmup.loss"));
    check_layer("warmup", &gradients, &stored, marks.warmup);

    // inner steps, each from PyTorch's delta
    let layer = start();
    let folded = layer.fold().unwrap();
    let clean = attack::forward(&mut network, &folded, values).unwrap();
    let s = logits_share(&clean.logits, &stored.floats("logits"));
    println!("logits: {s:.2e}");
    assert!(s <= 1e-4);
    let targets = stored.classes("t");
    assert_eq!(clean.logits.likeliest_wrong(&labels), targets);
    assert_eq!(clean.logits.answers(), stored.classes("original"));
    let rho = number("rho") as f32;
    let tapes = clean_tapes.unwrap();
    // ours is by the normalised images
    let std = Tensor::from_vec(normalisation.std.clone(), (1, 3, 1, 1), &Device::Cpu).unwrap();
    let g = attack::input_gradient(&mut network, &folded, &clean, &tapes, &targets).unwrap().unwrap();
    let g = g.broadcast_div(&std).unwrap();
    check_images("inner1", &g, &stored, marks.inner[0]);

    let signs = stored.0.tensor("signs").unwrap().data().to_vec();
    let norms = stored.floats("norms");
    let per_image = 3 * h * w;
    let mut deltas = [vec![0f32; n * per_image], vec![0f32; n * per_image]];
    for i in 0..n * per_image {
        let (s1, s2) = (f32::from(signs[i] / 3) - 1.0, f32::from(signs[i] % 3) - 1.0);
        let project = |d: f32, norm: f32| if norm > rho { d * rho / norm } else { d };
        deltas[0][i] = project(-0.1 * s1, norms[2 * (i / per_image)]);
        deltas[1][i] = project(deltas[0][i] - 0.1 * s2, norms[2 * (i / per_image) + 1]);
    }
    let mut moved = |delta: &[f32]| -> (Tensor, Pass, Tapes) {
        let delta = Tensor::from_slice(delta, (n, 3, h, w), &Device::Cpu).unwrap();
        let moved = (x.contiguous().unwrap() + delta).unwrap();
        let clipped = moved.clamp(0f32, 1f32).unwrap();
        let (values, tapes) = network.prefix(&normalisation.apply(&clipped).unwrap(), true).unwrap();
        (moved, attack::forward(&mut network, &folded, values).unwrap(), tapes.unwrap())
    };
    let (unclipped, pass, tapes) = moved(&deltas[0]);
    let (_, attacked, _) = moved(&deltas[1]);
    let s = logits_share(&attacked.logits, &stored.floats("adversarial"));
    println!("adversarial: {s:.2e}");
    assert!(s <= 1e-4);
    let g = attack::input_gradient(&mut network, &folded, &pass, &tapes, &targets).unwrap().unwrap();
    let mut g = flat(&g.broadcast_div(&std).unwrap());
    for (g, v) in g.iter_mut().zip(flat(&unclipped)) {
        *g = if (0.0..=1.0).contains(&v) { *g } else { 0.0 };
    }
    let g = Tensor::from_vec(g, (n, 3, h, w), &Device::Cpu).unwrap();
    check_images("inner2", &g, &stored, marks.inner[1]);

    // the outer losses at PyTorch's delta2
    assert_eq!(attacked.logits.top_wrong(&labels), stored.classes("w"));
    let lambdas = [1.0, 0.4, 0.4, 0.4];
    let original = clean.logits.answers();
    let outer = Outer {
        clean: CleanPass { pass: &clean, labels: &labels, retained: None },
        attacked: Some(AdversarialPass { pass: &attacked, targets: &targets, original: &original }),
        lambdas,
        more: Default::default(),
    };
    let (losses, gradients) = gradients::outer_gradients(&mut network, &layer, &folded, outer).unwrap();
    for (loss, key) in losses.published.into_iter().zip(["l1", "l2", "l3", "l4"]) {
        near(key, loss, number(&format!("bilevel.{key}")));
    }
    check_layer("bilevel", &gradients, &stored, marks.bilevel);
}

#[test]
fn small_network() {
    compare("fixture", &Marks { warmup: 1e-4, bilevel: 1e-4, inner: [1e-4, 1e-4] });
}

#[test]
fn preactresnet18() {
    if common::shared("models/preactresnet18-badnets.onnx").is_some() {
        compare("preactresnet18", &Marks { warmup: 1e-4, bilevel: 1e-4, inner: [1e-4, 1e-4] });
    }
}

fn update_rule() -> Value {
    serde_json::from_slice(&std::fs::read(vectors("update_rule.json")).unwrap()).unwrap()
}

fn list(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// torch.optim.SGD with momentum and weight decay, four steps on given gradients.
#[test]
fn sgd() {
    let v = &update_rule()["sgd"];
    let size = v["size"].as_u64().unwrap() as usize;
    let tensor = |v: Vec<f32>| Tensor::from_vec(v, size, &Device::Cpu).unwrap();
    let trained = [0, 1, 2].map(|_| Var::from_tensor(&tensor(u(11, size))).unwrap());
    let mut sgd = Sgd::new(
        v["lr"].as_f64().unwrap(),
        v["momentum"].as_f64().unwrap(),
        v["weight_decay"].as_f64().unwrap(),
    );
    for (step, after) in v["after"].as_array().unwrap().iter().enumerate() {
        let g = tensor(u(12 + step as u32, size));
        let [a, b, c] = &trained;
        sgd.step([a, b, c], &[g.clone(), g.clone(), g]).unwrap();
        for var in &trained {
            for (got, want) in flat(var.as_tensor()).into_iter().zip(list(after)) {
                assert!((f64::from(got) - want).abs() <= 1e-6, "step {step}: {got} instead of {want}");
            }
        }
    }
}

/// Sign step and projection, two steps on given gradients: an image inside the ball, at 0, and outside.
#[test]
fn projection() {
    let v = &update_rule()["ball"];
    let shape: Vec<usize> = list(&v["shape"]).into_iter().map(|d| d as usize).collect();
    let per_image: usize = shape[1..].iter().product();
    let density = list(&v["density"]);
    let mut delta = vec![0f32; shape[0] * per_image];
    for step in 0..v["steps"].as_u64().unwrap() as usize {
        let (g, keep) = (u(20 + step as u32, delta.len()), u(30 + step as u32, delta.len()));
        let g: Vec<f32> = (g.into_iter().zip(keep).enumerate())
            .map(|(e, (g, keep))| if f64::from(keep) > density[e / per_image] { 0.0 } else { g })
            .collect();
        let (length, rho) = (v["step"].as_f64().unwrap() as f32, v["rho"].as_f64().unwrap() as f32);
        // in the middle of pixel space, where nothing is clipped
        let (kernel, middle) = (Pixels::new(per_image, &[0.0], &[1.0]), vec![0.5; delta.len()]);
        let to = Descent { step: length, radius: rho };
        kernel.descend(&middle, &g, to, &mut delta, &mut vec![0.0; middle.len()]);
        for (n, delta) in delta.chunks_exact(per_image).enumerate() {
            for (got, want) in delta.iter().zip(list(&v["first"][step][n])) {
                assert!(
                    (f64::from(*got) - want).abs() <= 1e-6,
                    "step {step} image {n}: {got} instead of {want}"
                );
            }
            let norm = delta.iter().map(|d| f64::from(*d).powi(2)).sum::<f64>().sqrt();
            let want = list(&v["sums"][step][n])[0];
            assert!(
                (norm - want).abs() <= 1e-6 * want.max(1.0),
                "step {step} image {n}: norm {norm}, not {want}"
            );
        }
    }
}

/// More than 60 % of the batch at its target ends the inner loop; exactly 60 % does not.
#[test]
fn early_stop() {
    for case in update_rule()["stop"].as_array().unwrap() {
        let classes = |key: &str| -> Vec<u32> { list(&case[key]).into_iter().map(|c| c as u32).collect() };
        let (answers, t) = (classes("answers"), classes("t"));
        let rows: Vec<f32> =
            answers.iter().flat_map(|&a| (0..3).map(move |k| f32::from(u8::from(k == a)))).collect();
        let z = Logits::new(Tensor::from_vec(rows, (answers.len(), 3), &Device::Cpu).unwrap()).unwrap();
        assert_eq!(z.share_answered(&t) > 0.6, case["stop"].as_bool().unwrap(), "{case}");
    }
}

/// The node of a case, its constants, and what each of its outputs becomes.
fn lowered(case: &Value) -> Vec<Run> {
    let shape = |v: &Value| list(v).into_iter().map(|d| d as usize).collect::<Vec<_>>();
    let (op, constants) = (case["op"].as_str().unwrap(), case["constants"].as_array().unwrap());
    let attribute = |(name, value): (&String, &Value)| Attribute {
        name: name.clone(),
        value: match value {
            Value::Array(_) => AttributeValue::Ints(list(value).into_iter().map(|v| v as i64).collect()),
            Value::String(text) => AttributeValue::String(text.as_bytes().to_vec()),
            Value::Number(n) if n.is_f64() => AttributeValue::Float(n.as_f64().unwrap() as f32),
            other => AttributeValue::Int(other.as_i64().unwrap()),
        },
    };
    let node = Node {
        name: case["name"].as_str().unwrap().to_owned(),
        op_type: op.to_owned(),
        domain: String::new(),
        inputs: (0..=constants.len()).map(|i| format!("i{i}")).collect(),
        outputs: (0..case["outputs"].as_array().unwrap().len()).map(|i| format!("y{i}")).collect(),
        attributes: case["attributes"].as_object().unwrap().iter().map(attribute).collect(),
    };
    let x = shape(&case["x"]["shape"]);
    let mut inputs = vec![Input::value(x.clone(), true, DataType::Float, ops::of_images(&x))];
    for constant in constants {
        let (values, shape) = (list(&constant["values"]), shape(&constant["shape"]));
        let t = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        let integers = constant["integers"].as_bool().unwrap();
        let t = t.to_dtype(if integers { DType::I64 } else { DType::F32 }).unwrap();
        inputs.push(Input::Constant(ops::array::canonical(&t).unwrap()));
    }
    let (opset, convs) = (case["opset"].as_i64().unwrap(), ConvCache::default());
    let setting = Setting { opset, batch: None, convs: &convs, precision: Precision::F32, stored: &|_| None };
    let outputs = ops::find("", op).unwrap().lower(&node, 0, inputs, &setting).unwrap();
    let run = |output| if let Output::Run(run) = output { run } else { panic!("{op}: a constant") };
    outputs.into_iter().map(run).collect()
}

/// Outputs and gradients of single operators.
#[test]
fn operators() {
    let cases: Value =
        serde_json::from_slice(&std::fs::read(vectors("torch_operators.json")).unwrap()).unwrap();
    let floats = |v: &Value| list(v).into_iter().map(|v| v as f32).collect::<Vec<f32>>();
    let largest = |v: &[f32]| v.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    for case in cases["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let array = |values: Vec<f32>, shape: &[usize]| {
            Array::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
        };
        let x_shape: Vec<usize> = list(&case["x"]["shape"]).into_iter().map(|d| d as usize).collect();
        let x = array(floats(&case["x"]["values"]), &x_shape);
        let mut dx = vec![0f32; x.len()];
        let (runs, wanted) = (lowered(case), case["outputs"].as_array().unwrap());
        assert_eq!(runs.len(), wanted.len(), "{name}");
        for (Run { shape, exec, .. }, want) in runs.into_iter().zip(wanted) {
            let mut kept = Saved::default();
            let y = exec.forward(vec![x.clone()], Some(&mut kept)).unwrap();
            assert_eq!(y.dims(), shape, "{name}");
            let want = floats(&want["values"]);
            let off = share(&flat(y.tensor()), &want, None, largest(&want));
            assert!(off <= 1e-6, "{name}: output {off:.2e} of the largest");
            let dy = (1..=y.len()).map(|i| if i % 2 == 1 { i as f32 } else { -(i as f32) }).collect();
            let back = exec.vjp(&kept, array(dy, &shape), &[true]).unwrap().remove(0).unwrap();
            dx.iter_mut().zip(flat(back.tensor())).for_each(|(sum, d)| *sum += d);
        }
        let want = floats(&case["dx"]);
        let off = share(&dx, &want, None, largest(&want));
        assert!(off <= 1e-6, "{name}: gradient {off:.2e} of the largest");
    }
}
