//! Two small convolutions one after the other, three by three, padded with zeros and without bias, a ReLU between them and a
//! tanh behind them, and the gradients of their weights: what the adversary that learns is made of. One image at a time.
//!
//! Each sum is added up in one order and never fused: the same bytes come out with every instruction set.

use super::cpu::{
    Isa,
    simd::{Portable, Simd},
};

/// Channels between the two convolutions: a vector.
pub const WIDTH: usize = 8;
/// Their kernels' height and width.
pub const KERNEL: usize = 3;
/// Their kernels' positions.
pub const TAPS: usize = KERNEL * KERNEL;

/// Neighbours in a row that are summed side by side: as many sums as hide how long an addition takes, and fit the registers.
const TILE: usize = 8;

/// One number for each inner channel.
pub type Inner = [f32; WIDTH];

/// By tap and channel of the image: [K1, K2]. K1's are of what each inner channel reads, K2's of what is read of each.
pub type Kernels = [Vec<Inner>; 2];

/// Sizes of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

impl Size {
    /// Values of an image.
    pub fn numel(self) -> usize {
        self.channels * self.height * self.width
    }

    /// Of a row with zeros around it; a narrow one is filled up to a tile.
    fn wide(self) -> usize {
        self.width.max(TILE) + KERNEL - 1
    }

    /// Of a channel with zeros around it.
    fn plane(self) -> usize {
        (self.height + KERNEL - 1) * self.wide()
    }

    /// Where the first tap of a position reads.
    fn corner(self, row: usize, column: usize) -> usize {
        row * self.wide() + column
    }

    /// Where the middle one reads.
    fn centre(self, row: usize, column: usize) -> usize {
        self.corner(row + KERNEL / 2, column + KERNEL / 2)
    }

    /// The first column of each tile of a row. The last one ends with the row: it may hold some of the one before again.
    fn tiles(self) -> impl Iterator<Item = usize> {
        let last = self.width.saturating_sub(TILE);
        (0..self.width).step_by(TILE).map(move |at| at.min(last))
    }

    /// How many columns of a tile lie in the row.
    fn inside(self) -> usize {
        self.width.min(TILE)
    }

    /// An image (H, W, C), each value changed by `f`, as planes with zeros around them: (C, H + 2, W + 2).
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

/// What the two convolutions make of one image.
pub struct Made {
    /// x - 1/2: (C, H + 2, W + 2).
    reads: Vec<f32>,
    /// After the ReLU: (H + 2, W + 2).
    inner: Vec<Inner>,
    /// After tanh: (H, W, C).
    pub added: Vec<f32>,
}

impl Made {
    /// From an image (H, W, C) in [0, 1].
    ///
    /// # Panics
    /// Where the lengths contradict each other.
    pub fn of(image: &[f32], size: Size, kernels: &Kernels) -> Self {
        Self::of_in(Isa::get(), image, size, kernels)
    }

    fn of_in(isa: Isa, image: &[f32], size: Size, kernels: &Kernels) -> Self {
        assert!(image.len() == size.numel() && kernels.iter().all(|k| k.len() == TAPS * size.channels));
        let (forward, _) = compiled_for(isa);
        // SAFETY: the processor has the instruction set.
        unsafe { forward(image, size, kernels) }
    }

    /// K1's and K2's gradients, `gradient` (H, W, C) being that of `added`.
    ///
    /// # Panics
    /// Where the lengths contradict each other.
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

type Forward = unsafe fn(&[f32], Size, &Kernels) -> Made;
type Backward = unsafe fn(&Made, &[f32], Size, &Kernels) -> Kernels;

macro_rules! compiled {
    ($forward:ident, $backward:ident, $simd:ty $(, $feature:literal)?) => {
        /// # Safety
        /// As [`forward`].
        $(#[target_feature(enable = $feature)])?
        unsafe fn $forward(image: &[f32], size: Size, kernels: &Kernels) -> Made {
            // SAFETY: the caller's promise.
            unsafe { forward::<$simd>(image, size, kernels) }
        }
        /// # Safety
        /// As [`backward`].
        $(#[target_feature(enable = $feature)])?
        unsafe fn $backward(made: &Made, gradient: &[f32], size: Size, kernels: &Kernels) -> Kernels {
            // SAFETY: the caller's promise.
            unsafe { backward::<$simd>(made, gradient, size, kernels) }
        }
    };
}

compiled!(forward_portable, backward_portable, Portable);
#[cfg(target_arch = "x86_64")]
compiled!(forward_avx2, backward_avx2, super::cpu::simd::Avx2, "avx2,fma");

/// An inner position is a vector of AVX2: that of AVX-512 is too long.
fn compiled_for(isa: Isa) -> (Forward, Backward) {
    match isa {
        Isa::Portable => (forward_portable, backward_portable),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => (forward_avx2, backward_avx2),
    }
}

/// # Safety
/// The processor has the instruction set. (The same for all that follow.)
#[inline(always)]
unsafe fn forward<S: Simd>(image: &[f32], size: Size, kernels: &Kernels) -> Made {
    let reads = size.planes(image, |_, v| v - 0.5);
    let mut inner = vec![[0f32; WIDTH]; size.plane()];
    let mut added = vec![0f32; image.len()];
    // SAFETY: the caller's promise.
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
    // a position of the image is one of the planes': what lies around it stays 0
    let mut by_inner = vec![[0f32; WIDTH]; size.plane()];
    let mut sums = kernels.each_ref().map(|kernel| vec![[0f32; WIDTH]; kernel.len()]);
    // SAFETY: the caller's promise.
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

/// For each position the sum over taps and channels of what is read there times the kernel's numbers; `turned` by half a turn,
/// the gradient of what [`collect`] reads. `to` is given where a position lies with zeros around it.
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
            // SAFETY: the caller's promise.
            let mut sums = [unsafe { S::splat(0.0) }; TILE];
            for tap in 0..TAPS {
                let from = size.corner(row + tap / KERNEL, column + tap % KERNEL);
                let tap = if turned { TAPS - 1 - tap } else { tap };
                for channel in 0..size.channels {
                    let values: [f32; TILE] = some(planes, channel * size.plane() + from);
                    // SAFETY: the caller's promise.
                    unsafe {
                        let numbers = vector::<S>(&kernel[tap * size.channels + channel]);
                        for (sum, v) in sums.iter_mut().zip(values) {
                            *sum = S::add(*sum, S::mul(S::splat(v), numbers));
                        }
                    }
                }
            }
            for (i, sum) in sums.iter().enumerate().take(size.inside()) {
                // SAFETY: the caller's promise.
                to(size.centre(row, column + i), unsafe { numbers::<S>(*sum) });
            }
        }
    }
}

/// For each position and channel of an image the sum over taps and inner channels: (H, W, C).
///
/// # Safety
/// As [`forward`].
#[inline(always)]
unsafe fn collect<S: Simd>(inner: &[Inner], size: Size, kernel: &[Inner], to: &mut [f32]) {
    for row in 0..size.height {
        for column in size.tiles() {
            for channel in 0..size.channels {
                // SAFETY: the caller's promise.
                let mut sums = [unsafe { S::splat(0.0) }; TILE];
                for tap in 0..TAPS {
                    let from = size.corner(row + tap / KERNEL, column + tap % KERNEL);
                    let inner: [Inner; TILE] = some(inner, from);
                    // SAFETY: the caller's promise.
                    unsafe {
                        let numbers = vector::<S>(&kernel[tap * size.channels + channel]);
                        for (sum, inner) in sums.iter_mut().zip(inner) {
                            *sum = S::add(*sum, S::mul(vector::<S>(&inner), numbers));
                        }
                    }
                }
                for (i, sum) in sums.iter().enumerate().take(size.inside()) {
                    // SAFETY: the caller's promise.
                    let sum = unsafe { numbers::<S>(*sum) };
                    to[(row * size.width + column + i) * size.channels + channel] = sum.iter().sum();
                }
            }
        }
    }
}

/// For each tap the sum over positions of what it reads, `reads` being given where the first of a row of taps does, times what
/// `at` gives for the position. Both are given places with zeros around them.
///
/// # Safety
/// As [`forward`].
#[inline(always)]
unsafe fn by_tap<S: Simd>(
    size: Size,
    reads: impl Fn(usize) -> [S::V; KERNEL],
    at: impl Fn(usize) -> S::V,
) -> [Inner; TAPS] {
    // SAFETY: the caller's promise.
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

/// So many from a place on.
#[inline(always)]
fn some<const N: usize, T: Copy>(of: &[T], from: usize) -> [T; N] {
    *of[from..].first_chunk().expect("a plane is filled up to a tile")
}

/// # Safety
/// As [`forward`].
#[inline(always)]
unsafe fn vector<S: Simd>(of: &Inner) -> S::V {
    const { assert!(S::LANES == WIDTH) }
    // SAFETY: as many floats as a vector has.
    unsafe { S::load(of.as_ptr()) }
}

/// # Safety
/// As [`forward`].
#[inline(always)]
unsafe fn numbers<S: Simd>(of: S::V) -> Inner {
    let mut numbers = [0f32; WIDTH];
    // SAFETY: as many floats as a vector has.
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

    /// As the formula has it: what is added, and both gradients of its product with `gradient`.
    fn plainly(
        image: &[f32],
        gradient: &[f32],
        size: Size,
        [first, second]: &Kernels,
    ) -> (Vec<f64>, [Vec<f64>; 2]) {
        let Size { channels, height, width } = size;
        // for each position and tap, where it reads
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
