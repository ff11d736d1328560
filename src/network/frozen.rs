//! The frozen network around the site: values through the prefix and the suffix of the cut and gradients back, in
//! chunks of images. Nothing before or after the site mixes images, so a chunk's size changes memory and speed alone.

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

/// Values that cross the cut, for a batch: the edge's value, which the layer will answer to, and what else the suffix
/// reads (a residual branch). Image-shaped ones are (N, C, H, W), physically channels-last.
#[derive(Clone)]
pub struct AtCut {
    pub edge: Tensor,
    pub crossing: Vec<Tensor>,
}

/// Gradients with respect to the values at the cut; None where none arrives.
pub struct CutGradients {
    pub edge: Option<Tensor>,
    pub crossing: Vec<Option<Tensor>>,
}

/// What backward passes of a batch need: a tape per chunk of images.
#[derive(Default)]
pub struct Tapes {
    /// How many images, and the tape, of which there may be more.
    chunks: Vec<(usize, Tape)>,
}

/// Passes over images so far, to hold against what the method needs. Each counts images, not calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub prefix_forward: usize,
    pub prefix_backward: usize,
    pub suffix_forward: usize,
    pub suffix_backward: usize,
}

impl Counts {
    /// So many images' passes of each kind.
    #[must_use]
    pub fn times(self, images: usize) -> Self {
        Self {
            prefix_forward: images * self.prefix_forward,
            prefix_backward: images * self.prefix_backward,
            suffix_forward: images * self.suffix_forward,
            suffix_backward: images * self.suffix_backward,
        }
    }

    /// Whole forward passes.
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
    /// The graph for one image; those for chunks share its weights.
    graph: Graph,
    place: SitePlace,
    end: End,
    /// By the number of images and precision.
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

/// Bytes that one image takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct PerImage {
    /// Its values at the cut.
    pub at_cut: usize,
    /// The prefix's tape; None where that does not belong to one image.
    pub prefix_tape: Option<usize>,
    /// The suffix's tape.
    pub suffix_tape: usize,
}

/// Where the suffix ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Before a final Softmax or LogSoftmax: what the losses are taken on.
    Logits,
    /// At the graph's output: what another runtime sees.
    Output,
}

/// Which side of the cut.
#[derive(Clone, Copy)]
enum Side {
    Prefix,
    Suffix,
}

/// Bytes of the largest value of a chunk, so that a chunk's neighbouring values stay in a core's share of the last-level
/// cache while they are worked on.
const CHUNK_BYTES: usize = 8 << 20;

impl<'a> Network<'a> {
    /// The network of `model` for images of shape (C, H, W), cut at `place`.
    ///
    /// # Errors
    /// What lowering or cutting refuses.
    pub fn new(model: &'a Model, image: [usize; 3], place: SitePlace, end: End) -> Result<Self> {
        let [c, h, w] = image;
        Self::of(model, Graph::lower(model, &[1, c, h, w])?, place, end)
    }

    /// [`Network::new`] of a model that is lowered already, for any number of images: what is decoded and packed is used
    /// again.
    ///
    /// # Errors
    /// As there.
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

    /// Runs on this device from now on: values come out there, and are expected there. A GPU takes larger chunks, one at a
    /// time.
    pub fn place_on(&mut self, device: &Device) {
        self.device = device.clone();
        if !device.is_cpu() {
            self.chunk = self.bytes.map(lanes::on_a_gpu);
            let largest = |side: usize| self.bytes[side].saturating_mul(self.chunk[side]);
            self.largest = largest(0).max(largest(1));
        }
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Nodes and their operators that run on the processor although the network is placed on a GPU, which has no kernels for
    /// them: values are copied there and back at each. Empty where the network is placed on the processor.
    pub fn on_processor(&self) -> Vec<(String, &'static str)> {
        if self.device.is_cpu() {
            return Vec::new();
        }
        // the same for any number of images
        let cut = self.cuts.values().next();
        cut.iter()
            .flat_map(|c| c.prefix.without_kernels().chain(c.suffix.without_kernels()))
            .cloned()
            .collect()
    }

    /// Images run at a time where nothing is kept: a chunk for each lane.
    pub fn at_a_time(&self) -> usize {
        self.chunk[0] * if self.device.is_cpu() { lanes::lanes() } else { 1 }
    }

    /// What the convolutions multiply from now on; [`Precision::F32`] at the start. Tapes serve either. Gives back what they
    /// multiplied until now.
    pub fn set_precision(&mut self, precision: Precision) -> Precision {
        std::mem::replace(&mut self.precision, precision)
    }

    /// Passes so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Floating-point operations of so many passes, about: a gradient by a value takes as many as the value.
    pub fn work_of(&self, passes: Counts) -> u64 {
        let [prefix, suffix] = self.flops;
        prefix * (passes.prefix_forward + passes.prefix_backward) as u64
            + suffix * (passes.suffix_forward + passes.suffix_backward) as u64
    }

    /// [`Network::work_of`] the passes so far.
    pub fn work(&self) -> u64 {
        self.work_of(self.counts)
    }

    /// Times what is run from now on.
    pub fn profile_into(&mut self, profiler: Option<Arc<Profiler>>) {
        self.profiler = profiler;
    }

    /// `f`, timed as a piece of `part` where somebody asks.
    pub fn timed<T>(&self, part: Part, f: impl FnOnce() -> T) -> T {
        timed(self.profiler.as_deref(), part, || {
            let done = f();
            if self.profiler.is_some() {
                // time is measured where it is taken; a fault comes back from whatever is run next
                let _ = self.device.synchronize();
            }
            done
        })
    }

    /// What one image takes, found by running one: a tape's size depends on shapes alone. Not among the counted passes.
    ///
    /// # Errors
    /// What an operator refuses.
    pub fn per_image(&mut self) -> Result<PerImage> {
        // on a GPU as many as will be run at a time: each number of images has cuDNN look for plans
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

    /// Classes: values of one image where the suffix ends.
    pub fn classes(&self) -> usize {
        self.graph.value(end_of(&self.graph, self.end)).shape.iter().skip(1).product()
    }

    /// Bytes that the first gradients through it take for good, about.
    ///
    /// # Errors
    /// What lowering refuses.
    pub fn packed_bytes(&mut self) -> Result<usize> {
        Ok(self.segment(Side::Prefix, 1)?.packed_bytes() + self.segment(Side::Suffix, 1)?.packed_bytes())
    }

    /// Bytes of the largest value of a chunk.
    pub fn chunk_bytes(&self) -> usize {
        self.largest
    }

    /// Images a chunk of the prefix.
    pub fn prefix_chunk(&self) -> usize {
        self.chunk[0]
    }

    fn segment(&mut self, side: Side, count: usize) -> Result<&Segment> {
        self.make(count)?;
        self.made(side, count)
    }

    /// Lowers and cuts the graph for `count` images, where that was not done before.
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

    /// Runs one side in pieces; with `keep` the tapes come back.
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

    /// Gradients with respect to a side's inputs, for the gradients of its outputs.
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

    /// Normalised images (N, C, H, W) to the end, through the layer where one is given.
    ///
    /// # Errors
    /// What an operator refuses.
    pub fn forward(&mut self, images: &Tensor, layer: Option<&Folded>) -> Result<Logits> {
        let (values, _) = self.prefix(images, false)?;
        let edge = match layer {
            Some(layer) => layer.forward(&values.edge)?,
            None => values.edge,
        };
        Ok(self.suffix(&edge, &values.crossing, false)?.0)
    }

    /// Normalised images (N, C, H, W) to the values at the cut.
    ///
    /// # Errors
    /// What an operator refuses.
    pub fn prefix(&mut self, images: &Tensor, keep: bool) -> Result<(AtCut, Option<Tapes>)> {
        self.counts.prefix_forward += images.dim(0)?;
        let (mut values, tapes) = self.run(Side::Prefix, &[images], keep)?;
        if values.is_empty() {
            return Err(Error::internal("the prefix gave no value"));
        }
        let edge = values.remove(0);
        Ok((AtCut { edge, crossing: values }, tapes))
    }

    /// The values at the cut, with the layer's answer `edge` in place of the edge's own value, to the logits.
    ///
    /// # Errors
    /// What an operator refuses.
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

    /// Gradients at the cut for the gradient of the logits, (B, K).
    ///
    /// # Errors
    /// What an operator refuses.
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

    /// The gradient with respect to the normalised images; None where the images do not reach the cut.
    ///
    /// # Errors
    /// What an operator refuses.
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
    graph.cut(&site::edge(graph, place)?, end_of(graph, end))
}

impl Tapes {
    fn images(&self) -> usize {
        self.chunks.iter().map(|(n, _)| n).sum()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.chunks.iter().map(|(_, t)| t.bytes()).sum()
    }

    /// The tapes of several batches, one after the other.
    pub fn extend(&mut self, more: Tapes) {
        self.chunks.extend(more.chunks);
    }

    /// Those of these images, in chunks of at most `chunk`; None where something kept does not lie per image.
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
            // no gradient comes to what is added
            rows.resize(lanes::filled_on(device, length, chunk), *rows.first()?);
            Some((length, Tape::gather(&all, &rows)?))
        };
        let chunks = lanes::work_on(device, pieces.len(), piece);
        Some(Tapes { chunks: chunks.into_iter().collect::<Option<_>>()? })
    }
}

/// `t` with rows of zeros behind it, so many in all.
fn filled(t: &Tensor, size: usize) -> Result<Tensor> {
    let length = t.dim(0)?;
    if length == size {
        return Ok(t.clone());
    }
    let mut shape = t.dims().to_vec();
    shape[0] = size - length;
    concatenate(&[t.clone(), array::zeros(&shape, t.device())?])
}

/// The first rows of `t`, so many.
fn first(t: &Tensor, length: usize) -> Result<Tensor> {
    Ok(if t.dim(0)? == length { t.clone() } else { t.narrow(0, 0, length)? })
}

/// Along the images, keeping channels-last values channels-last.
pub fn concatenate(parts: &[Tensor]) -> Result<Tensor> {
    match parts {
        [] => Err(Error::internal("nothing to be joined")),
        [one] => Ok(one.clone()),
        [first, ..] => backend::on(first.device())?.concatenate(parts),
    }
}

/// These images' rows of `all`, keeping channels-last values channels-last.
pub fn gather(all: &Tensor, images: &[usize]) -> Result<Tensor> {
    backend::on(all.device())?.gather(all, images)
}
