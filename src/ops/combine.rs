//! Functions of several operands, element by element, with broadcasting: Sum, Mean, Max, Min, PRelu, Mod, Where, the
//! comparisons and the logic. Where the largest or smallest is there several times, each gets an equal share of the
//! gradient, as in PyTorch.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::array::Array;
use super::attributes::Attribute;
use super::broadcast::{self, sum_to};
use super::call::{Call, Input, Lowered};
use super::exec::Exec;
use super::operator::{Arity, BINARY, Operator, arity};
use super::saved::Saved;
use super::walk::{PART, Walk};
use crate::kernels::buffers;
use crate::onnx::tensor::DataType;
use crate::{Error, Result};

const ANY_NUMBER: &[Arity] = &[arity(7, 1, usize::MAX)];

const fn any_number(name: &'static str, lower: fn(&Call) -> Result<Lowered>) -> Operator {
    Operator::new(name, ANY_NUMBER, lower)
}

pub const SUM: Operator =
    any_number("Sum", |call| combined(call, Total { mean: false, count: call.inputs.len() }));
pub const MEAN: Operator =
    any_number("Mean", |call| combined(call, Total { mean: true, count: call.inputs.len() }));
pub const MAX: Operator = any_number("Max", |call| combined(call, Extreme { most: true }));
pub const MIN: Operator = any_number("Min", |call| combined(call, Extreme { most: false }));

pub const P_RELU: Operator = Operator::new("PRelu", BINARY, |call| {
    let (x, slope) = (call.shape(0)?, call.shape(1)?);
    if broadcast::shape(x, slope).as_deref() != Some(x) {
        return Err(call.error(format!("a slope of shape {slope:?} for a value of shape {x:?}")));
    }
    combined(call, PRelu)
});

pub const MOD: Operator = Operator::new("Mod", &[arity(10, 2, 2)], |call| {
    let truncates = call.flag("fmod")?;
    if !truncates && !call.is_integer() && call.opset < 28 {
        return Err(call.error("`fmod` is 0, which is defined for integers alone before opset 28"));
    }
    combined(call, Mod { truncates })
})
.attributes(&[Attribute::int("fmod", 0)]);

pub const WHERE: Operator =
    Operator::new("Where", &[arity(9, 3, 3)], |call| match call.elem(0).is_some_and(DataType::is_float) {
        true => Err(call.error("its condition holds floats, expected booleans")),
        false => combined(call, Where),
    });

pub const EQUAL: Operator =
    Operator::new("Equal", BINARY, |call| combined(call, Compare(|a, b| a == b, |a, b| a == b)));
pub const LESS: Operator =
    Operator::new("Less", BINARY, |call| combined(call, Compare(|a, b| a < b, |a, b| a < b)));
pub const GREATER: Operator =
    Operator::new("Greater", BINARY, |call| combined(call, Compare(|a, b| a > b, |a, b| a > b)));
pub const LESS_OR_EQUAL: Operator = Operator::new("LessOrEqual", &[arity(12, 2, 2)], |call| {
    combined(call, Compare(|a, b| a <= b, |a, b| a <= b))
});
pub const GREATER_OR_EQUAL: Operator = Operator::new("GreaterOrEqual", &[arity(12, 2, 2)], |call| {
    combined(call, Compare(|a, b| a >= b, |a, b| a >= b))
});
pub const AND: Operator = Operator::new("And", BINARY, |call| logic(call, |a, b| a != 0 && b != 0));
pub const OR: Operator = Operator::new("Or", BINARY, |call| logic(call, |a, b| a != 0 || b != 0));
pub const XOR: Operator = Operator::new("Xor", BINARY, |call| logic(call, |a, b| (a != 0) != (b != 0)));

fn logic(call: &Call, function: fn(i64, i64) -> bool) -> Result<Lowered> {
    if !call.is_integer() {
        return Err(call.error("an input holds floats, expected booleans"));
    }
    combined(call, Logic(function))
}

/// A function of one element of each operand.
trait Combine: Send + Sync + 'static {
    /// Whether the result is true or false.
    const BOOLEAN: bool = false;
    /// Operands before the first one whose type the result has.
    const BEFORE: usize = 0;
    /// Whether it is exact on integers: it picks and compares.
    const EXACT: bool = true;
    /// Whether slopes depend on the operands.
    const KEEPS: bool = true;

    fn value(&self, x: &[f32]) -> f32;
    /// The value for integers; None where it is beyond int64 or not defined.
    fn whole(&self, x: &[i64]) -> Option<i64>;
    /// Whether a gradient passes to operand `i`.
    fn differentiable(&self, i: usize) -> bool {
        i >= Self::BEFORE && !Self::BOOLEAN
    }
    /// The slope along operand `i`. `x` is empty if nothing is kept.
    fn slope(&self, x: &[f32], i: usize) -> f32;
}

fn combined<C: Combine>(call: &Call, function: C) -> Result<Lowered> {
    let count = call.inputs.len();
    let mut shape = Vec::new();
    for i in 0..count {
        let other = call.shape(i)?;
        shape = broadcast::shape(&shape, other).ok_or_else(|| {
            call.error(format!("input {i} of shape {other:?} cannot be broadcast to {shape:?}"))
        })?;
    }
    call.elements(&shape)?;
    let results = C::BEFORE..count;
    let floats = |i: usize| call.elem(i).is_some_and(DataType::is_float);
    if results.clone().any(|i| floats(i) != floats(C::BEFORE)) {
        return Err(call.error("inputs of different types"));
    }
    if call.folding.is_some() {
        return fold(call, &function, &shape);
    }
    if !floats(C::BEFORE) && !C::EXACT {
        call.no_integers_of_images()?;
        return Err(call.error("its inputs hold integers, expected float32"));
    }
    let elem = if C::BOOLEAN { DataType::Bool } else { result_type(call, results) };
    let per_image = (0..count).all(|i| call.row_by_row(i, &shape));
    let sides = (0..count).map(|i| side(call, i)).collect::<Result<Vec<_>>>()?;
    call.run_as(elem, shape.clone(), per_image, Combined::new(function, sides, shape))
}

/// The type in the file of what the operands `which` have in common.
fn result_type(call: &Call, mut which: std::ops::Range<usize>) -> DataType {
    let of_image = |i: usize| match call.input(i) {
        Input::Value { elem, .. } => Some(*elem),
        _ => None,
    };
    let constant = call.elem(which.start).unwrap_or(DataType::Float);
    which.find_map(of_image).unwrap_or(constant)
}

/// Operand `i`. Constant integers beside values that depend on the image have to be exact in float32.
fn side(call: &Call, i: usize) -> Result<Side> {
    Ok(match call.input(i) {
        Input::Constant(t) => Side::Constant(t.dims().to_vec(), exact_floats(call, i, t)?),
        _ => Side::Value(call.shape(i)?.to_vec()),
    })
}

/// A constant's elements, row-major, as float32.
pub(super) fn exact_floats(call: &Call, i: usize, constant: &Tensor) -> Result<Vec<f32>> {
    let flat = constant.flatten_all()?;
    if constant.dtype() == DType::F32 {
        return Ok(flat.to_vec1()?);
    }
    let integers: Vec<i64> = flat.to_vec1()?;
    match integers.iter().find(|&&v| (v as f32) as i64 != v || v == i64::MAX) {
        None => Ok(integers.into_iter().map(|v| v as f32).collect()),
        Some(v) => Err(call.error(format!(
            "input {i} holds {v}, beside integers that depend on the image; these are computed as float32, \
             exactly up to 2^24"
        ))),
    }
}

/// The result where all operands are constants.
fn fold<C: Combine>(call: &Call, function: &C, shape: &[usize]) -> Result<Lowered> {
    let count = call.inputs.len();
    let operands: Vec<&Tensor> = (0..count).filter_map(|i| call.now(i)).collect();
    let spread = |t: &&Tensor, dtype: DType| -> Result<Tensor> {
        Ok(t.to_dtype(dtype)?.broadcast_as(shape)?.flatten_all()?)
    };
    let whole = operands.iter().skip(C::BEFORE).all(|t| t.dtype() == DType::I64);
    let elements = shape.iter().product::<usize>();
    if !whole {
        let all: Vec<Vec<f32>> =
            operands.iter().map(|t| Ok(spread(t, DType::F32)?.to_vec1()?)).collect::<Result<_>>()?;
        let value = |at: usize| function.value(&all.iter().map(|v| v[at]).collect::<Vec<_>>());
        let values = Tensor::from_vec((0..elements).map(value).collect::<Vec<_>>(), shape, &Device::Cpu)?;
        return call.known(&if C::BOOLEAN { values.to_dtype(DType::I64)? } else { values });
    }
    let all: Vec<Vec<i64>> =
        operands.iter().map(|t| Ok(spread(t, DType::I64)?.to_vec1()?)).collect::<Result<_>>()?;
    let value = |at: usize| function.whole(&all.iter().map(|v| v[at]).collect::<Vec<_>>());
    let values: Option<Vec<i64>> = (0..elements).map(value).collect();
    let values = values.ok_or_else(|| call.error("a number beyond int64, or not defined for integers"))?;
    call.known(&Tensor::from_vec(values, shape, &Device::Cpu)?)
}

enum Side {
    /// Its shape.
    Value(Vec<usize>),
    /// Shape and elements, row-major.
    Constant(Vec<usize>, Vec<f32>),
}

struct Combined<C> {
    function: C,
    sides: Vec<Side>,
    walk: Walk,
    out: Vec<usize>,
}

impl<C: Combine> Combined<C> {
    fn new(function: C, sides: Vec<Side>, out: Vec<usize>) -> Self {
        let place = |side: &Side| match side {
            Side::Value(shape) => (shape.clone(), false),
            Side::Constant(shape, _) => (shape.clone(), true),
        };
        let places: Vec<(Vec<usize>, bool)> = sides.iter().map(place).collect();
        let places: Vec<(&[usize], bool)> = places.iter().map(|(s, rows)| (s.as_slice(), *rows)).collect();
        let walk = Walk::new(&out, &places);
        Self { function, sides, walk, out }
    }

    /// `result(operands, y)` for each element y of the output, which lies in `data`.
    fn each(
        &self,
        values: &[&Array],
        data: &mut [f32],
        result: impl Fn(&[f32], f32) -> f32 + Sync,
    ) -> Result<()> {
        let read = values.iter().map(|v| v.read()).collect::<Result<Vec<_>>>()?;
        let mut next = read.iter();
        let mut operands: Vec<&[f32]> = Vec::with_capacity(self.sides.len());
        for side in &self.sides {
            operands.push(match side {
                Side::Constant(_, values) => values,
                Side::Value(_) => next.next().ok_or_else(|| Error::internal("an operand is missing"))?,
            });
        }
        data.par_chunks_mut(PART).enumerate().for_each(|(part, data)| {
            let mut x = vec![0.0; operands.len()];
            let start = part * PART;
            self.walk.stretches(start..start + data.len(), |s| {
                for (j, y) in data[s.at - start..][..s.length].iter_mut().enumerate() {
                    for (k, x) in x.iter_mut().enumerate() {
                        *x = operands[k][s.from[k] + j * s.step[k]];
                    }
                    *y = result(&x, *y);
                }
            });
        });
        Ok(())
    }
}

impl<C: Combine> Exec for Combined<C> {
    fn differentiable(&self, i: usize) -> bool {
        let values = self.sides.iter().enumerate().filter(|(_, side)| matches!(side, Side::Value(_)));
        values.map(|(k, _)| k).nth(i).is_some_and(|k| self.function.differentiable(k))
    }

    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        let mut y = buffers::take(self.out.iter().product());
        self.each(&x.iter().collect::<Vec<_>>(), &mut y, |x, _| self.function.value(x))?;
        if let (Some(keep), true, false) = (keep, C::KEEPS, C::BOOLEAN) {
            x.iter().for_each(|x| keep.array(x));
        }
        Array::new(y, &self.out)
    }

    fn vjp(&self, kept: &Saved, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
        let count = self.sides.iter().filter(|side| matches!(side, Side::Value(_))).count();
        if C::BOOLEAN {
            return Ok(vec![None; count]);
        }
        let values =
            (0..count).filter(|_| C::KEEPS).map(|i| kept.get_array(i)).collect::<Result<Vec<_>>>()?;
        let mut grads = Vec::with_capacity(count);
        for (k, side) in self.sides.iter().enumerate() {
            let Side::Value(shape) = side else { continue };
            if want.get(grads.len()) != Some(&true) || !self.function.differentiable(k) {
                grads.push(None);
                continue;
            }
            let mut dx = buffers::take(dy.len());
            dx.copy_from_slice(&dy.read()?);
            if C::KEEPS {
                // a slope of 0 stops whatever comes, infinities too
                self.each(&values, &mut dx, |x, dy| match self.function.slope(x, k) {
                    0.0 => 0.0,
                    slope => dy * slope,
                })?;
            } else {
                let slope = self.function.slope(&[], k);
                dx.iter_mut().for_each(|dx| *dx *= slope);
            }
            let dx = Array::new(dx, &self.out)?;
            let same = *shape == self.out;
            grads.push(Some(if same { dx } else { dx.derive(&sum_to(dx.tensor(), shape)?)? }));
        }
        Ok(grads)
    }
}

/// The sum of all operands, or their mean.
struct Total {
    mean: bool,
    count: usize,
}

impl Combine for Total {
    const EXACT: bool = false;
    const KEEPS: bool = false;
    fn value(&self, x: &[f32]) -> f32 {
        let sum: f32 = x.iter().sum();
        if self.mean { sum / x.len() as f32 } else { sum }
    }
    fn whole(&self, _: &[i64]) -> Option<i64> {
        None
    }
    fn slope(&self, _: &[f32], _: usize) -> f32 {
        if self.mean { 1.0 / self.count as f32 } else { 1.0 }
    }
}

/// The largest or the smallest operand; NaN where there is one.
struct Extreme {
    most: bool,
}

impl Combine for Extreme {
    fn value(&self, x: &[f32]) -> f32 {
        let better = |a: f32, b: f32| if self.most { a < b } else { b < a };
        let start = x.first().copied().unwrap_or(0.0);
        x.iter().fold(start, |a, &b| if b.is_nan() || better(a, b) { b } else { a })
    }
    fn whole(&self, x: &[i64]) -> Option<i64> {
        if self.most { x.iter().max().copied() } else { x.iter().min().copied() }
    }
    fn slope(&self, x: &[f32], i: usize) -> f32 {
        let extreme = self.value(x);
        match x[i] == extreme {
            true => 1.0 / x.iter().filter(|&&v| v == extreme).count() as f32,
            false => 0.0,
        }
    }
}

/// Where the value is negative, it times a slope.
struct PRelu;

impl Combine for PRelu {
    const EXACT: bool = false;
    fn value(&self, x: &[f32]) -> f32 {
        if x[0] < 0.0 { x[0] * x[1] } else { x[0] }
    }
    fn whole(&self, x: &[i64]) -> Option<i64> {
        if x[0] < 0 { x[0].checked_mul(x[1]) } else { Some(x[0]) }
    }
    fn slope(&self, x: &[f32], i: usize) -> f32 {
        match (x[0] > 0.0, i) {
            (true, 0) => 1.0,
            (true, _) => 0.0,
            (false, 0) => x[1],
            (false, _) => x[0],
        }
    }
}

/// The remainder: with the sign of the dividend, or with that of the divisor.
struct Mod {
    truncates: bool,
}

impl Combine for Mod {
    fn value(&self, x: &[f32]) -> f32 {
        let rest = x[0] % x[1];
        if self.truncates || rest == 0.0 || (rest < 0.0) == (x[1] < 0.0) { rest } else { rest + x[1] }
    }
    fn whole(&self, x: &[i64]) -> Option<i64> {
        let rest = x[0].checked_rem(x[1])?;
        Some(if self.truncates || rest == 0 || (rest < 0) == (x[1] < 0) { rest } else { rest + x[1] })
    }
    fn slope(&self, x: &[f32], i: usize) -> f32 {
        let quotient = x[0] / x[1];
        match (i, self.truncates) {
            (0, _) => 1.0,
            (_, true) => -quotient.trunc(),
            (_, false) => -quotient.floor(),
        }
    }
}

/// The second operand where the first is true, else the third.
struct Where;

impl Combine for Where {
    const BEFORE: usize = 1;
    fn value(&self, x: &[f32]) -> f32 {
        if x[0] != 0.0 { x[1] } else { x[2] }
    }
    fn whole(&self, x: &[i64]) -> Option<i64> {
        Some(if x[0] != 0 { x[1] } else { x[2] })
    }
    fn slope(&self, x: &[f32], i: usize) -> f32 {
        f32::from((x[0] != 0.0) == (i == 1))
    }
}

/// A comparison, of floats and of integers.
struct Compare(fn(f32, f32) -> bool, fn(i64, i64) -> bool);

impl Combine for Compare {
    const BOOLEAN: bool = true;
    fn value(&self, x: &[f32]) -> f32 {
        f32::from(self.0(x[0], x[1]))
    }
    fn whole(&self, x: &[i64]) -> Option<i64> {
        Some(i64::from(self.1(x[0], x[1])))
    }
    fn slope(&self, _: &[f32], _: usize) -> f32 {
        0.0
    }
}

/// A function of two booleans.
struct Logic(fn(i64, i64) -> bool);

impl Combine for Logic {
    const BOOLEAN: bool = true;
    fn value(&self, x: &[f32]) -> f32 {
        f32::from(self.0(i64::from(x[0] != 0.0), i64::from(x[1] != 0.0)))
    }
    fn whole(&self, x: &[i64]) -> Option<i64> {
        Some(i64::from(self.0(x[0], x[1])))
    }
    fn slope(&self, _: &[f32], _: usize) -> f32 {
        0.0
    }
}
