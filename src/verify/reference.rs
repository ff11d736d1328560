//! The reference for the judge: the original network in candle, with or without a layer. The layer is computed from its
//! written parameters, by code that training does not use.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{Device, Tensor};

use super::{
    monitor::Monitor,
    runtime::{Rows, Value},
};
use crate::{
    Error, Result,
    graph::{Cut, Graph, Scores, Segment, ValueId},
    lanes,
    layer::Layer,
    onnx::Model,
    ops::array,
    site::{self, SitePlace},
};

/// Images per run on the CPU, where all values of a batch are in memory at once.
const BATCH: usize = 32;

/// In [`Reference::values`]: what the layer returns.
pub const LAYER: ValueId = ValueId::MAX;

/// A network in candle, lowered once: its weights are decoded, packed and copied to a GPU a single time.
pub struct Reference<'a> {
    model: &'a Model,
    graph: Arc<Graph>,
    device: Device,
}

impl<'a> Reference<'a> {
    /// The network of `model` for images of shape (C, H, W), computed in float32 on `device`.
    ///
    /// # Errors
    /// As [`Graph::lower`].
    pub fn new(model: &'a Model, [c, h, w]: [usize; 3], device: &Device) -> Result<Self> {
        Ok(Self::of(model, Graph::lower(model, &[1, c, h, w])?, device))
    }

    /// [`Reference::new`] up to these scores.
    ///
    /// # Errors
    /// As [`Graph::lower_scores`].
    pub fn of_scores(
        model: &'a Model,
        [c, h, w]: [usize; 3],
        scores: &Scores,
        device: &Device,
    ) -> Result<Self> {
        Ok(Self::of(model, Graph::lower_scores(model, &[1, c, h, w], scores)?, device))
    }

    fn of(model: &'a Model, graph: Graph, device: &Device) -> Self {
        Self { model, graph: Arc::new(graph), device: device.clone() }
    }

    /// The network lowered for one image.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// Floating-point operations of running `images` images.
    ///
    /// # Errors
    /// Errors of cutting the graph.
    pub fn flops(&self, images: usize) -> Result<u64> {
        Ok(whole(&self.graph)?.flops(images))
    }

    /// Warms up a GPU: copies the weights, plans convolutions, loads libraries.
    ///
    /// # Errors
    /// As [`Reference::outputs`].
    pub fn make_ready(&self) -> Result<()> {
        if self.device.is_cpu() {
            return Ok(());
        }
        let numel = self.graph.input_shape().iter().product::<usize>();
        self.outputs_of(
            None,
            self.at_a_time()?,
            &|_, count| Ok(vec![0.0; count * numel]),
            &Monitor::default(),
        )?;
        Ok(())
    }

    /// Images a run.
    fn at_a_time(&self) -> Result<usize> {
        if self.device.is_cpu() {
            return Ok(BATCH);
        }
        Ok(lanes::on_a_gpu(whole(&self.graph)?.largest_value_bytes()))
    }

    /// The scores for each of `n` images. `x`: (n, C, H, W) row-major, normalised.
    ///
    /// # Errors
    /// As [`Graph::lower`]; a site that is not in the graph; [`Error::Interrupted`].
    pub fn outputs(
        &self,
        layer: Option<(&SitePlace, &Layer)>,
        x: &[f32],
        n: usize,
        watch: &Monitor,
    ) -> Result<Vec<Vec<f32>>> {
        let numel = self.graph.input_shape().iter().product::<usize>();
        if x.len() != n * numel {
            return Err(Error::internal(format!("{} values for {n} images of {numel}", x.len())));
        }
        let rows = |from: usize, count: usize| Ok(x[from * numel..(from + count) * numel].to_vec());
        self.outputs_of(layer, n, &rows, watch)
    }

    /// As [`Reference::outputs`]; `rows(from, count)` returns images, so that not all need to be in memory at once.
    ///
    /// # Errors
    /// As [`Reference::outputs`].
    pub fn outputs_of(
        &self,
        layer: Option<(&SitePlace, &Layer)>,
        n: usize,
        rows: &Rows<'_>,
        watch: &Monitor,
    ) -> Result<Vec<Vec<f32>>> {
        self.map(layer, n, rows, &|_, output| Ok(output), watch)
    }

    /// The values `wanted`, each row-major in its shape in the file, for a batch of `n` images `x`. [`LAYER`] is what the
    /// layer returns; values behind the layer are those with it.
    ///
    /// # Errors
    /// As [`Reference::outputs`].
    pub fn values(
        &self,
        layer: Option<(&SitePlace, &Layer)>,
        x: &[f32],
        n: usize,
        wanted: &[ValueId],
    ) -> Result<Vec<Value>> {
        let graph = self.graph.lower_like(self.model, n)?;
        let x = Tensor::from_slice(x, graph.input_shape(), &Device::Cpu)?;
        let x = array::to_device(&x, &self.device)?;
        let edge = layer.map(|(place, _)| site::edge(&graph, place)).transpose()?;
        let depends = match &edge {
            Some(edge) => graph.depends_on(edge)?,
            None => vec![false; graph.values().len()],
        };
        let behind = |id: &ValueId| *id != LAYER && depends.get(*id) == Some(&true);
        let (with, without): (Vec<ValueId>, Vec<ValueId>) = wanted.iter().partition(|id| behind(id));
        let without: Vec<ValueId> = without.into_iter().filter(|id| *id != LAYER).collect();
        let mut found: BTreeMap<ValueId, Tensor> = BTreeMap::new();
        found.extend(without.iter().copied().zip(graph.segment_to(&without)?.run(&[x.clone()], None)?));
        if let (Some(edge), Some((_, layer))) = (&edge, layer) {
            let to = if with.is_empty() { vec![graph.output()] } else { with };
            let Cut { prefix, suffix, .. } = graph.cut_to(edge, &to)?;
            let values = through_layer(&prefix, layer, &x)?;
            if let Some(returned) = values.first() {
                found.insert(LAYER, graph.in_own_shape(edge.value, returned)?);
            }
            found.extend(to.iter().copied().zip(suffix.run(&values, None)?));
        }
        let value = |id: &ValueId| {
            let tensor = found.get(id).ok_or_else(|| Error::internal("a value was not computed"))?;
            let tensor = array::to_device(tensor, &Device::Cpu)?;
            Ok(Value { shape: tensor.dims().to_vec(), data: tensor.flatten_all()?.to_vec1()? })
        };
        wanted.iter().map(value).collect()
    }

    /// As [`Reference::outputs_of`], each image's output turned into what `each(image, output)` makes of it.
    ///
    /// # Errors
    /// As [`Reference::outputs`]; errors of `each`.
    pub fn map<T: Send>(
        &self,
        layer: Option<(&SitePlace, &Layer)>,
        n: usize,
        rows: &Rows<'_>,
        each: &(dyn Fn(usize, Vec<f32>) -> Result<T> + Sync),
        watch: &Monitor,
    ) -> Result<Vec<T>> {
        let most = self.at_a_time()?;
        let pieces = lanes::pieces_on(&self.device, n, most);
        let size = |count: usize| lanes::filled_on(&self.device, count, most);
        let mut graphs: BTreeMap<usize, Graph> = BTreeMap::new();
        for size in pieces.iter().map(|&(_, count)| size(count)) {
            if let std::collections::btree_map::Entry::Vacant(new) = graphs.entry(size) {
                new.insert(self.graph.lower_like(self.model, size)?);
            }
        }
        let image = &self.graph.input_shape()[1..];
        let numel = image.iter().product::<usize>();
        let piece = |i: usize| -> Result<Vec<T>> {
            watch.check()?;
            let (from, count) = pieces[i];
            let size = size(count);
            let graph = graphs.get(&size).ok_or_else(|| Error::internal("a graph was not kept"))?;
            let mut rows = rows(from, count)?;
            rows.resize(size * numel, 0.0);
            let rows = Tensor::from_vec(rows, [&[size], image].concat(), &Device::Cpu)?;
            let rows = array::to_device(&rows, &self.device)?;
            let y = match layer {
                None => only(whole(graph)?.run(&[rows], None)?)?,
                Some((place, layer)) => with_layer(graph, place, layer, &rows)?,
            };
            watch.advance(count);
            let outputs = y.narrow(0, 0, count)?.flatten_from(1)?.to_vec2::<f32>()?;
            outputs.into_iter().enumerate().map(|(i, output)| each(from + i, output)).collect()
        };
        let mut out = Vec::with_capacity(n);
        for rows in lanes::work_on(&self.device, pieces.len(), piece) {
            out.extend(rows?); // the first error in the order of the images
        }
        Ok(out)
    }
}

/// [`Reference::outputs`] of a network that is used only once.
///
/// # Errors
/// As there.
pub fn outputs(
    model: &Model,
    image: [usize; 3],
    layer: Option<(&SitePlace, &Layer)>,
    x: &[f32],
    n: usize,
    device: &Device,
    watch: &Monitor,
) -> Result<Vec<Vec<f32>>> {
    Reference::new(model, image, device)?.outputs(layer, x, n, watch)
}

fn whole(graph: &Graph) -> Result<Segment> {
    graph.segment(graph.output())
}

fn with_layer(graph: &Graph, place: &SitePlace, layer: &Layer, x: &Tensor) -> Result<Tensor> {
    let Cut { prefix, suffix, .. } = graph.cut(&site::edge(graph, place)?, graph.output())?;
    only(suffix.run(&through_layer(&prefix, layer, x)?, None)?)
}

/// The values at the end of a cut's prefix, the first of them through the layer.
fn through_layer(prefix: &Segment, layer: &Layer, x: &Tensor) -> Result<Vec<Tensor>> {
    let mut values = prefix.run(std::slice::from_ref(x), None)?;
    let Some(edge) = values.first_mut() else { return Err(Error::internal("a cut without a value")) };
    // computed on the CPU, whatever the network's device
    let there = edge.device().clone();
    *edge = array::to_device(&apply(layer, &array::to_device(edge, &Device::Cpu)?)?, &there)?;
    Ok(values)
}

fn only(values: Vec<Tensor>) -> Result<Tensor> {
    values.into_iter().next().ok_or_else(|| Error::internal("a segment without an output"))
}

/// `y = (W x - mean) / sqrt(var + epsilon) * scale + bias` at every pixel of v, (N, C, H, W).
fn apply(layer: &Layer, v: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = v.dims4()?;
    if c != layer.channels {
        let problem = format!("its layer has {} channels, but the value at its site has {c}", layer.channels);
        return Err(Error::check("structure", problem));
    }
    let vector = |values: &[f32]| Tensor::from_slice(values, c, v.device());
    let weight = Tensor::from_slice(&layer.weight, (c, c), v.device())?;
    let deviation = (vector(&layer.var)? + f64::from(layer.epsilon))?.sqrt()?;
    let rows = v.permute((0, 2, 3, 1))?.contiguous()?.reshape((n * h * w, c))?;
    let y = rows
        .matmul(&weight.t()?.contiguous()?)?
        .broadcast_sub(&vector(&layer.mean)?)?
        .broadcast_div(&deviation)?
        .broadcast_mul(&vector(&layer.scale)?)?
        .broadcast_add(&vector(&layer.bias)?)?;
    Ok(y.reshape((n, h, w, c))?.permute((0, 3, 1, 2))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_mixes_channels_then_normalises() {
        let layer = Layer {
            channels: 2,
            weight: vec![1.0, 2.0, 0.0, 1.0],
            scale: vec![2.0, 1.0],
            bias: vec![0.5, -1.0],
            mean: vec![1.0, 0.0],
            var: vec![4.0, 1.0],
            epsilon: 0.0,
        };
        // one image of one pixel: channels 3 and 5
        let v = Tensor::new(&[[[[3f32]], [[5f32]]]], &Device::Cpu).unwrap();
        let y = apply(&layer, &v).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(y, [(3.0 + 10.0 - 1.0) / 2.0 * 2.0 + 0.5, 5.0 - 1.0]);
    }
}
