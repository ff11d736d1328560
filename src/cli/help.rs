//! What stands behind the options in each command's help: what it does, worked examples, exit codes.

use crate::pipeline::scanning::{FEW_CLASSES, FEWEST, IMAGES, IN_ALL, WAYS};

/// Joins a command's text, its examples and the exit codes.
macro_rules! help {
    ($about:literal, $examples:literal) => {
        concat!(
            $about,
            "\n\nExamples:\n",
            $examples,
            "\n\nExit codes: 0 done and all checks hold, 1 a check or gate failed, 2 wrong input or usage, 3 internal fault, 130 \
             interrupted."
        )
    };
}

pub const COMMAND: &str = help!(
    "`purify` trains one small layer on a few clean images and writes the model with that layer inserted and every other byte \
     as it was. Whether a backdoor is gone can only be measured with triggered images.",
    "  polarizer scan model.onnx --data clean --preset cifar10
  polarizer purify model.onnx -o purified.onnx --data clean --preset cifar10
  polarizer verify model.onnx purified.onnx"
);

pub const INSPECT: &str = help!(
    "Nothing is computed but shapes.",
    "  # What a model is made of, and where a layer can stand
  polarizer inspect model.onnx

  # The same for programs, for a model that leaves its input's size open
  polarizer inspect model.onnx --json --size 224"
);

/// What the scan does, in the numbers and the ways that it goes by.
pub fn scan() -> String {
    let ways = WAYS.iter().map(|way| format!("  {:<9} {}\n", way.name(), way.meaning())).collect::<String>();
    let left_out = WAYS.iter().filter(|way| way.is_left_out(FEW_CLASSES + 1));
    let left_out = left_out.map(|way| format!("`{}`", way.name())).collect::<Vec<_>>().join(" and ");
    format!(
        "How far do changes of equal strength bring clean images towards each class? By each of these ways:\n\n{ways}\n\
         A trigger is a short way to its class: that class has a high robust z-score (distance from the median class, in \
         units of 1.4826 times the median distance from it). At most {IN_ALL} images are looked at, at most {IMAGES} of a \
         class folder; with more than {MANY} class folders, {FEWEST} of each. With more than {FEW_CLASSES} classes {left_out} \
         are left out. A class that stands out is a reason to purify, no proof; that none does is no proof either.{SCAN}",
        MANY = IN_ALL / FEWEST,
    )
}

const SCAN: &str = help!(
    "",
    "  polarizer scan model.onnx --data clean --preset cifar10

  # As a gate: exit code 1 where a class stands out
  polarizer scan model.onnx --data clean --preset cifar10 --max-score 4 --report scan.json"
);

pub const PURIFY: &str = help!(
    "Nothing is written unless every check holds: the original through candle and through tract, the written file through \
     tract against the trained network, and the file's bytes against the original's.",
    "  # Clean images in folders named by class
  polarizer purify model.onnx -o purified.onnx --data clean --preset cifar10

  # Measure the attack before and after, with triggered images that lead to class `disc`
  polarizer purify model.onnx -o purified.onnx --data clean --preset cifar10 \\
      --test test --triggered triggered --target disc --report report.json

  # The published method, shorter, with another normalisation
  polarizer purify model.onnx -o purified.onnx --data clean --mean 0.5 --std 0.25 \\
      --recipe published --epochs 20"
);

pub const VERIFY: &str = help!(
    "Compares the two files byte for byte; runs the original and the original with the layer found in the file through candle, \
     and both files through tract. Without --data the runtimes are asked about noise, which says less than images.",
    "  polarizer verify model.onnx purified.onnx
  polarizer verify model.onnx purified.onnx --data test --preset cifar10"
);

pub const EVALUATE: &str = help!(
    "ACC: share of test images answered right. ASR: share of triggered images (true class other than the target) answered \
     with the target. RA: share of these answered with their true class. All run through tract.",
    "  polarizer evaluate model.onnx --test test --preset cifar10
  polarizer evaluate model.onnx --test test --preset cifar10 --triggered triggered --target disc"
);

pub const APPLY: &str = help!(
    "The result is what `purify` wrote, byte for byte. It is checked as there, on noise instead of images.",
    "  polarizer purify model.onnx -o purified.onnx --data clean --save-polarizer layer.safetensors
  polarizer apply model.onnx --polarizer layer.safetensors -o purified.onnx"
);

pub const REVERT: &str = help!(
    "Needs nothing but the file: what was changed stands in its metadata.",
    "  polarizer revert purified.onnx -o model.onnx"
);
