//! The recipes as data: every number of the training. [`Settings::published`], the default, is the published one
//! with its CIFAR-10 settings; [`Settings::principal`] is ours.

use serde::{Deserialize, Serialize};

use crate::{Error, Result, kernels::Precision};

/// Settings of the training. What is called published is that for CIFAR-10 and PreAct-ResNet18 (arXiv 2306.16697 and its
/// code), except that rho follows the image size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// What the layer is before it is trained.
    pub start: Start,
    /// Principal components of a layer that starts as their projection. None: as few as keep [`Settings::KEPT_ANSWERS`] of
    /// the clean images' answers before anything is trained.
    pub rank: Option<usize>,
    /// Epochs of the first phase, in which the layer's BatchNorm uses batch statistics. Published: 5.
    pub warmup: usize,
    /// Epochs of the second phase, against the adversary. Published: 50.
    pub epochs: usize,
    /// Images a step; the last batch of an epoch may be shorter. Published: 128.
    pub batch: usize,
    /// Train on the mirror images too, those that the network answers as it should. Published: no.
    pub mirror: bool,
    /// What takes the steps of the second phase.
    pub optimizer: Descent,
    /// Learning rate of the second phase, at its start. Published: 0.01.
    pub lr: f64,
    /// How it goes on from there.
    pub schedule: Schedule,
    /// Learning rate of the first phase, plain SGD. Published: 1e-4.
    pub warm_lr: f64,
    /// Momentum of SGD in the second phase (PyTorch's form: v = momentum v + g; w = w - lr v). Published: 0.9.
    pub momentum: f64,
    /// Weight decay of SGD in the second phase, on all three tensors. Published: 5e-4.
    pub weight_decay: f64,
    /// What the adversary moves.
    pub adversary: AdversaryKind,
    /// Steps of the adversary at most. Published: 2.
    pub inner_steps: usize,
    /// Length of one step of sign ascent, per value in pixel space [0, 1]. Published: 0.1.
    pub inner_step: f64,
    /// How far the adversary goes. Pixels: radius of the L2 ball per image; None: 3 sqrt(C H W / 3072), which is 3 for
    /// 3x32x32. Values at the cut: root mean square of the change at most, in standard deviations; None: 1.4.
    pub rho: Option<f64>,
    /// The adversary of the pixels stops when more than this share of a batch is answered with its target. Published: 0.6.
    pub stop_share: f64,
    /// Which class the adversary of the values at the cut pushes an image towards; that of the pixels always takes the
    /// likeliest wrong one.
    pub targets: Targets,
    /// Which answers adversarial images are to keep.
    pub original: Original,
    /// Weights of the four losses: CE on clean images; CE of the adversarial images against the answers on the clean
    /// ones; the likeliest wrong class pushed down; the adversary's target pushed down. Published: 1, 0.4, 0.4, 0.4.
    pub lambdas: [f64; 4],
    /// Weight of one more loss on the clean images: the Kullback-Leibler divergence of the answers from those of the network
    /// without the layer. Published: 0.
    pub retention: f64,
    /// Steps against the adversary that there are at least: with few images there are more epochs. 0: as many epochs as are
    /// asked for.
    pub least_steps: usize,
    /// Images an epoch that an adversary of the pixels attacks besides; what they bring to the cut is kept and, against their
    /// labels, part of every step's loss. 0: none.
    pub pool: usize,
    /// Points of accuracy on the images held out that a layer may cost; where it costs more, it is mixed with the identity
    /// until it does not. None: whatever it costs. Not published; 20 there keeps off what spoils a network, and nothing else was
    /// ever seen to cost as much. Without images held out nothing is known and nothing done.
    pub max_acc_drop: Option<f64>,
    /// Seed of the shuffles and of what an adversary draws.
    pub seed: u64,
    /// What the frozen network's convolutions multiply in the training's steps: both passes, both directions. What is
    /// computed once of the clean images, the layer, its statistics and whatever is measured stay f32. None:
    /// [`Precision::auto`].
    pub precision: Option<Precision>,
}

/// What a layer is before it is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Start {
    /// As published: its BatchNorm has weight 1 and bias 0, so that its answer has mean 0 and variance 1 in each channel.
    Whitening,
    /// The identity: weight sqrt(var + eps) and bias mean, of exact statistics over all clean images.
    Identity,
    /// The projection onto the first principal components of the clean values, held as a product of two factors: see
    /// [`super::principal`].
    Principal,
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

/// What takes the steps of the second phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Descent {
    /// SGD with momentum and weight decay, as published.
    Sgd,
    /// Adam, without weight decay.
    Adam,
}

/// What becomes of the learning rate in the second phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Schedule {
    /// Nothing, as published.
    Constant,
    /// Half a cosine from its start to 0, step by step (PyTorch's CosineAnnealingLR).
    Cosine,
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

/// Which class an adversary pushes an image towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Targets {
    /// The one that the network, with the layer as it stands, takes for likeliest beside the true one.
    LikeliestWrong,
    /// Any but the true one, each as often.
    Random,
    /// Any but the true one, those that adversaries reach most easily before the training more often: [`super::Suspicion`].
    Suspect,
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
    /// Their labels.
    Labels,
}

impl Default for Settings {
    /// [`Settings::principal`].
    fn default() -> Self {
        Self::principal()
    }
}

impl Settings {
    /// The command's default, named after the layer's start. It starts as the projection of the site onto the principal components that
    /// clean images need. Before the training it is measured towards which classes adversaries come most easily, and they aim
    /// there: one moves the values at the cut in every step; others, of the pixels, fill a pool of adversarial values, in the way by
    /// which a class stands out or, where none does, image by image and in the two nearest ways. Adversarial images are to keep
    /// their labels, clean ones and their mirror images the answers of the network without the layer. Adam, a learning rate that falls to 0, few epochs; the accuracy on
    /// held-out images is guarded. How each of these came about: `docs/decisions`.
    pub fn principal() -> Self {
        Self {
            start: Start::Principal,
            warmup: 0,
            epochs: 5,
            optimizer: Descent::Adam,
            lr: 0.2,
            schedule: Schedule::Cosine,
            adversary: AdversaryKind::Latent,
            targets: Targets::Suspect,
            original: Original::Labels,
            least_steps: 120,
            pool: 640,
            lambdas: [1.0, 0.2, 0.2, 0.2],
            inner_steps: 3,
            retention: 8.0,
            mirror: true,
            max_acc_drop: Some(10.0),
            ..Self::published()
        }
    }

    /// The published recipe.
    pub fn published() -> Self {
        Self {
            start: Start::Whitening,
            rank: None,
            warmup: 5,
            epochs: 50,
            batch: 128,
            mirror: false,
            optimizer: Descent::Sgd,
            lr: 0.01,
            schedule: Schedule::Constant,
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
            retention: 0.0,
            least_steps: 0,
            pool: 0,
            max_acc_drop: Some(20.0),
            seed: 0,
            precision: None,
        }
    }

    /// Share of the clean images whose answers a layer of principal components has to keep before it is trained: it gives
    /// the rank where none is asked for.
    pub const KEPT_ANSWERS: f64 = 0.985;

    /// How far the adversary goes for images of this shape (C, H, W).
    pub fn rho_for(&self, image: [usize; 3]) -> f64 {
        self.rho.unwrap_or_else(|| match self.adversary {
            AdversaryKind::Latent => 1.4,
            _ => Self::pixel_rho(image),
        })
    }

    /// The published radius of the ball in pixel space, scaled to images of this shape.
    pub fn pixel_rho(image: [usize; 3]) -> f64 {
        Self::scaled_rho(3.0, image)
    }

    /// A ball's radius in pixel space for images of this shape (C, H, W), given that for images of 3x32x32.
    pub fn scaled_rho(rho: f64, image: [usize; 3]) -> f64 {
        rho * (image.iter().product::<usize>() as f64 / 3072.0).sqrt()
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
        if self.start != Start::Whitening && self.warmup > 0 {
            return Err(Error::invalid(
                "--warmup",
                "only a layer that starts whitening has something to warm up",
            ));
        }
        if self.start == Start::Principal && self.optimizer == Descent::Sgd && self.weight_decay > 0.0 {
            let problem =
                "decay draws a layer of principal components to 0, not to where it started; say 0 or adam";
            return Err(Error::invalid("--weight-decay", problem));
        }
        if self.rank.is_some() && self.start != Start::Principal {
            return Err(Error::invalid("--rank", "only a layer with --start principal has a rank"));
        }
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
        finite("--retention", self.retention, 0.0)?;
        if let Some(drop) = self.max_acc_drop {
            finite("--max-acc-drop", drop, 0.0)?;
        }
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
            Targets::Suspect => "suspect",
        };
        let original = match self.original {
            Original::Current => "current",
            Original::Unchanged => "unchanged",
            Original::Labels => "labels",
        };
        let schedule = match self.schedule {
            Schedule::Constant => "constant",
            Schedule::Cosine => "cosine",
        };
        let drop = self.max_acc_drop.map_or_else(|| "none".to_owned(), |d| d.to_string());
        let start = match self.start {
            Start::Whitening => "whitening",
            Start::Identity => "identity",
            Start::Principal => "principal",
        };
        let rank = self.rank.map_or_else(|| "auto".to_owned(), |r| r.to_string());
        let optimizer = match self.optimizer {
            Descent::Sgd => "sgd",
            Descent::Adam => "adam",
        };
        [
            ("start", start.to_string()),
            ("rank", rank),
            ("warmup", self.warmup.to_string()),
            ("epochs", self.epochs.to_string()),
            ("batch", self.batch.to_string()),
            ("mirror", self.mirror.to_string()),
            ("optimizer", optimizer.to_string()),
            ("lr", self.lr.to_string()),
            ("schedule", schedule.to_string()),
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
            ("retention", self.retention.to_string()),
            ("least-steps", self.least_steps.to_string()),
            ("pool", self.pool.to_string()),
            ("max-acc-drop", drop),
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
        let s = Settings::published();
        assert_eq!(s.rho_for([3, 32, 32]), 3.0);
        assert_eq!(s.rho_for([3, 64, 64]), 6.0);
        assert_eq!(Settings { rho: Some(5.0), ..s }.rho_for([3, 64, 64]), 5.0);
    }

    #[test]
    fn a_cosine_goes_from_all_to_nothing() {
        assert_eq!([0, 5, 10].map(|done| Schedule::Constant.share(done, 10)), [1.0; 3]);
        let [first, half, last] = [0, 5, 10].map(|done| Schedule::Cosine.share(done, 10));
        assert!((first - 1.0).abs() < 1e-12 && (half - 0.5).abs() < 1e-12 && last.abs() < 1e-12);
    }

    #[test]
    fn wrong_settings_are_named() {
        let e = Settings { rho: Some(f64::NAN), ..Settings::default() }.check().unwrap_err();
        assert!(e.to_string().starts_with("--rho: NaN"), "{e}");
        assert_eq!(e.exit_code(), 2);
        Settings::default().check().unwrap();
    }
}
