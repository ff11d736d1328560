//! The library's steps, one after the other: `cargo run --release --example purify -- MODEL OUT DATA_DIR`.
//!
//! The command does more: it holds images out, checks the original's accuracy, verifies what it wrote with tract and puts
//! it in place only then.

use std::path::Path;

use polarizer::{
    data::{Folder, Preprocessing},
    graph::Graph,
    onnx::Model,
    rewrite::{self, Provenance},
    site,
    train::{EpochRecord, Event, Normalisation, Observer, Options, Samples, Settings, Trainer},
    verify::diff::structural_diff,
};

struct Print;

impl Observer for Print {
    fn event(&mut self, event: Event<'_>) {
        if let Event::Epoch(EpochRecord { phase, epoch, loss, .. }) = event {
            println!("{phase:?} {epoch}: loss {loss:.4}");
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, out, data] = &args[..] else { return Err("MODEL OUT DATA_DIR".into()) };

    // The images, as pixels in [0, 1], and how they become the network's input.
    let preprocessing = Preprocessing::preset("cifar10")?;
    let folder = Folder::clean(Path::new(data))?;
    let images = folder.load(&folder.classes(), &preprocessing.target(3, None)?)?;
    let pixels = images.pixels(&(0..images.len()).collect::<Vec<_>>());
    let normalisation = Normalisation {
        mean: (0..3).map(|c| preprocessing.mean_of(c)).collect(),
        std: (0..3).map(|c| preprocessing.std_of(c)).collect(),
    };

    // Where the layer goes.
    let original = Model::read(Path::new(model))?;
    let [c, h, w] = images.shape;
    let graph = Graph::lower(&original, &[1, c, h, w])?;
    let site = site::preferred(&original, &graph)?;
    println!("site {} ({})", site.text, site.why);

    // The layer.
    let settings = Settings::principal();
    let provenance = Provenance::new(site.text.clone(), settings.pairs(images.shape));
    let samples = Samples { pixels: &pixels, labels: images.labels() };
    let place = site.place.clone();
    let trainer = Trainer::prepare(
        &original,
        place,
        images.shape,
        normalisation,
        samples,
        None,
        settings,
        &Options::default(),
        &mut Print,
    )?;
    println!("the original answers {:.1} % of the clean images right", trainer.original_accuracy());
    let trained = trainer.train(&mut Print)?;

    // The file: the original's bytes plus the layer, and the proof of that.
    let bytes = rewrite::insert(&original, &site.place, &trained.layer, &provenance)?;
    let purified = Model::from_bytes(bytes.clone(), out, None)?;
    structural_diff(&original, &purified)?;
    assert_eq!(rewrite::revert(&bytes, out)?, original.bytes());
    rewrite::write_atomically(Path::new(out), &bytes, false)?;
    println!("{out} written");
    Ok(())
}
