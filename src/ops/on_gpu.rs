//! Operators on a GPU: the counterpart of [`super::Exec`].

use candle_core::Tensor;

use super::array::Array;
use super::saved::Saved;
use crate::kernels::gpu::{Gpu, PointwisePass};
use crate::{Error, Result};

/// Additional work and inputs of a backward pass, see [`super::VjpContext`].
#[derive(Clone, Copy, Default)]
pub struct GpuVjpContext<'a> {
    /// The incoming gradient is masked already.
    pub masked: bool,
    /// Applied to the first input's gradient in the same pass.
    pub back: PointwisePass<'a>,
    /// For a product: the operand that was not saved.
    pub value: Option<&'a Tensor>,
}

/// An operator on a GPU. Values are in the layout of [`super::array`].
pub trait OnGpu {
    /// See [`super::Exec::forward`].
    ///
    /// # Errors
    /// Driver errors.
    fn forward(&self, gpu: &Gpu, x: &[Tensor], keep: Option<&mut Saved>) -> Result<Tensor>;

    /// See [`super::Exec::vjp_with`].
    ///
    /// # Errors
    /// Driver errors.
    fn vjp(
        &self,
        gpu: &Gpu,
        kept: &Saved,
        dy: &Tensor,
        want: &[bool],
        context: GpuVjpContext<'_>,
    ) -> Result<Vec<Option<Tensor>>>;

    /// See [`super::Exec::recompute`].
    ///
    /// # Errors
    /// The operator cannot recompute its output; driver errors.
    fn recompute(&self, gpu: &Gpu, kept: &Saved) -> Result<Tensor> {
        let _ = (gpu, kept);
        Err(Error::internal("a value that cannot be recomputed"))
    }
}

/// `a + b`.
pub fn add(gpu: &Gpu, a: &Array, b: &Array) -> Result<Array> {
    let pass = PointwisePass { more: Some(b.tensor()), ..PointwisePass::default() };
    Array::from_tensor(&gpu.pass(a.tensor(), pass, false)?.0)
}
