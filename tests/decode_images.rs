//! Image files of every format against Pillow's values (`tests/scripts/odd_images.py`), exactly but for JPEG, and what is
//! left of them when they are damaged: nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use polarizer::data::{Picture, Pixels};
use safetensors::SafeTensors;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/images")
}

/// Name and content of each file.
fn files() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder()).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_file() && !name.ends_with(".safetensors") {
            all.push((name, fs::read(entry.path()).unwrap()));
        }
    }
    all.sort();
    assert!(all.len() > 80);
    all
}

/// Largest difference to Pillow. JPEG decoders differ in rounding, and at the edges of enlarged colours: of narrow
/// drawings that is all there is.
fn allowed(name: &str) -> u8 {
    match name {
        "small-1x9.jpg" | "small-2x2.jpg" | "small-3x1.jpg" => 21,
        _ if name.ends_with(".jpg") => 3,
        _ => 0,
    }
}

/// As (H, W, RGB).
fn rgb(picture: Picture) -> ([usize; 2], Vec<u8>) {
    let Pixels::U8(bytes) = picture.pixels else { panic!("decoded as floats") };
    let bytes = if picture.channels == 1 { bytes.iter().flat_map(|&v| [v; 3]).collect() } else { bytes };
    (picture.size, bytes)
}

/// Why these bytes are refused.
fn problem(name: &str, bytes: &[u8]) -> String {
    match Picture::from_bytes(name, bytes) {
        Ok(_) => panic!("{name} is accepted"),
        Err(e) => {
            assert_eq!(e.exit_code(), 2, "{e}");
            e.to_string()
        }
    }
}

#[test]
fn every_format_gives_pillows_values() {
    let bytes = fs::read(folder().join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let files = files();
    assert_eq!(files.len(), expected.len());
    for (name, content) in files {
        let wanted = expected.tensor(&name).unwrap();
        let (size, values) = rgb(Picture::from_bytes(&name, &content).unwrap());
        assert_eq!(size, wanted.shape()[..2], "{name}");
        let most = values.iter().zip(wanted.data()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(most <= allowed(&name), "{name} differs from Pillow by {most}");
    }
}

#[test]
fn a_file_that_lacks_a_part_is_refused_whatever_lacks() {
    for (name, content) in files() {
        // what follows the end of the image is not part of it, and a BMP's last row may lack its padding
        let whole = match name.as_str() {
            "trailing.jpg" => content.len() - 6,
            _ if name.ends_with(".bmp") => content.len() - 3,
            _ => content.len(),
        };
        // behind the pixels a TIFF file may hold other pages, or what its writer left there
        // and numbers in ASCII may lose their last digit
        let rest = match name.as_str() {
            "pages.tif" => 40..81,
            _ if name.starts_with("plain") => 10..81,
            _ => 1..81,
        };
        for percent in rest {
            problem(&format!("{name} without {percent} %"), &content[..whole * (100 - percent) / 100]);
        }
        if name.ends_with(".jpg") {
            for bytes in 1..20 {
                problem(&format!("{name} without its last {bytes} bytes"), &content[..whole - bytes]);
            }
        }
    }
}

#[test]
fn a_wrong_checksum_is_damage() {
    for (name, content) in files().into_iter().filter(|(name, _)| name.ends_with(".png")) {
        let data = content.windows(4).position(|four| four == b"IDAT").unwrap();
        let mut flipped = content.clone();
        flipped[data + 12] ^= 1;
        assert!(problem(&name, &flipped).contains("is damaged"));
    }
}

#[test]
fn what_no_file_of_this_size_can_hold_is_refused_before_it_is_unpacked() {
    let vector = |name: &str| fs::read(folder().join(name)).unwrap();
    let mut jpeg = vector("baseline-420.jpg");
    let frame = jpeg.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x3f, 0xff, 0x3f, 0xff]);
    assert!(problem("bomb.jpg", &jpeg).contains("MiB to decode"));
    jpeg[frame + 5] = 0xff;
    assert!(problem("bomb.jpg", &jpeg).contains("16384 pixels a side"));
    assert!(problem("bomb.ppm", b"P6 16000 16000 255\n").contains("MiB to decode"));
    let mut bmp = vector("RGB.bmp");
    bmp[18..26].copy_from_slice(&[0, 0x3f, 0, 0, 0, 0x3f, 0, 0]);
    assert!(problem("bomb.bmp", &bmp).contains("MiB to decode"));
}

#[test]
fn formats_that_are_not_read_are_called_by_their_names() {
    let vector = |name: &str| fs::read(folder().join(name)).unwrap();
    for (content, name) in [
        (&b"GIF89a"[..], "a GIF image"),
        (b"<html>", "an HTML page"),
        (b"\0\0\0\x1cftypheic", "a HEIC image"),
        (b"\0\0\0\x1cftypavif", "an AVIF image"),
        (b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\0\0\0\0\0\0ANIM\x06\0\0\0\0\0\0\0\0\0", "damaged"),
    ] {
        assert!(problem("x.jpg", content).contains(name));
    }
    let mut jpeg = vector("baseline-420.jpg");
    let frame = jpeg.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
    for (marker, name) in [(0xc9, "arithmetic codes"), (0xc3, "lossless"), (0xc5, "hierarchical")] {
        jpeg[frame + 1] = marker;
        assert!(problem("x.jpg", &jpeg).contains(name));
    }
}

#[test]
fn what_a_decoder_would_read_wrongly_is_refused_by_name() {
    for (start, reason) in [
        ("scans", "colours in separate scans"),
        ("coarser", "first colour component is coarser"),
        ("reversed", "bits of its bytes in reverse"),
        ("fax", "that is not read"),
    ] {
        let entries = fs::read_dir(folder().join("refused")).unwrap().map(|entry| entry.unwrap().path());
        let files = entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(start));
        let problems: Vec<_> = files.map(|path| problem(start, &fs::read(path).unwrap())).collect();
        assert!(
            !problems.is_empty() && problems.iter().all(|problem| problem.contains(reason)),
            "{problems:?}"
        );
    }
}
