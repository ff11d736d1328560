//! `polarizer scan`: finds classes that a backdoor may lead to.

use std::path::PathBuf;

use super::{
    Context,
    args::{PreprocessingArgs, TriggeredArgs},
    output, print,
    run::{self, AcceptedArgs, ChoiceArgs, Folders, OutputArgs, Paths, RunArgs, VerificationArgs},
    watcher::Watcher,
};
use crate::{
    onnx::Model,
    pipeline::{self, Job, finding},
    report::Report,
};

/// Find classes that a backdoor may lead to, using only clean images
#[derive(Debug, clap::Args)]
#[command(after_help = super::help::scan())]
pub struct Args {
    /// The ONNX file, or a folder with one
    #[arg(value_parser = super::args::model())]
    model: PathBuf,
    #[arg(long, value_name = "DIR", help = run::DATA)]
    data: PathBuf,
    /// Class names, one per line, in the order of the model's outputs; the default is the sorted class folders
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    #[arg(long, value_name = "FILE", help = run::LABELS)]
    labels: Option<PathBuf>,
    #[arg(long, value_name = "FILE", help = output::REPORT)]
    report: Option<PathBuf>,
    /// Fail with exit code 1 if a class has a higher robust z-score or an all-to-all backdoor is found
    #[arg(long, value_name = "Z-SCORE")]
    max_score: Option<f64>,
    #[command(flatten)]
    model_output: OutputArgs,
    #[command(flatten)]
    choice: ChoiceArgs,
    #[command(flatten)]
    accepted: AcceptedArgs,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    verification: VerificationArgs,
    #[command(flatten)]
    preprocessing: PreprocessingArgs,
}

pub fn run(args: &Args, context: Context) -> anyhow::Result<()> {
    if let Some(report) = &args.report {
        output::not_among(report, [&args.data])?;
    }
    let report_place = output::report_place(args.report.as_deref(), &[&args.model])?;
    let model = Model::read(&args.model)?;
    output::spare_weights(&model, args.report.as_deref())?;
    let none = TriggeredArgs::default();
    let paths = Paths {
        clean: Some(&args.data),
        classes: args.classes.as_ref(),
        labels: args.labels.as_ref(),
        ..Paths::default()
    };
    let folders = Folders::open(paths, &none)?;
    let job = args.accepted.accept(args.choice.limit(args.model_output.of(folders.job(
        &model,
        &args.model,
        &args.preprocessing,
    )?)));
    let job = Job { max_score: args.max_score, ..job };
    let mut outcome =
        pipeline::scan(&job, &args.verification.on(args.run.options(context))?, &mut Watcher::new(context))?;
    outcome.input.file = args.model.display().to_string();
    output::write_report(report_place, Report::Scan(&outcome))?;
    print(&output::text(Report::Scan(&outcome))?)?;
    Ok(finding::require_gates(&outcome.findings)?)
}
