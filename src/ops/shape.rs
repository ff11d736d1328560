//! Operators that only move elements, that only read a shape, or that do nothing at inference.

use candle_core::{Device, Tensor};

use super::array::Array;
use super::attributes::{Attribute, Kind};
use super::axes_rules;
use super::broadcast::{self, sum_to};
use super::call::{Call, Lowered};
use super::exec::Exec;
use super::operator::{BINARY, Operator, Placement, UNARY, arity};
use super::saved::Saved;
use crate::Result;

pub const FLATTEN: Operator = Operator::new("Flatten", UNARY, lower_flatten)
    .attributes(&[Attribute::int("axis", 1)])
    .on_gpu(Placement::Candle)
    .axes(axes_rules::reshaped);

pub const RESHAPE: Operator = Operator::new("Reshape", BINARY, lower_reshape)
    .attributes(&[Attribute::int("allowzero", 0).since(14)])
    .limits("A constant shape.")
    .on_gpu(Placement::Candle)
    .axes(axes_rules::reshaped);

pub const TRANSPOSE: Operator = Operator::new("Transpose", UNARY, lower_transpose)
    .attributes(&[Attribute::optional("perm", Kind::Ints)])
    .on_gpu(Placement::Candle)
    .axes(axes_rules::transposed);

pub const SQUEEZE: Operator = Operator::new("Squeeze", &[arity(7, 1, 1), arity(13, 1, 2)], lower_squeeze)
    .attributes(&[Attribute::optional("axes", Kind::Ints).until(12)])
    .limits("Constant axes.")
    .on_gpu(Placement::Candle)
    .axes(axes_rules::without_singles);

pub const UNSQUEEZE: Operator =
    Operator::new("Unsqueeze", &[arity(7, 1, 1), arity(13, 2, 2)], lower_unsqueeze)
        .attributes(&[Attribute::required("axes", Kind::Ints).until(12)])
        .limits("Constant axes.")
        .on_gpu(Placement::Candle)
        .axes(axes_rules::without_singles);

pub const IDENTITY: Operator = Operator::new("Identity", UNARY, same).on_gpu(Placement::Candle);

pub const DROPOUT: Operator = Operator::new("Dropout", &[arity(7, 1, 1), arity(12, 1, 3)], |call| {
    match (call.constant(1)?, call.integers(2)?.as_deref()) {
        (_, None | Some([0])) => same(call),
        _ => Err(call.error("`training_mode` is true, expected an exported inference network")),
    }
})
.attributes(&[Attribute::float("ratio", 0.5).until(11), Attribute::optional("seed", Kind::Int).since(12)])
.outputs(&[arity(7, 1, 2)], &["mask"])
.limits("Inference: `training_mode` is false; the mask is not computed.")
.on_gpu(Placement::Candle);

pub const EXPAND: Operator = Operator::new("Expand", &[arity(8, 2, 2)], lower_expand)
    .limits("A constant shape.")
    .on_gpu(Placement::Candle);

pub const SHAPE: Operator = Operator::new("Shape", UNARY, lower_shape)
    .attributes(&[Attribute::int("start", 0).since(15), Attribute::optional("end", Kind::Int).since(15)])
    .on_gpu(Placement::Nowhere);

pub const SIZE: Operator = Operator::new("Size", UNARY, |call| {
    let count = call.elements(call.shape(0)?)?;
    call.known(&Tensor::new(count as i64, &Device::Cpu)?)
})
.on_gpu(Placement::Nowhere);

/// A rearrangement of elements, with its gradient.
pub(super) trait Movement: Send + Sync + 'static {
    /// candle computes both directions on any device, in a fixed order.
    const ANYWHERE: bool = true;
    fn apply(&self, x: &Tensor) -> Result<Tensor>;
    /// The gradient with respect to the input.
    fn back(&self, dy: &Tensor) -> Result<Tensor>;
}

pub(super) struct Moved<M>(pub M);

impl<M: Movement> Exec for Moved<M> {
    fn runs_anywhere(&self) -> bool {
        M::ANYWHERE
    }

    fn forward(&self, x: Vec<Array>, _: Option<&mut Saved>) -> Result<Array> {
        let y = self.0.apply(x[0].tensor())?;
        x[0].derive(&y)
    }

    fn vjp(&self, _: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        Ok(vec![Some(dy.derive(&self.0.back(dy.tensor())?)?)])
    }
}

/// The same elements, in row-major order, in another shape.
pub(super) struct Reshape {
    pub from: Vec<usize>,
    pub to: Vec<usize>,
}

impl Movement for Reshape {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.reshape(self.to.as_slice())?)
    }
    fn back(&self, dy: &Tensor) -> Result<Tensor> {
        Ok(dy.reshape(self.from.as_slice())?)
    }
}

fn same(call: &Call) -> Result<Lowered> {
    reshape(call, call.shape(0)?.to_vec())
}

fn reshape(call: &Call, to: Vec<usize>) -> Result<Lowered> {
    let from = call.shape(0)?.to_vec();
    // elements keep their order, so rows stay rows if their number does
    let rows = from.first() == to.first();
    call.run(to.clone(), rows, Moved(Reshape { from, to }))
}

fn lower_flatten(call: &Call) -> Result<Lowered> {
    let shape = call.shape(0)?;
    let given = call.int("axis").unwrap_or(1);
    let axis = if given == shape.len() as i64 { shape.len() } else { call.axis(given, shape.len())? };
    let to = vec![shape[..axis].iter().product(), shape[axis..].iter().product()];
    reshape(call, to)
}

fn lower_reshape(call: &Call) -> Result<Lowered> {
    let from = call.shape(0)?.to_vec();
    let mut target = call.integers(1)?.unwrap_or_default();
    let elements = call.elements(&from)?;
    let fail = |target: &[i64]| call.error(format!("cannot reshape {from:?} to {target:?}"));
    // A file written for one fixed batch has that number here; replace it by the batch lowered for.
    if let (Some((written, actual)), Some(first)) = (call.batch, target.first_mut())
        && *first == written as i64
        && from.first() == Some(&actual)
    {
        *first = actual as i64;
    }
    let allow_zero = call.flag("allowzero")?;
    let mut to = Vec::with_capacity(target.len());
    let mut hole = None;
    for (i, &d) in target.iter().enumerate() {
        to.push(match d {
            -1 if hole.is_none() => {
                hole = Some(i);
                1
            }
            0 if !allow_zero => *from.get(i).ok_or_else(|| fail(&target))?,
            d => usize::try_from(d).map_err(|_| fail(&target))?,
        });
    }
    let known = to.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(|| fail(&target))?;
    match hole {
        Some(i) if known > 0 && elements % known == 0 => to[i] = elements / known,
        None if known == elements => {}
        _ => return Err(fail(&target)),
    }
    reshape(call, to)
}

fn lower_squeeze(call: &Call) -> Result<Lowered> {
    let shape = call.shape(0)?;
    let given = match call.integers(1)? {
        Some(axes) => Some(axes),
        None => call.ints("axes").map(<[i64]>::to_vec),
    };
    let axes = match given {
        Some(axes) => call.axes(&axes, shape.len())?,
        None => (0..shape.len()).filter(|&a| shape[a] == 1).collect(),
    };
    if let Some(a) = axes.iter().find(|&&a| shape[a] != 1) {
        return Err(call.error(format!("dimension {a} of {shape:?} is not 1 and cannot be squeezed")));
    }
    let to = (0..shape.len()).filter(|a| !axes.contains(a)).map(|a| shape[a]).collect();
    reshape(call, to)
}

fn lower_unsqueeze(call: &Call) -> Result<Lowered> {
    let shape = call.shape(0)?;
    let given = match call.integers(1)? {
        Some(axes) => axes,
        None => call.ints("axes").unwrap_or(&[]).to_vec(),
    };
    let rank = shape.len() + given.len();
    if rank > super::limits::RANK {
        return Err(call.error(format!("a value with {rank} dimensions")));
    }
    let axes = call.axes(&given, rank)?;
    let mut rest = shape.iter();
    let to =
        (0..rank).map(|a| if axes.contains(&a) { 1 } else { rest.next().copied().unwrap_or(1) }).collect();
    reshape(call, to)
}

struct Transpose {
    perm: Vec<usize>,
    inverse: Vec<usize>,
}

impl Movement for Transpose {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.permute(self.perm.as_slice())?)
    }
    fn back(&self, dy: &Tensor) -> Result<Tensor> {
        Ok(dy.permute(self.inverse.as_slice())?)
    }
}

fn lower_transpose(call: &Call) -> Result<Lowered> {
    let shape = call.shape(0)?;
    let perm = match call.ints("perm") {
        None => (0..shape.len()).rev().collect(),
        Some(perm) if perm.len() == shape.len() && perm.iter().all(|&p| p >= 0) => {
            call.axes(perm, shape.len())?
        }
        Some(perm) => return Err(call.error(format!("`perm` is {perm:?} for a value of shape {shape:?}"))),
    };
    let mut inverse = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(i, &p)| inverse[p] = i);
    let to = perm.iter().map(|&p| shape[p]).collect();
    call.run(to, perm.first() == Some(&0), Moved(Transpose { perm, inverse }))
}

struct Expand {
    from: Vec<usize>,
    to: Vec<usize>,
}

impl Movement for Expand {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.broadcast_as(self.to.as_slice())?)
    }
    fn back(&self, dy: &Tensor) -> Result<Tensor> {
        sum_to(dy, &self.from)
    }
}

fn lower_expand(call: &Call) -> Result<Lowered> {
    let from = call.shape(0)?.to_vec();
    let target = call.integers(1)?.unwrap_or_default();
    let target: Option<Vec<usize>> = target.iter().map(|&d| usize::try_from(d).ok()).collect();
    match target.and_then(|target| broadcast::shape(&from, &target)) {
        Some(to) => {
            let rows = from.len() == to.len() && from.first() == to.first();
            call.run(to.clone(), rows, Moved(Expand { from, to }))
        }
        None => {
            Err(call.error(format!("a value of shape {from:?} cannot be broadcast to the shape asked for")))
        }
    }
}

fn lower_shape(call: &Call) -> Result<Lowered> {
    let shape = call.shape(0)?;
    let rank = shape.len() as i64;
    let bound = |v: i64| if v < 0 { v.saturating_add(rank) } else { v }.clamp(0, rank) as usize;
    let (start, end) = (bound(call.int("start").unwrap_or(0)), bound(call.int("end").unwrap_or(rank)));
    let dims: Vec<i64> = shape.get(start..end).unwrap_or(&[]).iter().map(|&d| d as i64).collect();
    let length = dims.len();
    call.known(&Tensor::from_vec(dims, length, &Device::Cpu)?)
}
