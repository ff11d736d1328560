//! Running a part of a graph, and taking gradients back through it.

use std::{sync::Arc, time::Instant};

use candle_core::Tensor;

use super::action::Action;
use super::join::join;
use super::{Graph, Tape, ValueId};
use crate::error::printable;
use crate::kernels::Backward;
use crate::ops::array::Array;
use crate::ops::{Form, Kept, Way};
use crate::profile::{Direction, Profiler};
use crate::{Error, Result, lanes};

/// A part of a graph: some values in, some values out. Values are freed with their last reader, and their memory is
/// used again.
pub struct Segment {
    /// How many values there are in it.
    slots: usize,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    actions: Vec<Action>,
    /// By slot: what a convolution that reads it can take in on the gradient's way back.
    ways: Vec<Option<WayBack>>,
    /// Images in a batch.
    batch: usize,
    /// Everything in it belongs to one image.
    per_image: bool,
    /// Bytes of the largest value computed in it.
    largest: usize,
    /// Actions for which a GPU has no kernels.
    without_kernels: Vec<usize>,
}

/// What [`Segment::vjp`] need not do, and who times it.
#[derive(Clone, Copy, Default)]
pub struct VjpOptions<'a> {
    /// By input: whether its gradient is computed; all are where this is None.
    pub wanted: Option<&'a [bool]>,
    /// Operators are timed where there is one.
    pub profiler: Option<&'a Profiler>,
}

/// A value that goes in or out.
struct Port {
    slot: usize,
    name: String,
    shape: Vec<usize>,
}

/// A value that is cut below zero where it is made: a convolution that reads it can apply the mask to its gradient.
struct WayBack {
    /// The action that makes it and keeps the mask.
    action: usize,
    /// Where the gradient goes: the value before BatchNormalization and Relu; or the value itself, where these are part
    /// of the convolution that makes it.
    to: usize,
}

impl Segment {
    /// `steps` of `graph` in their order, from `sources` (value, slot) to the values `targets`. `slot_of` says for each
    /// step and operand which slot stands for the value it reads; slots are value ids, or more than all of these.
    pub(super) fn new(
        graph: &Graph,
        steps: &[usize],
        sources: &[(ValueId, usize)],
        targets: &[ValueId],
        slot_of: impl Fn(usize, usize, ValueId) -> usize,
    ) -> Result<Self> {
        let port = |value: ValueId, slot: usize| {
            let v = &graph.values[value];
            Port { slot, name: v.name.clone(), shape: v.shape.clone() }
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
        let ways = ways_back(&actions, &rank);
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
        Ok(Self { slots, inputs, outputs, actions, ways, batch, per_image, largest, without_kernels })
    }

    /// Nodes (as errors name them) and their operators for which a GPU has no kernels, in the order in which they run. Where the
    /// values are on a GPU, these are computed by the processor, values being copied there and back.
    pub fn without_kernels(&self) -> impl Iterator<Item = &(String, &'static str)> {
        self.without_kernels.iter().flat_map(|&i| &self.actions[i].names)
    }

    /// Bytes of the largest value computed in it, 0 where nothing is.
    pub fn largest_value_bytes(&self) -> usize {
        self.largest
    }

    /// Floating-point operations of one forward pass over `images`.
    pub fn flops(&self, images: usize) -> u64 {
        self.actions.iter().map(|a| a.exec.flops(images, Direction::Forward)).sum()
    }

    /// Bytes that the first gradients through it take for good, about: weights packed for that direction.
    pub fn packed_bytes(&self) -> usize {
        self.actions.iter().map(|a| a.exec.packed_bytes()).sum()
    }

    /// The outputs for these inputs; its operators are timed where there is a profiler.
    ///
    /// # Errors
    /// Inputs of another number, shape or type.
    pub fn run(&self, inputs: &[Tensor], profiler: Option<&Profiler>) -> Result<Vec<Tensor>> {
        self.forward(inputs, None, profiler)
    }

    /// [`Segment::run`], and what [`Segment::vjp`] needs.
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
        mut tape: Option<&mut Vec<Kept>>,
        profiler: Option<&Profiler>,
    ) -> Result<Vec<Tensor>> {
        if inputs.len() != self.inputs.len() {
            return Err(Error::internal(format!("{} inputs, expected {}", inputs.len(), self.inputs.len())));
        }
        let mut values: Vec<Option<Array>> = vec![None; self.slots];
        for (port, tensor) in self.inputs.iter().zip(inputs) {
            values[port.slot] = Some(port.take(tensor)?);
        }
        let mut clock = profiler.map(Clock::start);
        for action in &self.actions {
            let mut x = Vec::with_capacity(action.reads.len());
            for &(slot, last) in &action.reads {
                let value = if last { values[slot].take() } else { values[slot].clone() };
                x.push(
                    value.ok_or_else(|| Error::internal(format!("{}: its input is gone", action.name())))?,
                );
            }
            let read = if clock.is_some() { x.iter().map(Array::bytes).sum() } else { 0 };
            let y = match &mut tape {
                None => action.forward(x, None),
                Some(tape) => {
                    let mut kept = Kept::default();
                    let y = action.forward(x, Some(&mut kept));
                    tape.push(kept);
                    y
                }
            };
            let y = y.map_err(|e| action.fault(e))?;
            if let Some(clock) = &mut clock {
                y.wait()?;
                let kept = tape.as_ref().and_then(|t| t.last()).map_or(0, Kept::bytes);
                clock.stop(action, Direction::Forward, self.batch, read + y.bytes() + kept);
            }
            values[action.writes] = Some(y);
        }
        let take = |port: &Port| match &values[port.slot] {
            Some(value) => Ok(value.clone()),
            None => Err(Error::internal(format!("\"{}\" was not computed", printable(&port.name)))),
        };
        let outputs = self.outputs.iter().map(take).collect::<Result<Vec<_>>>()?;
        Ok(outputs.into_iter().map(Array::into_tensor).collect())
    }

    /// The gradient with respect to each input, given those with respect to the outputs (None: zero); None where no
    /// gradient reaches an input, or where it is not wanted.
    ///
    /// # Errors
    /// A tape that is not this segment's, gradients of another number, shape or type.
    pub fn vjp(
        &self,
        tape: &Tape,
        grads: &[Option<Tensor>],
        options: VjpOptions<'_>,
    ) -> Result<Vec<Option<Tensor>>> {
        let all = vec![true; self.inputs.len()];
        let wanted = options.wanted.unwrap_or(&all);
        if tape.steps.len() != self.actions.len() || tape.batch != self.batch {
            return Err(Error::internal("a tape that is not this segment's"));
        }
        if grads.len() != self.outputs.len() || wanted.len() != self.inputs.len() {
            let (found, expected) = (grads.len(), self.outputs.len());
            return Err(Error::internal(format!("{found} gradients, expected {expected}")));
        }
        let leads = self.leads(wanted);
        let mut sums = Sums { arrays: vec![None; self.slots], masked: vec![false; self.slots] };
        for (port, grad) in self.outputs.iter().zip(grads) {
            if let (Some(grad), true) = (grad, leads[port.slot]) {
                sums.add(port.slot, port.take(grad)?)?;
            }
        }
        let mut clock = options.profiler.map(Clock::start);
        for (action, kept) in self.actions.iter().zip(&tape.steps).rev() {
            // an input's gradient stays where it is: no action writes there
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
        Ok(self.inputs.iter().map(|p| sums.arrays[p.slot].take().map(Array::into_tensor)).collect())
    }

    /// By slot: whether a gradient there leads to an input that is `wanted`.
    fn leads(&self, wanted: &[bool]) -> Vec<bool> {
        let mut leads = vec![false; self.slots];
        self.inputs.iter().zip(wanted).for_each(|(p, &w)| leads[p.slot] = w);
        for action in &self.actions {
            leads[action.writes] = action.reads.iter().any(|(slot, _)| leads[*slot]);
        }
        leads
    }

    /// The gradients that one action passes on, each with the slot that it goes to.
    fn back(
        &self,
        (action, kept): (&Action, &Kept),
        tape: &Tape,
        dy: Array,
        want: &[bool],
        sums: &mut Sums,
    ) -> Result<Vec<(usize, Option<Array>)>> {
        let made = |maker: usize| (&self.actions[maker], &tape.steps[maker]);
        let mut slots: Vec<usize> = action.reads.iter().map(|r| r.0).collect();
        let convolves = matches!(Form::of(action.exec.as_ref()), Form::Conv(_) | Form::JoinedConv { .. });
        let dx = if convolves && want[0] {
            let masked = sums.masked[action.writes];
            let from = slots[0];
            slots[0] = self.ways[from].as_ref().map_or(from, |w| w.to);
            let sum = sums.arrays[slots[0]].take();
            let maker = self.ways[from].as_ref().map(|w| made(w.action));
            if maker.is_some() {
                // a mask over all that there is of the gradient need not be applied again by whom it belongs to
                sums.masked[from] = slots[0] == from && (sum.is_none() || sums.masked[from]);
            }
            action.convolution_vjp(kept, dy, want, masked, maker, sum)
        } else {
            action.vjp(kept, dy, want, action.again.map(made))
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
        again: None,
        node: step.node,
        names: vec![(printable(name), step.op_type)],
    }
}

/// By slot: see [`Segment::ways`].
fn ways_back(actions: &[Action], rank: &[usize]) -> Vec<Option<WayBack>> {
    let mut ways: Vec<Option<WayBack>> = rank.iter().map(|_| None).collect();
    for (i, action) in actions.iter().enumerate() {
        let to = match (Form::of(action.exec.as_ref()), action.reads.first()) {
            // for kernels, a mask's rows are images
            _ if rank[action.writes] != 4 => None,
            (Form::Relu | Form::AffineRelu(_), Some(&(from, _))) => Some(from),
            (Form::JoinedConv { relu: true }, _) => Some(action.writes),
            _ => None,
        };
        ways[action.writes] = to.map(|to| WayBack { action: i, to });
    }
    ways
}

/// A product's large operand need not be kept where the activation that makes it keeps what it was made from: half of what
/// squeeze-and-excite keeps.
fn spare_operands(actions: &mut [Action]) {
    for i in 0..actions.len() {
        let Form::Gate(gate) = Form::of(actions[i].exec.as_ref()) else { continue };
        let operand = actions[i].reads[gate.large()].0;
        let maker = actions[..i].iter().position(|a| a.writes == operand && a.exec.can_again());
        if maker.is_some() {
            let frugal = Arc::new(gate.frugal());
            actions[i].again = maker;
            actions[i].exec = frugal;
        }
    }
}

/// Gradients as far as they have arrived.
struct Sums {
    arrays: Vec<Option<Array>>,
    /// All that has arrived is 0 where the value was cut below zero.
    masked: Vec<bool>,
}

impl Sums {
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
    fn take(&self, tensor: &Tensor) -> Result<Array> {
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
}

impl Action {
    fn forward(&self, x: Vec<Array>, keep: Option<&mut Kept>) -> Result<Array> {
        if let Some(gpu) = super::gpu::of(&x)? {
            return super::gpu::forward(&gpu, self.exec.as_ref(), x, keep);
        }
        self.exec.forward(x, keep)
    }

    /// Gradients of a convolution. `maker`: the action that makes its input and cuts it below zero, with what it kept; that is
    /// done to the gradient on its way to memory, and `sum` added, what has arrived there already.
    fn convolution_vjp(
        &self,
        kept: &Kept,
        dy: Array,
        want: &[bool],
        masked: bool,
        maker: Option<(&Action, &Kept)>,
        sum: Option<Array>,
    ) -> Result<Vec<Option<Array>>> {
        if let Some(gpu) = dy.gpu()? {
            let way = super::gpu::WayBack { masked, maker, sum };
            return super::gpu::convolution(&gpu, self.exec.as_ref(), kept, dy, want, &way);
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
        self.exec.vjp_on_the_way(kept, dy, want, Way { masked, back, ..Way::default() })
    }

    /// Gradients of any other. `maker`: the action that makes a product's large operand, where that was not kept, with what
    /// makes it again.
    fn vjp(
        &self,
        kept: &Kept,
        dy: Array,
        want: &[bool],
        maker: Option<(&Action, &Kept)>,
    ) -> Result<Vec<Option<Array>>> {
        if let Some(gpu) = dy.gpu()? {
            return super::gpu::vjp(&gpu, self.exec.as_ref(), kept, dy, want, maker);
        }
        let Some((maker, made)) = maker else { return self.exec.vjp(kept, dy, want) };
        let value = maker.exec.again(made).transpose()?;
        self.exec.vjp_on_the_way(kept, dy, want, Way { value: value.as_ref(), ..Way::default() })
    }
}

/// Hands the time since the last action to a profiler.
struct Clock<'a> {
    profiler: &'a Profiler,
    since: Instant,
}

impl<'a> Clock<'a> {
    fn start(profiler: &'a Profiler) -> Self {
        Self { profiler, since: Instant::now() }
    }

    /// `action` is done.
    fn stop(&mut self, action: &Action, direction: Direction, images: usize, bytes: usize) {
        let now = Instant::now();
        let names = || {
            let node = action.names.first().map(|n| n.0.clone()).unwrap_or_default();
            (node, action.names.iter().map(|n| n.1).collect::<Vec<_>>().join("+"))
        };
        let flops = action.exec.flops(images, direction);
        let passed = (now - self.since) / lanes::at_work() as u32;
        self.profiler.operator((action.node, direction), names, passed, flops, bytes);
        self.since = Instant::now(); // the count of operations is not the next one's time
    }
}
