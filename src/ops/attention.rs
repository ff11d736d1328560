//! Attention: softmax(scale Q K' + bias) V for each head, with a constant mask, causal or not.

use candle_core::{DType, Device, Tensor};

use super::array::Array;
use super::attributes::{Attribute, Kind};
use super::axes::Axes;
use super::axes_rules;
use super::broadcast::{self, sum_to};
use super::call::{Call, Input, Lowered};
use super::exec::Exec;
use super::matmul::product;
use super::operator::{Operator, arity};
use super::saved::Saved;
use crate::profile::Direction;
use crate::{Error, Result};

pub const ATTENTION: Operator = Operator::new("Attention", &[arity(23, 3, 6), arity(24, 3, 7)], lower)
    .outputs(&[arity(23, 1, 4)], &["present_key", "present_value", "qk_matmul_output"])
    .attributes(&[
        Attribute::int("is_causal", 0),
        Attribute::optional("kv_num_heads", Kind::Int),
        Attribute::optional("q_num_heads", Kind::Int),
        Attribute::int("qk_matmul_output_mode", 0), // of an output that is not computed
        Attribute::optional("scale", Kind::Float),
        Attribute::float("softcap", 0.0),
        Attribute::optional("softmax_precision", Kind::Int),
        Attribute::int("left_window_size", -1).since(25),
        Attribute::int("right_window_size", -1).since(25),
    ])
    .limits(
        "A constant mask that leaves something to each query; no cache of keys and values; windows without bounds; \
         the softmax in float32; the first output alone.",
    )
    .axes(layout);

/// Queries' positions, values' channels.
fn layout(call: &Call, out: &[usize]) -> Axes {
    axes_rules::kept(call, out)
}

fn lower(call: &Call) -> Result<Lowered> {
    if (4..7).any(|i| call.has(i)) {
        return Err(
            call.error("keys and values of the past, or their lengths: only whole sequences are supported")
        );
    }
    if ["left_window_size", "right_window_size"].iter().any(|name| call.int(name).is_some_and(|v| v != -1)) {
        return Err(call.error("a window over the keys is not supported"));
    }
    if call.int("softmax_precision").is_some_and(|p| p != 1) {
        return Err(call.error("`softmax_precision` is not 1: float32 alone is supported"));
    }
    let [q, k, v] = [
        operand(call, 0, "q_num_heads")?,
        operand(call, 1, "kv_num_heads")?,
        operand(call, 2, "kv_num_heads")?,
    ];
    let [[n, heads, queries, size], [kn, shared, keys, ksize], [vn, vheads, vkeys, vsize]] =
        [q.heads, k.heads, v.heads];
    let fits = n == kn && n == vn && size == ksize && keys == vkeys && shared == vheads;
    if !fits || shared == 0 || !heads.is_multiple_of(shared) || [q.flat, k.flat] != [k.flat, v.flat] {
        return Err(call.error(format!(
            "queries {:?}, keys {:?} and values {:?} do not fit",
            call.shape(0)?,
            call.shape(1)?,
            call.shape(2)?
        )));
    }
    call.elements(&[n, heads, queries, keys])?;
    call.elements(&[n, heads, keys, size.max(vsize)])?;
    let scale = call.float("scale")?.map_or(1.0 / (size as f64).sqrt(), f64::from);
    let bias = bias(call, [n, heads, queries, keys])?;
    let softcap = f64::from(call.number("softcap")?);
    let out = match q.flat {
        true => vec![n, queries, heads * vsize],
        false => vec![n, heads, queries, vsize],
    };
    let constant = |i: usize| matches!(call.input(i), Input::Constant(_));
    let mask_rows = bias.as_ref().is_none_or(|b| b.dims()[0] == 1);
    let per_image = mask_rows && (n == 1 || !(0..3).any(constant));
    let exec =
        Attention { sides: [q, k, v], scale, bias, softcap, repeats: heads / shared, out: out.clone() };
    call.run(out, per_image, exec)
}

/// Input `i`, whose heads are a dimension, or put together as the attribute `name` says.
fn operand(call: &Call, i: usize, name: &str) -> Result<Side> {
    let shape = call.float_shape(i)?.to_vec();
    let count = call.int(name).and_then(|heads| usize::try_from(heads).ok());
    let heads = match (shape.as_slice(), count) {
        (&[n, tokens, width], Some(heads)) if heads > 0 && width.is_multiple_of(heads) => {
            [n, heads, tokens, width / heads]
        }
        (&[n, heads, tokens, width], count) if count.is_none_or(|c| c == heads) => [n, heads, tokens, width],
        _ => {
            return Err(
                call.error(format!("input {i} has shape {shape:?}, which does not fit `{name}` {count:?}"))
            );
        }
    };
    let constant = match call.input(i) {
        Input::Constant(t) => Some(t.contiguous()?),
        _ => None,
    };
    Ok(Side { flat: shape.len() == 3, heads, shape, constant })
}

/// What is added to the products: the mask, and what is ahead of a query where it is causal.
fn bias(call: &Call, [n, heads, queries, keys]: [usize; 4]) -> Result<Option<Tensor>> {
    let whole = [n, heads, queries, keys];
    let mut bias: Option<Tensor> = None;
    if let Some(mask) = call.constant(3)? {
        // a mask for fewer keys hides the others from opset 24 on
        let all = mask.dims().last() == Some(&keys);
        if !all || broadcast::shape(mask.dims(), &whole).as_deref() != Some(&whole) {
            return Err(call.error(format!("a mask of shape {:?} for {whole:?} products", mask.dims())));
        }
        let values = match mask.dtype() {
            DType::F32 => mask.flatten_all()?.to_vec1()?,
            _ => {
                let allowed: Vec<i64> = mask.flatten_all()?.to_vec1()?;
                allowed.iter().map(|&a| if a != 0 { 0.0 } else { f32::NEG_INFINITY }).collect::<Vec<f32>>()
            }
        };
        let mut dims = vec![1; 4 - mask.rank()];
        dims.extend(mask.dims());
        bias = Some(Tensor::from_vec(values, dims, &Device::Cpu)?);
    }
    if call.flag("is_causal")? {
        let ahead = |at: usize| if at % keys > at / keys { f32::NEG_INFINITY } else { 0.0 };
        let causal: Vec<f32> = (0..queries * keys).map(ahead).collect();
        let causal = Tensor::from_vec(causal, (1, 1, queries, keys), &Device::Cpu)?;
        bias = Some(match bias {
            Some(mask) => mask.broadcast_add(&causal)?,
            None => causal,
        });
    }
    if let Some(bias) = &bias {
        let last = bias.dims()[3];
        let rows: Vec<f32> = bias.flatten_all()?.to_vec1()?;
        if rows.chunks(last.max(1)).any(|row| row.iter().all(|v| *v == f32::NEG_INFINITY)) {
            return Err(call.error("its mask leaves no key to a query"));
        }
    }
    Ok(bias)
}

struct Side {
    /// Its shape, and as (N, heads, tokens, size).
    shape: Vec<usize>,
    heads: [usize; 4],
    /// The heads are put together: (N, tokens, heads x size).
    flat: bool,
    constant: Option<Tensor>,
}

impl Side {
    fn apart(&self, value: &Tensor) -> Result<Tensor> {
        let [n, heads, tokens, size] = self.heads;
        Ok(match self.flat {
            true => value.reshape((n, tokens, heads, size))?.transpose(1, 2)?.contiguous()?,
            false => value.contiguous()?,
        })
    }

    /// The inverse of [`Side::apart`].
    fn together(&self, value: &Tensor) -> Result<Tensor> {
        Ok(match self.flat {
            true => value.transpose(1, 2)?.contiguous()?.reshape(self.shape.as_slice())?,
            false => value.clone(),
        })
    }
}

struct Attention {
    sides: [Side; 3],
    scale: f64,
    /// Broadcast to (N, heads, queries, keys).
    bias: Option<Tensor>,
    softcap: f64,
    /// Heads of queries for each of keys and values.
    repeats: usize,
    out: Vec<usize>,
}

/// What a pass makes on the way.
struct Pass {
    q: Tensor,
    /// Keys and values, one head for each of the queries'.
    k: Tensor,
    v: Tensor,
    /// tanh of the products over `softcap`, where there is one.
    capped: Option<Tensor>,
    /// What each query takes of each value.
    shares: Tensor,
}

impl Attention {
    fn pass(&self, values: &[&Array]) -> Result<Pass> {
        let mut values = values.iter();
        let mut operand = |side: &Side| match &side.constant {
            Some(constant) => side.apart(constant),
            None => {
                side.apart(values.next().ok_or_else(|| Error::internal("an operand is missing"))?.tensor())
            }
        };
        let (q, k, v) = (operand(&self.sides[0])?, operand(&self.sides[1])?, operand(&self.sides[2])?);
        let (k, v) = (self.repeated(&k)?, self.repeated(&v)?);
        let mut scores = product(&q, &k.t()?.contiguous()?)?.affine(self.scale, 0.0)?;
        let mut capped = None;
        if self.softcap > 0.0 {
            let tanh = scores.affine(1.0 / self.softcap, 0.0)?.tanh()?;
            scores = tanh.affine(self.softcap, 0.0)?;
            capped = Some(tanh);
        }
        if let Some(bias) = &self.bias {
            scores = scores.broadcast_add(bias)?;
        }
        let powers = scores.broadcast_sub(&scores.max_keepdim(3)?)?.exp()?;
        let shares = powers.broadcast_div(&powers.sum_keepdim(3)?)?;
        Ok(Pass { q, k, v, capped, shares })
    }

    fn repeated(&self, value: &Tensor) -> Result<Tensor> {
        if self.repeats == 1 {
            return Ok(value.clone());
        }
        let (n, heads, tokens, size) = value.dims4()?;
        let all = value.unsqueeze(2)?.broadcast_as((n, heads, self.repeats, tokens, size))?;
        Ok(all.contiguous()?.reshape((n, heads * self.repeats, tokens, size))?)
    }

    /// The gradient of keys or values from that of their repetitions.
    fn gathered(&self, dy: &Tensor) -> Result<Tensor> {
        if self.repeats == 1 {
            return Ok(dy.clone());
        }
        let (n, heads, tokens, size) = dy.dims4()?;
        let shared = heads / self.repeats;
        let apart = dy.reshape((n, shared, self.repeats, tokens, size))?;
        Ok(sum_to(&apart, &[n, shared, 1, tokens, size])?.reshape((n, shared, tokens, size))?)
    }
}

impl Exec for Attention {
    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        let Pass { shares, v, .. } = self.pass(&x.iter().collect::<Vec<_>>())?;
        let y = product(&shares, &v)?;
        if let Some(keep) = keep {
            x.iter().for_each(|x| keep.array(x));
        }
        let y = if self.sides[0].flat {
            y.transpose(1, 2)?.contiguous()?.reshape(self.out.as_slice())?
        } else {
            y
        };
        Array::from_tensor(&y)
    }

    fn vjp(&self, kept: &Saved, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
        let count = self.sides.iter().filter(|side| side.constant.is_none()).count();
        let values = (0..count).map(|i| kept.get_array(i)).collect::<Result<Vec<_>>>()?;
        let Pass { q, k, v, capped, shares } = self.pass(&values)?;
        let [n, heads, queries, _] = self.sides[0].heads;
        let dy = match self.sides[0].flat {
            true => dy.tensor().reshape((n, queries, heads, v.dims()[3]))?.transpose(1, 2)?.contiguous()?,
            false => dy.tensor().contiguous()?,
        };
        let turned = |t: &Tensor| -> Result<Tensor> { Ok(t.t()?.contiguous()?) };
        let dv = product(&turned(&shares)?, &dy)?;
        let dshares = product(&dy, &turned(&v)?)?;
        let along = (&dshares * &shares)?.sum_keepdim(3)?;
        let mut dscores = (dshares.broadcast_sub(&along)? * &shares)?;
        if let Some(tanh) = capped {
            dscores = (dscores * tanh.sqr()?.affine(-1.0, 1.0)?)?;
        }
        let dscores = dscores.affine(self.scale, 0.0)?;
        let dq = product(&dscores, &k)?;
        let dk = product(&turned(&dscores)?, &q)?;
        let all = [dq, self.gathered(&dk)?, self.gathered(&dv)?];
        let mut grads = Vec::new();
        for (side, grad) in self.sides.iter().zip(all).filter(|(side, _)| side.constant.is_none()) {
            let wanted = want.get(grads.len()) == Some(&true);
            let whole = || Array::from_tensor(&side.together(&grad)?);
            grads.push(wanted.then(whole).transpose()?);
        }
        Ok(grads)
    }

    fn flops(&self, _: usize, direction: Direction) -> u64 {
        let ([n, heads, queries, size], [_, _, keys, _]) = (self.sides[0].heads, self.sides[1].heads);
        let once = 4 * (n * heads * queries * keys * size) as u64;
        if direction == Direction::Forward { once } else { 3 * once }
    }
}
