//! The training's settings as options. Every field of [`Settings`] is one; what is not given
//! comes from a recipe.

use crate::{
    kernels::Precision,
    train::{AdversaryKind, Descent, Original, Schedule, Settings, Start, Targets},
};

/// See [`Settings`].
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Training")]
pub struct SettingsArgs {
    /// What the options below start from: ours, or the published recipe: see README
    #[arg(long, value_enum, default_value_t = Recipe::Default)]
    recipe: Recipe,
    /// What the layer is before it is trained [default: principal; published: whitening]
    #[arg(long, value_enum, value_name = "KIND")]
    start: Option<Starts>,
    /// Principal components of the clean values that a layer with --start principal starts from [default: as few as keep 98.5 %
    /// of the clean answers]
    #[arg(long, value_name = "N")]
    rank: Option<usize>,
    /// Epochs in which only the layer's statistics settle, for a layer that starts whitening [default: 0; published: 5]
    #[arg(long, value_name = "N")]
    warmup: Option<usize>,
    /// Epochs against the adversary [default: 5; published: 50]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Images a step [default: 128]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Train on the mirror images too, those that the network answers as it should [default: true; published: false]
    #[arg(long, value_name = "BOOL")]
    mirror: Option<bool>,
    /// Seed of shuffles and of the holdout
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// What takes the steps against the adversary; adam knows neither momentum nor weight decay [default: adam; published: sgd]
    #[arg(long, value_enum, value_name = "KIND")]
    optimizer: Option<Descends>,
    /// Learning rate against the adversary [default: 0.2; published: 0.01]
    #[arg(long, value_name = "X")]
    lr: Option<f64>,
    /// What becomes of it, step by step [default: cosine; published: constant]
    #[arg(long, value_enum, value_name = "KIND")]
    schedule: Option<Goes>,
    /// Learning rate of the warm-up [default: 0.0001]
    #[arg(long, value_name = "X")]
    warm_lr: Option<f64>,
    /// Momentum of SGD [default: 0.9]
    #[arg(long, value_name = "X")]
    momentum: Option<f64>,
    /// Weight decay of SGD [default: 0.0005]
    #[arg(long, value_name = "X")]
    weight_decay: Option<f64>,
    /// What the adversary moves; none is a control, not a defence [default: latent; published: pixel]
    #[arg(long, value_enum, value_name = "KIND")]
    adversary: Option<Moves>,
    /// Steps of the adversary at most [default: 3; published: 2]
    #[arg(long, value_name = "N")]
    inner_steps: Option<usize>,
    /// Length of a step of the adversary of the pixels, in pixels of 0..1 [default: 0.1]
    #[arg(long, value_name = "X")]
    inner_step: Option<f64>,
    /// How far the adversary goes. Pixels: radius of its L2 ball [default: 3 sqrt(C H W / 3072)]; values at the cut: root
    /// mean square of the change, in standard deviations [default: 1.4]
    #[arg(long, value_name = "X")]
    rho: Option<f64>,
    /// The adversary of the pixels stops when this share of a batch gives its target [default: 0.6]
    #[arg(long, value_name = "X")]
    stop_share: Option<f64>,
    /// Classes that the adversary of the values at the cut and the pool's push towards [default: suspect; published: likeliest-wrong]
    #[arg(long, value_enum, value_name = "KIND")]
    targets: Option<Towards>,
    /// Whose answers adversarial images are to keep [default: labels; published: current]
    #[arg(long, value_enum, value_name = "KIND")]
    original: Option<Keeps>,
    /// Weights of the losses: clean images, kept answers, wrong class down, target down [default: 1,0.4,0.4,0.4]
    #[arg(long, value_name = "A,B,C,D", value_delimiter = ',', num_args = 1)]
    lambdas: Option<Vec<f64>>,
    /// Weight of one more loss: how far the answers on clean images move from the original network's (KL divergence) [default: 8; published: 0]
    #[arg(long, value_name = "X")]
    retention: Option<f64>,
    /// Images an epoch that an adversary of the pixels attacks besides; what they bring to the cut is part of every step's
    /// loss [default: 640; published: 0]
    #[arg(long, value_name = "N")]
    pool: Option<usize>,
    /// Points of accuracy on the held-out images that the layer may cost; it is mixed with the identity where it costs more,
    /// and if that is not enough, no file is written [default: 10; published: 20]
    #[arg(long, value_name = "POINTS")]
    max_acc_drop: Option<f64>,
    /// What the frozen network's convolutions multiply in the training; auto is bf16 where the processor has AVX-512 BF16, tf32
    /// on a GPU
    #[arg(long, value_name = "KIND", default_value = "auto", value_parser = ["f32", "tf32", "bf16", "auto"])]
    precision: String,
}

/// The recipes. Variants have no comments that clap would see: it would print each option over a page.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Recipe {
    #[value(alias = "principal")]
    Default,
    Published,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Moves {
    Pixel,
    Latent,
    None,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Towards {
    LikeliestWrong,
    Random,
    Suspect,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Keeps {
    Current,
    Unchanged,
    Labels,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Starts {
    Whitening,
    Identity,
    Principal,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Descends {
    Sgd,
    Adam,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Goes {
    Constant,
    Cosine,
}

impl SettingsArgs {
    /// The run's seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The recipe's name.
    pub fn recipe(&self) -> &'static str {
        match self.recipe {
            Recipe::Published => "published",
            Recipe::Default => "default",
        }
    }

    /// Whether the recipe's layer stands before all readers of a value, where no site is named.
    pub fn everywhere(&self) -> bool {
        matches!(self.recipe, Recipe::Default)
    }

    /// What they mean.
    ///
    /// # Errors
    /// A value out of its range.
    pub fn settings(&self) -> crate::Result<Settings> {
        let from = match self.recipe {
            Recipe::Published => Settings::published(),
            Recipe::Default => Settings::principal(),
        };
        let lambdas = match &self.lambdas {
            None => from.lambdas,
            Some(given) => <[f64; 4]>::try_from(given.as_slice()).map_err(|_| {
                crate::Error::invalid("--lambdas", format!("{} values; four are expected", given.len()))
            })?,
        };
        let settings = Settings {
            start: self.start.map_or(from.start, |s| match s {
                Starts::Whitening => Start::Whitening,
                Starts::Identity => Start::Identity,
                Starts::Principal => Start::Principal,
            }),
            rank: self.rank.or(from.rank),
            warmup: self.warmup.unwrap_or(from.warmup),
            epochs: self.epochs.unwrap_or(from.epochs),
            batch: self.batch.unwrap_or(from.batch),
            mirror: self.mirror.unwrap_or(from.mirror),
            optimizer: self.optimizer.map_or(from.optimizer, |o| match o {
                Descends::Sgd => Descent::Sgd,
                Descends::Adam => Descent::Adam,
            }),
            lr: self.lr.unwrap_or(from.lr),
            schedule: self.schedule.map_or(from.schedule, |s| match s {
                Goes::Constant => Schedule::Constant,
                Goes::Cosine => Schedule::Cosine,
            }),
            warm_lr: self.warm_lr.unwrap_or(from.warm_lr),
            momentum: self.momentum.unwrap_or(from.momentum),
            weight_decay: self.weight_decay.unwrap_or(from.weight_decay),
            adversary: self.adversary.map_or(from.adversary, |a| match a {
                Moves::Pixel => AdversaryKind::Pixel,
                Moves::Latent => AdversaryKind::Latent,
                Moves::None => AdversaryKind::None,
            }),
            inner_steps: self.inner_steps.unwrap_or(from.inner_steps),
            inner_step: self.inner_step.unwrap_or(from.inner_step),
            rho: self.rho.or(from.rho),
            stop_share: self.stop_share.unwrap_or(from.stop_share),
            targets: self.targets.map_or(from.targets, |t| match t {
                Towards::LikeliestWrong => Targets::LikeliestWrong,
                Towards::Random => Targets::Random,
                Towards::Suspect => Targets::Suspect,
            }),
            original: self.original.map_or(from.original, |o| match o {
                Keeps::Current => Original::Current,
                Keeps::Unchanged => Original::Unchanged,
                Keeps::Labels => Original::Labels,
            }),
            lambdas,
            retention: self.retention.unwrap_or(from.retention),
            // who says how many epochs gets as many
            least_steps: if self.epochs.is_some() { 0 } else { from.least_steps },
            pool: self.pool.unwrap_or(from.pool),
            max_acc_drop: self.max_acc_drop.or(from.max_acc_drop),
            seed: self.seed,
            precision: match self.precision.as_str() {
                "f32" => Some(Precision::F32),
                "bf16" => Some(Precision::Bf16),
                "tf32" => Some(Precision::Tf32),
                _ => None,
            },
        };
        settings.check()?;
        self.all_of_use(&settings)?;
        Ok(settings)
    }

    /// # Errors
    /// An option that was given and that nothing would read with these settings: who gives it expects something of it.
    fn all_of_use(&self, settings: &Settings) -> crate::Result<()> {
        let warms = settings.warmup > 0;
        let sgd = settings.optimizer == Descent::Sgd;
        let (moves, pixels) =
            (settings.adversary != AdversaryKind::None, settings.adversary == AdversaryKind::Pixel);
        let pool = settings.pool > 0;
        // those of the latent adversary are drawn, and so are the pool's; the published one has its own
        let drawn = pool || settings.adversary == AdversaryKind::Latent;
        let options = [
            ("--warm-lr", self.warm_lr.is_some(), warms, "there is no warm-up (--warmup)"),
            ("--momentum", self.momentum.is_some(), sgd, "Adam knows none (--optimizer)"),
            ("--weight-decay", self.weight_decay.is_some(), sgd, "Adam knows none (--optimizer)"),
            ("--inner-steps", self.inner_steps.is_some(), moves, "nothing is moved (--adversary)"),
            ("--rho", self.rho.is_some(), moves, "nothing is moved (--adversary)"),
            (
                "--inner-step",
                self.inner_step.is_some(),
                pixels || pool,
                "no pixels are moved (--adversary, --pool)",
            ),
            ("--stop-share", self.stop_share.is_some(), pixels, "no step's pixels are moved (--adversary)"),
            ("--targets", self.targets.is_some(), drawn, "nothing draws a target (--adversary, --pool)"),
            ("--original", self.original.is_some(), moves, "nothing is moved (--adversary)"),
        ];
        match options.into_iter().find(|(_, given, used, _)| *given && !used) {
            Some((option, .., why)) => {
                Err(crate::Error::invalid(option, format!("would change nothing: {why}")))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        settings: SettingsArgs,
    }

    #[test]
    fn the_defaults_are_the_librarys() {
        let only = Only::try_parse_from(["x"]).unwrap();
        assert_eq!(only.settings.settings().unwrap(), Settings::default());
        let only = Only::try_parse_from(["x", "--recipe", "default", "--epochs", "3"]).unwrap();
        assert_eq!(
            only.settings.settings().unwrap(),
            Settings { epochs: 3, least_steps: 0, ..Settings::principal() }
        );
        let only = Only::try_parse_from(["x", "--recipe", "published"]).unwrap();
        assert_eq!(only.settings.settings().unwrap(), Settings::published());
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for wrong in [&["--lambdas", "1,2"][..], &["--batch", "0"], &["--lr", "nan"], &["--rho", "inf"]] {
            let parsed = Only::try_parse_from([&["x"], wrong].concat());
            assert!(parsed.is_ok_and(|o| o.settings.settings().is_err()), "{wrong:?}");
        }
    }

    #[test]
    fn options_that_would_change_nothing_are_refused() {
        let said = |options: &[&str]| {
            let parsed = Only::try_parse_from([&["x"], options].concat()).unwrap();
            parsed.settings.settings().err().map_or_else(String::new, |e| e.to_string())
        };
        assert!(said(&["--momentum", "0.5"]).contains("--momentum"));
        assert_eq!(said(&["--momentum", "0.5", "--optimizer", "sgd", "--weight-decay", "0"]), "");
        assert!(said(&["--stop-share", "0.5"]).contains("--stop-share"));
        assert!(said(&["--recipe", "published", "--targets", "random"]).contains("--targets"));
        assert!(said(&["--recipe", "published", "--adversary", "none", "--rho", "1"]).contains("--rho"));
        assert!(said(&["--pool", "0", "--inner-step", "0.2"]).contains("--inner-step"));
        assert_eq!(said(&["--inner-step", "0.2", "--targets", "random", "--rho", "1"]), "");
    }
}
