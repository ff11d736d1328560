//! `polarizer revert`: restores the original from a purified file.

use std::path::PathBuf;

use super::{
    files::read,
    output::{place, spare_weights},
    print,
};
use crate::{base::digest::sha256, onnx::Model, rewrite};

/// Remove the layer: restores the original file byte for byte, checked by its SHA-256
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
    // a file with unreadable weights can still be reverted
    if let Ok(model) = Model::read(&args.purified) {
        spare_weights(&model, [args.output.as_path()])?;
    }
    let original = rewrite::revert(&read(&args.purified)?, &args.purified.display().to_string())?;
    let digest = sha256(&original);
    output.write(&original)?;
    print(&format!(
        "{}: the original, sha256 {digest}\na backdoor in the original's weights is back\n",
        args.output.display()
    ))
}
