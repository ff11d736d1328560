//! Opens the device that the kernels run on, and chooses their precision.

use super::{
    Precision,
    gpu::{self, Gpu},
};
use crate::{
    Error, Result,
    base::device::{Choice, Place},
};

impl Place {
    /// Opens the requested device.
    ///
    /// # Errors
    /// [`Error::Setting`] naming `device` if a requested GPU cannot be used; never for [`Choice::Auto`].
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
            return Err("this build has no GPU support; `cargo build --release --features cuda` adds it, \
                        on a machine with CUDA and cuDNN"
                .into());
        }
        let ready = || -> Result<Self> {
            let device = Gpu::open(number)?;
            let card = Gpu::of(&device)?.map(|gpu| gpu.name().to_string());
            Ok(Self::gpu(device, number, card))
        };
        // a broken driver may cause a panic inside a library
        let opened = std::panic::catch_unwind(ready).unwrap_or_else(|_| Err(Error::internal("no driver")));
        opened.map_err(|e| format!("no usable GPU with number {number}: {e}"))
    }

    /// The precision of convolutions on this device: the requested one, or the fastest.
    ///
    /// # Errors
    /// [`Error::Setting`] naming `precision` if the device does not support it.
    pub fn precision(&self, asked: Option<Precision>) -> Result<Precision> {
        let refused = |problem: &str| Err(Error::setting("precision", problem));
        match (asked, self.is_cpu()) {
            (None, true) => Ok(Precision::auto()),
            (None, false) => Ok(Precision::Tf32),
            (Some(Precision::Tf32), true) => {
                refused("tf32 needs the tensor cores of a GPU; the processor has f32 and bf16")
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
