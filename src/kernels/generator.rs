//! The generator network of the adversary and its weight gradients: two 3x3 convolutions, zero-padded and without
//! bias, with a ReLU between and a tanh after them. One image at a time.
//!
//! Every sum has one fixed order without fused operations, so all instruction sets give the same bytes.

use super::cpu::{
    Isa,
    simd::{Portable, Simd},
};

/// Channels between the two convolutions: one vector.
pub const WIDTH: usize = 8;
/// Kernel height and width.
pub const KERNEL: usize = 3;
/// Kernel positions.
pub const TAPS: usize = KERNEL * KERNEL;

/// Neighbouring outputs computed together: enough sums to hide the latency of an addition, and few enough for
/// registers.
const TILE: usize = 8;

/// One number per inner channel.
pub type Inner = [f32; WIDTH];

/// [K1, K2], by tap and image channel: K1 reads the image, K2 the inner channels.
pub type Kernels = [Vec<Inner>; 2];

/// Sizes of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

impl Size {
    /// Number of values of an image.
    pub fn numel(self) -> usize {
        self.channels * self.height * self.width
    }

    /// Length of a row with its zero border, at least a tile.
    fn wide(self) -> usize {
        self.width.max(TILE) + KERNEL - 1
    }

    /// Size of a channel with its zero border.
    fn plane(self) -> usize {
        (self.height + KERNEL - 1) * self.wide()
    }

    /// Offset of the first tap of a position.
    fn corner(self, row: usize, column: usize) -> usize {
        row * self.wide() + column
    }

    /// Offset of the centre tap.
    fn centre(self, row: usize, column: usize) -> usize {
        self.corner(row + KERNEL / 2, column + KERNEL / 2)
    }

    /// First column of each tile of a row. The last tile ends with the row and may overlap the one before.
    fn tiles(self) -> impl Iterator<Item = usize> {
        let last = self.width.saturating_sub(TILE);
        (0..self.width).step_by(TILE).map(move |at| at.min(last))
    }

    /// Number of columns of a tile inside the row.
    fn inside(self) -> usize {
        self.width.min(TILE)
    }

    /// Maps an image (H, W, C) by `f` into zero-bordered planes, (C, H + 2, W + 2).
    #[inline(always)]
    fn planes(self, image: &[f32], f: impl Fn(usize, f32) -> f32) -> Vec<f32> {
        let mut planes = vec![0f32; self.channels * self.plane()];
        for row in 0..self.height {
            for channel in 0..self.channels {
                let from = row * self.width * self.channels + channel;
                let to = channel * self.plane() + self.centre(row, 0);
                for (column, to) in planes[to..to + self.width].iter_mut().enumerate() {
                    let at = from + column * self.channels;
                    *to = f(at, image[at]);
                }
            }
        }
        planes
    }
}

/// The forward pass over one image.
pub struct Made {
    /// x - 1/2: (C, H + 2, W + 2).
    reads: Vec<f32>,
    /// After the ReLU: (H + 2, W + 2).
    inner: Vec<Inner>,
    /// After tanh: (H, W, C).
    pub added: Vec<f32>,
}

impl Made {
    /// Runs the network on an image (H, W, C) in [0, 1].
    ///
    /// # Panics
    /// If the lengths are inconsistent.
    pub fn of(image: &[f32], size: Size, kernels: &Kernels) -> Self {
        Self::of_in(Isa::get(), image, size, kernels)
    }

    fn of_in(isa: Isa, image: &[f32], size: Size, kernels: &Kernels) -> Self {
        assert!(image.len() == size.numel() && kernels.iter().all(|k| k.len() == TAPS * size.channels));
        let (forward, _) = compiled_for(isa);
        // SAFETY: the processor has the instruction set.
        unsafe { forward(image, size, kernels) }
    }

    /// The gradients of K1 and K2, given that of `added`, (H, W, C).
    ///
    /// # Panics
    /// If the lengths are inconsistent.
    pub fn gradients(&self, gradient: &[f32], size: Size, kernels: &Kernels) -> Kernels {
        self.gradients_in(Isa::get(), gradient, size, kernels)
    }

    fn gradients_in(&self, isa: Isa, gradient: &[f32], size: Size, kernels: &Kernels) -> Kernels {
        assert!(gradient.len() == size.numel() && kernels.iter().all(|k| k.len() == TAPS * size.channels));
        assert!(self.added.len() == size.numel() && self.inner.len() == size.plane());
        let (_, backward) = compiled_for(isa);
        // SAFETY: the processor has the instruction set.
        unsafe { backward(self, gradient, size, kernels) }
    }
}

type ForwardFn = unsafe fn(&[f32], Size, &Kernels) -> Made;
type BackwardFn = unsafe fn(&Made, &[f32], Size, &Kernels) -> Kernels;

macro_rules! compiled {
    ($forward:ident, $backward:ident, $simd:ty $(, $feature:literal)?) => {
        /// # Safety
        /// As [`forward`].
        $(#[target_feature(enable = $feature)])?
        unsafe fn $forward(image: &[f32], size: Size, kernels: &Kernels) -> Made {
            // SAFETY: upheld by the caller.
            unsafe { forward::<$simd>(image, size, kernels) }
        }
        /// # Safety
        /// As [`backward`].
        $(#[target_feature(enable = $feature)])?
        unsafe fn $backward(made: &Made, gradient: &[f32], size: Size, kernels: &Kernels) -> Kernels {
            // SAFETY: upheld by the caller.
            unsafe { backward::<$simd>(made, gradient, size, kernels) }
        }
    };
}

compiled!(forward_portable, backward_portable, Portable);
#[cfg(target_arch = "x86_64")]
compiled!(forward_avx2, backward_avx2, super::cpu::simd::Avx2, "avx2,fma");

/// AVX-512 also takes the AVX2 code: an inner position is one AVX2 vector.
fn compiled_for(isa: Isa) -> (ForwardFn, BackwardFn) {
    match isa {
        Isa::Portable => (forward_portable, backward_portable),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => (forward_avx2, backward_avx2),
    }
}

/// # Safety
/// The processor has the instruction set. (The same holds for all functions below.)
#[inline(always)]
unsafe fn forward<S: Simd>(image: &[f32], size: Size, kernels: &Kernels) -> Made {
    let reads = size.planes(image, |_, v| v - 0.5);
    let mut inner = vec![[0f32; WIDTH]; size.plane()];
    let mut added = vec![0f32; image.len()];
    // SAFETY: upheld by the caller.
    unsafe {
        correlate::<S>(&reads, size, &kernels[0], false, |at, sum| inner[at] = sum.map(|v| v.max(0.0)));
        collect::<S>(&inner, size, &kernels[1], &mut added);
    }
    added.iter_mut().for_each(|v| *v = v.tanh());
    Made { reads, inner, added }
}

/// # Safety
/// As [`forward`].
#[inline(always)]
unsafe fn backward<S: Simd>(made: &Made, gradient: &[f32], size: Size, kernels: &Kernels) -> Kernels {
    // through tanh
    let by = size.planes(gradient, |at, g| g * (1.0 - made.added[at] * made.added[at]));
    // positions are those of the zero-bordered planes; the border stays 0
    let mut by_inner = vec![[0f32; WIDTH]; size.plane()];
    let mut sums = kernels.each_ref().map(|kernel| vec![[0f32; WIDTH]; kernel.len()]);
    // SAFETY: upheld by the caller.
    unsafe {
        correlate::<S>(&by, size, &kernels[1], true, |at, sum| {
            let inner = &made.inner[at];
            by_inner[at] = std::array::from_fn(|k| if inner[k] > 0.0 { sum[k] } else { 0.0 });
        });
        for channel in 0..size.channels {
            let plane = channel * size.plane()..(channel + 1) * size.plane();
            let (x, by) = (&made.reads[plane.clone()], &by[plane]);
            let first = by_tap::<S>(
                size,
                #[inline(always)]
                |from| some(x, from).map(|v| S::splat(v)),
                #[inline(always)]
                |at| vector::<S>(&by_inner[at]),
            );
            let second = by_tap::<S>(
                size,
                #[inline(always)]
                |from| some(&made.inner, from).map(|v| vector::<S>(&v)),
                #[inline(always)]
                |at| S::splat(by[at]),
            );
            for tap in 0..TAPS {
                sums[0][tap * size.channels + channel] = first[tap];
                sums[1][tap * size.channels + channel] = second[tap];
            }
        }
    }
    sums
}

/// At each position, the sum over taps and channels of what it reads times the kernel; with `turned` the rotated
/// kernel,
/// the gradient of [`collect`]. `to` receives positions of the zero-bordered planes.
///
/// # Safety
/// As [`forward`].
#[inline(always)]
unsafe fn correlate<S: Simd>(
    planes: &[f32],
    size: Size,
    kernel: &[Inner],
    turned: bool,
    mut to: impl FnMut(usize, Inner),
) {
    for row in 0..size.height {
        for column in size.tiles() {
            // SAFETY: upheld by the caller.
            let mut sums = [unsafe { S::splat(0.0) }; TILE];
            for tap in 0..TAPS {
                let from = size.corner(row + tap / KERNEL, column + tap % KERNEL);
                let tap = if turned { TAPS - 1 - tap } else { tap };
                for channel in 0..size.channels {
                    let values: [f32; TILE] = some(planes, channel * size.plane() + from);
                    // SAFETY: upheld by the caller.
                    unsafe {
                        let numbers = vector::<S>(&kernel[tap * size.channels + channel]);
                        for (sum, v) in sums.iter_mut().zip(values) {
                            *sum = S::add(*sum, S::mul(S::splat(v), numbers));
                        }
                    }
                }
            }
            for (i, sum) in sums.iter().enumerate().take(size.inside()) {
                // SAFETY: upheld by the caller.
                to(size.centre(row, column + i), unsafe { numbers::<S>(*sum) });
            }
        }
    }
}

/// At each position and channel of the image, the sum over taps and inner channels: (H, W, C).
///
/// # Safety
/// As [`forward`].
#[inline(always)]
unsafe fn collect<S: Simd>(inner: &[Inner], size: Size, kernel: &[Inner], to: &mut [f32]) {
    for row in 0..size.height {
        for column in size.tiles() {
            for channel in 0..size.channels {
                // SAFETY: upheld by the caller.
                let mut sums = [unsafe { S::splat(0.0) }; TILE];
                for tap in 0..TAPS {
                    let from = size.corner(row + tap / KERNEL, column + tap % KERNEL);
                    let inner: [Inner; TILE] = some(inner, from);
                    // SAFETY: upheld by the caller.
                    unsafe {
                        let numbers = vector::<S>(&kernel[tap * size.channels + channel]);
                        for (sum, inner) in sums.iter_mut().zip(inner) {
                            *sum = S::add(*sum, S::mul(vector::<S>(&inner), numbers));
                        }
                    }
                }
                for (i, sum) in sums.iter().enumerate().take(size.inside()) {
                    // SAFETY: upheld by the caller.
                    let sum = unsafe { numbers::<S>(*sum) };
                    to[(row * size.width + column + i) * size.channels + channel] = sum.iter().sum();
                }
            }
        }
    }
}

/// For each tap, the sum over positions of `reads` (given the first tap of a row of taps) times `at` of the position.
/// Both
/// receive positions of the zero-bordered planes.
///
/// # Safety
/// As [`forward`].
#[inline(always)]
unsafe fn by_tap<S: Simd>(
    size: Size,
    reads: impl Fn(usize) -> [S::V; KERNEL],
    at: impl Fn(usize) -> S::V,
) -> [Inner; TAPS] {
    // SAFETY: upheld by the caller.
    unsafe {
        let mut sums = [S::splat(0.0); TAPS];
        for row in 0..size.height {
            for column in 0..size.width {
                let at = at(size.centre(row, column));
                for down in 0..KERNEL {
                    let reads = reads(size.corner(row + down, column));
                    for (sum, reads) in sums[down * KERNEL..].iter_mut().zip(reads) {
                        *sum = S::add(*sum, S::mul(reads, at));
                    }
                }
            }
        }
        sums.map(|sum| numbers::<S>(sum))
    }
}

/// A fixed number of elements from an offset on.
#[inline(always)]
fn some<const N: usize, T: Copy>(of: &[T], from: usize) -> [T; N] {
    *of[from..].first_chunk().expect("a plane is filled up to a tile")
}

/// # Safety
/// As [`forward`].
#[inline(always)]
unsafe fn vector<S: Simd>(of: &Inner) -> S::V {
    const { assert!(S::LANES == WIDTH) }
    // SAFETY: the array has a vector's length.
    unsafe { S::load(of.as_ptr()) }
}

/// # Safety
/// As [`forward`].
#[inline(always)]
unsafe fn numbers<S: Simd>(of: S::V) -> Inner {
    let mut numbers = [0f32; WIDTH];
    // SAFETY: the array has a vector's length.
    unsafe { S::store(numbers.as_mut_ptr(), of) };
    numbers
}

#[cfg(test)]
mod tests {
    use super::{super::reference::values, *};

    fn kernels(channels: usize) -> Kernels {
        [3, 4].map(|seed| {
            let numbers = values(TAPS * channels * WIDTH, seed);
            numbers.chunks_exact(WIDTH).map(|v| std::array::from_fn(|k| v[k] / 2.0)).collect()
        })
    }

    const SIZES: [(usize, usize, usize); 6] =
        [(3, 16, 16), (1, 1, 1), (2, 3, 7), (3, 5, 8), (4, 9, 19), (3, 1, 33)];

    /// The plain formula: `added`, and both gradients of its product with `gradient`.
    fn plainly(
        image: &[f32],
        gradient: &[f32],
        size: Size,
        [first, second]: &Kernels,
    ) -> (Vec<f64>, [Vec<f64>; 2]) {
        let Size { channels, height, width } = size;
        // what each position and tap reads
        let reads: Vec<(usize, usize, usize)> = (0..height * width)
            .flat_map(|at| (0..TAPS).map(move |tap| (at, tap, tap / KERNEL, tap % KERNEL)))
            .filter_map(|(at, tap, down, right)| {
                let row = (at / width + down).checked_sub(1).filter(|row| *row < height)?;
                let column = (at % width + right).checked_sub(1).filter(|column| *column < width)?;
                Some((at, tap, row * width + column))
            })
            .collect();
        let number =
            |kernel: &[Inner], tap: usize, c: usize, k: usize| f64::from(kernel[tap * channels + c][k]);
        let x = |at: usize, c: usize| f64::from(image[at * channels + c]) - 0.5;
        let mut inner = vec![0f64; height * width * WIDTH];
        for &(at, tap, from) in &reads {
            for (c, k) in (0..channels).flat_map(|c| (0..WIDTH).map(move |k| (c, k))) {
                inner[at * WIDTH + k] += x(from, c) * number(first, tap, c, k);
            }
        }
        let on: Vec<bool> = inner.iter().map(|v| *v > 0.0).collect();
        inner.iter_mut().for_each(|v| *v = v.max(0.0));
        let mut added = vec![0f64; image.len()];
        for &(at, tap, from) in &reads {
            for (c, k) in (0..channels).flat_map(|c| (0..WIDTH).map(move |k| (c, k))) {
                added[at * channels + c] += inner[from * WIDTH + k] * number(second, tap, c, k);
            }
        }
        added.iter_mut().for_each(|v| *v = v.tanh());
        let by: Vec<f64> = added.iter().zip(gradient).map(|(a, g)| f64::from(*g) * (1.0 - a * a)).collect();
        let mut by_inner = vec![0f64; inner.len()];
        let mut sums = [(); 2].map(|()| vec![0f64; TAPS * channels * WIDTH]);
        for &(at, tap, from) in &reads {
            for (c, k) in (0..channels).flat_map(|c| (0..WIDTH).map(move |k| (c, k))) {
                let by = by[at * channels + c];
                sums[1][(tap * channels + c) * WIDTH + k] += by * inner[from * WIDTH + k];
                by_inner[from * WIDTH + k] += by * number(second, tap, c, k);
            }
        }
        for &(at, tap, from) in &reads {
            for (c, k) in (0..channels).flat_map(|c| (0..WIDTH).map(move |k| (c, k))) {
                let by = if on[at * WIDTH + k] { by_inner[at * WIDTH + k] } else { 0.0 };
                sums[0][(tap * channels + c) * WIDTH + k] += by * x(from, c);
            }
        }
        (added, sums)
    }

    fn near(mine: impl IntoIterator<Item = f32>, expected: &[f64]) -> bool {
        let mine: Vec<f32> = mine.into_iter().collect();
        let most = expected.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
        let off = mine.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs());
        mine.len() == expected.len() && off.fold(0.0, f64::max) < 1e-5 * most
    }

    #[test]
    fn images_of_any_size_and_every_instruction_set_with_the_same_bytes() {
        for (channels, height, width) in SIZES {
            let size = Size { channels, height, width };
            let image: Vec<f32> = values(size.numel(), 1).iter().map(|v| (v + 1.0) / 2.0).collect();
            let (gradient, kernels) = (values(size.numel(), 2), kernels(channels));
            let (added, sums) = plainly(&image, &gradient, size, &kernels);
            let mut first: Option<(Vec<f32>, Kernels)> = None;
            for isa in Isa::available() {
                let made = Made::of_in(isa, &image, size, &kernels);
                let by = made.gradients_in(isa, &gradient, size, &kernels);
                assert!(near(made.added.iter().copied(), &added), "{size:?} {}", isa.name());
                for (by, expected) in by.iter().zip(&sums) {
                    assert!(near(by.iter().flatten().copied(), expected), "{size:?} {}", isa.name());
                }
                let now = (made.added, by);
                assert!(*first.get_or_insert_with(|| now.clone()) == now, "{size:?} {}", isa.name());
            }
        }
    }
}
