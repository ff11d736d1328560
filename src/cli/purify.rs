//! `polarizer purify`: trains a layer and writes the verified file.

use std::path::{Path, PathBuf};

use super::{
    Context,
    args::{PreprocessingArgs, TriggeredArgs},
    output::{self, place},
    print,
    run::{self, AcceptedArgs, ChoiceArgs, Folders, OutputArgs, Paths, RunArgs, VerificationArgs},
    settings::SettingsArgs,
    watcher::Watcher,
};
use crate::{
    Error, Result,
    onnx::Model,
    pipeline::{self, Job, Purified, RunOptions},
    report::Report,
    rewrite::{self, Output},
};

/// Train a layer against the backdoor and write the model with that layer inserted
#[derive(Debug, clap::Args)]
#[command(after_help = super::help::PURIFY)]
pub struct Args {
    /// The ONNX file, or a folder with one
    #[arg(value_parser = super::args::model())]
    model: PathBuf,
    /// The ONNX file to write
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    #[arg(long, value_name = "DIR", help = run::DATA)]
    data: PathBuf,
    /// Test images for measuring ACC, as DIR/<class>/<file>; the default is the held-out images
    #[arg(long, value_name = "DIR")]
    test: Option<PathBuf>,
    /// Class names, one per line, in the order of the model's outputs; the default is the sorted class folders
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    #[arg(long, value_name = "FILE", help = run::LABELS)]
    labels: Option<PathBuf>,
    #[arg(long, value_name = "FILE", help = output::REPORT)]
    report: Option<PathBuf>,
    /// Also write the trained layer to a file, for `apply`
    #[arg(long, value_name = "FILE")]
    save_polarizer: Option<PathBuf>,
    /// Overwrite OUT and the saved layer
    #[arg(long)]
    force: bool,
    /// Site of the layer: node:NAME[:INPUT] or value:NAME; `inspect` shows the default
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
    #[command(flatten)]
    model_output: OutputArgs,
    #[command(flatten)]
    choice: ChoiceArgs,
    #[command(flatten)]
    accepted: AcceptedArgs,
    #[command(flatten)]
    run: RunArgs,
    /// Print a time profile of the training by operator
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    triggered: TriggeredArgs,
    #[command(flatten)]
    verification: VerificationArgs,
    #[command(flatten)]
    preprocessing: PreprocessingArgs,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// All outputs, checked before any work.
struct Places {
    model: Output,
    polarizer: Option<Output>,
    report: Option<output::ReportPlace>,
}

impl Places {
    fn new(args: &Args) -> Result<Self> {
        let inputs = [args.model.as_path()];
        let named = [Some(&args.output), args.save_polarizer.as_ref(), args.report.as_ref()];
        let named: Vec<&PathBuf> = named.into_iter().flatten().collect();
        for (i, path) in named.iter().enumerate() {
            if named[..i].iter().any(|other| same_place(other, path)) {
                return Err(Error::invalid(path.display(), "is given for two outputs; use two names"));
            }
            let folders = [Some(&args.data), args.test.as_ref(), args.triggered.folder()];
            output::not_among(path, folders.into_iter().flatten())?;
        }
        Ok(Self {
            model: place(&args.output, &inputs, args.force)?,
            polarizer: match &args.save_polarizer {
                Some(path) => Some(place(path, &inputs, args.force)?),
                None => None,
            },
            report: output::report_place(args.report.as_deref(), &inputs)?,
        })
    }
}

/// Whether two paths, existing or not, are the same file.
fn same_place(a: &Path, b: &Path) -> bool {
    let folder = |p: &Path| match p.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.canonicalize().ok(),
        _ => Path::new(".").canonicalize().ok(),
    };
    a.file_name() == b.file_name() && folder(a) == folder(b)
}

pub fn run(args: &Args, context: Context) -> anyhow::Result<()> {
    let places = Places::new(args)?;
    let settings = args.settings.settings_beside(args.preprocessing.normalises())?;
    let model = Model::read(&args.model)?;
    let outputs = [Some(&args.output), args.save_polarizer.as_ref(), args.report.as_ref()];
    output::spare_weights(&model, outputs.into_iter().flatten().map(PathBuf::as_path))?;
    rewrite::check_beside(&model, &args.output)?;
    let paths = Paths {
        clean: Some(&args.data),
        test: args.test.as_deref(),
        classes: args.classes.as_ref(),
        labels: args.labels.as_ref(),
    };
    let folders = Folders::open(paths, &args.triggered)?;
    let job = Job {
        site: args.site.clone(),
        recipe: args.settings.recipe(),
        settings,
        holdout: Some(args.settings.holdout()),
        ..args.accepted.accept(args.choice.limit(args.model_output.of(folders.job(
            &model,
            &args.model,
            &args.preprocessing,
        )?)))
    };
    let options = RunOptions {
        profile: args.profile,
        staging: Some(places.model.dir().to_owned()),
        ..args.verification.on(args.run.options(context))?
    };
    let purified = pipeline::purify(&job, &options, &mut Watcher::new(context))?;
    folders.save_triggered(&purified.outcome.data.classes)?;
    write(args, places, purified)
}

/// Writes the files after all slow work, the model last.
fn write(args: &Args, places: Places, mut purified: Purified) -> anyhow::Result<()> {
    purified.outcome.input.file = args.model.display().to_string();
    purified.outcome.output.file = args.output.display().to_string();
    let outcome = purified.outcome.clone();
    let polarizer = match places.polarizer {
        Some(place) => Some((place.stage(&purified.layer.to_bytes()?)?, place)),
        None => None,
    };
    output::write_report(places.report, Report::Purification(&outcome))?;
    if let Some((staged, place)) = polarizer {
        staged.commit_to(place)?;
    }
    purified.save_to(places.model)?;
    if let Some(profile) = &outcome.profile {
        print(&profile.table())?;
    }
    print(&output::text(Report::Purification(&outcome))?)
}
