//! Adversaries: what moves (pixels), within what ball, towards which class. An adversary sees a batch's clean pass and
//! gives back the values it brought to the cut with the pass behind them, so that no forward is run twice; the losses
//! and the schedule are the trainer's.

use candle_core::Tensor;

use super::{
    kept::{Kept, Normalisation},
    layer::Folded,
    losses::{self, Logits},
    network::{AtCut, Network, Tapes},
    settings::{AdversaryKind, Settings},
};
use crate::{Error, Result, profile::Part};

/// A pass of a batch through the suffix, with what its backward pass needs.
pub struct Pass {
    /// What went into the layer and beside it.
    pub values: AtCut,
    pub logits: Logits,
    pub tapes: Tapes,
}

/// A batch as an adversary sees it.
pub struct Batch<'a> {
    pub kept: &'a Kept,
    /// Which of the kept images.
    pub images: &'a [usize],
    pub labels: &'a [u32],
    pub clean: &'a Pass,
}

/// What an adversary made of a batch.
pub struct Attack {
    /// The adversarial images' pass.
    pub pass: Pass,
    /// The class each image was pushed towards.
    pub targets: Vec<u32>,
    /// Share of the batch answered with its target at the end, in [0, 1].
    pub reached: f64,
}

/// An adversary: pushes each image of a batch towards a wrong class of its choice.
pub trait Adversary {
    /// Attacks a batch against the layer as it stands.
    ///
    /// # Errors
    /// What an operator refuses.
    fn attack(&self, network: &mut Network<'_>, layer: &Folded, batch: &Batch<'_>) -> Result<Attack>;
}

/// The adversary that the settings name; None for no adversary.
pub fn from_settings(
    settings: &Settings,
    image: [usize; 3],
    normalisation: &Normalisation,
) -> Option<Box<dyn Adversary>> {
    match settings.adversary {
        AdversaryKind::None => None,
        AdversaryKind::Pixel => Some(Box::new(Pixel {
            steps: settings.inner_steps,
            step: settings.inner_step as f32,
            rho: settings.rho_for(image) as f32,
            stop_share: settings.stop_share,
            normalisation: normalisation.clone(),
        })),
    }
}

/// The published adversary: sign ascent on the pixels towards the likeliest wrong class, projected to an L2 ball per
/// image after each step; it overshoots the ball and is projected back.
pub struct Pixel {
    pub steps: usize,
    /// Length of a step per value, in pixel space [0, 1].
    pub step: f32,
    /// Radius of the ball, L2 per image in pixel space.
    pub rho: f32,
    pub stop_share: f64,
    pub normalisation: Normalisation,
}

impl Adversary for Pixel {
    fn attack(&self, network: &mut Network<'_>, layer: &Folded, batch: &Batch<'_>) -> Result<Attack> {
        let targets = batch.clean.logits.likeliest_wrong(batch.labels);
        let pixels = network
            .timed(Part::Gather, || rows_of(&super::network::gather(&batch.kept.pixels, batch.images)?))?;
        let shape = batch.kept.pixels.dims4()?;
        let per_image = pixels.len() / batch.images.len().max(1);
        let mut delta = vec![0f32; pixels.len()];
        let mut last: Option<Pass> = None;
        let mut prefix: Option<Tapes> = None;
        let mut reached = 0.0;
        for step in 0..self.steps {
            let pass = last.as_ref().unwrap_or(batch.clean);
            let tapes = match prefix.take() {
                Some(tapes) => tapes,
                None => self.clean_tapes(network, batch)?,
            };
            let gradient = self.input_gradient(network, layer, pass, &tapes, &targets)?;
            drop(tapes);
            let moved = network.timed(Part::Adversary, || {
                let mut gradient = gradient.map_or_else(|| Ok(vec![0f32; pixels.len()]), |g| rows_of(&g))?;
                clip_gradient(&mut gradient, &pixels, &delta);
                sign_step(&mut delta, &gradient, self.step, self.rho, per_image);
                let moved = pixels.iter().zip(&delta).map(|(x, d)| (x + d).clamp(0.0, 1.0)).collect();
                let moved = from_rows(moved, (batch.images.len(), shape.1, shape.2, shape.3))?;
                self.normalisation.apply(&moved)
            })?;
            let (values, tapes) = network.prefix(&moved, step + 1 < self.steps)?;
            prefix = tapes;
            let pass = forward(network, layer, values)?;
            reached = pass.logits.share_answered(&targets);
            last = Some(pass);
            if reached > self.stop_share {
                break;
            }
        }
        let pass = match last {
            Some(pass) => pass,
            // No step was asked for: the adversarial images are the clean ones.
            None => forward(network, layer, batch.clean.values.clone())?,
        };
        Ok(Attack { pass, targets, reached })
    }
}

impl Pixel {
    /// The prefix's tapes of the clean images: kept ones, or else one forward before the site.
    fn clean_tapes(&self, network: &mut Network<'_>, batch: &Batch<'_>) -> Result<Tapes> {
        let chunk = network.prefix_chunk();
        let kept = network.timed(Part::Gather, || batch.kept.tapes(batch.images, chunk));
        if let Some(tapes) = kept {
            return Ok(tapes);
        }
        let images =
            network.timed(Part::Gather, || super::network::gather(&batch.kept.pixels, batch.images))?;
        let (_, tapes) = network.prefix(&self.normalisation.apply(&images)?, true)?;
        tapes.ok_or_else(|| Error::internal("a tape was asked for and not kept"))
    }

    /// The gradient of the objective with respect to the pixels, before the clip: (N, C, H, W), channels-last.
    ///
    /// # Errors
    /// What an operator refuses.
    pub fn input_gradient(
        &self,
        network: &mut Network<'_>,
        layer: &Folded,
        pass: &Pass,
        prefix: &Tapes,
        targets: &[u32],
    ) -> Result<Option<Tensor>> {
        let objective = network.timed(Part::Losses, || losses::adversary_objective(&pass.logits, targets))?;
        let mut at_cut = network.suffix_gradient(&pass.tapes, &objective.gradient)?;
        let edge = at_cut.edge.take();
        at_cut.edge = network.timed(Part::Layer, || edge.map(|g| layer.input_gradient(&g)).transpose())?;
        let Some(g) = network.prefix_gradient(prefix, at_cut)? else { return Ok(None) };
        let std = Tensor::from_slice(&self.normalisation.std, self.normalisation.std.len(), g.device())?;
        network.timed(Part::Adversary, || {
            let rows = g.permute((0, 2, 3, 1))?.contiguous()?.broadcast_div(&std)?;
            Ok(Some(rows.permute((0, 3, 1, 2))?))
        })
    }
}

/// Values at the cut through the layer and the suffix, with the tapes.
///
/// # Errors
/// What an operator refuses.
pub fn forward(network: &mut Network<'_>, layer: &Folded, values: AtCut) -> Result<Pass> {
    let edge = network.timed(Part::Layer, || layer.forward(&values.edge))?;
    let (logits, tapes) = network.suffix(&edge, &values.crossing, true)?;
    let tapes = tapes.ok_or_else(|| Error::internal("a tape was asked for and not kept"))?;
    Ok(Pass { values, logits, tapes })
}

/// The gradient through clip(x + delta, 0, 1): it passes where 0 <= x + delta <= 1.
pub fn clip_gradient(gradient: &mut [f32], pixels: &[f32], delta: &[f32]) {
    for ((g, x), d) in gradient.iter_mut().zip(pixels).zip(delta) {
        if !(0.0..=1.0).contains(&(x + d)) {
            *g = 0.0;
        }
    }
}

/// delta <- delta - step sign(gradient); then, per image, where the L2 norm of delta is above rho, delta <- delta rho /
/// norm. sign(0) = 0. The norm is summed in f64 in the order of the values.
pub fn sign_step(delta: &mut [f32], gradient: &[f32], step: f32, rho: f32, per_image: usize) {
    let per_image = per_image.max(1);
    for (delta, gradient) in delta.chunks_mut(per_image).zip(gradient.chunks(per_image)) {
        let mut sum = 0f64;
        for (d, g) in delta.iter_mut().zip(gradient) {
            let sign = f32::from(u8::from(*g > 0.0)) - f32::from(u8::from(*g < 0.0));
            *d -= step * sign;
            sum += f64::from(*d) * f64::from(*d);
        }
        let norm = sum.sqrt() as f32;
        if norm > rho {
            delta.iter_mut().for_each(|d| *d = *d * rho / norm);
        }
    }
}

/// Values (N, C, H, W) in channels-last order.
fn rows_of(t: &Tensor) -> Result<Vec<f32>> {
    Ok(t.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1()?)
}

/// The other way round, for a shape (N, C, H, W).
fn from_rows(rows: Vec<f32>, (n, c, h, w): (usize, usize, usize, usize)) -> Result<Tensor> {
    Ok(Tensor::from_vec(rows, (n, h, w, c), &candle_core::Device::Cpu)?.permute((0, 3, 1, 2))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_overshoots_and_is_projected_back() {
        let mut delta = vec![0.0; 8];
        let gradient = [1.0, -2.0, 0.0, 1e-9, 0.0, 0.0, 0.0, -0.5];
        sign_step(&mut delta, &gradient, 0.1, 0.15, 4);
        let r = 0.15 / 3f32.sqrt();
        let want = [-r, r, 0.0, -r, 0.0, 0.0, 0.0, 0.1];
        delta.iter().zip(want).for_each(|(d, w)| assert!((d - w).abs() < 1e-7, "{delta:?}"));
    }

    #[test]
    fn the_clip_passes_its_bounds() {
        let mut g = [1.0; 4];
        clip_gradient(&mut g, &[0.0, 1.0, 0.5, 0.9], &[0.0, 0.0, -0.6, 0.2]);
        assert_eq!(g, [1.0, 1.0, 0.0, 0.0]);
    }
}
