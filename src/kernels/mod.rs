//! The few loops that are worth writing by hand: convolution with frozen weights (dense, grouped, depthwise) and its
//! input gradient, pooling, fused pointwise passes. Plain slices in, plain slices out: tensors and errors are known to
//! `cuda` and to the opening of a device alone. Shapes are the caller's to check; every entry asserts them once.
//!
//! Images are **channels-last**: `[n, h, w, c]`, contiguous f32.
//!
//! Work is spread with rayon over parts that depend on the shape alone, each output element is computed by one thread
//! in one fixed order: the same bytes come out for any number of threads. They may differ between instruction sets
//! ([`cpu_path`]), which fuse and order operations differently.
#![allow(unsafe_code)] // vector loads and stores, and disjoint writes from several threads; each block says why it holds

use serde::{Deserialize, Serialize};

mod allocator;
pub mod backend;
mod bits;
pub mod buffers;
mod ceilings;
mod conv;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod dense;
mod depthwise;
pub mod generator;
pub mod gpu;
pub mod latent;
pub mod pixels;
mod place;
mod plan;
pub mod pointwise;
#[cfg(test)]
mod pointwise_tests;
pub mod pool;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

mod winograd;

pub use allocator::Aligned;
pub use bits::Bits;
pub use conv::{Backward, Conv2d, Epilogue};
pub use cpu::{bf16_is_native, cpu_path};

/// Geometry of a 2-D convolution or pool, without batch and channels. Pairs are `[height, width]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Kernel size.
    pub kernel: [usize; 2],
    /// Step between windows.
    pub stride: [usize; 2],
    /// Distance between a window's taps.
    pub dilation: [usize; 2],
    /// Padding as ONNX orders it: top, left, bottom, right.
    pub pads: [usize; 4],
}

impl Window {
    /// A dense window without padding that moves by one.
    pub fn new(kernel: [usize; 2]) -> Self {
        Self { kernel, stride: [1, 1], dilation: [1, 1], pads: [0; 4] }
    }

    /// How many windows fit `input` (`[h, w]`): None where not even one fits, or where a parameter is zero or so large
    /// that sizes overflow. With `ceil`, a last window may hang over the end, as ONNX (opset 19 on) and PyTorch have
    /// it: it has to start inside the input or the padding before it.
    pub fn output(&self, input: [usize; 2], ceil: bool) -> Option<[usize; 2]> {
        let mut output = [0; 2];
        for a in 0..2 {
            let (stride, dilation) = (self.stride[a], self.dilation[a]);
            if self.kernel[a] == 0 || stride == 0 || dilation == 0 {
                return None;
            }
            let span = (self.kernel[a] - 1).checked_mul(dilation)?.checked_add(1)?;
            let padded = input[a].checked_add(self.pads[a])?.checked_add(self.pads[a + 2])?;
            let free = padded.checked_sub(span)?;
            let mut count = if ceil { free.div_ceil(stride) } else { free / stride } + 1;
            if ceil && (count - 1).saturating_mul(stride) >= input[a] + self.pads[a] {
                count -= 1;
            }
            output[a] = count;
        }
        Some(output)
    }

    /// Kernel positions.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }
}

/// What a convolution multiplies. What comes in, sums and what comes out are f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Floats as they are.
    #[default]
    F32,
    /// Inputs and weights rounded to bfloat16 (8 bits of mantissa), where that is faster: dense convolutions, the 3x3
    /// ones after Winograd's transforms. Depthwise ones, and those that read few channels, multiply floats.
    Bf16,
    /// Inputs and weights rounded to 10 bits of mantissa by the tensor cores of a GPU. On the processor: floats.
    Tf32,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Tf32, Self::Bf16];
    /// Their names.
    pub const NAMES: &[&str] = &[Self::F32.name(), Self::Tf32.name(), Self::Bf16.name()];

    /// Name, as the command takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Tf32 => "tf32",
        }
    }

    /// What trains fastest here: bfloat16 where the processor multiplies it, see [`bf16_is_native`].
    pub fn auto() -> Self {
        if bf16_is_native() { Self::Bf16 } else { Self::F32 }
    }

    /// The same where there are no tensor cores.
    fn on_processor(self) -> Self {
        if self == Self::Tf32 { Self::F32 } else { self }
    }

    /// Inputs that lie in a float's place.
    fn inputs(self) -> usize {
        match self {
            Self::F32 | Self::Tf32 => 1,
            Self::Bf16 => 2,
        }
    }
}

/// A pointer that several threads write through, each at places of its own.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);

// SAFETY: a `Shared` is only made for the time of one parallel loop whose iterations write disjoint elements; each
// place that writes through it says why its elements are disjoint.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn of(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }

    /// A method, so that closures capture the wrapper and not the bare pointer in it.
    fn get(&self) -> *mut T {
        self.0
    }
}
