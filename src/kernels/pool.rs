//! Pooling over channels-last images in all of ONNX's forms: any kernel, stride, dilation and padding, floor and
//! ceiling sizes ([`Window::output`]), averages with or without counting the padding.

use rayon::prelude::*;

use super::Window;
use super::cpu::dispatch;

/// Index of the maximum of a window that covers padding alone.
pub const NOWHERE: u32 = u32::MAX;

/// The windows of a pool, listed along each axis.
struct PoolWindows {
    channels: usize,
    input: [usize; 2],
    output: [usize; 2],
    /// By output along each axis: the inputs it reads, ascending, without padding.
    reads: [Vec<Vec<usize>>; 2],
}

impl PoolWindows {
    fn new(window: &Window, ceil: bool, channels: usize, input: [usize; 2]) -> Self {
        let output = window.output(input, ceil).expect("a kernel that fits the padded input");
        let reads = [0, 1].map(|a| {
            let at = |o: usize, k: usize| {
                (o * window.stride[a] + k * window.dilation[a])
                    .checked_sub(window.pads[a])
                    .filter(|&i| i < input[a])
            };
            (0..output[a]).map(|o| (0..window.kernel[a]).filter_map(|k| at(o, k)).collect()).collect()
        });
        Self { channels, input, output, reads }
    }

    fn lengths(&self, n: usize) -> [usize; 2] {
        [self.input, self.output].map(|s| n * s[0] * s[1] * self.channels)
    }

    /// The pixels that output (h, w) reads, row by row.
    fn pixels(&self, h: usize, w: usize) -> impl Iterator<Item = usize> + '_ {
        let width = self.input[1];
        self.reads[0][h].iter().flat_map(move |r| self.reads[1][w].iter().map(move |c| r * width + c))
    }
}

/// Maximum of each window. Padding never wins: a window over padding alone gives minus infinity. NaN wins, as in
/// PyTorch.
pub struct MaxPool(PoolWindows);

impl MaxPool {
    /// A pool over images of `input` (`[h, w]`) pixels.
    ///
    /// # Panics
    /// If the kernel does not fit the padded input.
    pub fn new(window: &Window, ceil: bool, channels: usize, input: [usize; 2]) -> Self {
        Self(PoolWindows::new(window, ceil, channels, input))
    }

    /// Output pixels, [height, width].
    pub fn output(&self) -> [usize; 2] {
        self.0.output
    }

    /// `x`: (n, h, w, c). Writes `y`: (n, oh, ow, c), and the index of each maximum's pixel (row * width + column):
    /// the first in row-major order among equals, [`NOWHERE`] over padding alone.
    pub fn forward(&self, x: &[f32], n: usize, y: &mut [f32], indices: Option<&mut [u32]>) {
        let p = &self.0;
        let [from, to] = p.lengths(n);
        assert_eq!((x.len(), y.len()), (from, to));
        if to == 0 {
            return;
        }
        let row = p.output[1] * p.channels;
        let one = |task: usize, y: &mut [f32], indices: &mut [u32]| {
            let (image, h) = (task / p.output[0], task % p.output[0]);
            let x = &x[image * from / n..(image + 1) * from / n];
            dispatch(
                #[inline(always)]
                || max_row(p, x, h, y, indices),
            );
        };
        match indices {
            Some(indices) => {
                assert_eq!(indices.len(), to);
                let rows = y.par_chunks_mut(row).zip(indices.par_chunks_mut(row)).enumerate();
                rows.for_each(|(task, (y, i))| one(task, y, i));
            }
            None => {
                let rows = y.par_chunks_mut(row).enumerate();
                rows.for_each_init(|| vec![0; row], |indices, (task, y)| one(task, y, indices));
            }
        }
    }

    /// Writes `dx` (n, h, w, c): each gradient in `dy` (n, oh, ow, c) goes to the pixel of its maximum.
    pub fn backward(&self, dy: &[f32], indices: &[u32], n: usize, dx: &mut [f32]) {
        let p = &self.0;
        assert_eq!([dx.len(), dy.len()], p.lengths(n));
        assert_eq!(indices.len(), dy.len());
        if dy.is_empty() {
            return dx.fill(0.0);
        }
        let (from, to) = (dx.len() / n, dy.len() / n);
        let images = dx.par_chunks_mut(from).zip(dy.par_chunks(to)).zip(indices.par_chunks(to));
        images.for_each(|((dx, dy), indices)| {
            dx.fill(0.0);
            for (dy, indices) in dy.chunks_exact(p.channels).zip(indices.chunks_exact(p.channels)) {
                for (c, (g, &i)) in dy.iter().zip(indices).enumerate() {
                    if i != NOWHERE {
                        dx[i as usize * p.channels + c] += g;
                    }
                }
            }
        });
    }
}

/// A row of maxima.
#[inline(always)]
fn max_row(p: &PoolWindows, x: &[f32], h: usize, y: &mut [f32], indices: &mut [u32]) {
    let c = p.channels;
    for (w, (y, indices)) in y.chunks_exact_mut(c).zip(indices.chunks_exact_mut(c)).enumerate() {
        let mut pixels = p.pixels(h, w);
        match pixels.next() {
            Some(first) => {
                y.copy_from_slice(&x[first * c..(first + 1) * c]);
                indices.fill(first as u32);
            }
            None => {
                y.fill(f32::NEG_INFINITY);
                indices.fill(NOWHERE);
            }
        }
        for pixel in pixels {
            let x = &x[pixel * c..(pixel + 1) * c];
            for ((y, i), &x) in y.iter_mut().zip(indices.iter_mut()).zip(x) {
                let wins = x > *y || x.is_nan();
                *y = if wins { x } else { *y };
                *i = if wins { pixel as u32 } else { *i };
            }
        }
    }
}

/// Average of each window.
pub struct AveragePool {
    pool: PoolWindows,
    /// By output along each axis: its factor of the divisor.
    counts: [Vec<usize>; 2],
}

impl AveragePool {
    /// A pool over images of `input` (`[h, w]`) pixels. Sums are divided by the number of pixels read; with
    /// `count_padding` by the number of taps inside the padded image (as in PyTorch, without those past it). A window
    /// over nothing gives 0.
    ///
    /// # Panics
    /// If the kernel does not fit the padded input.
    pub fn new(window: &Window, ceil: bool, count_padding: bool, channels: usize, input: [usize; 2]) -> Self {
        let pool = PoolWindows::new(window, ceil, channels, input);
        let counts = [0, 1].map(|a| {
            let padded = input[a] + window.pads[a] + window.pads[a + 2];
            let inside = |o: usize| {
                let at = |k: &usize| o * window.stride[a] + k * window.dilation[a] < padded;
                (0..window.kernel[a]).filter(at).count()
            };
            let reads = &pool.reads[a];
            (0..reads.len()).map(|o| if count_padding { inside(o) } else { reads[o].len() }).collect()
        });
        Self { pool, counts }
    }

    /// Output pixels, [height, width].
    pub fn output(&self) -> [usize; 2] {
        self.pool.output
    }

    /// Divisor of each output, row by row.
    pub fn divisors(&self) -> Vec<f32> {
        let [h, w] = self.pool.output;
        (0..h * w).map(|i| self.count(i / w, i % w)).collect()
    }

    /// Divisor of output (h, w).
    fn count(&self, h: usize, w: usize) -> f32 {
        (self.counts[0][h] * self.counts[1][w]).max(1) as f32
    }

    /// `x`: (n, h, w, c). Writes `y`: (n, oh, ow, c).
    pub fn forward(&self, x: &[f32], n: usize, y: &mut [f32]) {
        let p = &self.pool;
        let [from, to] = p.lengths(n);
        assert_eq!((x.len(), y.len()), (from, to));
        if to == 0 {
            return;
        }
        y.par_chunks_mut(p.output[1] * p.channels).enumerate().for_each(|(task, y)| {
            let (image, h) = (task / p.output[0], task % p.output[0]);
            let x = &x[image * from / n..(image + 1) * from / n];
            dispatch(
                #[inline(always)]
                || {
                    let c = p.channels;
                    for (w, y) in y.chunks_exact_mut(c).enumerate() {
                        y.fill(0.0);
                        for pixel in p.pixels(h, w) {
                            y.iter_mut().zip(&x[pixel * c..(pixel + 1) * c]).for_each(|(y, x)| *y += x);
                        }
                        let count = self.count(h, w);
                        y.iter_mut().for_each(|y| *y /= count);
                    }
                },
            );
        });
    }

    /// Writes `dx` (n, h, w, c): each gradient in `dy` (n, oh, ow, c) is spread over the pixels of its window.
    pub fn backward(&self, dy: &[f32], n: usize, dx: &mut [f32]) {
        let p = &self.pool;
        assert_eq!([dx.len(), dy.len()], p.lengths(n));
        if dy.is_empty() {
            return dx.fill(0.0);
        }
        let (from, to) = (dx.len() / n, dy.len() / n);
        dx.par_chunks_mut(from).zip(dy.par_chunks(to)).for_each(|(dx, dy)| {
            dispatch(
                #[inline(always)]
                || {
                    let c = p.channels;
                    dx.fill(0.0);
                    for (at, dy) in dy.chunks_exact(c).enumerate() {
                        let (h, w) = (at / p.output[1], at % p.output[1]);
                        let count = self.count(h, w);
                        for pixel in p.pixels(h, w) {
                            let dx = &mut dx[pixel * c..(pixel + 1) * c];
                            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy / count);
                        }
                    }
                },
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::reference::{pairs, values};
    use super::*;

    fn windows() -> impl Strategy<Value = (Window, [usize; 2])> {
        let pair = |r: std::ops::RangeInclusive<usize>| [r.clone(), r];
        let pads = [0usize..3, 0usize..3, 0usize..3, 0usize..3];
        (pair(1..=4), pair(1..=4), pair(1..=3), pads, pair(1..=9)).prop_map(
            |(kernel, stride, dilation, pads, input)| (Window { kernel, stride, dilation, pads }, input),
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn against_plain_loops((w, input) in windows(), ceil: bool, padding: bool, c in 1usize..20, n in 1usize..4) {
            let Some(output) = w.output(input, ceil) else { return Ok(()) };
            let (pi, po) = (input[0] * input[1], output[0] * output[1]);
            // few distinct values, to have ties
            let x: Vec<f32> = values(n * pi * c, 1).iter().map(|v| (v * 3.0).round()).collect();
            let dy = values(n * po * c, 2);

            let max = MaxPool::new(&w, ceil, c, input);
            prop_assert_eq!(max.output(), output);
            let (mut y, mut indices) = (vec![0.0; n * po * c], vec![0; n * po * c]);
            max.forward(&x, n, &mut y, Some(&mut indices));
            let mut best = vec![(f32::NEG_INFINITY, NOWHERE); y.len()];
            let mut sum = vec![(0f64, 0f64); y.len()];
            pairs(&w, n, input, output, |i, to, _, from| {
                for ch in 0..c {
                    let v = x[(i * pi + from) * c + ch];
                    let b = &mut best[(i * po + to) * c + ch];
                    if b.1 == NOWHERE || v > b.0 {
                        *b = (v, from as u32);
                    }
                    let s = &mut sum[(i * po + to) * c + ch];
                    *s = (s.0 + f64::from(v), s.1 + 1.0);
                }
            });
            prop_assert!(best.iter().zip(y.iter().zip(&indices)).all(|(b, (y, i))| *b == (*y, *i)));
            let mut again = vec![0.0; y.len()];
            max.forward(&x, n, &mut again, None);
            prop_assert_eq!(&again, &y);
            let mut dx = vec![f32::NAN; x.len()];
            max.backward(&dy, &indices, n, &mut dx);
            let mut plain = vec![0f32; x.len()];
            for (at, b) in best.iter().enumerate() {
                if b.1 != NOWHERE {
                    plain[(at / (po * c) * pi + b.1 as usize) * c + at % c] += dy[at];
                }
            }
            prop_assert_eq!(&dx, &plain);

            let average = AveragePool::new(&w, ceil, padding, c, input);
            average.forward(&x, n, &mut y);
            if padding {
                // taps inside the padded image
                let padded = [0, 1].map(|a| input[a] + w.pads[a] + w.pads[a + 2]);
                let unpadded = Window { pads: [0; 4], ..w.clone() };
                sum.iter_mut().for_each(|s| s.1 = 0.0);
                pairs(&unpadded, n, padded, output, |i, to, _, _| {
                    (0..c).for_each(|ch| sum[(i * po + to) * c + ch].1 += 1.0);
                });
            }
            for (y, s) in y.iter().zip(&sum) {
                prop_assert!((f64::from(*y) - s.0 / s.1.max(1.0)).abs() < 1e-5);
            }
            average.backward(&dy, n, &mut dx);
            let mut plain = vec![0f64; x.len()];
            pairs(&w, n, input, output, |i, to, _, from| {
                for ch in 0..c {
                    let at = (i * po + to) * c + ch;
                    plain[(i * pi + from) * c + ch] += f64::from(dy[at]) / sum[at].1;
                }
            });
            prop_assert!(dx.iter().zip(&plain).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5));
        }
    }

    #[test]
    fn sizes_as_pytorch_has_them() {
        let w = |kernel, stride, pad| Window {
            kernel: [kernel; 2],
            stride: [stride; 2],
            pads: [pad; 4],
            ..Window::new([1; 2])
        };
        let side = |w: &Window, input, ceil| w.output([input; 2], ceil).map(|o| o[0]);
        assert_eq!(side(&w(3, 2, 1), 112, false), Some(56));
        assert_eq!(side(&w(2, 2, 0), 7, false), Some(3));
        assert_eq!(side(&w(2, 2, 0), 7, true), Some(4));
        // the last window would start in the padding after the input
        assert_eq!(side(&w(2, 2, 1), 3, true), Some(2));
        assert_eq!(side(&w(3, 3, 1), 4, true), Some(2));
        assert_eq!(side(&w(5, 1, 0), 4, false), None);
        assert_eq!(side(&w(1, 0, 0), 4, false), None);
        assert_eq!(side(&w(usize::MAX, 1, 0), 4, false), None);
    }

    #[test]
    fn not_a_number_wins() {
        let x = [1.0, f32::NAN, 3.0, 2.0];
        let pool = MaxPool::new(&Window::new([2, 2]), false, 1, [2, 2]);
        let (mut y, mut i) = ([0.0], [0]);
        pool.forward(&x, 1, &mut y, Some(&mut i));
        assert!(y[0].is_nan() && i[0] == 1);
    }
}
