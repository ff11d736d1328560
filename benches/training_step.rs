//! Seconds per training step. Usage:
//!
//!     cargo bench --bench training_step [-- MODEL [IMAGES [BATCH [PRECISION [DEVICE [RECIPE]]]]]]
//!
//! Defaults: the fixture, two batches of 128, the command's default precision (f32, bf16, auto), the processor, and a
//! shortened published recipe (or `default`). Times the steps of both phases on images of noise, since the arithmetic
//! does not depend on the images, and prints the counts of passes.

use std::time::Instant;

use polarizer::{
    data::Pixels,
    device::Place,
    internals::{
        graph::Graph,
        kernels::Precision,
        network::{EpochRecord, Event, Normalisation, Observer, Options, Phase, Samples, Subject},
        site,
        train::{AdversaryKind, Settings, Start, Trainer},
    },
    onnx::Model,
};

struct Watch {
    last: Instant,
    steps: Vec<(Phase, f64)>,
    epochs: Vec<EpochRecord>,
}

impl Observer for Watch {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Step { phase, .. } => {
                self.steps.push((phase, self.last.elapsed().as_secs_f64()));
                self.last = Instant::now();
            }
            Event::Kept { .. } => self.last = Instant::now(),
            Event::Epoch(record) => self.epochs.push(record.clone()),
            _ => {}
        }
    }
}

fn main() -> polarizer::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let path =
        args.first().map_or(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/model.onnx"), String::as_str);
    let number = |i: usize, default: usize| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let batch = number(2, 128);
    let count = number(1, 2 * batch);
    let precision = match args.get(3).map(String::as_str) {
        Some("f32") => Some(Precision::F32),
        Some("bf16") => Some(Precision::Bf16),
        _ => None,
    };
    let device = args.get(4).map_or("cpu", String::as_str).parse();
    let place = Place::open(device.map_err(|problem: String| polarizer::Error::invalid("device", problem))?)?;
    let precision = Some(place.precision(precision)?);
    let model = Model::read(path.as_ref())?;
    let image = [3, 32, 32];
    let graph = Graph::lower(&model, &[1, 3, 32, 32])?;
    let site = site::resolve(&model, &graph, None)?;
    let values = count * 3 * 32 * 32;
    let pixels: Vec<f32> =
        (0..values as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0).collect();
    let mut settings = match args.get(5).map(String::as_str) {
        Some("default") => Settings::principal(),
        _ => {
            let mut settings = Settings::published();
            settings.start = Start::Whitening { warmup: 2, warm_lr: 1e-4 };
            settings.epochs = 3;
            if let AdversaryKind::Pixel { stop_share, .. } = &mut settings.adversary {
                *stop_share = None;
            }
            settings
        }
    };
    (settings.batch, settings.precision) = (batch, precision);
    let used = settings.precision_here();
    let normalisation = Normalisation { mean: vec![0.5; 3], std: vec![0.25; 3] };
    let mut watch = Watch { last: Instant::now(), steps: Vec::new(), epochs: Vec::new() };
    let began = Instant::now();
    let subject = Subject {
        model: &model,
        lowered: None,
        place: site.place.clone(),
        image,
        normalisation,
        clean: Samples { pixels: &Pixels::F32(pixels), labels: None },
        held_out: None,
    };
    let options = Options { place: place.clone(), ..Options::default() };
    let trainer = Trainer::prepare(subject, settings, &options, &mut watch)?;
    let keeping = began.elapsed().as_secs_f64();
    watch.last = Instant::now();
    let trained = trainer.train(&mut watch)?;
    println!(
        "{path}: site {}, {count} images, batch {batch}, {} on {}",
        site.text,
        used.name(),
        place.name()
    );
    println!("keeping the clean images: {keeping:.2} s, tape {} MiB", trained.tape_bytes >> 20);
    for phase in [Phase::WarmUp, Phase::Train] {
        let mut seconds: Vec<f64> = watch.steps.iter().filter(|s| s.0 == phase).map(|s| s.1).collect();
        if seconds.is_empty() {
            continue; // the default recipe has one phase
        }
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        println!("{phase:?}: {median:.4} s a step (median of {}, least {:.4})", seconds.len(), seconds[0]);
    }
    let stages = trained.stages.iter().map(|(name, seconds)| format!("{name} {seconds:.2} s"));
    println!("{}", stages.collect::<Vec<_>>().join(", "));
    println!("{:?}", trained.counts);
    Ok(())
}
