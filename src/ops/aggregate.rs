//! ReduceMax, ReduceMin, ReduceProd, ReduceL1, ReduceL2, ReduceSumSquare, ReduceLogSum and ReduceLogSumExp. Each row of
//! elements is reduced in double precision, in order. Where the largest or smallest is there several times, each gets
//! an equal share of the gradient, as in PyTorch.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::array::Array;
use super::attributes::{Attribute, Kind};
use super::call::{Call, Lowered};
use super::exec::{Exec, only};
use super::operator::{Arity, Operator, arity};
use super::reduction::{Reduced, reduced};
use super::saved::Saved;
use crate::Result;

const AXES: &[Arity] = &[arity(7, 1, 1), arity(18, 1, 2)];
const ATTRIBUTES: &[Attribute] = &[
    Attribute::optional("axes", Kind::Ints).until(17),
    Attribute::int("keepdims", 1),
    Attribute::int("noop_with_empty_axes", 0).since(18),
];

const fn reduces(name: &'static str, lower: fn(&Call) -> Result<Lowered>) -> Operator {
    Operator::new(name, AXES, lower).attributes(ATTRIBUTES).limits("Constant axes.").axes(reduced)
}

pub const REDUCE_MAX: Operator = reduces("ReduceMax", |call| lower(call, Max(1.0)));
pub const REDUCE_MIN: Operator = reduces("ReduceMin", |call| lower(call, Max(-1.0)));
pub const REDUCE_PROD: Operator = reduces("ReduceProd", |call| lower(call, Product));
pub const REDUCE_L1: Operator = reduces("ReduceL1", |call| lower(call, L1));
pub const REDUCE_L2: Operator = reduces("ReduceL2", |call| lower(call, L2));
pub const REDUCE_SUM_SQUARE: Operator = reduces("ReduceSumSquare", |call| lower(call, SumSquare));
pub const REDUCE_LOG_SUM: Operator = reduces("ReduceLogSum", |call| lower(call, LogSum));
pub const REDUCE_LOG_SUM_EXP: Operator = reduces("ReduceLogSumExp", |call| lower(call, LogSumExp));

/// A row's number, and its gradient.
trait Row: Send + Sync + 'static {
    fn value(&self, x: &[f32]) -> f64;
    /// `dx` <- the slopes.
    fn slopes(&self, x: &[f32], dx: &mut [f32]);
    /// The number of a row of integers; None where it is beyond int64 or not defined.
    fn whole(&self, x: &[i64]) -> Option<i64>;
}

fn lower<R: Row>(call: &Call, row: R) -> Result<Lowered> {
    let shape = call.shape(0)?.to_vec();
    let plan = Reduced::new(call, &shape)?;
    if let Some(constant) = call.now(0).filter(|t| t.dtype() == DType::I64) {
        return plan.whole(call, constant, |x| row.whole(x));
    }
    call.float_shape(0)?;
    let rows = !plan.axes.contains(&0);
    call.run(plan.out.clone(), rows, Aggregate { row, plan, shape })
}

struct Aggregate<R> {
    row: R,
    plan: Reduced,
    shape: Vec<usize>,
}

impl<R: Row> Aggregate<R> {
    /// The rows that are reduced, one after the other.
    fn rows(&self, x: &Array) -> Result<Vec<f32>> {
        Ok(x.tensor().permute(self.plan.order.as_slice())?.flatten_all()?.to_vec1()?)
    }
}

impl<R: Row> Exec for Aggregate<R> {
    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        let x = only(x)?;
        if let Some(keep) = keep {
            keep.array(&x);
        }
        let rows = self.rows(&x)?;
        let y: Vec<f32> = rows.par_chunks(self.plan.count).map(|x| self.row.value(x) as f32).collect();
        Array::from_tensor(&Tensor::from_vec(y, self.plan.out.as_slice(), &Device::Cpu)?)
    }

    fn vjp(&self, kept: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        let mut rows = self.rows(kept.get_array(0)?)?;
        let dy: Vec<f32> = dy.tensor().flatten_all()?.to_vec1()?;
        rows.par_chunks_mut(self.plan.count).zip(&dy).for_each_init(Vec::new, |copy, (x, dy)| {
            copy.clear();
            copy.extend_from_slice(x);
            self.row.slopes(copy, x);
            x.iter_mut().for_each(|slope| *slope *= dy);
        });
        let permuted: Vec<usize> = self.plan.order.iter().map(|&axis| self.shape[axis]).collect();
        let dx = Tensor::from_vec(rows, permuted, &Device::Cpu)?;
        Ok(vec![Some(Array::from_tensor(&dx.permute(self.plan.inverse().as_slice())?)?)])
    }
}

/// The largest (1) or the smallest (-1).
struct Max(f32);

impl Row for Max {
    fn value(&self, x: &[f32]) -> f64 {
        let start = x.first().copied().unwrap_or(0.0);
        x.iter().fold(start, |a, &b| if b.is_nan() || self.0 * a < self.0 * b { b } else { a }).into()
    }
    fn slopes(&self, x: &[f32], dx: &mut [f32]) {
        let most = self.value(x) as f32;
        let share = 1.0 / x.iter().filter(|&&v| v == most).count() as f32;
        dx.iter_mut().zip(x).for_each(|(dx, &x)| *dx = if x == most { share } else { 0.0 });
    }
    fn whole(&self, x: &[i64]) -> Option<i64> {
        if self.0 > 0.0 { x.iter().max().copied() } else { x.iter().min().copied() }
    }
}

struct Product;

impl Row for Product {
    fn value(&self, x: &[f32]) -> f64 {
        x.iter().map(|&v| f64::from(v)).product()
    }
    /// The product of all others: of those before times that of those behind.
    fn slopes(&self, x: &[f32], dx: &mut [f32]) {
        let mut behind = vec![1.0; x.len()];
        for i in (1..x.len()).rev() {
            behind[i - 1] = behind[i] * f64::from(x[i]);
        }
        let mut before = 1.0;
        for (i, dx) in dx.iter_mut().enumerate() {
            *dx = (before * behind[i]) as f32;
            before *= f64::from(x[i]);
        }
    }
    fn whole(&self, x: &[i64]) -> Option<i64> {
        x.iter().try_fold(1i64, |all, &v| all.checked_mul(v))
    }
}

struct L1;

impl Row for L1 {
    fn value(&self, x: &[f32]) -> f64 {
        x.iter().map(|&v| f64::from(v).abs()).sum()
    }
    fn slopes(&self, x: &[f32], dx: &mut [f32]) {
        dx.iter_mut().zip(x).for_each(|(dx, &x)| *dx = if x == 0.0 { 0.0 } else { x.signum() });
    }
    fn whole(&self, x: &[i64]) -> Option<i64> {
        x.iter().try_fold(0i64, |sum, &v| sum.checked_add(v.checked_abs()?))
    }
}

struct L2;

impl Row for L2 {
    fn value(&self, x: &[f32]) -> f64 {
        SumSquare.value(x).sqrt()
    }
    /// 0 where the norm is 0, as in PyTorch.
    fn slopes(&self, x: &[f32], dx: &mut [f32]) {
        let norm = self.value(x);
        let scale = if norm == 0.0 { 0.0 } else { 1.0 / norm };
        dx.iter_mut().zip(x).for_each(|(dx, &x)| *dx = (f64::from(x) * scale) as f32);
    }
    fn whole(&self, _: &[i64]) -> Option<i64> {
        None
    }
}

struct SumSquare;

impl Row for SumSquare {
    fn value(&self, x: &[f32]) -> f64 {
        x.iter().map(|&v| f64::from(v) * f64::from(v)).sum()
    }
    fn slopes(&self, x: &[f32], dx: &mut [f32]) {
        dx.iter_mut().zip(x).for_each(|(dx, &x)| *dx = 2.0 * x);
    }
    fn whole(&self, x: &[i64]) -> Option<i64> {
        x.iter().try_fold(0i64, |sum, &v| sum.checked_add(v.checked_mul(v)?))
    }
}

struct LogSum;

impl Row for LogSum {
    fn value(&self, x: &[f32]) -> f64 {
        x.iter().map(|&v| f64::from(v)).sum::<f64>().ln()
    }
    fn slopes(&self, x: &[f32], dx: &mut [f32]) {
        let sum: f64 = x.iter().map(|&v| f64::from(v)).sum();
        dx.fill((1.0 / sum) as f32);
    }
    fn whole(&self, _: &[i64]) -> Option<i64> {
        None
    }
}

struct LogSumExp;

impl Row for LogSumExp {
    fn value(&self, x: &[f32]) -> f64 {
        let most = Max(1.0).value(x);
        if most.is_infinite() {
            return most;
        }
        most + x.iter().map(|&v| (f64::from(v) - most).exp()).sum::<f64>().ln()
    }
    fn slopes(&self, x: &[f32], dx: &mut [f32]) {
        let whole = self.value(x);
        dx.iter_mut().zip(x).for_each(|(dx, &x)| *dx = (f64::from(x) - whole).exp() as f32);
    }
    fn whole(&self, _: &[i64]) -> Option<i64> {
        None
    }
}
