//! Training computes what the method needs and nothing twice: passes over images, counted.

use std::path::Path;

use polarizer::{
    graph::Graph,
    onnx::Model,
    site,
    train::{AdversaryKind, Counts, Normalisation, Samples, Settings, Trained, Trainer},
};

/// Images of noise: how many passes there are does not depend on what they show.
const IMAGES: usize = 80;
const EPOCHS: usize = 2;

fn run(settings: Settings) -> Trained {
    let model = Model::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/model.onnx")).unwrap();
    let graph = Graph::lower(&model, &[1, 3, 32, 32]).unwrap();
    let place = site::resolve(&model, &graph, None).unwrap().place;
    let pixels: Vec<f32> = (0..IMAGES as u32 * 3072)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0)
        .collect();
    let samples = Samples { pixels: &pixels, labels: &[] };
    let normalisation = Normalisation { mean: vec![0.5; 3], std: vec![0.25; 3] };
    // stop_share 2: the adversary never stops early, so that the counts are known
    let settings = Settings { warmup: 1, epochs: EPOCHS, batch: 32, stop_share: 2.0, ..settings };
    Trainer::prepare(&model, place, [3, 32, 32], normalisation, samples, None, settings, &mut ())
        .unwrap()
        .train(&mut ())
        .unwrap()
}

#[test]
fn a_step_needs_two_forward_and_two_backward_passes() {
    let trained = run(Settings::default());
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
    let trained = run(Settings { adversary: AdversaryKind::None, ..Settings::default() });
    assert_eq!((trained.counts.prefix_forward, trained.counts.prefix_backward), (IMAGES, 0));
}

#[test]
fn an_adversary_at_the_cut_needs_nothing_before_the_site() {
    let trained = run(Settings { inner_steps: 3, ..Settings::latent() });
    let n = IMAGES;
    let want = Counts {
        prefix_forward: n,
        prefix_backward: 0,
        // the answers without the layer; the warm-up; the clean values and those after each of the three steps
        suffix_forward: n + n + 4 * n * EPOCHS,
        // the warm-up; the three inner gradients, L1 and L2 to L4
        suffix_backward: n + 5 * n * EPOCHS,
    };
    assert_eq!((trained.counts, trained.tape_bytes), (want, 0));
}
