//! Which table for which CPU.

use super::{Kernels, SCALAR};

/// What the CPU can do, as the platform found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuFeatures {
    bits: u32,
}

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $text:literal;)*) => {
        impl CpuFeatures {
            $($(#[$doc])* pub const $name: u32 = 1 << $bit;)*

            /// Those that are there, by name.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                let all = [$((Self::$name, $text)),*];
                all.into_iter().filter_map(move |(bit, text)| self.has(bit).then_some(text))
            }
        }
    };
}

features! {
    /// aarch64 Advanced SIMD.
    NEON = 0, "neon";
    /// aarch64 `sdot`, `udot`.
    DOTPROD = 1, "dotprod";
    /// aarch64 `smmla`.
    I8MM = 2, "i8mm";
    /// x86-64 AVX2, FMA and F16C together.
    AVX2 = 8, "avx2";
    /// x86-64 AVX-VNNI.
    AVX_VNNI = 9, "avxvnni";
    /// x86-64 AVX-512 F, BW, DQ, VL and VNNI together.
    AVX512_VNNI = 10, "avx512vnni";
}

impl CpuFeatures {
    /// No features: the scalar table.
    pub const NONE: Self = Self { bits: 0 };

    /// A set of features, as a union of the constants.
    ///
    /// # Safety
    /// This CPU, and every core the engine will run on, has all of them: a table chosen by them
    /// executes their instructions.
    pub const unsafe fn new(bits: u32) -> Self {
        Self { bits }
    }

    /// Whether all of `bits` are there.
    pub const fn has(self, bits: u32) -> bool {
        self.bits & bits == bits
    }
}

/// A table and the features it executes.
struct Candidate {
    kernels: &'static Kernels,
    needs: u32,
}

/// Best first.
static CANDIDATES: &[Candidate] = &[
    #[cfg(target_arch = "aarch64")]
    Candidate {
        kernels: &super::aarch64::I8MM,
        needs: CpuFeatures::NEON | CpuFeatures::DOTPROD | CpuFeatures::I8MM,
    },
    #[cfg(target_arch = "aarch64")]
    Candidate {
        kernels: &super::aarch64::DOTPROD,
        needs: CpuFeatures::NEON | CpuFeatures::DOTPROD,
    },
    #[cfg(target_arch = "aarch64")]
    Candidate { kernels: &super::aarch64::NEON, needs: CpuFeatures::NEON },
    #[cfg(target_arch = "x86_64")]
    Candidate {
        kernels: &super::x86::AVX512_VNNI,
        needs: CpuFeatures::AVX2 | CpuFeatures::AVX512_VNNI,
    },
    #[cfg(target_arch = "x86_64")]
    Candidate { kernels: &super::x86::AVX_VNNI, needs: CpuFeatures::AVX2 | CpuFeatures::AVX_VNNI },
    #[cfg(target_arch = "x86_64")]
    Candidate { kernels: &super::x86::AVX2, needs: CpuFeatures::AVX2 },
    Candidate { kernels: &SCALAR, needs: 0 },
];

/// Every table that was built, best first, with the features that it executes.
pub fn tables() -> impl Iterator<Item = (&'static Kernels, CpuFeatures)> {
    CANDIDATES.iter().map(|c| (c.kernels, CpuFeatures { bits: c.needs }))
}

/// Every table this CPU can run, best first.
pub fn all(features: CpuFeatures) -> impl Iterator<Item = &'static Kernels> {
    CANDIDATES.iter().filter(move |c| features.has(c.needs)).map(|c| c.kernels)
}

/// The best table for this CPU.
pub fn best(features: CpuFeatures) -> &'static Kernels {
    all(features).next().unwrap_or(&SCALAR)
}

/// The table of this name, if this CPU can run it.
pub fn by_name(name: &str, features: CpuFeatures) -> Option<&'static Kernels> {
    all(features).find(|kernels| kernels.name == name)
}
