//! Normalisation from pixels to the network's input.

use candle_core::Tensor;

use crate::{Error, Result, kernels::backend};

/// Per-channel normalisation of pixels in [0, 1]: (x - mean) / std.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalisation {
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
}

impl Normalisation {
    /// The network's input for pixels (N, C, H, W) in [0, 1].
    ///
    /// # Errors
    /// If the channels differ.
    pub fn apply(&self, pixels: &Tensor) -> Result<Tensor> {
        let channels = pixels.dim(1)?;
        for (name, values) in [("mean", &self.mean), ("std", &self.std)] {
            if values.len() != channels {
                let problem = format!("{} values for {channels} channels", values.len());
                return Err(Error::invalid(name, problem));
            }
        }
        backend::on(pixels.device())?.normalise(pixels, &self.mean, &self.std)
    }
}
