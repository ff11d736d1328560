//! LayerNormalization, RMSNormalization, GroupNormalization and InstanceNormalization: each normalizes rows to variance
//! 1, all but RMSNormalization to mean 0 as well, then scales and shifts each position. A row is what lies behind an
//! axis, a group of an image's channels, or a channel. Sums are in double precision, in an order that does not depend
//! on the number of threads.

use rayon::prelude::*;

use super::array::Array;
use super::attributes::{Attribute, Kind};
use super::broadcast;
use super::call::{Call, Lowered};
use super::exec::{Exec, only};
use super::operator::{Operator, arity};
use super::saved::Saved;
use crate::Result;
use crate::kernels::buffers;
use crate::profile::Direction;

pub const LAYER_NORMALIZATION: Operator = Operator::new("LayerNormalization", &[arity(17, 2, 3)], lower)
    .outputs(&[arity(17, 1, 3)], &["Mean", "InvStdDev"])
    .attributes(&[
        Attribute::int("axis", -1),
        Attribute::float("epsilon", 1e-5),
        Attribute::int("stash_type", 1),
    ])
    .limits("Scale and B are constants; `stash_type` is 1 (float32); Mean and InvStdDev are not computed.");

pub const RMS_NORMALIZATION: Operator = Operator::new("RMSNormalization", &[arity(23, 2, 2)], lower_rms)
    .attributes(&[
        Attribute::int("axis", -1),
        Attribute::float("epsilon", 1e-5),
        Attribute::int("stash_type", 1),
    ])
    .limits("A constant scale; `stash_type` is 1 (float32).");

pub const GROUP_NORMALIZATION: Operator =
    Operator::new("GroupNormalization", &[arity(18, 3, 3)], lower_groups)
        .attributes(&[
            Attribute::float("epsilon", 1e-5),
            Attribute::required("num_groups", Kind::Int),
            Attribute::int("stash_type", 1).since(21),
        ])
        .limits("Constant scale and bias; `stash_type` is 1 (float32).");

pub const INSTANCE_NORMALIZATION: Operator =
    Operator::new("InstanceNormalization", &[arity(7, 3, 3)], lower_instances)
        .attributes(&[Attribute::float("epsilon", 1e-5)])
        .limits("Constant scale and B.");

/// The attribute `epsilon`; an error for statistics of another type than float32.
fn epsilon(call: &Call) -> Result<f32> {
    if call.int("stash_type").is_some_and(|stash| stash != 1) {
        return Err(call.error("`stash_type` is not 1: means and variances of float32 alone are supported"));
    }
    let epsilon = call.number("epsilon")?;
    if epsilon < 0.0 {
        return Err(call.error(format!("attribute `epsilon` is {epsilon}, expected 0 or more")));
    }
    Ok(epsilon)
}

fn lower(call: &Call) -> Result<Lowered> {
    behind_axis(call, true)
}

fn lower_rms(call: &Call) -> Result<Lowered> {
    behind_axis(call, false)
}

/// Rows are what lies behind the attribute `axis`.
fn behind_axis(call: &Call, centred: bool) -> Result<Lowered> {
    let shape = call.float_shape(0)?.to_vec();
    let axis = call.axis(call.int("axis").unwrap_or(-1), shape.len())?;
    let epsilon = epsilon(call)?;
    call.elements(&shape)?;
    let row = &shape[axis..];
    let scale = spread(call, 1, row)?.ok_or_else(|| call.error("the scale is missing"))?;
    let bias = spread(call, 2, row)?;
    let exec = RowNorm { row: scale.len(), scale, bias, epsilon, centred, shape: shape.clone() };
    call.run(shape, axis > 0, exec)
}

fn lower_groups(call: &Call) -> Result<Lowered> {
    let groups = call.int("num_groups").and_then(|g| usize::try_from(g).ok()).unwrap_or(0);
    // since opset 21 scale and bias are the channels', before that the groups'
    in_channels(call, groups, call.opset < 21)
}

fn lower_instances(call: &Call) -> Result<Lowered> {
    let channels = call.shape(0)?.get(1).copied().unwrap_or(0);
    in_channels(call, channels, true)
}

/// Rows are `groups` parts of an image's channels; factor and summand belong to a group or to a channel.
fn in_channels(call: &Call, groups: usize, by_group: bool) -> Result<Lowered> {
    let shape = call.float_shape(0)?.to_vec();
    let &[_, channels, ..] = shape.as_slice() else {
        return Err(call.error(format!("input 0 has shape {shape:?}, expected two dimensions or more")));
    };
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(call.error(format!("{channels} channels cannot be put into {groups} equal groups")));
    }
    let epsilon = epsilon(call)?;
    let image = call.elements(&shape[1..])?;
    let given = if by_group { groups } else { channels };
    let spread = |i: usize| -> Result<Vec<f32>> {
        let values = call.vector(i, given)?;
        Ok(values.into_iter().flat_map(|v| std::iter::repeat_n(v, image / given)).collect())
    };
    let (scale, bias) = (spread(1)?, Some(spread(2)?));
    let exec = RowNorm { row: image / groups, scale, bias, epsilon, centred: true, shape: shape.clone() };
    call.run(shape, true, exec)
}

/// Constant input `i` as one number per position of a row of shape `row`; None if absent.
fn spread(call: &Call, i: usize, row: &[usize]) -> Result<Option<Vec<f32>>> {
    let Some(constant) = call.constant(i)? else { return Ok(None) };
    let shape = call.float_shape(i)?;
    if broadcast::shape(shape, row).as_deref() != Some(row) {
        return Err(call.error(format!("input {i} has shape {shape:?}, expected one that fits {row:?}")));
    }
    let values: Vec<f32> = constant.broadcast_as(row)?.flatten_all()?.to_vec1()?;
    match values.iter().find(|v| !v.is_finite()) {
        Some(bad) => Err(call.error(format!("input {i} holds {bad}, expected finite numbers"))),
        None => Ok(Some(values)),
    }
}

struct RowNorm {
    /// Elements of a row.
    row: usize,
    /// One factor per position of one or more rows, which repeat.
    scale: Vec<f32>,
    bias: Option<Vec<f32>>,
    epsilon: f32,
    /// Whether the mean is subtracted.
    centred: bool,
    shape: Vec<usize>,
}

/// Number of partial sums, enough to fill one or two vector registers.
const LANES: usize = 16;

/// The sum of `f(i)` over `0..count`.
#[inline(always)]
fn sum(count: usize, f: impl Fn(usize) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let whole = count - count % LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f(start + lane);
        }
    }
    lanes.iter().sum::<f64>() + (whole..count).map(f).sum::<f64>()
}

impl RowNorm {
    /// Mean (0 where none is subtracted) and inverse standard deviation of a row. In double precision: rounding a mean far from 0 would shift
    /// every element.
    fn moments(&self, row: &[f32]) -> [f64; 2] {
        let count = row.len() as f64;
        let mean = if self.centred { sum(row.len(), |i| f64::from(row[i])) / count } else { 0.0 };
        let variance = sum(row.len(), |i| (f64::from(row[i]) - mean).powi(2)) / count;
        [mean, 1.0 / (variance + f64::from(self.epsilon)).sqrt()]
    }

    /// The factors of row `index`, as a range.
    fn factors(&self, index: usize) -> std::ops::Range<usize> {
        let start = index % (self.scale.len() / self.row).max(1) * self.row;
        start..start + self.row
    }

    fn normalize(&self, index: usize, row: &mut [f32]) {
        let [mean, scale] = self.moments(row);
        let factors = self.factors(index);
        for (value, factor) in row.iter_mut().zip(&self.scale[factors.clone()]) {
            *value = ((f64::from(*value) - mean) * scale) as f32 * factor;
        }
        if let Some(bias) = &self.bias {
            let bias = &bias[factors];
            row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
        }
    }

    /// Turns the output's gradient into the input's, in place. With n the normalized row and g the gradient times the
    /// factors: inverse deviation * (g - mean(g) - n * mean(g * n)), without mean(g) where no mean is subtracted.
    fn gradient(&self, index: usize, x: &[f32], dy: &mut [f32]) {
        let [mean, scale] = self.moments(x);
        let count = x.len() as f64;
        let normal = |x: f32| (f64::from(x) - mean) * scale;
        dy.iter_mut().zip(&self.scale[self.factors(index)]).for_each(|(g, factor)| *g *= factor);
        let along = if self.centred { sum(x.len(), |i| f64::from(dy[i])) / count } else { 0.0 };
        let across = sum(x.len(), |i| f64::from(dy[i]) * normal(x[i])) / count;
        for (g, &x) in dy.iter_mut().zip(x) {
            *g = (scale * (f64::from(*g) - along - normal(x) * across)) as f32;
        }
    }

    /// The rows one after the other, in a fresh buffer.
    fn rows(&self, value: &Array) -> Result<Vec<f32>> {
        let mut rows = buffers::take(value.len());
        let memory = value.read()?;
        match self.shape[..] {
            // channels-last in memory
            [_, c, h, w] => transpose(&memory, &mut rows, [h * w, c]),
            _ => rows.copy_from_slice(&memory),
        }
        Ok(rows)
    }

    /// Rows as a value in the layout of [`super::array`].
    fn value(&self, rows: Vec<f32>) -> Result<Array> {
        let [_, c, h, w] = self.shape[..] else { return Array::new(rows, &self.shape) };
        let mut memory = buffers::take(rows.len());
        transpose(&rows, &mut memory, [c, h * w]);
        buffers::give(rows);
        Array::new(memory, &self.shape)
    }
}

/// Transposes each of several (rows, columns) matrices.
fn transpose(from: &[f32], to: &mut [f32], [rows, columns]: [usize; 2]) {
    let size = (rows * columns).max(1);
    to.par_chunks_mut(size).zip(from.par_chunks(size)).for_each(|(to, from)| {
        for (column, to) in to.chunks_exact_mut(rows.max(1)).enumerate() {
            to.iter_mut().enumerate().for_each(|(row, to)| *to = from[row * columns + column]);
        }
    });
}

impl Exec for RowNorm {
    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        let x = only(x)?;
        let mut rows = self.rows(&x)?;
        if let Some(keep) = keep {
            keep.array(&x);
        }
        rows.par_chunks_mut(self.row).enumerate().for_each(|(i, row)| self.normalize(i, row));
        self.value(rows)
    }

    fn vjp(&self, kept: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        let x = self.rows(kept.get_array(0)?)?;
        let mut rows = self.rows(&dy)?;
        let pairs = rows.par_chunks_mut(self.row).zip(x.par_chunks(self.row)).enumerate();
        pairs.for_each(|(i, (dy, x))| self.gradient(i, x, dy));
        buffers::give(x);
        Ok(vec![Some(self.value(rows)?)])
    }

    fn flops(&self, _: usize, direction: Direction) -> u64 {
        // per element: sums, centring, scaling
        let each = if direction == Direction::Forward { 8 } else { 17 };
        each * self.shape.iter().product::<usize>() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_any_length() {
        for count in [0, 1, LANES - 1, LANES, LANES + 1, 5 * LANES + 3] {
            assert_eq!(sum(count, |i| i as f64), (count * count.saturating_sub(1) / 2) as f64);
        }
    }

    #[test]
    fn transposed_twice_is_the_same() {
        let from: Vec<f32> = (0..24).map(|v| v as f32).collect();
        let (mut turned, mut back) = (vec![0.0; 24], vec![0.0; 24]);
        transpose(&from, &mut turned, [3, 4]);
        assert_eq!(turned[..4], [0.0, 4.0, 8.0, 1.0]);
        assert_eq!(turned[12..16], [12.0, 16.0, 20.0, 13.0]);
        transpose(&turned, &mut back, [4, 3]);
        assert_eq!(back, from);
    }
}
