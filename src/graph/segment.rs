//! Runs a part of a graph, forward and backward.

use std::{sync::Arc, time::Instant};

use candle_core::Tensor;

use super::action::Action;
use super::join::join;
use super::turn::Turn;
use super::{Graph, Tape, ValueId};
use crate::error::printable;
use crate::kernels::Backward;
use crate::ops::array::{Array, canonical};
use crate::ops::{Form, Saved, VjpContext};
use crate::profile::{Direction, Profiler};
use crate::{Error, Result, lanes};

/// A part of a graph, from some of its values to others. A value is freed after its last reader, and its memory is
/// reused.
pub struct Segment {
    /// Number of slots; a slot holds one value during a run.
    slots: usize,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    actions: Vec<Action>,
    /// By slot: how the gradient of a convolution that reads it is masked, see [`MaskFusion`].
    mask_fusions: Vec<Option<MaskFusion>>,
    /// Batch size.
    batch: usize,
    /// Row i of every value depends on image i alone.
    per_image: bool,
    /// Bytes of the largest value computed.
    largest: usize,
    /// Indices of the actions without GPU kernels.
    without_kernels: Vec<usize>,
}

/// Options of [`Segment::vjp`].
#[derive(Clone, Copy, Default)]
pub struct VjpOptions<'a> {
    /// By input: whether its gradient is computed; None computes all.
    pub wanted: Option<&'a [bool]>,
    /// Times every operator.
    pub profiler: Option<&'a Profiler>,
}

/// An input or output of a segment.
struct Port {
    slot: usize,
    name: String,
    shape: Vec<usize>,
    /// Handed in and out as images, (N, C, H, W).
    turn: Option<Turn>,
}

/// A value made by a Relu, whose mask a convolution that reads the value can apply to its own input gradient.
struct MaskFusion {
    /// The action that makes the value and saves the mask.
    action: usize,
    /// Slot of the resulting gradient: the value before BatchNormalization and Relu, or the value itself if both are
    /// fused into the convolution that makes it.
    to: usize,
}

impl Segment {
    /// `steps` of `graph` in their order, from `sources` (value, slot) to the values `targets`. `slot_of(step,
    /// operand, value)` is the slot to read; a slot is a value's id, or a number past all of them.
    pub(super) fn new(
        graph: &Graph,
        steps: &[usize],
        sources: &[(ValueId, usize)],
        targets: &[ValueId],
        slot_of: impl Fn(usize, usize, ValueId) -> usize,
    ) -> Result<Self> {
        let port = |value: ValueId, slot: usize| {
            let v = &graph.values[value];
            Port { slot, name: v.name.clone(), shape: v.shape.clone(), turn: None }
        };
        let inputs: Vec<Port> = sources.iter().map(|&(value, slot)| port(value, slot)).collect();
        let outputs: Vec<Port> = targets.iter().map(|&value| port(value, value)).collect();
        let actions = steps.iter().map(|&s| action(graph, s, &slot_of)).collect();
        let slots = graph.values.len() + 1;
        let mut read = vec![false; slots];
        outputs.iter().for_each(|p| read[p.slot] = true);
        let mut rank: Vec<usize> = graph.values.iter().map(|v| v.shape.len()).collect();
        rank.push(0); // never written
        let mut actions = join(actions, &read, &rank, &graph.shared.convs, graph.precision)?;
        for action in actions.iter_mut().rev() {
            for (slot, last) in action.reads.iter_mut().rev() {
                *last = !std::mem::replace(&mut read[*slot], true);
            }
        }
        let mask_fusions = mask_fusions(&actions, &rank);
        spare_operands(&mut actions);
        let bytes = |v: ValueId| graph.values[v].shape.iter().product::<usize>().saturating_mul(4);
        let largest = actions.iter().map(|a| bytes(a.writes)).max().unwrap_or(0);
        let values = sources.iter().map(|s| s.0).chain(actions.iter().map(|a| a.writes));
        let per_image = values.into_iter().all(|v| graph.values[v].per_image);
        let batch = graph.input_shape().first().copied().unwrap_or(1);
        let shape = |slot: usize| {
            let value = sources.iter().find(|source| source.1 == slot).map_or(slot, |source| source.0);
            graph.values[value].shape.as_slice()
        };
        let lacks = |a: &Action| {
            let first = a.reads.first().map_or(&[][..], |read| shape(read.0));
            !a.exec.runs_anywhere() && a.exec.on_gpu(first).is_none()
        };
        let without_kernels = (0..actions.len()).filter(|&i| lacks(&actions[i])).collect();
        Ok(Self { slots, inputs, outputs, actions, mask_fusions, batch, per_image, largest, without_kernels })
    }

    /// Hands the first output out, or takes the first input, as images.
    pub(super) fn turned(mut self, output: bool, turn: &Option<Turn>) -> Self {
        let ports = if output { &mut self.outputs } else { &mut self.inputs };
        if let Some(port) = ports.first_mut() {
            port.turn.clone_from(turn);
        }
        self
    }

    /// Name (as errors print it) and operator of every node without GPU kernels, in the order of execution. With
    /// values on a GPU the processor computes these, and the values are copied to it and back.
    pub fn without_kernels(&self) -> impl Iterator<Item = &(String, &'static str)> {
        self.without_kernels.iter().flat_map(|&i| &self.actions[i].names)
    }

    /// Bytes of the largest value computed; 0 if none is.
    pub fn largest_value_bytes(&self) -> usize {
        self.largest
    }

    /// Floating-point operations of one forward pass over `images`.
    pub fn flops(&self, images: usize) -> u64 {
        self.actions.iter().map(|a| a.exec.flops(images, Direction::Forward)).sum()
    }

    /// Approximate bytes that the first backward pass allocates and keeps: weights packed for that direction.
    pub fn packed_bytes(&self) -> usize {
        self.actions.iter().map(|a| a.exec.packed_bytes()).sum()
    }

    /// The outputs for these inputs. `profiler` times every operator.
    ///
    /// # Errors
    /// Inputs of the wrong number, shape or type.
    pub fn run(&self, inputs: &[Tensor], profiler: Option<&Profiler>) -> Result<Vec<Tensor>> {
        self.forward(inputs, None, profiler)
    }

    /// [`Segment::run`] that also returns what [`Segment::vjp`] needs.
    ///
    /// # Errors
    /// As [`Segment::run`].
    pub fn run_keeping(&self, inputs: &[Tensor], profiler: Option<&Profiler>) -> Result<(Vec<Tensor>, Tape)> {
        let mut steps = Vec::with_capacity(self.actions.len());
        let outputs = self.forward(inputs, Some(&mut steps), profiler)?;
        Ok((outputs, Tape { batch: self.batch, per_image: self.per_image, steps }))
    }

    fn forward(
        &self,
        inputs: &[Tensor],
        mut tape: Option<&mut Vec<Saved>>,
        profiler: Option<&Profiler>,
    ) -> Result<Vec<Tensor>> {
        if inputs.len() != self.inputs.len() {
            return Err(Error::internal(format!("{} inputs, expected {}", inputs.len(), self.inputs.len())));
        }
        let mut values: Vec<Option<Array>> = vec![None; self.slots];
        for (port, tensor) in self.inputs.iter().zip(inputs) {
            values[port.slot] = Some(port.take(tensor)?);
        }
        let mut clock = profiler.map(OperatorClock::start);
        for action in &self.actions {
            let mut x = Vec::with_capacity(action.reads.len());
            for &(slot, last) in &action.reads {
                let value = if last { values[slot].take() } else { values[slot].clone() };
                x.push(value.ok_or_else(|| {
                    Error::internal(format!("{}: its input has been freed", action.name()))
                })?);
            }
            let read = if clock.is_some() { x.iter().map(Array::bytes).sum() } else { 0 };
            let y = match &mut tape {
                None => action.forward(x, None),
                Some(tape) => {
                    let mut kept = Saved::default();
                    let y = action.forward(x, Some(&mut kept));
                    tape.push(kept);
                    y
                }
            };
            let y = y.map_err(|e| action.fault(e))?;
            if let Some(clock) = &mut clock {
                y.wait()?;
                let kept = tape.as_ref().and_then(|t| t.last()).map_or(0, Saved::bytes);
                clock.stop(action, Direction::Forward, self.batch, read + y.bytes() + kept);
            }
            values[action.writes] = Some(y);
        }
        let take = |port: &Port| match &values[port.slot] {
            Some(value) => Ok(value.clone()),
            None => Err(Error::internal(format!("\"{}\" was not computed", printable(&port.name)))),
        };
        let outputs = self.outputs.iter().map(take).collect::<Result<Vec<_>>>()?;
        self.outputs.iter().zip(outputs).map(|(port, value)| port.give(value)).collect()
    }

    /// The gradients with respect to the inputs, given those with respect to the outputs (None: zero). An entry is
    /// None if
    /// no gradient reaches the input or it is not wanted.
    ///
    /// # Errors
    /// A tape of another segment; gradients of the wrong number, shape or type.
    pub fn vjp(
        &self,
        tape: &Tape,
        grads: &[Option<Tensor>],
        options: VjpOptions<'_>,
    ) -> Result<Vec<Option<Tensor>>> {
        let all = vec![true; self.inputs.len()];
        let wanted = options.wanted.unwrap_or(&all);
        if tape.steps.len() != self.actions.len() || tape.batch != self.batch {
            return Err(Error::internal("the tape belongs to another segment"));
        }
        if grads.len() != self.outputs.len() || wanted.len() != self.inputs.len() {
            let (found, expected) = (grads.len(), self.outputs.len());
            return Err(Error::internal(format!("{found} gradients, expected {expected}")));
        }
        let leads = self.leads(wanted);
        let mut sums = GradientSums { arrays: vec![None; self.slots], masked: vec![false; self.slots] };
        for (port, grad) in self.outputs.iter().zip(grads) {
            if let (Some(grad), true) = (grad, leads[port.slot]) {
                sums.add(port.slot, port.take(grad)?)?;
            }
        }
        let mut clock = options.profiler.map(OperatorClock::start);
        for (action, kept) in self.actions.iter().zip(&tape.steps).rev() {
            // no action writes to an input's slot, so its sum stays in place
            let Some(dy) = sums.arrays[action.writes].take() else { continue };
            let want: Vec<bool> = action.reads.iter().map(|(slot, _)| leads[*slot]).collect();
            let mut bytes = if clock.is_some() { dy.bytes() + kept.bytes() } else { 0 };
            let dx = self.back((action, kept), tape, dy, &want, &mut sums)?;
            for ((slot, dx), want) in dx.into_iter().zip(want) {
                if let (Some(dx), true) = (dx, want) {
                    bytes += if clock.is_some() { dx.bytes() } else { 0 };
                    sums.add(slot, dx)?;
                }
            }
            if let Some(clock) = &mut clock {
                sums.arrays.iter().flatten().next().map_or(Ok(()), Array::wait)?;
                clock.stop(action, Direction::Backward, self.batch, bytes);
            }
        }
        self.inputs.iter().map(|p| sums.arrays[p.slot].take().map(|g| p.give(g)).transpose()).collect()
    }

    /// By slot: whether a gradient at this slot contributes to that of a `wanted` input.
    fn leads(&self, wanted: &[bool]) -> Vec<bool> {
        let mut leads = vec![false; self.slots];
        self.inputs.iter().zip(wanted).for_each(|(p, &w)| leads[p.slot] = w);
        for action in &self.actions {
            let passes =
                |(i, (slot, _)): (usize, &(usize, bool))| leads[*slot] && action.exec.differentiable(i);
            leads[action.writes] = action.reads.iter().enumerate().any(passes);
        }
        leads
    }

    /// The gradients that one action passes on, each with its slot.
    fn back(
        &self,
        (action, kept): (&Action, &Saved),
        tape: &Tape,
        dy: Array,
        want: &[bool],
        sums: &mut GradientSums,
    ) -> Result<Vec<(usize, Option<Array>)>> {
        let made = |maker: usize| (&self.actions[maker], &tape.steps[maker]);
        let mut slots: Vec<usize> = action.reads.iter().map(|r| r.0).collect();
        let convolves = matches!(Form::of(action.exec.as_ref()), Form::Conv(_) | Form::JoinedConv { .. });
        let dx = if convolves && want[0] {
            let masked = sums.masked[action.writes];
            let from = slots[0];
            slots[0] = self.mask_fusions[from].as_ref().map_or(from, |w| w.to);
            let sum = sums.arrays[slots[0]].take();
            let maker = self.mask_fusions[from].as_ref().map(|w| made(w.action));
            if maker.is_some() {
                // the whole gradient is masked already; the Relu that made this value can skip its mask
                sums.masked[from] = slots[0] == from && (sum.is_none() || sums.masked[from]);
            }
            action.convolution_vjp(kept, dy, want, masked, maker, sum)
        } else {
            action.vjp(kept, dy, want, action.recompute.map(made))
        };
        Ok(slots.into_iter().zip(dx.map_err(|e| action.fault(e))?).collect())
    }
}

/// One step of a graph as an action; `slot_of`: see [`Segment::new`].
fn action(graph: &Graph, s: usize, slot_of: &impl Fn(usize, usize, ValueId) -> usize) -> Action {
    let step = &graph.steps[s];
    let reads = step.operands.iter().enumerate().filter_map(|(o, operand)| match operand {
        super::Operand::Value(id) => Some((slot_of(s, o, *id), false)),
        _ => None,
    });
    let name = if step.name.is_empty() { &graph.values[step.output].name } else { &step.name };
    Action {
        reads: reads.collect(),
        writes: step.output,
        exec: step.exec.clone(),
        recompute: None,
        node: step.node,
        names: vec![(printable(name), step.op_type)],
    }
}

/// By slot, see [`MaskFusion`].
fn mask_fusions(actions: &[Action], rank: &[usize]) -> Vec<Option<MaskFusion>> {
    let mut fusions: Vec<Option<MaskFusion>> = rank.iter().map(|_| None).collect();
    for (i, action) in actions.iter().enumerate() {
        let to = match (Form::of(action.exec.as_ref()), action.reads.first()) {
            // the convolution kernels take masks with one row per image
            _ if rank[action.writes] != 4 => None,
            (Form::Relu | Form::AffineRelu(_), Some(&(from, _))) => Some(from),
            (Form::JoinedConv { relu: true }, _) => Some(action.writes),
            _ => None,
        };
        fusions[action.writes] = to.map(|to| MaskFusion { action: i, to });
    }
    fusions
}

/// A product does not save its large operand if the activation that makes it can recompute it. This halves what
/// squeeze-and-excite blocks save.
fn spare_operands(actions: &mut [Action]) {
    for i in 0..actions.len() {
        let Form::Gate(gate) = Form::of(actions[i].exec.as_ref()) else { continue };
        let operand = actions[i].reads[gate.large()].0;
        let maker = actions[..i].iter().position(|a| a.writes == operand && a.exec.can_recompute());
        if maker.is_some() {
            let without_operand = Arc::new(gate.without_operand());
            actions[i].recompute = maker;
            actions[i].exec = without_operand;
        }
    }
}

/// Gradients accumulated so far, by slot.
struct GradientSums {
    arrays: Vec<Option<Array>>,
    /// By slot: everything accumulated so far is masked, 0 where the Relu was inactive.
    masked: Vec<bool>,
}

impl GradientSums {
    fn add(&mut self, slot: usize, more: Array) -> Result<()> {
        self.arrays[slot] = Some(match self.arrays[slot].take() {
            None => more,
            Some(sum) => {
                self.masked[slot] = false;
                crate::ops::add(sum, more)?
            }
        });
        Ok(())
    }
}

impl Port {
    /// The value of a tensor from outside.
    fn take(&self, tensor: &Tensor) -> Result<Array> {
        let own;
        let tensor = match &self.turn {
            None => tensor,
            Some(turn) => {
                own = turn.back(tensor)?;
                &own
            }
        };
        if tensor.dims() != self.shape || tensor.dtype() != candle_core::DType::F32 {
            return Err(Error::internal(format!(
                "\"{}\": {:?} of shape {:?}, expected F32 of shape {:?}",
                printable(&self.name),
                tensor.dtype(),
                tensor.dims(),
                self.shape
            )));
        }
        Array::from_tensor(tensor)
    }

    /// A value as a tensor for outside.
    fn give(&self, value: Array) -> Result<Tensor> {
        let tensor = value.into_tensor();
        self.turn.as_ref().map_or(Ok(tensor.clone()), |turn| canonical(&turn.there(&tensor)?))
    }
}

impl Action {
    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        if let Some(gpu) = super::gpu::of(&x)? {
            return super::gpu::forward(&gpu, self.exec.as_ref(), x, keep);
        }
        self.exec.forward(x, keep)
    }

    /// Gradients of a convolution. `maker`: the action that made its input with a Relu, and what it saved; its mask
    /// is applied in the same pass. `sum`: the gradient accumulated so far, added in the same pass.
    fn convolution_vjp(
        &self,
        kept: &Saved,
        dy: Array,
        want: &[bool],
        masked: bool,
        maker: Option<(&Action, &Saved)>,
        sum: Option<Array>,
    ) -> Result<Vec<Option<Array>>> {
        if let Some(gpu) = dy.gpu()? {
            let fused = super::gpu::FusedGradient { masked, maker, sum };
            return super::gpu::convolution(&gpu, self.exec.as_ref(), kept, dy, want, &fused);
        }
        let mut back = Backward::default();
        if let Some((maker, kept)) = maker {
            back.mask = Some(kept.get_bits(0)?);
            if let Form::AffineRelu(affine) = Form::of(maker.exec.as_ref()) {
                back.scale = Some(&affine.scale);
            }
        }
        let residual = sum.as_ref().map(Array::read).transpose()?;
        back.residual = residual.as_deref();
        self.exec.vjp_with(kept, dy, want, VjpContext { masked, back, ..VjpContext::default() })
    }

    /// Gradients of any other action. `maker`: the action that recomputes a product's large operand, and what it
    /// saved.
    fn vjp(
        &self,
        kept: &Saved,
        dy: Array,
        want: &[bool],
        maker: Option<(&Action, &Saved)>,
    ) -> Result<Vec<Option<Array>>> {
        if let Some(gpu) = dy.gpu()? {
            return super::gpu::vjp(&gpu, self.exec.as_ref(), kept, dy, want, maker);
        }
        let Some((maker, made)) = maker else { return self.exec.vjp(kept, dy, want) };
        let value = maker.exec.recompute(made).transpose()?;
        self.exec.vjp_with(kept, dy, want, VjpContext { value: value.as_ref(), ..VjpContext::default() })
    }
}

/// Reports the time since the last action to a profiler.
struct OperatorClock<'a> {
    profiler: &'a Profiler,
    since: Instant,
}

impl<'a> OperatorClock<'a> {
    fn start(profiler: &'a Profiler) -> Self {
        Self { profiler, since: Instant::now() }
    }

    /// Records that `action` has finished.
    fn stop(&mut self, action: &Action, direction: Direction, images: usize, bytes: usize) {
        let now = Instant::now();
        let names = || {
            let node = action.names.first().map(|n| n.0.clone()).unwrap_or_default();
            (node, action.names.iter().map(|n| n.1).collect::<Vec<_>>().join("+"))
        };
        let flops = action.exec.flops(images, direction);
        let passed = (now - self.since) / lanes::at_work() as u32;
        self.profiler.operator((action.node, direction), names, passed, flops, bytes);
        self.since = Instant::now(); // excludes the time spent on counting operations
    }
}
