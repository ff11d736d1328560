//! [`Pixels`]: pixel values as bytes or floats.

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
    pub(crate) fn extend(&self, out: &mut Vec<f32>, range: std::ops::Range<usize>) {
        match self {
            Self::U8(values) => out.extend(values[range].iter().map(|&b| f32::from(b) / 255.0)),
            Self::F32(values) => out.extend_from_slice(&values[range]),
        }
    }

    /// A copy of the images `rows`, in that order; `numel` values per image.
    pub(crate) fn select(&self, rows: &[usize], numel: usize) -> Self {
        fn pick<T: Copy>(values: &[T], rows: &[usize], numel: usize) -> Vec<T> {
            rows.iter().flat_map(|&r| &values[r * numel..(r + 1) * numel]).copied().collect()
        }
        match self {
            Self::U8(values) => Self::U8(pick(values, rows, numel)),
            Self::F32(values) => Self::F32(pick(values, rows, numel)),
        }
    }

    /// Appends `other`; if either holds floats, the result does.
    pub(crate) fn append(&mut self, other: Self) {
        if self.is_empty()
            && matches!((&*self, &other), (Self::U8(_), Self::F32(_)) | (Self::F32(_), Self::U8(_)))
        {
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

#[cfg(test)]
mod tests {
    use super::*;

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
