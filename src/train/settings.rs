//! What a training is told: [`Settings`], the recipes that fill them in, and ([`Setting`]) one declaration per setting,
//! from which the command's options, the checks, the reports and `docs/settings.md` follow.

mod table;
mod value;

use value::named;
pub use {
    table::{SETTINGS, Setting},
    value::{Form, Named, Value},
};

use crate::{Error, Result, kernels::Precision, network::scaled_radius};

/// Settings of a training. Made by a [`Recipe`], then changed field by field.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Settings {
    /// The layer before the first step against the adversary.
    pub start: Start,
    /// Epochs against the adversary.
    pub epochs: usize,
    /// At least this many steps against the adversary: with few images there are more epochs. None: as many epochs as
    /// [`Settings::epochs`] says.
    pub min_steps: Option<usize>,
    /// Images per step; the last batch of an epoch may be smaller.
    pub batch: usize,
    /// Train on horizontal flips too, where the network gives a flip the class of its image.
    pub mirror: bool,
    /// Optimizer of the steps against the adversary.
    pub optimizer: OptimizerKind,
    /// Learning rate of the first step against the adversary.
    pub lr: f64,
    /// Learning rate of the steps after that.
    pub schedule: Schedule,
    /// The adversary of each step.
    pub adversary: AdversaryKind,
    /// Where the adversary at the cut and that of the pool aim. With [`Targets::Suspect`] the classes are measured
    /// before the training, and [`Settings::retention`] is multiplied by what that gives.
    pub targets: Targets,
    /// The answers that adversarial images are to keep.
    pub original: Original,
    /// Weights of the four losses: cross-entropy on clean images; cross-entropy of the adversarial images against
    /// [`Settings::original`]; probability of the likeliest wrong class; probability of the adversary's target.
    pub lambdas: [f64; 4],
    /// Weight of a fifth loss: on clean images, the Kullback-Leibler divergence from the answers without the layer.
    pub retention: f64,
    /// A second adversary, whose results are kept for many steps.
    pub pool: Option<PixelPool>,
    /// Percentage points of accuracy on held-out images that the layer may cost. Where it costs more, it is mixed with
    /// the identity; where that is not enough, the training fails. None: no limit. Without held-out images there is
    /// none.
    pub max_acc_drop: Option<f64>,
    /// Seed of all random draws.
    pub seed: u64,
    /// Precision of the frozen network's convolutions in the training's steps. Everything else is float32. None:
    /// [`Precision::auto`].
    pub precision: Option<Precision>,
}

/// The layer before the first step against the adversary.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Start {
    /// As published: its BatchNorm has weight 1 and bias 0, so each channel leaves it with mean 0 and variance 1.
    Whitening {
        /// Epochs before the adversary comes, in which the BatchNorm uses batch statistics.
        warmup: usize,
        /// Learning rate of these epochs, plain SGD.
        warm_lr: f64,
    },
    /// The identity: weight sqrt(var + eps) and bias mean, from exact statistics over all clean images.
    Identity,
    /// The projection onto the first principal components of the clean values: see [`super::principal`].
    Principal {
        /// How many components. None: as few as keep [`Settings::KEPT_ANSWERS`] of the clean images' answers.
        rank: Option<usize>,
    },
}

/// An optimizer and what it alone takes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum OptimizerKind {
    /// SGD in PyTorch's form: v = momentum v + g; w = w - lr v.
    Sgd {
        /// Share of the last step's direction that is kept.
        momentum: f64,
        /// Weight decay, on all three tensors.
        weight_decay: f64,
    },
    /// Adam, without weight decay.
    Adam,
}

/// An adversary and what it alone takes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum AdversaryKind {
    /// None: the layer is trained on clean images alone. A control, not a defence.
    None,
    /// The published one: pixels, by sign ascent towards the likeliest wrong class, projected to an L2 ball.
    Pixel {
        /// Steps at most.
        steps: usize,
        /// Length of a step per value, pixels in [0, 1].
        step: f64,
        /// Radius of the ball per image. None: [`Settings::pixel_rho`].
        rho: Option<f64>,
        /// It stops once more than this share of a batch is answered with its target. None: it takes all its steps.
        stop_share: Option<f64>,
    },
    /// The values that cross the cut, by normalised gradient steps: see [`super::latent`].
    Latent {
        /// Steps.
        steps: usize,
        /// Largest root mean square of the change, in standard deviations.
        rho: f64,
    },
}

/// An adversary of the pixels attacks some images a few times in a training; the values it brings to the cut are kept
/// and are part of every step's loss, against the images' labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixelPool {
    /// Images that are attacked each time.
    pub images: usize,
    /// Length of a step per value, pixels in [0, 1], where each image has a change of its own.
    pub step: f64,
}

named! {
    /// Learning rate over the steps against the adversary.
    pub enum Schedule {
        /// The same all the time, as published.
        Constant = "constant",
        /// Half a cosine from its start to 0, step by step (PyTorch's CosineAnnealingLR).
        Cosine = "cosine",
    }
}

named! {
    /// Which class an adversary pushes an image towards.
    pub enum Targets {
        /// The likeliest one beside the true one, by the network with the layer as it stands.
        LikeliestWrong = "likeliest-wrong",
        /// Any but the true one, each as often.
        Random = "random",
        /// Any but the true one; those that adversaries reach most easily before the training more often.
        Suspect = "suspect",
    }
}

named! {
    /// Whose answers adversarial images are to keep.
    pub enum Original {
        /// Those to the clean images, by the network with the layer as it stands, as published.
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
        /// The command's default: a layer that starts as a projection onto principal components, adversaries that aim
        /// at the classes that lie nearest. How each number came about: `docs/decisions`.
        Default = "default",
        /// That of the paper, for CIFAR-10 and PreAct-ResNet18 (arXiv 2306.16697 and its code), except that rho follows
        /// the image size and that accuracy is guarded.
        Published = "published",
    }
}

impl Recipe {
    /// Its settings.
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

    /// Share of the labelled clean images that is held out to measure accuracy, unless told otherwise.
    pub fn holdout(self) -> f64 {
        match self {
            Self::Default => 0.1,
            Self::Published => 0.2,
        }
    }

    /// Whether the layer stands before all readers of a value, where no site is named.
    pub fn everywhere(self) -> bool {
        self == Self::Default
    }
}

impl Start {
    const WARM_LR: f64 = 1e-4;

    /// Epochs of the warm-up; 0 for a start that has none.
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

    /// The published one with this many steps.
    const fn pixel(steps: usize) -> Self {
        Self::Pixel { steps, step: Self::PIXEL_STEP, rho: None, stop_share: Some(0.6) }
    }

    /// Steps at most; 0 for none.
    fn steps(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Pixel { steps, .. } | Self::Latent { steps, .. } => *steps,
        }
    }
}

impl Schedule {
    /// The share of the first learning rate that is left for step `done` of `total`.
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
    /// Share of the clean images whose answers a layer of principal components has to keep before it is trained: it
    /// gives the rank where none is asked for.
    pub const KEPT_ANSWERS: f64 = 0.985;
    /// Published radius of the ball in pixel space, for images of 3x32x32.
    const PIXEL_RHO: f64 = 3.0;

    /// Those of [`Recipe::Default`].
    pub fn principal() -> Self {
        Recipe::Default.settings()
    }

    /// Those of [`Recipe::Published`].
    pub fn published() -> Self {
        Recipe::Published.settings()
    }

    /// Those of a recipe with some values replaced, in whatever order they are given. Where the number of epochs is
    /// given, it is exact: [`Settings::min_steps`] is none unless it is given too.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the first value that is out of its range, or that nothing would read.
    pub fn with(recipe: Recipe, given: &[(&'static Setting, Value)]) -> Result<Self> {
        let mut settings = recipe.settings();
        if given.iter().any(|(setting, _)| setting.name == "epochs") {
            settings.min_steps = None;
        }
        // what others depend on comes first
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

    /// How far the adversary goes for images of this shape (C, H, W): see [`AdversaryKind`]. None without an adversary.
    pub fn rho_for(&self, image: [usize; 3]) -> Option<f64> {
        match self.adversary {
            AdversaryKind::None => None,
            AdversaryKind::Pixel { rho, .. } => Some(rho.unwrap_or_else(|| Self::pixel_rho(image))),
            AdversaryKind::Latent { rho, .. } => Some(rho),
        }
    }

    /// The published radius of the ball in pixel space, scaled to images of this shape (C, H, W).
    pub fn pixel_rho(image: [usize; 3]) -> f64 {
        scaled_radius(Self::PIXEL_RHO, image)
    }

    /// Whether an adversary of the pixels ever takes a step: gradients before the site are needed then.
    pub fn moves_pixels(&self) -> bool {
        let pixels = matches!(self.adversary, AdversaryKind::Pixel { .. });
        self.epochs > 0 && self.adversary.steps() > 0 && pixels
    }

    /// Images that the pool's adversary attacks each time; 0 without a pool.
    pub fn pool_images(&self) -> usize {
        self.pool.map_or(0, |pool| pool.images)
    }

    /// The precision that was asked for, or the one that serves here.
    pub fn precision_here(&self) -> Precision {
        self.precision.unwrap_or_else(Precision::auto)
    }

    /// Whether every value is in its range.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the first that is not.
    pub fn check(&self) -> Result<()> {
        for setting in SETTINGS {
            setting.value(self).map_or(Ok(()), |value| setting.check(value))?;
        }
        match (self.start, self.optimizer) {
            (Start::Principal { .. }, OptimizerKind::Sgd { weight_decay, .. }) if weight_decay > 0.0 => {
                let problem = "decay draws a layer of principal components to 0, not to where it started; give 0, or \
                               `optimizer` adam";
                Err(Error::setting("weight_decay", problem))
            }
            _ => Ok(()),
        }
    }

    /// With what depends on the machine and on the images (C, H, W) filled in.
    fn resolved(&self, image: [usize; 3]) -> Self {
        let mut out = Self { precision: Some(self.precision_here()), ..self.clone() };
        if let AdversaryKind::Pixel { rho, .. } = &mut out.adversary {
            *rho = Some(rho.unwrap_or_else(|| Self::pixel_rho(image)));
        }
        out
    }

    /// What applies, as pairs of option and value in the order of [`SETTINGS`], for the provenance in the file.
    /// `image` is the shape (C, H, W) of the images.
    pub fn pairs(&self, image: [usize; 3]) -> Vec<(String, String)> {
        let resolved = self.resolved(image);
        let shown = |setting: &Setting| {
            let value = setting.value(&resolved)?;
            Some((setting.name.replace('_', "-"), setting.show(value)))
        };
        SETTINGS.iter().filter_map(shown).collect()
    }

    /// Every setting under its name, for reports; null where it does not apply. `image` is the shape (C, H, W) of the
    /// images.
    pub fn json(&self, image: [usize; 3]) -> serde_json::Map<String, serde_json::Value> {
        let resolved = self.resolved(image);
        let json = |setting: &Setting| {
            setting.value(&resolved).or(setting.off).map_or_else(Default::default, Value::json)
        };
        let mut out: serde_json::Map<_, _> =
            SETTINGS.iter().map(|setting| (setting.name.to_owned(), json(setting))).collect();
        out.insert("least_steps".into(), self.min_steps.unwrap_or(0).into()); // its name up to 0.1
        out
    }
}

#[cfg(test)]
mod tests;
