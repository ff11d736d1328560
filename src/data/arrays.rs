//! Images from arrays in memory.

use super::{Classes, Picture, Pixels, Source};
use crate::{Error, Result};

/// Images in memory as a [`Source`].
#[derive(Clone, Debug)]
pub struct Arrays {
    name: String,
    pixels: Pixels,
    shape: [usize; 3],
    labels: Option<Vec<u32>>,
    classes: Option<Classes>,
}

impl Arrays {
    /// `pixels`: (count, C, H, W) row-major, floats in [0, 1] or bytes. `shape`: (C, H, W) with 1 or 3 channels.
    /// `labels`: each image's class index among the model's outputs. `name` is used in messages.
    ///
    /// # Errors
    /// No images; a partial image; floats outside [0, 1]; a number of labels other than that of images.
    pub fn new(
        name: impl Into<String>,
        pixels: Pixels,
        shape: [usize; 3],
        labels: Option<Vec<u32>>,
    ) -> Result<Self> {
        let name = name.into();
        let numel = shape.iter().product::<usize>();
        let invalid = |problem: String| Err(Error::images(&name, problem));
        if numel == 0 || pixels.is_empty() || !pixels.len().is_multiple_of(numel) {
            let [c, h, w] = shape;
            return invalid(format!(
                "{} values are not a whole number of images of {c}x{h}x{w}",
                pixels.len()
            ));
        }
        let count = pixels.len() / numel;
        if let Some(labels) = labels.as_ref().filter(|labels| labels.len() != count) {
            return invalid(format!("{} labels for {count} images", labels.len()));
        }
        if let Pixels::F32(values) = &pixels
            && let Some(at) = values.iter().position(|v| !(0.0..=1.0).contains(v))
        {
            let (image, value) = (at / numel, values[at]);
            return invalid(format!("image {image} has the pixel value {value}, expected 0 to 1"));
        }
        Ok(Self { name, pixels, shape, labels, classes: None })
    }

    /// Names the classes, in the order of the labels.
    pub fn with_classes(self, classes: Classes) -> Self {
        Self { classes: Some(classes), ..self }
    }
}

impl Source for Arrays {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn count(&self) -> usize {
        self.pixels.len() / self.shape.iter().product::<usize>()
    }

    fn row_name(&self, row: usize) -> String {
        format!("{}[{row}]", self.name)
    }

    fn classes(&self) -> Option<Classes> {
        self.classes.clone()
    }

    fn labels(&self, classes: &Classes) -> Result<Option<Vec<u32>>> {
        let Some(labels) = &self.labels else { return Ok(None) };
        if let Some(row) = labels.iter().position(|l| !classes.is_empty() && *l as usize >= classes.len()) {
            let problem = format!("is of class {}, but there are {} classes", labels[row], classes.len());
            return Err(Error::images(self.row_name(row), problem));
        }
        Ok(Some(labels.clone()))
    }

    fn picture(&self, row: usize) -> Result<Picture> {
        let [channels, h, w] = self.shape;
        let numel = channels * h * w;
        let values = row * numel..(row + 1) * numel;
        let pixels = match &self.pixels {
            Pixels::U8(all) => Pixels::U8(interleaved(&all[values], channels)),
            Pixels::F32(all) => Pixels::F32(interleaved(&all[values], channels)),
        };
        Ok(Picture { size: [h, w], channels, pixels })
    }

    fn memory(&self) -> usize {
        self.pixels.bytes()
    }

    fn is_labelled(&self) -> bool {
        self.labels.is_some()
    }
}

/// (C, H, W) as (H, W, C).
fn interleaved<T: Copy>(planes: &[T], channels: usize) -> Vec<T> {
    let plane = planes.len() / channels;
    (0..plane).flat_map(|at| (0..channels).map(move |c| planes[c * plane + at])).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::Target, *};

    #[test]
    fn floats_are_read_as_they_are() {
        let values: Vec<f32> = (0..12).map(|v| v as f32 / 12.0).collect();
        let arrays = Arrays::new("x", Pixels::F32(values.clone()), [1, 2, 2], Some(vec![2, 0, 1])).unwrap();
        let images = super::super::load(&arrays, &Classes::default(), &Target::of(1, None)).unwrap();
        assert_eq!((images.len(), images.labels(), images.shape), (3, &[2, 0, 1][..], [1, 2, 2]));
        assert_eq!(images.pixels(&[1]), values[4..8]);
        assert_eq!(images.names[2], "x[2]");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let new = |pixels, labels| Arrays::new("x", pixels, [1, 2, 2], labels).map_err(|e| e.to_string());
        assert!(new(Pixels::U8(vec![0; 6]), None).unwrap_err().contains("not a whole number"));
        assert!(new(Pixels::U8(vec![]), None).is_err());
        assert!(new(Pixels::U8(vec![0; 8]), Some(vec![1])).unwrap_err().contains("1 labels for 2 images"));
        let e = new(Pixels::F32(vec![0.0, 0.0, 0.0, 0.0, 0.0, 1.5, 0.0, 0.0]), None).unwrap_err();
        assert!(e.contains("image 1 has the pixel value 1.5"), "{e}");
        let arrays = Arrays::new("x", Pixels::U8(vec![0; 8]), [1, 2, 2], Some(vec![0, 3])).unwrap();
        let small = Target::of(1, Some([3, 3]));
        let e = super::super::load(&arrays, &Classes::default(), &small).unwrap_err().to_string();
        assert!(e.contains("x[0]: is 2x2, expected 3x3"), "{e}");
        let two = Classes(vec!["a".into(), "b".into()]);
        assert!(arrays.labels(&two).unwrap_err().to_string().contains("x[1]: is of class 3"));
    }
}
