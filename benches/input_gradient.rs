//! Gradients with respect to the image beside PyTorch's: `input_gradient MODEL REFERENCE ...`, pairs of an ONNX file and
//! what `benches/input_gradients.py` wrote of it: `x` and `gradient` (N, C, H, W), `w` and `scores` (N, K), and
//! `gradient64`, the gradient of the sum of w times scores in float64, and `moved`, what PyTorch's float32 is off by on
//! slightly moved images. Prints a line a model: the largest difference of
//! the scores and of the gradient, as shares of the largest entry; PyTorch's own float32 from its float64; and whether
//! ours is within the larger of 1e-3 and ten times these.

use std::{collections::HashMap, path::Path};

use candle_core::{DType, Device, Tensor};
use polarizer::{
    internals::graph::{Graph, VjpOptions},
    onnx::Model,
};

type Fault = Box<dyn std::error::Error>;

fn main() -> Result<(), Fault> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if arguments.is_empty() {
        println!("ignored: name models and their references");
    }
    let mut failed = 0;
    for pair in arguments.chunks_exact(2) {
        let (model, reference) = (Path::new(&pair[0]), Path::new(&pair[1]));
        let name = model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match compared(model, reference) {
            Ok((line, within)) => {
                failed += usize::from(!within);
                println!("{name}: {line}");
            }
            Err(e) => {
                failed += 1;
                println!("{name}: {e}");
            }
        }
    }
    if failed > 0 { Err(format!("{failed} are not within").into()) } else { Ok(()) }
}

fn compared(model: &Path, reference: &Path) -> Result<(String, bool), Fault> {
    let theirs: HashMap<String, Tensor> = candle_core::safetensors::load(reference, &Device::Cpu)?;
    let of = |name: &str| theirs.get(name).ok_or_else(|| format!("the reference has no {name}"));
    let model = Model::read(model)?;
    let x = of("x")?.to_dtype(DType::F32)?;
    let graph = Graph::lower(&model, x.dims())?;
    let whole = graph.segment(graph.output())?;
    let (scores, tape) = whole.run_keeping(std::slice::from_ref(&x), None)?;
    let w = of("w")?.to_dtype(DType::F32)?.reshape(scores[0].dims())?;
    let gradient = whole.vjp(&tape, &[Some(w)], VjpOptions::default())?.remove(0);
    let gradient = gradient.ok_or("no gradient reaches the image")?;
    let scores = apart(&scores[0].flatten_all()?, &of("scores")?.flatten_all()?)?;
    let ours = apart(&gradient, of("gradient64")?)?;
    let torch = apart(of("gradient")?, of("gradient64")?)?;
    let moved = of("moved")?.to_dtype(DType::F64)?.max(0)?.to_scalar::<f64>()?;
    let within = ours <= (10.0 * torch.max(moved)).max(1e-3);
    let says = if within { "within" } else { "NOT within" };
    let beside = format!("PyTorch's float32 {torch:.1e}, of images moved by 1e-6 {moved:.1e}");
    Ok((format!("scores {scores:.1e}, gradient {ours:.1e} ({beside}), {says}"), within))
}

/// The largest difference as a share of the largest entry of `b`.
fn apart(a: &Tensor, b: &Tensor) -> Result<f64, Fault> {
    let (a, b) = (a.to_dtype(DType::F64)?, b.to_dtype(DType::F64)?);
    let largest =
        |t: &Tensor| -> Result<f64, Fault> { Ok(t.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?) };
    Ok(largest(&(a - &b)?)? / largest(&b)?.max(f64::MIN_POSITIVE))
}
