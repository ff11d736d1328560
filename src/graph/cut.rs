//! The cut: what has to be run before an edge, and what after it.

use super::{Graph, Operand, Segment, ValueId};
use crate::error::printable;
use crate::{Error, Result};

/// The edge that a layer stands on: a value, as these operands read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    pub value: ValueId,
    /// Step and operand, as indices into [`Graph::steps`] and its operands.
    pub readers: Vec<(usize, usize)>,
}

/// A graph in two parts.
pub struct Cut {
    /// From the graph's input to the edge's value and the crossing ones, in this order.
    pub prefix: Segment,
    /// From what stands in the edge's place and the crossing values to the end.
    pub suffix: Segment,
    /// What the suffix reads besides: the residual branch, and the edge's own value where somebody else reads it, too.
    pub crossing: Vec<ValueId>,
}

impl Graph {
    /// The part of the graph that computes `to` from the input.
    ///
    /// # Errors
    /// `to` is no value of this graph, or the input itself.
    pub fn segment(&self, to: ValueId) -> Result<Segment> {
        let needed = self.needed(&[to], |_| true);
        if self.producer(to).is_none() {
            return Err(Error::internal(format!("value {to} is not computed by this graph")));
        }
        let slot_of = |_: usize, _: usize, id: ValueId| id;
        Segment::new(self, &needed, &[(self.input, self.input)], &[to], slot_of)
    }

    /// The graph cut at `edge`: the suffix are the steps on the way from there to `to`, the prefix is all else that
    /// these and the edge need. Dead steps are in neither.
    ///
    /// # Errors
    /// An edge that is not there, or from which no way leads to `to`.
    pub fn cut(&self, edge: &Edge, to: ValueId) -> Result<Cut> {
        let reads = |&(step, operand): &(usize, usize)| {
            let operand = self.steps.get(step).and_then(|s| s.operands.get(operand));
            matches!(operand, Some(Operand::Value(id)) if *id == edge.value)
        };
        if edge.readers.is_empty() || !edge.readers.iter().all(reads) {
            return Err(Error::internal("an edge that is not in the graph"));
        }
        // what depends on the edge, in the order of execution
        let mut depends = vec![false; self.values.len()];
        let mut after = vec![false; self.steps.len()];
        for (s, step) in self.steps.iter().enumerate() {
            let hit = step.operands.iter().enumerate().any(|(o, operand)| match operand {
                Operand::Value(id) => depends[*id] || edge.readers.contains(&(s, o)),
                _ => false,
            });
            if hit {
                after[s] = true;
                depends[step.output] = true;
            }
        }
        if to >= self.values.len() || !depends[to] {
            let name = printable(&self.values[edge.value].name);
            return Err(Error::model(format!("value \"{name}\""), "no way leads from there to the output"));
        }
        let suffix = self.needed(&[to], |s| after[s]);
        let mut crossing: Vec<ValueId> = Vec::new();
        for &s in &suffix {
            for (o, operand) in self.steps[s].operands.iter().enumerate() {
                if let Operand::Value(id) = operand
                    && !depends[*id]
                    && !edge.readers.contains(&(s, o))
                    && !crossing.contains(id)
                {
                    crossing.push(*id);
                }
            }
        }
        crossing.sort_unstable();
        let mut targets = vec![edge.value];
        targets.extend(&crossing);
        let prefix = self.needed(&targets, |_| true);
        // one more slot than there are values: what stands in the edge's place
        let place = self.values.len();
        let mut sources = vec![(edge.value, place)];
        sources.extend(crossing.iter().map(|&id| (id, id)));
        Ok(Cut {
            prefix: Segment::new(self, &prefix, &[(self.input, self.input)], &targets, |_, _, id| id)?,
            suffix: Segment::new(self, &suffix, &sources, &[to], |s, o, id| {
                if edge.readers.contains(&(s, o)) { place } else { id }
            })?,
            crossing,
        })
    }

    /// The steps, among those that `may` allows, that `targets` need: in the order of execution.
    fn needed(&self, targets: &[ValueId], may: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut wanted = vec![false; self.values.len()];
        for &id in targets {
            if let Some(wanted) = wanted.get_mut(id) {
                *wanted = true;
            }
        }
        let mut steps = Vec::new();
        for (s, step) in self.steps.iter().enumerate().rev() {
            if wanted[step.output] && may(s) {
                steps.push(s);
                step.reads().for_each(|id| wanted[id] = true);
            }
        }
        steps.reverse();
        steps
    }
}
