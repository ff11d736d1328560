//! The judge on real models and images: both of its forms agree, and it measures what the models' makers measured.

mod common;

use polarizer::{
    data::{Folder, Images, Preprocessing},
    verify::{
        Form, Judge, TOLERANCE, Watch,
        evaluate::{accuracy, answers, attack},
        parity::compare,
    },
};

fn images(folder: &str, keep_every: usize) -> Option<(Images, Preprocessing)> {
    let path = common::shared(folder)?;
    let classes = Folder::clean(&common::shared("images/test")?).unwrap().classes();
    let cifar10 = Preprocessing::preset("cifar10").unwrap();
    let all = Folder::triggered(&path).unwrap().load(&classes, &cifar10.target(3, None).unwrap()).unwrap();
    let rows: Vec<usize> = (0..all.len()).step_by(keep_every).collect();
    Some((all.select(&rows), cifar10))
}

#[test]
fn both_forms_agree_on_every_model() {
    let Some((images, cifar10)) = images("images/test", 32) else { return };
    for name in ["preactresnet18-w16-blended", "preactresnet18-w16-wanet", "mobilenetv3s-badnets"] {
        let Some(path) = common::shared(&format!("models/{name}.onnx")) else { return };
        let judge = Judge::open(&path, &[16, 3, 32, 32]).unwrap();
        let rows: Vec<usize> = (0..images.len()).collect(); // 63: the last run is short
        let x = images.normalized(&rows, &cifar10);
        let plain = judge.logits(&x, images.len()).unwrap();
        let fast = judge.logits_in(Form::Optimised, &x, images.len()).unwrap();
        let parity = compare(&fast, &plain, TOLERANCE).unwrap();
        println!("{name}: {parity:?}");
        assert!(parity.holds(TOLERANCE), "{name}: {parity:?}");
    }
}

#[test]
fn it_measures_accuracy_and_attack() {
    let Some((clean, cifar10)) = images("images/test", 4) else { return };
    let Some((triggered, _)) = images("images/triggered-blended", 3) else { return };
    let Some(path) = common::shared("models/preactresnet18-w16-blended.onnx") else { return };
    let judge = Judge::open(&path, &[16, 3, 32, 32]).unwrap();
    let answers = |images: &Images| answers(&judge, images, &cifar10, &Watch::default()).unwrap();
    let acc = accuracy(&answers(&clean), &clean.labels).unwrap();
    let attack = attack(&answers(&triggered), &triggered.labels, 0).unwrap();
    println!("ACC {acc} {attack:?}");
    assert!((78.0..88.0).contains(&acc), "{acc}");
    assert!(attack.asr > 97.0 && attack.ra < 3.0, "{attack:?}");
    assert!(!judge.optimised_is_distrusted());
}
