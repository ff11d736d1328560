//! `polarizer revert`: the original back out of a purified file.

use std::path::PathBuf;

use super::{
    files::read,
    output::{place, spare_weights},
    print,
};
use crate::{base::digest::sha256, onnx::Model, rewrite};

/// Take the layer out again: the original file, byte for byte, proved by its SHA-256
#[derive(Debug, clap::Args)]
#[command(after_help = super::help::REVERT)]
pub struct Args {
    /// The ONNX file that `purify` or `apply` wrote
    purified: PathBuf,
    /// The ONNX file to write
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Overwrite OUT
    #[arg(long)]
    force: bool,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let output = place(&args.output, &[&args.purified], args.force)?;
    // a file whose weights cannot be read can be reverted all the same
    if let Ok(model) = Model::read(&args.purified) {
        spare_weights(&model, [args.output.as_path()])?;
    }
    let original = rewrite::revert(&read(&args.purified)?, &args.purified.display().to_string())?;
    let digest = sha256(&original);
    output.write(&original)?;
    print(&format!(
        "{}: the original, sha256 {digest}\nits weights hold whatever backdoor they held before\n",
        args.output.display()
    ))
}
