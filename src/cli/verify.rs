//! `polarizer verify`: is a purified file the original and one layer, and do two runtimes agree on it.

use std::{fmt::Write as _, path::PathBuf};

use candle_core::Device;

use super::{
    Context,
    args::PreprocessingArgs,
    checks::{self, Probe},
    classifier::Classifier,
    print,
};
use crate::{
    Error,
    data::Folder,
    error::printable,
    onnx::Model,
    report::{Verification, grouped},
    site,
    verify::{TOLERANCE, reference::Reference},
};

/// Behind the options.
const HELP: &str = "Compares the two files byte for byte; runs the original and the original with the layer found in the file through \
candle, and both files through tract. Without --data the runtimes are asked about noise, which says less than images.";

/// Check that a purified file is the original plus the layer it declares
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The ONNX file before
    original: PathBuf,
    /// The ONNX file that `purify` or `apply` wrote
    purified: PathBuf,
    /// Images to compare the runtimes on; labels are not needed
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// At most this many images, evenly spread
    #[arg(long, value_name = "N", default_value_t = checks::IMAGES,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    images: usize,
    #[command(flatten)]
    preprocessing: PreprocessingArgs,
}

pub fn run(args: &Args, context: Context) -> anyhow::Result<()> {
    let classifier = Classifier::read(&args.original)?;
    let mut verification = Verification::new(TOLERANCE);
    // before any image is read: what is not the declared rewrite needs no second look
    let declared = checks::structure(&classifier.model, &Model::read(&args.purified)?, &mut verification)?;
    let preprocessing = args.preprocessing.preprocessing()?;
    let target = classifier.target(&preprocessing)?;
    let probe = match &args.data {
        Some(dir) => {
            let folder = Folder::clean(dir)?;
            Probe::of(&[&folder.load(&folder.classes(), &target)?], &preprocessing, args.images)
        }
        None => classifier.noise(&preprocessing, args.images)?,
    };
    let judge = classifier.judge(probe.shape)?;
    let network = Reference::new(&classifier.model, probe.shape, &Device::Cpu)?;
    checks::original(&network, &judge, &probe, &mut verification, context)?;
    let layer = (&declared.place, &declared.layer);
    checks::purified(&classifier, &network, &args.purified, layer, &probe, &mut verification, context)?;

    let mut out = String::new();
    let at = printable(&site::text_of(&classifier.model, &declared.place));
    let channels = declared.layer.channels;
    let _ = writeln!(
        out,
        "structure            the original and one layer of {} channels at {at}, nothing else",
        grouped(channels)
    );
    let on = if args.data.is_some() { "images" } else { "images of noise" };
    for check in &verification.checks {
        let difference = check.max_difference.unwrap_or(f64::INFINITY);
        let n = grouped(check.images);
        let _ = writeln!(
            out,
            "{:<26} candle and tract differ by at most {difference:.1e} on {n} {on}",
            check.name
        );
    }
    if verification.optimised_distrusted {
        out.push_str("tract's optimised form gets the original wrong and was left out\n");
    }
    out.push_str("rewrite verified; whether a backdoor is gone is not asked here\n");
    print(&out)
}

impl Classifier {
    /// `n` images of noise.
    ///
    /// # Errors
    /// The size is neither in the model nor requested.
    pub fn noise(&self, preprocessing: &crate::data::Preprocessing, n: usize) -> crate::Result<Probe> {
        let target = self.target(preprocessing)?;
        let Some([h, w]) = target.size else {
            return Err(Error::invalid(
                "--size",
                "the model leaves its input's size open; --size HxW is needed",
            ));
        };
        Ok(Probe::random([target.channels, h, w], preprocessing, n))
    }
}
