//! An operator on a GPU: what [`super::Exec`] is on the processor.

use candle_core::Tensor;

use super::array::Array;
use super::kept::Kept;
use crate::kernels::gpu::{Gpu, Pass};
use crate::{Error, Result};

/// What is done, or needed, on the gradient's way back, see [`super::Way`].
#[derive(Clone, Copy, Default)]
pub struct Way<'a> {
    /// The gradient that comes in is masked already.
    pub masked: bool,
    /// What is done to the gradient of the first input.
    pub back: Pass<'a>,
    /// For a product: the operand that it did not keep.
    pub value: Option<&'a Tensor>,
}

/// An operator on a GPU. Values are in the layout of [`super::array`].
pub trait OnGpu {
    /// See [`super::Exec::forward`].
    ///
    /// # Errors
    /// The driver's own.
    fn forward(&self, gpu: &Gpu, x: &[Tensor], keep: Option<&mut Kept>) -> Result<Tensor>;

    /// See [`super::Exec::vjp_on_the_way`].
    ///
    /// # Errors
    /// The driver's own.
    fn vjp(
        &self,
        gpu: &Gpu,
        kept: &Kept,
        dy: &Tensor,
        want: &[bool],
        way: Way<'_>,
    ) -> Result<Vec<Option<Tensor>>>;

    /// See [`super::Exec::again`].
    ///
    /// # Errors
    /// Where it cannot; the driver's own.
    fn again(&self, gpu: &Gpu, kept: &Kept) -> Result<Tensor> {
        let _ = (gpu, kept);
        Err(Error::internal("a value that cannot be made again"))
    }
}

/// `a + b`.
pub fn add(gpu: &Gpu, a: &Array, b: &Array) -> Result<Array> {
    let pass = Pass { more: Some(b.tensor()), ..Pass::default() };
    Array::from_tensor(&gpu.pass(a.tensor(), pass, false)?.0)
}
