//! Splits a graph at an edge into the steps before it and the steps after it.

use candle_core::Tensor;

use super::turn::Turn;
use super::{Graph, Operand, Segment, ValueId};
use crate::error::printable;
use crate::profile::Direction;
use crate::{Error, Result};

/// The edge where a layer is inserted: a value, as read by the given operands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    pub value: ValueId,
    /// (step, operand): indices into [`Graph::steps`] and the step's operands.
    pub readers: Vec<(usize, usize)>,
}

/// A graph split in two at an edge.
pub struct Cut {
    /// From the graph's input to the edge's value, as images (N, C, H, W), followed by the crossing values.
    pub prefix: Segment,
    /// From the edge's value, as the layer returns it, (N, C, H, W), followed by the crossing values, to the end.
    pub suffix: Segment,
    /// Other values that the suffix reads: residual branches, and the edge's own value if other operands read it.
    pub crossing: Vec<ValueId>,
}

impl Graph {
    /// The part of the graph that computes `to` from the input.
    ///
    /// # Errors
    /// `to` is the input or not a value of this graph.
    pub fn segment(&self, to: ValueId) -> Result<Segment> {
        let needed = self.needed(&[to], |_| true);
        if self.producer(to).is_none() {
            return Err(Error::internal(format!("value {to} is not computed by this graph")));
        }
        let slot_of = |_: usize, _: usize, id: ValueId| id;
        Segment::new(self, &needed, &[(self.input, self.input)], &[to], slot_of)
    }

    /// The part of the graph that computes all of `to` from the input, which may be among them.
    ///
    /// # Errors
    /// As [`Segment::new`].
    pub fn segment_to(&self, to: &[ValueId]) -> Result<Segment> {
        let needed = self.needed(to, |_| true);
        Segment::new(self, &needed, &[(self.input, self.input)], to, |_, _, id| id)
    }

    /// By value: whether it depends on what a layer at `edge` returns.
    ///
    /// # Errors
    /// The edge is not in the graph.
    pub fn depends_on(&self, edge: &Edge) -> Result<Vec<bool>> {
        Ok(self.behind(edge)?.0)
    }

    /// By value whether it depends on the edge, by step whether it lies behind it.
    fn behind(&self, edge: &Edge) -> Result<(Vec<bool>, Vec<bool>)> {
        let reads = |&(step, operand): &(usize, usize)| {
            let operand = self.steps.get(step).and_then(|s| s.operands.get(operand));
            matches!(operand, Some(Operand::Value(id)) if *id == edge.value)
        };
        if edge.readers.is_empty() || !edge.readers.iter().all(reads) {
            return Err(Error::internal("the edge is not in the graph"));
        }
        // everything that depends on the edge, in the order of execution
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
        Ok((depends, after))
    }

    /// Cuts the graph at `edge`. The suffix holds the steps between the edge and `to`, the prefix everything else
    /// that the
    /// suffix and the edge need. Dead steps are in neither.
    ///
    /// # Errors
    /// The edge is not in the graph, or `to` does not depend on it.
    pub fn cut(&self, edge: &Edge, to: ValueId) -> Result<Cut> {
        self.cut_to(edge, &[to])
    }

    /// As [`Graph::cut`], up to several values.
    ///
    /// # Errors
    /// The edge is not in the graph, or one of `to` does not depend on it.
    pub fn cut_to(&self, edge: &Edge, to: &[ValueId]) -> Result<Cut> {
        let (depends, after) = self.behind(edge)?;
        if to.iter().any(|&to| to >= self.values.len() || !depends[to]) {
            let name = printable(&self.values[edge.value].name);
            return Err(Error::model(format!("value \"{name}\""), "the output does not depend on it"));
        }
        let suffix = self.needed(to, |s| after[s]);
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
        // an extra slot, past those of the values, for what the layer returns
        let place = self.values.len();
        let mut sources = vec![(edge.value, place)];
        sources.extend(crossing.iter().map(|&id| (id, id)));
        let turn = self.turn(edge.value).filter(|turn| !turn.is_none());
        let prefix = Segment::new(self, &prefix, &[(self.input, self.input)], &targets, |_, _, id| id)?;
        let suffix = Segment::new(self, &suffix, &sources, to, |s, o, id| {
            if edge.readers.contains(&(s, o)) { place } else { id }
        })?;
        Ok(Cut { prefix: prefix.turned(true, &turn), suffix: suffix.turned(false, &turn), crossing })
    }

    fn turn(&self, value: ValueId) -> Option<Turn> {
        Turn::of(self.values.get(value)?, self.input_shape().first().copied()?)
    }

    /// A value as a layer there returns it, (N, C, H, W), in its own shape.
    ///
    /// # Errors
    /// Images of another shape.
    pub fn in_own_shape(&self, value: ValueId, images: &Tensor) -> Result<Tensor> {
        match self.turn(value).filter(|turn| !turn.is_none()) {
            Some(turn) => turn.back(images),
            None => Ok(images.clone()),
        }
    }

    /// (C, H, W) of a value with channels, as a layer there sees it: T tokens are (C, T, 1), a vector is (C, 1, 1).
    /// None for a value without channels.
    pub fn image_shape(&self, value: ValueId) -> Option<[usize; 3]> {
        let [_, c, h, w] = self.turn(value)?.images();
        Some([c, h, w])
    }

    /// Whether every way from the input to `to` leads through the edge.
    pub fn separates(&self, edge: &Edge, to: ValueId) -> bool {
        let mut reached = vec![false; self.values.len()];
        reached[self.input] = true;
        for (s, step) in self.steps.iter().enumerate() {
            let passes = |(o, operand): (usize, &Operand)| match operand {
                Operand::Value(id) => reached[*id] && !edge.readers.contains(&(s, o)),
                _ => false,
            };
            reached[step.output] = step.operands.iter().enumerate().any(passes);
        }
        !reached.get(to).copied().unwrap_or(true)
    }

    /// Share, 0 to 1, of the multiplications that the steps up to a value make.
    pub fn share_before(&self, value: ValueId) -> f64 {
        let flops = |of: &dyn Fn(ValueId) -> bool| -> f64 {
            let steps = self.steps.iter().filter(|s| of(s.output));
            steps.map(|s| s.exec.flops(1, Direction::Forward) as f64).sum()
        };
        flops(&|v| v <= value) / flops(&|_| true).max(1.0)
    }

    /// The values that every way from the input to `to` leads through, in the order of execution; the input is the
    /// first, `to` the last.
    pub fn dominators(&self, to: ValueId) -> Vec<ValueId> {
        // immediate dominators; values are numbered in the order of execution
        let mut above: Vec<Option<ValueId>> = vec![None; self.values.len()];
        for step in &self.steps {
            let known = |&id: &ValueId| id == self.input || above[id].is_some();
            let common = step.reads().filter(known).reduce(|mut a, mut b| {
                while a != b {
                    let later = if a > b { &mut a } else { &mut b };
                    match above[*later] {
                        Some(next) => *later = next,
                        None => break,
                    }
                }
                a
            });
            above[step.output] = common;
        }
        let mut chain: Vec<ValueId> = std::iter::successors(Some(to), |&id| above[id]).collect();
        chain.reverse();
        chain
    }

    /// Checks that a gradient at `to` reaches the edge and the graph's input.
    ///
    /// # Errors
    /// Every way leads through operators that are constant almost everywhere; the error names one.
    pub fn check_gradient(&self, edge: &Edge, to: ValueId) -> Result<()> {
        let from_input = |_: usize, _: usize, id: ValueId| id == self.input;
        let from_edge = |step: usize, operand: usize, _: ValueId| edge.readers.contains(&(step, operand));
        self.check_way(to, from_input)?;
        self.check_way(to, from_edge)
    }

    /// Checks that a gradient at `to` reaches one of the operands (step, operand, value) that `starts` names.
    fn check_way(&self, to: ValueId, starts: impl Fn(usize, usize, ValueId) -> bool) -> Result<()> {
        let mut passes = vec![false; self.values.len()];
        let mut depends = vec![false; self.values.len()];
        let mut stops = None;
        for (s, step) in self.steps.iter().enumerate() {
            let reads = step.operands.iter().enumerate().filter_map(|(o, operand)| match operand {
                Operand::Value(id) => Some((o, *id)),
                _ => None,
            });
            for (i, (o, id)) in reads.enumerate() {
                let here = starts(s, o, id);
                depends[step.output] |= here || depends[id];
                if !(here || passes[id]) {
                    continue;
                }
                match step.exec.differentiable(i) {
                    true => passes[step.output] = true,
                    false => stops = Some(s),
                }
            }
        }
        match (passes.get(to), depends.get(to), stops) {
            (Some(false), Some(true), Some(stop)) => {
                let step = &self.steps[stop];
                let name = if step.name.is_empty() { &self.values[step.output].name } else { &step.name };
                Err(Error::model(
                    format!("node \"{}\" ({})", printable(name), step.op_type),
                    "no gradient of the scores passes it, and none goes round it; \
                     export the model without it, or up to its input",
                ))
            }
            _ => Ok(()),
        }
    }

    /// The steps that `targets` need, among those for which `may` is true, in the order of execution.
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
