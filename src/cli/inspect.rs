//! `polarizer inspect`: describes a model without running it.

use std::path::PathBuf;

use super::{output, print};
use crate::{onnx::Model, pipeline, report::Report};

/// Show a model's inputs, outputs, operators and possible sites of a layer
#[derive(Debug, clap::Args)]
#[command(after_help = super::help::INSPECT)]
pub struct Args {
    /// The ONNX file
    model: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Height and width of the input, if the model's are dynamic
    #[arg(long, value_name = "HxW", value_parser = crate::data::sides)]
    size: Option<[usize; 2]>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let model = Model::read(&args.model)?;
    let mut inspection = pipeline::inspect(&model, args.size);
    inspection.file = args.model.display().to_string();
    let report = Report::Inspection(&inspection);
    print(&if args.json { output::json(report) } else { output::text(report) }?)
}
