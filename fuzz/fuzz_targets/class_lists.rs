//! Lists of classes: text, synsets, JSON.
#![no_main]

use polarizer::data::Classes;
use polarizer_fuzz::with_file;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for name in ["x.txt", "x.json"] {
        with_file(name, data, |path| {
            if let Ok(classes) = Classes::from_file(path) {
                assert!(classes.len() >= 2);
            }
        });
    }
});
