//! `polarizer purify`: read, check, train, rewrite, check again, write.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use super::{
    Context,
    args::{PreprocessingArgs, TriggeredArgs, class_order, reported},
    beside::{beside, quiet, with_few_threads},
    checks::{self, Probe},
    classifier::Classifier,
    clock::Clock,
    evaluate::{ask, only_target, with_progress},
    opening::Opening,
    output::{self, place},
    print,
    settings::SettingsArgs,
    versions::environment,
    watcher::{Watcher, phase},
};
use crate::{
    Error, Result,
    data::{Classes, Folder, Images, Preprocessing, Split, split},
    device::{Choice, Place},
    kernels::{Precision, bf16_is_native, cpu_path},
    memory,
    onnx::Model,
    report::{self, AccOn, AsrStatus, Labels, Measures, Purify, SCHEMA, Verification},
    rewrite::{self, LayerFile, Output, Provenance, Record},
    site::{self, Site},
    train::{Named as _, Normalisation, Options, Samples, Settings, Suspicion, Trained, Trainer},
    verify::{
        Judge, TOLERANCE,
        evaluate::{accuracy, answers_in_candle, attack, defense_effectiveness},
        reference::Reference,
    },
};

/// Behind the options.
const HELP: &str = "Nothing is written unless every check holds: the original through candle and through tract, the written file \
through tract against the trained network, and the file's bytes against the original's.";

/// Train a layer against the backdoor and write the model with that layer inserted
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The ONNX file
    model: PathBuf,
    /// The ONNX file to write
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Clean images, as DIR/<class>/<file>; or DIR/<file>, labelled by the model's own answers
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Test images, as DIR/<class>/<file>, to measure ACC on; without them it is measured on the held-out images
    #[arg(long, value_name = "DIR")]
    test: Option<PathBuf>,
    /// Class names, one a line, in the order of the model's outputs; the default is the class folders, sorted
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Write a JSON report
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write the trained layer by itself, for `apply`
    #[arg(long, value_name = "FILE")]
    save_polarizer: Option<PathBuf>,
    /// Overwrite OUT and the saved layer
    #[arg(long)]
    force: bool,
    /// Where the layer goes: node:NAME[:INPUT] or value:NAME. The default is found from the graph: see `inspect`
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
    /// Memory that the program may take while it trains, as 1GiB or 800MiB; with little, what would be kept is computed
    /// again [default: half of what is free, 2.875 GiB at most]
    #[arg(long, value_name = "SIZE", value_parser = memory::parse_size)]
    memory: Option<usize>,
    /// Where the training runs: cpu, cuda, cuda:N (the GPU with that number); auto takes a GPU where this build can use one and
    /// there is one
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: Choice,
    /// Account for the time of the training, operator by operator
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    triggered: TriggeredArgs,
    #[command(flatten)]
    preprocessing: PreprocessingArgs,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Where everything will be written, checked before any work.
struct Places {
    model: Output,
    polarizer: Option<Output>,
    report: Option<Output>,
}

impl Places {
    fn new(args: &Args) -> Result<Self> {
        let inputs = [args.model.as_path()];
        let named = [Some(&args.output), args.save_polarizer.as_ref(), args.report.as_ref()];
        let named: Vec<&PathBuf> = named.into_iter().flatten().collect();
        for (i, path) in named.iter().enumerate() {
            if named[..i].iter().any(|other| same_place(other, path)) {
                return Err(Error::invalid(path.display(), "is to be written twice; two names are needed"));
            }
            let folders = [Some(&args.data), args.test.as_ref(), args.triggered.triggered.as_ref()];
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

/// Files that need not be there yet.
fn same_place(a: &Path, b: &Path) -> bool {
    let folder = |p: &Path| match p.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.canonicalize().ok(),
        _ => Path::new(".").canonicalize().ok(),
    };
    a.file_name() == b.file_name() && folder(a) == folder(b)
}

/// The images of a run.
struct Data {
    clean: Images,
    labels: Labels,
    split: Split,
    test: Option<Images>,
    triggered: Option<(Images, report::Target)>,
    classes: Classes,
    preprocessing: Preprocessing,
}

pub fn run(args: &Args, context: Context) -> anyhow::Result<()> {
    let mut clock = Clock::new();
    let places = Places::new(args)?;
    let mut settings = args.settings.settings()?;
    split(&[], args.settings.holdout(), 0)?; // an invalid share is refused before any work
    // a GPU takes as long to be made ready as the images to be read
    let opening = Opening::of(args.device, settings.precision)?;
    let classifier = Classifier::read(&args.model)?;
    if Record::is_there(classifier.model.metadata()) {
        let problem = "has a layer already; take it out with `polarizer revert` first";
        return Err(Error::invalid(classifier.model.name(), problem).into());
    }
    let outputs = [Some(&args.output), args.save_polarizer.as_ref(), args.report.as_ref()];
    output::spare_weights(&classifier.model, outputs.into_iter().flatten().map(PathBuf::as_path))?;
    rewrite::check_beside(&classifier.model, &args.output)?;

    let (opened, loaded) =
        beside(|| opening.with_network(&args.preprocessing, &classifier), || load(args, &classifier));
    let (place, network) = opened?;
    settings.precision = Some(place.precision(settings.precision)?);
    let emulated = settings.precision_here() == Precision::Bf16 && place.is_cpu() && !bf16_is_native();
    if emulated && !context.quiet {
        let note = format!("note: {} has no bfloat16: it is emulated, slower than f32\n", cpu_path());
        std::io::stderr().write_all(note.as_bytes()).map_err(Error::internal)?;
    }
    let (mut data, judge) = loaded?;
    clock.ends("load");
    match data.labels {
        _ if args.preprocessing.normalises() => {}
        Labels::Folders => {
            checks::normalisation_was_meant(&data.clean, &data.preprocessing, &args.data, |some, p| {
                ask(&judge, some, p, "normalisation", context)
            })?;
        }
        Labels::Model => checks::note_that_pixels_go_in_as_they_are(context)?,
    }
    let shape = data.clean.shape;
    let network = match network {
        Some(network) => network?,
        None => Reference::new(&classifier.model, shape, place.device())?,
    };
    let site = find_site(&classifier, &network, args.site.as_deref(), args.settings.recipe().everywhere())?;
    let mut verification = Verification::new(TOLERANCE);
    // of what is trained on and of what is measured: the rest of the latter is left to candle
    let probe = Probe::of(&data.sets(), &data.preprocessing, checks::IMAGES);
    let ours = probe.answers(&network, None, context)?;
    label(&mut data, args, &judge, context)?;
    let answers = |network: &Reference<'_>, images: &Images, what: &str| {
        with_progress(what, images, context, |watch| {
            answers_in_candle(network, images, &data.preprocessing, watch)
        })
    };
    let verify = |verification: &mut Verification, judge: Judge, context: Context| {
        checks::original_against(&ours, &judge, &probe, verification, context)
        // and the judge goes: the training needs its memory
    };
    let work = |clock: &mut Clock| -> Result<(Measured, Settings, Trained)> {
        // candle is held against the judge on some of these images, and is several times quicker
        let before = measure(args, &data, &|images, what| answers(&network, images, what))?;
        clock.ends("evaluate the original");
        let trainer = prepare(args, &classifier, &network, &data, &site, &settings, &place, context)?;
        let settings = trainer.settings().clone();
        clock.ends("prepare");
        let mut watcher = Watcher::new(context, &settings);
        let trained = trainer.train(&mut watcher)?;
        clock.ends("train");
        Ok((before, settings, trained))
    };
    let (before, settings, trained) = if place.is_cpu() {
        verify(&mut verification, judge, context)?;
        clock.ends("verify the original");
        work(&mut clock)?
    } else {
        // the processor has little else to do
        let aside = || with_few_threads(|| verify(&mut verification, judge, quiet(context)))?;
        let (checked, done) = beside(aside, || work(&mut clock));
        checked?;
        clock.ends("verify the original");
        done?
    };

    let mut provenance = Provenance::new(site.text.clone(), settings.pairs(shape));
    provenance.settings.extend(data.pairs());
    let layer = LayerFile {
        layer: trained.layer.clone(),
        place: site.place.clone(),
        input_sha256: classifier.model.sha256(),
        provenance,
    };
    let bytes = rewrite::insert(&classifier.model, &layer.place, &layer.layer, &layer.provenance)?;
    let written = report::File {
        file: args.output.display().to_string(),
        sha256: crate::onnx::model::sha256(&bytes),
        bytes: bytes.len() as u64,
    };
    let staged = places.model.stage(&bytes)?;
    drop(bytes);
    // tract reads and optimises the file while it is held against the original and asked in candle
    let (theirs, ours) = beside(
        || classifier.judge_of(staged.path(), shape),
        || -> Result<_> {
            let purified = Model::read(staged.path())?;
            let declared = checks::structure(&classifier.model, &purified, &mut verification)?;
            if declared.layer != layer.layer || declared.place != layer.place {
                return Err(Error::check("structure", "the written layer is not the trained one"));
            }
            let ours = probe.answers(&network, Some((&layer.place, &layer.layer)), context)?;
            Ok((purified, ours))
        },
    );
    // what is wrong with the file comes before what tract says to it
    let (purified, ours) = ours?;
    let theirs = theirs?;
    let verify = |verification: &mut Verification, context: Context| {
        checks::purified_against(&ours, &theirs, &probe, verification, context)?;
        drop(theirs); // its memory is not needed any longer
        Ok(())
    };
    // what was written, as it was read again: not the layer as it was trained
    let measure = || {
        let purified = Reference::new(&purified, shape, place.device())?;
        measure(args, &data, &|images, what| answers(&purified, images, what))
    };
    let after = if place.is_cpu() {
        verify(&mut verification, context)?;
        clock.ends("rewrite and verify");
        measure()?
    } else {
        let (checked, after) = beside(|| verify(&mut verification, quiet(context)), measure);
        checked?;
        clock.ends("rewrite and verify");
        after?
    };
    clock.ends("evaluate the written file");

    let report = Purify {
        schema: SCHEMA,
        command: "purify".into(),
        input: classifier.file(),
        output: written,
        site: site.text,
        site_reason: site.why,
        preprocessing: reported(&data.preprocessing),
        acc_on: data.acc_on(),
        target: data.triggered.as_ref().map(|(_, target)| target.clone()),
        labels: data.labels,
        settings: settings_of(args.settings.recipe().word(), &settings, holdout(args, data.labels), shape),
        before: before.measures,
        after: after.measures,
        asr_status: if data.triggered.is_some() { AsrStatus::Measured } else { AsrStatus::Unknown },
        der: der(before.measures, after.measures),
        data: data.counts(before.triggered),
        train: train_of(&trained),
        guard: trained.guard.map(|g| report::Guard {
            limit: settings.max_acc_drop.unwrap_or_default(),
            lost: g.lost,
            share: g.share,
            lost_with_it: g.lost_with_it,
        }),
        memory: report::Memory {
            allowed: trained.memory.allowed,
            tape: trained.memory.tape,
            tape_kept: trained.tape_bytes,
            peak: memory::peak(),
        },
        profile: trained.profile,
        verification,
        seconds: clock.started.elapsed().as_secs_f64(),
        phases: clock.phases,
        device: place.name(),
        environment: environment(),
    };
    context.check()?;
    // all that can fail slowly has been done: now the files, the model last
    let polarizer = match places.polarizer {
        Some(place) => Some(place.stage(&layer.to_bytes()?)?),
        None => None,
    };
    output::write_report(places.report, &report)?;
    if let Some(polarizer) = polarizer {
        polarizer.commit()?;
    }
    staged.commit()?;
    if let Some(profile) = &report.profile {
        print(&profile.table())?;
    }
    print(&report.summary())
}

/// Every folder that was named, decoded, before anything is computed; and the judge of the original, which knows how
/// many classes there have to be.
fn load(args: &Args, classifier: &Classifier) -> Result<(Data, Judge)> {
    let preprocessing = args.preprocessing.preprocessing()?;
    let mut target = classifier.target(&preprocessing)?;
    let clean = Folder::clean(&args.data)?;
    let test = args.test.as_deref().map(Folder::clean).transpose()?;
    if let Some(folder) = test.as_ref().filter(|f| !f.is_labelled()) {
        let problem = "no class folders; accuracy is measured on DIR/<class>/<file>";
        return Err(Error::invalid(folder.path().display(), problem));
    }
    let order = class_order(args.classes.as_deref(), &[Some(&clean), test.as_ref()])?;
    let (classes, whence) = match order {
        Some(order) => order,
        None if args.triggered.triggered.is_some() => {
            let problem = "needs a class order: --classes, or class folders in --data or --test";
            return Err(Error::invalid("--triggered", problem));
        }
        None => (Classes::default(), String::new()),
    };
    let triggered = args.triggered.find(&classes)?;
    let clean = clean.load(&classes, &target)?;
    target.size = Some([clean.shape[1], clean.shape[2]]);
    let others = || -> Result<_> {
        let test = test.map(|folder| folder.load(&classes, &target)).transpose()?;
        let load = |(folder, class): (Folder, report::Target)| -> Result<(Images, report::Target)> {
            Ok((folder.load(&classes, &target)?, class))
        };
        let triggered = triggered.map(load).transpose()?;
        Ok((test, triggered))
    };
    let (judge, others) = beside(|| classifier.judge(clean.shape), others);
    let judge = judge?;
    if !classes.is_empty() {
        classes.require_count(judge.outputs(), whence)?;
    }
    let (test, triggered) = others?;
    if let Some((images, class)) = &triggered
        && images.labels().iter().all(|l| class.aim(classes.len()).of(*l).is_none())
    {
        return Err(only_target(&args.triggered, &class.name));
    }
    let labels = if clean.labels.is_none() { Labels::Model } else { Labels::Folders };
    let split = Split::default();
    Ok((Data { clean, labels, split, test, triggered, classes, preprocessing }, judge))
}

/// Labels where the folder gave none, and the split.
fn label(data: &mut Data, args: &Args, judge: &Judge, context: Context) -> Result<()> {
    if data.labels == Labels::Model {
        data.clean.labels = Some(ask(judge, &data.clean, &data.preprocessing, "labels", context)?);
        let first = data.clean.labels().first();
        if data.clean.labels().iter().all(|l| Some(l) == first) {
            let problem = "the model gives every image the same class; at least two are needed";
            return Err(Error::invalid(args.data.display(), problem));
        }
    }
    data.split = split(data.clean.labels(), holdout(args, data.labels), args.settings.settings()?.seed)?;
    Ok(())
}

/// Without labels there is nothing to measure on images held out.
fn holdout(args: &Args, labels: Labels) -> f64 {
    if labels == Labels::Model { 0.0 } else { args.settings.holdout() }
}

fn find_site(
    classifier: &Classifier,
    network: &Reference<'_>,
    text: Option<&str>,
    everywhere: bool,
) -> Result<Site> {
    match text {
        None if everywhere => site::preferred(&classifier.model, network.graph()),
        text => site::resolve(&classifier.model, network.graph(), text),
    }
}

/// Runs the network once over all clean images; asks whether it knows them.
#[allow(clippy::too_many_arguments)] // each is a thing of its own
fn prepare<'a>(
    args: &Args,
    classifier: &'a Classifier,
    network: &Reference<'_>,
    data: &Data,
    site: &Site,
    settings: &Settings,
    place: &Place,
    context: Context,
) -> Result<Trainer<'a>> {
    let shape = data.clean.shape;
    let pixels = |rows: &[usize]| data.clean.pixels(rows);
    let labels = |rows: &[usize]| rows.iter().map(|&r| data.clean.labels()[r]).collect::<Vec<u32>>();
    let Split { train, held_out } = &data.split;
    let train = (pixels(train), labels(train));
    let held = (pixels(held_out), labels(held_out));
    let held = (!held.1.is_empty()).then_some(Samples { pixels: &held.0, labels: &held.1 });
    let mut watcher = Watcher::new(context, settings);
    let trainer = Trainer::prepare(
        &classifier.model,
        site.place.clone(),
        shape,
        data.normalisation(),
        Samples { pixels: &train.0, labels: &train.1 },
        held,
        settings.clone(),
        &Options {
            memory: args.memory,
            profile: args.profile,
            place: place.clone(),
            lowered: Some(network.graph().clone()),
        },
        &mut watcher,
    )?;
    if data.labels == Labels::Folders {
        checks::knows_its_images(trainer.original_accuracy(), data.classes.len(), &args.data)?;
    }
    Ok(trainer)
}

/// What one model does.
struct Measured {
    measures: Measures,
    /// Triggered images that count.
    triggered: usize,
}

/// `answers` gives a model's answers to images; its second argument is for people.
fn measure(
    args: &Args,
    data: &Data,
    answers: &dyn Fn(&Images, &str) -> Result<Vec<u32>>,
) -> Result<Measured> {
    let mut out = Measured { measures: Measures::default(), triggered: 0 };
    let held;
    let images = match &data.test {
        Some(test) => test,
        None => {
            held = data.clean.select(&data.split.held_out);
            &held
        }
    };
    // the model's own answers are no measure of it
    if data.acc_on().is_some() {
        out.measures.acc = accuracy(&answers(images, "accuracy")?, images.labels());
    }
    if let Some((images, target)) = &data.triggered {
        let attack = attack(&answers(images, "attack")?, images.labels(), target.aim(data.classes.len()))
            .ok_or_else(|| only_target(&args.triggered, &target.name))?;
        out.measures.asr = Some(attack.asr);
        out.measures.ra = Some(attack.ra);
        out.triggered = attack.images;
    }
    Ok(out)
}

impl Data {
    /// All images.
    fn sets(&self) -> Vec<&Images> {
        let triggered = self.triggered.as_ref().map(|(images, _)| images);
        std::iter::once(&self.clean).chain(&self.test).chain(triggered).collect()
    }

    fn acc_on(&self) -> Option<AccOn> {
        match (&self.test, self.labels) {
            (Some(_), _) => Some(AccOn::Test),
            (None, Labels::Folders) if !self.split.held_out.is_empty() => Some(AccOn::HeldOut),
            _ => None,
        }
    }

    /// Per channel, as the trainer takes it.
    fn normalisation(&self) -> Normalisation {
        let channels = 0..self.clean.shape[0];
        Normalisation {
            mean: channels.clone().map(|c| self.preprocessing.mean_of(c)).collect(),
            std: channels.map(|c| self.preprocessing.std_of(c)).collect(),
        }
    }

    /// For the provenance in the file: what images the layer was trained on.
    fn pairs(&self) -> [(String, String); 3] {
        let list = |v: &[f32]| v.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
        let [_, h, w] = self.clean.shape;
        [
            ("mean".into(), list(&self.preprocessing.mean)),
            ("std".into(), list(&self.preprocessing.std)),
            ("size".into(), format!("{h}x{w}")),
        ]
    }

    fn counts(&self, triggered: usize) -> report::Data {
        report::Data {
            train: self.split.train.len(),
            held_out: self.split.held_out.len(),
            test: self.test.as_ref().map_or(0, Images::len),
            triggered,
            shape: self.clean.shape,
            classes: self.classes.0.clone(),
        }
    }
}

/// The settings as they were meant, and the recipe that those not given come from.
fn settings_of(recipe: &str, settings: &Settings, holdout: f64, shape: [usize; 3]) -> serde_json::Value {
    let mut value = settings.json(shape);
    value.insert("recipe".into(), recipe.into());
    value.insert("holdout".into(), holdout.into());
    value.into()
}

fn der(before: Measures, after: Measures) -> Option<f64> {
    Some(defense_effectiveness([before.acc?, after.acc?], [before.asr?, after.asr?]))
}

fn train_of(trained: &Trained) -> report::Train {
    let epoch = |e: &crate::train::EpochRecord| report::Epoch {
        phase: phase(e.phase).to_owned(),
        epoch: e.epoch,
        loss: e.loss,
        first_loss: e.first_loss,
        losses: [("l1", e.l1), ("l2", e.l2), ("l3", e.l3), ("l4", e.l4), ("retention", e.retention)]
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect(),
        reached: e.reached.map(|share| 100.0 * share),
        seconds: e.seconds,
    };
    report::Train {
        steps: trained.steps,
        rank: trained.rank,
        suspicion: trained.suspicion.as_ref().map(|s| s.scores.clone()),
        suspicion_ways: trained.suspicion.as_ref().map(Suspicion::by_name).unwrap_or_default(),
        all_to_all: trained.suspicion.as_ref().filter(|s| s.all_to_all()).map(|s| 100.0 * s.scattered()),
        seconds: trained.seconds,
        stages: trained
            .stages
            .iter()
            .map(|(name, seconds)| report::Phase { name: (*name).into(), seconds: *seconds })
            .collect(),
        epochs: trained.epochs.iter().map(epoch).collect(),
    }
}
