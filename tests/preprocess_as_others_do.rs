//! Preprocessing beside Pillow's, torchvision's, timm's and Hugging Face's: the geometry of each resize and crop, and
//! the bytes of each filter. `tests/vectors/preprocessing.json` holds what they make of pictures that are made here anew.

use std::{fs, io::Write, path::Path};

use polarizer::data::{
    Arrays, Classes, Folder, Images, Origin, Picture, Pixels, Preprocessing, Source, load,
};
use serde_json::Value;

/// The picture of `formula` in tests/scripts/preprocessing_vectors.py.
fn picture(h: u32, w: u32) -> Picture {
    let mut bytes = Vec::new();
    for (y, x, c) in (0..h).flat_map(|y| (0..w).flat_map(move |x| (0..3u32).map(move |c| (y, x, c)))) {
        let (x, y, c) = (u64::from(x), u64::from(y), u64::from(c));
        let noise = ((x * 73_856_093) ^ (y * 19_349_663) ^ (c * 83_492_791)) >> 5;
        let ramp = x * 37 + y * 61 + c * 17;
        bytes.push(if (x / 7 + y / 5) % 2 == 1 { ramp } else { noise } as u8);
    }
    Picture::of_bytes([h as usize, w as usize], 3, bytes)
}

/// (H, W, C) as an image source of one image (C, H, W).
fn source(picture: &Picture) -> Arrays {
    let Pixels::U8(bytes) = &picture.pixels else { panic!("floats") };
    let channels = picture.channels;
    let planes = (0..channels).flat_map(|c| bytes.iter().skip(c).step_by(channels).copied()).collect();
    Arrays::new("picture", Pixels::U8(planes), [channels, picture.size[0], picture.size[1]], None).unwrap()
}

/// The one image of `source` as a network of `planes` channels is fed it, before normalisation. Empty texts are not stated.
fn preprocessed(source: &dyn Source, planes: usize, parts: &[(&str, &str)]) -> polarizer::Result<Images> {
    let mut p = Preprocessing::default();
    for (name, text) in parts.iter().filter(|(_, text)| !text.is_empty()) {
        p = p.with(name, text, Origin::Given)?;
    }
    load(source, &Classes::default(), &p.target(planes, None)?)
}

fn bytes(images: &Images) -> &[u8] {
    match &images.pixels {
        Pixels::U8(bytes) => bytes,
        Pixels::F32(_) => panic!("floats"),
    }
}

/// FNV-1a.
fn digest(bytes: &[u8]) -> String {
    let h =
        bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    format!("{h:016x}")
}

/// Parts that a comparison states. The size is last: by itself it would also stretch.
const PARTS: [&str; 6] = ["resize", "crop", "interpolation", "channels", "mean", "size"];

#[test]
fn every_combination_gives_the_bytes_of_the_libraries() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/preprocessing.json");
    let vectors: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let (mut compared, mut wrong) = (0, Vec::new());
    for case in vectors["cases"].as_array().unwrap() {
        let parts = PARTS.map(|part| (part, case[part].as_str().unwrap()));
        let planes = case["planes"].as_u64().unwrap() as usize;
        for result in case["results"].as_array().unwrap() {
            let [h, w, to_h, to_w] = [0, 1, 2, 3].map(|i| result[i].as_u64().unwrap() as u32);
            let expected = result[4].as_str().unwrap();
            let ours = preprocessed(&source(&picture(h, w)), planes, &parts);
            let same = match &ours {
                Err(_) => false,
                Ok(ours) if ours.shape != [planes, to_h as usize, to_w as usize] => false,
                Ok(ours) => digest(bytes(ours)) == expected,
            };
            compared += 1;
            if !same {
                let shape = ours.map(|ours| ours.shape);
                wrong.push(format!(
                    "{} {h}x{w} to {to_h}x{to_w} {parts:?} {planes} {shape:?}",
                    case["library"]
                ));
            }
        }
    }
    assert!(compared > 1_000, "{compared}");
    assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn pictures_of_extreme_sizes_are_resized_or_refused() {
    let thin = source(&Picture::of_bytes([1, 16_384], 1, vec![7; 16_384]));
    let done = |source: &Arrays, resize, crop, size| {
        preprocessed(source, 1, &[("resize", resize), ("crop", crop), ("size", size)])
    };
    let e = done(&thin, "shortest-edge:256", "center:224", "").unwrap_err().to_string();
    assert!(e.contains("1x16384") && e.contains("256x4194304"), "{e}");
    for filter in ["nearest", "box", "lanczos", "torch-nearest", "torch-bilinear", "torch-bicubic"] {
        for (resize, crop, size) in [
            ("stretch", "none", "224"),
            ("longest-edge:224", "center:224", ""),
            ("longest-edge:1.0", "border", "224"),
            ("stretch:1x1", "none", ""),
            ("stretch:16384x1", "none", ""),
            ("none", "center", "3x16384"),
        ] {
            let parts = [("resize", resize), ("crop", crop), ("interpolation", filter), ("size", size)];
            let out = preprocessed(&thin, 1, &parts).unwrap();
            let [_, h, w] = out.shape;
            let centre = bytes(&out)[(h - 1) / 2 * w + (w - 1) / 2];
            assert_eq!(centre, 7, "{parts:?}");
        }
    }
    let high = source(&Picture::of_bytes([16_384, 1], 1, vec![7; 16_384]));
    let e = done(&high, "stretch:1x16384", "none", "").unwrap_err().to_string();
    assert!(e.contains("16384 rows of 16384 pixels"), "{e}");
    let colours = preprocessed(&high, 3, &[("resize", "stretch:16384")]);
    let e = colours.unwrap_err().to_string();
    assert!(e.contains("is 16384x1 and would become 16384x16384: 768 MiB"), "{e}");
    assert_eq!(done(&high, "stretch:16384", "center:5", "").unwrap().shape, [1, 5, 5]);
}

#[test]
fn floats_are_weighed_without_rounding() {
    let values: Vec<f32> = (0..35).map(|i| (i * i % 36) as f32 / 36.0).collect();
    let floats = Arrays::new("x", Pixels::F32(values), [1, 5, 7], None).unwrap();
    // Pillow's `Image.fromarray(values).resize((4, 3), filter)`, of which the sixth value
    for (filter, expected) in FLOATS {
        let out = preprocessed(&floats, 1, &[("interpolation", filter), ("size", "3x4")]).unwrap();
        let Pixels::F32(out) = &out.pixels else { panic!("bytes") };
        assert_eq!(out[5], *expected, "{filter}");
    }
}

const FLOATS: &[(&str, f32)] = &[
    ("nearest", 0.11111111),
    ("box", 0.06944445),
    ("bilinear", 0.27604938),
    ("hamming", 0.20943722),
    ("bicubic", 0.28580204),
    ("lanczos", 0.30849844),
];

/// Writes what tests/scripts/preprocessing_vectors.py --live asks for: of each of its jobs the shape and the bytes.
#[test]
#[ignore = "run by tests/scripts/preprocessing_vectors.py --live"]
fn beside_the_libraries_on_pictures() {
    let work = std::env::var_os("POLARIZER_PREPROCESSING").expect("a folder");
    let work = Path::new(&work);
    let folder = Folder::clean(&work.join("pictures")).unwrap();
    let pictures: Vec<Arrays> =
        (0..folder.count()).map(|row| source(&folder.picture(row).unwrap())).collect();
    let mut out = std::io::BufWriter::new(fs::File::create(work.join("ours")).unwrap());
    for job in fs::read_to_string(work.join("jobs.tsv")).unwrap().lines() {
        let [picture, planes, channels, size, resize, crop, interpolation, mean] =
            *job.split('\t').collect::<Vec<_>>()
        else {
            panic!("{job}")
        };
        let texts = [resize, crop, interpolation, channels, mean, size];
        let parts: Vec<_> = PARTS.into_iter().zip(texts).collect();
        let images =
            preprocessed(&pictures[picture.parse::<usize>().unwrap()], planes.parse().unwrap(), &parts);
        let images = images.unwrap_or_else(|e| panic!("{job}: {e}"));
        for side in images.shape {
            out.write_all(&(side as u32).to_le_bytes()).unwrap();
        }
        out.write_all(bytes(&images)).unwrap();
    }
    out.flush().unwrap();
}
