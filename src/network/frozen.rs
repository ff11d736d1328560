//! The frozen network, cut at the site into prefix and suffix: forward and backward passes of each, in chunks of
//! images. No operator mixes images, so the chunk size affects memory and speed only.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{Device, Tensor};

use super::{folded::Folded, losses::Logits};
use crate::{
    Error, Result,
    graph::{Cut, Graph, Segment, Tape, ValueId, VjpOptions},
    kernels::{Precision, backend},
    lanes,
    onnx::Model,
    ops::array,
    profile::{Part, Profiler, timed},
    site::{self, SitePlace},
};

/// Values of a batch that cross the cut: that of the edge, which the layer reads, and any others that the suffix reads
/// (a residual branch). Image-shaped ones are (N, C, H, W), physically channels-last.
#[derive(Clone)]
pub struct AtCut {
    pub edge: Tensor,
    pub crossing: Vec<Tensor>,
}

/// Gradients with respect to the values at the cut; None for a value that no gradient reaches.
pub struct CutGradients {
    pub edge: Option<Tensor>,
    pub crossing: Vec<Option<Tensor>>,
}

/// Tapes for the backward passes of a batch: one per chunk of images.
#[derive(Default)]
pub struct Tapes {
    /// Number of images and their tape, whose batch may be padded to more.
    chunks: Vec<(usize, Tape)>,
}

/// Counts of passes, in images, not calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub prefix_forward: usize,
    pub prefix_backward: usize,
    pub suffix_forward: usize,
    pub suffix_backward: usize,
}

impl Counts {
    /// The passes of one image times `images`.
    #[must_use]
    pub fn times(self, images: usize) -> Self {
        Self {
            prefix_forward: images * self.prefix_forward,
            prefix_backward: images * self.prefix_backward,
            suffix_forward: images * self.suffix_forward,
            suffix_backward: images * self.suffix_backward,
        }
    }

    /// Forward passes of the whole network.
    pub fn forward(images: usize) -> Self {
        Self { prefix_forward: images, suffix_forward: images, ..Self::default() }
    }
}

impl std::ops::Add for Counts {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self {
            prefix_forward: self.prefix_forward + more.prefix_forward,
            prefix_backward: self.prefix_backward + more.prefix_backward,
            suffix_forward: self.suffix_forward + more.suffix_forward,
            suffix_backward: self.suffix_backward + more.suffix_backward,
        }
    }
}

/// The frozen network, cut at the site.
pub struct Network<'a> {
    model: &'a Model,
    /// The graph for one image; the graphs for chunks share its weights.
    graph: Graph,
    place: SitePlace,
    end: End,
    /// Keyed by number of images and precision.
    cuts: BTreeMap<(usize, Precision), Cut>,
    precision: Precision,
    chunk: [usize; 2],
    /// Bytes of each side's largest value, for one image.
    bytes: [usize; 2],
    /// Floating-point operations of each side for one image, forward.
    flops: [u64; 2],
    /// Bytes of the largest value of a chunk.
    largest: usize,
    counts: Counts,
    profiler: Option<Arc<Profiler>>,
    device: Device,
}

/// Bytes per image.
#[derive(Clone, Copy, Debug, Default)]
pub struct PerImage {
    /// Values at the cut.
    pub at_cut: usize,
    /// The prefix's tape; None if it cannot be divided by image.
    pub prefix_tape: Option<usize>,
    /// The suffix's tape.
    pub suffix_tape: usize,
}

/// Where the suffix ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Before a final Softmax or LogSoftmax; the losses read logits.
    Logits,
    /// At the graph's output, to compare with another runtime.
    Output,
}

/// A side of the cut.
#[derive(Clone, Copy)]
enum Side {
    Prefix,
    Suffix,
}

/// Bytes of the largest value of a chunk: input and output of an operator then fit a core's share of the last-level
/// cache.
const CHUNK_BYTES: usize = 8 << 20;

impl<'a> Network<'a> {
    /// The network of `model` for images of shape (C, H, W), cut at `place`.
    ///
    /// # Errors
    /// Errors of lowering and cutting.
    pub fn new(model: &'a Model, image: [usize; 3], place: SitePlace, end: End) -> Result<Self> {
        let [c, h, w] = image;
        Self::of(model, Graph::lower(model, &[1, c, h, w])?, place, end)
    }

    /// [`Network::new`] from a graph already lowered for any number of images; decoded and packed weights are shared.
    ///
    /// # Errors
    /// As [`Network::new`].
    pub fn from_lowered(model: &'a Model, lowered: &Graph, place: SitePlace, end: End) -> Result<Self> {
        Self::of(model, lowered.lower_in(model, 1, Precision::F32)?, place, end)
    }

    fn of(model: &'a Model, graph: Graph, place: SitePlace, end: End) -> Result<Self> {
        let largest = |s: &Segment| s.largest_value_bytes().max(1);
        let cut = cut(&graph, &place, end)?;
        let sides = [largest(&cut.prefix), largest(&cut.suffix)];
        let chunk = sides.map(|b| (CHUNK_BYTES / b).clamp(1, 256));
        let bytes = sides;
        let largest = sides[0].saturating_mul(chunk[0]).max(sides[1].saturating_mul(chunk[1]));
        let flops = [&cut.prefix, &cut.suffix].map(|side| side.flops(1).max(1));
        let precision = Precision::F32;
        let cuts = BTreeMap::from([((1, precision), cut)]);
        let counts = Counts::default();
        Ok(Self {
            model,
            graph,
            place,
            end,
            cuts,
            precision,
            chunk,
            bytes,
            flops,
            largest,
            counts,
            profiler: None,
            device: Device::Cpu,
        })
    }

    /// Moves the network to this device; inputs and outputs are there from now on. A GPU runs larger chunks, one at a
    /// time.
    pub fn place_on(&mut self, device: &Device) {
        self.device = device.clone();
        if !device.is_cpu() {
            self.chunk = self.bytes.map(lanes::on_a_gpu);
            let largest = |side: usize| self.bytes[side].saturating_mul(self.chunk[side]);
            self.largest = largest(0).max(largest(1));
        }
    }

    /// The device that it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Nodes, with their operators, that run on the processor because the GPU has no kernels for them; each copies its
    /// values there and back. Empty on the processor.
    pub fn on_processor(&self) -> Vec<(String, &'static str)> {
        if self.device.is_cpu() {
            return Vec::new();
        }
        // does not depend on the number of images
        let cut = self.cuts.values().next();
        cut.iter()
            .flat_map(|c| c.prefix.without_kernels().chain(c.suffix.without_kernels()))
            .cloned()
            .collect()
    }

    /// Images in flight if nothing is kept: a chunk per lane.
    pub fn at_a_time(&self) -> usize {
        self.chunk[0] * if self.device.is_cpu() { lanes::lanes() } else { 1 }
    }

    /// Sets the precision of the convolutions, initially [`Precision::F32`], and returns the previous one. Tapes are
    /// valid for any precision.
    pub fn set_precision(&mut self, precision: Precision) -> Precision {
        std::mem::replace(&mut self.precision, precision)
    }

    /// Passes so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Estimated floating-point operations of these passes; a backward pass is counted like a forward pass.
    pub fn work_of(&self, passes: Counts) -> u64 {
        let [prefix, suffix] = self.flops;
        prefix * (passes.prefix_forward + passes.prefix_backward) as u64
            + suffix * (passes.suffix_forward + passes.suffix_backward) as u64
    }

    /// [`Network::work_of`] all passes so far.
    pub fn work(&self) -> u64 {
        self.work_of(self.counts)
    }

    /// Profiles the passes from now on.
    pub fn profile_into(&mut self, profiler: Option<Arc<Profiler>>) {
        self.profiler = profiler;
    }

    /// Runs `f`, timed as `part` if profiling is on.
    pub fn timed<T>(&self, part: Part, f: impl FnOnce() -> T) -> T {
        timed(self.profiler.as_deref(), part, || {
            let done = f();
            if self.profiler.is_some() {
                // include the time of asynchronous kernels; their errors surface in the next call
                let _ = self.device.synchronize();
            }
            done
        })
    }

    /// Bytes per image, measured by a run on zeros: sizes depend on shapes alone. Not counted in [`Network::counts`].
    ///
    /// # Errors
    /// Errors of operators.
    pub fn per_image(&mut self) -> Result<PerImage> {
        // on a GPU a full chunk: cuDNN searches for plans for each batch size
        let n = if self.device.is_cpu() { 1 } else { self.chunk[0].min(self.chunk[1]) };
        let shape = [&[n], &self.graph.input_shape()[1..]].concat();
        let images = array::zeros(&shape, &self.device)?;
        let (values, prefix) = self.segment(Side::Prefix, n)?.run_keeping(&[images], None)?;
        let (_, suffix) = self.segment(Side::Suffix, n)?.run_keeping(&values, None)?;
        Ok(PerImage {
            at_cut: values.iter().map(|v| v.elem_count() * v.dtype().size_in_bytes()).sum::<usize>() / n,
            prefix_tape: prefix.select(&[0]).map(|tape| tape.bytes()),
            suffix_tape: suffix.bytes() / n,
        })
    }

    /// Number of classes: values per image at the end of the suffix.
    pub fn classes(&self) -> usize {
        self.graph.value(end_of(&self.graph, self.end)).shape.iter().skip(1).product()
    }

    /// Estimated bytes of the weights packed for gradients, which stay allocated.
    ///
    /// # Errors
    /// Errors of lowering.
    pub fn packed_bytes(&mut self) -> Result<usize> {
        Ok(self.segment(Side::Prefix, 1)?.packed_bytes() + self.segment(Side::Suffix, 1)?.packed_bytes())
    }

    /// Bytes of the largest value of a chunk.
    pub fn chunk_bytes(&self) -> usize {
        self.largest
    }

    /// Images per chunk of the prefix.
    pub fn prefix_chunk(&self) -> usize {
        self.chunk[0]
    }

    fn segment(&mut self, side: Side, count: usize) -> Result<&Segment> {
        self.make(count)?;
        self.made(side, count)
    }

    /// Lowers and cuts the graph for `count` images, unless done before.
    fn make(&mut self, count: usize) -> Result<()> {
        let key = (count, self.precision);
        if !self.cuts.contains_key(&key) {
            let graph = self.graph.lower_in(self.model, count, self.precision)?;
            let cut = cut(&graph, &self.place, self.end)?;
            self.cuts.insert(key, cut);
        }
        Ok(())
    }

    fn made(&self, side: Side, count: usize) -> Result<&Segment> {
        let key = (count, self.precision);
        let cut = self.cuts.get(&key).ok_or_else(|| Error::internal("a cut was not kept"))?;
        Ok(match side {
            Side::Prefix => &cut.prefix,
            Side::Suffix => &cut.suffix,
        })
    }

    /// Runs one side in chunks; returns the tapes with `keep`.
    fn run(&mut self, side: Side, inputs: &[&Tensor], keep: bool) -> Result<(Vec<Tensor>, Option<Tapes>)> {
        let count = inputs.first().map_or(Ok(0), |t| t.dim(0))?;
        let pieces = lanes::pieces_on(&self.device, count, self.chunk[side as usize]);
        let size = |length: usize| lanes::filled_on(&self.device, length, self.chunk[side as usize]);
        let sizes: Vec<usize> = pieces.iter().map(|&(_, length)| size(length)).collect();
        sizes.iter().try_for_each(|&size| self.make(size))?;
        let profiler = self.profiler.as_deref();
        let piece = |i: usize| -> Result<(Vec<Tensor>, Option<Tape>)> {
            let (start, length) = pieces[i];
            let part = |t: &&Tensor| filled(&t.narrow(0, start, length)?, sizes[i]);
            let inputs: Vec<Tensor> = inputs.iter().map(part).collect::<Result<_>>()?;
            let segment = self.made(side, sizes[i])?;
            let (values, tape) = if keep {
                let (values, tape) = segment.run_keeping(&inputs, profiler)?;
                (values, Some(tape))
            } else {
                (segment.run(&inputs, profiler)?, None)
            };
            let values = values.iter().map(|v| first(v, length)).collect::<Result<_>>()?;
            Ok((values, tape))
        };
        let mut outputs: Vec<Vec<Tensor>> = Vec::new();
        let mut chunks = Vec::new();
        for (&(_, length), given) in pieces.iter().zip(lanes::work_on(&self.device, pieces.len(), piece)) {
            let (values, tape) = given?;
            chunks.extend(tape.map(|tape| (length, tape)));
            outputs.resize_with(values.len(), Vec::new);
            outputs.iter_mut().zip(values).for_each(|(all, v)| all.push(v));
        }
        let join = || outputs.into_iter().map(|parts| concatenate(&parts)).collect::<Result<_>>();
        let outputs = self.timed(Part::Gather, join)?;
        Ok((outputs, keep.then_some(Tapes { chunks })))
    }

    /// Gradients with respect to a side's inputs, from those with respect to its outputs.
    fn vjp(&mut self, side: Side, tapes: &Tapes, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let mut starts = Vec::with_capacity(tapes.chunks.len());
        let mut end = 0;
        for (length, tape) in &tapes.chunks {
            self.make(tape.batch())?;
            starts.push(end);
            end += length;
        }
        let profiler = self.profiler.as_deref();
        let piece = |i: usize| {
            let (length, tape) = &tapes.chunks[i];
            let size = tape.batch();
            let part = |g: &Option<Tensor>| match g {
                Some(g) => filled(&g.narrow(0, starts[i], *length)?, size).map(Some),
                None => Ok(None),
            };
            let grads = grads.iter().map(part).collect::<Result<Vec<_>>>()?;
            let given =
                self.made(side, size)?.vjp(tape, &grads, VjpOptions { profiler, ..Default::default() })?;
            given
                .iter()
                .map(|g| g.as_ref().map(|g| first(g, *length)).transpose())
                .collect::<Result<Vec<_>>>()
        };
        let mut all: Vec<Vec<Tensor>> = Vec::new();
        for given in lanes::work_on(&self.device, tapes.chunks.len(), piece) {
            let given = given?;
            all.resize_with(given.len(), Vec::new);
            all.iter_mut().zip(given).for_each(|(a, g)| a.extend(g));
        }
        let join =
            |parts: &Vec<Tensor>| if parts.is_empty() { Ok(None) } else { concatenate(parts).map(Some) };
        self.timed(Part::Gather, || all.iter().map(join).collect())
    }

    /// Logits of normalised images (N, C, H, W), with the layer if one is given.
    ///
    /// # Errors
    /// Errors of operators.
    pub fn forward(&mut self, images: &Tensor, layer: Option<&Folded>) -> Result<Logits> {
        let (values, _) = self.prefix(images, false)?;
        let edge = match layer {
            Some(layer) => layer.forward(&values.edge)?,
            None => values.edge,
        };
        Ok(self.suffix(&edge, &values.crossing, false)?.0)
    }

    /// Values at the cut of normalised images (N, C, H, W).
    ///
    /// # Errors
    /// Errors of operators.
    pub fn prefix(&mut self, images: &Tensor, keep: bool) -> Result<(AtCut, Option<Tapes>)> {
        self.counts.prefix_forward += images.dim(0)?;
        let (mut values, tapes) = self.run(Side::Prefix, &[images], keep)?;
        if values.is_empty() {
            return Err(Error::internal("the prefix gave no value"));
        }
        let edge = values.remove(0);
        Ok((AtCut { edge, crossing: values }, tapes))
    }

    /// Logits from the values at the cut, with `edge`, the layer's output, in place of the edge's own value.
    ///
    /// # Errors
    /// Errors of operators.
    pub fn suffix(
        &mut self,
        edge: &Tensor,
        crossing: &[Tensor],
        keep: bool,
    ) -> Result<(Logits, Option<Tapes>)> {
        self.counts.suffix_forward += edge.dim(0)?;
        let inputs: Vec<&Tensor> = std::iter::once(edge).chain(crossing).collect();
        let (values, tapes) = self.run(Side::Suffix, &inputs, keep)?;
        let logits = values.into_iter().next().ok_or_else(|| Error::internal("the suffix gave no value"))?;
        Ok((Logits::new(logits.flatten_from(1)?)?, tapes))
    }

    /// Gradients at the cut, from the gradient with respect to the logits, (B, K).
    ///
    /// # Errors
    /// Errors of operators.
    pub fn suffix_gradient(&mut self, tapes: &Tapes, logits: &Tensor) -> Result<CutGradients> {
        self.counts.suffix_backward += logits.dim(0)?;
        let mut shape = self.graph.value(end_of(&self.graph, self.end)).shape.clone();
        if let Some(first) = shape.first_mut() {
            *first = logits.dim(0)?;
        }
        let mut grads =
            self.vjp(Side::Suffix, tapes, &[Some(logits.reshape(shape)?.to_device(&self.device)?)])?;
        if grads.is_empty() {
            return Err(Error::internal("the suffix has no input"));
        }
        Ok(CutGradients { edge: grads.remove(0), crossing: grads })
    }

    /// The gradient with respect to the normalised images, (N, C, H, W); None if none reaches them.
    ///
    /// # Errors
    /// Errors of operators.
    pub fn prefix_gradient(&mut self, tapes: &Tapes, at_cut: CutGradients) -> Result<Option<Tensor>> {
        self.counts.prefix_backward += tapes.images();
        let grads: Vec<_> = std::iter::once(at_cut.edge).chain(at_cut.crossing).collect();
        Ok(self.vjp(Side::Prefix, tapes, &grads)?.into_iter().next().flatten())
    }
}

fn end_of(graph: &Graph, end: End) -> ValueId {
    match end {
        End::Logits => graph.logits(),
        End::Output => graph.output(),
    }
}

fn cut(graph: &Graph, place: &SitePlace, end: End) -> Result<Cut> {
    let (edge, to) = (site::edge(graph, place)?, end_of(graph, end));
    graph.check_gradient(&edge, to)?;
    graph.cut(&edge, to)
}

impl Tapes {
    fn images(&self) -> usize {
        self.chunks.iter().map(|(n, _)| n).sum()
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.chunks.iter().map(|(_, t)| t.bytes()).sum()
    }

    /// Appends the tapes of another batch.
    pub fn extend(&mut self, more: Tapes) {
        self.chunks.extend(more.chunks);
    }

    /// The tapes of these images, in chunks of at most `chunk`; None if a tape cannot be divided by image.
    pub fn gather(&self, images: &[usize], chunk: usize, device: &Device) -> Option<Tapes> {
        let all: Vec<&Tape> = self.chunks.iter().map(|(_, tape)| tape).collect();
        let mut ends = Vec::with_capacity(all.len());
        let mut end = 0;
        for (length, _) in &self.chunks {
            end += length;
            ends.push(end);
        }
        let place = |&image: &usize| {
            let part = ends.partition_point(|&end| end <= image);
            (part, if part == 0 { image } else { image - ends[part - 1] })
        };
        let pieces = lanes::pieces_on(device, images.len(), chunk);
        let piece = |i: usize| {
            let (start, length) = pieces[i];
            let mut rows: Vec<(usize, usize)> = images[start..start + length].iter().map(place).collect();
            // the padding gets no gradient
            rows.resize(lanes::filled_on(device, length, chunk), *rows.first()?);
            Some((length, Tape::gather(&all, &rows)?))
        };
        let chunks = lanes::work_on(device, pieces.len(), piece);
        Some(Tapes { chunks: chunks.into_iter().collect::<Option<_>>()? })
    }
}

/// Pads `t` with zeros to `size` rows.
fn filled(t: &Tensor, size: usize) -> Result<Tensor> {
    let length = t.dim(0)?;
    if length == size {
        return Ok(t.clone());
    }
    let mut shape = t.dims().to_vec();
    shape[0] = size - length;
    concatenate(&[t.clone(), array::zeros(&shape, t.device())?])
}

/// The first `length` rows of `t`.
fn first(t: &Tensor, length: usize) -> Result<Tensor> {
    Ok(if t.dim(0)? == length { t.clone() } else { t.narrow(0, 0, length)? })
}

/// Concatenates along the images; channels-last values stay channels-last.
pub fn concatenate(parts: &[Tensor]) -> Result<Tensor> {
    match parts {
        [] => Err(Error::internal("nothing to concatenate")),
        [one] => Ok(one.clone()),
        [first, ..] => backend::on(first.device())?.concatenate(parts),
    }
}

/// The rows of these images; channels-last values stay channels-last.
pub fn gather(all: &Tensor, images: &[usize]) -> Result<Tensor> {
    backend::on(all.device())?.gather(all, images)
}
