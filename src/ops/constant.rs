//! Constant and ConstantOfShape.

use candle_core::{Device, Tensor};

use super::attributes::{Attribute, Given, Kind};
use super::call::{Call, Lowered};
use super::{Operator, arity};
use crate::Result;

pub const CONSTANT: Operator = Operator {
    name: "Constant",
    inputs: &[arity(7, 0, 0)],
    attributes: &[
        Attribute::required("value", Kind::Tensor).until(10),
        Attribute::optional("value", Kind::Tensor).since(11),
        Attribute::optional("value_float", Kind::Float).since(12),
        Attribute::optional("value_floats", Kind::Floats).since(12),
        Attribute::optional("value_int", Kind::Int).since(12),
        Attribute::optional("value_ints", Kind::Ints).since(12),
    ],
    lower: lower_constant,
};

pub const CONSTANT_OF_SHAPE: Operator = Operator {
    name: "ConstantOfShape",
    inputs: &[arity(9, 1, 1)],
    attributes: &[Attribute::optional("value", Kind::Tensor)],
    lower: lower_constant_of_shape,
};

fn lower_constant(call: &Call) -> Result<Lowered> {
    let device = &Device::Cpu;
    let forms = ["value", "value_float", "value_floats", "value_int", "value_ints"];
    let mut given = forms.iter().map(|name| call.attribute(name)).filter(|g| !matches!(g, Given::Absent));
    let tensor = match (given.next(), given.next()) {
        (Some(Given::Tensor(t)), None) => {
            super::constant(t).map_err(|problem| call.error(format!("its value {problem}")))?
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
        Given::Tensor(t) => {
            super::constant(t).map_err(|problem| call.error(format!("its value {problem}")))?
        }
        _ => Tensor::new(0f32, &Device::Cpu)?,
    };
    if value.elem_count() != 1 {
        return Err(call.error(format!("its value has {} elements, expected 1", value.elem_count())));
    }
    call.known(&value.flatten_all()?.reshape(())?.broadcast_as(shape)?)
}
