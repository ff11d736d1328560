//! Image files of every format.
#![no_main]

use polarizer::data::Picture;
use polarizer_fuzz::pass_over_decoders;

libfuzzer_sys::fuzz_target!(init: pass_over_decoders(), |data: &[u8]| {
    if let Ok(picture) = Picture::from_bytes("x", data) {
        let [h, w] = picture.size;
        assert!(h > 0 && w > 0 && matches!(picture.channels, 1 | 3));
        assert_eq!(picture.pixels.len(), h * w * picture.channels);
    }
});
