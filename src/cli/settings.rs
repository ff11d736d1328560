//! The training's settings as options. Every field of [`Settings`] is one; the defaults are the published ones.

use crate::{
    kernels::Precision,
    train::{AdversaryKind, Settings},
};

/// See [`Settings`].
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Training")]
pub struct SettingsArgs {
    /// Epochs in which only the layer's statistics settle
    #[arg(long, value_name = "N", default_value_t = 5)]
    warmup: usize,
    /// Epochs against the adversary
    #[arg(long, value_name = "N", default_value_t = 50)]
    epochs: usize,
    /// Images a step
    #[arg(long, value_name = "N", default_value_t = 128)]
    batch: usize,
    /// Seed of shuffles and of the holdout
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Learning rate against the adversary
    #[arg(long, value_name = "X", default_value_t = 0.01)]
    lr: f64,
    /// Learning rate of the warm-up
    #[arg(long, value_name = "X", default_value_t = 1e-4)]
    warm_lr: f64,
    /// Momentum of SGD
    #[arg(long, value_name = "X", default_value_t = 0.9)]
    momentum: f64,
    /// Weight decay of SGD
    #[arg(long, value_name = "X", default_value_t = 5e-4)]
    weight_decay: f64,
    /// What the adversary moves; none is a control, not a defence
    #[arg(long, value_name = "KIND", default_value = "pixel", value_parser = ["pixel", "none"])]
    adversary: String,
    /// Steps of the adversary at most
    #[arg(long, value_name = "N", default_value_t = 2)]
    inner_steps: usize,
    /// Length of an adversary's step, in pixels of 0..1
    #[arg(long, value_name = "X", default_value_t = 0.1)]
    inner_step: f64,
    /// Radius of the adversary's L2 ball, in pixels of 0..1 [default: 3 sqrt(C H W / 3072)]
    #[arg(long, value_name = "X")]
    rho: Option<f64>,
    /// The adversary stops when this share of a batch gives its target
    #[arg(long, value_name = "X", default_value_t = 0.6)]
    stop_share: f64,
    /// Weights of the losses: clean images, kept answers, wrong class down, target down
    #[arg(long, value_name = "A,B,C,D", value_delimiter = ',', num_args = 1, default_values_t = [1.0, 0.4, 0.4, 0.4])]
    lambdas: Vec<f64>,
    /// What the frozen network's convolutions multiply in the training; auto is bf16 where the processor has AVX-512 BF16
    #[arg(long, value_name = "KIND", default_value = "auto", value_parser = ["f32", "bf16", "auto"])]
    precision: String,
}

impl SettingsArgs {
    /// The run's seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What they mean.
    ///
    /// # Errors
    /// A value out of its range.
    pub fn settings(&self) -> crate::Result<Settings> {
        let lambdas = <[f64; 4]>::try_from(self.lambdas.as_slice()).map_err(|_| {
            let problem = format!("{} values; four are expected", self.lambdas.len());
            crate::Error::invalid("--lambdas", problem)
        })?;
        let adversary = if self.adversary == "none" { AdversaryKind::None } else { AdversaryKind::Pixel };
        let settings = Settings {
            warmup: self.warmup,
            epochs: self.epochs,
            batch: self.batch,
            lr: self.lr,
            warm_lr: self.warm_lr,
            momentum: self.momentum,
            weight_decay: self.weight_decay,
            adversary,
            inner_steps: self.inner_steps,
            inner_step: self.inner_step,
            rho: self.rho,
            stop_share: self.stop_share,
            lambdas,
            seed: self.seed,
            precision: match self.precision.as_str() {
                "f32" => Some(Precision::F32),
                "bf16" => Some(Precision::Bf16),
                _ => None,
            },
        };
        settings.check()?;
        Ok(settings)
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
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for wrong in [&["--lambdas", "1,2"][..], &["--batch", "0"], &["--lr", "nan"], &["--rho", "inf"]] {
            let parsed = Only::try_parse_from([&["x"], wrong].concat());
            assert!(parsed.is_ok_and(|o| o.settings.settings().is_err()), "{wrong:?}");
        }
    }
}
