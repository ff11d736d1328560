//! `polarizer verify`: checks that a purified file is the original plus one layer and that two runtimes agree.

use std::{fmt::Write as _, path::PathBuf};

use super::{
    Context,
    args::{PreprocessingArgs, TriggeredArgs},
    print,
    run::{Folders, OutputArgs, Paths, VerificationArgs},
    watcher::Watcher,
};
use crate::{
    error::printable,
    onnx::Model,
    pipeline::{self, Verified},
    report::grouped,
};

/// Check that a purified file is the original plus the layer it declares
#[derive(Debug, clap::Args)]
#[command(after_help = super::help::VERIFY)]
pub struct Args {
    /// The original ONNX file, or a folder with one
    #[arg(value_parser = super::args::model())]
    original: PathBuf,
    /// The ONNX file that `purify` or `apply` wrote
    purified: PathBuf,
    /// Images to compare the runtimes on; labels are not needed
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// At most this many images, evenly spread
    #[arg(long, value_name = "N", default_value_t = pipeline::IMAGES,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    images: usize,
    #[command(flatten)]
    model_output: OutputArgs,
    #[command(flatten)]
    verification: VerificationArgs,
    #[command(flatten)]
    preprocessing: PreprocessingArgs,
}

pub fn run(args: &Args, context: Context) -> anyhow::Result<()> {
    let model = Model::read(&args.original)?;
    let folders =
        Folders::open(Paths { clean: args.data.as_deref(), ..Paths::default() }, &TriggeredArgs::default())?;
    let job = args.model_output.of(folders.job(&model, &args.original, &args.preprocessing)?);
    let mut watcher = Watcher::new(context);
    let verified = pipeline::verify(
        &job,
        &args.purified,
        args.images,
        &args.verification.on(context.options())?,
        &mut watcher,
    )?;
    print(&said(&verified))
}

fn said(verified: &Verified) -> String {
    let mut out = String::new();
    let (at, channels) = (printable(&verified.site), grouped(verified.declared.layer.channels));
    let _ = writeln!(
        out,
        "structure            the original plus one layer of {channels} channels at {at}, nothing else"
    );
    let on = if verified.noise { "images of noise" } else { "images" };
    for check in &verified.verification.checks {
        let difference = check.max_difference.unwrap_or(f64::INFINITY);
        let n = grouped(check.images);
        let _ = writeln!(
            out,
            "{:<26} candle and {} differ by at most {difference:.1e} on {n} {on}",
            check.name,
            if check.name.contains("onnxruntime") { "onnxruntime" } else { "tract" }
        );
    }
    let verification = &verified.verification;
    if let Some(rounding) = verification.rounding.filter(|_| verification.allows_more()) {
        let _ = writeln!(
            out,
            "{:<26} moves outputs by {:.1e} (median of {} images); an image may differ by ten times its own",
            "rounding", rounding.median, rounding.images
        );
    }
    for piece in &verification.pieces {
        let _ = writeln!(
            out,
            "{:<26} from {} to {}: {:.1e}, {:.1e} allowed",
            piece.check, piece.from, piece.to, piece.max_difference, piece.allowed
        );
    }
    for change in &verification.rewritten {
        let _ = writeln!(out, "judged as a copy: {change}");
    }
    if let Some(why) = &verification.unread {
        let _ = writeln!(out, "without tract: {why}");
    }
    if let Some(note) = verified.verification.without_optimised() {
        let _ = writeln!(out, "{note}");
    }
    let rewrite = if verification.is_verified() { "rewrite verified" } else { "rewrite NOT verified" };
    let _ = writeln!(out, "{rewrite}; backdoor removal NOT measured");
    out
}
