//! `polarizer inspect`: describes a model without running it, or shows what it is fed.

use std::path::PathBuf;

use super::{
    Context,
    args::{PreprocessingArgs, TriggeredArgs},
    output, print,
    run::{self, Folders, OutputArgs, Paths},
    watcher::Watcher,
};
use crate::{
    onnx::Model,
    pipeline,
    report::{self, Report},
};

/// Show a model's inputs, outputs, operators and possible sites of a layer
#[derive(Debug, clap::Args)]
#[command(after_help = super::help::INSPECT)]
pub struct Args {
    /// The ONNX file, or a folder with one
    #[arg(value_parser = super::args::model())]
    model: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[arg(long, value_name = "DIR", requires = "contact_sheet", help = run::DATA)]
    data: Option<PathBuf>,
    /// Write a PNG picture of what the model is fed: up to 48 images of --data after preprocessing, with their labels and
    /// the model's answers
    #[arg(long, value_name = "FILE", requires = "data")]
    contact_sheet: Option<PathBuf>,
    /// Overwrite the contact sheet
    #[arg(long, requires = "contact_sheet")]
    force: bool,
    /// Class names, one per line, in the order of the model's outputs; the default is the sorted class folders
    #[arg(long, value_name = "FILE", requires = "data")]
    classes: Option<PathBuf>,
    #[command(flatten)]
    model_output: OutputArgs,
    #[command(flatten)]
    preprocessing: PreprocessingArgs,
}

pub fn run(args: &Args, context: Context) -> anyhow::Result<()> {
    let place = match &args.contact_sheet {
        Some(path) => {
            output::not_among(path, args.data.iter())?;
            Some(output::place(path, &[&args.model], args.force)?)
        }
        None => None,
    };
    let model = Model::read(&args.model)?;
    output::spare_weights(&model, args.contact_sheet.as_deref())?;
    let mut inspection =
        pipeline::inspect(&model, args.preprocessing.preprocessing()?.size, args.model_output.name());
    inspection.file = args.model.display().to_string();
    if let Some(place) = place {
        let paths = Paths { clean: args.data.as_deref(), classes: args.classes.as_ref(), ..Paths::default() };
        let folders = Folders::open(paths, &TriggeredArgs::default())?;
        let job = args.model_output.of(folders.job(&model, &args.model, &args.preprocessing)?);
        let sheet = pipeline::sheet(&job, &context.options(), &mut Watcher::new(context))?;
        place.write(&report::contact_sheet(&sheet)?)?;
    }
    let report = Report::Inspection(&inspection);
    print(&if args.json { output::json(report) } else { output::text(report) }?)
}
