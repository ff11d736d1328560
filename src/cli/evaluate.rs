//! `polarizer evaluate`: ACC, ASR and RA of a model.

use std::{path::PathBuf, time::Instant};

use super::{
    Context,
    args::{PreprocessingArgs, TriggeredArgs, class_order, reported},
    checks,
    classifier::Classifier,
    output, print,
    progress::Progress,
    versions::environment,
};
use crate::{
    Error,
    data::{Folder, Images, Preprocessing},
    report::{AsrStatus, Data, Evaluate, Measures, SCHEMA},
    verify::{
        Judge, Watch,
        evaluate::{accuracy, answers, attack},
    },
};

/// Behind the options.
const HELP: &str = "ACC: share of test images answered right. ASR: share of triggered images (true class other than the target) \
answered with the target. RA: share of these answered with their true class. All run through tract.";

/// Measure a model's accuracy and, given triggered images, its backdoor
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The ONNX file
    model: PathBuf,
    /// Test images, as DIR/<class>/<file>
    #[arg(long, value_name = "DIR")]
    test: PathBuf,
    /// Class names, one a line, in the order of the model's outputs; the default is the class folders, sorted
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Write a JSON report
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    triggered: TriggeredArgs,
    #[command(flatten)]
    preprocessing: PreprocessingArgs,
}

pub fn run(args: &Args, context: Context) -> anyhow::Result<()> {
    let started = Instant::now();
    if let Some(report) = &args.report {
        output::not_among(
            report,
            [Some(&args.test), args.triggered.triggered.as_ref()].into_iter().flatten(),
        )?;
    }
    let report_place = output::report_place(args.report.as_deref(), &[&args.model])?;
    let classifier = Classifier::read(&args.model)?;
    output::spare_weights(&classifier.model, args.report.as_deref())?;
    let preprocessing = args.preprocessing.preprocessing()?;
    let mut target = classifier.target(&preprocessing)?;

    let folder = Folder::clean(&args.test)?;
    if !folder.is_labelled() {
        let problem = "no class folders; accuracy is measured on DIR/<class>/<file>";
        return Err(Error::invalid(args.test.display(), problem).into());
    }
    let (classes, whence) = class_order(args.classes.as_deref(), &[Some(&folder)])?
        .ok_or_else(|| Error::internal("no class order"))?;
    let triggered = args.triggered.find(&classes)?;
    let test = folder.load(&classes, &target)?;
    target.size = Some([test.shape[1], test.shape[2]]);
    let attacked = match &triggered {
        Some((folder, _)) => Some(folder.load(&classes, &target)?),
        None => None,
    };
    let judge = classifier.judge(test.shape)?;
    classes.require_count(judge.outputs(), whence)?;

    if !args.preprocessing.normalises() {
        checks::normalisation_was_meant(&test, &preprocessing, &args.test, |some, p| {
            ask(&judge, some, p, "normalisation", context)
        })?;
    }
    let acc = accuracy(&ask(&judge, &test, &preprocessing, "test images", context)?, test.labels());
    let mut measures = Measures { acc, ..Measures::default() };
    let mut data = Data { test: test.len(), shape: test.shape, classes: classes.0, ..Data::default() };
    let target = triggered.map(|(_, target)| target);
    if let (Some(images), Some(target)) = (&attacked, &target) {
        let answers = ask(&judge, images, &preprocessing, "triggered images", context)?;
        let attack = attack(&answers, images.labels(), target.aim(data.classes.len()))
            .ok_or_else(|| only_target(&args.triggered, &target.name))?;
        measures = Measures { asr: Some(attack.asr), ra: Some(attack.ra), ..measures };
        data.triggered = attack.images;
    }
    let report = Evaluate {
        schema: SCHEMA,
        command: "evaluate".into(),
        input: classifier.file(),
        preprocessing: reported(&preprocessing),
        data,
        asr_status: if target.is_some() { AsrStatus::Measured } else { AsrStatus::Unknown },
        target,
        measures,
        seconds: started.elapsed().as_secs_f64(),
        environment: environment(),
    };
    output::write_report(report_place, &report)?;
    print(&report.summary())
}

/// The judge's answers, with progress.
pub fn ask(
    judge: &Judge,
    images: &Images,
    preprocessing: &Preprocessing,
    what: &str,
    context: Context,
) -> crate::Result<Vec<u32>> {
    with_progress(what, images, context, |watch| answers(judge, images, preprocessing, watch))
}

/// `run` over `images`, with progress.
pub fn with_progress<T>(what: &str, images: &Images, context: Context, run: impl FnOnce(&Watch) -> T) -> T {
    let progress = Progress::new(what, images.len(), context.quiet);
    let done = |n| progress.advance(n);
    run(&Watch { stop: Some(context.stop), done: Some(&done) })
}

/// Every triggered image is of the target class: there is nothing to measure.
pub fn only_target(args: &TriggeredArgs, target: &str) -> Error {
    let dir = args.triggered.clone().unwrap_or_default();
    Error::invalid(
        dir.display(),
        format!("every image is of the target class \"{target}\"; nothing to measure"),
    )
}
