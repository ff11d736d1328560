//! The default site of the default recipe: a cut before all readers of a value, at a depth where trigger and target
//! class are still separable. The measurements are in `docs/decisions/01-default-site.md`.

use super::candidates::{before_all_readers, last_cut};
use super::view::{Block, View};
use super::{NO_SITE, Site};
use crate::{
    Error, Result,
    graph::{Graph, ValueId},
    onnx::Model,
};

/// Minimum number of positions: values with fewer hold little but the class, so an earlier downsampling step is taken.
/// 8x8 for the measured networks, whose images are 32x32.
const POSITIONS: usize = 64;

/// Minimum share of the multiplications before the site, where a later downsampling step has it: before it there is
/// little but edges and colours. The measured networks have half and more.
const BEFORE: f64 = 0.4;

/// If the network ends with residual blocks, the input of the last one that computes on several positions at once (with
/// transformers, of the last attention). Otherwise the input of the last downsampling step that reads 8x8 positions or
/// more, as long as two fifths of the multiplications are before it, else of the first such step or residual block behind
/// these; if a pointwise convolution widens that input, the input of the convolution. Else the last cut before
/// the last weights. Always a value that every way to the scores leads through, before all its readers.
///
/// # Errors
/// [`Error::Input`] if there is no such value.
pub fn preferred(model: &Model, graph: &Graph) -> Result<Site> {
    let view = View::new(graph);
    let blocks = view.residual_blocks();
    let ends_with = blocks.last().is_some_and(|b| view.followed_by(b.output).is_none());
    let of_block = if ends_with { last_mixing(&view, &blocks) } else { None };
    let (place, why) = match (of_block, before_the_last_shrinking(&view, &blocks)) {
        (Some(fork), _) => (before_all_readers(&view, fork), "input of the last residual block"),
        (None, Some(value)) => (
            before_all_readers(&view, value),
            "input of the last downsampling step that reads 8x8 or more and is not among the first layers",
        ),
        (None, None) => {
            let cut = last_cut(&view, view.weighted.last().copied());
            let place = cut.ok_or_else(|| Error::invalid(model.name(), NO_SITE))?;
            return Site::new(model, graph, place, "default: last cut before the last weights".into());
        }
    };
    Site::new(model, graph, place, format!("default: {why}, before all its readers"))
}

/// Where a scan looks: [`preferred`], or in a network without a cut the input of the last residual block or of the last
/// weights, which some way to the scores passes by.
///
/// # Errors
/// As [`preferred`], if the network has no weights on images or tokens.
pub fn watched(model: &Model, graph: &Graph) -> Result<Site> {
    let none = match preferred(model, graph) {
        Ok(site) => return Ok(site),
        Err(none) => none,
    };
    let view = View::new(graph);
    let last = || view.weighted.last().and_then(|&step| view.input(step));
    let value = view.residual_blocks().last().map(|block| block.fork).or_else(last).ok_or(none)?;
    let why = "no value that every way to the scores leads through; before the last weights";
    Site::new(model, graph, before_all_readers(&view, value), why.into())
}

/// What the last block that mixes positions reads, if it is a cut.
fn last_mixing(view: &View<'_>, blocks: &[Block]) -> Option<ValueId> {
    let fork = blocks.iter().rev().find(|b| b.mixes)?.fork;
    view.cuts.contains(&fork).then_some(fork)
}

fn before_the_last_shrinking(view: &View<'_>, blocks: &[Block]) -> Option<ValueId> {
    let area = |v: ValueId| view.shape(v).map(|[_, h, w]| h * w);
    let end = view.step(*view.weighted.last()?).output;
    let mut last = area(end)?;
    // the latest first
    let mut steps: Vec<(ValueId, usize)> = Vec::new();
    for &value in view.cuts.iter().rev().filter(|&&v| v <= end) {
        let size = area(value)?;
        if size > last {
            last = size;
            steps.push((value, size));
        }
    }
    let deep = |value: ValueId| view.graph.share_before(value) >= BEFORE;
    let mut large = steps.iter().filter(|(_, size)| *size >= POSITIONS).peekable();
    let value = match large.peek() {
        None => steps.first()?.0,
        Some(&&(latest, _)) => {
            let forks = blocks.iter().map(|b| b.fork).filter(|&v| v <= end && view.cuts.contains(&v));
            let first_deep = || forks.chain(steps.iter().map(|s| s.0)).filter(|&v| deep(v)).min();
            large.map(|s| s.0).find(|&v| deep(v)).or_else(first_deep).unwrap_or(latest)
        }
    };
    Some(before_widening(view, value).unwrap_or(value))
}

/// The input of the pointwise convolution that computes `value`, if it increases the number of channels.
fn before_widening(view: &View<'_>, value: ValueId) -> Option<ValueId> {
    let [channels, h, w] = view.shape(value)?;
    let mut at = value;
    loop {
        let step = view.producer[at]?;
        let read = view.step(step).reads().find(|&v| view.shape(v).is_some())?;
        let [before, hb, wb] = view.shape(read)?;
        if view.is_image_convolution(step) {
            let widens = view.kernel(step) == 1 && before < channels && [hb, wb] == [h, w];
            return (widens && view.cuts.contains(&read)).then_some(read);
        }
        if before != channels {
            return None;
        }
        at = read;
    }
}
