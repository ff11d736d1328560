//! Add, Sub, Mul, Div and Pow with broadcasting. The cases common in networks have kernels of their own: two values
//! of one shape, a constant per channel, a gate per image and channel (squeeze-and-excite). The rest goes through
//! candle.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::activation::{Over, Pointwise, Power};
use super::array::Array;
use super::broadcast::{self, sum_to};
use super::call::{Call, Input, Lowered};
use super::exec::{Exec, VjpContext};
use super::normalization::Affine;
use super::operator::{BINARY, Operator, Placement};
use super::saved::Saved;
use crate::Result;
use crate::kernels::pointwise;

const fn binary(name: &'static str, lower: fn(&Call) -> Result<Lowered>) -> Operator {
    Operator::new(name, BINARY, lower)
}

pub const ADD: Operator = binary("Add", |call| lower(call, Op::Add)).on_gpu(Placement::Partly);
pub const SUB: Operator = binary("Sub", |call| lower(call, Op::Sub)).on_gpu(Placement::Partly);
pub const MUL: Operator = binary("Mul", |call| lower(call, Op::Mul)).on_gpu(Placement::Partly);
pub const DIV: Operator = binary("Div", |call| lower(call, Op::Div)).on_gpu(Placement::Partly);

pub const POW: Operator = binary("Pow", |call| {
    let shape = call.float_shape(0)?.to_vec();
    match call.constant(1)?.map(|t| (t.elem_count(), t.rank(), t.dtype())) {
        Some((1, rank, dtype)) if rank <= shape.len() => {
            let power = match dtype {
                DType::F32 => call.floats(1)?.and_then(|v| v.first().copied()),
                _ => call.integers(1)?.and_then(|v| v.first().map(|&p| p as f32)),
            };
            call.run(shape, true, Pointwise(Power(power.unwrap_or(1.0))))
        }
        _ => Err(call.error("the exponent is not one constant number")),
    }
})
.limits("One constant exponent.");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Add,
    Sub,
    Mul,
    Div,
}

fn lower(call: &Call, op: Op) -> Result<Lowered> {
    call.one_dtype()?;
    let (a, b) = (call.shape(0)?, call.shape(1)?);
    let Some(shape) = broadcast::shape(a, b) else {
        return Err(call.error(format!("shapes {a:?} and {b:?} cannot be broadcast to each other")));
    };
    call.elements(&shape)?;
    if call.is_integer() {
        call.no_integers_of_images()?;
        return integer(call, op, &shape);
    }
    call.float_shape(0)?;
    call.float_shape(1)?;
    let per_image = call.row_by_row(0, &shape) && call.row_by_row(1, &shape);
    let constant = match (call.input(0), call.input(1)) {
        (Input::Constant(t), _) | (_, Input::Constant(t)) => Some(t),
        _ => None,
    };
    if let Some(constant) = constant {
        let left = matches!(call.input(0), Input::Constant(_));
        let dynamic = if left { b } else { a };
        if let Some(values) = per_channel(constant, dynamic, &shape)? {
            if let (Op::Div, true) = (op, left) {
                if let [first, rest @ ..] = &values[..]
                    && rest.iter().all(|v| v == first)
                {
                    return call.run(shape, true, Pointwise(Over(*first)));
                }
            } else if op != Op::Div || values.iter().all(|v| *v != 0.0) {
                return call.run(shape, true, affine(op, left, values));
            }
        }
    }
    if let (Op::Add, true, None) = (op, a == b, constant) {
        return call.run(shape, per_image, Add);
    }
    if let (Op::Mul, Some(gate), None) = (op, gate(a, b), constant) {
        return call.run(shape, per_image, gate);
    }
    let side = |i: usize| -> Result<Side> {
        Ok(match call.input(i) {
            Input::Constant(t) => Side::Constant(t.clone()),
            _ => Side::Value(call.shape(i)?.to_vec()),
        })
    };
    let exec = General { op, a: side(0)?, b: side(1)? };
    call.run(shape, per_image, exec)
}

/// `constant` as one number per channel (dimension 1) of a value of shape `dynamic`; None if it broadcasts otherwise.
fn per_channel(constant: &Tensor, dynamic: &[usize], out: &[usize]) -> Result<Option<Vec<f32>>> {
    if dynamic != out || dynamic.len() < 2 {
        return Ok(None);
    }
    let channels = dynamic[1];
    let from = dynamic.len() - constant.rank().min(dynamic.len());
    let fits = constant.dims().iter().enumerate().all(|(i, &d)| d == 1 || (i + from == 1 && d == channels));
    if !fits {
        return Ok(None);
    }
    let values: Vec<f32> = constant.flatten_all()?.to_vec1()?;
    Ok(match values.len() {
        1 => Some(vec![values[0]; channels]),
        n if n == channels => Some(values),
        _ => None,
    })
}

fn affine(op: Op, constant_left: bool, values: Vec<f32>) -> Affine {
    let all = |v: f32| vec![v; values.len()];
    match op {
        Op::Add => Affine::new(all(1.0), values),
        Op::Sub if constant_left => Affine::new(all(-1.0), values),
        Op::Sub => Affine::new(all(1.0), values.iter().map(|v| -v).collect()),
        Op::Mul => {
            let zero = all(0.0);
            Affine::new(values, zero)
        }
        Op::Div => Affine::new(values.iter().map(|v| (1.0 / f64::from(*v)) as f32).collect(), all(0.0)),
    }
}

/// The sum of two values of the same shape.
pub(super) struct Add;

impl Exec for Add {
    fn on_gpu(&self, _: &[usize]) -> Option<&dyn super::on_gpu::OnGpu> {
        Some(self)
    }

    fn forward(&self, mut x: Vec<Array>, _: Option<&mut Saved>) -> Result<Array> {
        let (b, a) = (x.pop(), x.pop());
        match (a, b) {
            (Some(a), Some(b)) => add(a, b),
            _ => Err(crate::Error::internal("a sum of one value")),
        }
    }

    fn vjp(&self, _: &Saved, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
        Ok(want.iter().map(|w| w.then(|| dy.clone())).collect())
    }
}

/// `a + b`, written into the memory of an operand that has no other reader.
pub fn add(a: Array, b: Array) -> Result<Array> {
    if let Some(gpu) = a.gpu()? {
        return super::on_gpu::add(&gpu, &a, &b);
    }
    let (a, b) = if a.is_alone() || !b.is_alone() { (a, b) } else { (b, a) };
    let b = b.read()?;
    a.map(|from, data| match from {
        None => pointwise::add_in_place(data, &b),
        Some(from) => pointwise::add(from, &b, data),
    })
}

/// A value (N, C, H, W) times a gate (N, C, 1, 1).
#[derive(Clone)]
pub struct Gate {
    /// Index of the smaller operand, the gate.
    pub(super) small: usize,
    channels: usize,
    pixels: usize,
    /// Whether the large operand is saved; if not, the caller of the gradient has to pass it.
    pub(super) keeps: bool,
}

fn gate(a: &[usize], b: &[usize]) -> Option<Gate> {
    let fits = |big: &[usize], small: &[usize]| {
        big.len() == 4
            && small.len() == 4
            && big[..2] == small[..2]
            && small[2..] == [1, 1]
            && big[2..] != [1, 1]
    };
    let small = if fits(a, b) {
        1
    } else if fits(b, a) {
        0
    } else {
        return None;
    };
    let big = if small == 1 { a } else { b };
    Some(Gate { small, channels: big[1], pixels: big[2] * big[3], keeps: true })
}

impl Gate {
    /// Index of the large operand.
    pub fn large(&self) -> usize {
        1 - self.small
    }

    /// The same product, which does not save its large operand.
    pub fn without_operand(&self) -> Self {
        Self { keeps: false, ..self.clone() }
    }

    /// big <- big * small, in place
    fn times(&self, big: &mut [f32], small: &[f32]) {
        let images = big.par_chunks_mut(self.channels * self.pixels).zip(small.par_chunks(self.channels));
        images.for_each(|(big, small)| {
            for pixel in big.chunks_exact_mut(self.channels) {
                pixel.iter_mut().zip(small).for_each(|(b, s)| *b *= s);
            }
        });
    }

    /// sums <- a * b, summed over the pixels of each image and channel
    fn sum_products(&self, a: &[f32], b: &[f32], sums: &mut [f32]) {
        let image = self.channels * self.pixels;
        let images = sums.par_chunks_mut(self.channels).zip(a.par_chunks(image)).zip(b.par_chunks(image));
        images.for_each(|((sums, a), b)| {
            sums.fill(0.0);
            for (a, b) in a.chunks_exact(self.channels).zip(b.chunks_exact(self.channels)) {
                sums.iter_mut().zip(a).zip(b).for_each(|((s, a), b)| *s += a * b);
            }
        });
    }
}

impl Exec for Gate {
    fn on_gpu(&self, _: &[usize]) -> Option<&dyn super::on_gpu::OnGpu> {
        Some(self)
    }

    fn forward(&self, mut x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        if let Some(keep) = keep {
            if self.keeps {
                keep.array(&x[self.large()]);
            }
            keep.array(&x[self.small]);
        }
        let small = x.remove(self.small);
        let big = x.remove(0);
        let shape = big.dims().to_vec();
        let mut y = big.into_vec()?;
        self.times(&mut y, &small.read()?);
        Array::new(y, &shape)
    }

    fn vjp(&self, kept: &Saved, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
        self.vjp_with(kept, dy, want, VjpContext::default())
    }

    fn vjp_with(
        &self,
        kept: &Saved,
        dy: Array,
        want: &[bool],
        context: VjpContext,
    ) -> Result<Vec<Option<Array>>> {
        let big = match context.value {
            Some(value) => value,
            None if self.keeps => kept.get_array(0)?,
            None => return Err(crate::Error::internal("a product without its operand")),
        };
        let small = kept.get_array(usize::from(self.keeps))?;
        let mut grads = vec![None, None];
        if want[self.small] {
            let mut d = crate::kernels::buffers::take(small.len());
            self.sum_products(&dy.read()?, &big.read()?, &mut d);
            grads[self.small] = Some(Array::new(d, small.dims())?);
        }
        if want[self.large()] {
            let shape = dy.dims().to_vec();
            let mut d = dy.into_vec()?;
            self.times(&mut d, &small.read()?);
            grads[self.large()] = Some(Array::new(d, &shape)?);
        }
        Ok(grads)
    }
}

/// Any operation on any shapes, through candle.
struct General {
    op: Op,
    a: Side,
    b: Side,
}

enum Side {
    Value(Vec<usize>),
    Constant(Tensor),
}

impl General {
    /// Whether the gradient needs the operands a and b.
    fn needs(&self) -> [bool; 2] {
        let dynamic = [&self.a, &self.b].map(|s| matches!(s, Side::Value(_)));
        match self.op {
            Op::Add | Op::Sub => [false; 2],
            Op::Mul => [dynamic[1], dynamic[0]],
            Op::Div => [dynamic[1], true],
        }
    }

    /// Both operands: constants, and the dynamic ones from `values`, which holds those for which `needed` is true.
    fn operands(&self, mut values: impl Iterator<Item = Tensor>, needed: [bool; 2]) -> [Option<Tensor>; 2] {
        [(&self.a, needed[0]), (&self.b, needed[1])].map(|(side, needed)| match side {
            Side::Constant(t) => Some(t.clone()),
            Side::Value(_) if needed => values.next(),
            Side::Value(_) => None,
        })
    }
}

impl Exec for General {
    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        let [Some(a), Some(b)] = self.operands(x.iter().map(|v| v.tensor().clone()), [true; 2]) else {
            return Err(crate::Error::internal("an operand is missing"));
        };
        if let Some(keep) = keep {
            let needs = self.needs();
            let mut values = x.iter();
            for (side, needed) in [(&self.a, needs[0]), (&self.b, needs[1])] {
                if let (Side::Value(_), Some(value)) =
                    (side, matches!(side, Side::Value(_)).then(|| values.next()).flatten())
                    && needed
                {
                    keep.array(value);
                }
            }
        }
        let y = match self.op {
            Op::Add => a.broadcast_add(&b),
            Op::Sub => a.broadcast_sub(&b),
            Op::Mul => a.broadcast_mul(&b),
            Op::Div => a.broadcast_div(&b),
        }?;
        Array::from_tensor(&y)
    }

    fn vjp(&self, kept: &Saved, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
        let needs = self.needs();
        let dynamic = [&self.a, &self.b].map(|s| matches!(s, Side::Value(_)));
        let count = (0..2).filter(|&i| needs[i] && dynamic[i]).count();
        let values =
            (0..count).map(|i| kept.get_array(i).map(|a| a.tensor().clone())).collect::<Result<Vec<_>>>()?;
        let [a, b] = self.operands(values.into_iter(), needs);
        let missing = || crate::Error::internal("an operand was not saved");
        let gradient = dy;
        let dy = gradient.tensor();
        let mut grads = Vec::new();
        let mut want = want.iter();
        for (i, side) in [&self.a, &self.b].into_iter().enumerate() {
            let Side::Value(shape) = side else { continue };
            if want.next() != Some(&true) {
                grads.push(None);
                continue;
            }
            let d = match (self.op, i) {
                (Op::Add, _) | (Op::Sub, 0) => dy.clone(),
                (Op::Sub, _) => dy.neg()?,
                (Op::Mul, 0) => dy.broadcast_mul(b.as_ref().ok_or_else(missing)?)?,
                (Op::Mul, _) => dy.broadcast_mul(a.as_ref().ok_or_else(missing)?)?,
                (Op::Div, 0) => dy.broadcast_div(b.as_ref().ok_or_else(missing)?)?,
                (Op::Div, _) => {
                    let b = b.as_ref().ok_or_else(missing)?;
                    dy.broadcast_mul(a.as_ref().ok_or_else(missing)?)?.broadcast_div(&b.sqr()?)?.neg()?
                }
            };
            grads.push(Some(gradient.derive(&sum_to(&d, shape)?)?));
        }
        Ok(grads)
    }
}

/// Integer arithmetic on constants, as in shape computations. Division rounds towards zero.
fn integer(call: &Call, op: Op, shape: &[usize]) -> Result<Lowered> {
    let spread = |i: usize| -> Result<Vec<i64>> {
        let t = call.now(i).ok_or_else(|| call.error("integers that depend on the image"))?;
        Ok(t.broadcast_as(shape)?.flatten_all()?.to_vec1()?)
    };
    let compute = |(&a, &b): (&i64, &i64)| match op {
        Op::Add => a.checked_add(b),
        Op::Sub => a.checked_sub(b),
        Op::Mul => a.checked_mul(b),
        Op::Div => a.checked_div(b),
    };
    let (a, b) = (spread(0)?, spread(1)?);
    let values: Option<Vec<i64>> = a.iter().zip(&b).map(compute).collect();
    let values =
        values.ok_or_else(|| call.error("a division by zero or an overflow in integer arithmetic"))?;
    call.known(&Tensor::from_vec(values, shape, &candle_core::Device::Cpu)?)
}
