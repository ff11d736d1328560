//! Cast and CastLike.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::activation::Stepwise;
use super::array::Array;
use super::attributes::{Attribute, Kind};
use super::call::{Call, Input, Lowered, Output};
use super::exec::Exec;
use super::operator::{Operator, Placement, UNARY, arity};
use super::saved::Saved;
use super::shape::{Moved, Reshape};
use crate::Result;
use crate::onnx::tensor::DataType;

pub const CAST: Operator = Operator::new("Cast", UNARY, lower_cast)
    .attributes(&[
        Attribute::required("to", Kind::Int),
        Attribute::int("saturate", 1).since(19),
        Attribute::text("round_mode", "up").since(24),
    ])
    .limits("Floats, integers and bool; floats are computed as float32.")
    .on_gpu(Placement::Candle);

pub const CAST_LIKE: Operator = Operator::new("CastLike", &[arity(15, 2, 2)], lower_cast_like)
    .attributes(&[Attribute::int("saturate", 1).since(19), Attribute::text("round_mode", "up").since(24)])
    .limits("Constants that say the type are floats.")
    .on_gpu(Placement::Candle);

/// Cast. Floats are computed as float32 whatever their type, constants rounded to it; a value that depends on the image is rounded towards 0
/// where it becomes an integer.
fn lower_cast(call: &Call) -> Result<Lowered> {
    let code = call.int("to").unwrap_or(0);
    let elem = i32::try_from(code).ok().and_then(DataType::from_onnx);
    match elem.filter(|&elem| elem.is_float() || range(elem).is_some()) {
        Some(elem) => cast(call, elem),
        None => {
            Err(call.error(format!("a cast to element type {code}; floats, integers and bool are supported")))
        }
    }
}

fn lower_cast_like(call: &Call) -> Result<Lowered> {
    let elem = match call.input(1) {
        Input::Value { elem, .. } if elem.is_float() || range(*elem).is_some() => *elem,
        Input::Constant(t) if t.dtype() == DType::F32 => DataType::Float,
        _ => return Err(call.error("the type to cast to is that of a constant that is no float")),
    };
    let mut lowered = cast(call, elem)?;
    if let (Some(Output::Run(run)), Input::Value { .. }) = (lowered.first_mut(), call.input(1)) {
        run.exec = Arc::new(First(run.exec.clone()));
    }
    Ok(lowered)
}

/// An operator beside whose input stands a second one, of which only the type is read.
struct First(Arc<dyn Exec>);

impl Exec for First {
    fn runs_anywhere(&self) -> bool {
        self.0.runs_anywhere()
    }

    fn differentiable(&self, i: usize) -> bool {
        i == 0 && self.0.differentiable(0)
    }

    fn forward(&self, mut x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        x.truncate(1);
        self.0.forward(x, keep)
    }

    fn vjp(&self, kept: &Saved, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
        let mut grads = self.0.vjp(kept, dy, &want[..1])?;
        grads.push(None);
        Ok(grads)
    }
}

/// The least and the largest number of an integer type, and of bool.
fn range(elem: DataType) -> Option<[i64; 2]> {
    Some(match elem {
        DataType::Uint8 => [0, 255],
        DataType::Int8 => [-128, 127],
        DataType::Uint16 => [0, 65_535],
        DataType::Int16 => [-32_768, 32_767],
        DataType::Int32 => [i64::from(i32::MIN), i64::from(i32::MAX)],
        DataType::Int64 => [i64::MIN, i64::MAX],
        DataType::Uint32 => [0, i64::from(u32::MAX)],
        DataType::Bool => [0, 1],
        _ => return None,
    })
}

/// The first input as a value of type `elem`.
pub(super) fn cast(call: &Call, elem: DataType) -> Result<Lowered> {
    let Some(constant) = call.now(0) else {
        let shape = call.shape(0)?.to_vec();
        let was_float = call.elem(0).is_some_and(DataType::is_float);
        return match elem {
            DataType::Bool => call.run_as(elem, shape, true, Stepwise(|x| f32::from(x != 0.0))),
            _ if was_float && !elem.is_float() => call.run_as(elem, shape, true, Stepwise(f32::trunc)),
            _ => call.run_as(elem, shape.clone(), true, Moved(Reshape { from: shape.clone(), to: shape })),
        };
    };
    let Some([least, most]) = range(elem) else {
        let floats = constant.to_dtype(DType::F32)?;
        return call.known(&match elem {
            DataType::Float16 => floats.to_dtype(DType::F16)?.to_dtype(DType::F32)?,
            DataType::Bfloat16 => floats.to_dtype(DType::BF16)?.to_dtype(DType::F32)?,
            _ => floats,
        });
    };
    let shape = constant.dims().to_vec();
    let flat = constant.flatten_all()?;
    let values: Option<Vec<i64>> = match constant.dtype() {
        DType::F32 if elem == DataType::Bool => {
            Some(flat.to_vec1::<f32>()?.iter().map(|&v| i64::from(v != 0.0)).collect())
        }
        // out-of-range floats are refused, since runtimes convert them differently
        DType::F32 => flat
            .to_vec1::<f32>()?
            .iter()
            .map(|&v| {
                Some(v.trunc())
                    .filter(|v| *v >= least as f32 && (*v as f64) < most as f64 + 1.0)
                    .map(|v| v as i64)
            })
            .collect(),
        _ if elem == DataType::Bool => {
            Some(flat.to_vec1::<i64>()?.iter().map(|&v| i64::from(v != 0)).collect())
        }
        _ => Some(flat.to_vec1::<i64>()?).filter(|v| v.iter().all(|v| (least..=most).contains(v))),
    };
    match values {
        Some(values) => call.known(&Tensor::from_vec(values, shape, &Device::Cpu)?),
        None => Err(call.error(format!("a cast to {elem} of numbers out of its range"))),
    }
}
