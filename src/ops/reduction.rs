//! Means and sums over dimensions. The mean over all pixels, with which classifiers end, has a kernel of its own.

use candle_core::{DType, Tensor};

use super::array::Array;
use super::attributes::{Attribute, Kind};
use super::axes::Axes;
use super::axes_rules;
use super::call::{Call, Lowered};
use super::exec::{Exec, only};
use super::operator::{Operator, Placement, arity};
use super::saved::Saved;
use crate::Result;
use crate::kernels::{Window, buffers, pool};

pub const REDUCE_MEAN: Operator =
    Operator::new("ReduceMean", &[arity(7, 1, 1), arity(18, 1, 2)], |call| lower(call, true))
        .attributes(&[
            Attribute::optional("axes", Kind::Ints).until(17),
            Attribute::int("keepdims", 1),
            Attribute::int("noop_with_empty_axes", 0).since(18),
        ])
        .limits("Constant axes.")
        .on_gpu(Placement::Partly)
        .axes(reduced);

pub const REDUCE_SUM: Operator =
    Operator::new("ReduceSum", &[arity(7, 1, 1), arity(13, 1, 2)], |call| lower(call, false))
        .attributes(&[
            Attribute::optional("axes", Kind::Ints).until(12),
            Attribute::int("keepdims", 1),
            Attribute::int("noop_with_empty_axes", 0).since(13),
        ])
        .limits("Constant axes.")
        .on_gpu(Placement::Partly)
        .axes(reduced);

/// Which elements of a value are reduced to one.
pub(super) struct Reduced {
    pub axes: Vec<usize>,
    /// The output's shape with the reduced dimensions as 1.
    kept: Vec<usize>,
    pub out: Vec<usize>,
    /// How many elements become one.
    pub count: usize,
    /// The axes, those that are reduced last.
    pub order: Vec<usize>,
}

impl Reduced {
    /// What the node reduces of its first input, of this shape.
    pub fn new(call: &Call, shape: &[usize]) -> Result<Self> {
        if shape.contains(&0) {
            return Err(call.error(format!("a reduction of no elements, of a value of shape {shape:?}")));
        }
        let axes = reduced_axes(call, shape.len())?;
        let mut kept = shape.to_vec();
        axes.iter().for_each(|&a| kept[a] = 1);
        let mut order: Vec<usize> = (0..shape.len()).filter(|a| !axes.contains(a)).collect();
        let out = match call.flag("keepdims")? {
            true => kept.clone(),
            false => order.iter().map(|&a| shape[a]).collect(),
        };
        order.extend(&axes);
        let count = axes.iter().map(|&a| shape[a]).product();
        Ok(Self { axes, kept, out, count, order })
    }

    /// By axis: its place in `order`.
    pub fn inverse(&self) -> Vec<usize> {
        let mut inverse = vec![0; self.order.len()];
        self.order.iter().enumerate().for_each(|(place, &axis)| inverse[axis] = place);
        inverse
    }

    /// The result for constant integers; `row` gives None where int64 does not hold a row's.
    pub fn whole(
        &self,
        call: &Call,
        constant: &Tensor,
        row: impl Fn(&[i64]) -> Option<i64>,
    ) -> Result<Lowered> {
        let rows: Vec<i64> = constant.permute(self.order.as_slice())?.flatten_all()?.to_vec1()?;
        let values: Option<Vec<i64>> = rows.chunks(self.count).map(row).collect();
        let values =
            values.ok_or_else(|| call.error("a number beyond int64, or not defined for integers"))?;
        call.known(&Tensor::from_vec(values, self.out.as_slice(), constant.device())?)
    }
}

fn lower(call: &Call, mean: bool) -> Result<Lowered> {
    let shape = call.shape(0)?.to_vec();
    let plan = Reduced::new(call, &shape)?;
    if let Some(constant) = call.now(0).filter(|t| t.dtype() == DType::I64) {
        let sum = |x: &[i64]| x.iter().try_fold(0i64, |sum, &v| sum.checked_add(v));
        let row = |x: &[i64]| if mean { Some(sum(x)? / x.len() as i64) } else { sum(x) };
        return plan.whole(call, constant, row);
    }
    call.float_shape(0)?;
    let Reduced { axes, kept, out, count, .. } = plan;
    let rows = !axes.contains(&0);
    let factor = if mean { 1.0 / count as f64 } else { 1.0 };
    if let (&[n, c, h, w], true) =
        (shape.as_slice(), axes.len() == 2 && axes.contains(&2) && axes.contains(&3))
    {
        let factor = if mean { 1.0 } else { count as f32 };
        return call.run(out.clone(), rows, over_pixels([n, c, h, w], factor, out));
    }
    call.run(out.clone(), rows, Reduce { axes, factor, kept, out, shape })
}

/// The axes of a value of rank `rank` that a node reduces.
fn reduced_axes(call: &Call, rank: usize) -> Result<Vec<usize>> {
    let given = match call.integers(1)? {
        Some(axes) => axes,
        None => call.ints("axes").unwrap_or(&[]).to_vec(),
    };
    match (given.is_empty(), call.flag("noop_with_empty_axes")?) {
        (true, true) => Ok(vec![]),
        (true, false) => Ok((0..rank).collect()),
        (false, _) => call.axes(&given, rank),
    }
}

/// See [`axes_rules::without`].
pub(super) fn reduced(call: &Call, out: &[usize]) -> Axes {
    let rank = call.shape(0).map_or(0, <[usize]>::len);
    reduced_axes(call, rank)
        .map_or_else(|_| axes_rules::unknown(call, out), |axes| axes_rules::without(call, out, &axes))
}

/// The mean over all pixels times `factor`, from (N, C, H, W) to (N, C, 1, 1) or (N, C).
pub(super) fn over_pixels(from: [usize; 4], factor: f32, to: Vec<usize>) -> impl Exec {
    let [_, c, h, w] = from;
    let pool = pool::AveragePool::new(&Window::new([h, w]), false, false, c, [h, w]);
    OverPixels { pool, factor, from, to }
}

pub(super) struct OverPixels {
    pool: pool::AveragePool,
    pub(super) factor: f32,
    pub(super) from: [usize; 4],
    pub(super) to: Vec<usize>,
}

impl OverPixels {
    fn scaled(&self, mut values: Vec<f32>) -> Vec<f32> {
        if self.factor != 1.0 {
            values.iter_mut().for_each(|v| *v *= self.factor);
        }
        values
    }
}

impl Exec for OverPixels {
    fn on_gpu(&self, _: &[usize]) -> Option<&dyn super::on_gpu::OnGpu> {
        Some(self)
    }

    fn forward(&self, x: Vec<Array>, _: Option<&mut Saved>) -> Result<Array> {
        let [n, c, ..] = self.from;
        let mut y = buffers::take(n * c);
        self.pool.forward(&only(x)?.read()?, n, &mut y);
        Array::new(self.scaled(y), &self.to)
    }

    fn vjp(&self, _: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        let dy = self.scaled(dy.into_vec()?);
        let mut dx = buffers::take(self.from.iter().product());
        self.pool.backward(&dy, self.from[0], &mut dx);
        buffers::give(dy);
        Ok(vec![Some(Array::new(dx, &self.from)?)])
    }
}

struct Reduce {
    axes: Vec<usize>,
    factor: f64,
    /// The output's shape with the reduced dimensions as 1.
    kept: Vec<usize>,
    out: Vec<usize>,
    shape: Vec<usize>,
}

impl Reduce {
    fn scaled(&self, t: &Tensor) -> Result<Tensor> {
        Ok(if self.factor == 1.0 { t.clone() } else { t.affine(self.factor, 0.0)? })
    }
}

impl Exec for Reduce {
    fn forward(&self, x: Vec<Array>, _: Option<&mut Saved>) -> Result<Array> {
        if self.axes.is_empty() {
            return only(x);
        }
        let sum = only(x)?.tensor().sum_keepdim(self.axes.clone())?.reshape(self.out.as_slice())?;
        Array::from_tensor(&self.scaled(&sum)?)
    }

    fn vjp(&self, _: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        let dx = self.scaled(&dy.tensor().reshape(self.kept.as_slice())?)?;
        Ok(vec![Some(dy.derive(&dx.broadcast_as(self.shape.as_slice())?)?)])
    }
}
