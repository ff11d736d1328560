//! Training computes what the method needs and nothing twice: passes over images, counted; and what little memory and
//! accounting change of that.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use polarizer::{
    data::Pixels,
    internals::{
        graph::Graph,
        network::{Counts, Normalisation, Options, Samples, Subject},
        scan::{Findings, Measured},
        site,
        train::{AdversaryKind, Settings, Start, Targets, Trained, Trainer},
    },
    onnx::Model,
};

/// Images of noise: how many passes there are does not depend on what they show.
const IMAGES: usize = 80;
const EPOCHS: usize = 2;

fn run(settings: Settings) -> Trained {
    run_with(settings, &Options::default()).unwrap()
}

fn run_with(mut settings: Settings, options: &Options) -> polarizer::Result<Trained> {
    // one at a time: what the process takes already counts against a limit
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let model = Model::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/model.onnx")).unwrap();
    let graph = Graph::lower(&model, &[1, 3, 32, 32]).unwrap();
    let place = site::resolve(&model, &graph, None).unwrap().place;
    let pixels: Vec<f32> = (0..IMAGES as u32 * 3072)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0)
        .collect();
    let normalisation = Normalisation { mean: vec![0.5; 3], std: vec![0.25; 3] };
    (settings.epochs, settings.batch) = (EPOCHS, 32);
    if let Start::Whitening { warmup, .. } = &mut settings.start {
        *warmup = 1;
    }
    // the adversary never stops early, so that the counts are known
    if let AdversaryKind::Pixel { stop_share, .. } = &mut settings.adversary {
        *stop_share = None;
    }
    let image = [3, 32, 32];
    let pixels = Pixels::F32(pixels);
    let clean = Samples { pixels: &pixels, labels: None };
    let subject =
        Subject { model: &model, lowered: None, place, image, normalisation, clean, held_out: None };
    Trainer::prepare(subject, settings, options, &mut ())?.train(&mut ())
}

#[test]
fn a_step_needs_two_forward_and_two_backward_passes() {
    let trained = run(Settings::published());
    assert_eq!(trained.steps, (1 + EPOCHS) * 3, "80 images in batches of 32, the short one kept");
    assert!(trained.tape_bytes > 0, "the clean images' tape is kept");
    assert!(trained.exact_statistics, "three warm-up steps are too few for the running ones");
    let n = IMAGES;
    let want = Counts {
        // once to keep the values at the cut; then at the two deltas of each step
        prefix_forward: n + 2 * n * EPOCHS,
        // the gradients at x and at x + delta 1
        prefix_backward: 2 * n * EPOCHS,
        // the answers without the layer; the warm-up; x, x + delta 1 and x + delta 2
        suffix_forward: n + n + 3 * n * EPOCHS,
        // the warm-up; the two inner gradients, L1 and L2 to L4
        suffix_backward: n + 4 * n * EPOCHS,
    };
    assert_eq!(trained.counts, want);
}

#[test]
fn without_an_adversary_nothing_before_the_site_is_run_again() {
    let mut settings = Settings::published();
    settings.adversary = AdversaryKind::None;
    let trained = run(settings);
    assert_eq!((trained.counts.prefix_forward, trained.counts.prefix_backward), (IMAGES, 0));
}

#[cfg(target_os = "linux")] // elsewhere what is taken is not known, and with it what is too little
#[test]
fn little_memory_costs_passes_and_changes_no_byte() {
    let plenty = run(Settings::published());
    assert!(plenty.memory.tape_kept && plenty.memory.tape == plenty.tape_bytes);
    // what the process takes already is not known beforehand: the limit is sought that only the tape is too large for
    let allowed =
        |bytes| run_with(Settings::published(), &Options { memory: Some(bytes), ..Options::default() });
    let mut bytes = plenty.memory.expected;
    let tight = loop {
        match allowed(bytes) {
            Ok(run) if run.tape_bytes == 0 => break run,
            Ok(_) => bytes -= plenty.memory.tape / 4,
            Err(e) => {
                assert!(e.to_string().starts_with("memory: ") && e.exit_code() == 2, "{e}");
                bytes += plenty.memory.tape / 3;
            }
        }
    };
    assert!(!tight.memory.tape_kept && tight.memory.tape == plenty.memory.tape);
    assert_eq!(tight.layer, plenty.layer);
    let more = tight.counts.prefix_forward - plenty.counts.prefix_forward;
    assert_eq!(more, IMAGES * EPOCHS, "one forward pass before the site more in each step");
    let e = allowed(1 << 20).err().unwrap();
    assert!(e.to_string().starts_with("memory: 1 MiB is too little: this training takes about "), "{e}");
}

#[test]
fn the_account_of_the_time_is_complete_and_changes_nothing() {
    let plain = run(Settings::published());
    let counted = run_with(Settings::published(), &Options { profile: true, ..Options::default() }).unwrap();
    assert_eq!(counted.layer, plain.layer);
    assert!(plain.profile.is_none());
    let profile = counted.profile.unwrap();
    let shares = profile.operators.iter().map(|o| o.share).chain(profile.outside.iter().map(|o| o.share));
    assert!((shares.sum::<f64>() - 100.0).abs() < 0.01, "{profile:?}");
    assert_eq!(profile.seconds, counted.seconds);
    let joined: Vec<_> = profile.operators.iter().filter(|o| o.operator == "Conv+Relu").collect();
    assert!(joined.len() > 1 && joined.iter().all(|o| o.gflops.is_some() && !o.node.is_empty()));
    assert!(profile.outside.iter().all(|o| o.seconds > 0.0), "{:?}", profile.outside);
    assert!(profile.ceilings.gflops > 0.1 && profile.ceilings.gbytes > 0.1);
}

#[test]
fn an_adversary_at_the_cut_needs_nothing_before_the_site() {
    let mut alone = small();
    (alone.targets, alone.pool) = (Targets::Random, None);
    let trained = run(alone);
    let n = IMAGES;
    let want = Counts {
        prefix_forward: n,
        prefix_backward: 0,
        // the answers without the layer; the clean values and those after each of the three steps
        suffix_forward: n + 4 * n * EPOCHS,
        // the three inner gradients, L1 and L2 to L4
        suffix_backward: 5 * n * EPOCHS,
    };
    assert_eq!((trained.counts, trained.tape_bytes), (want, 0));
}

/// The default recipe, as short as these runs are.
fn small() -> Settings {
    let mut settings = Settings::principal();
    settings.start = Start::Principal { rank: Some(4) };
    (settings.mirror, settings.min_steps) = (false, None);
    settings
}

#[test]
fn aiming_and_the_pool_run_the_whole_network_a_few_times() {
    let trained = run(small());
    let n = IMAGES;
    // 32 images for each of ten classes: clean ones, four steps at the cut, eight of one change and eight of one bend
    // for each class
    let aimed = 320;
    // batches of 32, 32 and 16: attacked by what the most suspect class is nearest by, eight steps, or put there at
    // once; where no class stands out the second one by itself, two steps. On images of noise it is rounding that
    // decides
    let findings = trained.findings.as_ref().unwrap();
    let top = findings.nearest_first()[0];
    let score = |way: &&Measured| way.found.scores[top];
    let mut ways: Vec<_> = findings.ways.iter().filter(|way| way.way.changes_images()).collect();
    ways.sort_by(|a, b| score(b).total_cmp(&score(a)));
    let stands_out = |way: &&&Measured| score(way) >= Findings::STANDS_OUT;
    let preferred = ways.iter().find(|way| way.way.is_preferred()).filter(stands_out);
    let nearest = preferred.unwrap_or(&ways[0]);
    let one = stands_out(&&ways[0]);
    let climbs = usize::from(nearest.way.follows_layer());
    let (alone, others) = if one { (0, 80) } else { (32, 48) };
    // once more before the first step of each, for what its gradient needs
    let pool = EPOCHS * (3 * alone + (1 + 8 * climbs) * others);
    // 1,224 stamped blocks on four images, the eight that bring these farthest from their own classes on 64, and on
    // twelve the eight best of each class, of which some are the same
    let stamped = 4 * 1224 + 8 * 64;
    let finalists = trained.counts.prefix_forward.saturating_sub(n + 18 * 320 + pool + stamped + 9 * n) / 12;
    let searched = stamped + 12 * finalists;
    assert!((8..=80).contains(&finalists), "{finalists}");
    // nine filters on all images
    let searched = searched + 9 * n;
    let (forward, back) = (if climbs > 0 { 8 * others } else { others }, 8 * climbs * others);
    let want = Counts {
        prefix_forward: n + 18 * aimed + searched + pool,
        prefix_backward: 16 * aimed + EPOCHS * (2 * alone + back),
        // as without, and in each step as many images from the pool as it has
        suffix_forward: n + 21 * aimed + searched + EPOCHS * (n + 2 * alone + forward) + 5 * n * EPOCHS,
        suffix_backward: 20 * aimed + EPOCHS * (2 * alone + back) + 6 * n * EPOCHS,
    };
    assert_eq!((trained.counts, trained.tape_bytes), (want, 0));
    let findings = trained.findings.unwrap();
    assert_eq!((findings.scores.len(), findings.ways.len(), findings.images), (10, 5, 32));
}
