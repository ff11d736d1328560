//! A graph with what is needed to find sites: steps with weights, residual blocks, the values that are cuts.

use std::collections::HashSet;

use crate::graph::{Graph, Layout, NOT_IN_FILE, Operand, Role, Step, ValueId};

/// A residual block: the sum of two values of one shape with a common ancestor.
pub(super) struct Block {
    /// The main branch's first step with weights on images or tokens. A block that mixes positions may have none: it
    /// pools, or the exporter puts the batch behind the tokens.
    pub first: Option<usize>,
    /// The value that both branches read.
    pub fork: ValueId,
    /// The sum.
    pub output: ValueId,
    /// Whether it computes on several positions at once: a convolution, attention.
    pub mixes: bool,
}

pub(super) struct View<'a> {
    pub graph: &'a Graph,
    /// Per value: the step that computes it.
    pub producer: Vec<Option<usize>>,
    /// The steps with weights on images or tokens, in the order of execution.
    pub weighted: Vec<usize>,
    /// The values of images or tokens that every way to the scores leads through, behind the first step with weights,
    /// in the order of execution.
    pub cuts: Vec<ValueId>,
}

impl<'a> View<'a> {
    pub fn new(graph: &'a Graph) -> Self {
        let mut producer = vec![None; graph.values().len()];
        for (s, step) in graph.steps().iter().enumerate() {
            producer[step.output] = Some(s);
        }
        let mut view = Self { graph, producer, weighted: Vec::new(), cuts: Vec::new() };
        view.weighted = (0..graph.steps().len()).filter(|&s| view.has_weights(s)).collect();
        if let Some(first) = view.weighted.first().map(|&s| graph.steps()[s].output) {
            let chain = graph.dominators(graph.logits());
            // what stands in a branch cannot be written around
            let in_file = |v: ValueId| view.producer[v].is_none_or(|s| view.step(s).node != NOT_IN_FILE);
            let cuts = chain.into_iter().filter(|&v| v >= first && view.is_spatial(v) && in_file(v));
            view.cuts = cuts.collect();
        }
        view
    }

    /// Whether a value holds channels at positions, as floats. A value of one position counts as long as it is not
    /// pooled.
    fn is_spatial(&self, value: ValueId) -> bool {
        let value = self.graph.value(value);
        value.elem.is_float() && matches!(value.layout(), Layout::Nchw | Layout::Nhwc | Layout::Tokens)
    }

    /// (C, H, W) of a value of images or tokens.
    pub fn shape(&self, value: ValueId) -> Option<[usize; 3]> {
        if self.is_spatial(value) { self.graph.image_shape(value) } else { None }
    }

    pub fn step(&self, step: usize) -> &'a Step {
        &self.graph.steps()[step]
    }

    /// The first operand, if it depends on the image.
    pub fn input(&self, step: usize) -> Option<ValueId> {
        match self.step(step).operands.first() {
            Some(Operand::Value(v)) => Some(*v),
            _ => None,
        }
    }

    /// A convolution of images.
    pub fn is_image_convolution(&self, step: usize) -> bool {
        let on_images = |v: ValueId| self.graph.value(v).layout() == Layout::Nchw;
        self.step(step).op_type == "Conv" && self.input(step).is_some_and(on_images)
    }

    fn has_weights(&self, step: usize) -> bool {
        let constant = matches!(self.step(step).operands.get(1), Some(Operand::Constant(w)) if w.rank() > 1);
        let layout = self.input(step).map(|v| self.graph.value(v).layout());
        match self.step(step).op_type {
            _ if self.step(step).node == NOT_IN_FILE => false,
            "Conv" => self.is_image_convolution(step),
            "MatMul" | "Gemm" => {
                constant && matches!(layout, Some(Layout::Nhwc | Layout::Tokens | Layout::Windows))
            }
            _ => false,
        }
    }

    /// All values that `value` depends on, including itself.
    fn ancestors(&self, value: ValueId) -> HashSet<ValueId> {
        let (mut seen, mut open) = (HashSet::from([value]), vec![value]);
        while let Some(v) = open.pop() {
            let Some(step) = self.producer[v] else { continue };
            for u in self.step(step).reads() {
                if seen.insert(u) {
                    open.push(u);
                }
            }
        }
        seen
    }

    /// Per value: whether it depends on `value`, which itself does.
    fn descendants(&self, value: ValueId) -> Vec<bool> {
        let mut depends = vec![false; self.graph.values().len()];
        depends[value] = true;
        for step in self.graph.steps() {
            depends[step.output] |= step.reads().any(|v| depends[v]);
        }
        depends
    }

    /// The last step with weights behind `value`; None if there is none.
    pub fn followed_by(&self, value: ValueId) -> Option<usize> {
        let depends = self.descendants(value);
        self.weighted.iter().copied().rev().find(|&s| self.input(s).is_some_and(|v| depends[v]))
    }

    /// In the order of execution. The main branch is the one with more steps with weights, then with the larger kernel
    /// of the first one, then the first operand.
    pub fn residual_blocks(&self) -> Vec<Block> {
        self.graph.steps().iter().filter(|s| s.op_type == "Add").filter_map(|s| self.block(s)).collect()
    }

    fn block(&self, step: &Step) -> Option<Block> {
        let operands: Vec<ValueId> = step.reads().collect();
        let [a, b] = operands[..] else { return None };
        let same = self.graph.value(a).shape == self.graph.value(b).shape;
        if a == b || !same || !self.is_spatial(a) || !self.is_spatial(b) {
            return None;
        }
        let (from_a, from_b) = (self.ancestors(a), self.ancestors(b));
        // values are numbered in execution order, so the branches fork at the last common one
        let order = |v: &ValueId| self.producer[*v].map_or(0, |s| s + 1);
        let fork = from_a.intersection(&from_b).copied().max_by_key(order)?;
        let behind = self.descendants(fork);
        let branch = |of: &HashSet<ValueId>| -> Vec<usize> {
            let on =
                |&s: &usize| of.contains(&self.step(s).output) && self.input(s).is_some_and(|v| behind[v]);
            self.weighted.iter().copied().filter(on).collect()
        };
        let (in_a, in_b) = (branch(&from_a), branch(&from_b));
        let kernel = |steps: &[usize]| steps.first().map_or(0, |&s| self.kernel(s));
        let a_is_main = (in_b.len(), kernel(&in_b)) <= (in_a.len(), kernel(&in_a));
        let main = if a_is_main { in_a } else { in_b };
        let inside = |s: &Step| from_a.contains(&s.output) || from_b.contains(&s.output);
        let in_block = |s: &Step| inside(s) && s.reads().any(|v| behind[v]);
        let mixes = self.graph.steps().iter().any(|s| in_block(s) && self.mixes_positions(s));
        let first = main.first().copied();
        (first.is_some() || mixes).then_some(Block { first, fork, output: step.output, mixes })
    }

    /// Elements of a convolution's kernel.
    pub fn kernel(&self, step: usize) -> usize {
        match (self.step(step).op_type, self.step(step).operands.get(1)) {
            ("Conv", Some(Operand::Constant(w))) => w.dims().iter().skip(2).product(),
            _ => 1,
        }
    }

    /// Whether a step computes on several positions at once.
    fn mixes_positions(&self, step: &Step) -> bool {
        let role = |operand: usize, back: usize| match step.operands.get(operand) {
            Some(Operand::Value(v)) => {
                let axes = &self.graph.value(*v).axes;
                axes.len().checked_sub(back).and_then(|d| axes[d].role())
            }
            _ => None,
        };
        let position = |role: Option<Role>| matches!(role, Some(Role::Height | Role::Width | Role::Position));
        match step.op_type {
            "Conv" => match step.operands.get(1) {
                Some(Operand::Constant(w)) => w.dims().iter().skip(2).any(|&k| k > 1),
                _ => true,
            },
            "AveragePool" | "MaxPool" | "Attention" | "ConvTranspose" => true,
            "MatMul" | "Gemm" => position(role(0, 1)) || position(role(1, 2)),
            _ => false,
        }
    }
}
