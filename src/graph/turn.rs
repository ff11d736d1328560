//! A value at a cut as images, (N, C, H, W), whatever its layout: everything around a layer is written for images.

use candle_core::Tensor;

use super::Value;
use crate::ops::Layout;
use crate::{Error, Result};

/// How a value becomes (N, C, H, W) and back.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    layout: Layout,
    /// The value's own shape.
    own: Vec<usize>,
    /// (N, C, H, W).
    images: [usize; 4],
}

impl Turn {
    /// The turn of a value for `batch` images; None for a value that has no channels.
    pub fn of(value: &Value, batch: usize) -> Option<Self> {
        let (layout, own) = (value.layout(), value.shape.clone());
        let channels = *own.get(layout.channels(own.len())?)?;
        let positions = own.iter().product::<usize>().checked_div(batch.checked_mul(channels)?)?;
        let images = match (layout, own.as_slice()) {
            (Layout::Nchw, &[n, c, h, w]) => [n, c, h, w],
            (Layout::Nhwc, &[n, h, w, c]) => [n, c, h, w],
            _ => [batch, channels, positions, 1],
        };
        Some(Self { layout, own, images })
    }

    /// (N, C, H, W).
    pub fn images(&self) -> [usize; 4] {
        self.images
    }

    /// Nothing to do.
    pub fn is_none(&self) -> bool {
        self.own == self.images
    }

    fn channels_last(&self) -> bool {
        matches!(self.layout, Layout::Nhwc | Layout::Tokens | Layout::Windows)
    }

    /// The value, of its own shape, as (N, C, H, W).
    pub fn there(&self, value: &Tensor) -> Result<Tensor> {
        let [n, c, h, w] = self.images;
        if !self.channels_last() {
            return Ok(value.contiguous()?.reshape(&self.images)?);
        }
        Ok(value.contiguous()?.reshape((n, h, w, c))?.permute((0, 3, 1, 2))?)
    }

    /// (N, C, H, W) as a value of its own shape.
    pub fn back(&self, images: &Tensor) -> Result<Tensor> {
        if images.dims() != self.images {
            let (found, expected) = (images.dims(), self.images);
            return Err(Error::internal(format!("images of shape {found:?}, expected {expected:?}")));
        }
        let images = if self.channels_last() { images.permute((0, 2, 3, 1))? } else { images.clone() };
        Ok(images.contiguous()?.reshape(self.own.as_slice())?)
    }
}
