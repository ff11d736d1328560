//! Images in other forms than folders of files: arrays, data sets as they are downloaded, lists of labels. The arrays are
//! made by tests/scripts/array_files.py.

use std::{
    fs,
    path::{Path, PathBuf},
};

use polarizer::data::{self, Classes, Pixels, Role, Source};

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/arrays").join(name)
}

fn open(path: &Path) -> polarizer::Result<Box<dyn Source>> {
    data::open(path, Role::Clean)
}

/// The message with which `path` is refused.
fn refused(path: &Path) -> String {
    let e = open(path).map(|source| source.name()).unwrap_err();
    assert_eq!(e.exit_code(), 2, "{e}");
    e.to_string()
}

/// A pixel of the script's images.
fn pixel(image: usize, [y, x, c]: [usize; 3]) -> u8 {
    ((image * 37 + y * 11 + x * 5 + c * 71 + image * y * 3) % 256) as u8
}

fn image(row: usize, channels: usize) -> Vec<u8> {
    let places = (0..5).flat_map(|y| (0..6).flat_map(move |x| (0..channels).map(move |c| [y, x, c])));
    places.map(|at| pixel(row, at)).collect()
}

/// Asserts that `source` holds the script's images, as bytes or floats of these bytes.
fn assert_images(source: &dyn Source, channels: usize) {
    for row in 0..source.count() {
        let picture = source.picture(row).unwrap();
        assert_eq!((picture.size, picture.channels), ([5, 6], channels), "{}", source.row_name(row));
        let expected = image(row, channels);
        match picture.pixels {
            Pixels::U8(bytes) => assert_eq!(bytes, expected, "{}", source.row_name(row)),
            Pixels::F32(floats) => {
                let far = |(f, e): (&f32, &u8)| (f * 255.0 - f32::from(*e)).abs();
                let most = floats.iter().zip(&expected).map(far).fold(0.0, f32::max);
                assert!(floats.len() == expected.len() && most < 0.1, "{}: {most}", source.row_name(row));
            }
        }
    }
}

fn labels(source: &dyn Source) -> Option<Vec<u32>> {
    source.labels(&Classes::default()).unwrap()
}

#[test]
fn numpy_arrays_of_any_layout_and_type_are_the_same_images() {
    for (name, channels) in [
        ("nhwc-u8.npy", 3),
        ("nchw-u8-v2.npy", 3),
        ("grey-u8-v3.npy", 1),
        ("nchw-f32-big-endian.npy", 3),
        ("nhwc-i64-fortran.npy", 3),
        ("nhwc-f64-0-255.npy", 3),
    ] {
        let source = open(&vector(name)).unwrap();
        assert_eq!((source.count(), source.is_labelled(), labels(&*source)), (4, false, None), "{name}");
        assert_images(&*source, channels);
        assert_eq!(source.notes().len(), usize::from(name.contains("0-255")), "{name}");
        // what is unpacked is held: one byte for each whole number
        assert_eq!(source.memory(), if name.contains("fortran") { 4 * 5 * 6 * 3 } else { 0 }, "{name}");
    }
}

#[test]
fn floats_up_to_255_are_scaled_and_it_is_said() {
    let source = open(&vector("nhwc-f32-0-255-odd.npy")).unwrap();
    assert!(source.notes()[0].contains("divided by 255"), "{:?}", source.notes());
    let Pixels::F32(floats) = source.picture(2).unwrap().pixels else { panic!("read as bytes") };
    let expected = image(2, 3)[7];
    assert_eq!(floats[7], (f32::from(expected) + 0.25) / 255.0);
    let whole = open(&vector("nhwc-f64-0-255.npy")).unwrap();
    assert!(matches!(whole.picture(0).unwrap().pixels, Pixels::U8(_)));
}

#[test]
fn images_and_labels_are_found_by_their_names() {
    for name in ["x-y.npz", "compressed.npz", "compressed-u8.npz", "hub.safetensors", "u8.safetensors"] {
        let source = open(&vector(name)).unwrap();
        assert_images(&*source, 3);
        assert_eq!(labels(&*source).unwrap(), [1, 0, 2, 1], "{name}");
        assert!(source.is_labelled() && source.classes().is_none());
    }
    let source = open(&vector("unlabelled.npz")).unwrap();
    assert_eq!((source.count(), source.is_labelled()), (4, false));
    let source = open(&vector("x_test.npy")).unwrap();
    assert_eq!(labels(&*source).unwrap(), [1, 0, 2, 1]);
    assert!(source.name().ends_with("x_test.npy#y_test.npy"), "{}", source.name());
}

#[test]
fn which_arrays_are_meant_can_be_said() {
    let e = refused(&vector("keras.npz"));
    assert!(
        e.contains("\"x_train\" [4, 5, 6, 3], \"x_test\" [2, 5, 6, 3]") && e.contains("FILE#x_train"),
        "{e}"
    );
    for (selector, count) in [("x_test", 2), ("x_train", 4), ("x_train,y_train", 4), ("x_test,y_test", 2)] {
        let source = open(&vector(&format!("keras.npz#{selector}"))).unwrap();
        assert_images(&*source, 3);
        assert_eq!(labels(&*source).unwrap(), [1, 0, 2, 1][..count]);
        assert!(source.row_name(1).contains("#x_t"), "{}", source.row_name(1));
    }
    let e = refused(&vector("keras.npz#x_tset"));
    assert!(e.contains("did you mean \"x_test\""), "{e}");
    let e = refused(&vector("keras.npz#x_train,y_test"));
    assert!(e.contains("\"y_test\": has the shape [2, 1], which does not label 4 images"), "{e}");
    let e = refused(&vector("two-labels.npz"));
    assert!(
        e.contains("\"fine_labels\" [4], \"coarse_labels\" [4]") && e.contains("FILE#x,fine_labels"),
        "{e}"
    );
    let source = open(&vector("two-labels.npz#x,coarse_labels")).unwrap();
    assert_eq!(labels(&*source).unwrap(), [0, 0, 1, 0]);
    let source = open(&vector("nhwc-u8.npy#y_test.npy")).unwrap();
    assert_eq!(labels(&*source).unwrap(), [1, 0, 2, 1]);
}

#[test]
fn what_is_no_image_is_refused_by_what_it_is() {
    for (name, problem) in [
        ("objects.npy", "Python objects"),
        ("bool.npy", "\"|b1\""),
        ("normalised.npy", "from -2 to 2"),
        ("wide-range.npy", "to 65535; pixels must be 0 to 255"),
        ("nan.npy", "NaN"),
        ("soft-labels.npz", "\"y\": is not one-hot: row 0"),
        ("y_test.npy", "has the shape [4]"),
        ("missing.npz", "No such file"),
    ] {
        let e = refused(&vector(name));
        assert!(e.contains(problem) && e.contains(name.split('.').next().unwrap()), "{name}: {e}");
    }
    let e = data::open(&vector("unlabelled.npz"), Role::Triggered).map(|s| s.name()).unwrap_err().to_string();
    assert!(e.contains("has no labels"), "{e}");
    // bytes that are damaged behind the header are found when they are unpacked, and again for each image
    let source = open(&vector("damaged.npz")).unwrap();
    for row in [0, 3] {
        let e = source.picture(row).unwrap_err().to_string();
        assert!(e.contains("\"x\" cannot be unpacked"), "{e}");
    }
}

#[test]
fn labels_are_classes_by_number() {
    let source = open(&vector("x-y.npz")).unwrap();
    let of = |names: &[&str]| {
        let classes = Classes(names.iter().map(|n| n.to_string()).collect());
        source.labels(&classes).map(Option::unwrap).map_err(|e| e.to_string())
    };
    assert_eq!(of(&["a", "b", "c"]).unwrap(), [1, 0, 2, 1]);
    assert_eq!(of(&["0", "1", "10", "2"]).unwrap(), [1, 0, 3, 1]);
    assert!(of(&["a", "b"]).unwrap_err().contains("x-y.npz#x,y[2]: is of class 2"));
}

#[test]
fn lengths_that_lie_are_refused_before_anything_is_allocated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    let npy = |shape: &str, values: usize| {
        let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(vec![0; values]);
        bytes
    };
    for (shape, values, problem) in [
        ("(2, 4, 4, 3)", 95, "needs 96 bytes, but the file has 95"),
        ("(2, 4, 4, 3)", 97, "needs 96 bytes, but the file has 97"),
        ("(1000000, 1000, 1000, 3)", 96, "needs 3000000000000 bytes"),
        ("(4294967296, 4294967296, 4294967296, 3)", 96, "more than any file"),
        ("(0, 4, 4, 3)", 0, "no values"),
        ("()", 1, "no values"),
    ] {
        fs::write(&path, npy(shape, values)).unwrap();
        let e = refused(&path);
        assert!(e.contains(problem), "{shape}: {e}");
    }
    let whole = fs::read(vector("compressed.npz")).unwrap();
    let safe = fs::read(vector("hub.safetensors")).unwrap();
    for (name, whole) in [("a.npz", &whole), ("a.safetensors", &safe)] {
        let path = dir.path().join(name);
        for cut in (0..whole.len()).step_by(7) {
            fs::write(&path, &whole[..cut]).unwrap();
            refused(&path);
        }
        // any byte may be wrong: an error or an answer, never a panic
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            fs::write(&path, bytes).unwrap();
            if let Ok(source) = open(&path) {
                drop(source.picture(0));
            }
        }
    }
    fs::write(dir.path().join("b.safetensors"), [&u64::MAX.to_le_bytes()[..], b"{}"].concat()).unwrap();
    assert!(refused(&dir.path().join("b.safetensors")).contains("is no safetensors file"));
    let header = br#"{"x":{"dtype":"U8","shape":[4,2,2,3],"data_offsets":[0,18446744073709551615]}}"#;
    fs::write(dir.path().join("b.safetensors"), [&(header.len() as u64).to_le_bytes()[..], header].concat())
        .unwrap();
    assert!(refused(&dir.path().join("b.safetensors")).contains("lies outside the file"));
}

#[test]
fn an_array_that_changes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    fs::copy(vector("nhwc-u8.npy"), &path).unwrap();
    let source = open(&path).unwrap();
    source.picture(1).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.push(0);
    fs::write(&path, bytes).unwrap();
    assert!(source.picture(1).unwrap_err().to_string().contains("has changed"));
}
