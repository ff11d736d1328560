//! `polarizer apply`: a saved layer put into the model it was trained for.

use std::path::PathBuf;

use candle_core::Device;

use super::{
    Context,
    args::PreprocessingArgs,
    checks,
    classifier::Classifier,
    files::read,
    output::{place, spare_weights},
    print,
};
use crate::{
    Error,
    error::printable,
    onnx::Model,
    report::Verification,
    rewrite::{self, LayerFile},
    verify::{TOLERANCE, reference::Reference},
};

/// Behind the options.
const HELP: &str =
    "The result is what `purify` wrote, byte for byte. It is checked as there, on noise instead of images.";

/// Insert a layer saved by `purify --save-polarizer` into the model it was trained for
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The ONNX file that the layer was trained for
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
    preprocessing: PreprocessingArgs,
}

pub fn run(args: &Args, context: Context) -> anyhow::Result<()> {
    let output = place(&args.output, &[&args.model, &args.polarizer], args.force)?;
    let classifier = Classifier::read(&args.model)?;
    spare_weights(&classifier.model, [args.output.as_path()])?;
    rewrite::check_beside(&classifier.model, &args.output)?;
    let layer = LayerFile::from_bytes(&read(&args.polarizer)?, &args.polarizer.display().to_string())?;
    let staged = output.stage(&rewrite::apply(&classifier.model, &layer)?)?;

    let mut verification = Verification::new(TOLERANCE);
    let declared = checks::structure(&classifier.model, &Model::read(staged.path())?, &mut verification)?;
    if declared.layer != layer.layer || declared.place != layer.place {
        return Err(
            Error::check("structure", "the written layer is not the one that was to be inserted").into()
        );
    }
    let probe = classifier.noise(&args.preprocessing.preprocessing()?, checks::IMAGES)?;
    let judge = classifier.judge(probe.shape)?;
    let network = Reference::new(&classifier.model, probe.shape, &Device::Cpu)?;
    checks::original(&network, &judge, &probe, &mut verification, context)?;
    let layer = (&declared.place, &declared.layer);
    checks::purified(&classifier, &network, staged.path(), layer, &probe, &mut verification, context)?;
    staged.commit()?;
    print(&format!(
        "{}: layer of {} channels inserted at {}\nrewrite verified; backdoor removal NOT measured\n",
        args.output.display(),
        declared.layer.channels,
        printable(&declared.provenance.site)
    ))
}
