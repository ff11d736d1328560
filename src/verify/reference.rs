//! What the judge's answers are held against: the original network in candle, alone or with a layer. The layer is
//! computed here from its numbers as they would be written, by code that training does not use.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::evaluate::Watch;
use crate::{
    Error, Result,
    graph::{Cut, Graph, Segment},
    lanes,
    onnx::Model,
    rewrite::{Layer, SitePlace},
    site,
};

/// Images a run: a graph's values for one batch are in memory together.
const BATCH: usize = 32;

/// Images a run on a GPU.
const GPU_BATCH: usize = 256;

/// The first graph output for each of `n` images, computed in float32 on `device`. `x`: (n, C, H, W) row-major, normalised;
/// `image`: (C, H, W).
///
/// # Errors
/// What lowering refuses, a place that is not in the graph; `Interrupted`.
pub fn outputs(
    model: &Model,
    image: [usize; 3],
    layer: Option<(&SitePlace, &Layer)>,
    x: &[f32],
    n: usize,
    device: &Device,
    watch: &Watch,
) -> Result<Vec<Vec<f32>>> {
    let numel = image.iter().product::<usize>();
    if x.len() != n * numel {
        return Err(Error::internal(format!("{} values for {n} images of {numel}", x.len())));
    }
    let rows = |from: usize, count: usize| x[from * numel..(from + count) * numel].to_vec();
    outputs_of(model, image, layer, n, &rows, device, watch)
}

/// As [`outputs`]; `rows(from, count)` gives images, so that they need not all be in memory at once.
///
/// # Errors
/// As [`outputs`].
#[allow(clippy::too_many_arguments)] // each is a thing of its own
pub fn outputs_of(
    model: &Model,
    image: [usize; 3],
    layer: Option<(&SitePlace, &Layer)>,
    n: usize,
    rows: &(dyn Fn(usize, usize) -> Vec<f32> + Sync),
    device: &Device,
    watch: &Watch,
) -> Result<Vec<Vec<f32>>> {
    let [c, h, w] = image;
    let pieces = lanes::pieces_on(device, n, if device.is_cpu() { BATCH } else { GPU_BATCH });
    let mut graphs: BTreeMap<usize, Graph> = BTreeMap::new();
    for &(_, count) in &pieces {
        let made = match graphs.first_key_value() {
            _ if graphs.contains_key(&count) => continue,
            Some((_, first)) => first.lower_like(model, count)?,
            None => Graph::lower(model, &[count, c, h, w])?,
        };
        graphs.insert(count, made);
    }
    let piece = |i: usize| -> Result<Vec<Vec<f32>>> {
        watch.check()?;
        let (from, count) = pieces[i];
        let graph = graphs.get(&count).ok_or_else(|| Error::internal("a graph was not kept"))?;
        let rows = rows(from, count);
        let rows = Tensor::from_slice(&rows, (count, c, h, w), device)?;
        let y = match layer {
            None => only(whole(graph)?.run(&[rows])?)?,
            Some((place, layer)) => with_layer(graph, place, layer, &rows)?,
        };
        watch.advance(count);
        Ok(y.flatten_from(1)?.to_vec2::<f32>()?)
    };
    let mut out = Vec::with_capacity(n);
    for rows in lanes::work_on(device, pieces.len(), piece) {
        out.extend(rows?); // the first error in the order of the images
    }
    Ok(out)
}

fn whole(graph: &Graph) -> Result<Segment> {
    graph.segment(graph.output())
}

fn with_layer(graph: &Graph, place: &SitePlace, layer: &Layer, x: &Tensor) -> Result<Tensor> {
    let Cut { prefix, suffix, .. } = graph.cut(&site::edge(graph, place)?, graph.output())?;
    let mut values = prefix.run(std::slice::from_ref(x))?;
    let Some(edge) = values.first_mut() else { return Err(Error::internal("a cut without a value")) };
    *edge = apply(layer, edge)?;
    only(suffix.run(&values)?)
}

fn only(values: Vec<Tensor>) -> Result<Tensor> {
    values.into_iter().next().ok_or_else(|| Error::internal("a segment without an output"))
}

/// `y = (W x - mean) / sqrt(var + epsilon) * scale + bias` at every pixel of v, (N, C, H, W).
fn apply(layer: &Layer, v: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = v.dims4()?;
    if c != layer.channels {
        let problem = format!("its layer has {} channels, the value at its site {c}", layer.channels);
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
