//! Where a training runs: on the processor, or on an NVIDIA GPU in a build with the `cuda` feature.

use std::{fmt, str::FromStr};

use candle_core::Device;

use crate::{Error, Result, kernels::Precision};

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The first GPU, where this build can use one and there is one; else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The GPU with this number.
    Cuda(usize),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", number)) => {
                number.parse().map(Self::Cuda).map_err(|_| format!("no number of a GPU: {number:?}"))
            }
            _ => Err("expected auto, cpu, cuda or cuda:N".into()),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

/// A device that is ready.
#[derive(Clone, Debug)]
pub struct Place {
    device: Device,
    /// The card's own name; None for the processor.
    card: Option<String>,
    number: usize,
}

impl Default for Place {
    fn default() -> Self {
        Self { device: Device::Cpu, card: None, number: 0 }
    }
}

impl Place {
    /// Makes what was asked for ready.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `--device` where a GPU was asked for and cannot be used; never for [`Choice::Auto`].
    pub fn open(choice: Choice) -> Result<Self> {
        match choice {
            Choice::Cpu => Ok(Self::default()),
            Choice::Cuda(number) => {
                Self::cuda(number).map_err(|problem| Error::invalid(format!("--device {choice}"), problem))
            }
            Choice::Auto => Ok(Self::cuda(0).unwrap_or_default()),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda(number: usize) -> Result<Self, String> {
        use crate::kernels::cuda::Gpu;
        let ready = || -> Result<Self> {
            let device = Gpu::open(number)?;
            let card = Gpu::of(&device)?.map(|gpu| gpu.name().to_string());
            Ok(Self { device, card, number })
        };
        // a driver that is there and does not work may take its fault as far as a panic in a library of ours
        let opened = std::panic::catch_unwind(ready).unwrap_or_else(|_| Err(Error::internal("no driver")));
        opened.map_err(|e| format!("no usable GPU with number {number}: {e}"))
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda(_: usize) -> Result<Self, String> {
        Err("this build trains on the processor alone; `cargo build --release --features cuda` makes one for NVIDIA \
             GPUs, on a machine with CUDA and cuDNN"
            .into())
    }

    /// Candle's device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// On the processor.
    pub fn is_cpu(&self) -> bool {
        self.device.is_cpu()
    }

    /// As it stands in reports: `cpu`, or `cuda:0 (the card's name)`.
    pub fn name(&self) -> String {
        match &self.card {
            Some(card) => format!("cuda:{} ({})", self.number, crate::error::printable(card)),
            None => "cpu".into(),
        }
    }

    /// What convolutions multiply here: what was asked for, or what serves best.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `--precision` where that is not to be had here.
    pub fn precision(&self, asked: Option<Precision>) -> Result<Precision> {
        let refused = |problem: &str| Err(Error::invalid("--precision", problem));
        match (asked, self.is_cpu()) {
            (None, true) => Ok(Precision::auto()),
            (None, false) => Ok(Precision::Tf32),
            (Some(Precision::Tf32), true) => {
                refused("tf32 is what tensor cores of a GPU multiply; on the processor: f32 or bf16")
            }
            (Some(given), _) => Ok(given),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for (text, choice) in [
            ("auto", Choice::Auto),
            ("cpu", Choice::Cpu),
            ("cuda", Choice::Cuda(0)),
            ("cuda:3", Choice::Cuda(3)),
        ] {
            assert_eq!(text.parse(), Ok(choice));
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "metal"] {
            assert!(wrong.parse::<Choice>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_precision_that_is_not_to_be_had_is_refused() {
        let cpu = Place::default();
        assert_eq!(cpu.precision(Some(Precision::F32)).unwrap(), Precision::F32);
        assert_eq!(cpu.precision(None).unwrap(), Precision::auto());
        assert_eq!(cpu.precision(Some(Precision::Tf32)).unwrap_err().exit_code(), 2);
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_a_gpu_says_how_to_get_one_with() {
        let refused = Place::open(Choice::Cuda(0)).unwrap_err();
        assert_eq!(refused.exit_code(), 2);
        assert!(
            refused.to_string().starts_with("--device cuda:0: ")
                && refused.to_string().contains("--features cuda")
        );
        assert!(Place::open(Choice::Auto).unwrap().is_cpu());
    }
}
