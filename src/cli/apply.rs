//! `polarizer apply`: inserts a saved layer.

use std::path::PathBuf;

use super::{
    Context,
    args::PreprocessingArgs,
    files::read,
    output::{place, spare_weights},
    print,
    run::{Folders, OutputArgs, VerificationArgs},
    watcher::Watcher,
};
use crate::{
    error::printable,
    onnx::Model,
    pipeline::{self, RunOptions},
    rewrite::{self, LayerFile},
};

/// Insert a layer saved by `purify --save-polarizer` into the model it was trained for
#[derive(Debug, clap::Args)]
#[command(after_help = super::help::APPLY)]
pub struct Args {
    /// The ONNX file that the layer was trained for, or a folder with one
    #[arg(value_parser = super::args::model())]
    model: PathBuf,
    /// The saved layer
    #[arg(long, value_name = "FILE")]
    polarizer: PathBuf,
    /// The ONNX file to write
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Overwrite OUT
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    model_output: OutputArgs,
    #[command(flatten)]
    verification: VerificationArgs,
    #[command(flatten)]
    preprocessing: PreprocessingArgs,
}

pub fn run(args: &Args, context: Context) -> anyhow::Result<()> {
    let output = place(&args.output, &[&args.model, &args.polarizer], args.force)?;
    let model = Model::read(&args.model)?;
    spare_weights(&model, [args.output.as_path()])?;
    rewrite::check_beside(&model, &args.output)?;
    let layer = LayerFile::from_bytes(&read(&args.polarizer)?, &args.polarizer.display().to_string())?;
    let folders = Folders::default();
    let job = args.model_output.of(folders.job(&model, &args.model, &args.preprocessing)?);
    let options = args.verification.on(context.options())?;
    let options = RunOptions { staging: Some(output.dir().to_owned()), ..options };
    let applied = pipeline::apply(&job, &layer, &options, &mut Watcher::new(context))?;
    let verified = if applied.verification.is_verified() { "verified" } else { "NOT verified" };
    let (channels, site) = (applied.declared.layer.channels, applied.declared.provenance.site.clone());
    applied.save_to(output)?;
    print(&format!(
        "{}: layer of {channels} channels inserted at {}\nrewrite {verified}; backdoor removal NOT measured\n",
        args.output.display(),
        printable(&site)
    ))
}
