//! Fuses neighbouring actions of a segment into one pass over memory, see [`Fused`]. Values that are an output of the
//! segment, or that have another reader, are not fused away.

use super::action::Action;
use crate::Result;
use crate::kernels::Precision;
use crate::ops::{ConvCache, Fused};

/// An action that may be fused into a later one.
struct FusionCandidate {
    action: Action,
    fused: Fused,
    gone: bool,
}

/// Producer and readers of each slot.
struct Uses<'a> {
    /// Index of the action that writes the slot; `usize::MAX` if none does.
    producer: Vec<usize>,
    readers: Vec<usize>,
    /// By slot: the value must be materialized.
    kept: &'a [bool],
}

impl<'a> Uses<'a> {
    fn new(actions: &[Action], kept: &'a [bool]) -> Self {
        let (mut producer, mut readers) = (vec![usize::MAX; kept.len()], vec![0; kept.len()]);
        for (i, action) in actions.iter().enumerate() {
            action.reads.iter().for_each(|&(slot, _)| readers[slot] += 1);
            producer[action.writes] = i;
        }
        Self { producer, readers, kept }
    }

    /// The actions of `before` whose output only `action` reads, latest first, each with the operand it feeds.
    fn makers(&self, action: &Action, before: &[FusionCandidate]) -> Vec<(usize, usize)> {
        let operands = action.reads.iter().enumerate();
        let mut makers: Vec<(usize, usize)> = operands
            .filter(|(_, (slot, _))| self.readers[*slot] == 1 && !self.kept[*slot])
            .map(|(operand, &(slot, _))| (self.producer[slot], operand))
            .filter(|&(maker, _)| before.get(maker).is_some_and(|m| !m.gone))
            .collect();
        makers.sort_unstable_by(|a, b| b.cmp(a));
        makers
    }
}

/// Fuses what can be fused. By slot: `kept`, whether its value must be materialized; `rank`, its number of
/// dimensions.
pub(super) fn join(
    actions: Vec<Action>,
    kept: &[bool],
    rank: &[usize],
    convs: &ConvCache,
    precision: Precision,
) -> Result<Vec<Action>> {
    let uses = Uses::new(&actions, kept);
    let candidate = |action: Action| {
        let fused = Fused::new(action.exec.as_ref(), action.node, rank[action.writes]);
        FusionCandidate { action, fused, gone: false }
    };
    let mut all: Vec<FusionCandidate> = actions.into_iter().map(candidate).collect();
    // Each action is offered to its producers. The fused action takes the later one's position, where all inputs of
    // both exist.
    for i in 0..all.len() {
        let (before, rest) = all.split_at_mut(i);
        let Some(FusionCandidate { action, fused, .. }) = rest.first_mut() else { break };
        for (maker, operand) in uses.makers(action, before) {
            let previous = &mut before[maker];
            let Some(joined) = previous.fused.with(action.exec.as_ref(), action.node, convs)? else {
                continue;
            };
            previous.gone = true;
            let mut reads = std::mem::take(&mut previous.action.reads);
            // the other operand of a residual sum follows the convolution's own input
            reads.extend(action.reads.iter().enumerate().filter(|(o, _)| *o != operand).map(|(_, r)| *r));
            action.reads = reads;
            action.names.splice(0..0, std::mem::take(&mut previous.action.names));
            *fused = joined;
            break;
        }
    }
    let finish = |FusionCandidate { mut action, fused, .. }: FusionCandidate| {
        if let Some(exec) = fused.exec(precision) {
            action.exec = exec;
        }
        action
    };
    Ok(all.into_iter().filter(|c| !c.gone).map(finish).collect())
}
