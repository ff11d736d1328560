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
        let rows: Vec<(usize, usize)> = rows.iter().map(|&row| (0, row)).collect();
        Self::gather(&[self], &rows)
    }

    /// The tape of the images `rows`, each the place of a tape in `parts` and of an image in it. None where something
    /// kept does not belong to one image, an image is not there, or the tapes come from different segments.
    pub fn gather(parts: &[&Tape], rows: &[(usize, usize)]) -> Option<Tape> {
        let first = parts.first()?;
        if parts.iter().any(|t| !t.per_image || t.steps.len() != first.steps.len()) {
            return None;
        }
        let images: Vec<usize> = parts.iter().map(|t| t.batch).collect();
        let step = |i: usize| {
            let kept: Vec<&Kept> = parts.iter().map(|t| &t.steps[i]).collect();
            Kept::gather(&kept, &images, rows)
        };
        let steps = (0..first.steps.len()).map(step).collect::<Option<_>>()?;
        Some(Tape { batch: rows.len(), per_image: true, steps })
    }
}
