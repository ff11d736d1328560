//! The losses of a training step and their gradients with respect to the layer.

use candle_core::Tensor;

use super::{
    layer::{FoldedGradients, Gradients, Polarizer, Trainable},
    losses,
};
use crate::{
    Error, Result,
    base::profile::Part,
    network::{AtCut, Folded, Network, Pass},
};

/// Cross-entropy of a batch's values at the cut, with the layer in training mode, and its gradients.
///
/// # Errors
/// Errors of operators; [`Error::Setting`] where no gradient reaches the site.
pub fn warm_up_gradients(
    network: &mut Network<'_>,
    layer: &Polarizer,
    values: &AtCut,
    labels: &[u32],
) -> Result<(f64, Gradients)> {
    let pass = network.timed(Part::Layer, || layer.forward_train(&values.edge))?;
    let (logits, tapes) = network.suffix(&pass.output.detach(), &values.crossing, true)?;
    let tapes = tapes.ok_or_else(|| Error::internal("a tape was asked for and not kept"))?;
    let loss = network.timed(Part::Losses, || losses::cross_entropy(&logits, labels))?;
    let edge = network.suffix_gradient(&tapes, &loss.gradient)?.edge.ok_or_else(no_gradient)?;
    let gradients = network.timed(Part::Layer, || layer.gradients(&pass, &edge))?;
    Ok((loss.value, gradients))
}

/// An adversarial pass with the inputs of its losses.
pub struct AdversarialPass<'a> {
    pub pass: &'a Pass,
    /// Target class of each image.
    pub targets: &'a [u32],
    /// The answer that each image should keep.
    pub original: &'a [u32],
}

/// A clean pass with the inputs of its losses.
pub struct CleanPass<'a> {
    pub pass: &'a Pass,
    pub labels: &'a [u32],
    /// For the retention: logits of the network without the layer, (B, K), and the weight.
    pub retained: Option<(&'a Tensor, f64)>,
}

/// Inputs of the outer losses.
pub struct Outer<'a> {
    pub clean: CleanPass<'a>,
    pub attacked: Option<AdversarialPass<'a>>,
    /// Weights of L1 to L4.
    pub lambdas: [f64; 4],
    /// Gradients of further losses, to be added.
    pub more: FoldedGradients,
}

/// The outer losses, before weighting.
#[derive(Clone, Copy, Debug, Default)]
pub struct OuterLosses {
    /// L1 to L4.
    pub published: [f64; 4],
    /// KL divergence of the predictions on clean images from those without the layer; 0 without
    /// [`CleanPass::retained`].
    pub retention: f64,
}

/// The losses, and the gradients of their weighted sum with respect to the layer. `folded` is `layer` as in the passes.
///
/// # Errors
/// Errors of operators; [`Error::Setting`] where no gradient reaches the site.
pub fn outer_gradients(
    network: &mut Network<'_>,
    layer: &dyn Trainable,
    folded: &Folded,
    outer: Outer<'_>,
) -> Result<(OuterLosses, Gradients)> {
    let Outer { clean: CleanPass { pass: clean, labels, retained }, attacked, lambdas, more: mut sums } =
        outer;
    let (l1, retention, gradient) = network.timed(Part::Losses, || -> Result<_> {
        let l1 = losses::cross_entropy(&clean.logits, labels)?;
        let gradient = (l1.gradient * lambdas[0])?;
        let Some((before, weight)) = retained else { return Ok((l1.value, 0.0, gradient)) };
        let kl = losses::retention(&clean.logits, before)?;
        Ok((l1.value, kl.value, (gradient + (kl.gradient * weight)?)?))
    })?;
    add_gradient(network, clean, &gradient, &mut sums)?;
    let mut published = [l1, 0.0, 0.0, 0.0];
    if let Some(AdversarialPass { pass, targets, original }) = attacked {
        let weights = [lambdas[1], lambdas[2], lambdas[3]];
        let l = network
            .timed(Part::Losses, || losses::adversarial(&pass.logits, original, labels, targets, weights))?;
        add_gradient(network, pass, &l.gradient, &mut sums)?;
        published = [l1, l.l2, l.l3, l.l4];
    }
    let gradients = network.timed(Part::Layer, || layer.unfold(folded, sums))?;
    Ok((OuterLosses { published, retention }, gradients))
}

/// Adds the gradients with respect to the folded layer of `pass`, from the `gradient` with respect to its logits, (B,
/// K).
///
/// # Errors
/// Errors of operators; [`Error::Setting`] where no gradient reaches the site.
pub(super) fn add_gradient(
    network: &mut Network<'_>,
    pass: &Pass,
    gradient: &Tensor,
    sums: &mut FoldedGradients,
) -> Result<()> {
    let edge = network.suffix_gradient(&pass.tapes, gradient)?.edge.ok_or_else(no_gradient)?;
    network.timed(Part::Layer, || sums.add(&pass.values.edge, &edge))
}

fn no_gradient() -> Error {
    Error::setting("site", "no gradient of the answer reaches this site")
}
