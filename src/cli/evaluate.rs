//! `polarizer evaluate`: measures ACC, ASR and RA of a model.

use std::path::PathBuf;

use super::{
    Context,
    args::{PreprocessingArgs, TriggeredArgs},
    output, print,
    run::{self, AcceptedArgs, Folders, JudgeArgs, OutputArgs, Paths},
    watcher::Watcher,
};
use crate::{onnx::Model, pipeline, report::Report};

/// Measure a model's accuracy and, given triggered images, its backdoor
#[derive(Debug, clap::Args)]
#[command(after_help = super::help::EVALUATE)]
pub struct Args {
    /// The ONNX file, or a folder with one
    #[arg(value_parser = super::args::model())]
    model: PathBuf,
    /// Test images, as DIR/<class>/<file>
    #[arg(long, value_name = "DIR")]
    test: PathBuf,
    /// Class names, one per line, in the order of the model's outputs; the default is the sorted class folders
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    #[arg(long, value_name = "FILE", help = run::LABELS)]
    labels: Option<PathBuf>,
    #[arg(long, value_name = "FILE", help = output::REPORT)]
    report: Option<PathBuf>,
    #[command(flatten)]
    model_output: OutputArgs,
    #[command(flatten)]
    accepted: AcceptedArgs,
    #[command(flatten)]
    triggered: TriggeredArgs,
    #[command(flatten)]
    judge: JudgeArgs,
    #[command(flatten)]
    preprocessing: PreprocessingArgs,
}

pub fn run(args: &Args, context: Context) -> anyhow::Result<()> {
    if let Some(report) = &args.report {
        output::not_among(report, [Some(&args.test), args.triggered.folder()].into_iter().flatten())?;
    }
    let report_place = output::report_place(args.report.as_deref(), &[&args.model])?;
    let model = Model::read(&args.model)?;
    output::spare_weights(&model, args.report.as_deref())?;
    let paths = Paths {
        test: Some(&args.test),
        classes: args.classes.as_ref(),
        labels: args.labels.as_ref(),
        ..Paths::default()
    };
    let folders = Folders::open(paths, &args.triggered)?;
    let job =
        args.accepted.accept(args.model_output.of(folders.job(&model, &args.model, &args.preprocessing)?));
    let mut outcome =
        pipeline::evaluate(&job, &args.judge.on(context.options()), &mut Watcher::new(context))?;
    folders.save_triggered(&outcome.data.classes)?;
    outcome.input.file = args.model.display().to_string();
    output::write_report(report_place, Report::Evaluation(&outcome))?;
    print(&output::text(Report::Evaluation(&outcome))?)
}
