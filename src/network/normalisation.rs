//! Between pixel space and what the network reads.

use candle_core::Tensor;

use crate::{Error, Result, kernels::pixels::Pixels, ops::array};

/// Per-channel normalisation between pixel space and the network's input: (x - mean) / std.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalisation {
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
}

impl Normalisation {
    /// Pixels (N, C, H, W) in [0, 1] to the network's input.
    ///
    /// # Errors
    /// When the channels differ.
    pub fn apply(&self, pixels: &Tensor) -> Result<Tensor> {
        let channels = pixels.dim(1)?;
        for (name, values) in [("mean", &self.mean), ("std", &self.std)] {
            if values.len() != channels {
                let problem = format!("{} values for {channels} channels", values.len());
                return Err(Error::invalid(name, problem));
            }
        }
        if let Some(gpu) = crate::kernels::gpu::Gpu::of(pixels.device())? {
            let [mean, std] = [gpu.constant(&self.mean)?, gpu.constant(&self.std)?];
            return gpu.normalise(&array::canonical(pixels)?, &mean, &std);
        }
        let (n, _, h, w) = pixels.dims4()?;
        if pixels.elem_count() == 0 {
            return Ok(pixels.clone());
        }
        let rows = array::Array::from_tensor(pixels)?;
        let mut normalised = vec![0f32; rows.len()];
        Pixels::new(h * w, &self.mean, &self.std).normalise(&rows.read()?, &mut normalised);
        array::from_channels_last(normalised, &[n, channels, h, w])
    }
}
