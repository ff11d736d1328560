//! What an operator saves in the forward pass for its gradient, one row per image where possible.

use super::array::Array;
use crate::kernels::Bits;
use crate::{Error, Result};

/// What one operator saves in the forward pass for its gradient.
#[derive(Clone, Debug, Default)]
pub struct Saved(Vec<Item>);

#[derive(Clone, Debug)]
enum Item {
    Array(Array),
    Bits(Bits),
    /// The same number for every image.
    Indices {
        rows: usize,
        indices: Vec<u32>,
    },
    /// A mask or indices in the GPU's memory: (images, words).
    Words(candle_core::Tensor),
}

impl Saved {
    /// Saves a value.
    pub fn array(&mut self, value: &Array) {
        self.0.push(Item::Array(value.clone()));
    }

    /// Saves a mask.
    pub fn bits(&mut self, bits: Bits) {
        self.0.push(Item::Bits(bits));
    }

    /// Saves indices, equally many for each of `rows` images.
    pub fn indices(&mut self, rows: usize, indices: Vec<u32>) {
        self.0.push(Item::Indices { rows, indices });
    }

    /// Saves a mask or indices in a GPU's memory: (rows, words).
    pub fn words(&mut self, words: candle_core::Tensor) {
        self.0.push(Item::Words(words));
    }

    /// Item `i`, which must be a mask or indices on a GPU.
    pub fn get_words(&self, i: usize) -> Result<&candle_core::Tensor> {
        match self.0.get(i) {
            Some(Item::Words(words)) => Ok(words),
            _ => Err(mixed_up()),
        }
    }

    /// Item `i`, which must be a value.
    pub fn get_array(&self, i: usize) -> Result<&Array> {
        match self.0.get(i) {
            Some(Item::Array(a)) => Ok(a),
            _ => Err(mixed_up()),
        }
    }

    /// Item `i`, which must be a mask.
    pub fn get_bits(&self, i: usize) -> Result<&Bits> {
        match self.0.get(i) {
            Some(Item::Bits(b)) => Ok(b),
            _ => Err(mixed_up()),
        }
    }

    /// Item `i`, which must be indices.
    pub fn get_indices(&self, i: usize) -> Result<&[u32]> {
        match self.0.get(i) {
            Some(Item::Indices { indices, .. }) => Ok(indices),
            _ => Err(mixed_up()),
        }
    }

    /// Whether nothing is saved.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let size = |item: &Item| match item {
            Item::Array(a) => a.bytes(),
            Item::Bits(b) => b.bytes(),
            Item::Indices { indices, .. } => indices.len() * 4,
            Item::Words(words) => words.elem_count() * 4,
        };
        self.0.iter().map(size).sum()
    }

    /// The items for the images `rows` of a batch of `images`; None if an image is out of range or an item is not per
    /// image.
    pub fn select(&self, images: usize, rows: &[usize]) -> Option<Self> {
        let rows: Vec<(usize, usize)> = rows.iter().map(|&row| (0, row)).collect();
        Self::gather(&[self], &[images], &rows)
    }

    /// The items for the images `rows`, (index in `parts`, image of that batch); `images`: the size of each batch.
    /// None if an image is out of range, an item is not per image, or the parts are incompatible.
    pub fn gather(parts: &[&Saved], images: &[usize], rows: &[(usize, usize)]) -> Option<Self> {
        let count = parts.first()?.0.len();
        let in_range = |&(part, row): &(usize, usize)| images.get(part).is_some_and(|&n| row < n);
        if parts.len() != images.len()
            || parts.iter().any(|p| p.0.len() != count)
            || !rows.iter().all(in_range)
        {
            return None;
        }
        let item = |i: usize| {
            let items: Vec<(&Item, usize)> =
                parts.iter().map(|p| &p.0[i]).zip(images.iter().copied()).collect();
            Item::gather(&items, rows)
        };
        (0..count).map(item).collect::<Option<_>>().map(Self)
    }
}

impl Item {
    /// See [`Saved::gather`]; `parts`: an item of each batch and its number of images.
    fn gather(parts: &[(&Item, usize)], rows: &[(usize, usize)]) -> Option<Item> {
        match parts.first()?.0 {
            Item::Array(_) => {
                let array = |&(item, n): &(&'_ Item, usize)| match item {
                    Item::Array(a) if a.dims().first() == Some(&n) => Some(a.clone()),
                    _ => None,
                };
                let arrays: Vec<Array> = parts.iter().map(array).collect::<Option<_>>()?;
                Array::gather(&arrays, rows).ok().map(Item::Array)
            }
            Item::Bits(first) => {
                let mut all = Vec::with_capacity(parts.len());
                for &(item, n) in parts {
                    match item {
                        Item::Bits(b) if b.rows() == n && b.bits_per_row() == first.bits_per_row() => {
                            all.push(b)
                        }
                        _ => return None,
                    }
                }
                Some(Item::Bits(Bits::gather(&all, rows)))
            }
            Item::Indices { .. } => {
                let mut all = Vec::with_capacity(parts.len());
                for &(item, n) in parts {
                    match item {
                        Item::Indices { rows, indices } if *rows == n && n > 0 => {
                            all.push((indices, indices.len() / n));
                        }
                        _ => return None,
                    }
                }
                let of = |&(part, row): &(usize, usize)| {
                    let (indices, each) = all[part];
                    &indices[row * each..(row + 1) * each]
                };
                let indices = rows.iter().flat_map(of).copied().collect();
                Some(Item::Indices { rows: rows.len(), indices })
            }
            Item::Words(_) => {
                let mut all = Vec::with_capacity(parts.len());
                for &(item, n) in parts {
                    match item {
                        Item::Words(words) if words.dims().first() == Some(&n) => all.push(words),
                        _ => return None,
                    }
                }
                let gpu = crate::kernels::gpu::Gpu::of(all.first()?.device()).ok().flatten()?;
                Some(Item::Words(gpu.gather(&all, rows).ok()?))
            }
        }
    }
}

fn mixed_up() -> Error {
    Error::internal("the tape belongs to another segment")
}
