//! Zip archives of image folders: layouts, what is refused, and that nothing of it is trusted. All are made here.

use std::{
    fs,
    io::{Cursor, Write},
    path::{Path, PathBuf},
};

use polarizer::data::{Classes, Picture, Pixels, Role, Source, ZipFolder, open};
use rayon::prelude::*;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// A grey PNG of 4x4 pixels of one value.
fn png(value: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(Cursor::new(&mut bytes), 4, 4);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(&[value; 16]).unwrap();
    bytes
}

/// An archive of these members; a name that ends with a slash is a folder.
fn archive(members: &[(&str, Vec<u8>)], method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, content) in members {
        if name.ends_with('/') {
            writer.add_directory(*name, options).unwrap();
        } else {
            writer.start_file(*name, options).unwrap();
            writer.write_all(content).unwrap();
        }
    }
    writer.finish().unwrap().into_inner()
}

fn deflated(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    archive(members, CompressionMethod::Deflated)
}

struct Written(tempfile::TempDir);

impl Written {
    fn new(bytes: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("set.zip"), bytes).unwrap();
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("set.zip")
    }
}

fn value(picture: polarizer::Result<Picture>) -> u8 {
    match picture.unwrap().pixels {
        Pixels::U8(bytes) => bytes[0],
        Pixels::F32(_) => panic!("decoded as floats"),
    }
}

/// Names of the classes, and each image's value and label.
fn read(bytes: &[u8], role: Role) -> polarizer::Result<(Vec<String>, Vec<u8>, Option<Vec<u32>>)> {
    let written = Written::new(bytes);
    let source = open(&written.path(), role)?;
    let classes = source.classes().unwrap_or_default();
    let values = (0..source.count()).map(|row| value(source.picture(row))).collect();
    let labels = source.labels(&classes)?;
    Ok((classes.0, values, labels))
}

fn refused(bytes: &[u8]) -> String {
    let e = read(bytes, Role::Clean).unwrap_err();
    assert_eq!(e.exit_code(), 2, "{e}");
    e.to_string()
}

/// Replaces a text by one as long wherever it stands.
fn replaced(mut bytes: Vec<u8>, old: &[u8], new: &[u8]) -> Vec<u8> {
    for at in 0..bytes.len() - old.len() {
        if bytes[at..].starts_with(old) {
            bytes[at..at + old.len()].copy_from_slice(new);
        }
    }
    bytes
}

#[test]
fn class_folders_are_read_wherever_they_stand() {
    for (around, method) in [
        ("", CompressionMethod::Stored),
        ("set/", CompressionMethod::Deflated),
        ("a/b/", CompressionMethod::Deflated),
    ] {
        let names = ["dog/1.png", "cat/2.png", "cat/more/3.png", "cat/Thumbs.db", "LICENSE.txt", ".DS_Store"];
        let members: Vec<(String, Vec<u8>)> =
            names.iter().zip(0..).map(|(name, i)| (format!("{around}{name}"), png(i))).collect();
        let members: Vec<(&str, Vec<u8>)> = members.iter().map(|(n, c)| (n.as_str(), c.clone())).collect();
        let (classes, values, labels) = read(&archive(&members, method), Role::Clean).unwrap();
        assert_eq!(classes, ["cat", "dog"], "{around}");
        assert_eq!((values, labels.unwrap()), (vec![1, 2, 0], vec![0, 0, 1]));
    }
    let mac = [("set/cat/1.png", png(1)), ("set/dog/1.png", png(2)), ("__MACOSX/set/cat/._1.png", png(3))];
    let written = Written::new(&deflated(&mac));
    let source = ZipFolder::open(&written.path(), Role::Clean).unwrap();
    assert_eq!((source.count(), source.passed_over()), (2, 1));
}

#[test]
fn files_without_class_folders_are_unlabelled() {
    for around in ["", "images/"] {
        let names = [format!("{around}b.png"), format!("{around}a.png")];
        let zip = deflated(&[(&names[0], png(1)), (&names[1], png(2))]);
        let (classes, values, labels) = read(&zip, Role::Clean).unwrap();
        assert_eq!((classes.len(), values, labels), (0, vec![2, 1], None));
    }
    // triggered images are of a true class
    let (classes, _, labels) = read(&deflated(&[("cat/1.png", png(1))]), Role::Triggered).unwrap();
    assert_eq!((classes, labels.unwrap()), (vec!["cat".to_owned()], vec![0]));
    assert!(read(&deflated(&[("1.png", png(1))]), Role::Triggered).is_err());
}

#[test]
fn archives_of_the_wrong_form_are_refused() {
    let cat = || ("cat/1.png", png(1));
    let dog = || ("dog/1.png", png(2));
    for (zip, expected) in [
        (deflated(&[("notes.txt", b"x".to_vec())]), "no images"),
        (deflated(&[cat(), ("dog/", vec![])]), "class folder \"dog\" without images"),
        (deflated(&[cat(), ("dog/x.txt", vec![])]), "\"dog\" without images; 1 file that is no image"),
        (deflated(&[cat(), dog(), ("x.png", png(1))]), "x.png is an image next to class folders"),
        (deflated(&[("train/cat/1.png", png(1)), ("test/cat/1.png", png(1))]), "parts of a data set"),
        (deflated(&[cat(), ("../1.png", png(1))]), "leads out of the archive"),
        (replaced(deflated(&[cat(), dog()]), b"dog/1.png", b"/og/1.png"), "leads out of the archive"),
        (replaced(deflated(&[cat(), dog()]), b"dog/1.png", b"C:\\/1.png"), "leads out of the archive"),
        (replaced(deflated(&[cat(), dog()]), b"dog/1.png", b"cat/1.png"), "two members of the same name"),
        (b"PK\x03\x04 no more".to_vec(), "is no whole zip archive"),
    ] {
        let e = refused(&zip);
        assert!(e.contains(expected), "{expected}: {e}");
    }
    let mut link = ZipWriter::new(Cursor::new(Vec::new()));
    link.add_symlink("cat/1.png", "/etc/passwd", SimpleFileOptions::default()).unwrap();
    assert!(refused(&link.finish().unwrap().into_inner()).contains("is a link"));
}

#[test]
fn damaged_members_are_named() {
    let zip = archive(&[("cat/1.png", png(1)), ("dog/1.png", png(2))], CompressionMethod::Stored);
    let picture = |bytes: &[u8]| {
        let written = Written::new(bytes);
        let source = ZipFolder::open(&written.path(), Role::Clean)?;
        source.picture(0).map(|_| ())
    };
    picture(&zip).unwrap();
    let mut flipped = zip.clone();
    let at = flipped.windows(4).position(|four| four == b"IDAT").unwrap();
    flipped[at] ^= 1;
    let e = picture(&flipped).unwrap_err().to_string();
    assert!(e.contains("set.zip/cat/1.png") && e.contains("size or checksum is wrong"), "{e}");
    // the directory at the end is whole, the start is not
    let mut moved = zip.clone();
    moved[0] = b'X';
    assert!(picture(&moved).unwrap_err().to_string().contains("no header"));
    assert!(picture(&zip[..zip.len() - 30]).unwrap_err().to_string().contains("is no whole zip archive"));
}

#[test]
fn a_member_cannot_claim_more_than_it_can_hold() {
    let zip = deflated(&[("cat/1.png", png(1)), ("dog/1.png", png(2))]);
    let directory = zip.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
    let with_size = |size: u32| {
        let mut zip = zip.clone();
        zip[directory + 24..directory + 28].copy_from_slice(&size.to_le_bytes());
        zip
    };
    assert!(refused(&with_size(1 << 30)).contains("has impossible sizes"));
    let zeros =
        archive(&[("cat/1.png", vec![0; 65 << 20]), ("dog/1.png", png(2))], CompressionMethod::Deflated);
    assert!(refused(&zeros).contains("larger than 64 MiB"));
    // more than it says: unpacked to what it says and no further
    let written = Written::new(&with_size(10));
    let source = ZipFolder::open(&written.path(), Role::Clean).unwrap();
    assert!(source.picture(0).unwrap_err().to_string().contains("size or checksum is wrong"));
}

#[test]
fn members_are_read_in_parallel_and_changes_are_seen() {
    let names: Vec<String> = (0..200).map(|i| format!("{}/{i:03}.png", ["cat", "dog"][i % 2])).collect();
    let members: Vec<(&str, Vec<u8>)> =
        names.iter().zip(0..).map(|(name, i)| (name.as_str(), png(i))).collect();
    let written = Written::new(&deflated(&members));
    let source = ZipFolder::open(&written.path(), Role::Clean).unwrap();
    let rows: Vec<usize> = (0..200).collect();
    let values: Vec<u8> = rows.par_iter().map(|&row| value(source.picture(row))).collect();
    let wanted: Vec<u8> = (0..200).step_by(2).chain((1..200).step_by(2)).map(|v| v as u8).collect();
    assert_eq!(values, wanted);
    assert!(source.row_name(0).ends_with("set.zip/cat/000.png"));
    let two = Classes(vec!["bird".into(), "dog".into()]);
    assert!(source.labels(&two).unwrap_err().to_string().contains("class \"cat\" is not one of the 2"));
    append(&written.path());
    assert!(source.picture(0).unwrap_err().to_string().contains("has changed"));
}

fn append(path: &Path) {
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"x").unwrap();
}
