//! ArgMax, ArgMin, TopK, OneHot and NonZero: indices of elements, and elements by their order. No gradient passes
//! through an index; TopK's values pass theirs to the elements that they are.

use std::cmp::Ordering;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::array::Array;
use super::attributes::{Attribute, Kind};
use super::axes::Axes;
use super::axes_rules;
use super::call::{Call, Lowered, Output, of_dtype};
use super::combine::exact_floats;
use super::exec::{Exec, only};
use super::operator::{Operator, Placement, UNARY, arity};
use super::saved::Saved;
use super::walk::view;
use crate::Result;
use crate::kernels::buffers;
use crate::onnx::tensor::DataType;

const ARG: &[Attribute] = &[
    Attribute::int("axis", 0),
    Attribute::int("keepdims", 1),
    Attribute::int("select_last_index", 0).since(12),
];

pub const ARG_MAX: Operator =
    Operator::new("ArgMax", UNARY, |call| lower_arg(call, true)).attributes(ARG).axes(without_axis);
pub const ARG_MIN: Operator =
    Operator::new("ArgMin", UNARY, |call| lower_arg(call, false)).attributes(ARG).axes(without_axis);

pub const TOP_K: Operator = Operator::new("TopK", &[arity(7, 1, 1), arity(10, 2, 2)], lower_top_k)
    .outputs(&[arity(7, 2, 2)], &[])
    .attributes(&[
        Attribute::int("axis", -1),
        Attribute::required("k", Kind::Int).until(9),
        Attribute::int("largest", 1).since(11),
        Attribute::int("sorted", 1).since(11),
    ])
    .limits("A constant K.");

pub const ONE_HOT: Operator = Operator::new("OneHot", &[arity(9, 3, 3)], lower_one_hot)
    .attributes(&[Attribute::int("axis", -1)])
    .limits("Constant depth and values.")
    .axes(axes_rules::unknown);

pub const NON_ZERO: Operator = Operator::new("NonZero", &[arity(9, 1, 1)], lower_non_zero)
    .limits("A constant input.")
    .on_gpu(Placement::Nowhere);

fn without_axis(call: &Call, out: &[usize]) -> Axes {
    let rank = call.shape(0).map_or(0, <[usize]>::len);
    match call.axis(call.int("axis").unwrap_or(0), rank) {
        Ok(axis) => axes_rules::without(call, out, &[axis]),
        Err(_) => axes_rules::unknown(call, out),
    }
}

/// Whether `a` comes before `b`: NaN first, as in NumPy and PyTorch.
fn before(a: f32, b: f32, largest: bool) -> Ordering {
    let (a, b) = if largest { (b, a) } else { (a, b) };
    a.partial_cmp(&b).unwrap_or_else(|| match largest {
        true => a.is_nan().cmp(&b.is_nan()),
        false => b.is_nan().cmp(&a.is_nan()),
    })
}

fn lower_arg(call: &Call, largest: bool) -> Result<Lowered> {
    let shape = call.shape(0)?.to_vec();
    let axis = call.axis(call.int("axis").unwrap_or(0), shape.len())?;
    if shape.contains(&0) {
        return Err(call.error(format!("no element of a value of shape {shape:?}")));
    }
    let mut to = shape.clone();
    match call.flag("keepdims")? {
        true => to[axis] = 1,
        false => {
            to.remove(axis);
        }
    }
    let last = call.flag("select_last_index")?;
    let arg = Arg { axis, largest, last, to: to.clone() };
    if let Some(constant) = call.now(0) {
        let [outer, along, inner] = row_major_view(&shape, axis);
        let chosen: Vec<i64> = match constant.dtype() {
            DType::I64 => {
                let all: Vec<i64> = constant.flatten_all()?.to_vec1()?;
                arg.chosen(&all, [outer, along, inner], |a, b| if largest { b.cmp(&a) } else { a.cmp(&b) })
            }
            _ => {
                let all: Vec<f32> = constant.flatten_all()?.to_vec1()?;
                arg.chosen(&all, [outer, along, inner], |a, b| before(a, b, largest))
            }
        };
        return call.known(&Tensor::from_vec(chosen, to, &Device::Cpu)?);
    }
    call.run_as(DataType::Int64, to, axis > 0, arg)
}

/// The number of elements before, along and behind an axis of a row-major value.
fn row_major_view(shape: &[usize], axis: usize) -> [usize; 3] {
    [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()]
}

struct Arg {
    axis: usize,
    largest: bool,
    /// Of equal ones the last.
    last: bool,
    to: Vec<usize>,
}

impl Arg {
    fn chosen<T: Copy + Sync>(
        &self,
        x: &[T],
        [outer, along, inner]: [usize; 3],
        order: impl Fn(T, T) -> Ordering + Sync,
    ) -> Vec<i64> {
        let chosen = |place: usize| {
            let at = |i: usize| x[(place / inner * along + i) * inner + place % inner];
            let better = |best: usize, i: usize| match order(at(i), at(best)) {
                Ordering::Less => i,
                Ordering::Equal if self.last => i,
                _ => best,
            };
            (1..along).fold(0, better) as i64
        };
        (0..outer * inner).into_par_iter().map(chosen).collect()
    }
}

impl Exec for Arg {
    fn differentiable(&self, _: usize) -> bool {
        false
    }

    fn forward(&self, x: Vec<Array>, _: Option<&mut Saved>) -> Result<Array> {
        let x = only(x)?;
        // in row-major order, since without the axis the output may lie in another order than the input
        let values: Vec<f32> = x.tensor().flatten_all()?.to_vec1()?;
        let view = row_major_view(x.dims(), self.axis);
        let chosen = self.chosen(&values, view, |a, b| before(a, b, self.largest));
        let chosen: Vec<f32> = chosen.into_iter().map(|i| i as f32).collect();
        Array::from_tensor(&Tensor::from_vec(chosen, self.to.as_slice(), &Device::Cpu)?)
    }

    fn vjp(&self, _: &Saved, _: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        Ok(vec![None])
    }
}

fn lower_top_k(call: &Call) -> Result<Lowered> {
    let shape = call.float_shape(0)?.to_vec();
    let axis = call.axis(call.int("axis").unwrap_or(-1), shape.len())?;
    let count = match call.integers(1)?.as_deref() {
        None => call.int("k").unwrap_or(0),
        Some(&[k]) => k,
        Some(other) => return Err(call.error(format!("K has {} numbers, expected one", other.len()))),
    };
    let count = usize::try_from(count).ok().filter(|k| (1..=shape[axis]).contains(k));
    let count = count.ok_or_else(|| call.error(format!("K for dimension {axis} of {shape:?}")))?;
    let largest = call.int("largest") != Some(0);
    let mut to = shape.clone();
    to[axis] = count;
    let top = |indices: bool| Top { axis, count, largest, indices, from: shape.clone(), to: to.clone() };
    if let Some(constant) = call.now(0) {
        let x: Vec<f32> = constant.flatten_all()?.to_vec1()?;
        let from = row_major_view(&shape, axis);
        let order = top(true).order(&x, from);
        let values: Vec<f32> =
            order.iter().enumerate().map(|(i, &at)| x[source(i, at, count, from)]).collect();
        let order: Vec<i64> = order.into_iter().map(i64::from).collect();
        let device = &Device::Cpu;
        return Ok(vec![
            Output::Constant(Tensor::from_vec(values, to.as_slice(), device)?),
            Output::Constant(Tensor::from_vec(order, to.as_slice(), device)?),
        ]);
    }
    Ok(vec![
        call.output(to.clone(), axis > 0, top(false))?,
        call.output_as(DataType::Int64, to.clone(), axis > 0, top(true))?,
    ])
}

/// Where the element is that output element `i` has, `at` along an axis of which `count` are taken.
fn source(i: usize, at: u32, count: usize, [_, along, inner]: [usize; 3]) -> usize {
    (i / inner / count * along + at as usize) * inner + i % inner
}

/// The first elements along an axis in their order, or their indices; of equal ones the first comes first.
struct Top {
    axis: usize,
    count: usize,
    largest: bool,
    indices: bool,
    from: Vec<usize>,
    to: Vec<usize>,
}

impl Top {
    /// By element of the output: its index along the axis.
    fn order(&self, x: &[f32], [outer, along, inner]: [usize; 3]) -> Vec<u32> {
        let mut order = vec![0; outer * self.count * inner];
        let block = self.count * inner;
        order.par_chunks_mut(block).zip(x.par_chunks(along * inner)).for_each(|(to, x)| {
            let mut all: Vec<u32> = Vec::with_capacity(along);
            for i in 0..inner {
                all.clear();
                all.extend(0..along as u32);
                let at = |index: u32| x[index as usize * inner + i];
                all.sort_by(|&a, &b| before(at(a), at(b), self.largest));
                all.iter().take(self.count).enumerate().for_each(|(k, &index)| to[k * inner + i] = index);
            }
        });
        order
    }
}

impl Exec for Top {
    fn differentiable(&self, _: usize) -> bool {
        !self.indices
    }

    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        let x = only(x)?;
        let from = view(&self.from, self.axis);
        let read = x.read()?;
        let order = self.order(&read, from);
        let mut y = buffers::take(order.len());
        for (i, (y, &at)) in y.iter_mut().zip(&order).enumerate() {
            *y = if self.indices { at as f32 } else { read[source(i, at, self.count, from)] };
        }
        if let (Some(keep), false) = (keep, self.indices) {
            keep.indices(self.to[0], order);
        }
        Array::new(y, &self.to)
    }

    fn vjp(&self, kept: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        if self.indices {
            return Ok(vec![None]);
        }
        let from = view(&self.from, self.axis);
        let mut dx = buffers::take(self.from.iter().product());
        dx.fill(0.0);
        for (i, (&at, dy)) in kept.get_indices(0)?.iter().zip(dy.read()?.iter()).enumerate() {
            dx[source(i, at, self.count, from)] = *dy;
        }
        Ok(vec![Some(Array::new(dx, &self.from)?)])
    }
}

fn lower_one_hot(call: &Call) -> Result<Lowered> {
    let shape = call.shape(0)?.to_vec();
    let single = |i: usize| -> Result<f64> {
        let Some(t) = call.constant(i)? else { return Err(call.error(format!("input {i} is missing"))) };
        match t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?.as_slice() {
            &[v] => Ok(v),
            other => Err(call.error(format!("input {i} has {} numbers, expected one", other.len()))),
        }
    };
    let depth = single(1)?;
    if !(1.0..=f64::from(u32::MAX)).contains(&depth) {
        return Err(call.error(format!("a depth of {depth}")));
    }
    let depth = depth as usize;
    let given = call.int("axis").unwrap_or(-1);
    let axis = call.axis(given, shape.len() + 1)?;
    let mut to = shape;
    to.insert(axis, depth);
    call.elements(&to)?;
    let Some(values) = call.constant(2)? else { return Err(call.error("the values are missing")) };
    if values.dims() != [2] {
        return Err(call.error(format!("values of shape {:?}, expected off and on", values.dims())));
    }
    let exec = OneHot { axis, depth, values: exact_floats(call, 2, values)?, to: to.clone() };
    if let Some(indices) = call.now(0) {
        let hot = exec.hot(&indices.to_dtype(DType::F32)?)?;
        return call.known(&Tensor::from_vec(hot, to, &Device::Cpu)?.to_dtype(values.dtype())?);
    }
    call.run_as(of_dtype(values.dtype()), to, axis > 0, exec)
}

struct OneHot {
    axis: usize,
    depth: usize,
    /// Off and on.
    values: Vec<f32>,
    to: Vec<usize>,
}

impl OneHot {
    /// Row-major. An index out of range is nowhere on; a negative one counts from the end.
    fn hot(&self, indices: &Tensor) -> Result<Vec<f32>> {
        let indices: Vec<f32> = indices.flatten_all()?.to_vec1()?;
        let [_, depth, inner] = row_major_view(&self.to, self.axis);
        let mut hot = vec![self.values[0]; self.to.iter().product()];
        for (place, &index) in indices.iter().enumerate() {
            let index = index.trunc();
            let from_front = if index < 0.0 { index + self.depth as f32 } else { index };
            if from_front >= 0.0 && from_front < self.depth as f32 {
                hot[(place / inner * depth + from_front as usize) * inner + place % inner] = self.values[1];
            }
        }
        Ok(hot)
    }
}

impl Exec for OneHot {
    fn differentiable(&self, _: usize) -> bool {
        false
    }

    fn forward(&self, x: Vec<Array>, _: Option<&mut Saved>) -> Result<Array> {
        let hot = self.hot(only(x)?.tensor())?;
        Array::from_tensor(&Tensor::from_vec(hot, self.to.as_slice(), &Device::Cpu)?)
    }

    fn vjp(&self, _: &Saved, _: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        Ok(vec![None])
    }
}

fn lower_non_zero(call: &Call) -> Result<Lowered> {
    let Some(constant) = call.now(0) else {
        return Err(
            call.error("how many elements it has depends on the image; only a constant input is supported")
        );
    };
    let shape = constant.dims().to_vec();
    let values: Vec<f32> = constant.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let own = super::walk::strides(&shape, true);
    let places: Vec<usize> = (0..values.len()).filter(|&at| values[at] != 0.0).collect();
    let index = |d: usize, at: usize| (at / own[d] % shape[d]) as i64;
    let places = &places;
    let all: Vec<i64> = (0..shape.len()).flat_map(|d| places.iter().map(move |&at| index(d, at))).collect();
    call.known(&Tensor::from_vec(all, (shape.len(), places.len()), &Device::Cpu)?)
}
