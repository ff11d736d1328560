//! Images in memory: pixel values, labels, names.

use super::Preprocessing;

/// Pixel values of any number of images, (count, C, H, W) row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Pixels {
    /// 8-bit values 0 to 255; a quarter of the size of floats.
    U8(Vec<u8>),
    /// Floats in [0, 1].
    F32(Vec<f32>),
}

impl Default for Pixels {
    fn default() -> Self {
        Self::U8(Vec::new())
    }
}

impl Pixels {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::F32(values) => values.len(),
        }
    }

    /// True without values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::F32(values) => size_of_val(values.as_slice()),
        }
    }

    /// Appends the values of `range` to `out` as floats in [0, 1].
    pub(super) fn extend(&self, out: &mut Vec<f32>, range: std::ops::Range<usize>) {
        match self {
            Self::U8(values) => out.extend(values[range].iter().map(|&b| f32::from(b) / 255.0)),
            Self::F32(values) => out.extend_from_slice(&values[range]),
        }
    }

    /// A copy of the images `rows`, in that order; `numel` values per image.
    pub(super) fn select(&self, rows: &[usize], numel: usize) -> Self {
        fn pick<T: Copy>(values: &[T], rows: &[usize], numel: usize) -> Vec<T> {
            rows.iter().flat_map(|&r| &values[r * numel..(r + 1) * numel]).copied().collect()
        }
        match self {
            Self::U8(values) => Self::U8(pick(values, rows, numel)),
            Self::F32(values) => Self::F32(pick(values, rows, numel)),
        }
    }

    /// Appends `other`; if either holds floats, the result does.
    pub(super) fn append(&mut self, other: Self) {
        if self.is_empty() && matches!((&*self, &other), (Self::U8(_), Self::F32(_)) | (Self::F32(_), Self::U8(_))) {
            *self = other;
            return;
        }
        match (&mut *self, other) {
            (Self::U8(all), Self::U8(more)) => all.extend_from_slice(&more),
            (Self::F32(all), more) => more.extend(all, 0..more.len()),
            (all @ Self::U8(_), more) => {
                let mut floats = Vec::with_capacity(all.len() + more.len());
                all.extend(&mut floats, 0..all.len());
                more.extend(&mut floats, 0..more.len());
                *self = Self::F32(floats);
            }
        }
    }
}

/// Images read from a [`Source`](super::Source).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Images {
    /// (count, C, H, W), row-major.
    pub pixels: Pixels,
    /// C, H, W.
    pub shape: [usize; 3],
    /// Class index of each image; None if unlabelled.
    pub labels: Option<Vec<u32>>,
    /// Name of each image in messages: its file.
    pub names: Vec<String>,
}

impl Images {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// True without images.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Number of values per image: C * H * W.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// The labels; empty if unlabelled.
    pub fn labels(&self) -> &[u32] {
        self.labels.as_deref().unwrap_or_default()
    }

    /// Pixels of the images `rows`: (rows, C, H, W) row-major, in [0, 1] (8-bit values / 255).
    ///
    /// # Panics
    /// If a row is not below [`len`](Self::len).
    pub fn pixels(&self, rows: &[usize]) -> Vec<f32> {
        let numel = self.numel();
        let mut out = Vec::with_capacity(rows.len() * numel);
        for &row in rows {
            self.pixels.extend(&mut out, row * numel..(row + 1) * numel);
        }
        out
    }

    /// The images `rows` as network input: (rows, C, H, W) row-major, (pixel - mean) / std.
    ///
    /// # Panics
    /// If a row is not below [`len`](Self::len).
    pub fn normalized(&self, rows: &[usize], preprocessing: &Preprocessing) -> Vec<f32> {
        let mut out = self.pixels(rows);
        preprocessing.normalize(&mut out, self.shape);
        out
    }

    /// A copy of the images `rows`, in that order.
    ///
    /// # Panics
    /// If a row is not below [`len`](Self::len).
    pub fn select(&self, rows: &[usize]) -> Images {
        Images {
            pixels: self.pixels.select(rows, self.numel()),
            shape: self.shape,
            labels: self.labels.as_ref().map(|labels| rows.iter().map(|&r| labels[r]).collect()),
            names: rows.iter().map(|&r| self.names[r].clone()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_floats_are_the_same_pixels() {
        let bytes = Images {
            pixels: Pixels::U8(vec![0, 51, 255, 102]),
            shape: [1, 1, 2],
            labels: Some(vec![1, 0]),
            names: vec!["a".into(), "b".into()],
        };
        let floats = Images { pixels: Pixels::F32(bytes.pixels(&[0, 1])), ..bytes.clone() };
        assert_eq!(floats.pixels(&[1, 0]), bytes.pixels(&[1, 0]));
        assert_eq!(floats.pixels(&[1]), [1.0, 102.0 / 255.0]);
        let last = floats.select(&[1]);
        assert_eq!(
            (last.labels(), last.len(), &last.pixels),
            (&[0][..], 1, &Pixels::F32(floats.pixels(&[1])))
        );
    }

    #[test]
    fn floats_stay_floats_when_bytes_are_appended() {
        let mut all = Pixels::U8(vec![255]);
        all.append(Pixels::U8(vec![0]));
        assert_eq!(all, Pixels::U8(vec![255, 0]));
        all.append(Pixels::F32(vec![0.5]));
        all.append(Pixels::U8(vec![51]));
        assert_eq!(all, Pixels::F32(vec![1.0, 0.0, 0.5, 0.2]));
    }
}
