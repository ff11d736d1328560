//! Selecting elements axis by axis, the common core of Gather, Slice, Split and Pad.

use candle_core::{Device, Tensor};

use super::call::{Call, Output};
use super::shape::{Moved, Movement};
use crate::Result;

/// What is selected along one axis.
pub(super) enum Pick {
    All,
    /// `length` elements from `start` on.
    Range {
        start: usize,
        length: usize,
    },
    /// Elements by index.
    List(Tensor),
    /// All elements, padded with a constant.
    Surrounded {
        before: usize,
        after: usize,
        value: f32,
    },
}

impl Pick {
    /// Selects `indices`, in this order.
    pub fn list(indices: &[usize], size: usize) -> Result<Self> {
        let start = indices.first().copied().unwrap_or(0);
        if indices.iter().enumerate().all(|(i, &x)| x == start + i) {
            return Ok(match (start, indices.len()) {
                (0, n) if n == size => Self::All,
                (start, length) => Self::Range { start, length },
            });
        }
        let indices: Vec<u32> = indices.iter().map(|&i| i as u32).collect();
        let length = indices.len();
        Ok(Self::List(Tensor::from_vec(indices, length, &Device::Cpu)?))
    }

    fn apply(&self, x: &Tensor, axis: usize) -> Result<Tensor> {
        Ok(match self {
            Self::All => x.clone(),
            Self::Range { start, length } => x.narrow(axis, *start, *length)?,
            Self::List(indices) => x.contiguous()?.index_select(indices, axis)?,
            Self::Surrounded { before, after, value } => {
                let mut dims = x.dims().to_vec();
                let mut block = |length: usize| {
                    dims[axis] = length;
                    Tensor::full(*value, dims.as_slice(), x.device())
                };
                let (before, after) = (block(*before)?, block(*after)?);
                let parts: Vec<&Tensor> =
                    [&before, x, &after].into_iter().filter(|t| t.dims()[axis] > 0).collect();
                cat(&parts, axis)?
            }
        })
    }

    /// The input's gradient; its axis had `size` elements.
    fn back(&self, dy: &Tensor, axis: usize, size: usize) -> Result<Tensor> {
        Ok(match self {
            Self::All => dy.clone(),
            Self::Range { start, length } => {
                dy.contiguous()?.pad_with_zeros(axis, *start, size - start - length)?
            }
            Self::List(indices) => {
                let mut dims = dy.dims().to_vec();
                dims[axis] = size;
                Tensor::zeros(dims, dy.dtype(), dy.device())?.index_add(indices, &dy.contiguous()?, axis)?
            }
            Self::Surrounded { before, .. } => dy.narrow(axis, *before, size)?,
        })
    }
}

pub(super) fn cat(parts: &[&Tensor], axis: usize) -> Result<Tensor> {
    let parts: Vec<Tensor> = parts.iter().map(|t| t.contiguous()).collect::<candle_core::Result<_>>()?;
    Ok(Tensor::cat(&parts, axis)?)
}

/// One [`Pick`] per axis, and the shape of the result.
struct Picked {
    picks: Vec<Pick>,
    from: Vec<usize>,
    between: Vec<usize>,
    to: Vec<usize>,
}

impl Movement for Picked {
    // candle's scatter-add on a GPU has no fixed order of addition
    const ANYWHERE: bool = false;

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = x.clone();
        for (axis, pick) in self.picks.iter().enumerate() {
            y = pick.apply(&y, axis)?;
        }
        Ok(if self.to == self.between { y } else { y.contiguous()?.reshape(self.to.as_slice())? })
    }

    fn back(&self, dy: &Tensor) -> Result<Tensor> {
        let mut dx = if self.to == self.between { dy.clone() } else { dy.reshape(self.between.as_slice())? };
        for (axis, pick) in self.picks.iter().enumerate().rev() {
            dx = pick.back(&dx, axis, self.from[axis])?;
        }
        Ok(dx)
    }
}

pub(super) fn picked(call: &Call, picks: Vec<Pick>, between: Vec<usize>, to: Vec<usize>) -> Result<Output> {
    let from = call.shape(0)?.to_vec();
    // shape arithmetic may leave an empty list
    let empty = from.iter().zip(&between).position(|(&f, &b)| f != b && b == 0);
    if let Some(axis) = empty.filter(|_| call.folding.is_none()) {
        return Err(call.error(format!("nothing is left of dimension {axis} of {from:?}")));
    }
    let rows = matches!(picks.first(), Some(Pick::All)) && to.first() == from.first();
    call.elements(&between)?;
    call.output(to.clone(), rows, Moved(Picked { picks, from, between, to }))
}
