//! Elements picked from one or more values by index, the common core of GatherElements, GatherND, the scatters, Trilu,
//! DepthToSpace and SpaceToDepth. Gradients that meet in one element are added in the order of the output.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::array::Array;
use super::call::{Call, Input, Lowered};
use super::combine::exact_floats;
use super::exec::Exec;
use super::saved::Saved;
use super::walk::places;
use crate::kernels::buffers;
use crate::{Error, Result};

/// Where each element of an output comes from, all in row-major order.
pub(super) struct Table {
    /// Indices into the sources, one behind the other, or [`NOTHING`]. If `rows` is true, those of one row of dimension
    /// 0, which are the same for all; then there is one source.
    pub from: Vec<u32>,
    pub rows: bool,
}

/// An element that is 0.
pub(super) const NOTHING: u32 = u32::MAX;

/// The output of shape `to` whose elements are those of the inputs `sources` at the places of `table`.
pub(super) fn relocated(call: &Call, sources: &[usize], to: Vec<usize>, table: &Table) -> Result<Lowered> {
    call.elements(&to)?;
    if call.folding.is_some() {
        return fold(call, sources, &to, table);
    }
    let mut kinds = Vec::new();
    for &i in sources {
        kinds.push(match call.input(i) {
            Input::Constant(t) => Source::Constant(exact_floats(call, i, t)?),
            _ => Source::Value(call.shape(i)?.to_vec()),
        });
    }
    let from = in_memory(call, sources, &to, table)?;
    let row = if table.rows { to[1..].iter().product() } else { to.iter().product() };
    let exec = Relocated { sources: kinds, from, row, to: to.clone() };
    call.run(to, table.rows, exec)
}

/// The table in the order of memory.
fn in_memory(call: &Call, sources: &[usize], to: &[usize], table: &Table) -> Result<Vec<u32>> {
    let single = |shape: &[usize]| {
        let mut shape = shape.to_vec();
        if let (true, Some(first)) = (table.rows, shape.first_mut()) {
            *first = 1;
        }
        shape
    };
    let mut from = table.from.clone();
    let mut start = 0;
    for &i in sources {
        let shape = single(call.shape(i)?);
        let count: usize = shape.iter().product();
        if let (Input::Value { .. }, Some(places)) = (call.input(i), places(&shape)) {
            for at in &mut from {
                if let Some(place) = (*at as usize).checked_sub(start).and_then(|at| places.get(at)) {
                    *at = (start + place) as u32;
                }
            }
        }
        start += count;
    }
    let Some(places) = places(&single(to)) else { return Ok(from) };
    let mut turned = vec![NOTHING; from.len()];
    places.into_iter().zip(from).for_each(|(place, at)| turned[place] = at);
    Ok(turned)
}

fn fold(call: &Call, sources: &[usize], to: &[usize], table: &Table) -> Result<Lowered> {
    let constants: Vec<&Tensor> = sources.iter().filter_map(|&i| call.now(i)).collect();
    let rows = if table.rows { to[0] } else { 1 };
    fn picked<T: candle_core::WithDType>(all: &[T], rows: usize, from: &[u32], zero: T) -> Vec<T> {
        let each = all.len() / rows.max(1);
        let element = |row: usize, at: u32| all.get(row * each + at as usize).filter(|_| at != NOTHING);
        (0..rows).flat_map(|r| from.iter().map(move |&at| element(r, at).copied().unwrap_or(zero))).collect()
    }
    let flat = |dtype: DType| -> Result<Tensor> {
        let all =
            constants.iter().map(|t| Ok(t.to_dtype(dtype)?.flatten_all()?)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&all, 0)?)
    };
    call.known(&match constants.iter().all(|t| t.dtype() == DType::I64) {
        true => {
            let all: Vec<i64> = flat(DType::I64)?.to_vec1()?;
            Tensor::from_vec(picked(&all, rows, &table.from, 0), to, &Device::Cpu)?
        }
        false => {
            let all: Vec<f32> = flat(DType::F32)?.to_vec1()?;
            Tensor::from_vec(picked(&all, rows, &table.from, 0.0), to, &Device::Cpu)?
        }
    })
}

enum Source {
    /// Its shape.
    Value(Vec<usize>),
    Constant(Vec<f32>),
}

struct Relocated {
    sources: Vec<Source>,
    /// As in [`Table`], in the order of memory.
    from: Vec<u32>,
    /// Elements of the output that the table stands for.
    row: usize,
    to: Vec<usize>,
}

impl Relocated {
    /// By source: its first index in the table, and its number of elements for one use of the table.
    fn extents(&self) -> Vec<(usize, usize)> {
        let uses = self.to.iter().product::<usize>() / self.row.max(1);
        let mut start = 0;
        let count = |source: &Source| match source {
            Source::Value(shape) => shape.iter().product::<usize>() / uses.max(1),
            Source::Constant(values) => values.len(),
        };
        self.sources
            .iter()
            .map(|source| {
                let extent = (start, count(source));
                start += extent.1;
                extent
            })
            .collect()
    }
}

impl Exec for Relocated {
    fn forward(&self, x: Vec<Array>, _: Option<&mut Saved>) -> Result<Array> {
        let read = x.iter().map(Array::read).collect::<Result<Vec<_>>>()?;
        let mut next = read.iter();
        let mut sources: Vec<&[f32]> = Vec::new();
        for source in &self.sources {
            sources.push(match source {
                Source::Constant(values) => values,
                Source::Value(_) => next.next().ok_or_else(|| Error::internal("an operand is missing"))?,
            });
        }
        let extents = self.extents();
        let mut y = buffers::take(self.to.iter().product());
        y.par_chunks_mut(self.row.max(1)).enumerate().for_each(|(image, y)| {
            for (y, &at) in y.iter_mut().zip(&self.from) {
                let at = at as usize;
                let source = extents.iter().position(|&(start, count)| at.wrapping_sub(start) < count);
                *y = source.map_or(0.0, |k| sources[k][image * extents[k].1 + at - extents[k].0]);
            }
        });
        drop(read);
        Array::new(y, &self.to)
    }

    fn vjp(&self, _: &Saved, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
        let dy = dy.read()?;
        let mut grads = Vec::new();
        for (source, (start, count)) in self.sources.iter().zip(self.extents()) {
            let Source::Value(shape) = source else { continue };
            if want.get(grads.len()) != Some(&true) {
                grads.push(None);
                continue;
            }
            let mut dx = buffers::take(shape.iter().product());
            dx.fill(0.0);
            dx.par_chunks_mut(count.max(1)).zip(dy.par_chunks(self.row.max(1))).for_each(|(dx, dy)| {
                for (dy, &at) in dy.iter().zip(&self.from) {
                    if let Some(dx) = dx.get_mut((at as usize).wrapping_sub(start)) {
                        *dx += dy;
                    }
                }
            });
            grads.push(Some(Array::new(dx, shape)?));
        }
        Ok(grads)
    }
}
