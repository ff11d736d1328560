//! Values of an array as pixels: their range, and reading them.

use super::{
    element::{Element, Kind},
    tensor::Tensor,
};
use crate::{Error, Result, base::pixels::Pixels};

/// What the values of an array of images mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Whole numbers 0 to 255, kept as bytes; of floats if `floats`.
    Bytes { floats: bool },
    /// Floats 0 to 1.
    Unit,
    /// Floats 0 to 255, not all of them whole.
    Scaled,
}

/// How far floats may lie outside of 0 to 1 by rounding; they are clamped.
const ROUNDING: f64 = 1e-4;

/// Up to here a largest value is neither that of floats 0 to 1 nor that of 0 to 255.
const LARGEST_UNIT: f64 = 1.5;

impl Range {
    /// Finds the range of all values. Bytes need not be read for it.
    ///
    /// # Errors
    /// Values that are no pixels; errors of reading.
    pub fn of(tensor: &Tensor) -> Result<Result<Self, String>> {
        if tensor.element.kind == Kind::U8 {
            return Ok(Ok(Self::Bytes { floats: false }));
        }
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        let (mut whole, mut finite) = (true, true);
        tensor.stream(&mut |block| {
            tensor.element.each(block, |value| {
                least = least.min(value);
                most = most.max(value);
                // a cast where `fract` would be a call; beyond its range nothing is a pixel
                whole &= f64::from(value as i32) == value;
                finite &= value.is_finite();
            });
            Ok(())
        })?;
        if !finite {
            return Ok(Err("holds values that are no numbers (NaN or infinite)".into()));
        }
        let holds = format!("holds values from {least} to {most}");
        Ok(match tensor.element.is_float() {
            false if least >= 0.0 && most <= 255.0 => Ok(Self::Bytes { floats: false }),
            false => Err(format!("{holds}; pixels must be 0 to 255, or floats 0 to 1")),
            true if least < -ROUNDING => Err(format!(
                "{holds}; pixels must be 0 to 255, or floats 0 to 1. If they are normalised already, undo it: \
                 x * std + mean"
            )),
            true if most <= 1.0 + ROUNDING => Ok(Self::Unit),
            true if most <= LARGEST_UNIT || most > 255.0 || least < 0.0 => {
                Err(format!("{holds}; pixels must be 0 to 255, or floats 0 to 1"))
            }
            true if whole => Ok(Self::Bytes { floats: true }),
            true => Ok(Self::Scaled),
        })
    }

    /// What was assumed, for the user to see.
    pub fn note(self) -> Option<&'static str> {
        match self {
            Self::Bytes { floats: true } | Self::Scaled => {
                Some("floats above 1 are taken as pixels from 0 to 255 and divided by 255")
            }
            Self::Bytes { floats: false } | Self::Unit => None,
        }
    }

    /// Bytes of one value as it is kept.
    pub fn bytes(self) -> usize {
        match self {
            Self::Bytes { .. } => 1,
            Self::Unit | Self::Scaled => 4,
        }
    }

    /// The values of `bytes`, which [`of`](Self::of) has seen.
    pub fn convert(self, element: Element, bytes: Vec<u8>) -> Pixels {
        if element.kind == Kind::U8 {
            return Pixels::U8(bytes);
        }
        let count = bytes.len() / element.size();
        match self {
            Self::Bytes { .. } => {
                let mut out = Vec::with_capacity(count);
                element.each(&bytes, |value| out.push(value as u8));
                Pixels::U8(out)
            }
            Self::Unit | Self::Scaled => {
                let mut out = Vec::with_capacity(count);
                element.each(&bytes, |value| out.push(self.float(value)));
                Pixels::F32(out)
            }
        }
    }

    fn float(self, value: f64) -> f32 {
        let value = value as f32;
        (if self == Self::Scaled { value / 255.0 } else { value }).clamp(0.0, 1.0)
    }
}

/// All values of an array, row-major whatever its own order.
///
/// # Errors
/// There is no memory for it; errors of reading.
pub fn whole(tensor: &Tensor, range: Range) -> Result<Pixels> {
    Ok(match range {
        Range::Bytes { .. } => Pixels::U8(gather(tensor, |value| value as u8)?),
        Range::Unit | Range::Scaled => Pixels::F32(gather(tensor, |value| range.float(value))?),
    })
}

fn gather<T: Copy + Default>(tensor: &Tensor, convert: impl Fn(f64) -> T) -> Result<Vec<T>> {
    let mut out = Vec::new();
    let numel = tensor.numel();
    out.try_reserve_exact(numel).map_err(|e| Error::images(tensor.file.path.display(), e))?;
    if !tensor.fortran {
        tensor.stream(&mut |block| {
            tensor.element.each(block, |value| out.push(convert(value)));
            Ok(())
        })?;
        return Ok(out);
    }
    out.resize(numel, T::default());
    let mut place = Fortran::of(&tensor.shape);
    tensor.stream(&mut |block| {
        tensor.element.each(block, |value| {
            if let Some(at) = out.get_mut(place.at) {
                *at = convert(value);
            }
            place.advance();
        });
        Ok(())
    })?;
    Ok(out)
}

/// The row-major places of values whose first dimension runs fastest.
struct Fortran<'s> {
    shape: &'s [usize],
    strides: Vec<usize>,
    index: Vec<usize>,
    at: usize,
}

impl<'s> Fortran<'s> {
    fn of(shape: &'s [usize]) -> Self {
        let strides = (0..shape.len()).map(|d| shape[d + 1..].iter().product()).collect();
        Self { shape, strides, index: vec![0; shape.len()], at: 0 }
    }

    fn advance(&mut self) {
        for (d, index) in self.index.iter_mut().enumerate() {
            *index += 1;
            self.at += self.strides[d];
            if *index < self.shape[d] {
                return;
            }
            *index = 0;
            self.at -= self.strides[d] * self.shape[d];
        }
    }
}

/// (C, H, W) as (H, W, C).
pub fn interleaved(pixels: Pixels, channels: usize) -> Pixels {
    fn of<T: Copy>(planes: &[T], channels: usize) -> Vec<T> {
        let plane = planes.len() / channels;
        (0..plane).flat_map(|at| (0..channels).map(move |c| planes[c * plane + at])).collect()
    }
    match pixels {
        Pixels::U8(values) => Pixels::U8(of(&values, channels)),
        Pixels::F32(values) => Pixels::F32(of(&values, channels)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fortran_order_counts_the_first_dimension_fastest() {
        let mut place = Fortran::of(&[2, 3]);
        let places: Vec<usize> = (0..6)
            .map(|_| {
                let at = place.at;
                place.advance();
                at
            })
            .collect();
        assert_eq!(places, [0, 3, 1, 4, 2, 5]);
    }
}
