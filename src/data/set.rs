//! [`ImageSet`]: chosen images of a source, decoded when they are needed or kept in memory.

use std::sync::Arc;

use rayon::prelude::*;

use super::{Classes, Images, Pixels, Preprocessing, Source, Target};
use crate::{Error, Result, error::printable};

/// Damaged images that an error names; more are counted.
const NAMED: usize = 20;

/// Images chosen from a source by their rows, all of one shape and labelled or not. What is not kept in memory is decoded
/// each time it is asked for.
#[derive(Clone)]
pub struct ImageSet<'a> {
    /// None: all images are kept.
    source: Option<&'a dyn Source>,
    /// Of each image its row in the source, and its row in `kept`.
    rows: Vec<usize>,
    kept: Option<(Arc<Images>, Vec<usize>)>,
    labels: Option<Vec<u32>>,
    target: Target,
    shape: [usize; 3],
}

/// What happens while a set is read.
pub struct Reading<'r> {
    /// Bytes up to which the images are kept in memory.
    pub keep: usize,
    /// Number of damaged images that are left out without an error.
    pub skip: usize,
    /// Called from several threads with the number of images just read; an error stops the reading.
    pub progress: &'r (dyn Fn(usize) -> Result<()> + Sync),
}

/// An image that cannot be read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Its place among the images that were read.
    pub at: usize,
    /// Its file, or the source and its row.
    pub name: String,
    /// What is wrong with it.
    pub problem: String,
}

impl<'a> ImageSet<'a> {
    /// All images of `source`, labelled by their class's position in `classes`. Nothing is decoded but, if `target` has
    /// no size, the first image, whose size is then that of all.
    ///
    /// # Errors
    /// Errors of the source.
    pub fn open(source: &'a dyn Source, classes: &Classes, target: &Target) -> Result<Self> {
        let labels = source.labels(classes)?;
        let target = match target.size {
            Some(_) => *target,
            None => target.sized_by(&source.picture(0)?),
        };
        let [h, w] = target.size.unwrap_or_default();
        let rows = (0..source.count()).collect();
        Ok(Self { source: Some(source), rows, kept: None, labels, target, shape: [target.channels, h, w] })
    }

    /// Images in memory.
    pub fn of(images: Images) -> Self {
        let rows: Vec<usize> = (0..images.len()).collect();
        let [channels, h, w] = images.shape;
        Self {
            source: None,
            labels: images.labels.clone(),
            target: Target::of(channels, Some([h, w])),
            shape: images.shape,
            kept: Some((Arc::new(images), rows.clone())),
            rows,
        }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True without images.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// C, H, W.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Number of values per image: C * H * W.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// What images are converted to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The labels; empty if unlabelled.
    pub fn labels(&self) -> &[u32] {
        self.labels.as_deref().unwrap_or_default()
    }

    /// Whether the images are labelled.
    pub fn is_labelled(&self) -> bool {
        self.labels.is_some()
    }

    /// Checks that every label is one of the model's outputs: labels that are numbers may be any.
    ///
    /// # Errors
    /// A label beyond them; names its image.
    pub fn require_labels(&self, outputs: usize) -> Result<()> {
        match self.labels().iter().position(|&label| label as usize >= outputs) {
            None => Ok(()),
            Some(at) => {
                let problem =
                    format!("is of class {}, but the model has {outputs} outputs", self.labels()[at]);
                Err(Error::images(printable(&self.name(at)), problem))
            }
        }
    }

    /// Labels the images.
    pub fn label(&mut self, labels: Vec<u32>) {
        debug_assert_eq!(labels.len(), self.len());
        self.labels = Some(labels);
    }

    /// Name of an image in messages: its file.
    pub fn name(&self, image: usize) -> String {
        match (self.source, &self.kept) {
            (Some(source), _) => source.row_name(self.rows[image]),
            (None, Some((images, at))) => images.names[at[image]].clone(),
            (None, None) => String::new(),
        }
    }

    /// The images `which`, in that order.
    ///
    /// # Panics
    /// If one is not below [`len`](Self::len).
    pub fn select(&self, which: &[usize]) -> Self {
        let pick = |all: &[usize]| which.iter().map(|&i| all[i]).collect();
        Self {
            rows: pick(&self.rows),
            kept: self.kept.as_ref().map(|(images, at)| (images.clone(), pick(at))),
            labels: self.labels.as_ref().map(|labels| which.iter().map(|&i| labels[i]).collect()),
            ..self.clone_of_source()
        }
    }

    fn clone_of_source(&self) -> Self {
        Self {
            source: self.source,
            rows: Vec::new(),
            kept: None,
            labels: None,
            target: self.target,
            shape: self.shape,
        }
    }

    /// The same images converted to another target of the same shape; if it is another, they are decoded anew.
    pub fn converted(&self, target: &Target) -> Self {
        let target = Target { size: self.target.size, ..*target };
        if target == self.target {
            return self.clone();
        }
        let kept = if self.source.is_some() { None } else { self.kept.clone() };
        Self { kept, target, ..self.clone() }
    }

    /// Bytes of the decoded images as 8-bit values.
    pub fn bytes(&self) -> usize {
        self.len().saturating_mul(self.numel())
    }

    /// Decodes each image once, so that all damaged ones are found before any long work, and keeps them in memory if
    /// they fit. Damaged images are left out of the set and returned, up to the number that may be skipped.
    ///
    /// # Errors
    /// More damaged images than may be skipped, all of them named; an error of `progress`.
    pub fn read(&mut self, reading: &Reading<'_>) -> Result<Vec<Damaged>> {
        let Some(source) = self.source.filter(|_| self.kept.is_none()) else { return Ok(Vec::new()) };
        let keep = self.bytes() <= reading.keep;
        let one = |(at, row): (usize, usize)| -> Result<Result<Pixels, Damaged>> {
            let pixels = self.decode(source, row);
            (reading.progress)(1)?;
            match pixels {
                Ok(pixels) => Ok(Ok(if keep { pixels } else { Pixels::default() })),
                Err(e) if matches!(e, Error::Interrupted | Error::Internal(_)) => Err(e),
                Err(e) => Ok(Err(Damaged { at, name: source.row_name(row), problem: e.to_string() })),
            }
        };
        let capacity = if keep { self.bytes() } else { 0 };
        let (mut pixels, mut damaged, mut whole) =
            (Pixels::U8(Vec::with_capacity(capacity)), Vec::new(), Vec::new());
        // a block at a time, so that what is decoded but not yet appended stays small
        for (block, rows) in self.rows.chunks(BLOCK).enumerate() {
            let each = rows.par_iter().enumerate();
            let read = each.map(|(i, &row)| one((block * BLOCK + i, row)));
            let read: Vec<_> = read.collect::<Result<_>>()?;
            for (i, read) in read.into_iter().enumerate() {
                match read {
                    Ok(one) => {
                        pixels.append(one);
                        whole.push(block * BLOCK + i);
                    }
                    Err(one) => damaged.push(one),
                }
            }
        }
        if damaged.len() > reading.skip || whole.is_empty() {
            return Err(all_damaged(&source.name(), &damaged, self.len()));
        }
        if !damaged.is_empty() {
            *self = self.select(&whole);
        }
        if keep {
            let names = self.rows.iter().map(|&row| source.row_name(row)).collect();
            let images = Images { pixels, shape: self.shape, labels: None, names };
            self.kept = Some((Arc::new(images), (0..self.len()).collect()));
        }
        Ok(damaged)
    }

    fn decode(&self, source: &dyn Source, row: usize) -> Result<Pixels> {
        let picture = source.picture(row)?;
        self.target.apply(picture).map_err(|problem| Error::images(source.row_name(row), problem))
    }

    /// The images `which`, (len, C, H, W) row-major, as 8-bit values unless the source holds floats. Decoded in
    /// parallel where they are not kept.
    ///
    /// # Errors
    /// Errors of the source, the first in the order of the images.
    pub fn raw(&self, which: &[usize]) -> Result<Pixels> {
        match (&self.kept, self.source) {
            (Some((images, at)), _) => {
                let rows: Vec<usize> = which.iter().map(|&i| at[i]).collect();
                Ok(images.pixels.select(&rows, self.numel()))
            }
            (None, Some(source)) => {
                let decode = |&i: &usize| self.decode(source, self.rows[i]);
                let all: Vec<Result<Pixels>> = which.par_iter().map(decode).collect();
                let mut out = Pixels::default();
                for pixels in all {
                    out.append(pixels?);
                }
                Ok(out)
            }
            (None, None) => Err(Error::internal("a set of images without a source")),
        }
    }

    /// As [`raw`](Self::raw), in [0, 1] (8-bit values / 255).
    ///
    /// # Errors
    /// As [`raw`](Self::raw).
    pub fn pixels(&self, which: &[usize]) -> Result<Vec<f32>> {
        let raw = self.raw(which)?;
        let mut out = Vec::with_capacity(raw.len());
        raw.extend(&mut out, 0..raw.len());
        Ok(out)
    }

    /// The images `which` as network input: (len, C, H, W) row-major, normalised.
    ///
    /// # Errors
    /// As [`raw`](Self::raw).
    pub fn normalized(&self, which: &[usize], preprocessing: &Preprocessing) -> Result<Vec<f32>> {
        let mut out = self.pixels(which)?;
        preprocessing.normalize(&mut out, self.shape);
        Ok(out)
    }

    /// All images in memory.
    ///
    /// # Errors
    /// As [`raw`](Self::raw).
    pub fn images(&self) -> Result<Images> {
        let all: Vec<usize> = (0..self.len()).collect();
        let names = all.iter().map(|&i| self.name(i)).collect();
        Ok(Images { pixels: self.raw(&all)?, shape: self.shape, labels: self.labels.clone(), names })
    }
}

/// Images decoded at a time.
const BLOCK: usize = 64;

/// One error for all damaged images.
fn all_damaged(source: &str, damaged: &[Damaged], of: usize) -> Error {
    if let [one] = damaged {
        return Error::images(source, format!("1 of {of} images cannot be read: {}", one.problem));
    }
    let mut listed: String =
        damaged.iter().take(NAMED).map(|one| format!("\n  {}", printable(&one.problem))).collect();
    if damaged.len() > NAMED {
        listed.push_str(&format!("\n  and {} more", damaged.len() - NAMED));
    }
    Error::images(source, format!("{} of {of} images cannot be read:{listed}", damaged.len()))
}

/// Reads all images of a source into memory, converted to `target` and labelled by their class's position in `classes`.
///
/// # Errors
/// Errors of the source; damaged images, all of them named; more than [`super::limits::TOTAL_BYTES`] in all.
pub fn load(source: &dyn Source, classes: &Classes, target: &Target) -> Result<Images> {
    let mut set = ImageSet::open(source, classes, target)?;
    if set.bytes() > super::limits::TOTAL_BYTES {
        let [_, h, w] = set.shape();
        let problem = format!(
            "{} images of {h}x{w} take {} MiB, more than the limit of {} MiB; use fewer or smaller images",
            set.len(),
            set.bytes() >> 20,
            super::limits::TOTAL_BYTES >> 20
        );
        return Err(Error::images(source.name(), problem));
    }
    set.read(&Reading { keep: usize::MAX, skip: 0, progress: &|_| Ok(()) })?;
    set.images()
}

#[cfg(test)]
mod tests {
    use super::{super::Arrays, *};

    /// Five grey images of one pixel, of which the third is damaged in the source that refuses it.
    struct Broken(Arrays);

    impl Source for Broken {
        fn name(&self) -> String {
            "dir".into()
        }
        fn count(&self) -> usize {
            5
        }
        fn row_name(&self, row: usize) -> String {
            format!("{row}.png")
        }
        fn classes(&self) -> Option<Classes> {
            None
        }
        fn labels(&self, _: &Classes) -> Result<Option<Vec<u32>>> {
            Ok(Some(vec![0, 1, 0, 1, 0]))
        }
        fn picture(&self, row: usize) -> Result<super::super::Picture> {
            if row % 3 == 2 {
                return Err(Error::images(self.row_name(row), "is cut short"));
            }
            self.0.picture(row)
        }
    }

    fn broken() -> Broken {
        Broken(Arrays::new("x", Pixels::U8(vec![0, 51, 102, 153, 204]), [1, 1, 1], None).unwrap())
    }

    #[test]
    fn damaged_images_are_named_or_left_out() {
        let source = broken();
        let open = || ImageSet::open(&source, &Classes::default(), &Target::of(1, None)).unwrap();
        let read = |keep, skip| {
            let mut set = open();
            let damaged = set.read(&Reading { keep, skip, progress: &|_| Ok(()) });
            (set, damaged)
        };
        let e = read(usize::MAX, 0).1.unwrap_err().to_string();
        assert!(e.contains("1 of 5 images cannot be read: 2.png: is cut short"), "{e}");
        for keep in [0, usize::MAX] {
            let (set, damaged) = read(keep, 1);
            assert_eq!(damaged.unwrap()[0].name, "2.png");
            assert_eq!((set.len(), set.labels()), (4, &[0, 1, 1, 0][..]));
            assert_eq!(set.pixels(&[3, 1]).unwrap(), [0.8, 0.2]);
            let one = set.select(&[2]);
            assert_eq!((one.name(0), one.pixels(&[0]).unwrap()), ("3.png".to_owned(), vec![0.6]));
        }
    }

    #[test]
    fn labels_beyond_the_models_outputs_are_refused() {
        let source = broken();
        let set = ImageSet::open(&source, &Classes::default(), &Target::of(1, None)).unwrap();
        set.require_labels(2).unwrap();
        let e = set.require_labels(1).unwrap_err().to_string();
        assert_eq!(e, "1.png: is of class 1, but the model has 1 outputs");
    }

    #[test]
    fn reading_stops_when_it_is_told_to() {
        let source = broken();
        let mut set = ImageSet::open(&source, &Classes::default(), &Target::of(1, None)).unwrap();
        let stop = |_| Err(Error::Interrupted);
        let reading = Reading { keep: 0, skip: 9, progress: &stop };
        assert!(matches!(set.read(&reading), Err(Error::Interrupted)));
    }
}
