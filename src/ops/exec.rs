//! What an operator is lowered to: something that runs, and takes gradients back.

use std::sync::Arc;

use super::array::Array;
use super::conv::ConvSpec;
use super::normalization::Affine;
use crate::kernels::{Backward, Bits};
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

    /// [`Exec::vjp`] with more done in the same pass, for those whose [`Form`] is a convolution: `way` says what.
    fn vjp_on_the_way(&self, kept: &Kept, dy: Array, want: &[bool], way: Way) -> Result<Vec<Option<Array>>> {
        let _ = way;
        self.vjp(kept, dy, want)
    }

    /// What may be joined with a neighbour.
    fn form(&self) -> Form<'_> {
        Form::Other
    }
}

/// What a convolution takes in on the gradient's way back.
#[derive(Clone, Copy, Default)]
pub struct Way<'a> {
    /// The gradient that comes in is masked already, if the convolution ends with a Relu.
    pub masked: bool,
    /// What is done to the gradient of the first input on its way to memory.
    pub back: Backward<'a>,
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
        };
        self.0.iter().map(size).sum()
    }

    /// The same for the images `rows` of the `images` this was made from; None where an image is not there, or
    /// something kept has not one row for each image.
    pub fn select(&self, images: usize, rows: &[usize]) -> Option<Self> {
        if rows.iter().any(|&r| r >= images) {
            return None;
        }
        let one = |item: &Item| match item {
            Item::Array(a) if a.dims().first() == Some(&images) => a.select(rows).ok().map(Item::Array),
            Item::Bits(b) if b.rows() == images => Some(Item::Bits(b.select(rows))),
            Item::Indices { rows: n, indices } if *n == images => {
                let row = indices.len() / images;
                let indices = rows.iter().flat_map(|r| &indices[r * row..(r + 1) * row]).copied().collect();
                Some(Item::Indices { rows: rows.len(), indices })
            }
            _ => None,
        };
        self.0.iter().map(one).collect::<Option<_>>().map(Self)
    }

    /// What was kept for several batches, as if they had been one; None where they do not fit each other.
    pub fn cat(parts: &[&Kept]) -> Option<Self> {
        let first = parts.first()?;
        if parts.iter().any(|p| p.0.len() != first.0.len()) {
            return None;
        }
        let joined = first.0.iter().enumerate().map(|(i, item)| {
            let all = parts.iter().map(|p| &p.0[i]);
            match item {
                Item::Array(_) => {
                    let arrays: Option<Vec<&Array>> =
                        all.map(|x| if let Item::Array(a) = x { Some(a) } else { None }).collect();
                    Array::cat(&arrays?).ok().map(Item::Array)
                }
                Item::Bits(b) => {
                    let bits: Option<Vec<&Bits>> = all
                        .map(|x| match x {
                            Item::Bits(o) if o.bits_per_row() == b.bits_per_row() => Some(o),
                            _ => None,
                        })
                        .collect();
                    Some(Item::Bits(Bits::cat(&bits?)))
                }
                Item::Indices { .. } => {
                    let (mut rows, mut joined) = (0, Vec::new());
                    for x in all {
                        let Item::Indices { rows: n, indices } = x else { return None };
                        rows += n;
                        joined.extend_from_slice(indices);
                    }
                    Some(Item::Indices { rows, indices: joined })
                }
            }
        });
        joined.collect::<Option<_>>().map(Self)
    }
}

fn mixed_up() -> Error {
    Error::internal("a tape that another segment made")
}
