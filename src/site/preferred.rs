//! Where the default recipe puts its layer, which has to catch all that passes and needs values in which a trigger and the class
//! it leads to can still be told apart. Measured in `docs/decisions/01-default-site.md`.

use super::{Site, SitePlace, View, resolve, text_of, values_of};
use crate::{
    Result,
    graph::{Graph, ValueId},
    onnx::Model,
};

/// Fewer positions of an image say too little apart from the class: where the values before the last step that makes the image
/// smaller have fewer, those before the step before it are taken. 8x8, of the measured networks' images of 32x32.
const POSITIONS: usize = 64;

/// Where the network ends with a residual block, what that block reads. Elsewhere, where the last convolutions lie in one
/// row, what the last step reads that makes the image smaller, [`POSITIONS`] at least where any such step has them; where a
/// pointwise convolution has widened that just before, what this one reads. For all readers: nothing passes a layer there by.
/// Where there is neither, the default candidate.
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
        Some(block) => (Some(block.fork), "what the last residual block reads"),
        None => (
            before_the_last_shrinking(&view, &convolutions),
            "what the last step reads that makes the image smaller, 8x8 or more where a step reads that",
        ),
    };
    let found = value.and_then(|value| {
        // the graph's own input is no value that a node makes
        view.producer[value]?;
        Some((graph.value(value).name.clone(), view.image_shape(value)?))
    });
    let Some((name, shape)) = found else { return resolve(model, graph, None) };
    let place = SitePlace::Value { name };
    Ok(Site {
        text: text_of(model, &place),
        place,
        shape,
        why: format!("default: {why}, for all its readers"),
    })
}

fn before_the_last_shrinking(view: &View<'_>, convolutions: &[usize]) -> Option<ValueId> {
    let area = |v: ValueId| view.image_shape(v).map(|[_, h, w]| h * w);
    let mut value = view.graph.steps()[*convolutions.last()?].output;
    let mut last = area(value)?;
    let mut found = None;
    // back to the graph's input, or to what is no image
    while let Some(step) = view.producer[value] {
        // a gate (squeeze-and-excite) is not image-shaped; of two branches both lead back to where they part
        let reads = values_of(&view.graph.steps()[step]).filter_map(|v| Some((area(v)?, v)));
        let Some((size, read)) = reads.max_by_key(|(size, _)| *size) else { break };
        value = read;
        // the graph's own input is no value that a node makes
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

/// What the pointwise convolution reads that `value` comes from, where it made more channels of fewer.
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
