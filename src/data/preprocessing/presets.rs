//! Named combinations of the parts of preprocessing.

use crate::{Error, Result};

/// A preset: texts of [`PIECES`](super::PIECES).
pub(super) struct Preset {
    pub name: &'static str,
    pub pieces: &'static [(&'static str, &'static str)],
}

/// Names of the presets of [`Preprocessing::preset`](super::Preprocessing::preset).
pub const PRESETS: [&str; 4] = ["cifar10", "gtsrb", "tiny-imagenet", "imagenet"];

const ALL: [Preset; PRESETS.len()] = [
    Preset {
        name: "cifar10",
        pieces: &[
            ("size", "32"),
            ("resize", "stretch"),
            ("mean", "0.4914,0.4822,0.4465"),
            ("std", "0.2470,0.2435,0.2616"),
        ],
    },
    Preset { name: "gtsrb", pieces: &[("size", "32"), ("resize", "stretch"), ("mean", "0"), ("std", "1")] },
    Preset {
        name: "tiny-imagenet",
        pieces: &[
            ("size", "64"),
            ("resize", "stretch"),
            ("mean", "0.4802,0.4481,0.3975"),
            ("std", "0.2302,0.2265,0.2262"),
        ],
    },
    Preset {
        name: "imagenet",
        pieces: &[
            ("size", "224"),
            ("resize", "shortest-edge:0.875"), // torchvision: 256 for a crop of 224
            ("crop", "center"),
            ("mean", "0.485,0.456,0.406"),
            ("std", "0.229,0.224,0.225"),
        ],
    },
];

/// # Errors
/// [`Error::Setting`] if there is no such preset.
pub(super) fn of(name: &str) -> Result<&'static Preset> {
    ALL.iter().find(|preset| preset.name == name).ok_or_else(|| {
        let problem = format!("no preset is named `{name}`; expected one of {}", PRESETS.join(", "));
        Error::setting("preset", problem)
    })
}

#[cfg(test)]
mod tests {
    use super::{super::Preprocessing, *};

    #[test]
    fn every_preset_is_complete() {
        for (name, preset) in PRESETS.iter().zip(&ALL) {
            assert_eq!(*name, preset.name);
            let p = Preprocessing::preset(name).unwrap();
            assert_eq!(p.preset, Some(*name));
            assert!(p.size.is_some() && p.is_stated() && p.check().is_ok());
        }
        assert!(Preprocessing::preset("mnist").unwrap_err().to_string().contains("tiny-imagenet"));
    }
}
