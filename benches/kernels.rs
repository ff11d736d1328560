//! Speed of the convolutions of `conv_shapes.txt` at batch 128, forward and input gradient: the best of several runs,
//! in GFLOP/s of the direct method (two operations per product, including padding), whatever the algorithm. One
//! tab-separated line per shape. `benches/conv_torch.py` prints the same for PyTorch. The last four columns are the
//! speed with bfloat16 products and their relative error (root mean square, in percent of the float32 result).
//!
//! An argument selects the shapes whose line contains it.

use std::time::{Duration, Instant};

use polarizer::internals::kernels::{
    Backward, Conv2d, Epilogue, Precision, Window, bf16_is_native, cpu_path,
};

/// The allocator of the command.
#[global_allocator]
static ALLOCATOR: polarizer::Aligned = polarizer::Aligned;

const BATCH: usize = 128;
const ENOUGH: Duration = Duration::from_millis(500);

fn main() {
    let only = std::env::args().skip(1).find(|a| !a.starts_with("--")).unwrap_or_default();
    let native = if bf16_is_native() { "native" } else { "emulated" };
    println!("# {}, bf16 {native}, {} threads, batch {BATCH}", cpu_path(), rayon::current_num_threads());
    println!(
        "# in out size kernel stride groups\tforward\tgradient\tforward ms\tgradient ms\tbf16 forward\tbf16 \
         gradient\terror\terror"
    );
    for line in include_str!("conv_shapes.txt").lines().filter(|l| !l.starts_with('#') && l.contains(&only)) {
        let numbers: Vec<usize> = line.split(' ').map(|n| n.parse().expect("a number")).collect();
        let [from, to, size, kernel, stride, groups] = numbers[..] else { panic!("six numbers: {line}") };
        let window = Window {
            kernel: [kernel; 2],
            stride: [stride; 2],
            dilation: [1; 2],
            pads: [(kernel - 1) / 2; 4],
        };
        let weight = values(to * from / groups * kernel * kernel, 1);
        let conv = Conv2d::new(window, groups, [from, to], [size; 2], &weight, None);
        let pixels = conv.output()[0] * conv.output()[1];
        let (x, dy) = (values(BATCH * size * size * from, 2), values(BATCH * pixels * to, 3));
        let both = [Precision::F32, Precision::Bf16];
        let mut y = [(); 2].map(|()| vec![0.0; dy.len()]);
        let mut dx = [(); 2].map(|()| vec![0.0; x.len()]);
        let forward = best(|i| conv.forward_in(both[i], &x, BATCH, &mut y[i], Epilogue::default()));
        let gradient = best(|i| conv.input_grad_in(both[i], &dy, BATCH, &mut dx[i], Backward::default()));
        let operations = (2 * BATCH * pixels * weight.len()) as f64 / 1e9;
        println!(
            "{line}\t{:.1}\t{:.1}\t{:.3}\t{:.3}\t{:.1}\t{:.1}\t{:.3}\t{:.3}",
            operations / forward[0],
            operations / gradient[0],
            forward[0] * 1e3,
            gradient[0] * 1e3,
            operations / forward[1],
            operations / gradient[1],
            error(&y),
            error(&dx),
        );
    }
}

/// Seconds of the fastest run of each precision. Blocks of runs alternate between the precisions, so that both see the
/// same machine load, with caches warm from their own runs.
fn best(mut f: impl FnMut(usize)) -> [f64; 2] {
    (0..2).for_each(&mut f); // packs the weights, touches the memory
    let mut best = [f64::MAX; 2];
    for _ in 0..4 {
        for (i, best) in best.iter_mut().enumerate() {
            let start = Instant::now();
            let mut runs = 0;
            while runs < 3 || start.elapsed() < ENOUGH / 8 {
                let one = Instant::now();
                f(i);
                *best = best.min(one.elapsed().as_secs_f64());
                runs += 1;
            }
        }
    }
    best
}

/// Root mean square of the difference, in percent of that of the first.
fn error([a, b]: &[Vec<f32>; 2]) -> f64 {
    let square = |f: &dyn Fn(usize) -> f32| (0..a.len()).map(|i| f64::from(f(i)).powi(2)).sum::<f64>();
    100.0 * (square(&|i| a[i] - b[i]) / square(&|i| a[i])).sqrt()
}

/// Approximately normal values: sums of four uniform numbers.
fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..len).map(|_| uniform() + uniform() + uniform() + uniform()).collect()
}
