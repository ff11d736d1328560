//! The images of a run: reading, labelling, splitting, and checking their preprocessing against the model.

use super::{
    Job, RunOptions,
    classifier::Classifier,
    observer::Watcher,
    order::Order,
    outcome::{self, AccOn, Labels, Target},
};
use crate::{
    Error, Result,
    data::{Classes, Damaged, ImageSet, Preprocessing, Reading, Source, Split, choose, split},
    memory,
    network::Normalisation,
    verify::{Judge, evaluate::answers},
};

/// Resolves a job's target among `classes`.
///
/// # Errors
/// [`Error::Setting`] if there is no such class.
pub(super) fn target_of(text: &str, classes: &Classes) -> Result<Target> {
    match classes.find(text) {
        Ok(index) => Ok(Target {
            index: Some(index),
            name: classes.0.get(index as usize).cloned().unwrap_or_default(),
        }),
        Err(_) if text == "next" => Ok(Target { index: None, name: text.to_owned() }),
        Err(e) => Err(Error::setting("target", e)),
    }
}

/// # Errors
/// [`Error::Setting`] if the job does not have it.
pub(super) fn required<'a>(source: Option<&'a dyn Source>, field: &'static str) -> Result<&'a dyn Source> {
    source.ok_or_else(|| Error::setting(field, "is required"))
}

/// # Errors
/// Test images without labels.
pub(super) fn require_labels(test: &dyn Source) -> Result<()> {
    if test.is_labelled() {
        return Ok(());
    }
    Err(Error::invalid(test.name(), "no class folders; measuring accuracy requires DIR/<class>/<file>"))
}

/// Error for triggered images that are all of the target class.
pub(super) fn only_target(triggered: &str, target: &str) -> Error {
    Error::invalid(
        triggered,
        format!("every image is of the target class \"{target}\", so that there is nothing to measure"),
    )
}

/// Reads the sets of images of a run within its memory.
pub(super) struct Reader<'r, 'w> {
    job: &'r Job<'r>,
    watcher: &'r Watcher<'w>,
    /// Bytes of decoded images that may still be kept.
    keep: usize,
}

/// Share of the memory limit that decoded images may take: the rest is for the network and its values.
const KEPT_SHARE: usize = 16;

impl<'r, 'w> Reader<'r, 'w> {
    pub fn new(job: &'r Job<'r>, run: &RunOptions, watcher: &'r Watcher<'w>) -> Self {
        Self { job, watcher, keep: run.allowed_memory() / KEPT_SHARE }
    }

    /// Reads all images of `set` once, as the part `part`, and keeps them if they fit. Damaged images are left out and
    /// returned if the job allows it.
    ///
    /// # Errors
    /// Damaged images, all of them named; [`Error::Interrupted`].
    pub fn read(&mut self, set: &mut ImageSet<'_>, part: &str) -> Result<Vec<Damaged>> {
        let keep = self.reserve(set.bytes());
        self.watcher.part(part, set.len(), |watch| {
            let progress = |done: usize| {
                watch.check()?;
                watch.advance(done);
                Ok(())
            };
            set.read(&Reading { keep, skip: self.job.skip_unreadable, progress: &progress })
        })
    }

    /// The bytes, if they may be kept, else 0.
    fn reserve(&mut self, bytes: usize) -> usize {
        let Some(rest) = self.keep.checked_sub(bytes) else { return 0 };
        self.keep = rest;
        bytes
    }
}

/// Checks that the decoded `images` fit into what the run may use, before they are decoded into memory.
///
/// # Errors
/// [`Error::Setting`] about the memory.
pub(super) fn require_memory(images: &ImageSet<'_>, run: &RunOptions) -> Result<()> {
    let (needed, allowed) = (images.bytes(), run.allowed_memory());
    let now = memory::resident().unwrap_or_default();
    if now.saturating_add(needed) <= allowed {
        return Ok(());
    }
    let [_, h, w] = images.shape();
    let problem = format!(
        "{} images of {h}x{w} take {}, but {} of {} are in use: set `max_images` or `per_class`, or raise the limit",
        images.len(),
        memory::size(needed),
        memory::size(now),
        memory::size(allowed)
    );
    Err(Error::setting("memory", problem))
}

/// The images of `set` that the job's limits leave.
pub(super) fn chosen<'a>(job: &Job<'_>, set: ImageSet<'a>) -> ImageSet<'a> {
    if job.max_images.is_none() && job.per_class.is_none() {
        return set;
    }
    let labels = set.is_labelled().then(|| set.labels());
    set.select(&choose(labels, set.len(), job.max_images, job.per_class, job.settings.seed))
}

/// Triggered images.
pub(super) struct Triggered<'a> {
    /// Name of their source in messages.
    pub name: String,
    pub images: ImageSet<'a>,
    pub target: Target,
}

/// The images of a purification.
pub(super) struct LoadedImages<'a> {
    pub clean: ImageSet<'a>,
    /// Name of the clean images in messages.
    pub name: String,
    pub labels: Labels,
    pub split: Split,
    pub test: Option<ImageSet<'a>>,
    pub triggered: Option<Triggered<'a>>,
    pub order: Order,
    pub preprocessing: Preprocessing,
    /// Damaged images that were left out.
    pub skipped: Vec<Damaged>,
}

impl<'a> LoadedImages<'a> {
    /// Lists all sources of the job, chooses and splits the images, and reads each once; in parallel the judge of the
    /// original, which knows the number of classes.
    ///
    /// # Errors
    /// Errors of a source; classes, labels or a target that do not match the model.
    pub fn load(
        job: &'a Job<'a>,
        run: &RunOptions,
        classifier: &Classifier<'a>,
        watcher: &Watcher<'_>,
    ) -> Result<(Self, Judge<'a>)> {
        let mut data = Self::list(job, classifier)?;
        let mut reader = Reader::new(job, run, watcher);
        let shape = data.clean.shape();
        let (judge, read) = rayon::join(|| classifier.judge(shape, run.judge), || data.read(&mut reader));
        let judge = judge?;
        data.order.require_count(judge.outputs())?;
        read?;
        let triggered = data.triggered.as_ref().map(|triggered| &triggered.images);
        for set in [Some(&data.clean), data.test.as_ref(), triggered].into_iter().flatten() {
            set.require_labels(judge.outputs())?;
        }
        Ok((data, judge))
    }

    /// Everything that is known without decoding more than one image.
    fn list(job: &'a Job<'a>, classifier: &Classifier<'_>) -> Result<Self> {
        let preprocessing = job.preprocessing.clone();
        let mut target = classifier.target(&preprocessing)?;
        let source = required(job.images, "images")?;
        job.test.map_or(Ok(()), require_labels)?;
        let order = Order::of(job, &[Some(source), job.test]);
        if job.triggered.is_some() && order.classes.is_empty() {
            let problem = "requires a class order: give `classes`, or class folders in `images` or `test`";
            return Err(Error::setting("triggered", problem));
        }
        let wanted = job.triggered.as_ref().map(|t| target_of(&t.target, &order.classes)).transpose()?;
        let clean = chosen(job, ImageSet::open(source, &order.classes, &target)?);
        target.size = clean.target().size;
        let open = |source| ImageSet::open(source, &order.classes, &target);
        let test = job.test.map(open).transpose()?;
        let triggered = job.triggered.as_ref().map(|t| open(t.images)).transpose()?;
        let triggered = triggered.zip(wanted).zip(job.triggered.as_ref());
        let triggered =
            triggered.map(|((images, target), t)| Triggered { name: t.images.name(), images, target });
        if let Some(Triggered { name, images, target }) = &triggered
            && images.labels().iter().all(|l| target.aim(order.classes.len()).of(*l).is_none())
        {
            return Err(only_target(name, &target.name));
        }
        let labels = if clean.is_labelled() { Labels::Folders } else { Labels::Model };
        let mut data = Self {
            clean,
            name: source.name(),
            labels,
            split: Split::default(),
            test,
            triggered,
            order,
            preprocessing,
            skipped: Vec::new(),
        };
        if labels == Labels::Folders {
            data.split = split(data.clean.labels(), holdout(job), job.settings.seed)?;
        }
        Ok(data)
    }

    /// Reads each image once. The split stays that of all listed images.
    fn read(&mut self, reader: &mut Reader<'_, '_>) -> Result<()> {
        let damaged = reader.read(&mut self.clean, "clean images")?;
        self.split.leave_out(&damaged.iter().map(|one| one.at).collect::<Vec<_>>());
        self.skipped = damaged;
        if let Some(test) = &mut self.test {
            self.skipped.extend(reader.read(test, "test images")?);
        }
        if let Some(triggered) = &mut self.triggered {
            self.skipped.extend(reader.read(&mut triggered.images, "triggered images")?);
        }
        Ok(())
    }

    /// Labels unlabelled images with the model's predictions, and splits the images.
    ///
    /// # Errors
    /// Errors of the judge; a model that predicts the same class for all images.
    pub fn label(&mut self, job: &Job<'_>, judge: &Judge, watcher: &Watcher<'_>) -> Result<()> {
        if self.labels == Labels::Model {
            self.clean.label(ask(judge, &self.clean, &self.preprocessing, "labels", watcher)?);
            let first = self.clean.labels().first();
            if self.clean.labels().iter().all(|l| Some(l) == first) {
                let problem =
                    "the model predicts the same class for every image, but at least two classes are needed";
                return Err(Error::invalid(&self.name, problem));
            }
            self.split = split(self.clean.labels(), self.holdout(job), job.settings.seed)?;
        }
        Ok(())
    }

    /// Share of held-out images; 0 without labels, since nothing could be measured on them.
    pub fn holdout(&self, job: &Job<'_>) -> f64 {
        if self.labels == Labels::Model { 0.0 } else { holdout(job) }
    }

    /// All sets of images.
    pub fn sets(&self) -> Vec<&ImageSet<'a>> {
        let triggered = self.triggered.as_ref().map(|t| &t.images);
        std::iter::once(&self.clean).chain(&self.test).chain(triggered).collect()
    }

    pub fn acc_on(&self) -> Option<AccOn> {
        match (&self.test, self.labels) {
            (Some(_), _) => Some(AccOn::Test),
            (None, Labels::Folders) if !self.split.held_out.is_empty() => Some(AccOn::HeldOut),
            _ => None,
        }
    }

    /// Preprocessing entries of the file's provenance: every part, with the size that it came to.
    pub fn pairs(&self) -> Vec<(String, String)> {
        let [_, h, w] = self.clean.shape();
        let text = |name: &str, text: String| if name == "size" { format!("{h}x{w}") } else { text };
        self.preprocessing
            .parts()
            .map(|(piece, shown, _)| (piece.name.into(), text(piece.name, shown)))
            .collect()
    }

    pub fn counts(&self, triggered: usize) -> outcome::DataSummary {
        outcome::DataSummary {
            train: self.split.train.len(),
            held_out: self.split.held_out.len(),
            test: self.test.as_ref().map_or(0, ImageSet::len),
            triggered,
            shape: self.clean.shape(),
            classes: self.order.classes.0.clone(),
        }
    }
}

/// Share of labelled images to hold out.
pub(super) fn holdout(job: &Job<'_>) -> f64 {
    job.holdout.unwrap_or_else(|| job.recipe.holdout())
}

/// Mean and standard deviation for each of `channels`, as network input.
pub(super) fn normalisation(preprocessing: &Preprocessing, channels: usize) -> Normalisation {
    Normalisation {
        mean: (0..channels).map(|c| preprocessing.mean_of(c)).collect(),
        std: (0..channels).map(|c| preprocessing.std_of(c)).collect(),
    }
}

/// The judge's predictions, with progress.
///
/// # Errors
/// Errors of the judge; [`Error::Interrupted`].
pub(super) fn ask(
    judge: &Judge,
    images: &ImageSet<'_>,
    preprocessing: &Preprocessing,
    part: &str,
    watcher: &Watcher<'_>,
) -> Result<Vec<u32>> {
    watcher.part(part, images.len(), |watch| answers(judge, images, preprocessing, watch))
}

/// Checks that the model's accuracy is well above chance: otherwise the preprocessing or class order is wrong, and
/// training would ruin the model.
///
/// # Errors
/// [`Error::Input`] about the images.
pub(super) fn knows_its_images(acc: f64, classes: usize, images: &str) -> Result<()> {
    let chance = 100.0 / classes.max(1) as f64;
    // three times chance is impossible for up to three classes: use the middle between chance and 100 % there
    let least = if classes > 3 { 3.0 * chance } else { (100.0 + chance) / 2.0 };
    if acc >= least {
        return Ok(());
    }
    let problem = format!(
        "the model classifies {acc:.1} % of these images correctly, chance is {chance:.1} %: check the preprocessing \
         (`preset`, or `mean` and `std`) and the class order (`classes`)"
    );
    Err(Error::invalid(images, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_hardly_knows_its_images_is_refused() {
        assert!(knows_its_images(31.0, 10, "dir").is_ok());
        assert!(
            knows_its_images(29.0, 10, "dir")
                .unwrap_err()
                .to_string()
                .starts_with("dir: the model classifies")
        );
        assert!(knows_its_images(70.0, 2, "dir").is_err() && knows_its_images(76.0, 2, "dir").is_ok());
    }
}
