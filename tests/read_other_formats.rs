//! Images in other forms than folders of files: arrays, data sets as they are downloaded, lists of labels. The arrays are
//! made by tests/scripts/array_files.py.

use std::{
    fs,
    path::{Path, PathBuf},
};

use polarizer::data::{self, Classes, Listed, Pixels, Role, Source};

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
fn idx_files_are_read_plain_and_gzipped() {
    for (name, memory) in [("t10k-images-idx3-ubyte", 0), ("train-images-idx3-ubyte.gz", 4 * 5 * 6)] {
        let source = open(&vector(name)).unwrap();
        assert_images(&*source, 1);
        assert_eq!(labels(&*source).unwrap(), [1, 0, 2, 1], "{name}");
        assert_eq!(source.memory(), memory + 4 * size_of::<u32>(), "{name}");
    }
}

#[test]
fn labels_of_an_array_may_be_in_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let array = dir.path().join("pictures.npy");
    fs::copy(vector("nhwc-u8.npy"), &array).unwrap();
    let table = dir.path().join("labels.csv");
    for text in ["1\n0\n2\n1\n", "label\n1\n0\n2\n1\n", "id,label\n0,1\n1,0\n2,2\n3,1\n"] {
        fs::write(&table, text).unwrap();
        let source = open(&array).unwrap();
        assert_eq!(labels(&*source).unwrap(), [1, 0, 2, 1], "{text}");
        assert!(source.name().ends_with("pictures.npy#labels.csv"));
    }
    for (text, problem) in
        [("1\n0\n", "2 rows"), ("id,label\n1,0\n0,0\n2,0\n3,0\n", "not in order"), ("1\n0\nx\n1\n", "row 3")]
    {
        fs::write(&table, text).unwrap();
        assert!(refused(&array).contains(problem), "{text}");
    }
    fs::copy(vector("y_test.npy"), dir.path().join("pictures_labels.npy")).unwrap();
    assert!(open(&array).unwrap().name().ends_with("#pictures_labels.npy"));
    fs::copy(vector("y_test.npy"), dir.path().join("pictures_targets.npy")).unwrap();
    let e = refused(&array);
    assert!(
        e.contains("pictures_labels.npy or pictures_targets.npy") && e.contains("#pictures_labels.npy"),
        "{e}"
    );
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
    let damaged = open(&vector("damaged.npz")).and_then(|source| source.picture(0)).unwrap_err().to_string();
    assert!(damaged.contains("\"x\": cannot be unpacked"), "{damaged}");
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
        // bytes that are wrong: an error or an answer, never a panic
        for at in (0..whole.len()).step_by(3) {
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
    refused(&dir.path().join("b.safetensors"));
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

/// An image of one colour: a PPM if it is called so, else a PNG, whatever its name says.
fn png(path: &Path, red: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    if path.extension().is_some_and(|e| e == "ppm") {
        fs::write(path, [&b"P6 4 4 255\n"[..], &[red, 0, 0].repeat(16)].concat()).unwrap();
        return;
    }
    let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), 4, 4);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&[red, 0, 0].repeat(16)).unwrap();
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Each image's red and the name of its class.
fn reds(source: &dyn Source) -> Vec<(u8, String)> {
    let classes = source.classes().unwrap_or_default();
    let labels = source.labels(&classes).unwrap().unwrap();
    let red = |row| match source.picture(row).unwrap().pixels {
        Pixels::U8(bytes) => bytes[0],
        Pixels::F32(_) => panic!("floats"),
    };
    let name = |label: u32| classes.0.get(label as usize).cloned().unwrap_or(label.to_string());
    (0..source.count()).map(|row| (red(row), name(labels[row]))).collect()
}

fn pairs(expected: &[(u8, &str)]) -> Vec<(u8, String)> {
    expected.iter().map(|(red, name)| (*red, name.to_string())).collect()
}

#[test]
fn a_flat_folder_is_labelled_by_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("set/images");
    for red in [1, 2, 3] {
        png(&folder.join(format!("{red}.png")), red);
    }
    png(&folder.join("sub/4.png"), 4);
    fs::write(folder.join("notes.txt"), "no image").unwrap();
    let table = dir.path().join("set/labels.csv");
    for text in [
        "file,label\n2.png,dog\nsub/4.png,cat\n1.png,dog\n",
        "Image Path;Width;Class\n./2.png;4;dog\nsub/4.png;4;cat\n1.png;4;dog\n",
        "2.png\tdog\nsub/4.png\tcat\n1.png\tdog\n",
        "dog,2.png\ncat,sub/4.png\ndog,1.png\n",
        "image_id,label\n2,dog\nsub/4,cat\n1,dog\n",
        "filename,label\nset/images/2.png,dog\nimages/sub/4.png,cat\n1.png,dog\n",
    ] {
        fs::write(&table, text).unwrap();
        let source = Listed::by_table(&folder, &table).unwrap();
        assert_eq!(reds(&source), pairs(&[(2, "dog"), (4, "cat"), (1, "dog")]), "{text}");
        assert_eq!(
            (source.classes().unwrap().0, source.passed_over()),
            (vec!["cat".into(), "dog".into()], 1)
        );
        assert!(source.notes()[0].contains("labels are names of classes"), "{:?}", source.notes());
    }
    let source = Listed::by_table(&folder, &table).unwrap();
    png(&folder.join("1.png"), 9);
    fs::File::open(folder.join("1.png")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let e = source.picture(2).unwrap_err().to_string();
    assert!(e.contains("1.png") && e.contains("changed"), "{e}");
    // whole numbers are class indices: there may be fewer than the model has classes
    fs::write(&table, "path,ClassId\n2.png,7\nsub/4.png,0\n").unwrap();
    let source = Listed::by_table(&folder, &table).unwrap();
    assert!(source.classes().is_none() && source.notes()[0].contains("class indices"));
    assert_eq!(labels(&source).unwrap(), [7, 0]);
    // a table stands for the folder that it is in
    fs::write(&table, "file,label\nimages/2.png,dog\nimages/3.png,cat\n").unwrap();
    assert_eq!(reds(&*open(&table).unwrap()), pairs(&[(2, "dog"), (3, "cat")]));
}

#[test]
fn a_table_that_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("images");
    png(&folder.join("one.png"), 1);
    png(&folder.join("two.png"), 2);
    let table = dir.path().join("labels.csv");
    for (text, problem) in [
        ("file,label\none.png,a\ntow.png,b\nthree.png,b\n", "2 of 3 listed files are not in"),
        ("file,label\ntow.png,b\n", "the first is \"tow.png\"; did you mean \"two.png\""),
        ("file,label\none.png,a\none.png,b\n", "listed twice"),
        ("file,label\n../secret.png,a\n", "not a path inside"),
        ("file,label\n/etc/passwd,a\n", "not a path inside"),
        ("file,label\none.png,\n", "image 1 of the list has no label"),
        ("file,label\n", "lists no images"),
        ("", "is empty"),
        ("a,b,c\n1,2,3\n", "no column of files"),
        ("file,b,c\n1,2,3\n", "no column of labels (label, class, ClassId) among \"file\", \"b\", \"c\""),
        ("file,label\none.png\n", "row 2 has 1 columns"),
        ("file,label\none.png,4294967296\n", "beyond"),
    ] {
        fs::write(&table, text).unwrap();
        let e = Listed::by_table(&folder, &table).unwrap_err();
        assert!(e.exit_code() == 2 && e.to_string().contains(problem), "{text}: {e}");
    }
}

#[test]
fn gtsrb_is_read_as_it_is_downloaded() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("GTSRB");
    let header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n";
    for (red, name) in [(14, "00000.ppm"), (2, "00001.ppm"), (14, "00002.ppm")] {
        png(&root.join("Final_Test/Images").join(name), red);
    }
    write(&root.join("Final_Test/Images/GT-final_test.test.csv"), header);
    let e = refused(&root);
    assert!(e.contains("GT-final_test.csv"), "{e}");
    let rows = "00000.ppm;4;4;0;0;3;3;14\n00001.ppm;4;4;0;0;3;3;2\n00002.ppm;4;4;0;0;3;3;14\n";
    write(&dir.path().join("GT-final_test.csv"), &format!("{header}{rows}"));
    for path in [root.clone(), root.join("Final_Test"), root.join("Final_Test/Images"), dir.path().to_owned()]
    {
        let source = open(&path).unwrap();
        assert_eq!(reds(&*source), pairs(&[(14, "14"), (2, "2"), (14, "14")]));
        // classes are called by numbers in the training folders, in byte order in Kaggle's
        let classes = Classes(["00001", "00002", "00014"].map(String::from).to_vec());
        assert_eq!(source.labels(&classes).unwrap().unwrap(), [2, 1, 2]);
    }
    for class in ["00000", "00001"] {
        png(&root.join("Final_Training/Images").join(class).join("00000_00000.ppm"), 5);
    }
    write(&root.join("Final_Training/Images/00000/GT-00000.csv"), header);
    let e = refused(&root);
    assert!(e.contains("Final_Training/Images or ") && e.contains("Final_Test/Images"), "{e}");
    let train = open(&root.join("Final_Training")).unwrap();
    assert_eq!(reds(&*train), pairs(&[(5, "00000"), (5, "00001")]));

    let kaggle = dir.path().join("kaggle");
    png(&kaggle.join("Test/00000.png"), 16);
    png(&kaggle.join("Test/00001.png"), 1);
    let header = "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path\n";
    write(
        &kaggle.join("Test.csv"),
        &format!("{header}53,54,6,5,48,49,16,Test/00000.png\n42,45,5,5,36,40,1,Test/00001.png\n"),
    );
    for path in ["", "Test", "Test.csv"] {
        assert_eq!(reds(&*open(&kaggle.join(path)).unwrap()), pairs(&[(16, "16"), (1, "1")]), "{path}");
    }
}

#[test]
fn tiny_imagenet_is_read_as_it_is_downloaded() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("tiny-imagenet-200");
    for (red, wnid) in [(1, "n02124075"), (2, "n01443537")] {
        png(&root.join(format!("train/{wnid}/images/{wnid}_0.JPEG")), red);
        write(&root.join(format!("train/{wnid}/{wnid}_boxes.txt")), "n_0.JPEG\t0\t10\t63\t58\n");
    }
    png(&root.join("val/images/val_0.JPEG"), 3);
    png(&root.join("val/images/val_1.JPEG"), 4);
    write(
        &root.join("val/val_annotations.txt"),
        "val_0.JPEG\tn02124075\t0\t32\t44\t62\nval_1.JPEG\tn01443537\t0\t0\t9\t9\n",
    );
    write(&root.join("wnids.txt"), "n02124075\nn01443537\n");
    let train = open(&root.join("train")).unwrap();
    // the order of ImageFolder, not that of wnids.txt
    assert_eq!(reds(&*train), pairs(&[(2, "n01443537"), (1, "n02124075")]));
    assert_eq!(train.passed_over(), 2);
    write(&root.join("words.txt"), "n01443537\tgoldfish, Carassius auratus\nn02124075\tEgyptian cat\n");
    let (cat, fish) = ("n02124075 Egyptian cat", "n01443537 goldfish, Carassius auratus");
    for path in ["val", "val/images"] {
        let val = open(&root.join(path)).unwrap();
        let classes = train.classes().unwrap();
        assert_eq!(val.labels(&classes).unwrap().unwrap(), [1, 0], "{path}");
        if path == "val" {
            assert_eq!(reds(&*val), pairs(&[(3, cat), (4, fish)]));
        }
    }
    let named = open(&root.join("train")).unwrap().classes().unwrap();
    assert_eq!(named.position("Egyptian cat"), Some(1));
    let e = refused(&root);
    assert!(e.contains("parts of a data set") && e.contains("train or ") && e.contains("val"), "{e}");
    write(&root.join("val/val_annotations.txt"), "val_7.JPEG\tn02124075\t0\t32\t44\t62\n");
    assert!(refused(&root.join("val")).contains("\"val_7.JPEG\" is not in"));
}

#[test]
fn the_parts_of_a_data_set_are_named() {
    // as TensorFlow Datasets and torchvision lay folders out: <root>/<split>/<class>/<file>
    let dir = tempfile::tempdir().unwrap();
    for part in ["train", "test", "validation"] {
        png(&dir.path().join(part).join("cat/1.png"), 1);
        png(&dir.path().join(part).join("dog/1.png"), 2);
    }
    let e = refused(dir.path());
    assert!(e.contains("test or ") && e.contains("validation"), "{e}");
    assert_eq!(reds(&*open(&dir.path().join("train")).unwrap()), pairs(&[(1, "cat"), (2, "dog")]));
    let e = refused(&vector(""));
    assert!(e.contains("holds files of arrays") && e.contains("keras.npz"), "{e}");
    // a class may be called like a part
    let toys = tempfile::tempdir().unwrap();
    png(&toys.path().join("train/1.png"), 1);
    png(&toys.path().join("test/1.png"), 2);
    assert_eq!(reds(&*open(toys.path()).unwrap()), pairs(&[(2, "test"), (1, "train")]));
}
