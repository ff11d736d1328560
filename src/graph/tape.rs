//! What a run keeps for its gradients.

use crate::ops::Kept;

/// What a run of a [`super::Segment`] kept: masks, indices, and the few values that a gradient needs. It belongs to
/// that segment, or to another of the same network and the same cut; [`Tape::select`] makes one that fits another
/// batch.
#[derive(Clone, Debug)]
pub struct Tape {
    pub(super) batch: usize,
    /// All that is kept has one row for each image.
    pub(super) per_image: bool,
    pub(super) steps: Vec<Kept>,
}

impl Tape {
    /// How many images were run.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.steps.iter().map(Kept::bytes).sum()
    }

    /// The tape of these images, in this order, as if they had been run together. None where something kept does not
    /// belong to one image, or an image is not there.
    pub fn select(&self, rows: &[usize]) -> Option<Tape> {
        if !self.per_image {
            return None;
        }
        let steps = self.steps.iter().map(|k| k.select(self.batch, rows)).collect::<Option<_>>()?;
        Some(Tape { batch: rows.len(), per_image: true, steps })
    }

    /// The tapes of several batches as one. None where something kept does not belong to one image, or where the tapes
    /// come from different segments.
    pub fn cat(tapes: &[&Tape]) -> Option<Tape> {
        let first = tapes.first()?;
        if tapes.iter().any(|t| !t.per_image || t.steps.len() != first.steps.len()) {
            return None;
        }
        let steps = (0..first.steps.len())
            .map(|i| Kept::cat(&tapes.iter().map(|t| &t.steps[i]).collect::<Vec<_>>()))
            .collect::<Option<_>>()?;
        Some(Tape { batch: tapes.iter().map(|t| t.batch).sum(), per_image: true, steps })
    }
}
