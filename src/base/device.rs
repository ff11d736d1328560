//! Devices: the CPU, or an NVIDIA GPU in a build with the `cuda` feature.

use std::{fmt, str::FromStr};

use candle_core::Device;

/// The requested device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The first GPU if this build supports one and one is present; else the CPU.
    #[default]
    Auto,
    /// The CPU.
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
            Some(("cuda", number)) => number
                .parse()
                .map(Self::Cuda)
                .map_err(|_| format!("{number:?} is not a GPU number; expected cuda:N with N from 0")),
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

/// An opened device.
#[derive(Clone, Debug)]
pub struct Place {
    device: Device,
    /// Name of the GPU; None for the CPU.
    card: Option<String>,
    number: usize,
}

impl Default for Place {
    fn default() -> Self {
        Self { device: Device::Cpu, card: None, number: 0 }
    }
}

impl Place {
    /// The GPU `number`, opened as `device`; `card` is its name.
    pub(crate) fn gpu(device: Device, number: usize, card: Option<String>) -> Self {
        Self { device, card, number }
    }

    /// The candle device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// True for the CPU.
    pub fn is_cpu(&self) -> bool {
        self.device.is_cpu()
    }

    /// Name in reports: `cpu`, or `cuda:0 (name of the GPU)`.
    pub fn name(&self) -> String {
        match &self.card {
            Some(card) => format!("cuda:{} ({})", self.number, super::error::printable(card)),
            None => "cpu".into(),
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
}
