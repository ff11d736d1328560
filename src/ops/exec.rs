//! What an operator is lowered to: something that runs, and takes gradients back.

use std::sync::Arc;

use super::arithmetic::Gate;
use super::array::Array;
use super::conv::ConvSpec;
use super::normalization::Affine;
use crate::kernels::{Backward, Bits};
use crate::profile::Direction;
use crate::{Error, Result};

/// An operator lowered for known shapes: one output, one or more inputs that depend on the image. Constant inputs are
/// inside.
pub trait Exec: Send + Sync {
    /// The output for the inputs that are not constant, in the order of the node's operands. With `keep`, what
    /// [`Exec::vjp`] will need is put there.
    fn forward(&self, x: Vec<Array>, keep: Option<&mut Kept>) -> Result<Array>;

    /// The gradient with respect to each of the inputs for which `want` is set, given the one with respect to the
    /// output.
    fn vjp(&self, kept: &Kept, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>>;

    /// [`Exec::vjp`] with more done in the same pass, or with a value that was not kept, for those whose [`Form`] is a
    /// convolution or a product: `way` says what.
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
    #[cfg(feature = "cuda")]
    fn on_gpu(&self, shape: &[usize]) -> Option<&dyn super::gpu::OnGpu> {
        let _ = shape;
        None
    }

    /// What may be joined with a neighbour.
    fn form(&self) -> Form<'_> {
        Form::Other
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

/// What an [`Exec`] is, as far as it can be joined with a neighbour into one pass over memory.
pub enum Form<'a> {
    /// A convolution and nothing else.
    Conv(&'a Arc<ConvSpec>),
    /// A convolution that others were joined to. Where it ends with a Relu it keeps its mask first.
    JoinedConv {
        relu: bool,
    },
    /// One factor and one summand for each channel.
    Affine(&'a Affine),
    /// The same, and a Relu; keeps the mask first.
    AffineRelu(&'a Affine),
    /// Keeps the mask first.
    Relu,
    /// The sum of two inputs of the same shape.
    Add,
    /// A value times a smaller one; keeps the large operand, which is this one, first.
    Gate(&'a Gate),
    Other,
}

/// What one operator keeps of its forward pass for its gradient.
#[derive(Clone, Debug, Default)]
pub struct Kept(Vec<Item>);

#[derive(Clone, Debug)]
enum Item {
    Array(Array),
    Bits(Bits),
    /// A fixed number for each image.
    Indices {
        rows: usize,
        indices: Vec<u32>,
    },
    /// A mask or indices in a GPU's memory: a row of words for each image.
    #[cfg(feature = "cuda")]
    Words(candle_core::Tensor),
}

impl Kept {
    /// Keeps a value.
    pub fn array(&mut self, value: &Array) {
        self.0.push(Item::Array(value.clone()));
    }

    /// Keeps a mask.
    pub fn bits(&mut self, bits: Bits) {
        self.0.push(Item::Bits(bits));
    }

    /// Keeps indices, equally many for each of `rows` images.
    pub fn indices(&mut self, rows: usize, indices: Vec<u32>) {
        self.0.push(Item::Indices { rows, indices });
    }

    /// Keeps a mask or indices that are on a GPU: (rows, words).
    #[cfg(feature = "cuda")]
    pub fn words(&mut self, words: candle_core::Tensor) {
        self.0.push(Item::Words(words));
    }

    /// The `i`-th kept thing, a mask or indices on a GPU.
    #[cfg(feature = "cuda")]
    pub fn get_words(&self, i: usize) -> Result<&candle_core::Tensor> {
        match self.0.get(i) {
            Some(Item::Words(words)) => Ok(words),
            _ => Err(mixed_up()),
        }
    }

    /// The `i`-th kept thing, a value.
    pub fn get_array(&self, i: usize) -> Result<&Array> {
        match self.0.get(i) {
            Some(Item::Array(a)) => Ok(a),
            _ => Err(mixed_up()),
        }
    }

    /// The `i`-th kept thing, a mask.
    pub fn get_bits(&self, i: usize) -> Result<&Bits> {
        match self.0.get(i) {
            Some(Item::Bits(b)) => Ok(b),
            _ => Err(mixed_up()),
        }
    }

    /// The `i`-th kept thing, indices.
    pub fn get_indices(&self, i: usize) -> Result<&[u32]> {
        match self.0.get(i) {
            Some(Item::Indices { indices, .. }) => Ok(indices),
            _ => Err(mixed_up()),
        }
    }

    /// Nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let size = |item: &Item| match item {
            Item::Array(a) => a.bytes(),
            Item::Bits(b) => b.bytes(),
            Item::Indices { indices, .. } => indices.len() * 4,
            #[cfg(feature = "cuda")]
            Item::Words(words) => words.elem_count() * 4,
        };
        self.0.iter().map(size).sum()
    }

    /// The same for the images `rows` of the `images` this was made from; None where an image is not there, or
    /// something kept has not one row for each image.
    pub fn select(&self, images: usize, rows: &[usize]) -> Option<Self> {
        let rows: Vec<(usize, usize)> = rows.iter().map(|&row| (0, row)).collect();
        Self::gather(&[self], &[images], &rows)
    }

    /// What would have been kept for the images `rows`, each the place of a batch in `parts` and of an image in it;
    /// `images` says how many each batch had. None where an image is not there, something kept has not one row for each
    /// image, or the parts do not fit each other.
    pub fn gather(parts: &[&Kept], images: &[usize], rows: &[(usize, usize)]) -> Option<Self> {
        let count = parts.first()?.0.len();
        let there = |&(part, row): &(usize, usize)| images.get(part).is_some_and(|&n| row < n);
        if parts.len() != images.len() || parts.iter().any(|p| p.0.len() != count) || !rows.iter().all(there)
        {
            return None;
        }
        let item = |i: usize| {
            let items: Vec<(&Item, usize)> =
                parts.iter().map(|p| &p.0[i]).zip(images.iter().copied()).collect();
            Item::gather(&items, rows)
        };
        (0..count).map(item).collect::<Option<_>>().map(Self)
    }
}

impl Item {
    /// See [`Kept::gather`]: an item and its number of images for each part.
    fn gather(parts: &[(&Item, usize)], rows: &[(usize, usize)]) -> Option<Item> {
        match parts.first()?.0 {
            Item::Array(_) => {
                let array = |&(item, n): &(&'_ Item, usize)| match item {
                    Item::Array(a) if a.dims().first() == Some(&n) => Some(a.clone()),
                    _ => None,
                };
                let arrays: Vec<Array> = parts.iter().map(array).collect::<Option<_>>()?;
                Array::gather(&arrays, rows).ok().map(Item::Array)
            }
            Item::Bits(first) => {
                let mut all = Vec::with_capacity(parts.len());
                for &(item, n) in parts {
                    match item {
                        Item::Bits(b) if b.rows() == n && b.bits_per_row() == first.bits_per_row() => {
                            all.push(b)
                        }
                        _ => return None,
                    }
                }
                Some(Item::Bits(Bits::gather(&all, rows)))
            }
            Item::Indices { .. } => {
                let mut all = Vec::with_capacity(parts.len());
                for &(item, n) in parts {
                    match item {
                        Item::Indices { rows, indices } if *rows == n && n > 0 => {
                            all.push((indices, indices.len() / n));
                        }
                        _ => return None,
                    }
                }
                let of = |&(part, row): &(usize, usize)| {
                    let (indices, each) = all[part];
                    &indices[row * each..(row + 1) * each]
                };
                let indices = rows.iter().flat_map(of).copied().collect();
                Some(Item::Indices { rows: rows.len(), indices })
            }
            #[cfg(feature = "cuda")]
            Item::Words(_) => {
                let mut all = Vec::with_capacity(parts.len());
                for &(item, n) in parts {
                    match item {
                        Item::Words(words) if words.dims().first() == Some(&n) => all.push(words),
                        _ => return None,
                    }
                }
                let gpu = crate::kernels::cuda::Gpu::of(all.first()?.device()).ok().flatten()?;
                Some(Item::Words(gpu.gather(&all, rows).ok()?))
            }
        }
    }
}

fn mixed_up() -> Error {
    Error::internal("a tape that another segment made")
}
