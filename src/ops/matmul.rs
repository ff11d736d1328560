//! Gemm and MatMul, through candle's matrix product.

use std::sync::OnceLock;

use candle_core::{Device, Tensor};

use super::array::{Array, add_columns_onto};
use super::attributes::Attribute;
use super::axes_rules;
use super::broadcast::{self, sum_to};
use super::call::{Call, Input, Lowered};
use super::exec::Exec;
use super::operator::{BINARY, Operator, Placement, arity};
use super::saved::Saved;
use crate::profile::Direction;
use crate::{Error, Result};

pub const GEMM: Operator = Operator::new("Gemm", &[arity(7, 3, 3), arity(11, 2, 3)], lower_gemm)
    .attributes(&[
        Attribute::float("alpha", 1.0),
        Attribute::float("beta", 1.0),
        Attribute::int("transA", 0),
        Attribute::int("transB", 0),
    ])
    .on_gpu(Placement::Candle)
    .axes(axes_rules::rows_of_vectors);

pub const MAT_MUL: Operator = Operator::new("MatMul", BINARY, lower_mat_mul).axes(axes_rules::multiplied);

/// An operand, transposed as it is multiplied.
enum Side {
    Value,
    Constant(Placed),
}

/// A constant, with a copy on the GPU once one was needed.
struct Placed {
    on_cpu: Tensor,
    on_gpu: OnceLock<Tensor>,
}

impl Placed {
    fn new(on_cpu: Tensor) -> Self {
        Self { on_cpu, on_gpu: OnceLock::new() }
    }

    /// The constant on `device`; the first device that asks gets a cached copy.
    fn on(&self, device: &Device) -> Result<Tensor> {
        if device.is_cpu() {
            return Ok(self.on_cpu.clone());
        }
        if let Some(copy) = self.on_gpu.get().filter(|copy| copy.device().same_device(device)) {
            return Ok(copy.clone());
        }
        let copy = self.on_cpu.to_device(device)?;
        // a concurrent first use or a second device is not cached
        let _ = self.on_gpu.set(copy.clone());
        Ok(copy)
    }
}

fn side(call: &Call, i: usize, turn: bool, factor: f32) -> Result<Side> {
    call.float_shape(i)?;
    Ok(match call.input(i) {
        Input::Constant(t) => {
            if t.flatten_all()?.to_vec1::<f32>()?.iter().any(|v| !v.is_finite()) {
                return Err(call.error(format!("input {i} holds numbers that are not finite")));
            }
            let t = if turn { t.t()? } else { t.clone() };
            let t = if factor == 1.0 { t } else { t.affine(f64::from(factor), 0.0)? };
            Side::Constant(Placed::new(t.contiguous()?))
        }
        _ => Side::Value,
    })
}

fn lower_gemm(call: &Call) -> Result<Lowered> {
    let matrix = |i: usize, turn: bool| match *call.float_shape(i)? {
        [a, b] if turn => Ok([b, a]),
        [a, b] => Ok([a, b]),
        ref other => Err(call.error(format!("input {i} has shape {other:?}, expected a matrix"))),
    };
    let (turn_a, turn_b) = (call.flag("transA")?, call.flag("transB")?);
    let (alpha, beta) = (call.number("alpha")?, call.number("beta")?);
    let ([m, ka], [kb, n]) = (matrix(0, turn_a)?, matrix(1, turn_b)?);
    if ka != kb {
        return Err(call.error(format!("a product of {m} x {ka} and {kb} x {n}")));
    }
    let out = vec![m, n];
    let c = match call.input(2) {
        Input::Absent => None,
        _ => {
            let shape = call.float_shape(2)?.to_vec();
            if broadcast::shape(&shape, &out).as_ref() != Some(&out) {
                return Err(call.error(format!("input 2 of shape {shape:?} is added to a matrix of {out:?}")));
            }
            Some((side(call, 2, false, beta)?, shape))
        }
    };
    let rows = !turn_a && matches!(call.input(1), Input::Constant(_)) && call.row_by_row(2, &out);
    let exec = Gemm {
        a: side(call, 0, turn_a, 1.0)?,
        b: side(call, 1, turn_b, alpha)?,
        c,
        turn: [turn_a, turn_b],
        // a constant b already includes the factor
        alpha: if matches!(call.input(1), Input::Constant(_)) { 1.0 } else { alpha },
        beta,
        sum: ka,
        out: out.clone(),
    };
    call.run(out, rows, exec)
}

struct Gemm {
    a: Side,
    b: Side,
    c: Option<(Side, Vec<usize>)>,
    turn: [bool; 2],
    alpha: f32,
    beta: f32,
    /// Length of the dot product behind each element.
    sum: usize,
    out: Vec<usize>,
}

fn times(t: Tensor, factor: f32) -> Result<Tensor> {
    Ok(if factor == 1.0 { t } else { t.affine(f64::from(factor), 0.0)? })
}

fn turned(t: &Tensor, turn: bool) -> Result<Tensor> {
    Ok(if turn { t.t()?.contiguous()? } else { t.clone() })
}

/// Floating-point operations of a product with `out` elements, each a dot product of length `sum`. Backward: one such
/// product for each non-constant operand.
fn product_flops(sides: [&Side; 2], out: &[usize], sum: usize, direction: Direction) -> u64 {
    let once = 2 * (out.iter().product::<usize>() * sum) as u64;
    let values = sides.into_iter().filter(|s| matches!(s, Side::Value)).count() as u64;
    if direction == Direction::Forward { once } else { once * values }
}

fn missing() -> Error {
    Error::internal("an operand is missing")
}

impl Exec for Gemm {
    fn runs_anywhere(&self) -> bool {
        true
    }

    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        let mut values = x.iter();
        let mut kept = Vec::new();
        let device = x.first().ok_or_else(missing)?.tensor().device().clone();
        let mut operand = |side: &Side, turn: bool| match side {
            Side::Constant(t) => t.on(&device),
            Side::Value => {
                let value = values.next().ok_or_else(missing)?;
                kept.push(value.clone());
                turned(value.tensor(), turn)
            }
        };
        let (a, b) = (operand(&self.a, self.turn[0])?, operand(&self.b, self.turn[1])?);
        let mut y = times(a.matmul(&b)?, self.alpha)?;
        match &self.c {
            None => {}
            Some((Side::Constant(c), _)) => y = add_columns_onto(y, &c.on(&device)?)?,
            Some((Side::Value, _)) => {
                let c = values.next().ok_or_else(missing)?;
                y = y.broadcast_add(&times(c.tensor().clone(), self.beta)?)?;
            }
        }
        if let (Some(keep), Side::Value, Side::Value) = (keep, &self.a, &self.b) {
            kept.iter().for_each(|v| keep.array(v));
        }
        Array::from_tensor(&y)
    }

    fn vjp(&self, kept: &Saved, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
        let mut want = want.iter().copied();
        let gradient = dy;
        let dy = gradient.tensor();
        let scaled = times(dy.clone(), self.alpha)?;
        let mut grads = Vec::new();
        for i in 0..2 {
            let (own, other) = if i == 0 { (&self.a, &self.b) } else { (&self.b, &self.a) };
            if matches!(own, Side::Constant(_)) {
                continue;
            }
            if want.next() != Some(true) {
                grads.push(None);
                continue;
            }
            let other = match other {
                Side::Constant(t) => t.on(dy.device())?,
                Side::Value => turned(kept.get_array(1 - i)?.tensor(), self.turn[1 - i])?,
            };
            let d = if i == 0 { scaled.matmul(&other.t()?)? } else { other.t()?.matmul(&scaled)? };
            grads.push(Some(Array::from_tensor(&turned(&d, self.turn[i])?)?));
        }
        if let Some((Side::Value, shape)) = &self.c {
            let d = match want.next() {
                Some(true) => Some(gradient.derive(&sum_to(&times(dy.clone(), self.beta)?, shape)?)?),
                _ => None,
            };
            grads.push(d);
        }
        debug_assert_eq!(dy.dims(), self.out);
        Ok(grads)
    }

    fn flops(&self, _: usize, direction: Direction) -> u64 {
        product_flops([&self.a, &self.b], &self.out, self.sum, direction)
    }
}

fn lower_mat_mul(call: &Call) -> Result<Lowered> {
    let shapes = [call.float_shape(0)?.to_vec(), call.float_shape(1)?.to_vec()];
    let fail = || call.error(format!("a product of shapes {:?} and {:?}", shapes[0], shapes[1]));
    // a vector is a row on the left and a column on the right; that dimension is dropped from the result
    let wide = |i: usize| match (shapes[i].as_slice(), i) {
        (&[k], 0) => vec![1, k],
        (&[k], _) => vec![k, 1],
        (s, _) => s.to_vec(),
    };
    if shapes.iter().any(Vec::is_empty) {
        return Err(fail());
    }
    let wide = [wide(0), wide(1)];
    let (batch_a, a) = wide[0].split_at(wide[0].len() - 2);
    let (batch_b, b) = wide[1].split_at(wide[1].len() - 2);
    let batch = broadcast::shape(batch_a, batch_b).filter(|_| a[1] == b[0]).ok_or_else(fail)?;
    let mut full = batch;
    full.extend([a[0], b[1]]);
    let mut out = full.clone();
    if shapes[1].len() == 1 {
        out.pop();
    }
    if shapes[0].len() == 1 {
        out.remove(out.len() - if shapes[1].len() == 1 { 1 } else { 2 });
    }
    call.elements(&full)?;
    // a right-hand matrix is contracted along dimension 0, so its rows are not images
    let right = match call.input(1) {
        Input::Constant(_) => shapes[1].len() <= 2 || call.row_by_row(1, &full),
        _ => shapes[1].len() > 2 && call.row_by_row(1, &full),
    };
    let per_image = right && shapes[0].len() > 1 && call.row_by_row(0, &full);
    let sides = [side(call, 0, false, 1.0)?, side(call, 1, false, 1.0)?];
    call.run(out.clone(), per_image, MatMul { sides, shapes, wide, full, out })
}

struct MatMul {
    sides: [Side; 2],
    /// Shapes of the operands, vectors as matrices.
    shapes: [Vec<usize>; 2],
    wide: [Vec<usize>; 2],
    /// Shape of the product before the vectors' dimensions are dropped.
    full: Vec<usize>,
    out: Vec<usize>,
}

impl MatMul {
    fn operand(&self, i: usize, value: Option<&Array>) -> Result<Tensor> {
        let t = match (&self.sides[i], value) {
            (Side::Constant(t), _) => t.on_cpu.clone(),
            (Side::Value, Some(v)) => v.tensor().clone(),
            (Side::Value, None) => return Err(missing()),
        };
        Ok(t.reshape(self.wide[i].as_slice())?.contiguous()?)
    }
}

/// Product of matrices with any leading dimensions.
pub(super) fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    // many rows times one matrix: a single product
    if b.rank() == 2 && a.rank() > 2 {
        let dims = a.dims();
        let (k, n) = b.dims2()?;
        let rows: usize = dims[..dims.len() - 1].iter().product();
        let mut out = dims[..dims.len() - 1].to_vec();
        out.push(n);
        return Ok(a.contiguous()?.reshape((rows, k))?.matmul(b)?.reshape(out)?);
    }
    // candle needs contiguous operands of three dimensions
    let (batch_a, [m, k]) = split(a)?;
    let (batch_b, [_, n]) = split(b)?;
    let batch = broadcast::shape(batch_a, batch_b).ok_or_else(missing)?;
    let flat = |t: &Tensor, rows: usize, columns: usize| -> Result<Tensor> {
        let mut whole = batch.clone();
        whole.extend([rows, columns]);
        let count: usize = batch.iter().product();
        Ok(t.broadcast_as(whole)?.contiguous()?.reshape((count, rows, columns))?)
    };
    let y = flat(a, m, k)?.matmul(&flat(b, k, n)?)?;
    let mut out = batch;
    out.extend([m, n]);
    Ok(y.reshape(out)?)
}

/// The leading dimensions, and the matrix's own two.
fn split(t: &Tensor) -> Result<(&[usize], [usize; 2])> {
    match t.dims() {
        [batch @ .., rows, columns] => Ok((batch, [*rows, *columns])),
        _ => Err(missing()),
    }
}

impl Exec for MatMul {
    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        let first = x.first();
        let second = if matches!(self.sides[0], Side::Value) { x.get(1) } else { first };
        let y = product(&self.operand(0, first)?, &self.operand(1, second)?)?.reshape(self.out.as_slice())?;
        if let (Some(keep), [Side::Value, Side::Value]) = (keep, &self.sides) {
            x.iter().for_each(|v| keep.array(v));
        }
        Array::from_tensor(&y)
    }

    fn vjp(&self, kept: &Saved, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
        let dy = dy.tensor().reshape(self.full.as_slice())?.contiguous()?;
        let mut want = want.iter();
        let mut grads = Vec::new();
        for i in 0..2 {
            if matches!(self.sides[i], Side::Constant(_)) {
                continue;
            }
            if want.next() != Some(&true) {
                grads.push(None);
                continue;
            }
            let other = match self.sides[1 - i] {
                Side::Constant(_) => self.operand(1 - i, None)?,
                Side::Value => self.operand(1 - i, Some(kept.get_array(1 - i)?))?,
            };
            let turn = |t: &Tensor| -> Result<Tensor> { Ok(t.t()?.contiguous()?) };
            let d = if i == 0 { product(&dy, &turn(&other)?)? } else { product(&turn(&other)?, &dy)? };
            let d = sum_to(&d, &self.wide[i])?.reshape(self.shapes[i].as_slice())?;
            grads.push(Some(Array::from_tensor(&d)?));
        }
        Ok(grads)
    }

    fn flops(&self, _: usize, direction: Direction) -> u64 {
        let sum = self.wide[0].last().copied().unwrap_or(0);
        product_flops([&self.sides[0], &self.sides[1]], &self.full, sum, direction)
    }
}
