//! Which device the kernels run on, and what they multiply there.

use super::{
    Precision,
    gpu::{self, Gpu},
};
use crate::{
    Error, Result,
    base::device::{Choice, Place},
};

impl Place {
    /// Makes what was asked for ready.
    ///
    /// # Errors
    /// [`Error::Setting`] naming `device` where a GPU was asked for and cannot be used; never for [`Choice::Auto`].
    pub fn open(choice: Choice) -> Result<Self> {
        match choice {
            Choice::Cpu => Ok(Self::default()),
            Choice::Cuda(number) => {
                Self::cuda(number).map_err(|problem| Error::setting("device", format!("{choice}: {problem}")))
            }
            Choice::Auto => Ok(Self::cuda(0).unwrap_or_default()),
        }
    }

    fn cuda(number: usize) -> Result<Self, String> {
        if !gpu::BUILT {
            return Err("this build trains on the processor alone; `cargo build --release --features cuda` makes one \
                        for NVIDIA GPUs, on a machine with CUDA and cuDNN"
                .into());
        }
        let ready = || -> Result<Self> {
            let device = Gpu::open(number)?;
            let card = Gpu::of(&device)?.map(|gpu| gpu.name().to_string());
            Ok(Self::gpu(device, number, card))
        };
        // a driver that is there and does not work may take its fault as far as a panic in a library of ours
        let opened = std::panic::catch_unwind(ready).unwrap_or_else(|_| Err(Error::internal("no driver")));
        opened.map_err(|e| format!("no usable GPU with number {number}: {e}"))
    }

    /// What convolutions multiply here: what was asked for, or what serves best.
    ///
    /// # Errors
    /// [`Error::Setting`] naming `precision` where that is not to be had here.
    pub fn precision(&self, asked: Option<Precision>) -> Result<Precision> {
        let refused = |problem: &str| Err(Error::setting("precision", problem));
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
            refused.to_string().starts_with("device: cuda:0: ")
                && refused.to_string().contains("--features cuda")
        );
        assert!(Place::open(Choice::Auto).unwrap().is_cpu());
    }
}
