//! Picking elements axis by axis: what Gather, Slice, Split and Pad come down to.

use candle_core::{Device, Tensor};

use super::call::{Call, Output};
use super::shape::{Moved, Movement};
use crate::Result;

/// What becomes of one axis.
pub(super) enum Pick {
    All,
    /// So many from here on.
    Range {
        start: usize,
        length: usize,
    },
    /// These, in this order.
    List(Tensor),
    /// Surrounded by this many of a value.
    Surrounded {
        before: usize,
        after: usize,
        value: f32,
    },
}

impl Pick {
    /// These indices, in this order.
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

    fn there(&self, x: &Tensor, axis: usize) -> Result<Tensor> {
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

    /// The gradient with respect to a value whose axis had `size` elements.
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

/// One [`Pick`] for each axis, and a shape to give the outcome.
struct Picked {
    picks: Vec<Pick>,
    from: Vec<usize>,
    between: Vec<usize>,
    to: Vec<usize>,
}

impl Movement for Picked {
    // on a GPU, candle adds up what comes back to an index in any order
    const ANYWHERE: bool = false;

    fn there(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = x.clone();
        for (axis, pick) in self.picks.iter().enumerate() {
            y = pick.there(&y, axis)?;
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
    if let Some(axis) = from.iter().zip(&between).position(|(&f, &b)| f != b && b == 0) {
        return Err(call.error(format!("nothing is left of dimension {axis} of {from:?}")));
    }
    let rows = matches!(picks.first(), Some(Pick::All)) && to.first() == from.first();
    call.elements(&between)?;
    call.output(to.clone(), rows, Moved(Picked { picks, from, between, to }))
}
