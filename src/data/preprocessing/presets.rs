//! Named combinations of the parts of preprocessing.

use super::config::weights;
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

/// What presets of torchvision's weights begin with: `torchvision:ResNet50_Weights.IMAGENET1K_V2`.
pub(super) const TORCHVISION: &str = "torchvision:";

/// The name of a preset, and its parts with their texts: one of [`PRESETS`], or that of weights of torchvision.
///
/// # Errors
/// [`Error::Setting`] if there is no such preset.
pub(super) fn of(name: &str) -> Result<(&'static str, Vec<(&'static str, String)>)> {
    if let Some(preset) = ALL.iter().find(|preset| preset.name == name) {
        return Ok((
            preset.name,
            preset.pieces.iter().map(|(name, text)| (*name, (*text).to_owned())).collect(),
        ));
    }
    let found = name.strip_prefix(TORCHVISION).map(weights);
    if let Some(Some(found)) = found {
        return Ok(found);
    }
    let problem = match found {
        Some(_) => format!(
            "no weights of torchvision are named `{name}`; as torchvision:ResNet50_Weights.IMAGENET1K_V2"
        ),
        None => format!(
            "no preset is named `{name}`; expected one of {}, or torchvision:WEIGHTS",
            PRESETS.join(", ")
        ),
    };
    Err(Error::setting("preset", problem))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Extent, Preprocessing, Resize},
        *,
    };

    #[test]
    fn every_preset_is_complete() {
        for (name, preset) in PRESETS.iter().zip(&ALL) {
            assert_eq!(*name, preset.name);
            let p = Preprocessing::preset(name).unwrap();
            assert_eq!(p.preset, Some(*name));
            assert!(p.size.is_some() && p.is_stated() && p.check().is_ok());
        }
        let p = Preprocessing::preset("torchvision:ResNet50_Weights.IMAGENET1K_V2").unwrap();
        assert_eq!((p.preset, p.size), (Some("torchvision:ResNet50_Weights.IMAGENET1K_V2"), Some([224; 2])));
        assert_eq!(p.resize, Resize::ShortestEdge(Extent::Pixels([232; 2])));
        assert!(p.target(3, Some([64, 64])).unwrap_err().to_string().contains("224x224"));
        assert!(Preprocessing::preset("torchvision:ResNet50").is_err());
        assert!(Preprocessing::preset("mnist").unwrap_err().to_string().contains("tiny-imagenet"));
    }
}
