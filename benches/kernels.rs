//! Speed of the convolutions of `conv_shapes.txt` at batch 128, forward and input gradient: the best of several runs,
//! in GFLOP/s of the textbook count (two operations for each product, padding counted), so that they compare across
//! methods. A line a shape, fields separated by tabs. `benches/conv_torch.py` prints PyTorch's beside them.
//!
//! An argument picks the shapes whose line contains it.

use std::time::{Duration, Instant};

use polarizer::kernels::{Conv2d, Epilogue, Window, cpu_path};

/// As the command has it.
#[global_allocator]
static ALLOCATOR: polarizer::kernels::Aligned = polarizer::kernels::Aligned;

const BATCH: usize = 128;
const ENOUGH: Duration = Duration::from_millis(300);

fn main() {
    let only = std::env::args().skip(1).find(|a| !a.starts_with("--")).unwrap_or_default();
    println!("# {}, {} threads, batch {BATCH}", cpu_path(), rayon::current_num_threads());
    println!("# in out size kernel stride groups\tforward\tgradient\tforward ms\tgradient ms");
    for line in include_str!("conv_shapes.txt").lines().filter(|l| !l.starts_with('#') && l.contains(&only)) {
        let numbers: Vec<usize> = line.split(' ').map(|n| n.parse().expect("a number")).collect();
        let [from, to, size, kernel, stride, groups] = numbers[..] else { panic!("six numbers: {line}") };
        let window = Window {
            kernel: [kernel; 2],
            stride: [stride; 2],
            dilation: [1; 2],
            pads: [(kernel - 1) / 2; 4],
        };
        let weight = values(to * from / groups * kernel * kernel);
        let conv = Conv2d::new(window, groups, [from, to], [size; 2], &weight, None);
        let pixels = conv.output()[0] * conv.output()[1];
        let (x, dy) = (values(BATCH * size * size * from), values(BATCH * pixels * to));
        let (mut y, mut dx) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
        let forward = best(|| conv.forward(&x, BATCH, &mut y, Epilogue::default()));
        let gradient = best(|| conv.input_grad(&dy, BATCH, &mut dx));
        let operations = (2 * BATCH * pixels * weight.len()) as f64 / 1e9;
        println!(
            "{line}\t{:.1}\t{:.1}\t{:.3}\t{:.3}",
            operations / forward,
            operations / gradient,
            forward * 1e3,
            gradient * 1e3
        );
    }
}

/// Seconds of the fastest run.
fn best(mut f: impl FnMut()) -> f64 {
    f(); // packs the weights, touches the memory
    let start = Instant::now();
    let mut best = f64::MAX;
    let mut runs = 0;
    while runs < 3 || start.elapsed() < ENOUGH {
        let one = Instant::now();
        f();
        best = best.min(one.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 2003) as f32 / 1000.0 - 1.0).collect()
}
