//! How far the training's bfloat16 lies from f32, on what the training takes from it: the values at the cut and the
//! signs of the adversary's gradient by the pixels.

use std::path::Path;

use candle_core::{Device, Tensor};
use polarizer::{
    data::{Folder, Preprocessing},
    internals::{
        graph::Graph,
        kernels::Precision,
        network::{AtCut, CutGradients, End, Network, Tapes, losses::adversary_objective},
        site,
    },
    onnx::Model,
};

/// Values at the cut, the adversary's gradient and the tapes behind it.
struct Pass {
    values: AtCut,
    gradient: Vec<f32>,
    tapes: Tapes,
}

fn pass(network: &mut Network<'_>, images: &Tensor, labels: &[u32], prefix: Option<&Tapes>) -> Pass {
    let (values, tapes) = network.prefix(images, true).unwrap();
    let tapes = tapes.unwrap();
    let (logits, after) = network.suffix(&values.edge, &values.crossing, true).unwrap();
    let loss = adversary_objective(&logits, &logits.likeliest_wrong(labels)).unwrap();
    let CutGradients { edge, crossing } = network.suffix_gradient(&after.unwrap(), &loss.gradient).unwrap();
    let at_cut = CutGradients { edge, crossing };
    let gradient = network.prefix_gradient(prefix.unwrap_or(&tapes), at_cut).unwrap().unwrap();
    Pass { values, gradient: flat(&gradient), tapes }
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Root mean square of the difference, relative to `a`'s.
fn error(a: &[f32], b: &[f32]) -> f64 {
    let sum =
        |f: &dyn Fn(f32, f32) -> f32| a.iter().zip(b).map(|(a, b)| f64::from(f(*a, *b)).powi(2)).sum::<f64>();
    (sum(&|a, b| a - b) / sum(&|a, _| a)).sqrt()
}

/// Errors at the cut and of the gradient, and the share of signs that differ, all in percent.
fn differences(model: &Path, folder: &Path) -> [f64; 3] {
    let model = Model::read(model).unwrap();
    let graph = Graph::lower(&model, &[1, 3, 32, 32]).unwrap();
    let place = site::resolve(&model, &graph, None).unwrap().place;
    let preprocessing = Preprocessing::preset("cifar10").unwrap();
    let folder = Folder::clean(folder).unwrap();
    let images = folder.load(&folder.classes(), &preprocessing.target(3, None).unwrap()).unwrap();
    let rows: Vec<usize> = (0..images.len()).step_by(images.len().div_ceil(64)).collect();
    let labels: Vec<u32> = rows.iter().map(|r| images.labels()[*r]).collect();
    let pixels = images.normalized(&rows, &preprocessing);
    let pixels = Tensor::from_vec(pixels, (rows.len(), 3, 32, 32), &Device::Cpu).unwrap();

    let mut network = Network::new(&model, [3, 32, 32], place, End::Logits).unwrap();
    let exact = pass(&mut network, &pixels, &labels, None);
    network.set_precision(Precision::Bf16);
    // the clean images' tape, which was kept in f32, serves
    let kept = pass(&mut network, &pixels, &labels, Some(&exact.tapes));
    let near = pass(&mut network, &pixels, &labels, None);
    assert!(error(&exact.gradient, &kept.gradient) < error(&exact.gradient, &near.gradient) * 1.5);
    network.set_precision(Precision::F32);
    assert!(pass(&mut network, &pixels, &labels, None).gradient == exact.gradient, "f32 is f32 again");

    let other = exact.gradient.iter().zip(&near.gradient).filter(|(a, b)| a.signum() != b.signum()).count();
    [
        100.0 * error(&flat(&exact.values.edge), &flat(&near.values.edge)),
        100.0 * error(&exact.gradient, &near.gradient),
        100.0 * other as f64 / exact.gradient.len() as f64,
    ]
}

#[test]
fn bf16_keeps_the_adversarys_signs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = differences(&root.join("fixtures/model.onnx"), &root.join("fixtures/images/clean"));
    println!("error at the cut, of the gradient, other signs, in percent: {found:.2?}");
    let [cut, gradient, signs] = found;
    assert!(cut > 0.0 && cut < 2.0 && gradient < 30.0 && signs < 6.0, "{found:?}");
}
