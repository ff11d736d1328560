//! CumSum: sums up to each element of an axis. Its gradient sums from the other end.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::array::Array;
use super::attributes::Attribute;
use super::call::{Call, Lowered};
use super::exec::{Exec, only};
use super::operator::{Operator, arity};
use super::saved::Saved;
use super::walk::view;
use crate::Result;

pub const CUM_SUM: Operator = Operator::new("CumSum", &[arity(11, 2, 2)], lower)
    .attributes(&[Attribute::int("exclusive", 0), Attribute::int("reverse", 0)])
    .limits("A constant axis.");

fn lower(call: &Call) -> Result<Lowered> {
    let shape = call.full_shape(0)?.to_vec();
    let axis = match call.integers(1)?.as_deref() {
        Some(&[axis]) => call.axis(axis, shape.len())?,
        _ => return Err(call.error("its axis is not one number")),
    };
    let exec = CumSum { exclusive: call.flag("exclusive")?, reverse: call.flag("reverse")?, axis };
    if let Some(constant) = call.now(0).filter(|t| t.dtype() == DType::I64) {
        let mut values: Vec<i64> = constant.flatten_all()?.to_vec1()?;
        let [_, along, inner] = exec.row_major(&shape);
        let add = |a: i64, b: i64| a.saturating_add(b);
        values
            .chunks_mut(along * inner)
            .for_each(|block| exec.sums(block, [along, inner], exec.reverse, add));
        if values.iter().any(|v| [i64::MIN, i64::MAX].contains(v)) {
            return Err(call.error("a sum beyond int64"));
        }
        return call.known(&Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    call.float_shape(0)?;
    call.run(shape, axis > 0, exec)
}

struct CumSum {
    /// Without the element itself.
    exclusive: bool,
    /// From the end.
    reverse: bool,
    axis: usize,
}

impl CumSum {
    fn row_major(&self, shape: &[usize]) -> [usize; 3] {
        let count = |dims: &[usize]| dims.iter().product();
        [count(&shape[..self.axis]), shape[self.axis], count(&shape[self.axis + 1..])]
    }

    /// Turns a block, (along, inner), into its sums.
    fn sums<T: Copy + Default>(
        &self,
        block: &mut [T],
        [along, inner]: [usize; 2],
        reverse: bool,
        add: impl Fn(T, T) -> T,
    ) {
        for i in 0..inner {
            let mut sum = T::default();
            for step in 0..along {
                let at = if reverse { along - 1 - step } else { step } * inner + i;
                let with = add(sum, block[at]);
                block[at] = if self.exclusive { sum } else { with };
                sum = with;
            }
        }
    }

    fn run(&self, value: Array, reverse: bool) -> Result<Array> {
        let shape = value.dims().to_vec();
        let [_, along, inner] = view(&shape, self.axis);
        let mut data = value.into_vec()?;
        let block = along * inner;
        data.par_chunks_mut(block)
            .for_each(|b| self.sums(b, [along, inner], reverse, |a: f32, b: f32| a + b));
        Array::new(data, &shape)
    }
}

impl Exec for CumSum {
    fn forward(&self, x: Vec<Array>, _: Option<&mut Saved>) -> Result<Array> {
        self.run(only(x)?, self.reverse)
    }

    fn vjp(&self, _: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        Ok(vec![Some(self.run(dy, !self.reverse)?)])
    }
}
