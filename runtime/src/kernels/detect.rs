//! What this machine can do, for the suite and the benchmarks, which may use std.

use super::CpuFeatures;

/// The features of this CPU that a table may need.
#[cfg(target_arch = "x86_64")]
pub fn features() -> CpuFeatures {
    use std::arch::is_x86_feature_detected as has;
    let avx2 = has!("avx2") && has!("fma") && has!("f16c");
    let avx512 = has!("avx512f")
        && has!("avx512bw")
        && has!("avx512dq")
        && has!("avx512vl")
        && has!("avx512vnni");
    union([
        (avx2, CpuFeatures::AVX2),
        (has!("avxvnni"), CpuFeatures::AVX_VNNI),
        (avx512, CpuFeatures::AVX512_VNNI),
    ])
}

/// The features of this CPU that a table may need.
#[cfg(target_arch = "aarch64")]
pub fn features() -> CpuFeatures {
    use std::arch::is_aarch64_feature_detected as has;
    union([
        (has!("neon"), CpuFeatures::NEON),
        (has!("dotprod"), CpuFeatures::DOTPROD),
        (has!("i8mm"), CpuFeatures::I8MM),
    ])
}

/// The features of this CPU that a table may need.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn features() -> CpuFeatures {
    union([])
}

/// The features that were detected.
fn union<const N: usize>(features: [(bool, u32); N]) -> CpuFeatures {
    let bits = features.iter().filter(|f| f.0).fold(0, |bits, f| bits | f.1);
    // SAFETY: std has seen each of them.
    unsafe { CpuFeatures::new(bits) }
}
