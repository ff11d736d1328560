//! Softmax and LogSoftmax. Up to opset 12 they flatten the value to two dimensions at the axis; since 13 they work
//! along the axis alone.

use super::array::Array;
use super::attributes::Attribute;
use super::call::{Call, Lowered};
use super::exec::Exec;
use super::operator::{Operator, UNARY};
use super::saved::Saved;
use crate::Result;

const AXIS: &[Attribute] = &[Attribute::int("axis", 1).until(12), Attribute::int("axis", -1).since(13)];

pub const SOFTMAX: Operator = Operator::new("Softmax", UNARY, |call| lower(call, false)).attributes(AXIS);
pub const LOG_SOFTMAX: Operator =
    Operator::new("LogSoftmax", UNARY, |call| lower(call, true)).attributes(AXIS);

fn lower(call: &Call, log: bool) -> Result<Lowered> {
    let shape = call.float_shape(0)?.to_vec();
    let given = call.int("axis").unwrap_or(-1);
    let rank = shape.len();
    let flattens = call.opset < 13;
    // the old form allows an axis one past the last
    let axis = if flattens && given == rank as i64 { rank } else { call.axis(given, rank)? };
    let outer: usize = shape[..axis].iter().product();
    let (along, inner) = match (flattens, shape.get(axis)) {
        (false, Some(&d)) => (d, shape[axis + 1..].iter().product()),
        _ => (shape[axis..].iter().product(), 1),
    };
    call.run(shape.clone(), axis > 0, Softmax { log, view: [outer, along, inner], shape })
}

struct Softmax {
    log: bool,
    /// Number of elements before, along and after the axis.
    view: [usize; 3],
    shape: Vec<usize>,
}

impl Exec for Softmax {
    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        let [outer, along, inner] = self.view;
        let x = x[0].tensor().reshape((outer, along, inner))?;
        let moved = x.broadcast_sub(&x.max_keepdim(1)?)?;
        let y = if self.log {
            moved.broadcast_sub(&moved.exp()?.sum_keepdim(1)?.log()?)?
        } else {
            let e = moved.exp()?;
            e.broadcast_div(&e.sum_keepdim(1)?)?
        };
        let y = Array::from_tensor(&y.reshape(self.shape.as_slice())?)?;
        if let Some(keep) = keep {
            keep.array(&y);
        }
        Ok(y)
    }

    fn vjp(&self, kept: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        let [outer, along, inner] = self.view;
        let y = kept.get_array(0)?.tensor().reshape((outer, along, inner))?;
        let dy = dy.tensor().reshape((outer, along, inner))?;
        let dx = if self.log {
            (&dy - y.exp()?.broadcast_mul(&dy.sum_keepdim(1)?)?)?
        } else {
            let product = (&dy * &y)?;
            (&product - y.broadcast_mul(&product.sum_keepdim(1)?)?)?
        };
        Ok(vec![Some(Array::from_tensor(&dx.reshape(self.shape.as_slice())?)?)])
    }
}
