//! Measures ACC, ASR and RA of a model with the judge.

use super::{
    Job, RunOptions,
    check::Check,
    classifier::Classifier,
    clock::Clock,
    environment::environment,
    findings,
    images::{Reader, ask, only_target, require_labels, required, target_of},
    observer::{Observer, Watcher},
    order::Order,
    outcome::{AsrStatus, DataSummary, Evaluation, Labels, Measures, SCHEMA},
};
use crate::{
    Result,
    data::ImageSet,
    verify::evaluate::{accuracy, attack},
};

/// Measures the job's model on its test images and, if given, its triggered images. All images run through the judge.
///
/// # Errors
/// Invalid settings or inputs; [`crate::Error::Interrupted`].
pub fn evaluate(job: &Job<'_>, run: &RunOptions, observer: &mut dyn Observer) -> Result<Evaluation> {
    let clock = Clock::new();
    let mut classifier = Classifier::of(job)?;
    let watcher = Watcher::new(observer);
    let job = &classifier.job(job)?;
    run.install(|| measured(job, run, &classifier, clock, &watcher))
}

fn measured(
    job: &Job<'_>,
    run: &RunOptions,
    classifier: &Classifier<'_>,
    clock: Clock,
    watcher: &Watcher<'_>,
) -> Result<Evaluation> {
    let mut target = classifier.target(&job.preprocessing)?;
    let source = required(job.test, "test")?;
    require_labels(source)?;
    let order = Order::of(job, &[Some(source)]);
    let wanted = job.triggered.as_ref().map(|t| target_of(&t.target, &order.classes)).transpose()?;
    let mut test = ImageSet::open(source, &order.classes, &target)?;
    target.size = test.target().size;
    let triggered = job.triggered.as_ref().map(|t| ImageSet::open(t.images, &order.classes, &target));
    let mut triggered = triggered.transpose()?;
    let mut reader = Reader::new(job, run, watcher);
    let shape = test.shape();
    let read = || -> Result<_> {
        let mut skipped = reader.read(&mut test, "test images")?;
        if let Some(triggered) = &mut triggered {
            skipped.extend(reader.read(triggered, "triggered images")?);
        }
        Ok(skipped)
    };
    let (judge, skipped) = rayon::join(|| classifier.judge(shape, run.judge), read);
    let judge = judge?;
    // the one that was asked for
    let judge = judge.all().last().unwrap_or(&judge);
    order.require_count(judge.outputs())?;
    let skipped = skipped?;
    for set in [Some(&test), triggered.as_ref()].into_iter().flatten() {
        set.require_labels(judge.outputs())?;
    }
    let name = source.name();
    let check = Check { judge, job, order: &order, name: &name, watcher };
    let mut findings = check.run(&test, Labels::Folders)?;
    findings.extend(findings::skipped(&skipped));

    let answers = ask(judge, &test, &job.preprocessing, "test images", watcher)?;
    let mut measures = Measures { acc: accuracy(&answers, test.labels()), ..Measures::default() };
    let mut data = DataSummary {
        test: test.len(),
        shape: test.shape(),
        classes: order.classes.0,
        ..DataSummary::default()
    };
    if let (Some(images), Some(target), Some(source)) = (&triggered, &wanted, &job.triggered) {
        let answers = ask(judge, images, &job.preprocessing, "triggered images", watcher)?;
        let attack = attack(&answers, images.labels(), target.aim(judge.outputs()))
            .ok_or_else(|| only_target(&source.images.name(), &target.name))?;
        measures = Measures { asr: Some(attack.asr), ra: Some(attack.ra), ..measures };
        data.triggered = attack.images;
    }
    findings.extend(findings::of_judge(judge));
    Ok(Evaluation {
        schema: SCHEMA,
        command: "evaluate".into(),
        input: classifier.file(),
        model_output: classifier.scores(shape)?.into(),
        preprocessing: (&job.preprocessing).into(),
        data,
        asr_status: if wanted.is_some() { AsrStatus::Measured } else { AsrStatus::Unknown },
        target: wanted,
        measures,
        judge: judge.name().to_owned(),
        seconds: clock.seconds(),
        environment: environment(),
        findings,
    })
}
