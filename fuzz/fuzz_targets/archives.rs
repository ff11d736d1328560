//! Zip archives of image folders.
#![no_main]

use polarizer::data::{Role, ZipFolder};
use polarizer_fuzz::{pass_over_decoders, read, with_file};

libfuzzer_sys::fuzz_target!(init: pass_over_decoders(), |data: &[u8]| {
    with_file("x.zip", data, |path| {
        for role in [Role::Clean, Role::Triggered] {
            if let Ok(source) = ZipFolder::open(path, role) {
                read(&source);
            }
        }
    });
});
