//! Joins neighbours of a segment into one pass over memory: a convolution takes in the BatchNormalization after it, the
//! residual sum and the ReLU; BatchNormalization takes in its ReLU. Only what nobody outside the segment can see goes:
//! a value that is an output of it, or that has another reader, stays.

use std::sync::Arc;

use super::segment::Action;
use crate::Result;
use crate::kernels::Precision;
use crate::ops::{Affine, AffineRelu, ConvCache, ConvSpec, Exec, Form, JoinedConv};

/// What an action is while neighbours are joined to it.
enum Shape {
    Conv { conv: Arc<ConvSpec>, node: usize, plain: bool, residual: bool, relu: bool },
    Affine { affine: Affine, relu: bool },
    Other,
}

/// An action, or what is left of it.
struct Candidate {
    action: Action,
    shape: Shape,
    gone: bool,
}

/// Joins what can be joined. `kept` says of each slot whether it has to stay; `rank` the number of dimensions of each.
pub(super) fn join(
    actions: Vec<Action>,
    kept: &[bool],
    rank: &[usize],
    convs: &ConvCache,
    precision: Precision,
) -> Result<Vec<Action>> {
    let slots = kept.len();
    let mut readers = vec![0usize; slots];
    let mut producer = vec![usize::MAX; slots];
    for (i, action) in actions.iter().enumerate() {
        for &(slot, _) in &action.reads {
            readers[slot] += 1;
        }
        producer[action.writes] = i;
    }
    let mut all: Vec<Candidate> = actions
        .into_iter()
        .map(|action| {
            let shape = match action.exec.form() {
                Form::Conv(conv) => {
                    let (conv, node) = (conv.clone(), action.node);
                    Shape::Conv { conv, node, plain: true, residual: false, relu: false }
                }
                Form::Affine(affine) if matches!(rank[action.writes], 2 | 4) => {
                    Shape::Affine { affine: affine.clone(), relu: false }
                }
                _ => Shape::Other,
            };
            Candidate { action, shape, gone: false }
        })
        .collect();
    // In the order of execution, each action is offered to the one that makes its input; what comes of it stands in the
    // later one's place, where all that either reads is there.
    for i in 0..all.len() {
        let (before, rest) = all.split_at_mut(i);
        let Some(Candidate { action, shape, .. }) = rest.first_mut() else { break };
        // the producers of its inputs that nobody else reads, latest first
        let mut inner: Vec<(usize, usize)> = action
            .reads
            .iter()
            .enumerate()
            .map(|(operand, &(slot, _))| (producer[slot], operand))
            .filter(|&(p, operand)| {
                let slot = action.reads[operand].0;
                p < i && !before[p].gone && readers[slot] == 1 && !kept[slot]
            })
            .collect();
        inner.sort_unstable();
        for &(p, operand) in inner.iter().rev() {
            let previous = &mut before[p];
            let Some(joined) = joined(&previous.shape, action, convs)? else { continue };
            previous.gone = true;
            let mut reads = std::mem::take(&mut previous.action.reads);
            // the other operand of a sum comes after the convolution's own input
            reads.extend(action.reads.iter().enumerate().filter(|(o, _)| *o != operand).map(|(_, r)| *r));
            action.reads = reads;
            action.names.splice(0..0, std::mem::take(&mut previous.action.names));
            *shape = joined;
            break;
        }
    }
    let finish = |Candidate { mut action, shape, .. }: Candidate| {
        let exec: Option<Arc<dyn Exec>> = match shape {
            Shape::Conv { plain: true, .. } | Shape::Other => None,
            Shape::Conv { conv, residual, relu, .. } => {
                Some(Arc::new(JoinedConv { conv, residual, relu, precision }))
            }
            Shape::Affine { relu: false, .. } => None,
            Shape::Affine { affine, .. } => Some(Arc::new(AffineRelu(affine))),
        };
        if let Some(exec) = exec {
            action.exec = exec;
        }
        action
    };
    Ok(all.into_iter().filter(|c| !c.gone).map(finish).collect())
}

/// What comes of an action and the one that makes its input; None where they stay apart.
fn joined(previous: &Shape, action: &Action, convs: &ConvCache) -> Result<Option<Shape>> {
    Ok(match (previous, action.exec.form()) {
        (Shape::Conv { conv, node, plain: true, .. }, Form::Affine(affine)) => {
            let conv = convs.joined(*node, conv, action.node, affine)?;
            Some(Shape::Conv { conv, node: *node, plain: false, residual: false, relu: false })
        }
        (Shape::Conv { conv, node, residual: false, relu: false, .. }, Form::Add) => {
            let conv = conv.clone();
            Some(Shape::Conv { conv, node: *node, plain: false, residual: true, relu: false })
        }
        (Shape::Conv { conv, node, residual, relu: false, .. }, Form::Relu) => {
            let (conv, residual) = (conv.clone(), *residual);
            Some(Shape::Conv { conv, node: *node, plain: false, residual, relu: true })
        }
        (Shape::Affine { affine, relu: false }, Form::Relu) => {
            Some(Shape::Affine { affine: affine.clone(), relu: true })
        }
        _ => None,
    })
}
