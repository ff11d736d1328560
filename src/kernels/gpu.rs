//! The seam between builds with and without the `cuda` feature. [`Gpu`] exists in both: an NVIDIA GPU (`cuda`) or an
//! uninhabited type, so that code for it is type-checked and then removed. Callers write
//! `if let Some(gpu) = Gpu::of(device)? { .. }` and know of no feature.
//!
//! The methods are declared once, at the end of this file. They are stubs without the feature, and checked signatures
//! with it.

use candle_core::Tensor;

#[cfg(not(feature = "cuda"))]
pub use absent::{Frozen, Gpu};

#[cfg(feature = "cuda")]
pub use super::cuda::{Frozen, Gpu};
use super::{Precision, Window, pixels::Descent};
use crate::Result;

/// Whether this build can use a GPU, if there is one.
pub const BUILT: bool = cfg!(feature = "cuda");

/// One element-wise pass over a value, in the order of the fields. See `pass4` in `kernels.cu`.
#[derive(Clone, Copy, Default)]
pub struct PointwisePass<'a> {
    /// Elements whose bit is not set become 0.
    pub mask: Option<&'a Tensor>,
    /// Factor per channel.
    pub scale: Option<&'a Tensor>,
    /// Summand per channel.
    pub shift: Option<&'a Tensor>,
    /// A value of the same shape that is added.
    pub more: Option<&'a Tensor>,
    /// Whether negative values become 0.
    pub relu: bool,
}

/// An element-wise function of `kernels.cu` and its parameters.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// Its code in `kernels.cu`.
    pub code: i32,
    /// Its two parameters.
    pub given: [f32; 2],
    /// Of a HardSigmoid: the inputs between which its slope is not 0.
    pub between: [f32; 2],
}

/// `struct Window` of `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WindowGeometry([i32; 12]);

impl WindowGeometry {
    /// The geometry of a window over images of `input` to `output` ([height, width]).
    pub fn new(window: &Window, input: [usize; 2], output: [usize; 2]) -> Self {
        let [h, w] = input;
        let [oh, ow] = output;
        let Window { kernel: [kh, kw], stride: [sh, sw], dilation: [dh, dw], pads: [top, left, ..] } =
            *window;
        Self([h, w, oh, ow, kh, kw, sh, sw, dh, dw, top, left].map(|v| v as i32))
    }
}

/// The parameters of [`Gpu::freeze`]: a convolution with frozen weights.
#[derive(Clone, Copy, Debug)]
pub struct Convolution<'a> {
    /// Kernel, stride, dilation and padding.
    pub window: &'a Window,
    /// Number of groups.
    pub groups: usize,
    /// [in, out].
    pub channels: [usize; 2],
    /// [height, width] of the input.
    pub input: [usize; 2],
    /// [height, width] of the output.
    pub output: [usize; 2],
    /// (O, C / groups, kh, kw), row-major.
    pub weight: &'a [f32],
    /// (O).
    pub bias: Option<&'a [f32]>,
}

/// Fused into a convolution on a GPU.
#[derive(Clone, Copy, Default)]
pub struct After<'a> {
    /// A value of the output's shape that is added.
    pub more: Option<&'a Tensor>,
    /// Whether negative values become 0.
    pub relu: bool,
    /// Whether the mask of positive outputs is returned.
    pub keep: bool,
}

/// Parameters of [`Gpu::adam_step`], named as in [`crate::train::Adam`].
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    /// Decay rates of the running means of gradients and of their squares.
    pub betas: [f64; 2],
    /// lr / (1 - beta1^t).
    pub rate: f64,
    /// 1 - beta2^t.
    pub spread: f64,
    /// Added to the square root.
    pub eps: f64,
}

/// Parameters of [`Gpu::sgd_step`], named as in [`crate::train::Sgd`].
#[derive(Clone, Copy, Debug)]
pub struct SgdStep {
    /// Learning rate.
    pub lr: f64,
    /// Factor of the previous velocity.
    pub momentum: f64,
    /// Factor of the weights, added to their gradient.
    pub weight_decay: f64,
}

/// Statistics of a BatchNorm, (C) each.
#[derive(Clone, Copy)]
pub struct Statistics<'a> {
    /// Mean per channel.
    pub mean: &'a Tensor,
    /// Variance per channel.
    pub var: &'a Tensor,
    /// Added to the variance.
    pub eps: f64,
}

/// The types of a build without the feature, which are uninhabited.
#[cfg(not(feature = "cuda"))]
mod absent {
    use std::sync::Arc;

    use candle_core::Device;

    use crate::{Error, Result};

    /// A GPU; uninhabited in this build.
    #[derive(Debug)]
    pub enum Gpu {}

    /// A convolution with frozen weights on a GPU; uninhabited in this build.
    #[derive(Debug)]
    pub enum Frozen {}

    impl Gpu {
        /// Opens the GPU with this number.
        ///
        /// # Errors
        /// Always: this build has no GPU support.
        pub fn open(_: usize) -> Result<Device> {
            Err(Error::internal("this build has no `cuda` feature"))
        }

        /// The GPU of `device`: always None, since this build computes everything on the processor.
        ///
        /// # Errors
        /// Never.
        #[inline(always)]
        pub fn of(_: &Device) -> Result<Option<Arc<Self>>> {
            Ok(None)
        }
    }
}

/// Declares methods of a type of the seam. Without the feature it defines them as unreachable; with the feature it
/// checks that each exists with this signature.
macro_rules! declare {
    ($type:ident { $(fn $name:ident(&self $(, $arg:ident: $of:ty)* $(,)?) -> $out:ty;)* }) => {
        #[cfg(not(feature = "cuda"))]
        #[allow(unused_variables)]
        impl $type {
            $(
                #[doc = concat!("`", stringify!($name), "` of a build with the `cuda` feature.")]
                ///
                /// # Errors
                /// Never: the type is uninhabited.
                pub fn $name(&self $(, $arg: $of)*) -> $out {
                    match *self {}
                }
            )*
        }
        #[cfg(feature = "cuda")]
        const _: () = {
            $(let _: fn(&$type $(, $of)*) -> $out = <$type>::$name;)*
        };
    };
}

declare! {
    Frozen {
        fn forward(
            &self, gpu: &Gpu, x: &Tensor, after: After<'_>, precision: Precision,
        ) -> Result<(Tensor, Option<Tensor>)>;
        fn input_grad(&self, gpu: &Gpu, dy: &Tensor, then: PointwisePass<'_>, precision: Precision) -> Result<Tensor>;
    }
}

declare! {
    Gpu {
        fn name(&self) -> &str;
        fn memory(&self) -> Result<(usize, usize)>;
        fn constant(&self, values: &[f32]) -> Result<Tensor>;
        fn freeze(&self, convolution: Convolution<'_>) -> Result<Frozen>;

        fn pass(&self, x: &Tensor, pass: PointwisePass<'_>, keep: bool) -> Result<(Tensor, Option<Tensor>)>;
        fn apply(&self, x: &Tensor, f: Code) -> Result<Tensor>;
        fn apply_back(&self, dy: &Tensor, kept: &Tensor, f: Code) -> Result<Tensor>;
        fn gate(&self, big: Option<&Tensor>, small: &Tensor, factor: f32, shape: &[usize]) -> Result<Tensor>;
        fn sum_pixels(&self, a: &Tensor, b: Option<&Tensor>, factor: f32, to: &[usize]) -> Result<Tensor>;
        fn sum_columns(&self, rows: &Tensor, by: Option<&Tensor>) -> Result<Tensor>;
        fn max_pool(
            &self, x: &Tensor, window: WindowGeometry, to: &[usize], keep: bool,
        ) -> Result<(Tensor, Option<Tensor>)>;
        fn max_pool_back(
            &self, dy: &Tensor, index: &Tensor, window: WindowGeometry, from: &[usize],
        ) -> Result<Tensor>;
        fn mean_pool(
            &self, x: &Tensor, counts: &Tensor, window: WindowGeometry, to: &[usize], back: bool,
        ) -> Result<Tensor>;

        fn concatenate(&self, parts: &[Tensor]) -> Result<Tensor>;
        fn gather(&self, parts: &[&Tensor], rows: &[(usize, usize)]) -> Result<Tensor>;
        fn set_rows(&self, all: &Tensor, at: usize, rows: &Tensor) -> Result<()>;
        fn blend(&self, a: f64, x: &Tensor, b: f64, y: Option<&Tensor>) -> Result<Tensor>;
        fn blend_in_place(&self, a: f64, x: &Tensor, b: f64, y: &Tensor) -> Result<()>;
        fn scale_rows(&self, x: &Tensor, by: &Tensor) -> Result<Tensor>;
        fn scale_columns(&self, x: &Tensor, by: &Tensor) -> Result<Tensor>;
        fn less_outer(&self, x: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor>;
        fn row_dots(&self, a: &Tensor, b: &Tensor) -> Result<Tensor>;
        fn unit_rows(&self, x: &Tensor) -> Result<Tensor>;
        fn accumulate(&self, sums: Option<Tensor>, x: &Tensor) -> Result<Tensor>;

        fn norm_line(
            &self, scale: Option<&Tensor>, bias: Option<&Tensor>, by: Statistics<'_>,
        ) -> Result<[Tensor; 2]>;
        fn norm_line_back(&self, dots: &Tensor, by_summand: &Tensor, by: Statistics<'_>) -> Result<Tensor>;
        fn sgd_step(
            &self, w: &Tensor, velocity: Option<Tensor>, grad: &Tensor, step: SgdStep,
        ) -> Result<Tensor>;
        fn adam_step(
            &self, w: &Tensor, moments: Option<[Tensor; 2]>, grad: &Tensor, step: AdamStep,
        ) -> Result<[Tensor; 2]>;

        fn normalise(&self, pixels: &Tensor, mean: &Tensor, std: &Tensor) -> Result<Tensor>;
        fn pixel_step(
            &self,
            delta: &Tensor,
            pixels: &Tensor,
            grad: Option<&Tensor>,
            normalisation: [&Tensor; 2],
            to: Descent,
        ) -> Result<Tensor>;
        fn latent_norm(
            &self, squares: Option<Tensor>, grad: &Tensor, sigma: Option<&Tensor>,
        ) -> Result<Tensor>;
        fn latent_move(
            &self,
            delta: &Tensor,
            values: &Tensor,
            grad: Option<&Tensor>,
            sigma: &Tensor,
            squares: &Tensor,
            length: f32,
        ) -> Result<Tensor>;
    }
}
