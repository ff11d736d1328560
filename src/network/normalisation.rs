//! Between pixel space and what the network reads.

use candle_core::Tensor;

use crate::{Error, Result, kernels::backend};

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
        backend::on(pixels.device())?.normalise(pixels, &self.mean, &self.std)
    }
}
