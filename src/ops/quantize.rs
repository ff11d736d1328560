//! QuantizeLinear and DequantizeLinear, computed in float32: a pair of them rounds a value to the steps of its scale,
//! and the gradient passes straight through inside the range of the integers.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::array::Array;
use super::attributes::Attribute;
use super::call::{Call, Lowered};
use super::exec::{Exec, only};
use super::operator::{Operator, arity};
use super::saved::Saved;
use crate::Result;
use crate::onnx::tensor::DataType;

pub const QUANTIZE_LINEAR: Operator = Operator::new("QuantizeLinear", &[arity(10, 2, 3)], lower_quantize)
    .attributes(&[
        Attribute::int("axis", 1).since(13),
        Attribute::int("block_size", 0).since(21),
        Attribute::int("output_dtype", 0).since(21),
        Attribute::int("precision", 0).since(23),
        Attribute::int("saturate", 1).since(19),
    ])
    .limits(
        "To UINT8, INT8, UINT16 and INT16; scale and zero point are constants, of the tensor or of an axis.",
    );

pub const DEQUANTIZE_LINEAR: Operator =
    Operator::new("DequantizeLinear", &[arity(10, 2, 3)], lower_dequantize)
        .attributes(&[
            Attribute::int("axis", 1).since(13),
            Attribute::int("block_size", 0).since(21),
            Attribute::int("output_dtype", 0).since(23),
        ])
        .limits("Scale and zero point are constants, of the tensor or of an axis.");

/// The steps of a quantised value: one scale and zero point, or one of each index of an axis.
struct Steps {
    scale: Vec<f32>,
    zero: Vec<f32>,
    /// Elements in memory between two indices of the axis.
    inner: usize,
}

impl Steps {
    fn of(&self, i: usize) -> (f32, f32) {
        let index = i / self.inner % self.scale.len();
        (self.scale[index], self.zero[index])
    }
}

/// The steps of the value `shape`. `in_memory`: it is laid out as arrays are, and not row-major.
fn steps(call: &Call, shape: &[usize], in_memory: bool) -> Result<Steps> {
    if call.int("block_size").is_some_and(|size| size != 0) {
        return Err(call.error("`block_size` is given: scales of blocks are not supported"));
    }
    let scale = call.floats(1)?.ok_or_else(|| call.error("input 1 is missing"))?;
    let dims = call.shape(1)?.to_vec();
    let zero = call.integers(2)?.unwrap_or_else(|| vec![0; scale.len()]);
    if let Some(bad) = scale.iter().find(|s| !s.is_finite() || **s <= 0.0) {
        return Err(call.error(format!("input 1 holds {bad}, expected scales above 0")));
    }
    if zero.len() != scale.len() {
        let (found, expected) = (zero.len(), scale.len());
        return Err(call.error(format!("input 2 has {found} elements, expected {expected} as the scale")));
    }
    let zero = zero.iter().map(|&z| z as f32).collect();
    if scale.len() == 1 && dims.len() <= 1 {
        return Ok(Steps { scale, zero, inner: 1 });
    }
    let axis = call.axis(call.int("axis").unwrap_or(1), shape.len())?;
    if dims != [shape[axis]] {
        return Err(call.error(format!("input 1 has shape {dims:?}, expected [] or [{}]", shape[axis])));
    }
    // the axis and the dimensions behind it in memory
    let inner: usize = match shape {
        &[_, c, h, w] if in_memory => [c * h * w, 1, w * c, c][axis],
        _ => shape[axis + 1..].iter().product(),
    };
    Ok(Steps { scale, zero, inner: inner.max(1) })
}

fn lower_quantize(call: &Call) -> Result<Lowered> {
    let shape = call.float_shape(0)?.to_vec();
    if call.int("precision").is_some_and(|p| !matches!(p, 0 | 1)) {
        return Err(call.error("`precision` is not that of float32"));
    }
    let stated = call.int("output_dtype").filter(|code| *code != 0);
    let stated = stated.and_then(|code| DataType::from_onnx(i32::try_from(code).unwrap_or(0)));
    let elem = call.stored(2).or(stated).unwrap_or(DataType::Uint8);
    let range = match elem {
        DataType::Uint8 => [0.0, 255.0],
        DataType::Int8 => [-128.0, 127.0],
        DataType::Uint16 => [0.0, 65_535.0],
        DataType::Int16 => [-32_768.0, 32_767.0],
        _ => {
            return Err(
                call.error(format!("quantises to {elem}; UINT8, INT8, UINT16 and INT16 are supported"))
            );
        }
    };
    if let Some(constant) = call.now(0) {
        let steps = steps(call, &shape, false)?;
        let values: Vec<f32> = constant.flatten_all()?.to_vec1()?;
        let rounded = values.iter().enumerate().map(|(i, &v)| quantized(v, steps.of(i), range) as i64);
        return call.known(&Tensor::from_vec(rounded.collect::<Vec<_>>(), shape, &Device::Cpu)?);
    }
    let steps = steps(call, &shape, true)?;
    call.run_as(elem, shape, true, Quantize { steps, range })
}

fn lower_dequantize(call: &Call) -> Result<Lowered> {
    let shape = call.shape(0)?.to_vec();
    if call.elem(0).is_some_and(DataType::is_float) {
        return Err(call.error("input 0 holds floats, expected integers"));
    }
    // of the scale's type
    let elem = call.stored(1).filter(|elem| elem.is_float()).unwrap_or(DataType::Float);
    if let Some(constant) = call.now(0) {
        let steps = steps(call, &shape, false)?;
        let values: Vec<i64> = constant.flatten_all()?.to_vec1()?;
        let floats = values.iter().enumerate().map(|(i, &v)| {
            let (scale, zero) = steps.of(i);
            ((v as f64 - f64::from(zero)) * f64::from(scale)) as f32
        });
        return call.known(&Tensor::from_vec(floats.collect::<Vec<_>>(), shape, &Device::Cpu)?);
    }
    let steps = steps(call, &shape, true)?;
    call.run_as(elem, shape, true, Dequantize { steps })
}

/// The integer that `x` becomes.
fn quantized(x: f32, (scale, zero): (f32, f32), [least, most]: [f32; 2]) -> f32 {
    ((x / scale).round_ties_even() + zero).clamp(least, most)
}

/// Elements per parallel chunk.
const PART: usize = 16 * 1024;

/// Each element by its index in memory.
fn each(x: Array, f: impl Fn(usize, f32) -> f32 + Sync) -> Result<Array> {
    x.map(|from, data| {
        let parts = data.par_chunks_mut(PART).enumerate();
        parts.for_each(|(part, data)| {
            let start = part * PART;
            for (i, value) in data.iter_mut().enumerate() {
                let x = from.map_or(*value, |from| from[start + i]);
                *value = f(start + i, x);
            }
        });
    })
}

struct Quantize {
    steps: Steps,
    /// Least and largest integer.
    range: [f32; 2],
}

impl Exec for Quantize {
    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        let x = only(x)?;
        if let Some(keep) = keep {
            keep.array(&x);
        }
        each(x, |i, x| quantized(x, self.steps.of(i), self.range))
    }

    fn vjp(&self, kept: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        let x = kept.get_array(0)?.read()?;
        let [least, most] = self.range;
        let dx = each(dy, |i, dy| {
            let (scale, zero) = self.steps.of(i);
            let at = (x[i] / scale).round_ties_even() + zero;
            if (least..=most).contains(&at) { dy / scale } else { 0.0 }
        })?;
        Ok(vec![Some(dx)])
    }
}

struct Dequantize {
    steps: Steps,
}

impl Exec for Dequantize {
    fn forward(&self, x: Vec<Array>, _: Option<&mut Saved>) -> Result<Array> {
        each(only(x)?, |i, x| {
            let (scale, zero) = self.steps.of(i);
            (x - zero) * scale
        })
    }

    fn vjp(&self, _: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        Ok(vec![Some(each(dy, |i, dy| dy * self.steps.of(i).0)?)])
    }
}
