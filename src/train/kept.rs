//! What is computed once per clean image and kept: its pixels, its values at the cut, its answer and, where memory
//! allows, the tape of the prefix. Everything before the site is frozen, so it is a function of the image alone.

use candle_core::{Device, Tensor};

use super::{
    losses::Logits,
    network::{AtCut, Network, Tapes, concatenate, gather},
};
use crate::{Error, Result, graph::Tape};

/// Clean images, in pixel space and at the cut.
pub struct Kept {
    /// (N, C, H, W) in [0, 1], physically channels-last.
    pub pixels: Tensor,
    /// True class of each image, or the network's own answer where there are no labels.
    pub labels: Vec<u32>,
    /// The network's logits without the layer.
    pub original: Logits,
    values: AtCut,
    tape: Option<Tape>,
}

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
        let (mean, std) = (self.broadcast(&self.mean)?, self.broadcast(&self.std)?);
        let rows = pixels.permute((0, 2, 3, 1))?.contiguous()?;
        Ok(rows.broadcast_sub(&mean)?.broadcast_div(&std)?.permute((0, 3, 1, 2))?)
    }

    fn broadcast(&self, v: &[f32]) -> Result<Tensor> {
        Ok(Tensor::from_slice(v, v.len(), &Device::Cpu)?)
    }
}

impl Kept {
    /// Runs the network over the images (N, C, H, W), row-major, in [0, 1]. The prefix's tape is kept where it takes at
    /// most `tape_bytes` in all.
    ///
    /// # Errors
    /// What an operator refuses.
    pub fn new(
        network: &mut Network<'_>,
        normalisation: &Normalisation,
        pixels: &[f32],
        image: [usize; 3],
        labels: &[u32],
        tape_bytes: usize,
        mut progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        let [c, h, w] = image;
        let count = pixels.len() / (c * h * w).max(1);
        let pixels = Tensor::from_slice(pixels, (count, c, h, w), &Device::Cpu)?;
        let pixels = pixels.permute((0, 2, 3, 1))?.contiguous()?.permute((0, 3, 1, 2))?;
        let (mut edges, mut crossings, mut logits) = (Vec::new(), Vec::<Vec<Tensor>>::new(), Vec::new());
        let mut tapes = Vec::new();
        let mut keep = tape_bytes > 0;
        let chunk = network.prefix_chunk();
        for start in (0..count).step_by(chunk) {
            let part = normalisation.apply(&pixels.narrow(0, start, chunk.min(count - start))?)?;
            let (values, tape) = network.prefix(&part, keep)?;
            let (z, _) = network.suffix(&values.edge, &values.crossing, false)?;
            logits.push(z.tensor);
            edges.push(values.edge);
            crossings.resize_with(values.crossing.len(), Vec::new);
            crossings.iter_mut().zip(values.crossing).for_each(|(all, v)| all.push(v));
            if let Some(tape) = tape {
                // The first chunk tells what all will take.
                keep &= tape.bytes() / part.dim(0)?.max(1) * count <= tape_bytes;
                tapes.push(tape);
            }
            if !keep {
                tapes.clear();
            }
            progress(start + part.dim(0)?)?;
        }
        let crossing = crossings.iter().map(|parts| concatenate(parts)).collect::<Result<_>>()?;
        let values = AtCut { edge: concatenate(&edges)?, crossing };
        let original = Logits::new(concatenate(&logits)?)?;
        let labels = if labels.is_empty() { original.answers() } else { labels.to_vec() };
        let tape = if tapes.is_empty() { None } else { Tapes::join(&tapes) };
        Ok(Self { pixels, labels, original, values, tape })
    }

    /// Images kept.
    pub fn count(&self) -> usize {
        self.labels.len()
    }

    /// Values at the cut of all images.
    pub fn all(&self) -> &AtCut {
        &self.values
    }

    /// Values at the cut of these images.
    ///
    /// # Errors
    /// When an index is out of range.
    pub fn values(&self, images: &[usize]) -> Result<AtCut> {
        let crossing = self.values.crossing.iter().map(|v| gather(v, images)).collect::<Result<_>>()?;
        Ok(AtCut { edge: gather(&self.values.edge, images)?, crossing })
    }

    /// The prefix's tapes of these images, where they were kept.
    pub fn tapes(&self, images: &[usize], chunk: usize) -> Option<Tapes> {
        Tapes::gather(self.tape.as_ref()?, images, chunk)
    }

    /// Bytes of the kept tape, 0 where none is kept.
    pub fn tape_bytes(&self) -> usize {
        self.tape.as_ref().map_or(0, Tape::bytes)
    }

    /// What the network without the layer answers to these images.
    pub fn original_answers(&self, images: &[usize]) -> Vec<u32> {
        let answers = self.original.answers();
        images.iter().map(|&i| answers[i]).collect()
    }

    /// Labels of these images.
    pub fn labels_of(&self, images: &[usize]) -> Vec<u32> {
        images.iter().map(|&i| self.labels[i]).collect()
    }
}
