//! The cache of the clean images: pixels, values at the cut, logits and, if memory allows, the tape of the prefix.
//! Everything before the site is frozen, so these depend on the image alone and are computed once.

use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};

use super::{
    deviations::{self, Sigma},
    frozen::{AtCut, Network, Tapes, concatenate, gather},
    losses::Logits,
    normalisation::Normalisation,
};
use crate::{Result, base::pixels::Pixels, ops::array};

/// The cached clean images.
pub struct Kept {
    /// (N, C, H, W), physically channels-last: 8-bit values on a CPU where the images have them, else floats in [0, 1].
    pixels: Tensor,
    /// Class of each image: its label, or the network's own answer if there are no labels.
    pub labels: Vec<u32>,
    /// Logits of the network without the layer, (N, K).
    pub original: Logits,
    /// From pixels to the network's input.
    pub normalisation: Normalisation,
    values: AtCut,
    tape: Option<Tapes>,
    deviations: OnceLock<Vec<Sigma>>,
}

/// Images with their classes.
#[derive(Clone, Copy, Debug)]
pub struct Samples<'a> {
    /// (N, C, H, W), row-major.
    pub pixels: &'a Pixels,
    /// Class of each image. None: the network's own answers are used.
    pub labels: Option<&'a [u32]>,
}

impl Kept {
    /// Runs the network over the images, each of shape `image` = (C, H, W), and caches the values; with `keep_tape`
    /// also the prefix's tape. `progress` gets the number of images done.
    ///
    /// # Errors
    /// Errors of operators and of `progress`.
    pub fn new(
        network: &mut Network<'_>,
        normalisation: &Normalisation,
        samples: Samples<'_>,
        image: [usize; 3],
        keep_tape: bool,
        mut progress: impl FnMut(&Network<'_>, usize) -> Result<()>,
    ) -> Result<Self> {
        let [c, h, w] = image;
        let count = samples.pixels.len() / (c * h * w).max(1);
        let pixels = on_device(samples.pixels, count, image, network.device())?;
        let (mut edges, mut crossings, mut logits) =
            (RowBuffer::default(), Vec::<RowBuffer>::new(), Vec::new());
        let mut tape = keep_tape.then(Tapes::default);
        let chunk = network.at_a_time();
        for start in (0..count).step_by(chunk) {
            let part = floats(&pixels.narrow(0, start, chunk.min(count - start))?)?;
            let part = normalisation.apply(&part)?;
            let (values, part_tape) = network.prefix(&part, keep_tape)?;
            let (z, _) = network.suffix(&values.edge, &values.crossing, false)?;
            logits.push(z.tensor);
            edges.push(&values.edge, count)?;
            crossings.resize_with(values.crossing.len(), RowBuffer::default);
            crossings.iter_mut().zip(&values.crossing).try_for_each(|(all, v)| all.push(v, count))?;
            if let (Some(all), Some(more)) = (&mut tape, part_tape) {
                all.extend(more);
            }
            progress(network, start + part.dim(0)?)?;
        }
        let crossing = crossings.into_iter().map(RowBuffer::tensor).collect::<Result<_>>()?;
        let values = AtCut { edge: edges.tensor()?, crossing };
        let original = Logits::new(concatenate(&logits)?)?;
        let labels = samples.labels.map_or_else(|| original.answers(), <[u32]>::to_vec);
        let normalisation = normalisation.clone();
        Ok(Self { pixels, labels, original, normalisation, values, tape, deviations: OnceLock::new() })
    }

    /// Bytes of one value of the kept pixels on `device`.
    pub fn pixel_bytes(pixels: &Pixels, device: &Device) -> usize {
        match pixels {
            Pixels::U8(_) if device.is_cpu() => 1,
            _ => size_of::<f32>(),
        }
    }

    /// (C, H, W) of each image.
    ///
    /// # Errors
    /// Errors of candle.
    pub fn image(&self) -> Result<[usize; 3]> {
        let (_, c, h, w) = self.pixels.dims4()?;
        Ok([c, h, w])
    }

    /// Pixels of these images, (B, C, H, W) in [0, 1].
    ///
    /// # Errors
    /// If an index is out of range.
    pub fn pixels(&self, images: &[usize]) -> Result<Tensor> {
        floats(&gather(&self.pixels, images)?)
    }

    /// Number of images.
    pub fn count(&self) -> usize {
        self.labels.len()
    }

    /// Values at the cut of all images.
    pub fn all(&self) -> &AtCut {
        &self.values
    }

    /// Standard deviations per channel of each value that crosses the cut, the edge first; computed once.
    ///
    /// # Errors
    /// Errors of candle.
    pub fn deviations(&self) -> Result<&[Sigma]> {
        if let Some(known) = self.deviations.get() {
            return Ok(known);
        }
        let values = std::iter::once(&self.values.edge).chain(&self.values.crossing);
        let found = values.map(deviations::deviations).collect::<Result<_>>()?;
        Ok(self.deviations.get_or_init(|| found))
    }

    /// Number of images that the network without the layer classifies as labelled.
    pub fn answered_rightly(&self) -> usize {
        self.original.answers().iter().zip(&self.labels).filter(|(a, b)| a == b).count()
    }

    /// Values at the cut of these images.
    ///
    /// # Errors
    /// If an index is out of range.
    pub fn values(&self, images: &[usize]) -> Result<AtCut> {
        let crossing = self.values.crossing.iter().map(|v| gather(v, images)).collect::<Result<_>>()?;
        Ok(AtCut { edge: gather(&self.values.edge, images)?, crossing })
    }

    /// The prefix's tapes of these images; None if they were not kept.
    pub fn tapes(&self, images: &[usize], chunk: usize) -> Option<Tapes> {
        self.tape.as_ref()?.gather(images, chunk, self.pixels.device())
    }

    /// Bytes of the kept tape, 0 if none is kept.
    pub fn tape_bytes(&self) -> usize {
        self.tape.as_ref().map_or(0, Tapes::bytes)
    }

    /// Answers of the network without the layer to these images.
    pub fn original_answers(&self, images: &[usize]) -> Vec<u32> {
        let answers = self.original.answers();
        images.iter().map(|&i| answers[i]).collect()
    }

    /// The logits of these images without the layer, (B, K).
    ///
    /// # Errors
    /// If an index is out of range.
    pub fn original_logits(&self, images: &[usize]) -> Result<Tensor> {
        gather(&self.original.tensor, images)
    }

    /// Labels of these images.
    pub fn labels_of(&self, images: &[usize]) -> Vec<u32> {
        images.iter().map(|&i| self.labels[i]).collect()
    }
}

/// Row-major images (N, C, H, W) as a physically channels-last tensor; see [`Kept::pixel_bytes`].
fn on_device(pixels: &Pixels, count: usize, image: [usize; 3], device: &Device) -> Result<Tensor> {
    let [c, h, w] = image;
    let shape = (count, h, w, c);
    let tensor = match pixels {
        Pixels::U8(values) if device.is_cpu() => {
            Tensor::from_vec(channels_last(values, image, |v| v), shape, device)?
        }
        Pixels::U8(values) => Tensor::from_vec(channels_last(values, image, unit), shape, &Device::Cpu)?,
        Pixels::F32(values) => Tensor::from_vec(channels_last(values, image, |v| v), shape, &Device::Cpu)?,
    };
    array::to_device(&tensor.permute((0, 3, 1, 2))?, device)
}

/// An 8-bit value in [0, 1].
fn unit(value: u8) -> f32 {
    f32::from(value) / 255.0
}

/// Values of images (N, C, H, W) in the order (N, H, W, C).
fn channels_last<T: Copy, U>(values: &[T], [c, h, w]: [usize; 3], of: impl Fn(T) -> U) -> Vec<U> {
    let plane = h * w;
    let mut rows = Vec::with_capacity(values.len());
    for image in values.chunks_exact((c * plane).max(1)) {
        for pixel in 0..plane {
            rows.extend((0..c).map(|channel| of(image[channel * plane + pixel])));
        }
    }
    rows
}

/// Images (N, C, H, W), physically channels-last, as floats in [0, 1].
fn floats(pixels: &Tensor) -> Result<Tensor> {
    if pixels.dtype() != DType::U8 {
        return Ok(pixels.clone());
    }
    let (n, c, h, w) = pixels.dims4()?;
    let bytes = pixels.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1::<u8>()?;
    let values: Vec<f32> = bytes.into_iter().map(unit).collect();
    Ok(Tensor::from_vec(values, (n, h, w, c), &Device::Cpu)?.permute((0, 3, 1, 2))?)
}

/// Overwrites rows of dimension 0 from index `at` on.
fn set_rows(all: &Tensor, at: usize, rows: &Tensor) -> Result<()> {
    if let Some(gpu) = crate::kernels::gpu::Gpu::of(all.device())? {
        return gpu.set_rows(all, at, rows);
    }
    Ok(all.slice_set(rows, 0, at)?)
}

/// Collects the values of all images chunk by chunk, without a second copy of the whole.
#[derive(Default)]
struct RowBuffer {
    /// Channels-last if the rank is 4.
    data: Vec<f32>,
    /// Shape of one image in memory order.
    shape: Vec<usize>,
    /// GPU only: the preallocated tensor and the number of images written so far.
    on_gpu: Option<(Tensor, usize)>,
}

impl RowBuffer {
    /// Appends a chunk; there will be `count` images in all.
    fn push(&mut self, part: &Tensor, count: usize) -> Result<()> {
        let part = if part.rank() == 4 { part.permute((0, 2, 3, 1))? } else { part.clone() };
        let shape = &part.dims()[1..];
        if !part.device().is_cpu() {
            let (all, done) = match self.on_gpu.take() {
                Some(begun) => begun,
                None => {
                    let whole = [&[count], shape].concat();
                    (Tensor::zeros(whole, part.dtype(), part.device())?, 0)
                }
            };
            set_rows(&all, done, &part.contiguous()?)?;
            self.on_gpu = Some((all, done + part.dim(0)?));
            return Ok(());
        }
        if self.data.is_empty() {
            self.shape = shape.to_vec();
            self.data.reserve_exact(count * shape.iter().product::<usize>());
        }
        self.data.extend(part.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }

    fn tensor(self) -> Result<Tensor> {
        if let Some((t, _)) = self.on_gpu {
            return Ok(if t.rank() == 4 { t.permute((0, 3, 1, 2))? } else { t });
        }
        let row = self.shape.iter().product::<usize>().max(1);
        let mut shape = vec![self.data.len() / row];
        shape.extend(&self.shape);
        let t = Tensor::from_vec(self.data, shape, &Device::Cpu)?;
        Ok(if t.rank() == 4 { t.permute((0, 3, 1, 2))? } else { t })
    }
}
