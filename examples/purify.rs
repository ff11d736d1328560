//! Purifies a model with CIFAR-10's preprocessing: `cargo run --release --example purify -- MODEL OUT DATA_DIR`.
//!
//! What it writes is checked as what the command writes is, and the same to the byte.

use std::path::Path;

use polarizer::{
    data::{Folder, Preprocessing},
    onnx::Model,
    pipeline::{self, Job, RunOptions},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, out, data] = &args[..] else { return Err("MODEL OUT DATA_DIR".into()) };

    let model = Model::read(Path::new(model))?;
    let images = Folder::clean(Path::new(data))?;
    let preprocessing = Preprocessing::preset("cifar10")?;
    let job = Job { preprocessing, ..Job::new(&model) }.with_images(&images);
    let purified = pipeline::purify(&job, &RunOptions::default(), &mut ())?;

    let (before, after) = (purified.outcome.before.acc, purified.outcome.after.acc);
    println!("{}; held-out accuracy {before:?} to {after:?} %", purified.outcome.site);
    for finding in &purified.outcome.findings {
        println!("{}: {}", finding.rule.name(), finding.message);
    }
    purified.save(Path::new(out), false)?;
    Ok(())
}
