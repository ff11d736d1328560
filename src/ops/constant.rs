//! Constant, ConstantOfShape, and conversion of the file's tensors to constants.

use candle_core::{DType, Device, Tensor};

use super::attributes::{Attribute, Given, Kind};
use super::call::{Call, Lowered};
use super::limits;
use super::operator::{Operator, Placement, arity};
use crate::onnx::tensor::{self, Data};
use crate::{Error, Result};

pub const CONSTANT: Operator = Operator::new("Constant", &[arity(7, 0, 0)], lower_constant)
    .attributes(&[
        Attribute::required("value", Kind::Tensor).until(10),
        Attribute::optional("value", Kind::Tensor).since(11),
        Attribute::optional("value_float", Kind::Float).since(12),
        Attribute::optional("value_floats", Kind::Floats).since(12),
        Attribute::optional("value_int", Kind::Int).since(12),
        Attribute::optional("value_ints", Kind::Ints).since(12),
    ])
    .limits("Numbers: no strings, no sparse tensors.")
    .on_gpu(Placement::Nowhere);

pub const CONSTANT_OF_SHAPE: Operator =
    Operator::new("ConstantOfShape", &[arity(9, 1, 1)], lower_constant_of_shape)
        .attributes(&[Attribute::optional("value", Kind::Tensor)])
        .limits("A constant shape.")
        .on_gpu(Placement::Nowhere);

pub const RANGE: Operator = Operator::new("Range", &[arity(11, 3, 3)], lower_range)
    .attributes(&[Attribute::int("stash_type", 1).since(27)])
    .limits("Constant bounds; `stash_type` is 1 (float32).")
    .on_gpu(Placement::Nowhere);

/// From a start in equal steps up to a limit, which is not reached.
fn lower_range(call: &Call) -> Result<Lowered> {
    let (Some(start), Some(limit), Some(step)) = (call.now(0), call.now(1), call.now(2)) else {
        return Err(
            call.error("how many numbers it has depends on the image; its bounds have to be constants")
        );
    };
    if call.int("stash_type").is_some_and(|stash| stash != 1) {
        return Err(call.error("`stash_type` is not 1, float32"));
    }
    call.one_dtype()?;
    let bounds = [start, limit, step];
    if bounds.iter().any(|t| t.elem_count() != 1) {
        return Err(call.error("start, limit and delta have to be one number each"));
    }
    let too_many = || call.error(format!("more than {} numbers", limits::CONSTANT));
    if start.dtype() == DType::I64 {
        let one = |t: &Tensor| Ok::<i128, Error>(t.flatten_all()?.to_vec1::<i64>()?[0].into());
        let [start, limit, step] = [one(start)?, one(limit)?, one(step)?];
        if step == 0 {
            return Err(call.error("a step of 0"));
        }
        let span = (limit - start) * step.signum();
        let count = if span <= 0 { 0 } else { (span - 1) / step.abs() + 1 };
        let count = usize::try_from(count).ok().filter(|&n| n <= limits::CONSTANT).ok_or_else(too_many)?;
        let values: Vec<i64> = (0..count as i128).map(|i| (start + i * step) as i64).collect();
        return call.known(&Tensor::from_vec(values, count, &Device::Cpu)?);
    }
    let one = |t: &Tensor| Ok::<f64, Error>(t.flatten_all()?.to_vec1::<f32>()?[0].into());
    let [start, limit, step] = [one(start)?, one(limit)?, one(step)?];
    let count = ((limit - start) / step).ceil().max(0.0);
    if count.is_nan() || count > limits::CONSTANT as f64 {
        return Err(too_many());
    }
    let values: Vec<f32> = (0..count as usize).map(|i| (start + i as f64 * step) as f32).collect();
    call.known(&Tensor::from_vec(values, count as usize, &Device::Cpu)?)
}

fn lower_constant(call: &Call) -> Result<Lowered> {
    let device = &Device::Cpu;
    let forms = ["value", "value_float", "value_floats", "value_int", "value_ints"];
    let mut given = forms.iter().map(|name| call.attribute(name)).filter(|g| !matches!(g, Given::Absent));
    let tensor = match (given.next(), given.next()) {
        (Some(Given::Tensor(t)), None) => {
            constant(t).map_err(|problem| call.error(format!("its value {problem}")))?
        }
        (Some(Given::Float(v)), None) => Tensor::new(v, device)?,
        (Some(Given::Floats(v)), None) => Tensor::from_slice(v, v.len(), device)?,
        (Some(Given::Int(v)), None) => Tensor::new(v, device)?,
        (Some(Given::Ints(v)), None) => Tensor::from_slice(v, v.len(), device)?,
        _ => return Err(call.error("expected exactly one of the attributes that give its value")),
    };
    call.known(&tensor)
}

fn lower_constant_of_shape(call: &Call) -> Result<Lowered> {
    let Some(shape) = call.now(0).filter(|t| t.rank() == 1 && t.dtype() == candle_core::DType::I64) else {
        return Err(call.error("its shape has to be a constant vector of integers"));
    };
    let shape: Option<Vec<usize>> =
        shape.to_vec1::<i64>()?.iter().map(|&d| usize::try_from(d).ok()).collect();
    let shape = shape.ok_or_else(|| call.error("a negative dimension"))?;
    call.elements(&shape)?;
    let value = match call.attribute("value") {
        Given::Tensor(t) => constant(t).map_err(|problem| call.error(format!("its value {problem}")))?,
        _ => Tensor::new(0f32, &Device::Cpu)?,
    };
    if value.elem_count() != 1 {
        return Err(call.error(format!("its value has {} elements, expected 1", value.elem_count())));
    }
    call.known(&value.flatten_all()?.reshape(())?.broadcast_as(shape)?)
}

/// A tensor of the file as a constant: float32 for floats of 16 bits too, or int64 for every integer type and bool.
///
/// # Errors
/// The problem, without the tensor's name: a float type of 64 or 8 bits, a NaN, an infinity in a tensor of several elements, a
/// value beyond int64, too many dimensions.
pub fn constant(tensor: &tensor::Tensor) -> Result<Tensor, String> {
    fn whole<T: Copy + Into<i64>>(v: &[T]) -> Vec<i64> {
        v.iter().map(|&x| x.into()).collect()
    }
    let integers = match &tensor.data {
        Data::Float(v) => return floats(v.clone(), &tensor.dims),
        Data::Float16(v) => return floats(v.iter().map(|x| x.to_f32()).collect(), &tensor.dims),
        Data::Bfloat16(v) => return floats(v.iter().map(|x| x.to_f32()).collect(), &tensor.dims),
        Data::Int64(v) => v.clone(),
        Data::Int32(v) => whole(v),
        Data::Int16(v) => whole(v),
        Data::Int8(v) => whole(v),
        Data::Uint8(v) => whole(v),
        Data::Uint16(v) => whole(v),
        Data::Uint32(v) => whole(v),
        Data::Bool(v) => v.iter().map(|&x| i64::from(x)).collect(),
        Data::Uint64(v) => {
            v.iter().map(|&x| i64::try_from(x).map_err(|_| format!("holds {x}"))).collect::<Result<_, _>>()?
        }
        other => {
            let found = other.data_type().name();
            return Err(format!("holds {found} numbers; FLOAT, FLOAT16 and BFLOAT16 are supported"));
        }
    };
    from_values(integers, &tensor.dims)
}

fn floats(values: Vec<f32>, dims: &[usize]) -> Result<Tensor, String> {
    // a single infinity is a valid bound: of Clip, or the padding of a maximum
    match values.iter().find(|x| x.is_nan() || (x.is_infinite() && values.len() > 1)) {
        Some(bad) => Err(format!("holds {bad}, expected finite numbers")),
        None => from_values(values, dims),
    }
}

fn from_values<T: candle_core::WithDType>(values: Vec<T>, dims: &[usize]) -> Result<Tensor, String> {
    if dims.len() > limits::RANK {
        return Err(format!("has {} dimensions; at most {} are supported", dims.len(), limits::RANK));
    }
    if dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) != Some(values.len()) {
        return Err(format!("{} values for shape {dims:?}", values.len()));
    }
    Tensor::from_vec(values, dims, &candle_core::Device::Cpu).map_err(|e| e.to_string())
}
