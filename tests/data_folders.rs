//! Image folders: layouts, errors, decoding and resizing. All images are generated here.

use std::{
    fs,
    path::{Path, PathBuf},
};

use polarizer::data::{Classes, Crop, Extent, Folder, Images, Pixels, Preprocessing, Resize, Source, Target};

/// Eight by eight, as they are.
fn rgb8() -> Target {
    Target::of(3, Some([8, 8]))
}

/// One PNG of one colour, whatever the ending of its name.
fn image(path: &Path, [h, w]: [u32; 2], colour: [u8; 3]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), w, h);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&colour.repeat((w * h) as usize)).unwrap();
}

/// Two classes of three 8x8 images.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (class, red) in [("cat", 10), ("dog", 200)] {
        for i in 0..3u8 {
            image(&dir.path().join(class).join(format!("{i}.png")), [8, 8], [red + i, 0, 255]);
        }
    }
    dir
}

fn load(dir: &Path, target: &Target) -> polarizer::Result<Images> {
    let folder = Folder::clean(dir)?;
    folder.load(&folder.classes(), target)
}

/// The 8-bit values that a decoder gave.
fn bytes(images: &Images) -> &[u8] {
    match &images.pixels {
        Pixels::U8(bytes) => bytes,
        Pixels::F32(_) => panic!("decoded as floats"),
    }
}

/// The message of the error that `dir` must give, and its exit code must be 2.
fn refused(dir: &Path, target: &Target) -> String {
    let e = load(dir, target).unwrap_err();
    assert_eq!(e.exit_code(), 2, "{e}");
    e.to_string()
}

#[test]
fn images_come_in_the_order_of_names_with_their_classes() {
    let dir = folder();
    image(&dir.path().join("Zebra/a.png"), [8, 8], [1, 2, 3]); // upper case sorts before lower case
    let f = Folder::clean(dir.path()).unwrap();
    assert_eq!(f.classes().0, ["Zebra", "cat", "dog"]);
    let images = f.load(&f.classes(), &rgb8()).unwrap();
    assert_eq!(images.labels(), [0, 1, 1, 1, 2, 2, 2]);
    assert_eq!(images.shape, [3, 8, 8]);
    assert_eq!(images.len(), 7);
    // planes, not interleaved
    assert_eq!(&bytes(&images)[..64], [1; 64]);
    assert_eq!(&bytes(&images)[64..128], [2; 64]);
    let x = images.pixels(&[2]);
    assert_eq!((x.len(), x[0], x[64], x[128]), (192, 11.0 / 255.0, 0.0, 1.0));
    let p = Preprocessing::new(vec![0.5], vec![0.25], None).unwrap();
    assert_eq!(images.normalized(&[2], &p)[128], 2.0);
    let some = images.select(&[6, 0]);
    assert_eq!((some.labels(), &some.names[1]), (&[2, 0][..], &images.names[0]));
    assert_eq!(some.pixels(&[0]), images.pixels(&[6]));
}

#[test]
fn the_order_does_not_depend_on_threads() {
    let dir = folder();
    for i in 0..40 {
        image(&dir.path().join(format!("cat/more{i}.png")), [8, 8], [i, i, i]);
    }
    let with = |n| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        pool.install(|| load(dir.path(), &rgb8()).unwrap())
    };
    assert_eq!(with(1), with(7));
}

#[test]
fn a_flat_folder_is_unlabelled() {
    let dir = tempfile::tempdir().unwrap();
    image(&dir.path().join("b.png"), [8, 8], [9, 9, 9]);
    image(&dir.path().join("a.JPEG"), [8, 8], [7, 7, 7]);
    let f = Folder::clean(dir.path()).unwrap();
    assert!(!f.is_labelled());
    let images = f.load(&Classes::default(), &rgb8()).unwrap();
    assert!(images.labels.is_none());
    assert!(images.names[0].ends_with("a.JPEG"));
    assert!(Folder::triggered(dir.path()).unwrap_err().to_string().contains("true class"));
}

#[test]
fn colour_becomes_grey_where_the_network_is_grey() {
    let dir = tempfile::tempdir().unwrap();
    image(&dir.path().join("rgb.png"), [8, 8], [40, 120, 240]);
    let one = Target { channels: 1, ..rgb8() };
    let grey = Folder::clean(dir.path()).unwrap().load(&Classes::default(), &one).unwrap();
    assert_eq!(grey.shape, [1, 8, 8]);
    assert_eq!(bytes(&grey), [110; 64]); // (40 * 19595 + 120 * 38470 + 240 * 7471) / 65536
}

#[test]
fn sizes_are_kept_resized_or_refused_as_asked() {
    let dir = folder();
    image(&dir.path().join("dog/wide.png"), [8, 12], [1, 1, 1]);
    let e = refused(dir.path(), &rgb8());
    assert!(e.contains("wide.png") && e.contains("8x12") && e.contains("8x8"), "{e}");
    // no size at all: the first image's counts
    let e = refused(dir.path(), &Target { size: None, ..rgb8() });
    assert!(e.contains("wide.png"), "{e}");
    let steps = [
        (Resize::Stretch(Extent::Target), Crop::None),
        (Resize::ShortestEdge(Extent::CropPct(0.875)), Crop::Center(None)),
    ];
    for (resize, crop) in steps {
        let images = load(dir.path(), &Target { size: Some([6, 6]), resize, crop, ..rgb8() }).unwrap();
        assert_eq!(images.shape, [3, 6, 6]);
        assert_eq!(bytes(&images).len(), 7 * 3 * 36);
    }
    fs::remove_file(dir.path().join("dog/wide.png")).unwrap();
    assert_eq!(load(dir.path(), &Target { size: None, ..rgb8() }).unwrap().shape, [3, 8, 8]);
}

#[test]
fn what_is_no_image_is_passed_over_and_counted() {
    let dir = folder();
    let litter = [
        ".DS_Store",
        ".git/config",
        "LICENSE.txt",
        "labels.csv",
        "__MACOSX/cat/._0.png",
        "cat/.DS_Store",
        "cat/._0.png",
        "cat/Thumbs.DB",
        "cat/Thumbs.db",
        "cat/desktop.ini",
        "cat/notes",
        "cat/box.json",
        "dog/@eaDir/0.png/thumb.png",
    ];
    for name in litter {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    let f = Folder::clean(dir.path()).unwrap();
    assert_eq!((f.classes().0, f.len()), (vec!["cat".to_owned(), "dog".into()], 6));
    assert_eq!(f.passed_over(), litter.len());
    assert_eq!(load(dir.path(), &rgb8()).unwrap().len(), 6);
    for i in 0..3 {
        fs::remove_file(dir.path().join(format!("cat/{i}.png"))).unwrap();
    }
    let e = refused(dir.path(), &rgb8());
    assert!(
        e.contains("cat: class folder without images; 7 files that are no images were passed over"),
        "{e}"
    );
}

#[test]
fn folders_in_class_folders_belong_to_the_class() {
    let dir = folder();
    for name in ["cat/2024/a.png", "cat/2024/may/b.webp", "dog/old/c.tif"] {
        image(&dir.path().join(name), [8, 8], [1, 1, 1]);
    }
    assert_eq!(load(dir.path(), &rgb8()).unwrap().labels(), [0, 0, 0, 0, 0, 1, 1, 1, 1]);
    let deep = ["dog"; 20].join("/");
    image(&dir.path().join(deep).join("a.png"), [8, 8], [1, 1, 1]);
    assert!(refused(dir.path(), &rgb8()).contains("more than 16 deep"));
}

#[test]
fn unreadable_images_are_named() {
    let dir = folder();
    let bad = dir.path().join("dog/bad.png");
    let good = fs::read(dir.path().join("dog/0.png")).unwrap();
    for (content, expected) in [
        (&b""[..], "is empty"),
        (b"not an image", "is text"),
        (b"\x01\x02 not an image", "is not an image"),
        (b"<!DOCTYPE html><html>", "is an HTML page"),
        (
            b"GIF89a\x01\x00\x01\x00\x00\x00\x00",
            "is a GIF image, which is not read as an image; convert it to PNG",
        ),
        (b"\0\0\0\x1cftypheic", "is a HEIC image"),
        (b"\0\0\0\x1cftypavif", "is an AVIF image"),
        (&good[..good.len() / 2], "is cut short"),
        (b"\xff\xd8\xff\xe0 no more", "is cut short"),
    ] {
        fs::write(&bad, content).unwrap();
        let e = refused(dir.path(), &rgb8());
        assert!(e.contains("bad.png") && e.contains(expected), "{e}");
    }
}

#[test]
fn a_file_that_changes_after_it_was_listed_is_not_used() {
    let dir = folder();
    let f = Folder::clean(dir.path()).unwrap();
    image(&dir.path().join("dog/1.png"), [9, 9], [0, 7, 0]);
    let changed = fs::File::options().append(true).open(dir.path().join("dog/1.png")).unwrap();
    changed.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let e = f.load(&f.classes(), &rgb8()).unwrap_err().to_string();
    assert!(e.contains("1.png: changed while it was in use"), "{e}");
}

#[test]
fn a_decompression_bomb_is_refused_before_it_is_unpacked() {
    let dir = folder();
    // a PNG header that promises 100,000 x 100,000 pixels
    let mut png = fs::read(dir.path().join("cat/0.png")).unwrap();
    png[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]);
    let crc = png[12..29].iter().fold(!0u32, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 })
    });
    png[29..33].copy_from_slice(&(!crc).to_be_bytes());
    fs::write(dir.path().join("cat/bomb.png"), png).unwrap();
    let e = refused(dir.path(), &rgb8());
    assert!(e.contains("bomb.png") && e.contains("imit"), "{e}");
}

#[test]
fn folders_of_the_wrong_form_are_refused() {
    let check = |make: &dyn Fn(&Path), expected: &str| {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        let e = refused(dir.path(), &rgb8());
        assert!(e.contains(expected), "{e}");
    };
    let picture = |path: PathBuf| image(&path, [8, 8], [0, 0, 0]);
    check(&|_| {}, "no images");
    check(&|d| fs::create_dir(d.join("cat")).unwrap(), "no images");
    check(&|d| picture(d.join("cat/a.png")), "only one class (\"cat\")");
    check(
        &|d| {
            picture(d.join("cat/a.png"));
            fs::create_dir(d.join("dog")).unwrap();
        },
        "class folder without images",
    );
    check(
        &|d| {
            picture(d.join("cat/a.png"));
            picture(d.join("b.png"));
        },
        "next to class folders",
    );
    let missing = tempfile::tempdir().unwrap();
    assert_eq!(load(&missing.path().join("none"), &rgb8()).unwrap_err().exit_code(), 2);
}

#[test]
fn a_triggered_folder_may_lack_classes_but_not_invent_them() {
    let dir = tempfile::tempdir().unwrap();
    image(&dir.path().join("dog/a.png"), [8, 8], [0, 0, 0]);
    fs::create_dir(dir.path().join("cat")).unwrap();
    let f = Folder::triggered(dir.path()).unwrap();
    let classes = Classes(["bird", "cat", "dog"].map(String::from).to_vec());
    assert_eq!(f.load(&classes, &rgb8()).unwrap().labels(), [2]);
    image(&dir.path().join("dgo/a.png"), [8, 8], [0, 0, 0]);
    let e = Folder::triggered(dir.path()).unwrap().load(&classes, &rgb8()).unwrap_err().to_string();
    assert!(e.contains("dgo") && e.contains("did you mean \"dog\""), "{e}");
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_not_in_circles_and_pipes_not_opened() {
    use std::os::unix::fs::symlink;
    let real = folder();
    let dir = tempfile::tempdir().unwrap();
    symlink(real.path().join("cat"), dir.path().join("cat")).unwrap();
    symlink(real.path().join("dog"), dir.path().join("dog")).unwrap();
    assert_eq!(load(dir.path(), &rgb8()).unwrap().len(), 6);
    symlink(real.path(), real.path().join("dog/loop")).unwrap();
    assert!(refused(dir.path(), &rgb8()).contains("loop: is a link to a folder above it"));
    fs::remove_file(real.path().join("dog/loop")).unwrap();
    symlink("/nowhere.png", real.path().join("dog/dangling.png")).unwrap();
    assert!(refused(dir.path(), &rgb8()).contains("dangling.png"));
    fs::remove_file(real.path().join("dog/dangling.png")).unwrap();
    let pipe = real.path().join("dog/pipe.png");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(refused(dir.path(), &rgb8()).contains("not a regular file"));
}
