//! Hand-written kernels: convolution with frozen weights (dense, grouped, depthwise) and its input gradient, pooling,
//! fused element-wise passes. They take and return plain slices; only `cuda` and opening a device know tensors and
//! errors. Callers check shapes; every entry point asserts them.
//!
//! Images are **channels-last**: `[n, h, w, c]`, contiguous f32.
//!
//! rayon splits the work by shape alone, and one thread computes each output element in a fixed order: any number of
//! threads gives the same bytes. Instruction sets ([`cpu_path`]) fuse and order operations differently and may
//! differ.
#![allow(unsafe_code)] // vector intrinsics and disjoint writes from several threads; each block states why it is sound

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
    /// Padding in ONNX's order: top, left, bottom, right.
    pub pads: [usize; 4],
}

impl Window {
    /// A window with stride 1, no dilation and no padding.
    pub fn new(kernel: [usize; 2]) -> Self {
        Self { kernel, stride: [1, 1], dilation: [1, 1], pads: [0; 4] }
    }

    /// Number of windows over `input` (`[h, w]`) per axis. None if none fits, a parameter is zero or sizes overflow.
    /// `ceil` lets the last window extend past the end if it starts inside the input or the leading padding, as in
    /// ONNX (opset 19 on) and PyTorch.
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

    /// Number of kernel positions.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }
}

/// Number format of a convolution's products. Inputs, sums and outputs are f32 in every format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32.
    #[default]
    F32,
    /// Inputs and weights rounded to bfloat16 (8 bits of mantissa) where that is faster: dense convolutions, 3x3 ones
    /// after Winograd's transform. Depthwise convolutions and those with few input channels stay f32.
    Bf16,
    /// Inputs and weights rounded to 10 bits of mantissa by a GPU's tensor cores; f32 on the processor.
    Tf32,
}

impl Precision {
    /// All formats.
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

    /// The fastest for training on this processor: bfloat16 if its instructions are native, see [`bf16_is_native`].
    pub fn auto() -> Self {
        if bf16_is_native() { Self::Bf16 } else { Self::F32 }
    }

    /// The format on the processor, which has no tensor cores.
    fn on_processor(self) -> Self {
        if self == Self::Tf32 { Self::F32 } else { self }
    }

    /// Inputs per 32-bit lane.
    fn inputs(self) -> usize {
        match self {
            Self::F32 | Self::Tf32 => 1,
            Self::Bf16 => 2,
        }
    }
}

/// A pointer through which several threads write disjoint elements.
#[derive(Clone, Copy)]
struct SharedPtr<T>(*mut T);

// SAFETY: used within one parallel loop whose iterations write disjoint elements; each use states why they are
// disjoint.
unsafe impl<T: Send> Send for SharedPtr<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedPtr<T> {}

impl<T> SharedPtr<T> {
    fn of(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }

    /// A method, so that closures capture the wrapper rather than its field.
    fn get(&self) -> *mut T {
        self.0
    }
}
