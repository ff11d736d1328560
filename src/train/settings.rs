//! [`Settings`] of a training, the recipes, and one declaration per setting ([`Setting`]), from which the command's
//! options, the checks, the reports and `docs/settings.md` are generated.

mod table;
mod value;

use value::named;
pub use {
    table::{SETTINGS, Setting},
    value::{Form, Named, Value},
};

use crate::{Error, Result, kernels::Precision, network::scaled_radius};

/// Settings of a training. Start from a [`Recipe`], then change fields.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Settings {
    /// The initial layer.
    pub start: Start,
    /// Epochs of phase 2, against the adversary.
    pub epochs: usize,
    /// Minimum number of steps of phase 2: with few images there are more epochs. None: exactly [`Settings::epochs`].
    pub min_steps: Option<usize>,
    /// Images per step; the last batch of an epoch may be smaller.
    pub batch: usize,
    /// Train on horizontal flips too, where the network gives a flip the class of its image.
    pub mirror: bool,
    /// Optimizer of phase 2.
    pub optimizer: OptimizerKind,
    /// Initial learning rate of phase 2.
    pub lr: f64,
    /// Learning-rate schedule of phase 2.
    pub schedule: Schedule,
    /// The adversary of each step.
    pub adversary: AdversaryKind,
    /// Target classes of the adversary at the cut and of the pool. [`Targets::Suspect`] scans before the training, and
    /// the findings also scale [`Settings::retention`].
    pub targets: Targets,
    /// The answers that adversarial images should keep.
    pub original: Original,
    /// Weights of the four losses: cross-entropy on clean images; cross-entropy of the adversarial images against
    /// [`Settings::original`]; probability of the likeliest wrong class; probability of the adversary's target.
    pub lambdas: [f64; 4],
    /// Weight of the retention loss: Kullback-Leibler divergence of the predictions on clean images from those without
    /// the layer.
    pub retention: f64,
    /// The pool of adversarial values, filled by a second adversary. None: no pool.
    pub pool: Option<PixelPool>,
    /// Largest loss of held-out accuracy, in percentage points. A layer that costs more is mixed with the identity; if
    /// that is not enough, the training fails. None, or no held-out images: no limit.
    pub max_acc_drop: Option<f64>,
    /// Seed of all random draws.
    pub seed: u64,
    /// Precision of the frozen network's convolutions in the training's steps. Everything else is float32. None:
    /// [`Precision::auto`].
    pub precision: Option<Precision>,
}

/// The initial layer of phase 2.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Start {
    /// As published: BatchNorm with weight 1 and bias 0, so that each output channel has mean 0 and variance 1.
    Whitening {
        /// Epochs of phase 1, without an adversary, in which the BatchNorm uses batch statistics.
        warmup: usize,
        /// Learning rate of phase 1, plain SGD.
        warm_lr: f64,
    },
    /// The identity: weight sqrt(var + eps) and bias mean, from exact statistics over all clean images.
    Identity,
    /// The projection onto the first principal components of the clean values.
    Principal {
        /// Number of components. None: the smallest that keeps [`Settings::KEPT_ANSWERS`] of the clean images' answers.
        rank: Option<usize>,
    },
}

/// An optimizer with its own settings.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum OptimizerKind {
    /// SGD in PyTorch's form: v = momentum v + g; w = w - lr v.
    Sgd {
        /// Momentum factor, usually in [0, 1).
        momentum: f64,
        /// Weight decay of all three tensors.
        weight_decay: f64,
    },
    /// Adam, without weight decay.
    Adam,
}

/// The adversary of each step, with its own settings.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum AdversaryKind {
    /// No adversary: the layer is trained on clean images alone. A control, not a defence.
    None,
    /// The published one: sign-gradient steps on the pixels towards the likeliest wrong class, projected onto an L2
    /// ball.
    Pixel {
        /// Steps at most.
        steps: usize,
        /// Step per value, in pixels in [0, 1].
        step: f64,
        /// L2 radius per image. None: [`Settings::pixel_rho`].
        rho: Option<f64>,
        /// Stop once more than this share of a batch, in [0, 1], is classified as its target. None: take all steps.
        stop_share: Option<f64>,
    },
    /// Normalised gradient steps on the values that cross the cut: see [`crate::network::Latent`].
    Latent {
        /// Steps.
        steps: usize,
        /// Largest root mean square of the change, in standard deviations.
        rho: f64,
    },
}

/// The pool: a few times in a training some images are attacked in pixel space; their values at the cut are kept, and
/// their cross-entropy against the labels is part of every step's loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixelPool {
    /// Images attacked per fill.
    pub images: usize,
    /// Step per value, in pixels in [0, 1], for lots in which each image has its own perturbation.
    pub step: f64,
}

named! {
    /// Learning-rate schedule of phase 2.
    pub enum Schedule {
        /// Constant, as published.
        Constant = "constant",
        /// Cosine annealing to 0, per step (PyTorch's CosineAnnealingLR).
        Cosine = "cosine",
    }
}

named! {
    /// The target class of an adversary for each image.
    pub enum Targets {
        /// The likeliest wrong class by the network with the current layer.
        LikeliestWrong = "likeliest-wrong",
        /// Uniform among the wrong classes.
        Random = "random",
        /// Drawn among the wrong classes by the scores of a scan before the training.
        Suspect = "suspect",
    }
}

named! {
    /// The answers that adversarial images should keep.
    pub enum Original {
        /// Those to the clean images by the network with the current layer, as published.
        Current = "current",
        /// Those of the network without the layer.
        Unchanged = "unchanged",
        /// Their labels.
        Labels = "labels",
    }
}

named! {
    /// A complete set of settings to start from.
    pub enum Recipe {
        /// The command's default: a projection onto principal components, trained against adversaries that aim at the
        /// classes with the highest scores. `docs/decisions` gives the reasons for the values.
        Default = "default",
        /// The settings of the paper for CIFAR-10 and PreAct-ResNet18 (arXiv 2306.16697 and its code), except that rho
        /// scales with the image size and that accuracy is guarded.
        Published = "published",
    }
}

impl Recipe {
    /// The settings of this recipe.
    pub fn settings(self) -> Settings {
        match self {
            Self::Default => Settings {
                start: Start::Principal { rank: None },
                epochs: 5,
                min_steps: Some(120),
                mirror: true,
                optimizer: OptimizerKind::Adam,
                lr: 0.2,
                schedule: Schedule::Cosine,
                adversary: AdversaryKind::Latent { steps: 3, rho: AdversaryKind::LATENT_RHO },
                targets: Targets::Suspect,
                original: Original::Labels,
                lambdas: [1.0, 0.2, 0.2, 0.2],
                retention: 8.0,
                pool: Some(PixelPool { images: 640, step: AdversaryKind::PIXEL_STEP }),
                max_acc_drop: Some(10.0),
                ..Self::Published.settings()
            },
            Self::Published => Settings {
                start: Start::Whitening { warmup: 5, warm_lr: Start::WARM_LR },
                epochs: 50,
                min_steps: None,
                batch: 128,
                mirror: false,
                optimizer: OptimizerKind::SGD,
                lr: 0.01,
                schedule: Schedule::Constant,
                adversary: AdversaryKind::pixel(2),
                targets: Targets::LikeliestWrong,
                original: Original::Current,
                lambdas: [1.0, 0.4, 0.4, 0.4],
                retention: 0.0,
                pool: None,
                // not of the paper: only trips on runs that ruin the model
                max_acc_drop: Some(20.0),
                seed: 0,
                precision: None,
            },
        }
    }

    /// Default share of the labelled clean images to hold out for measuring accuracy, in [0, 1].
    pub fn holdout(self) -> f64 {
        match self {
            Self::Default => 0.1,
            Self::Published => 0.2,
        }
    }

    /// Whether the default site is before all readers of a value rather than one.
    pub fn everywhere(self) -> bool {
        self == Self::Default
    }
}

impl Start {
    const WARM_LR: f64 = 1e-4;

    /// Epochs of the warm-up; 0 for a start without one.
    pub fn warmup(&self) -> usize {
        if let Self::Whitening { warmup, .. } = self { *warmup } else { 0 }
    }
}

impl OptimizerKind {
    const SGD: Self = Self::Sgd { momentum: 0.9, weight_decay: 5e-4 };
}

impl AdversaryKind {
    const PIXEL_STEP: f64 = 0.1;
    const LATENT_RHO: f64 = 1.4;

    /// The published adversary with this many steps.
    const fn pixel(steps: usize) -> Self {
        Self::Pixel { steps, step: Self::PIXEL_STEP, rho: None, stop_share: Some(0.6) }
    }

    /// Steps at most; 0 without an adversary.
    fn steps(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Pixel { steps, .. } | Self::Latent { steps, .. } => *steps,
        }
    }
}

impl Schedule {
    /// Factor of the learning rate, in [0, 1], for step `done` (from 0) of `total`.
    pub fn share(self, done: usize, total: usize) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done as f64 / total.max(1) as f64).cos()),
        }
    }
}

impl Default for Settings {
    /// Those of [`Recipe::Default`].
    fn default() -> Self {
        Recipe::Default.settings()
    }
}

impl Settings {
    /// Share of the clean images, in [0, 1], whose answers the untrained principal layer has to keep; determines an
    /// automatic rank.
    pub const KEPT_ANSWERS: f64 = 0.985;
    /// Published L2 radius in pixel space, for images of 3x32x32.
    const PIXEL_RHO: f64 = 3.0;

    /// Those of [`Recipe::Default`].
    pub fn principal() -> Self {
        Recipe::Default.settings()
    }

    /// Those of [`Recipe::Published`].
    pub fn published() -> Self {
        Recipe::Published.settings()
    }

    /// The settings of a recipe with some values replaced; their order does not matter. A given number of epochs is
    /// exact: [`Settings::min_steps`] becomes None unless it is given too.
    ///
    /// # Errors
    /// [`Error::Setting`] for the first value that is out of range or would have no effect.
    pub fn with(recipe: Recipe, given: &[(&'static Setting, Value)]) -> Result<Self> {
        let mut settings = recipe.settings();
        if given.iter().any(|(setting, _)| setting.name == "epochs") {
            settings.min_steps = None;
        }
        // first the settings that others depend on
        let mut ordered = given.to_vec();
        ordered.sort_by_key(|(setting, _)| setting.when.len());
        for (setting, value) in &ordered {
            setting.check(*value)?;
            setting.put(&mut settings, *value);
        }
        let mut ignored = given.iter().filter(|(setting, value)| !setting.holds(&settings, *value));
        let Some((first, _)) = ignored.next() else { return settings.check().map(|()| settings) };
        let mut problem = format!("would change nothing: {}", first.needs);
        for (setting, _) in ignored {
            problem += &format!("; nor would `{}`: {}", setting.name, setting.needs);
        }
        Err(Error::setting(first.name, problem))
    }

    /// Radius of the adversary for images of shape (C, H, W): see [`AdversaryKind`]. None without an adversary.
    pub fn rho_for(&self, image: [usize; 3]) -> Option<f64> {
        match self.adversary {
            AdversaryKind::None => None,
            AdversaryKind::Pixel { rho, .. } => Some(rho.unwrap_or_else(|| Self::pixel_rho(image))),
            AdversaryKind::Latent { rho, .. } => Some(rho),
        }
    }

    /// The published L2 radius in pixel space, scaled to images of shape (C, H, W).
    pub fn pixel_rho(image: [usize; 3]) -> f64 {
        scaled_radius(Self::PIXEL_RHO, image)
    }

    /// Whether the adversary of each step moves pixels, which takes gradients of the prefix.
    pub fn moves_pixels(&self) -> bool {
        let pixels = matches!(self.adversary, AdversaryKind::Pixel { .. });
        self.epochs > 0 && self.adversary.steps() > 0 && pixels
    }

    /// Images attacked per fill of the pool; 0 without a pool.
    pub fn pool_images(&self) -> usize {
        self.pool.map_or(0, |pool| pool.images)
    }

    /// The chosen precision, or the automatic one of this machine.
    pub fn precision_here(&self) -> Precision {
        self.precision.unwrap_or_else(Precision::auto)
    }

    /// Checks the range of every value.
    ///
    /// # Errors
    /// [`Error::Setting`] for the first that is out of range.
    pub fn check(&self) -> Result<()> {
        for setting in SETTINGS {
            setting.value(self).map_or(Ok(()), |value| setting.check(value))?;
        }
        match (self.start, self.optimizer) {
            (Start::Principal { .. }, OptimizerKind::Sgd { weight_decay, .. }) if weight_decay > 0.0 => {
                let problem = "decay would shrink a layer of principal components to 0 instead of its initial value; give \
                               0, or `optimizer` adam";
                Err(Error::setting("weight_decay", problem))
            }
            _ => Ok(()),
        }
    }

    /// The settings with automatic values filled in, for images of shape (C, H, W).
    fn resolved(&self, image: [usize; 3]) -> Self {
        let mut out = Self { precision: Some(self.precision_here()), ..self.clone() };
        if let AdversaryKind::Pixel { rho, .. } = &mut out.adversary {
            *rho = Some(rho.unwrap_or_else(|| Self::pixel_rho(image)));
        }
        out
    }

    /// (name, value) of the settings that apply, in the order of [`SETTINGS`], for the provenance in the file. `image` is
    /// the shape (C, H, W) of the images.
    pub fn pairs(&self, image: [usize; 3]) -> Vec<(String, String)> {
        let resolved = self.resolved(image);
        let shown = |setting: &Setting| {
            let value = setting.value(&resolved)?;
            Some((setting.name.replace('_', "-"), setting.show(value)))
        };
        SETTINGS.iter().filter_map(shown).collect()
    }

    /// All settings by name, for reports; null where one does not apply. `image` is the shape (C, H, W) of the images.
    pub fn json(&self, image: [usize; 3]) -> serde_json::Map<String, serde_json::Value> {
        let resolved = self.resolved(image);
        let json = |setting: &Setting| {
            setting.value(&resolved).or(setting.off).map_or_else(Default::default, Value::json)
        };
        let mut out: serde_json::Map<_, _> =
            SETTINGS.iter().map(|setting| (setting.name.to_owned(), json(setting))).collect();
        out.insert("least_steps".into(), self.min_steps.unwrap_or(0).into()); // the name of `min_steps` up to 0.1
        out
    }
}

#[cfg(test)]
mod tests;
