//! Scan: finds classes that a backdoor may lead to, using only clean images.

use super::{
    Job, RunOptions,
    check::Check,
    check_settings,
    classifier::Classifier,
    clock::Clock,
    environment::environment,
    findings,
    images::{Reader, ask, chosen, knows_its_images, normalisation, require_memory, required},
    observer::{Observer, Watcher},
    order::Order,
    outcome::{Calibration, DataSummary, Labels, SCHEMA, ScanOutcome, Verification},
    probe::{IMAGES, Probe},
    proof::Comparison,
};
use crate::{
    Error, Result,
    base::rows::evenly,
    data::{Damaged, ImageSet},
    device::Place,
    network::{Options, Samples, Subject},
    scan::{
        Findings, Scanner, calibration,
        settings::{IN_ALL, images_a_class},
    },
    site,
    verify::{Judge, TOLERANCE, pieces::Claim, reference::Reference},
};

/// Measures how close each class of the job's model is to changes of equal strength, on the job's clean images, after
/// checking the original against the judge. Failed gates are findings of severity error:
/// [`super::finding::require_gates`].
///
/// # Errors
/// Invalid settings or inputs; [`Error::Check`] if the two runtimes disagree; [`Error::Interrupted`].
pub fn scan(job: &Job<'_>, run: &RunOptions, observer: &mut dyn Observer) -> Result<ScanOutcome> {
    let clock = Clock::new();
    check_settings(job)?;
    let place = Place::open(run.device)?;
    let mut classifier = Classifier::of(job)?;
    let watcher = Watcher::new(observer);
    let job = &classifier.job(job)?;
    run.install(|| ScanRun { job, run, place: &place, classifier: &classifier, watcher: &watcher }.run(clock))
}

struct ScanRun<'s, 'a> {
    job: &'s Job<'s>,
    run: &'s RunOptions,
    place: &'s Place,
    classifier: &'s Classifier<'a>,
    watcher: &'s Watcher<'s>,
}

/// The scanned images.
struct Looked<'a> {
    images: ImageSet<'a>,
    name: String,
    labels: Labels,
    order: Order,
    skipped: Vec<Damaged>,
}

impl<'s, 'a> ScanRun<'s, 'a> {
    fn run(&self, clock: Clock) -> Result<ScanOutcome> {
        let (looked, judge) = self.load()?;
        let Looked { images, name, labels, order, skipped } = looked;
        let check = Check { judge: &judge, job: self.job, order: &order, name: &name, watcher: self.watcher };
        let mut noted = check.run(&images, labels)?;
        noted.extend(findings::skipped(&skipped));
        let classes = order.classes.0;
        let mut verification = Verification::new(TOLERANCE);
        let probe = Probe::of(&[&images], &self.job.preprocessing, IMAGES)?;
        let network = self.classifier.network(self.classifier.model, images.shape(), self.place.device())?;
        let ours = self.watcher.part("answers", probe.n, |watch| probe.answers(&network, None, watch))?;
        let claim = Claim { file: self.classifier.model, network: &network, layer: None };
        let bundle = self.run.bundle.as_deref();
        Comparison { claim, ours: &ours, judge: &judge, probe: &probe, bundle, watcher: self.watcher }
            .prove(&mut verification)?;
        drop(judge);

        let site = site::watched(self.classifier.model, network.graph())?;
        let (acc, measured) = self.measure(&network, &site, &images)?;
        let (calibration, not_calibrated) = calibrated(&measured);
        if labels == Labels::Folders {
            knows_its_images(acc, classes.len(), &name)?;
        }
        let data =
            DataSummary { train: images.len(), shape: images.shape(), classes, ..DataSummary::default() };
        let mut outcome = ScanOutcome {
            schema: SCHEMA,
            command: "scan".into(),
            input: self.classifier.file(),
            model_output: self.classifier.scores(images.shape())?.into(),
            site: site.text,
            preprocessing: (&self.job.preprocessing).into(),
            labels,
            data,
            acc,
            stands_out: measured.standing_out(),
            stands_out_from: calibration::STANDS_OUT,
            ways: measured.by_name(),
            calibration,
            not_calibrated,
            scattered: 100.0 * measured.scattered(),
            all_to_all: measured.all_to_all(),
            scatters_from: 100.0 * Findings::SCATTERS,
            scores: measured.scores.clone(),
            verification,
            seconds: clock.seconds(),
            device: self.place.name(),
            environment: environment(),
            findings: noted,
        };
        outcome.findings.extend(findings::of_scan(&outcome, self.job.max_score));
        Ok(outcome)
    }

    /// An even selection of the images, labelled, and the judge of the original.
    fn load(&self) -> Result<(Looked<'s>, Judge<'a>)> {
        let (job, preprocessing) = (self.job, &self.job.preprocessing);
        let target = self.classifier.target(preprocessing)?;
        let source = required(job.images, "images")?;
        let order = Order::of(job, &[Some(source)]);
        let images = chosen(job, ImageSet::open(source, &order.classes, &target)?);
        let (rows, labels) = match images.is_labelled() {
            true => (some(images.labels()), Labels::Folders),
            false => (evenly(images.len(), IN_ALL).collect(), Labels::Model),
        };
        let mut images = images.select(&rows);
        let shape = images.shape();
        let read = || Reader::new(job, self.run, self.watcher).read(&mut images, "clean images");
        let (judge, skipped) = rayon::join(|| self.classifier.judge(shape, self.run.judge), read);
        let judge = judge?;
        order.require_count(judge.outputs())?;
        self.require_classes(judge.outputs())?;
        let skipped = skipped?;
        images.require_labels(judge.outputs())?;
        if labels == Labels::Model {
            images.label(ask(&judge, &images, preprocessing, "labels", self.watcher)?);
        }
        Ok((Looked { images, name: source.name(), labels, order, skipped }, judge))
    }

    /// # Errors
    /// [`Error::Setting`] if a gate is set for a model with too few classes.
    fn require_classes(&self, outputs: usize) -> Result<()> {
        if self.job.max_score.is_none() || outputs >= calibration::LEAST_CLASSES {
            return Ok(());
        }
        let least = calibration::LEAST_CLASSES;
        let problem = format!("the model has {outputs} classes, but scores need at least {least}");
        Err(Error::setting("max_score", problem))
    }

    /// Accuracy on the images in percent, and the scan's findings.
    fn measure(
        &self,
        network: &Reference<'_>,
        site: &site::Site,
        images: &ImageSet<'_>,
    ) -> Result<(f64, Findings)> {
        require_memory(images, self.run)?;
        let pixels = images.raw(&(0..images.len()).collect::<Vec<_>>())?;
        let mut told = self.watcher.training();
        let subject = Subject {
            model: self.classifier.model,
            lowered: Some(network.graph().clone()),
            place: site.place.clone(),
            image: images.shape(),
            normalisation: normalisation(&self.job.preprocessing, images.shape()[0]),
            clean: Samples { pixels: &pixels, labels: Some(images.labels()) },
            held_out: None,
        };
        let options = Options { memory: self.run.memory, profile: false, place: self.place.clone() };
        let scanner = Scanner::prepare(subject, &options, &mut told)?;
        Ok((scanner.original_accuracy(), scanner.scan(&mut told)?))
    }
}

/// Compares the highest score, measured at the default site, with those of the reference networks; or the reason why it
/// cannot be compared.
fn calibrated(measured: &Findings) -> (Calibration, Option<String>) {
    if !measured.is_measurable() {
        return (Calibration::default(), None);
    }
    let applies = match calibration::Calibration::table() {
        Some(table) => table.applies(measured, calibration::SITE_RULE).map_err(|why| why.to_string()),
        None => Err("the table of the reference networks cannot be read".to_owned()),
    };
    match applies {
        Ok(()) => (Calibration::of(measured.most()), None),
        Err(why) => (Calibration::default(), Some(why)),
    }
}

/// Rows of at most [`images_a_class`] images per class, evenly spread.
fn some(labels: &[u32]) -> Vec<usize> {
    let classes = labels.iter().max().map_or(1, |l| *l as usize + 1);
    let most = images_a_class(classes);
    let mut rows = Vec::new();
    for class in 0..classes {
        let own: Vec<usize> = (0..labels.len()).filter(|&i| labels[i] as usize == class).collect();
        rows.extend(evenly(own.len(), most).map(|i| own[i]));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{WAYS, samples};

    #[test]
    fn scores_are_held_against_the_reference_networks_only_under_their_conditions() {
        let even: Vec<f64> = (0..43).map(|i| f64::from(i % 3)).collect();
        let of = |classes: usize| -> Findings {
            let margins: Vec<(&str, &[f64])> =
                WAYS.iter().map(|way| (way.name(), &even[..classes])).collect();
            samples::of(&margins)
        };
        let (calibration, why) = calibrated(&of(10));
        assert!(calibration.networks > 0 && why.is_none(), "{why:?}");
        let (calibration, why) = calibrated(&of(43));
        assert_eq!(calibration, Calibration::default());
        assert!(why.unwrap().contains("this one has 43"));
        // too few classes are a finding of their own
        assert_eq!(calibrated(&of(4)), (Calibration::default(), None));
    }

    #[test]
    fn as_many_images_of_each_class_as_there_are() {
        let labels: Vec<u32> = (0..1000).map(|i| if i < 900 { 0 } else { 1 + i % 9 }).collect();
        let rows = some(&labels);
        let of = |class: u32| rows.iter().filter(|&&r| labels[r] == class).count();
        assert_eq!((of(0), of(1)), (32, 12));
        assert!(some(&[]).is_empty() && some(&[3]) == [0]);
        let many: Vec<u32> = (0..3000).map(|i| i % 1000).collect();
        assert_eq!(some(&many).len(), 2000);
    }
}
