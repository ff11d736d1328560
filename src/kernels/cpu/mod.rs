//! Processor-specific parts: vector types, and the functions compiled for them.

/// Picks the compiled function for an instruction set, a precision and one or two vectors of channels. Arguments: the
/// f32 and the bfloat16 functions of each instruction set, then the native bfloat16 one.
macro_rules! pick {
    ($isa:expr, $precision:expr, $nv:expr, $portable:ident $portable_bf16:ident, $avx2:ident $avx2_bf16:ident,
     $avx512:ident $avx512_bf16:ident $native:ident) => {
        match ($isa, $precision == $crate::kernels::Precision::Bf16, $nv) {
            (Isa::Portable, true, 1) => $portable_bf16::<3, 1>,
            (Isa::Portable, true, _) => $portable_bf16::<3, 2>,
            (Isa::Portable, false, 1) => $portable::<3, 1>,
            (Isa::Portable, false, _) => $portable::<3, 2>,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, true, 1) => $avx2_bf16::<6, 1>,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, true, _) => $avx2_bf16::<6, 2>,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, false, 1) => $avx2::<6, 1>,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, false, _) => $avx2::<6, 2>,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, true, 1) if $isa.bf16() => $native::<12, 1>,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, true, _) if $isa.bf16() => $native::<12, 2>,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, true, 1) => $avx512_bf16::<12, 1>,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, true, _) => $avx512_bf16::<12, 2>,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, false, 1) => $avx512::<12, 1>,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, false, _) => $avx512::<12, 2>,
        }
    };
}

pub mod bf16;
pub mod depth;
pub mod finish;
pub mod micro;
pub mod product;
pub mod simd;
pub mod slide;
pub mod transform;

use std::sync::OnceLock;

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// The target's baseline.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 (foundation, double and quad words).
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// Name as `POLARIZER_CPU` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
        }
    }

    /// Whether the processor has bfloat16 product instructions.
    pub fn bf16(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512bf16"),
            _ => false,
        }
    }

    /// The instruction sets of this processor, the best last.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Self::Avx2);
                if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
                    all.push(Self::Avx512);
                }
            }
        }
        all
    }

    /// The instruction set in use: the best one, or the one named by the environment variable `POLARIZER_CPU` if the
    /// processor has it. Read once.
    pub fn get() -> Self {
        static CHOSEN: OnceLock<Isa> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let all = Self::available();
            let best = all[all.len() - 1];
            let wanted = std::env::var("POLARIZER_CPU").unwrap_or_default();
            all.into_iter().find(|i| i.name() == wanted).unwrap_or(best)
        })
    }
}

/// The instruction set in use: `portable`, `avx2` or `avx512`. The best one of the processor, unless the environment
/// variable `POLARIZER_CPU` names another one that it has.
pub fn cpu_path() -> &'static str {
    Isa::get().name()
}

/// Whether the instruction set in use has bfloat16 products. Otherwise [`Precision::Bf16`](super::Precision::Bf16) is
/// emulated with f32 operations, slower than f32.
pub fn bf16_is_native() -> bool {
    Isa::get().bf16()
}

/// Runs a plain loop compiled for the instruction set in use, so that the compiler vectorises what it inlines.
#[inline(always)]
pub fn dispatch<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        /// # Safety
        /// The processor has AVX2 and FMA.
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        /// # Safety
        /// The processor has AVX-512.
        #[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
        unsafe fn avx512<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        match Isa::get() {
            Isa::Portable => {}
            // SAFETY: detected by `Isa::get`.
            Isa::Avx2 => return unsafe { avx2(f) },
            // SAFETY: detected by `Isa::get`.
            Isa::Avx512 => return unsafe { avx512(f) },
        }
    }
    f()
}
