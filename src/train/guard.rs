//! The accuracy guard: a layer that costs more accuracy than allowed is mixed with the identity.

use crate::{
    Error, Result,
    layer::{self, Layer},
    network::{Folded, Kept, Logits, Network},
};

/// The mixture with the identity of a layer that cost more held-out accuracy than allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IdentityMix {
    /// Percentage points lost by the layer as trained.
    pub lost: f64,
    /// Share of the layer in the mixture, in [0, 1].
    pub share: f64,
    /// Percentage points lost by the mixture.
    pub lost_with_it: f64,
}

/// Shares of the layer to try, in this order. Below the last one too little of its effect would be left.
const BACK_OFF: [f64; 7] = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3];

/// A trained layer after the guard.
pub struct Guarded {
    pub layer: Layer,
    /// Held-out accuracy in percent, without and with the layer.
    pub held_out: Option<(f64, f64)>,
    pub guard: Option<IdentityMix>,
}

/// Mixes the layer with the identity if it costs more than `limit` percentage points of held-out accuracy.
///
/// # Errors
/// [`Error::Check`] `accuracy` if every mixture costs more; errors of operators.
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
            let guard = IdentityMix { lost: before - after, share, lost_with_it: before - now };
            return Ok(Guarded { layer: mixed, held_out: measured, guard: Some(guard) });
        }
    }
    let problem = format!(
        "the layer costs {:.1} points of held-out accuracy, more than `max_acc_drop` {limit}, even if mixed \
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
