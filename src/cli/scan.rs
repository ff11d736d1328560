//! `polarizer scan`: which classes a backdoor may lead to, from clean images alone.

use std::path::PathBuf;

use super::{
    Context,
    args::{PreprocessingArgs, TriggeredArgs},
    output, print,
    run::{Folders, RunArgs},
    watcher::Watcher,
};
use crate::{
    onnx::Model,
    pipeline::{self, Job, finding},
    report::Report,
};

/// Behind the options.
const HELP: &str = "How far do changes of equal strength bring clean images towards each class? `values`: the values before \
the last layers, moved; `added`: one change added to all images; `bent`: one smooth displacement of all; `stamped`: one small \
block of all made white, black or chequered; `filtered`: fewer levels, with or without dithering, noise or blur on all. A trigger is a short way to its class: that class lies many spreads (1.4826 times the \
median distance from the median) nearer than the median one. Of the images 32 a class are taken, 320 in all. A class that stands out is a reason to purify, no proof; that none \
does is no proof either.";

/// Look for classes that a backdoor may lead to, with clean images alone
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The ONNX file
    model: PathBuf,
    /// Clean images, as DIR/<class>/<file>; or DIR/<file>, labelled by the model's own answers
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Class names, one a line, in the order of the model's outputs; the default is the class folders, sorted
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Write a JSON report
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Exit code 1 where a class has a higher score than this, or one small block scatters the answers (all to all)
    #[arg(long, value_name = "SPREADS")]
    max_score: Option<f64>,
    #[command(flatten)]
    run: RunArgs,
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
    let folders = Folders::open(Some(&args.data), None, &none, args.classes.as_ref())?;
    let job = Job { max_score: args.max_score, ..folders.job(&model, &args.preprocessing)? };
    let mut outcome = pipeline::scan(&job, &args.run.options(context), &mut Watcher::new(context))?;
    outcome.input.file = args.model.display().to_string();
    output::write_report(report_place, Report::Scan(&outcome))?;
    print(&output::text(Report::Scan(&outcome))?)?;
    Ok(finding::require_gates(&outcome.findings)?)
}
