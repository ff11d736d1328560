//! Arrays: the first byte says which kind of file the others are.
#![no_main]

use polarizer::data::{ArrayFile, Role};
use polarizer_fuzz::{read, with_file};

const NAMES: [&str; 5] = ["x.npy", "x.npz", "x.safetensors", "train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    with_file(NAMES[usize::from(*kind) % NAMES.len()], data, |path| {
        if let Ok(source) = ArrayFile::open(path, Role::Clean) {
            read(&source);
        }
    });
});
