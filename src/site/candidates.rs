//! The places that are listed, and the published recipe's default among them.

use super::view::{Block, View};
use super::{SitePlace, name_of, readers, text_of};
use crate::{
    graph::{Graph, ValueId},
    onnx::Model,
};

/// A candidate site, and the reason to list it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its name, in the syntax of [`resolve`](super::resolve).
    pub text: String,
    pub place: SitePlace,
    /// The node that reads the edge; empty where several do.
    pub node: String,
    /// The value on the edge.
    pub value: String,
    /// (C, H, W) of the value; T tokens are (C, T, 1).
    pub shape: [usize; 3],
    pub why: String,
    /// Whether it is the default of [`resolve`](super::resolve).
    pub default: bool,
}

/// All candidates in execution order; exactly one is the default, unless there are none: the inputs of the steps with
/// weights on images or tokens.
///
/// The default, the published recipe's, is the main-branch input of the first convolution of the last residual block,
/// where the residual passes by; where weights follow that block, without such blocks, and in networks of tokens, it is
/// the last cut before the last step with weights. Squeeze-and-excite branches are never candidates: behind a global
/// pool there are no positions.
pub fn candidates(model: &Model, graph: &Graph) -> Vec<Candidate> {
    let view = View::new(graph);
    let blocks = view.residual_blocks();
    let (place, reason) = match blocks.last() {
        Some(block) => match view.followed_by(block.output) {
            None => match block.first.filter(|&first| view.is_image_convolution(first)) {
                Some(first) => (edge_of(&view, first), Some("the residual passes by".to_owned())),
                None => (last_cut(&view, view.weighted.last().copied()), Some(LAST_CUT.to_owned())),
            },
            head => {
                let why = "last convolution on image-shaped values, after the last residual block";
                (last_cut(&view, head), Some(why.to_owned()))
            }
        },
        None => {
            let why = "last convolution on image-shaped values; no residual blocks";
            (last_cut(&view, view.weighted.last().copied()), Some(why.to_owned()))
        }
    };
    let mut found: Vec<Candidate> =
        view.weighted.iter().filter_map(|&step| listed(model, &view, &blocks, step)).collect();
    let Some(place) = place else { return found };
    match found.iter_mut().find(|c| c.place == place) {
        Some(candidate) => {
            candidate.default = true;
            if let Some(reason) = reason {
                candidate.why = match candidate.why.as_str() {
                    PLAIN => reason,
                    other => format!("{other}; {reason}"),
                };
            }
        }
        None => found.extend(cut(model, &view, place)),
    }
    found
}

const PLAIN: &str = "convolution on image-shaped values";
const LAST_CUT: &str = "the last value before the last weights that every way to the scores leads through";

/// The input of a step with weights as a candidate.
fn listed(model: &Model, view: &View<'_>, blocks: &[Block], step: usize) -> Option<Candidate> {
    let (place, value) = (edge_of(view, step)?, view.input(step)?);
    let shape = view.shape(value)?;
    let of_block = |(i, _): (usize, &Block)| {
        let what = if view.is_image_convolution(step) { "convolution" } else { "product" };
        format!("first {what} of residual block {} of {}", i + 1, blocks.len())
    };
    let reasons: Vec<String> =
        blocks.iter().enumerate().filter(|(_, b)| b.first == Some(step)).map(of_block).collect();
    let plain = if view.is_image_convolution(step) { PLAIN } else { "product with weights on tokens" };
    Some(Candidate {
        text: text_of(model, &place),
        place,
        node: name_of(model, view.step(step).node),
        value: view.graph.value(value).name.clone(),
        shape,
        why: if reasons.is_empty() { plain.to_owned() } else { reasons.join("; ") },
        default: false,
    })
}

fn edge_of(view: &View<'_>, step: usize) -> Option<SitePlace> {
    Some(SitePlace::Edge { node: view.step(step).node, input: 0 })
}

/// The last cut before a step: on the step's own edge if nothing else reads the value.
pub(super) fn last_cut(view: &View<'_>, step: Option<usize>) -> Option<SitePlace> {
    let step = step?;
    let input = view.input(step)?;
    let &value = view.cuts.iter().rev().find(|&&v| v <= input)?;
    match readers(view.graph, value)[..] {
        [(reader, 0)] if reader == step => edge_of(view, step),
        _ => Some(before_all_readers(view, value)),
    }
}

/// The place before all readers of a value.
pub(super) fn before_all_readers(view: &View<'_>, value: ValueId) -> SitePlace {
    SitePlace::Value { name: view.graph.value(value).name.clone() }
}

/// A default that is no step's own edge.
fn cut(model: &Model, view: &View<'_>, place: SitePlace) -> Option<Candidate> {
    let SitePlace::Value { name } = &place else { return None };
    let value = view.graph.find_value(name)?;
    Some(Candidate {
        text: text_of(model, &place),
        node: String::new(),
        value: name.clone(),
        shape: view.shape(value)?,
        why: LAST_CUT.to_owned(),
        default: true,
        place,
    })
}
