//! Text after the options in each command's help: description, examples, exit codes.

use crate::pipeline::scanning::{FEW_CLASSES, FEWEST, IMAGES, IN_ALL, WAYS};

/// Joins a command's description, examples and the exit codes.
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
    "Only shapes are computed; the model is not run.",
    "  # Operators and possible sites of a model
  polarizer inspect model.onnx

  # The same as JSON, for a model with dynamic input size
  polarizer inspect model.onnx --json --size 224"
);

/// Description of the scan, with its ways and limits.
pub fn scan() -> String {
    let ways = WAYS.iter().map(|way| format!("  {:<9} {}\n", way.name(), way.meaning())).collect::<String>();
    let left_out = WAYS.iter().filter(|way| way.is_left_out(FEW_CLASSES + 1));
    let left_out = left_out.map(|way| format!("`{}`", way.name())).collect::<Vec<_>>().join(" and ");
    format!(
        "Measures how far changes of equal strength move clean images towards each class, in these ways:\n\n{ways}\n\
         A trigger is a short way to its class, which has a high robust z-score (distance from the median \
         class, in units of 1.4826 times the median absolute deviation). At most {IN_ALL} images are used, at most {IMAGES} of a \
         class folder; with more than {MANY} class folders, {FEWEST} of each. With more than {FEW_CLASSES} classes {left_out} \
         are left out. A class that stands out is a reason to purify, not a proof; nor is it a proof if none does.{SCAN}",
        MANY = IN_ALL / FEWEST,
    )
}

const SCAN: &str = help!(
    "",
    "  polarizer scan model.onnx --data clean --preset cifar10

  # As a gate: exit code 1 if a class stands out
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
     and both files through tract. Without --data the runtimes are compared on noise, a weaker test than images.",
    "  polarizer verify model.onnx purified.onnx
  polarizer verify model.onnx purified.onnx --data test --preset cifar10"
);

pub const EVALUATE: &str = help!(
    "ACC: share of test images classified correctly. ASR: share of triggered images (of classes other than the \
     target) classified as the target. RA: share of these classified correctly. All images run through tract, or the runtime named by --judge.",
    "  polarizer evaluate model.onnx --test test --preset cifar10
  polarizer evaluate model.onnx --test test --preset cifar10 --triggered triggered --target disc"
);

pub const APPLY: &str = help!(
    "The result is byte for byte the file that `purify` wrote. It is verified in the same way, on noise instead of images.",
    "  polarizer purify model.onnx -o purified.onnx --data clean --save-polarizer layer.safetensors
  polarizer apply model.onnx --polarizer layer.safetensors -o purified.onnx"
);

pub const REVERT: &str = help!(
    "Needs only the file: its metadata records what was changed.",
    "  polarizer revert purified.onnx -o model.onnx"
);
