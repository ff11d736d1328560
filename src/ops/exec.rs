//! A lowered operator: runs forward and backward.

use std::any::Any;

use super::array::Array;
use super::saved::Saved;
use crate::kernels::Backward;
use crate::profile::Direction;
use crate::{Error, Result};

/// An operator lowered for known shapes: one output, and one or more inputs that depend on the image. It owns its
/// constant inputs.
pub trait Exec: Any + Send + Sync {
    /// The output, given the non-constant inputs in the order of the operands. `keep` receives what [`Exec::vjp`]
    /// needs.
    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array>;

    /// The gradients with respect to the inputs for which `want` is true, given that with respect to the output.
    fn vjp(&self, kept: &Saved, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>>;

    /// Whether a gradient passes to input `i`. Where none does, [`Exec::vjp`] returns None for it.
    fn differentiable(&self, i: usize) -> bool {
        let _ = i;
        true
    }

    /// [`Exec::vjp`] of convolutions and gates (see [`super::Form`]), fused with further work or given a value that
    /// was not saved.
    fn vjp_with(
        &self,
        kept: &Saved,
        dy: Array,
        want: &[bool],
        context: VjpContext,
    ) -> Result<Vec<Option<Array>>> {
        let _ = context;
        self.vjp(kept, dy, want)
    }

    /// Recomputes the output from what was saved for the gradient; None if that is not enough.
    fn recompute(&self, kept: &Saved) -> Option<Result<Array>> {
        let _ = kept;
        None
    }

    /// Whether [`Exec::recompute`] returns a value.
    fn can_recompute(&self) -> bool {
        false
    }

    /// Floating-point operations for a batch of `images`, a multiply-add counted as two; 0 for operators bound by
    /// memory traffic. Backward: for the gradients of all inputs.
    fn flops(&self, images: usize, direction: Direction) -> u64 {
        let _ = (images, direction);
        0
    }

    /// Approximate bytes that the first gradient allocates and keeps: weights packed for that direction.
    fn packed_bytes(&self) -> usize {
        0
    }

    /// Whether candle computes it, on whichever device holds the values.
    fn runs_anywhere(&self) -> bool {
        false
    }

    /// Its GPU kernels for a first input of this shape. Without them, and unless it runs anywhere, the processor
    /// computes it, and the values are copied to it and back.
    fn on_gpu(&self, shape: &[usize]) -> Option<&dyn super::on_gpu::OnGpu> {
        let _ = shape;
        None
    }
}

/// The only input of an operator with one.
pub(super) fn only(mut x: Vec<Array>) -> Result<Array> {
    if x.is_empty() { Err(Error::internal("an input is missing")) } else { Ok(x.swap_remove(0)) }
}

/// Additional work and inputs of a backward pass.
#[derive(Clone, Copy, Default)]
pub struct VjpContext<'a> {
    /// The incoming gradient is masked already, if the convolution ends with a Relu.
    pub masked: bool,
    /// Applied to the first input's gradient in the same pass.
    pub back: Backward<'a>,
    /// For a product: the operand that was not saved.
    pub value: Option<&'a Array>,
}
