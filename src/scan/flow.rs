//! Displacement of images, with bilinear interpolation.

/// The four pixels around a point, and its offset from the first of them, in [0, 1].
pub(super) struct Sample {
    pub around: [[usize; 2]; 2],
    pub down: f32,
    pub right: f32,
}

/// The point that the value at index `place` of (H, W) is sampled from.
pub(super) fn sample([height, width]: [usize; 2], place: usize, [down, right]: [f32; 2]) -> Sample {
    let axis = |at: usize, by: f32, size: usize| {
        let to = (at as f32 + by).clamp(0.0, (size - 1) as f32);
        let first = (to as usize).min(size.saturating_sub(2));
        (first, (first + 1).min(size - 1), to - first as f32)
    };
    let (top, bottom, down) = axis(place / width, down, height);
    let (left, beside, right) = axis(place % width, right, width);
    let at = |r: usize, c: usize| r * width + c;
    Sample { around: [[at(top, left), at(top, beside)], [at(bottom, left), at(bottom, beside)]], down, right }
}

/// Writes the image `from`, (H, W, C), displaced by `field`, (H, W) of (down, right) in pixels, to `to`.
pub(super) fn bend(from: &[f32], to: &mut [f32], [height, width, channels]: [usize; 3], field: &[[f32; 2]]) {
    for (place, (to, u)) in to.chunks_exact_mut(channels).zip(field).enumerate() {
        let at = sample([height, width], place, *u);
        for (c, to) in to.iter_mut().enumerate() {
            let [[a, b], [d, e]] = at.around.map(|row| row.map(|p| from[p * channels + c]));
            let (above, below) = (a + at.right * (b - a), d + at.right * (e - d));
            *to = above + at.down * (below - above);
        }
    }
}
