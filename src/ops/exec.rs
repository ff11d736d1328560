//! What an operator is lowered to: something that runs, and takes gradients back.

use std::any::Any;

use super::array::Array;
use super::kept::Kept;
use crate::Result;
use crate::kernels::Backward;
use crate::profile::Direction;

/// An operator lowered for known shapes: one output, one or more inputs that depend on the image. Constant inputs are
/// inside.
pub trait Exec: Any + Send + Sync {
    /// The output for the inputs that are not constant, in the order of the node's operands. With `keep`, what
    /// [`Exec::vjp`] will need is put there.
    fn forward(&self, x: Vec<Array>, keep: Option<&mut Kept>) -> Result<Array>;

    /// The gradient with respect to each of the inputs for which `want` is set, given the one with respect to the
    /// output.
    fn vjp(&self, kept: &Kept, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>>;

    /// [`Exec::vjp`] with more done in the same pass, or with a value that was not kept, for
    /// convolutions and gates (see [`super::Form`]): `way` says what.
    fn vjp_on_the_way(&self, kept: &Kept, dy: Array, want: &[bool], way: Way) -> Result<Vec<Option<Array>>> {
        let _ = way;
        self.vjp(kept, dy, want)
    }

    /// The output once more, from what was kept for its gradient; None where that is not enough.
    fn again(&self, kept: &Kept) -> Option<Result<Array>> {
        let _ = kept;
        None
    }

    /// Whether [`Exec::again`] gives one.
    fn can_again(&self) -> bool {
        false
    }

    /// Floating-point operations of one call over a batch of `images`, a multiplication and an addition counted as two;
    /// 0 where moving the values is what takes the time. Backward: for the gradient of every input.
    fn flops(&self, images: usize, direction: Direction) -> u64 {
        let _ = (images, direction);
        0
    }

    /// Bytes that its first gradient takes for good, about: weights packed for that direction. 0 where there are none.
    fn packed_bytes(&self) -> usize {
        0
    }

    /// Whether candle computes it, so that it runs wherever the values are.
    fn runs_anywhere(&self) -> bool {
        false
    }

    /// Its kernels on a GPU, for a first input of this shape. Where there are none, and it does not run anywhere, it runs on
    /// the processor, and values go there and back.
    fn on_gpu(&self, shape: &[usize]) -> Option<&dyn super::on_gpu::OnGpu> {
        let _ = shape;
        None
    }
}

/// What is done, or needed, on the gradient's way back beside what was kept.
#[derive(Clone, Copy, Default)]
pub struct Way<'a> {
    /// The gradient that comes in is masked already, if the convolution ends with a Relu.
    pub masked: bool,
    /// What is done to the gradient of the first input on its way to memory.
    pub back: Backward<'a>,
    /// For a product: the operand that it did not keep.
    pub value: Option<&'a Array>,
}
