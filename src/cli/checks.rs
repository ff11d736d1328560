//! The checks that stand between a rewrite and its file, as the commands ask for them.

use std::{io::Write as _, path::Path};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{Context, classifier::Classifier, progress::Progress};
use crate::{
    Error, Result,
    data::{Images, PRESETS, Preprocessing},
    onnx::Model,
    report::Verification,
    rewrite::{Layer, SitePlace},
    verify::{
        Form, Judge, Parity, TOLERANCE, Watch,
        diff::{Declared, structural_diff},
        evaluate::accuracy,
        parity,
        reference::Reference,
    },
};

/// Images that both runtimes are asked about, unless a command is told otherwise.
pub const IMAGES: usize = 256;

/// Of these, those that tract's plain form answers where the optimised one answers all: the plain form is several times
/// slower, and what it is there for, the order and the reading of the nodes, does not hang on many images.
pub const PLAIN_IMAGES: usize = 64;

/// What both runtimes are asked.
pub struct Probe {
    /// (n, C, H, W) row-major, normalised.
    x: Vec<f32>,
    /// How many images.
    pub n: usize,
    /// C, H, W.
    pub shape: [usize; 3],
}

impl Probe {
    /// At most `most` images, as many of each of the `sets` as there are, evenly spread over their order and so over their
    /// classes. The first set's shape is that of all.
    pub fn of(sets: &[&Images], preprocessing: &Preprocessing, most: usize) -> Self {
        let mut probe = Self { x: Vec::new(), n: 0, shape: sets.first().map_or([0; 3], |s| s.shape) };
        for (i, images) in sets.iter().enumerate() {
            // what a small set leaves over goes to those behind it
            let share = (most.max(1) - probe.n).div_ceil(sets.len() - i);
            let rows: Vec<usize> = spread(images.len(), share).collect();
            probe.x.extend(images.normalized(&rows, preprocessing));
            probe.n += rows.len();
        }
        probe
    }

    /// Noise where there are no images: pixels uniform in [0, 1], each image with its own brightness and contrast, then
    /// normalised. Always the same.
    pub fn random(shape: [usize; 3], preprocessing: &Preprocessing, n: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut x = Vec::with_capacity(n * shape.iter().product::<usize>());
        for _ in 0..n {
            let (low, high): (f32, f32) = (rng.random(), rng.random());
            let numel = shape.iter().product::<usize>();
            x.extend((0..numel).map(|_| low + (high - low) * rng.random::<f32>()));
        }
        preprocessing.normalize(&mut x, shape);
        Self { x, n, shape }
    }

    /// What the network gives in candle, through the layer where one is given: what the judge is held against.
    ///
    /// # Errors
    /// What candle refuses; [`Error::Interrupted`].
    pub fn answers(
        &self,
        network: &Reference<'_>,
        layer: Option<(&SitePlace, &Layer)>,
        context: Context,
    ) -> Result<Vec<Vec<f32>>> {
        let watch = Watch { stop: Some(context.stop), done: None };
        network.outputs(layer, &self.x, self.n, &watch)
    }
}

/// At most `most` of `count` places, evenly spread.
fn spread(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let n = most.min(count);
    (0..n).map(move |i| i * count / n)
}

/// A model that hardly knows its own images was shown them wrongly: training on them would ruin it.
///
/// # Errors
/// [`Error::Invalid`] about the folder.
pub fn knows_its_images(acc: f64, classes: usize, images: &Path) -> Result<()> {
    let chance = 100.0 / classes.max(1) as f64;
    // three times chance is out of reach for three classes or fewer: half the way from chance to all there
    let least = if classes > 3 { 3.0 * chance } else { (100.0 + chance) / 2.0 };
    if acc >= least {
        return Ok(());
    }
    let problem = format!(
        "the model answers {acc:.1} % of these images right, chance is {chance:.1} %: wrong preprocessing or class \
         order (--preset or --mean, --std; --classes)"
    );
    Err(Error::invalid(images.display(), problem))
}

/// Images that are asked about in another normalisation.
const ASKED: usize = 200;
/// So many points of accuracy more are no chance.
const CLEARLY: f64 = 10.0;

/// Where no normalisation is named, pixels go in as they are. A model that answers clearly more of its labelled images right
/// in that of a data set was not meant so: what would be trained, found or measured would be another model's.
///
/// # Errors
/// [`Error::Invalid`] that names the preset; what `answers` gives.
pub fn normalisation_was_meant(
    images: &Images,
    plain: &Preprocessing,
    folder: &Path,
    answers: impl Fn(&Images, &Preprocessing) -> Result<Vec<u32>>,
) -> Result<()> {
    if images.shape[0] != 3 || images.labels().len() != images.len() {
        return Ok(());
    }
    let some = images.select(&spread(images.len(), ASKED).collect::<Vec<_>>());
    let share = |preprocessing: &Preprocessing| -> Result<f64> {
        Ok(accuracy(&answers(&some, preprocessing)?, some.labels()).unwrap_or_default())
    };
    let as_it_is = share(plain)?;
    let mut best: Option<(f64, &str)> = None;
    for name in PRESETS {
        let Preprocessing { mean, std, .. } = Preprocessing::preset(name)?;
        if mean.iter().all(|m| *m == 0.0) {
            continue; // as they are
        }
        let acc = share(&Preprocessing { mean, std, ..plain.clone() })?;
        if acc > best.map_or(as_it_is + CLEARLY, |(acc, _)| acc) {
            best = Some((acc, name));
        }
    }
    let Some((acc, name)) = best else { return Ok(()) };
    let problem = format!(
        "the model answers {as_it_is:.1} % of these images right as they are, {acc:.1} % normalised as {name}: say \
         --preset or --mean and --std (0 and 1 for pixels as they are)"
    );
    Err(Error::invalid(folder.display(), problem))
}

/// Says, where images have no labels that could show it, that pixels go in as they are because nothing else was named.
///
/// # Errors
/// Standard error that cannot be written to.
pub fn note_that_pixels_go_in_as_they_are(context: Context) -> Result<()> {
    if context.quiet {
        return Ok(());
    }
    let note = "note: no --preset, --mean or --std: pixels go in as they are, 0 to 1; without labels nothing shows whether \
                that is right\n";
    std::io::stderr().write_all(note.as_bytes()).map_err(Error::internal)
}

/// The original through candle, which is `network`, against the original through tract, which is `judge`: `parity-original`.
///
/// # Errors
/// `Check` where they differ by more than the tolerance; what either runtime refuses.
pub fn original(
    network: &Reference<'_>,
    judge: &Judge,
    probe: &Probe,
    verification: &mut Verification,
    context: Context,
) -> Result<()> {
    original_against(&probe.answers(network, None, context)?, judge, probe, verification, context)
}

/// [`original`], with candle's answers as [`Probe::answers`] gave them.
///
/// # Errors
/// As there.
pub fn original_against(
    ours: &[Vec<f32>],
    judge: &Judge,
    probe: &Probe,
    verification: &mut Verification,
    context: Context,
) -> Result<()> {
    compare(ours, true, judge, probe, verification, context)
}

/// `purified`, read from its file, is `original` and the layer it declares, nothing else: `structure`.
///
/// # Errors
/// `Check` with the first difference.
pub fn structure(original: &Model, purified: &Model, verification: &mut Verification) -> Result<Declared> {
    let declared = structural_diff(original, purified)?;
    verification.structure = Some("as declared".to_owned());
    Ok(declared)
}

/// The rewritten file, read from disk by tract, against the original network, which is `network`, with `layer` in candle:
/// `parity-purified`.
///
/// # Errors
/// `Check` where they differ by more than the tolerance; what either runtime refuses.
pub fn purified(
    classifier: &Classifier,
    network: &Reference<'_>,
    path: &Path,
    layer: (&SitePlace, &Layer),
    probe: &Probe,
    verification: &mut Verification,
    context: Context,
) -> Result<()> {
    let ours = probe.answers(network, Some(layer), context)?;
    let judge = classifier.judge_of(path, probe.shape)?;
    purified_against(&ours, &judge, probe, verification, context)
}

/// [`purified`], with tract as [`Classifier::judge_of`] and candle's answers as [`Probe::answers`] gave them.
///
/// # Errors
/// As there.
pub fn purified_against(
    ours: &[Vec<f32>],
    judge: &Judge,
    probe: &Probe,
    verification: &mut Verification,
    context: Context,
) -> Result<()> {
    compare(ours, false, judge, probe, verification, context)
}

fn compare(
    ours: &[Vec<f32>],
    of_original: bool,
    judge: &Judge,
    probe: &Probe,
    verification: &mut Verification,
    context: Context,
) -> Result<()> {
    let check = if of_original { "parity-original" } else { "parity-purified" };
    let few: Vec<usize> = spread(probe.n, PLAIN_IMAGES).collect();
    let progress = Progress::new(check, probe.n + few.len(), context.quiet);
    let done = |n| progress.advance(n);
    let watch = Watch { stop: Some(context.stop), done: Some(&done) };
    let ask = |form, images: &[usize]| -> Result<Parity> {
        let numel = probe.shape.iter().product::<usize>();
        let x: Vec<f32> =
            images.iter().flat_map(|&i| &probe.x[i * numel..(i + 1) * numel]).copied().collect();
        let ours: Vec<Vec<f32>> = images.iter().filter_map(|&i| ours.get(i).cloned()).collect();
        let theirs = judge.logits_watched(form, &x, images.len(), &watch)?;
        parity::compare(&theirs, &ours, TOLERANCE)
    };
    let all: Vec<usize> = (0..probe.n).collect();
    // tract optimises on one thread: the others have the plain form to run
    let (fast, plain) = rayon::join(|| ask(Form::Optimised, &all), || ask(Form::Plain, &few));
    let trusted = matches!(&fast, Ok(fast) if fast.holds(TOLERANCE));
    let plain = if trusted { plain } else { ask(Form::Plain, &all) }?;
    verification.add(check, plain.images, plain.max_difference, plain.disagreements);
    plain.require(check, TOLERANCE)?;
    // The optimised form computes other roundings and is what most users of tract run. Where it already is wrong about
    // the original (two patterns are known) it is no judge; then the plain form stands alone.
    match fast {
        Ok(fast) if fast.holds(TOLERANCE) => {
            let name = format!("{check}-optimised");
            verification.add(&name, fast.images, fast.max_difference, fast.disagreements);
            Ok(())
        }
        Err(e) if e.exit_code() == 130 => Err(e),
        _ if of_original => {
            verification.optimised_distrusted = true;
            Ok(())
        }
        _ if verification.optimised_distrusted => Ok(()),
        Ok(fast) => fast.require("parity-purified-optimised", TOLERANCE),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Pixels;

    #[test]
    fn a_normalisation_that_fits_far_better_is_asked_for() {
        let images = Images {
            pixels: Pixels::U8(vec![0; 3 * 10]),
            shape: [3, 1, 1],
            labels: Some(vec![1; 10]),
            names: (0..10).map(|i| format!("{i}.png")).collect(),
        };
        let plain = Preprocessing::default();
        let asked = |right: &dyn Fn(&Preprocessing) -> bool| {
            normalisation_was_meant(&images, &plain, Path::new("dir"), |some, p| {
                Ok(vec![u32::from(right(p)); some.len()])
            })
        };
        let said = asked(&|p| p.mean[0] > 0.487 && p.mean[0] < 0.5).unwrap_err().to_string();
        assert!(said.starts_with("dir: ") && said.contains("100.0 % normalised as cifar10"), "{said}");
        assert!(
            asked(&|_| true).is_ok() && asked(&|_| false).is_ok() && asked(&|p| p.mean[0] == 0.0).is_ok()
        );
    }

    #[test]
    fn a_probe_takes_of_every_set() {
        // one grey pixel an image, its value the set's and its own number
        let set = |first: u8, n: u8| Images {
            pixels: Pixels::U8((first..first + n).collect()),
            shape: [1, 1, 1],
            labels: Some(vec![0; usize::from(n)]),
            names: (0..n).map(|i| format!("{i}.png")).collect(),
        };
        let taken = |sets: &[&Images], most| {
            let probe = Probe::of(sets, &Preprocessing::default(), most);
            assert_eq!(probe.x.len(), probe.n);
            probe.x.iter().map(|x| (x * 255.0).round() as u8).collect::<Vec<_>>()
        };
        let (many, few, last) = (set(0, 100), set(100, 2), set(200, 50));
        assert_eq!(taken(&[&many], 4), [0, 25, 50, 75]);
        // what the small set leaves over goes to the last
        assert_eq!(taken(&[&many, &few, &last], 9), [0, 33, 66, 100, 101, 200, 212, 225, 237]);
        assert_eq!(taken(&[&few], 256), [100, 101]);
    }
}
