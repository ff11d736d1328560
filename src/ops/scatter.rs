//! GatherElements, GatherND, ScatterElements and ScatterND, with constant indices.

use candle_core::{DType, Device, Tensor};

use super::array::Array;
use super::attributes::Attribute;
use super::axes_rules;
use super::call::{Call, Input, Lowered};
use super::combine::exact_floats;
use super::exec::Exec;
use super::operator::{Operator, arity};
use super::relocate::{Table, relocated};
use super::saved::Saved;
use super::walk::strides;
use crate::error::printable;
use crate::{Error, Result};

pub const GATHER_ELEMENTS: Operator =
    Operator::new("GatherElements", &[arity(11, 2, 2)], lower_gather_elements)
        .attributes(&[Attribute::int("axis", 0)])
        .limits("Constant indices.");

pub const GATHER_ND: Operator = Operator::new("GatherND", &[arity(11, 2, 2)], lower_gather_nd)
    .attributes(&[Attribute::int("batch_dims", 0).since(12)])
    .limits("Constant indices.")
    .axes(axes_rules::unknown);

const REDUCTIONS: &str = "Constant indices; values that depend on the image are put in place or added, not multiplied or compared.";

pub const SCATTER_ELEMENTS: Operator =
    Operator::new("ScatterElements", &[arity(11, 3, 3)], lower_scatter_elements)
        .attributes(&[Attribute::int("axis", 0), Attribute::text("reduction", "none").since(16)])
        .limits(REDUCTIONS)
        .axes(axes_rules::kept);

pub const SCATTER_ND: Operator = Operator::new("ScatterND", &[arity(11, 3, 3)], lower_scatter_nd)
    .attributes(&[Attribute::text("reduction", "none").since(16)])
    .limits(REDUCTIONS);

/// `index` of a dimension of `size`; negative counts from the end.
fn resolved(call: &Call, index: i64, size: usize) -> Result<usize> {
    let from_front = if index < 0 { index.saturating_add(size as i64) } else { index };
    match usize::try_from(from_front).ok().filter(|&i| i < size) {
        Some(index) => Ok(index),
        None => Err(call.error(format!("index {index} of a dimension of {size}"))),
    }
}

/// By element of `indices` (row-major): the place in a value of shape `data` whose index along `axis` it is.
fn along(call: &Call, data: &[usize], shape: &[usize], indices: &[i64], axis: usize) -> Result<Vec<u32>> {
    let fits = |(d, (i, data)): (usize, (&usize, &usize))| d == axis || i <= data;
    if shape.len() != data.len() || !shape.iter().zip(data).enumerate().all(fits) {
        return Err(call.error(format!("indices of shape {shape:?} into a value of shape {data:?}")));
    }
    let (own, other) = (strides(shape, true), strides(data, true));
    let place = |(at, &index): (usize, &i64)| {
        let index = resolved(call, index, data[axis])?;
        let coordinate = |d: usize| if d == axis { index } else { at / own[d] % shape[d] };
        Ok((0..shape.len()).map(|d| coordinate(d) * other[d]).sum::<usize>() as u32)
    };
    indices.iter().enumerate().map(place).collect()
}

fn lower_gather_elements(call: &Call) -> Result<Lowered> {
    let data = call.full_shape(0)?.to_vec();
    let axis = call.axis(call.int("axis").unwrap_or(0), data.len())?;
    let indices = call.integers(1)?.unwrap_or_default();
    let to = call.full_shape(1)?.to_vec();
    call.elements(&data)?;
    let from = along(call, &data, &to, &indices, axis)?;
    relocated(call, &[0], to, &Table { from, rows: false })
}

/// By tuple of the last dimension of `indices`: the first element of the block of `data` that it names, and the
/// block's number of elements. The first `batch` dimensions of both are the same.
fn tuples(
    call: &Call,
    data: &[usize],
    shape: &[usize],
    indices: &[i64],
    batch: usize,
) -> Result<(Vec<usize>, usize)> {
    let length = shape.last().copied().unwrap_or(0);
    let named = data.get(batch..batch.saturating_add(length));
    let Some(named) = named.filter(|_| shape.len() > batch && data[..batch] == shape[..batch]) else {
        return Err(call.error(format!("indices of shape {shape:?} into a value of shape {data:?}")));
    };
    let own = strides(data, true);
    let block: usize = data[batch + length..].iter().product();
    let each: usize = shape[batch..shape.len() - 1].iter().product();
    let count: usize = shape[..shape.len() - 1].iter().product();
    let images: usize = data[batch..].iter().product();
    let start = |tuple: usize| {
        let mut at = tuple / each.max(1) * images;
        for (d, &size) in named.iter().enumerate() {
            at += resolved(call, indices[tuple * length + d], size)? * own[batch + d];
        }
        Ok(at)
    };
    Ok(((0..count).map(start).collect::<Result<_>>()?, block))
}

fn blocks(starts: &[usize], block: usize) -> Vec<u32> {
    starts.iter().flat_map(|&start| (start..start + block).map(|at| at as u32)).collect()
}

fn lower_gather_nd(call: &Call) -> Result<Lowered> {
    let data = call.full_shape(0)?.to_vec();
    let batch = call.int("batch_dims").unwrap_or(0);
    let batch = usize::try_from(batch).map_err(|_| call.error("attribute `batch_dims` is below 0"))?;
    let indices = call.integers(1)?.unwrap_or_default();
    let shape = call.full_shape(1)?.to_vec();
    call.elements(&data)?;
    let (starts, block) = tuples(call, &data, &shape, &indices, batch)?;
    let mut to = shape[..shape.len() - 1].to_vec();
    to.extend(&data[batch + shape[shape.len() - 1]..]);
    call.elements(&to)?;
    relocated(call, &[0], to, &Table { from: blocks(&starts, block), rows: false })
}

fn lower_scatter_elements(call: &Call) -> Result<Lowered> {
    let data = call.full_shape(0)?.to_vec();
    let axis = call.axis(call.int("axis").unwrap_or(0), data.len())?;
    let indices = call.integers(1)?.unwrap_or_default();
    let shape = call.full_shape(1)?.to_vec();
    if call.shape(2)? != shape {
        return Err(call.error(format!("{:?} updates for indices of shape {shape:?}", call.shape(2)?)));
    }
    call.elements(&data)?;
    let targets = along(call, &data, &shape, &indices, axis)?;
    scattered(call, data, &targets)
}

fn lower_scatter_nd(call: &Call) -> Result<Lowered> {
    let data = call.full_shape(0)?.to_vec();
    let indices = call.integers(1)?.unwrap_or_default();
    let shape = call.full_shape(1)?.to_vec();
    call.elements(&data)?;
    let (starts, block) = tuples(call, &data, &shape, &indices, 0)?;
    let mut expected = shape[..shape.len() - 1].to_vec();
    expected.extend(&data[shape[shape.len() - 1]..]);
    if call.shape(2)? != expected {
        return Err(call.error(format!("updates of shape {:?}, expected {expected:?}", call.shape(2)?)));
    }
    call.elements(&expected)?;
    scattered(call, data, &blocks(&starts, block))
}

/// The updates, input 2, put into the data, input 0, at `targets` (row-major, one for each update).
fn scattered(call: &Call, data: Vec<usize>, targets: &[u32]) -> Result<Lowered> {
    let floats = [call.elem(0), call.elem(2)].map(|elem| elem.is_some_and(|elem| elem.is_float()));
    if floats[0] != floats[1] {
        return Err(call.error("data and updates of different types"));
    }
    let reduction = call.text("reduction").unwrap_or("none");
    match reduction {
        "none" => {
            let count: usize = data.iter().product();
            let mut from: Vec<u32> = (0..count as u32).collect();
            targets.iter().enumerate().for_each(|(i, &to)| from[to as usize] = (count + i) as u32);
            relocated(call, &[0, 2], data, &Table { from, rows: false })
        }
        "add" | "mul" | "max" | "min" if call.folding.is_some() => fold(call, reduction, &data, targets),
        "add" => {
            call.float_shape(0)?;
            call.float_shape(2)?;
            let targets = targets.iter().map(|&t| t as usize).collect();
            let side = |i: usize| -> Result<Side> {
                Ok(match call.input(i) {
                    Input::Constant(t) => Side::Constant(exact_floats(call, i, t)?),
                    _ => Side::Value(call.shape(i)?.to_vec()),
                })
            };
            let exec = ScatterAdd { data: side(0)?, updates: side(2)?, targets, shape: data.clone() };
            call.run(data, false, exec)
        }
        "mul" | "max" | "min" => Err(call.error(format!(
            "`reduction` is {reduction}: values that depend on the image are put in place or added alone"
        ))),
        other => Err(call.error(format!("attribute `reduction` is \"{}\"", printable(other)))),
    }
}

fn fold(call: &Call, reduction: &str, data: &[usize], targets: &[u32]) -> Result<Lowered> {
    let (Some(into), Some(updates)) = (call.now(0), call.now(2)) else {
        return Err(Error::internal("a constant is missing"));
    };
    let [into, updates] = [into.flatten_all()?, updates.flatten_all()?];
    if into.dtype() == DType::I64 {
        let mut all: Vec<i64> = into.to_vec1()?;
        for (&at, update) in targets.iter().zip(updates.to_vec1::<i64>()?) {
            let now = &mut all[at as usize];
            *now = match reduction {
                "add" => now.checked_add(update),
                "mul" => now.checked_mul(update),
                "max" => Some((*now).max(update)),
                _ => Some((*now).min(update)),
            }
            .ok_or_else(|| call.error("a number beyond int64"))?;
        }
        return call.known(&Tensor::from_vec(all, data, &Device::Cpu)?);
    }
    let mut all: Vec<f32> = into.to_vec1()?;
    for (&at, update) in targets.iter().zip(updates.to_vec1::<f32>()?) {
        let now = &mut all[at as usize];
        *now = match reduction {
            "add" => *now + update,
            "mul" => *now * update,
            "max" => now.max(update),
            _ => now.min(update),
        };
    }
    call.known(&Tensor::from_vec(all, data, &Device::Cpu)?)
}

enum Side {
    /// Its shape.
    Value(Vec<usize>),
    /// Row-major.
    Constant(Vec<f32>),
}

/// The updates added to the data.
struct ScatterAdd {
    data: Side,
    updates: Side,
    /// By update, row-major: its place in the data, row-major.
    targets: Vec<usize>,
    shape: Vec<usize>,
}

fn row_major(array: &Array) -> Result<Vec<f32>> {
    Ok(array.tensor().flatten_all()?.to_vec1()?)
}

fn array(values: Vec<f32>, shape: &[usize]) -> Result<Array> {
    Array::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)
}

impl Exec for ScatterAdd {
    fn forward(&self, x: Vec<Array>, _: Option<&mut Saved>) -> Result<Array> {
        let mut next = x.iter();
        let mut side = |side: &Side| match side {
            Side::Constant(values) => Ok(values.clone()),
            Side::Value(_) => row_major(next.next().ok_or_else(|| Error::internal("an operand is missing"))?),
        };
        let (mut data, updates) = (side(&self.data)?, side(&self.updates)?);
        self.targets.iter().zip(updates).for_each(|(&at, update)| data[at] += update);
        array(data, &self.shape)
    }

    fn vjp(&self, _: &Saved, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
        let mut want = want.iter();
        let mut grads = Vec::new();
        if let Side::Value(_) = self.data {
            grads.push((want.next() == Some(&true)).then(|| dy.clone()));
        }
        if let Side::Value(shape) = &self.updates {
            let wanted = want.next() == Some(&true);
            let dy = row_major(&dy)?;
            let picked = || array(self.targets.iter().map(|&at| dy[at]).collect(), shape);
            grads.push(wanted.then(picked).transpose()?);
        }
        Ok(grads)
    }
}
