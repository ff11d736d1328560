//! The recipes as data: every number of the training. The default is the published recipe with its CIFAR-10 settings.

use serde::{Deserialize, Serialize};

use crate::{Error, Result, kernels::Precision};

/// Settings of the training. Defaults: the published ones for CIFAR-10 and PreAct-ResNet18 (arXiv 2306.16697 and its
/// code), except that rho follows the image size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Epochs of the first phase, in which the layer's BatchNorm uses batch statistics. Default 5.
    pub warmup: usize,
    /// Epochs of the second phase, against the adversary. Default 50.
    pub epochs: usize,
    /// Images a step; the last batch of an epoch may be shorter. Default 128.
    pub batch: usize,
    /// Learning rate of the second phase, constant. Default 0.01.
    pub lr: f64,
    /// Learning rate of the first phase, plain SGD. Default 1e-4.
    pub warm_lr: f64,
    /// Momentum of SGD in the second phase (PyTorch's form: v = momentum v + g; w = w - lr v). Default 0.9.
    pub momentum: f64,
    /// Weight decay of SGD in the second phase, on all three tensors. Default 5e-4.
    pub weight_decay: f64,
    /// What the adversary moves.
    pub adversary: AdversaryKind,
    /// Steps of the adversary at most. Default 2.
    pub inner_steps: usize,
    /// Length of one step of sign ascent, per value in pixel space [0, 1]. Default 0.1.
    pub inner_step: f64,
    /// How far the adversary goes. Pixels: radius of the L2 ball per image; None: 3 sqrt(C H W / 3072), which is 3 for
    /// 3x32x32. Values at the cut: root mean square of the change at most, in standard deviations; None: 2.
    pub rho: Option<f64>,
    /// The adversary of the pixels stops when more than this share of a batch is answered with its target. Default 0.6.
    pub stop_share: f64,
    /// Which class the adversary of the values at the cut pushes an image towards; that of the pixels always takes the
    /// likeliest wrong one.
    pub targets: Targets,
    /// Which answers adversarial images are to keep.
    pub original: Original,
    /// Weights of the four losses: CE on clean images; CE of the adversarial images against the answers on the clean
    /// ones; the likeliest wrong class pushed down; the adversary's target pushed down. Default 1, 0.4, 0.4, 0.4.
    pub lambdas: [f64; 4],
    /// Seed of the shuffles. Default 0.
    pub seed: u64,
    /// What the frozen network's convolutions multiply in the training's steps: both passes, both directions. What is
    /// computed once of the clean images, the layer, its statistics and whatever is measured stay f32. None:
    /// [`Precision::auto`].
    pub precision: Option<Precision>,
}

/// What an adversary moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AdversaryKind {
    /// The published one: pixels, by sign ascent towards the likeliest wrong class, projected to an L2 ball.
    Pixel,
    /// The values that cross the cut, by normalised gradient steps: see [`super::latent`].
    Latent,
    /// None: the layer is trained on clean images alone. A control, not a defence.
    None,
}

/// Which class an adversary pushes an image towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Targets {
    /// The one that the network, with the layer as it stands, takes for likeliest beside the true one.
    LikeliestWrong,
    /// Any but the true one, each as often.
    Random,
}

/// Whose answers adversarial images are to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Original {
    /// Those of the network with the layer as it stands, to the clean images, as published.
    Current,
    /// Those of the network without the layer.
    Unchanged,
}

impl Default for Settings {
    /// [`Settings::published`].
    fn default() -> Self {
        Self::published()
    }
}

impl Settings {
    /// The recipe at the cut: as published up to the adversary, which moves the values at the cut towards random
    /// classes, in more and smaller steps and fewer epochs; adversarial images keep the answers of the network without
    /// the layer.
    pub fn latent() -> Self {
        Self {
            epochs: 12,
            adversary: AdversaryKind::Latent,
            inner_steps: 4,
            targets: Targets::Random,
            original: Original::Unchanged,
            ..Self::published()
        }
    }

    /// The published recipe.
    pub fn published() -> Self {
        Self {
            warmup: 5,
            epochs: 50,
            batch: 128,
            lr: 0.01,
            warm_lr: 1e-4,
            momentum: 0.9,
            weight_decay: 5e-4,
            adversary: AdversaryKind::Pixel,
            inner_steps: 2,
            inner_step: 0.1,
            rho: None,
            stop_share: 0.6,
            targets: Targets::LikeliestWrong,
            original: Original::Current,
            lambdas: [1.0, 0.4, 0.4, 0.4],
            seed: 0,
            precision: None,
        }
    }

    /// How far the adversary goes for images of this shape (C, H, W).
    pub fn rho_for(&self, image: [usize; 3]) -> f64 {
        let values: usize = image.iter().product();
        self.rho.unwrap_or_else(|| match self.adversary {
            AdversaryKind::Latent => 2.0,
            _ => 3.0 * (values as f64 / 3072.0).sqrt(),
        })
    }

    /// Whether an adversary of the pixels ever takes a step: gradients before the site are needed then.
    pub fn moves_pixels(&self) -> bool {
        self.epochs > 0 && self.inner_steps > 0 && self.adversary == AdversaryKind::Pixel
    }

    /// The precision that was asked for, or the one that serves here.
    pub fn precision_here(&self) -> Precision {
        self.precision.unwrap_or_else(Precision::auto)
    }

    /// # Errors
    /// [`Error::Invalid`] naming the first option that is out of its range.
    pub fn check(&self) -> Result<()> {
        let finite = |name: &str, v: f64, least: f64| {
            if v.is_finite() && v >= least {
                Ok(())
            } else {
                Err(Error::invalid(name, format!("{v} is not a finite number of at least {least}")))
            }
        };
        if self.batch == 0 {
            return Err(Error::invalid("--batch", "0 images are no batch"));
        }
        finite("--lr", self.lr, 0.0)?;
        finite("--warm-lr", self.warm_lr, 0.0)?;
        finite("--momentum", self.momentum, 0.0)?;
        finite("--weight-decay", self.weight_decay, 0.0)?;
        finite("--inner-step", self.inner_step, 0.0)?;
        if let Some(rho) = self.rho {
            finite("--rho", rho, 0.0)?;
        }
        finite("--stop-share", self.stop_share, 0.0)?;
        self.lambdas.iter().try_for_each(|&l| finite("--lambdas", l, 0.0))
    }

    /// As pairs of option and value, in the order of the fields, for the provenance in the file.
    pub fn pairs(&self, image: [usize; 3]) -> Vec<(String, String)> {
        let lambdas = self.lambdas.map(|l| l.to_string()).join(",");
        let adversary = match self.adversary {
            AdversaryKind::Pixel => "pixel",
            AdversaryKind::Latent => "latent",
            AdversaryKind::None => "none",
        };
        let targets = match self.targets {
            Targets::LikeliestWrong => "likeliest-wrong",
            Targets::Random => "random",
        };
        let original = match self.original {
            Original::Current => "current",
            Original::Unchanged => "unchanged",
        };
        [
            ("warmup", self.warmup.to_string()),
            ("epochs", self.epochs.to_string()),
            ("batch", self.batch.to_string()),
            ("lr", self.lr.to_string()),
            ("warm-lr", self.warm_lr.to_string()),
            ("momentum", self.momentum.to_string()),
            ("weight-decay", self.weight_decay.to_string()),
            ("adversary", adversary.to_string()),
            ("inner-steps", self.inner_steps.to_string()),
            ("inner-step", self.inner_step.to_string()),
            ("rho", self.rho_for(image).to_string()),
            ("stop-share", self.stop_share.to_string()),
            ("targets", targets.to_string()),
            ("original", original.to_string()),
            ("lambdas", lambdas),
            ("seed", self.seed.to_string()),
            ("precision", self.precision_here().name().to_string()),
        ]
        .map(|(k, v)| (k.to_string(), v))
        .to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rho_keeps_the_change_per_pixel() {
        let s = Settings::default();
        assert_eq!(s.rho_for([3, 32, 32]), 3.0);
        assert_eq!(s.rho_for([3, 64, 64]), 6.0);
        assert_eq!(Settings { rho: Some(5.0), ..s }.rho_for([3, 64, 64]), 5.0);
    }

    #[test]
    fn wrong_settings_are_named() {
        let e = Settings { rho: Some(f64::NAN), ..Settings::default() }.check().unwrap_err();
        assert!(e.to_string().starts_with("--rho: NaN"), "{e}");
        assert_eq!(e.exit_code(), 2);
        Settings::default().check().unwrap();
    }
}
