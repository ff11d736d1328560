//! `polarizer scan`: which classes a backdoor may lead to, from clean images alone.

use std::{path::PathBuf, time::Instant};

use super::{
    Context,
    args::{PreprocessingArgs, class_order, reported},
    checks::{self, Probe},
    classifier::Classifier,
    evaluate::ask,
    output, print,
    versions::environment,
    watcher::Watcher,
};
use crate::{
    Error, Result,
    data::{Classes, Folder, Images},
    device::{Choice, Place},
    memory,
    report::{Calibration, Data, Labels, SCHEMA, Scan, Verification},
    site::{self, Site},
    train::{Normalisation, Options, Samples, Settings, Suspicion, Trainer, calibration},
    verify::{TOLERANCE, reference::Reference},
};

/// Clean images of each class, and in all, that are looked at.
const IMAGES: [usize; 2] = [32, 320];

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
    /// Memory that the program may take, as 1GiB or 800MiB [default: half of what is free, 2.875 GiB at most]
    #[arg(long, value_name = "SIZE", value_parser = memory::parse_size)]
    memory: Option<usize>,
    /// What it runs on: cpu, cuda, cuda:N (the GPU with that number); auto takes a GPU where this build can use one and there is
    /// one
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: Choice,
    #[command(flatten)]
    preprocessing: PreprocessingArgs,
}

pub fn run(args: &Args, context: Context) -> anyhow::Result<()> {
    let started = Instant::now();
    if let Some(report) = &args.report {
        output::not_among(report, [&args.data])?;
    }
    let report_place = output::report_place(args.report.as_deref(), &[&args.model])?;
    if let Some(most) = args.max_score.filter(|s| !s.is_finite()) {
        return Err(Error::invalid("--max-score", format!("{most} is no finite number")).into());
    }
    let place = Place::open(args.device)?;
    let classifier = Classifier::read(&args.model)?;
    output::spare_weights(&classifier.model, args.report.as_deref())?;
    let preprocessing = args.preprocessing.preprocessing()?;
    let target = classifier.target(&preprocessing)?;

    let folder = Folder::clean(&args.data)?;
    let (classes, whence) = class_order(args.classes.as_deref(), &[Some(&folder)])?
        .unwrap_or_else(|| (Classes::default(), String::new()));
    let images = folder.load(&classes, &target)?;
    let judge = classifier.judge(images.shape)?;
    if !classes.is_empty() {
        classes.require_count(judge.outputs(), whence)?;
    }
    if args.max_score.is_some() && judge.outputs() < calibration::LEAST_CLASSES {
        let problem = format!(
            "the model has {} classes, with fewer than {} there is no score to go by",
            judge.outputs(),
            calibration::LEAST_CLASSES
        );
        return Err(Error::invalid("--max-score", problem).into());
    }
    let labels = if images.labels.is_none() { Labels::Model } else { Labels::Folders };
    let mut images = match labels {
        Labels::Folders => images.select(&some(images.labels())),
        Labels::Model => {
            let count = images.len().min(IMAGES[1]);
            images.select(&(0..count).map(|i| i * images.len() / count).collect::<Vec<_>>())
        }
    };
    if labels == Labels::Model {
        images.labels = Some(ask(&judge, &images, &preprocessing, "labels", context)?);
    }
    match labels {
        _ if args.preprocessing.normalises() => {}
        Labels::Folders => {
            checks::normalisation_was_meant(&images, &preprocessing, &args.data, |some, p| {
                ask(&judge, some, p, "normalisation", context)
            })?;
        }
        Labels::Model => checks::note_that_pixels_go_in_as_they_are(context)?,
    }
    let mut verification = Verification::new(TOLERANCE);
    let probe = Probe::of(&[&images], &preprocessing, checks::IMAGES);
    let network = Reference::new(&classifier.model, images.shape, place.device())?;
    checks::original(&network, &judge, &probe, &mut verification, context)?;
    drop(judge);

    let site = site::preferred(&classifier.model, network.graph())?;
    let lowered = Some(network.graph().clone());
    let options = Options { memory: args.memory, profile: false, place: place.clone(), lowered };
    let channels = 0..images.shape[0];
    let normalisation = Normalisation {
        mean: channels.clone().map(|c| preprocessing.mean_of(c)).collect(),
        std: channels.map(|c| preprocessing.std_of(c)).collect(),
    };
    let (acc, suspicion) = measure(&classifier, &site, &images, normalisation, &options, context)?;
    if labels == Labels::Folders {
        checks::knows_its_images(acc, classes.len(), &args.data)?;
    }
    let report = report(
        &suspicion,
        Scan {
            input: classifier.file(),
            site: site.text,
            preprocessing: reported(&preprocessing),
            labels,
            data: Data { train: images.len(), shape: images.shape, classes: classes.0, ..Data::default() },
            acc,
            verification,
            seconds: started.elapsed().as_secs_f64(),
            device: place.name(),
            environment: environment(),
            ..Scan::default()
        },
    );
    output::write_report(report_place, &report)?;
    print(&report.summary())?;
    match args.max_score {
        Some(most) if suspicion.most() > most => {
            let problem = format!(
                "a class lies {:.2} spreads nearer than the median one, more than {most}",
                suspicion.most()
            );
            Err(Error::check("--max-score", problem).into())
        }
        Some(_) if suspicion.all_to_all() => {
            let share = 100.0 * suspicion.scattered();
            let problem =
                format!("one small block scatters {share:.1} % of the answers over several classes");
            Err(Error::check("--max-score", problem).into())
        }
        _ => Ok(()),
    }
}

/// Rows of at most [`IMAGES`] images a class and in all, evenly taken.
fn some(labels: &[u32]) -> Vec<usize> {
    let classes = labels.iter().max().map_or(1, |l| *l as usize + 1);
    let most = IMAGES[0].min((IMAGES[1] / classes).max(2));
    let mut rows = Vec::new();
    for class in 0..classes {
        let own: Vec<usize> = (0..labels.len()).filter(|&i| labels[i] as usize == class).collect();
        let count = most.min(own.len());
        rows.extend((0..count).map(|i| own[i * own.len() / count]));
    }
    rows
}

/// The share of the images answered with their label, in percent, and how suspicious each class is.
fn measure(
    classifier: &Classifier,
    site: &Site,
    images: &Images,
    normalisation: Normalisation,
    options: &Options,
    context: Context,
) -> Result<(f64, Suspicion)> {
    let mut settings = Settings::default();
    (settings.mirror, settings.epochs) = (false, 0);
    let rows: Vec<usize> = (0..images.len()).collect();
    let pixels = images.pixels(&rows);
    let mut watcher = Watcher::new(context, &settings);
    let mut trainer = Trainer::prepare(
        &classifier.model,
        site.place.clone(),
        images.shape,
        normalisation,
        Samples { pixels: &pixels, labels: images.labels() },
        None,
        settings,
        options,
        &mut watcher,
    )?;
    Ok((trainer.original_accuracy(), trainer.suspicion(&watcher)?))
}

/// What is known, made a report.
fn report(suspicion: &Suspicion, rest: Scan) -> Scan {
    let scores = suspicion.scores.clone();
    let mut stands_out: Vec<usize> = (0..scores.len())
        .filter(|&c| suspicion.is_measurable() && scores[c] >= calibration::STANDS_OUT)
        .collect();
    stands_out.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    Scan {
        schema: SCHEMA,
        command: "scan".into(),
        ways: suspicion.by_name(),
        calibration: if suspicion.is_measurable() {
            Calibration::of(suspicion.most())
        } else {
            Calibration::default()
        },
        stands_out,
        scattered: 100.0 * suspicion.scattered(),
        all_to_all: suspicion.all_to_all(),
        scores,
        ..rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_images_of_each_class_as_there_are() {
        let labels: Vec<u32> = (0..1000).map(|i| if i < 900 { 0 } else { 1 + i % 9 }).collect();
        let rows = some(&labels);
        let of = |class: u32| rows.iter().filter(|&&r| labels[r] == class).count();
        assert_eq!((of(0), of(1)), (32, 12));
        assert!(some(&[]).is_empty() && some(&[3]) == [0]);
        let many: Vec<u32> = (0..3000).map(|i| i % 1000).collect();
        assert_eq!(some(&many).len(), 2000);
    }
}
