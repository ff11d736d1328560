//! Files that state preprocessing and class names: the first byte says which kind of file the others are.
#![no_main]

use std::path::Path;

use polarizer::data::{Preprocessing, Stated};

const NAMES: [&str; 3] = ["preprocessor_config.json", "config.json", "transforms.txt"];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(stated) = Stated::parse(Path::new(NAMES[usize::from(*kind) % NAMES.len()]), text) {
        let (whole, _) = Preprocessing::default().completed_by(&stated).expect("what was read is valid");
        let _ = whole.check();
    }
});
