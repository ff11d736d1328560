//! Joins neighbours of a segment into one pass over memory, see [`Fused`]. Only what nobody outside the segment can see
//! goes: a value that is an output of it, or that has another reader, stays.

use super::action::Action;
use crate::Result;
use crate::kernels::Precision;
use crate::ops::{ConvCache, Fused};

/// An action, or what is left of it.
struct Candidate {
    action: Action,
    fused: Fused,
    gone: bool,
}

/// Who makes and reads the value of each slot.
struct Uses<'a> {
    /// The action that makes it, `usize::MAX` where none does.
    producer: Vec<usize>,
    readers: Vec<usize>,
    /// It has to stay.
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

    /// The actions of `before` that make what `action` reads and nobody else does, latest first, each with its operand.
    fn makers(&self, action: &Action, before: &[Candidate]) -> Vec<(usize, usize)> {
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

/// Joins what can be joined. `kept` says of each slot whether it has to stay; `rank` the number of dimensions of each.
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
        Candidate { action, fused, gone: false }
    };
    let mut all: Vec<Candidate> = actions.into_iter().map(candidate).collect();
    // In the order of execution, each action is offered to the one that makes its input; the joined one stands in the
    // later one's place, where all that either reads is there.
    for i in 0..all.len() {
        let (before, rest) = all.split_at_mut(i);
        let Some(Candidate { action, fused, .. }) = rest.first_mut() else { break };
        for (maker, operand) in uses.makers(action, before) {
            let previous = &mut before[maker];
            let Some(joined) = previous.fused.with(action.exec.as_ref(), action.node, convs)? else {
                continue;
            };
            previous.gone = true;
            let mut reads = std::mem::take(&mut previous.action.reads);
            // the other operand of a sum comes after the convolution's own input
            reads.extend(action.reads.iter().enumerate().filter(|(o, _)| *o != operand).map(|(_, r)| *r));
            action.reads = reads;
            action.names.splice(0..0, std::mem::take(&mut previous.action.names));
            *fused = joined;
            break;
        }
    }
    let finish = |Candidate { mut action, fused, .. }: Candidate| {
        if let Some(exec) = fused.exec(precision) {
            action.exec = exec;
        }
        action
    };
    Ok(all.into_iter().filter(|c| !c.gone).map(finish).collect())
}
