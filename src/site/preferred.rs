//! The default site of the default recipe: before all readers of a value, at a depth where trigger and target class are
//! still separable. The measurements are in `docs/decisions/01-default-site.md`.

use super::{Site, SitePlace, View, resolve, text_of, values_of};
use crate::{
    Result,
    graph::{Graph, ValueId},
    onnx::Model,
};

/// Minimum number of positions: values with fewer hold little but the class, so an earlier downsampling step is taken.
/// 8x8 for the measured networks, whose images are 32x32.
const POSITIONS: usize = 64;

/// If the network ends with a residual block, the input of that block. Otherwise the input of the last downsampling
/// step, with 8x8 positions or more if there is one; if a pointwise convolution widens that input, the input of the
/// convolution. Both before all readers, so that nothing bypasses the layer. If there is neither, the default of
/// [`resolve`].
///
/// # Errors
/// As [`resolve`].
pub fn preferred(model: &Model, graph: &Graph) -> Result<Site> {
    let view = View::new(graph);
    let convolutions: Vec<usize> =
        (0..graph.steps().len()).filter(|&s| view.is_image_convolution(s)).collect();
    let blocks = view.residual_blocks(&convolutions);
    let block = blocks.last().filter(|b| !convolutions.iter().any(|&c| view.comes_after(c, b.output)));
    let (value, why) = match block {
        Some(block) => (Some(block.fork), "input of the last residual block"),
        None => (
            before_the_last_shrinking(&view, &convolutions),
            "input of the last downsampling step, of one that reads 8x8 or more if possible",
        ),
    };
    let found = value.and_then(|value| {
        // no layer at the graph's own input
        view.producer[value]?;
        Some((graph.value(value).name.clone(), view.image_shape(value)?))
    });
    let Some((name, shape)) = found else { return resolve(model, graph, None) };
    let place = SitePlace::Value { name };
    Ok(Site {
        text: text_of(model, &place),
        place,
        shape,
        why: format!("default: {why}, before all its readers"),
    })
}

fn before_the_last_shrinking(view: &View<'_>, convolutions: &[usize]) -> Option<ValueId> {
    let area = |v: ValueId| view.image_shape(v).map(|[_, h, w]| h * w);
    let mut value = view.graph.steps()[*convolutions.last()?].output;
    let mut last = area(value)?;
    let mut found = None;
    // back to the graph's input, or to a value that is not image-shaped
    while let Some(step) = view.producer[value] {
        // a gate (squeeze-and-excite) is not image-shaped; both branches of a block lead back to its input
        let reads = values_of(&view.graph.steps()[step]).filter_map(|v| Some((area(v)?, v)));
        let Some((size, read)) = reads.max_by_key(|(size, _)| *size) else { break };
        value = read;
        // no layer at the graph's own input
        if size > last && view.producer[value].is_some() {
            last = size;
            if found.is_none() || size >= POSITIONS {
                found = Some(value);
            }
            if size >= POSITIONS {
                break;
            }
        }
    }
    found.map(|value| before_widening(view, value).unwrap_or(value))
}

/// The input of the pointwise convolution that computes `value`, if it increases the number of channels.
fn before_widening(view: &View<'_>, value: ValueId) -> Option<ValueId> {
    let [channels, h, w] = view.image_shape(value)?;
    let mut at = value;
    loop {
        let step = view.producer[at]?;
        let read = values_of(&view.graph.steps()[step]).find(|&v| view.image_shape(v).is_some())?;
        let [before, hb, wb] = view.image_shape(read)?;
        if view.is_image_convolution(step) {
            return (view.kernel(step) == 1 && before < channels && [hb, wb] == [h, w]).then_some(read);
        }
        if before != channels {
            return None;
        }
        at = read;
    }
}
