//! What is done where a layer costs more accuracy than it may: it is mixed with the identity, until it does not.

use crate::{
    Error, Result,
    layer::{self, Layer},
    network::{Folded, Kept, Logits, Network},
};

/// A layer was mixed with the identity because it cost more accuracy on the held-out images than was allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guard {
    /// Points that it cost as trained.
    pub lost: f64,
    /// Its share in the mixture.
    pub share: f64,
    /// Points that the mixture costs.
    pub lost_with_it: f64,
}

/// Shares of the layer that are tried one after the other where it costs too much. With less than the last one little of it
/// would be left, and of what it does.
const BACK_OFF: [f64; 7] = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3];

/// What came of a trained layer.
pub struct Guarded {
    pub layer: Layer,
    pub held_out: Option<(f64, f64)>,
    pub guard: Option<Guard>,
}

/// The layer, mixed with the identity where it costs more accuracy on the held-out images than `limit` allows.
///
/// # Errors
/// [`Error::Check`] `accuracy` where no mixture does with less; what an operator refuses.
pub fn guarded(
    layer: Layer,
    network: &mut Network<'_>,
    held: Option<&Kept>,
    limit: Option<f64>,
) -> Result<Guarded> {
    let mut measure = |layer: &Layer| measure(network, held, layer);
    let held_out = measure(&layer)?;
    let (Some((before, after)), Some(limit)) = (held_out, limit) else {
        return Ok(Guarded { layer, held_out, guard: None });
    };
    if before - after <= limit {
        return Ok(Guarded { layer, held_out, guard: None });
    }
    for share in BACK_OFF {
        let mixed = layer::towards_identity(&layer, share);
        let measured = measure(&mixed)?;
        if let Some((_, now)) = measured
            && before - now <= limit
        {
            let guard = Guard { lost: before - after, share, lost_with_it: before - now };
            return Ok(Guarded { layer: mixed, held_out: measured, guard: Some(guard) });
        }
    }
    let problem = format!(
        "the layer costs {:.1} points on the images held out, more than `max_acc_drop` {limit} even where it is mixed \
             with the identity; no file is written",
        before - after
    );
    Err(Error::check("accuracy", problem))
}

/// Held-out accuracy in percent, without and with the layer.
fn measure(network: &mut Network<'_>, held: Option<&Kept>, layer: &Layer) -> Result<Option<(f64, f64)>> {
    let Some(held) = held else { return Ok(None) };
    let values = held.all();
    let (logits, _) = network.suffix(
        &Folded::from_layer(layer, network.device())?.forward(&values.edge)?,
        &values.crossing,
        false,
    )?;
    let share = |z: &Logits| 100.0 * z.share_answered(&held.labels);
    Ok(Some((share(&held.original), share(&logits))))
}
