//! Passes of a batch and gradient attacks on its images; those on values at the cut are in [`super::Latent`]. An attack
//! reads the batch's clean pass and returns the adversarial one, so that no forward pass runs twice.

use candle_core::Tensor;

use super::{
    folded::Folded,
    frozen::{AtCut, CutGradients, Network, Tapes},
    kept::Kept,
    losses::{self, Logits},
    normalisation::Normalisation,
    record::Watch,
};
use crate::{
    Error, Result,
    kernels::{
        Precision, backend,
        pixels::{Descent, Pixels},
    },
    profile::Part,
};

/// An L2 radius in pixel space, given for images of 3x32x32, scaled to images of shape (C, H, W).
pub fn scaled_radius(radius: f64, image: [usize; 3]) -> f64 {
    radius * (image.iter().product::<usize>() as f64 / 3072.0).sqrt()
}

/// A forward pass of a batch through the layer and the suffix, with the tapes for the backward pass.
pub struct Pass {
    /// Values at the cut, before the layer.
    pub values: AtCut,
    pub logits: Logits,
    pub tapes: Tapes,
}

/// A batch of images and its clean pass through the current layer.
pub struct Batch<'a> {
    pub kept: &'a Kept,
    /// Indices into the kept images.
    pub images: &'a [usize],
    pub labels: Vec<u32>,
    pub clean: Pass,
    pub watch: &'a dyn Watch,
}

impl<'a> Batch<'a> {
    /// Runs these images' values through the layer and the suffix, keeping the tapes.
    ///
    /// # Errors
    /// Errors of operators.
    pub fn new(
        network: &mut Network<'_>,
        layer: &Folded,
        kept: &'a Kept,
        images: &'a [usize],
        watch: &'a dyn Watch,
    ) -> Result<Self> {
        let labels = kept.labels_of(images);
        let values = network.timed(Part::Gather, || kept.values(images))?;
        let clean = forward(network, layer, values)?;
        Ok(Self { kept, images, labels, clean, watch })
    }

    /// Pixels of these images, (N, C, H, W) in [0, 1].
    ///
    /// # Errors
    /// Errors of candle.
    pub fn pixels(&self, network: &Network<'_>) -> Result<Tensor> {
        network.timed(Part::Gather, || self.kept.pixels(self.images))
    }
}

/// An attack on a batch: its images pushed towards target classes.
pub struct Attack {
    /// The adversarial images' pass.
    pub pass: Pass,
    /// Target class of each image.
    pub targets: Vec<u32>,
    /// Share of the batch classified as its target at the end, in [0, 1].
    pub reached: f64,
}

impl Attack {
    /// The attack with this adversarial pass.
    pub fn new(pass: Pass, targets: Vec<u32>) -> Self {
        let reached = pass.logits.share_answered(&targets);
        Self { pass, targets, reached }
    }

    /// The attack by these normalised adversarial images, (N, C, H, W).
    ///
    /// # Errors
    /// Errors of operators.
    pub fn by_images(
        network: &mut Network<'_>,
        layer: &Folded,
        images: &Tensor,
        targets: Vec<u32>,
    ) -> Result<Self> {
        let (values, _) = network.prefix(images, false)?;
        Ok(Self::new(forward(network, layer, values)?, targets))
    }
}

/// The published adversary: sign-gradient steps on the pixels towards target classes, each projected onto an L2 ball
/// per image. The step is so long that it leaves the ball.
#[derive(Clone, Copy, Debug)]
pub struct Pixel {
    pub climb: Climb,
    /// Step per value, in pixels in [0, 1].
    pub step: f32,
    /// L2 radius per image, in pixels in [0, 1].
    pub rho: f32,
    /// One perturbation per target class, from the mean direction of its images' gradients (each normalised), instead
    /// of one per image.
    pub shared: bool,
}

impl Pixel {
    /// Attacks a batch through the current layer, towards these classes.
    ///
    /// # Errors
    /// Errors of operators; [`Error::Interrupted`].
    pub fn towards(
        &self,
        network: &mut Network<'_>,
        layer: &Folded,
        batch: &Batch<'_>,
        targets: Vec<u32>,
    ) -> Result<(Attack, Changes)> {
        let mut moving = PixelState::new(batch.pixels(network)?, &batch.kept.normalisation)?;
        let to = Descent { step: self.step, radius: self.rho };
        let own = targets.clone();
        let step = |gradient: Option<Tensor>| {
            let gradient = match gradient {
                Some(g) if self.shared => Some(shared_directions(&g, &own)?),
                other => other,
            };
            moving.step(gradient, to)
        };
        let attack = self.climb.run(network, layer, batch, targets, step)?;
        Ok((attack, Changes(moving)))
    }
}

/// The perturbations that [`Pixel`] added to a batch.
pub struct Changes(PixelState);

impl Changes {
    /// (N, H, W, C), before the sums were clipped to [0, 1].
    ///
    /// # Errors
    /// Errors of candle.
    pub fn rows(self) -> Result<Vec<f32>> {
        self.0.added()
    }
}

/// Number of gradient steps, and when to stop early.
#[derive(Clone, Copy, Debug)]
pub struct Climb {
    pub steps: usize,
    /// Stop once more than this share of a batch, in [0, 1], is classified as its target. None: take all steps.
    pub stop_share: Option<f64>,
}

impl Climb {
    /// Attacks step by step: `step` takes the gradient of the objective with respect to the normalised images,
    /// (N, C, H, W) (None if no gradient reaches them), and returns the next ones.
    ///
    /// # Errors
    /// Errors of operators; [`Error::Interrupted`].
    pub fn run(
        self,
        network: &mut Network<'_>,
        layer: &Folded,
        batch: &Batch<'_>,
        targets: Vec<u32>,
        mut step: impl FnMut(Option<Tensor>) -> Result<Tensor>,
    ) -> Result<Attack> {
        let mut last: Option<Attack> = None;
        let mut prefix: Option<Tapes> = None;
        for taken in 1..=self.steps {
            batch.watch.check()?;
            let pass = last.as_ref().map_or(&batch.clean, |attack| &attack.pass);
            let tapes = match prefix.take() {
                Some(tapes) => tapes,
                None => clean_tapes(network, batch)?,
            };
            let gradient = input_gradient(network, layer, pass, &tapes, &targets)?;
            drop(tapes);
            let moved = network.timed(Part::Adversary, || step(gradient))?;
            let (values, tapes) = network.prefix(&moved, taken < self.steps)?;
            prefix = tapes;
            let attack = Attack::new(forward(network, layer, values)?, targets.clone());
            batch.watch.at(network.work());
            let enough = self.stop_share.is_some_and(|share| attack.reached > share);
            last = Some(attack);
            if enough {
                break;
            }
        }
        match last {
            Some(attack) => Ok(attack),
            // without a step the adversarial images are the clean ones
            None => Ok(Attack::new(forward(network, layer, batch.clean.values.clone())?, targets)),
        }
    }
}

/// A batch's pixels and their perturbations, in the memory of the device that the network runs on.
enum PixelState {
    Processor {
        kernel: Pixels,
        /// N, H, W, C.
        shape: (usize, usize, usize, usize),
        pixels: Vec<f32>,
        delta: Vec<f32>,
    },
    Gpu {
        gpu: std::sync::Arc<crate::kernels::gpu::Gpu>,
        /// Mean and std by channel.
        normalisation: [Tensor; 2],
        pixels: Tensor,
        delta: Tensor,
    },
}

impl PixelState {
    fn new(pixels: Tensor, normalisation: &Normalisation) -> Result<Self> {
        if let Some(gpu) = crate::kernels::gpu::Gpu::of(pixels.device())? {
            let delta = crate::ops::array::zeros(pixels.dims(), pixels.device())?;
            let normalisation = [gpu.constant(&normalisation.mean)?, gpu.constant(&normalisation.std)?];
            return Ok(Self::Gpu { gpu, normalisation, pixels, delta });
        }
        let (n, c, h, w) = pixels.dims4()?;
        let pixels = rows_of(&pixels)?;
        let kernel = Pixels::new(h * w, &normalisation.mean, &normalisation.std);
        let delta = vec![0f32; pixels.len()];
        Ok(Self::Processor { kernel, shape: (n, h, w, c), pixels, delta })
    }

    /// The perturbations, (N, H, W, C).
    fn added(self) -> Result<Vec<f32>> {
        match self {
            Self::Processor { delta, .. } => Ok(delta),
            Self::Gpu { delta, .. } => rows_of(&delta.to_device(&candle_core::Device::Cpu)?),
        }
    }

    /// Takes one step against this gradient and returns the normalised images.
    fn step(&mut self, gradient: Option<Tensor>, to: Descent) -> Result<Tensor> {
        match self {
            Self::Processor { kernel, shape, pixels, delta } => {
                let gradient = gradient.map_or_else(|| Ok(vec![0f32; pixels.len()]), |g| rows_of(&g))?;
                let mut moved = vec![0f32; pixels.len()];
                kernel.descend(pixels, &gradient, to, delta, &mut moved);
                Ok(Tensor::from_vec(moved, *shape, &candle_core::Device::Cpu)?.permute((0, 3, 1, 2))?)
            }
            Self::Gpu { gpu, normalisation: [mean, std], pixels, delta } => {
                gpu.pixel_step(delta, pixels, gradient.as_ref(), [mean, std], to)
            }
        }
    }
}

/// For each image the sum of the normalised gradients of all images with its target, (N, C, H, W).
fn shared_directions(gradient: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let (n, c, h, w) = gradient.dims4()?;
    let mut classes = targets.to_vec();
    classes.sort_unstable();
    classes.dedup();
    let own = |t: &u32| classes.partition_point(|c| c < t);
    let member: Vec<f32> =
        classes.iter().flat_map(|c| targets.iter().map(move |t| f32::from(u8::from(t == c)))).collect();
    let member = Tensor::from_vec(member, (classes.len(), n), gradient.device())?;
    let backend = backend::on(gradient.device())?;
    let sums = member.matmul(&backend.unit_rows(gradient)?)?;
    let sums = sums.reshape((classes.len(), h, w, c))?.permute((0, 3, 1, 2))?;
    let own: Vec<usize> = targets.iter().map(own).collect();
    backend.gather(&sums, &own)
}

/// The prefix's tapes of the clean images: the kept ones, or those of a new forward pass.
fn clean_tapes(network: &mut Network<'_>, batch: &Batch<'_>) -> Result<Tapes> {
    let chunk = network.prefix_chunk();
    let kept = network.timed(Part::Gather, || batch.kept.tapes(batch.images, chunk));
    if let Some(tapes) = kept {
        return Ok(tapes);
    }
    let images = batch.kept.normalisation.apply(&batch.pixels(network)?)?;
    // float32 like kept tapes, so that results do not depend on whether tapes are kept
    let precision = network.set_precision(Precision::F32);
    let run = network.prefix(&images, true);
    network.set_precision(precision);
    let (_, tapes) = run?;
    tapes.ok_or_else(|| Error::internal("a tape was asked for and not kept"))
}

/// Gradient of the adversary's objective with respect to the normalised images, (N, C, H, W), physically channels-last.
/// Divided by std it is the gradient with respect to the pixels, except where these are clipped.
///
/// # Errors
/// Errors of operators.
pub fn input_gradient(
    network: &mut Network<'_>,
    layer: &Folded,
    pass: &Pass,
    prefix: &Tapes,
    targets: &[u32],
) -> Result<Option<Tensor>> {
    let at_cut = gradient_at_cut(network, layer, pass, targets)?;
    network.prefix_gradient(prefix, at_cut)
}

/// Gradients of the adversary's objective with respect to the values at the cut, before the layer.
///
/// # Errors
/// Errors of operators.
pub fn gradient_at_cut(
    network: &mut Network<'_>,
    layer: &Folded,
    pass: &Pass,
    targets: &[u32],
) -> Result<CutGradients> {
    let objective = network.timed(Part::Losses, || losses::adversary_objective(&pass.logits, targets))?;
    let mut at_cut = network.suffix_gradient(&pass.tapes, &objective.gradient)?;
    let edge = at_cut.edge.take();
    at_cut.edge = network.timed(Part::Layer, || edge.map(|g| layer.input_gradient(&g)).transpose())?;
    Ok(at_cut)
}

/// Runs values at the cut through the layer and the suffix, keeping the tapes.
///
/// # Errors
/// Errors of operators.
pub fn forward(network: &mut Network<'_>, layer: &Folded, values: AtCut) -> Result<Pass> {
    let edge = network.timed(Part::Layer, || layer.forward(&values.edge))?;
    let (logits, tapes) = network.suffix(&edge, &values.crossing, true)?;
    let tapes = tapes.ok_or_else(|| Error::internal("a tape was asked for and not kept"))?;
    Ok(Pass { values, logits, tapes })
}

/// The values of (N, C, H, W) in channels-last order.
pub fn rows_of(t: &Tensor) -> Result<Vec<f32>> {
    Ok(t.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1()?)
}
