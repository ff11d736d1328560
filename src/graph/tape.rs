//! What a forward pass saves for the backward pass.

use crate::ops::Saved;

/// What one run of a [`super::Segment`] saved: masks, indices, and the few values that gradients need. It is valid
/// for that segment, and for one of the same cut of a graph lowered in another precision.
#[derive(Clone, Debug)]
pub struct Tape {
    pub(super) batch: usize,
    /// Everything saved has one row per image.
    pub(super) per_image: bool,
    pub(super) steps: Vec<Saved>,
}

impl Tape {
    /// Number of images.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.steps.iter().map(Saved::bytes).sum()
    }

    /// The tape of these images in this order, as if they had been run together. None if something saved is not per
    /// image, or an index is out of range.
    pub fn select(&self, rows: &[usize]) -> Option<Tape> {
        let rows: Vec<(usize, usize)> = rows.iter().map(|&row| (0, row)).collect();
        Self::gather(&[self], &rows)
    }

    /// The tape of the images `rows`, (index in `parts`, image in that tape). None if something saved is not per
    /// image, an index is out of range, or the tapes are of different segments.
    pub fn gather(parts: &[&Tape], rows: &[(usize, usize)]) -> Option<Tape> {
        let first = parts.first()?;
        if parts.iter().any(|t| !t.per_image || t.steps.len() != first.steps.len()) {
            return None;
        }
        let images: Vec<usize> = parts.iter().map(|t| t.batch).collect();
        let step = |i: usize| {
            let kept: Vec<&Saved> = parts.iter().map(|t| &t.steps[i]).collect();
            Saved::gather(&kept, &images, rows)
        };
        let steps = (0..first.steps.len()).map(step).collect::<Option<_>>()?;
        Some(Tape { batch: rows.len(), per_image: true, steps })
    }
}
