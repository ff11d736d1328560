//! The machine's limits for the roofline: a large product by the crate's own kernels, and a memory copy.

use std::time::Instant;

use rayon::prelude::*;

use super::{Conv2d, Epilogue, Window};
use crate::base::profile::Ceilings;

impl Ceilings {
    /// Measures both; takes about a second and 128 MiB.
    pub fn measure() -> Self {
        Self { gflops: product(), gbytes: copy() }
    }
}

/// Minimum time of a few runs in seconds, after one warm-up run.
fn least(runs: usize, mut f: impl FnMut()) -> f64 {
    f();
    let time = |_| {
        let began = Instant::now();
        f();
        began.elapsed().as_secs_f64()
    };
    (0..runs).map(time).fold(f64::INFINITY, f64::min).max(1e-9)
}

fn product() -> f64 {
    const CHANNELS: usize = 512;
    const SIDE: usize = 16;
    const IMAGES: usize = 16;
    let weight: Vec<f32> = (0..CHANNELS * CHANNELS).map(|i| (i % 7) as f32 * 0.01).collect();
    let conv = Conv2d::new(Window::new([1, 1]), 1, [CHANNELS; 2], [SIDE; 2], &weight, None);
    let x = vec![1.0; IMAGES * SIDE * SIDE * CHANNELS];
    let mut y = vec![0.0; x.len()];
    let seconds = least(5, || conv.forward(&x, IMAGES, &mut y, Epilogue::default()));
    2.0 * (conv.products() * IMAGES) as f64 / seconds / 1e9
}

fn copy() -> f64 {
    const FLOATS: usize = 16 << 20;
    const PART: usize = 1 << 18;
    let from = vec![1f32; FLOATS];
    let mut to = vec![0f32; FLOATS];
    let seconds = least(5, || {
        to.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(|(to, from)| to.copy_from_slice(from));
    });
    (2 * size_of::<f32>() * FLOATS) as f64 / seconds / 1e9
}
