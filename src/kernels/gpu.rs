//! The seam between builds with and without the `cuda` feature. [`Gpu`] exists in both: with the feature it is an NVIDIA GPU
//! (`cuda`), without it a type that has no value, so that what is written for it is checked by the compiler and then
//! left out. Callers write `if let Some(gpu) = Gpu::of(device)? { .. }` and know of no feature.
//!
//! What a GPU can be asked for is declared once, at the end of this file: from there the build without the feature has its
//! methods, and the build with it is held to the same signatures.

use candle_core::Tensor;

#[cfg(not(feature = "cuda"))]
pub use absent::{Frozen, Gpu};

#[cfg(feature = "cuda")]
pub use super::cuda::{Frozen, Gpu};
use super::{Precision, Window, pixels::Descent};
use crate::Result;

/// Whether this build can use a GPU, if there is one.
pub const BUILT: bool = cfg!(feature = "cuda");

/// One pass over a value: what is done to each element, in this order. See `pass4` in `kernels.cu`.
#[derive(Clone, Copy, Default)]
pub struct Pass<'a> {
    /// Elements whose bit is not set become 0.
    pub mask: Option<&'a Tensor>,
    /// Factor by channel.
    pub scale: Option<&'a Tensor>,
    /// Summand by channel.
    pub shift: Option<&'a Tensor>,
    /// Another value of the same shape, added.
    pub more: Option<&'a Tensor>,
    /// What is below zero becomes zero.
    pub relu: bool,
}

/// A function of one number by its number in `kernels.cu`, and what it takes.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// Its number.
    pub code: i32,
    /// Its own two numbers.
    pub given: [f32; 2],
    /// Between which inputs its slope is not 0, for a HardSigmoid.
    pub between: [f32; 2],
}

/// `struct Window` of `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Geometry([i32; 12]);

impl Geometry {
    /// Of a window over images of `input` to `output` (height, width).
    pub fn new(window: &Window, input: [usize; 2], output: [usize; 2]) -> Self {
        let [h, w] = input;
        let [oh, ow] = output;
        let Window { kernel: [kh, kw], stride: [sh, sw], dilation: [dh, dw], pads: [top, left, ..] } =
            *window;
        Self([h, w, oh, ow, kh, kw, sh, sw, dh, dw, top, left].map(|v| v as i32))
    }
}

/// A convolution with frozen weights, as [`Gpu::freeze`] takes it.
#[derive(Clone, Copy, Debug)]
pub struct Convolution<'a> {
    /// Kernel, stride, dilation and padding.
    pub window: &'a Window,
    /// Groups of channels.
    pub groups: usize,
    /// Channels in, out.
    pub channels: [usize; 2],
    /// Height and width of the input.
    pub input: [usize; 2],
    /// Height and width of the output.
    pub output: [usize; 2],
    /// (O, C / groups, kh, kw), row-major.
    pub weight: &'a [f32],
    /// (O).
    pub bias: Option<&'a [f32]>,
}

/// What is done to a convolution's answer on its way to memory.
#[derive(Clone, Copy, Default)]
pub struct After<'a> {
    /// A value of the answer's shape that is added.
    pub more: Option<&'a Tensor>,
    /// What is below zero becomes zero.
    pub relu: bool,
    /// The mask of what is above zero is wanted.
    pub keep: bool,
}

/// What [`Gpu::adam_step`] is to do, in the words of [`crate::train::Adam`].
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    /// Of the means of gradients and of their squares.
    pub betas: [f64; 2],
    /// lr / (1 - beta1^t).
    pub rate: f64,
    /// 1 - beta2^t.
    pub spread: f64,
    /// Added to the root.
    pub eps: f64,
}

/// What [`Gpu::sgd_step`] is to do, in the words of [`crate::train::Sgd`].
#[derive(Clone, Copy, Debug)]
pub struct SgdStep {
    /// Learning rate.
    pub lr: f64,
    /// Factor of the velocity so far.
    pub momentum: f64,
    /// Factor of the weights that is added to their gradient.
    pub weight_decay: f64,
}

/// Statistics of a BatchNorm, (C) each.
#[derive(Clone, Copy)]
pub struct Statistics<'a> {
    /// Mean by channel.
    pub mean: &'a Tensor,
    /// Variance by channel.
    pub var: &'a Tensor,
    /// Added to the variance.
    pub eps: f64,
}

/// The types of a build without the feature: nobody can make a value of them.
#[cfg(not(feature = "cuda"))]
mod absent {
    use std::sync::Arc;

    use candle_core::Device;

    use crate::{Error, Result};

    /// A GPU: this build has none.
    #[derive(Debug)]
    pub enum Gpu {}

    /// A convolution with frozen weights on a GPU: this build has none.
    #[derive(Debug)]
    pub enum Frozen {}

    impl Gpu {
        /// Opens the GPU with this number.
        ///
        /// # Errors
        /// Always: this build cannot use one.
        pub fn open(_: usize) -> Result<Device> {
            Err(Error::internal("a build without the `cuda` feature opens no GPU"))
        }

        /// The GPU that `device` is: None, since whatever is computed by this build is so by the processor.
        ///
        /// # Errors
        /// None.
        #[inline(always)]
        pub fn of(_: &Device) -> Result<Option<Arc<Self>>> {
            Ok(None)
        }
    }
}

/// Declares methods of a type of the seam. Without the feature they are written here, and can never run; with it, each has to be
/// there with this signature.
macro_rules! declare {
    ($type:ident { $(fn $name:ident(&self $(, $arg:ident: $of:ty)* $(,)?) -> $out:ty;)* }) => {
        #[cfg(not(feature = "cuda"))]
        #[allow(unused_variables)]
        impl $type {
            $(
                #[doc = concat!("`", stringify!($name), "` of a build with the `cuda` feature.")]
                ///
                /// # Errors
                /// None here: there is no value to call it on.
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
        fn input_grad(&self, gpu: &Gpu, dy: &Tensor, then: Pass<'_>, precision: Precision) -> Result<Tensor>;
    }
}

declare! {
    Gpu {
        fn name(&self) -> &str;
        fn memory(&self) -> Result<(usize, usize)>;
        fn constant(&self, values: &[f32]) -> Result<Tensor>;
        fn freeze(&self, convolution: Convolution<'_>) -> Result<Frozen>;

        fn pass(&self, x: &Tensor, pass: Pass<'_>, keep: bool) -> Result<(Tensor, Option<Tensor>)>;
        fn apply(&self, x: &Tensor, f: Code) -> Result<Tensor>;
        fn apply_back(&self, dy: &Tensor, kept: &Tensor, f: Code) -> Result<Tensor>;
        fn gate(&self, big: Option<&Tensor>, small: &Tensor, factor: f32, shape: &[usize]) -> Result<Tensor>;
        fn sum_pixels(&self, a: &Tensor, b: Option<&Tensor>, factor: f32, to: &[usize]) -> Result<Tensor>;
        fn sum_columns(&self, rows: &Tensor, by: Option<&Tensor>) -> Result<Tensor>;
        fn max_pool(
            &self, x: &Tensor, window: Geometry, to: &[usize], keep: bool,
        ) -> Result<(Tensor, Option<Tensor>)>;
        fn max_pool_back(
            &self, dy: &Tensor, index: &Tensor, window: Geometry, from: &[usize],
        ) -> Result<Tensor>;
        fn mean_pool(
            &self, x: &Tensor, counts: &Tensor, window: Geometry, to: &[usize], back: bool,
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
