//! Preprocessing and class names read from what people have: files of Hugging Face, timm and torchvision, beside a model
//! or by themselves. `tests/scripts/config_vectors.py` writes the files and what their own libraries make of pictures.

use std::{fs, path::Path};

use polarizer::{
    Result,
    data::{Classes, Origin, PIECES, Picture, Pixels, Preprocessing, Source, Stated, load},
};
use serde_json::Value;

/// One picture of any size.
struct One(Picture);

impl Source for One {
    fn name(&self) -> String {
        "one".into()
    }
    fn count(&self) -> usize {
        1
    }
    fn row_name(&self, _: usize) -> String {
        "picture".into()
    }
    fn classes(&self) -> Option<Classes> {
        None
    }
    fn labels(&self, _: &Classes) -> Result<Option<Vec<u32>>> {
        Ok(None)
    }
    fn picture(&self, _: usize) -> Result<Picture> {
        Ok(self.0.clone())
    }
}

/// The pictures that the script draws too.
fn drawn([h, w]: [usize; 2], kind: &str) -> Vec<u8> {
    let value = |x: usize, y: usize, c: usize| match kind {
        "plain" => [10, 128, 250][c],
        "stripes" => (x * 37 + y * 61 + c * 17) % 256,
        "ramp" => (x * 2 + y * y / 16 + c * 40) % 256,
        other => panic!("no picture {other}"),
    };
    let pixels = (0..h).flat_map(|y| (0..w).map(move |x| (x, y)));
    pixels.flat_map(|(x, y)| (0..3).map(move |c| value(x, y, c) as u8)).collect()
}

/// What the network is fed, with its shape.
fn fed(p: &Preprocessing, size: [usize; 2], bytes: &[u8]) -> ([usize; 3], Vec<f32>) {
    let source = One(Picture::of_bytes(size, 3, bytes.to_vec()));
    let images = load(&source, &Classes::default(), &p.target(3, None).unwrap()).unwrap();
    let mut values = match &images.pixels {
        Pixels::U8(bytes) => bytes.iter().map(|&v| f32::from(v) / 255.0).collect(),
        Pixels::F32(values) => values.clone(),
    };
    p.normalize(&mut values, images.shape);
    (images.shape, values)
}

fn read(dir: &Path, name: &str, text: &str) -> Result<Stated> {
    fs::write(dir.join(name), text).unwrap();
    Stated::read(&dir.join(name))
}

fn alone(stated: &Stated) -> Preprocessing {
    let (p, contradictions) = Preprocessing::default().completed_by(stated).unwrap();
    assert_eq!(contradictions, []);
    p
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

/// Largest difference in pixels of 0 to 255, over all cases and pictures of a table.
fn compare(table: &Value, folder: &Path, say: bool) -> f32 {
    let dir = tempfile::tempdir().unwrap();
    let mut worst = 0f32;
    for case in table["cases"].as_array().unwrap() {
        let about = case["about"].as_str().unwrap();
        let _ = fs::remove_file(dir.path().join("config.json"));
        if !case["beside"].is_null() {
            fs::write(dir.path().join("config.json"), case["beside"].to_string()).unwrap();
        }
        let stated = read(dir.path(), case["name"].as_str().unwrap(), case["text"].as_str().unwrap());
        let p = alone(&stated.unwrap_or_else(|e| panic!("{about}: {e}")));
        let most = case["most"].as_f64().unwrap() as f32;
        let (mut largest, mut above) = (0f32, 0);
        for (picture, expected) in
            table["pictures"].as_array().unwrap().iter().zip(case["values"].as_array().unwrap())
        {
            let size = [number(&picture["size"][0]), number(&picture["size"][1])];
            let bytes = match picture["file"].as_str() {
                Some(file) => fs::read(folder.join(file)).unwrap(),
                None => drawn(size, picture["drawn"].as_str().unwrap()),
            };
            let (shape, values) = fed(&p, size, &bytes);
            let theirs: Vec<usize> = expected["shape"].as_array().unwrap().iter().map(number).collect();
            assert_eq!(shape.to_vec(), theirs, "{about}, {size:?}");
            // all values, or evenly chosen ones
            let (at, theirs): (Vec<usize>, Vec<f32>) = match expected["file"].as_str() {
                Some(file) => {
                    let raw = fs::read(folder.join(file)).unwrap();
                    let theirs =
                        raw.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
                    ((0..values.len()).collect(), theirs)
                }
                None => {
                    let theirs: Vec<f32> = expected["values"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|v| v.as_f64().unwrap() as f32)
                        .collect();
                    let n = theirs.len();
                    ((0..n).map(|i| (2 * i + 1) * values.len() / (2 * n)).collect(), theirs)
                }
            };
            let plane = shape[1] * shape[2];
            for (at, theirs) in at.into_iter().zip(theirs) {
                let pixels = (values[at] - theirs).abs() * p.std_of(at / plane) * 255.0;
                largest = largest.max(pixels);
                above += usize::from(pixels > 1.001);
                let plain = picture["drawn"] == "plain"; // nothing to resize: the normalisation alone
                assert!(
                    pixels <= if plain { 2e-3 } else { most + 1e-3 },
                    "{about}, {size:?}, at {at}: {} but {theirs}, {pixels} of 255",
                    values[at]
                );
            }
        }
        if say {
            println!("{largest:.4} {above} {about}");
        }
        worst = worst.max(largest);
    }
    worst
}

#[test]
fn files_are_read_as_their_libraries_read_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let table: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    assert!(table["cases"].as_array().unwrap().len() > 90);
    compare(&table, &folder, false);
}

/// `tests/scripts/config_vectors.py --live DIR` writes the cases and runs this.
#[test]
#[ignore = "needs the cases of config_vectors.py --live"]
fn live() {
    let Some(folder) = std::env::var_os("POLARIZER_CONFIG_CASES") else { return };
    let folder = Path::new(&folder);
    let table: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    let worst = compare(&table, folder, true);
    let pictures = table["pictures"].as_array().unwrap().len();
    println!(
        "{} files, {pictures} pictures: at most {worst:.4} of 255",
        table["cases"].as_array().unwrap().len()
    );
}

const VIT: &str = r#"{"do_normalize": true, "do_resize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor", "resample": 2, "size": 224}"#;

#[test]
fn every_part_has_the_file_and_the_field_as_origin() {
    let dir = tempfile::tempdir().unwrap();
    let p = alone(&read(dir.path(), "preprocessor_config.json", VIT).unwrap());
    let parts: Vec<String> =
        p.parts().map(|(piece, text, origin)| format!("{} {text} {origin}", piece.name)).collect();
    let of = |part: &str, field: &str| format!("{part} preprocessor_config.json: {field}");
    let expected = [
        of("size 224x224", "size"),
        of("resize stretch:224", "size"),
        of("crop none", "do_center_crop"),
        of("interpolation bilinear", "resample"),
        of("channels rgb", "image_processor_type"),
        of("mean 0.5,0.5,0.5", "image_mean"),
        of("std 0.5,0.5,0.5", "image_std"),
        of("range normalized-0-1", "do_rescale"),
    ];
    let (mut parts, mut expected) = (parts, expected.to_vec());
    parts.sort();
    expected.sort();
    assert_eq!(parts, expected);
}

#[test]
fn what_a_class_supplies_is_noted() {
    let dir = tempfile::tempdir().unwrap();
    let silent =
        r#"{"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "odd": 3}"#;
    let stated = read(dir.path(), "preprocessor_config.json", silent).unwrap();
    let notes = stated.notes.join("\n");
    assert!(notes.contains("silent about") && notes.contains("crop_pct"), "{notes}");
    assert!(notes.contains("does not read odd"), "{notes}");
    let p = alone(&stated);
    assert_eq!(p.parts().find(|(piece, ..)| piece.name == "resize").unwrap().1, "shortest-edge:256");
}

#[test]
fn what_the_parts_cannot_say_is_refused_by_file_and_field() {
    let dir = tempfile::tempdir().unwrap();
    let vit = |more: &str| format!(r#"{{"image_processor_type": "ViTImageProcessor", {more}}}"#);
    let timm = |more: &str| format!(r#"{{"architecture": "a", "pretrained_cfg": {{{more}}}}}"#);
    let nested = format!(r#"{{"a": {}1{}}}"#, "[".repeat(500), "]".repeat(500));
    let all = [
        ("p.json", vit(r#""do_pad": true"#), "`do_pad` is true"),
        ("p.json", vit(r#""size": {"longest_edge": 200}"#), "`size` has longest_edge"),
        (
            "p.json",
            vit(r#""size": {"shortest_edge": 200, "longest_edge": 300}"#),
            "`size` has longest_edge, shortest_edge",
        ),
        ("p.json", vit(r#""size": 0"#), "`size` is 0"),
        ("p.json", vit(r#""size": "224""#), "`size` is \"224\""),
        ("p.json", vit(r#""size": [1, 2, 3]"#), "`size` has 3 values"),
        ("p.json", vit(r#""size": 99999999"#), "`size` is 99999999"),
        ("p.json", vit(r#""do_resize": "yes""#), "`do_resize` is \"yes\""),
        ("p.json", vit(r#""resample": 6"#), "`resample` is 6"),
        ("p.json", vit(r#""image_mean": [0.5, 0.5]"#), "`image_mean` has 2 values"),
        ("p.json", vit(r#""image_mean": {"a": 1}"#), "`image_mean` is an object"),
        ("p.json", vit(r#""image_std": [0.5, 0, 0.5]"#), "`image_std` does not lead"),
        ("p.json", vit(r#""rescale_factor": -1"#), "`image_std` does not lead"),
        ("p.json", vit(r#""image_mean": [123.7, 116.3, 103.5]"#), "0-1 scale"),
        ("p.json", vit(r#""auto_map": {"AutoImageProcessor": "a--b.C"}"#), "`auto_map` names code"),
        ("p.json", vit(r#""size": 3, "size": 4"#), "`size` is there twice"),
        ("p.json", vit(r#""image_mean": [NaN, 0, 0]"#), "not valid JSON"),
        ("p.json", nested, "recursion limit"),
        ("p.json", r#"{"image_processor_type": "DonutImageProcessor"}"#.into(), "pads them"),
        (
            "p.json",
            r#"{"image_processor_type": "OwnImageProcessor"}"#.into(),
            "OwnImageProcessor, which is not among",
        ),
        ("p.json", r#"{"image_processor_type": 3}"#.into(), "`image_processor_type` is 3"),
        ("p.json", r#"{"do_resize": true, "size": 224}"#.into(), "`image_processor_type` is missing"),
        ("p.json", r#"{"image_processor": 3}"#.into(), "`image_processor` is 3"),
        ("config.json", timm(r#""crop_pct": -1"#), "`pretrained_cfg.crop_pct` is -1"),
        (
            "config.json",
            timm(r#""crop_pct": 0.02, "input_size": [3, 9000, 9000]"#),
            "`pretrained_cfg.input_size`",
        ),
        ("config.json", timm(r#""crop_mode": "corner""#), "`pretrained_cfg.crop_mode` is \"corner\""),
        ("config.json", timm(r#""interpolation": "random""#), "`pretrained_cfg.interpolation` is \"random\""),
        ("config.json", timm(r#""input_size": 224"#), "`pretrained_cfg.input_size` is not"),
        ("config.json", timm(r#""mean": [0.1, 0.2, 0.3, 0.4]"#), "`pretrained_cfg.mean` has 4 values"),
        ("config.json", r#"{"id2label": {"0": "a", "2": "b"}}"#.into(), "`id2label` has the index \"2\""),
        ("config.json", r#"{"id2label": {"0": "a", "00": "b"}}"#.into(), "`id2label` has index 0 twice"),
        ("config.json", r#"{"id2label": {"0": "a", "1": 3}}"#.into(), "`id2label` has a name at index 1"),
        ("config.json", r#"{"label_names": ["a", ""]}"#.into(), "`label_names` has an empty name"),
        ("config.json", r#"{"label_names": ["a", "b"], "num_classes": 3}"#.into(), "`num_classes` is 3"),
        ("t.txt", "ImageClassification(\n    crop_size=[224]\n)".into(), "`resize_size` is missing"),
        ("t.txt", "other".into(), "says nothing of preprocessing"),
        ("p.json", r#"{"other": 1}"#.into(), "says nothing of preprocessing"),
        ("p.json", " ".repeat(5 << 20), "is larger than"),
    ];
    for (name, text, expected) in all {
        let error = read(dir.path(), name, &text).expect_err(expected).to_string();
        assert!(error.contains(expected) && error.contains(name), "{expected}: {error}");
        assert!(error.lines().count() == 1 && error.len() < 500, "{error}");
    }
    assert!(Stated::read(dir.path()).unwrap_err().to_string().contains("not a regular file"));
}

/// Every file with bytes changed, left out, doubled and cut: read or refused, and what is read is valid.
#[test]
fn damaged_files_are_read_or_refused() {
    use rand::{Rng, SeedableRng};
    let table: Value = serde_json::from_str(include_str!("vectors/config.json")).unwrap();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let (mut read, mut refused) = (0, 0);
    for case in table["cases"].as_array().unwrap() {
        let (name, text) = (case["name"].as_str().unwrap(), case["text"].as_str().unwrap());
        for _ in 0..100 {
            let mut bytes = text.as_bytes().to_vec();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..bytes.len().max(1));
                match random.random_range(0..5) {
                    _ if bytes.is_empty() => {}
                    0 => bytes[at] = random.random_range(32..127),
                    1 => drop(bytes.remove(at)),
                    2 => bytes.insert(at, b"0123456789.-eE[]{},\"=\n"[random.random_range(0..22)]),
                    3 => bytes.extend_from_within(at..),
                    _ => bytes.truncate(at + 1),
                }
            }
            match Stated::parse(Path::new(name), &String::from_utf8_lossy(&bytes)) {
                Ok(stated) => {
                    alone(&stated).check().unwrap();
                    read += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(read > 100 && refused > 100, "{read} read, {refused} refused");
}

#[test]
fn class_names_are_read_in_the_order_of_the_outputs() {
    let dir = tempfile::tempdir().unwrap();
    let read = |text: &str| read(dir.path(), "config.json", text).unwrap();
    let names =
        |stated: &Stated| stated.classes.as_ref().map(|(classes, from)| (classes.0.join("|"), from.clone()));
    let stated = read(r#"{"model_type": "vit", "id2label": {"1": "dog", "0": "cat", "2": "cat"}}"#);
    assert_eq!(names(&stated), Some(("cat|dog|cat".into(), "config.json: id2label".into())));
    assert!(stated.notes[0].contains("class 0 and class 2"), "{:?}", stated.notes);
    assert!(stated.parts.is_empty());
    let stated = read(r#"{"label_names": ["n01440764", "n01443537"], "num_classes": 2}"#);
    assert_eq!(names(&stated), Some(("n01440764|n01443537".into(), "config.json: label_names".into())));
    let stated = read(r#"{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}"#);
    assert!(stated.classes.is_none() && stated.notes[0].contains("placeholders"));
}

#[test]
fn files_beside_a_model_are_read_and_the_processors_stands_first() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    fs::create_dir(dir.path().join("onnx")).unwrap();
    let model = dir.path().join("onnx/model.onnx");
    assert!(Stated::beside(&model).unwrap().is_empty());
    write("config.json", r#"{"other": true}"#);
    assert!(Stated::beside(&model).unwrap().notes[0].contains("says nothing of images"));
    write("preprocessor_config.json", VIT);
    write(
        "config.json",
        r#"{"id2label": {"0": "cat", "1": "dog"}, "pretrained_cfg": {"interpolation": "bicubic", "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5]}}"#,
    );
    for place in [model, dir.path().join("model.onnx")] {
        let stated = Stated::beside(&place).unwrap();
        let differ: Vec<&str> = stated.contradictions.iter().map(|c| c.part).collect();
        assert_eq!(differ, ["resize", "crop", "interpolation"]);
        assert_eq!(
            stated.contradictions[2].to_string(),
            "interpolation is bilinear (preprocessor_config.json: resample), but bicubic in config.json: \
             pretrained_cfg.interpolation"
        );
        assert_eq!(stated.parts.len(), PIECES.len());
        assert!(stated.classes.is_some());
    }
    write("config.json", r#"{"pretrained_cfg": {"mean": "none"}}"#);
    let error = Stated::beside(&dir.path().join("model.onnx")).unwrap_err().to_string();
    assert!(error.contains("config.json: `pretrained_cfg.mean`"), "{error}");
}

#[test]
fn a_models_metadata_yields_to_what_is_stated_and_contradicts_aloud() {
    let metadata = |pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Stated::of_metadata(&pairs).unwrap()
    };
    let caffe =
        metadata(&[("Image.BitmapPixelFormat", "Bgr8"), ("Image.NominalPixelRange", "NominalRange_0_255")]);
    let p = alone(&caffe);
    assert_eq!((p.channels.word(), p.range.word()), ("bgr", "0-255"));
    let imagenet = Preprocessing::preset("imagenet").unwrap();
    let (p, found) = imagenet.completed_by(&caffe).unwrap();
    assert_eq!((p.channels.word(), p.mean_of(0)), ("bgr", 0.406));
    assert_eq!(found.len(), 1);
    assert!(
        found[0].to_string().contains("0-255 in the model's metadata: Image.NominalPixelRange"),
        "{}",
        found[0]
    );
}

#[test]
fn all_that_is_known_of_a_model_is_believed_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (model, named) = (dir.path().join("model.onnx"), dir.path().join("named.json"));
    fs::write(dir.path().join("preprocessor_config.json"), VIT).unwrap();
    fs::write(&named, VIT.replace("\"resample\": 2", "\"resample\": 3")).unwrap();
    let metadata = [("Image.BitmapPixelFormat".to_owned(), "Bgr8".to_owned())];
    let own = || Preprocessing::default().with("mean", "0.25", Origin::Given).unwrap();
    let files = |named: &Path| Stated::of_files(&own(), Some(named), &model).unwrap();
    let (p, all) = files(&named).unwrap().complete(&own(), &metadata).unwrap();
    assert_eq!(
        (p.interpolation.word(), p.channels.word(), p.mean_of(0), p.std_of(0)),
        ("bicubic", "rgb", 0.25, 0.5)
    );
    let said: Vec<String> = all.contradictions.iter().map(ToString::to_string).collect();
    let expected = [
        "interpolation is bicubic (named.json: resample), but bilinear in preprocessor_config.json: resample",
        "channels is rgb (named.json: image_processor_type), but bgr in the model's metadata: Image.BitmapPixelFormat",
        "mean is 0.25 (given), but 0.5,0.5,0.5 in named.json: image_mean",
    ];
    assert_eq!(said, expected);
    assert_eq!(files(Path::new("none")), None);
}

#[test]
fn a_file_that_nobody_named_stands_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model.onnx");
    fs::write(dir.path().join("preprocessor_config.json"), VIT.replace("224", "{\"longest_edge\": 3}"))
        .unwrap();
    let error = Stated::of_files(&Preprocessing::default(), None, &model).unwrap_err().to_string();
    assert!(error.ends_with("name another file as `preprocessing`, or none to leave this out"), "{error}");
    let mut own = Preprocessing::preset("imagenet").unwrap();
    for (part, text) in [("interpolation", "bicubic"), ("channels", "rgb"), ("range", "normalized-0-1")] {
        own = own.with(part, text, Origin::Given).unwrap();
    }
    let files = Stated::of_files(&own, None, &model).unwrap().unwrap();
    let (p, all) = files.complete(&own, &[]).unwrap();
    assert!(p == own && all.notes[0].starts_with("left out: "), "{:?}", all.notes);
}

#[test]
fn weights_of_torchvision_are_presets_and_their_text_says_the_same() {
    let table = include_str!("../src/data/preprocessing/config/torchvision.csv");
    let rows: Vec<&str> = table.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(rows.len() > 100);
    let dir = tempfile::tempdir().unwrap();
    for row in rows {
        let cells: Vec<&str> = row.split(',').collect();
        let [name, resize, crop, filter, mean, std] = cells[..] else { panic!("{row}") };
        let preset = Preprocessing::preset(name).unwrap();
        preset.check().unwrap();
        let list = |text: &str| text.split(' ').map(|v| v.parse::<f32>().unwrap()).collect::<Vec<_>>();
        assert_eq!((preset.mean.clone(), preset.std.clone()), (list(mean), list(std)));
        let text = format!(
            "ImageClassification(\n    crop_size=[{crop}]\n    resize_size=[{resize}]\n    mean=[{}]\n    std=[{}]\n    \
             interpolation=InterpolationMode.{}\n)\n",
            mean.replace(' ', ", "),
            std.replace(' ', ", "),
            filter.to_uppercase(),
        );
        let stated = read(dir.path(), "transforms.txt", &text).unwrap();
        let (_, found) = preset.completed_by(&stated).unwrap();
        assert_eq!(found, [], "{name}");
        let own: Vec<_> =
            Preprocessing::preset(name).unwrap().parts().map(|(p, text, _)| (p.name, text)).collect();
        let read: Vec<_> = alone(&stated).parts().map(|(p, text, _)| (p.name, text)).collect();
        assert_eq!(own, read, "{name}");
        assert!(own.contains(&("resize", format!("shortest-edge:{resize}"))));
        assert!(own.contains(&("crop", format!("center:{crop}"))));
    }
    assert_eq!(
        Preprocessing::preset(table.lines().nth(2).unwrap().split(',').next().unwrap())
            .unwrap()
            .origin("mean"),
        &Origin::Preset("torchvision:AlexNet_Weights.IMAGENET1K_V1")
    );
}
