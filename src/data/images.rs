//! Images in memory: pixel values, labels, names.

use super::{Pixels, Preprocessing};

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
}
