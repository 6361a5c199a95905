//! What this machine can do, where std can tell.

use super::CpuFeatures;

impl CpuFeatures {
    /// What every core of this machine can do. std asks the CPU (x86-64) or the operating system
    /// (aarch64), and Linux lets a process see only what all of its cores have.
    pub fn detect() -> Self {
        let bits = detected().into_iter().filter(|found| found.0).fold(0, |bits, f| bits | f.1);
        // SAFETY: std has seen each of them.
        unsafe { Self::new(bits) }
    }
}

#[cfg(target_arch = "x86_64")]
fn detected() -> [(bool, u32); 3] {
    use std::arch::is_x86_feature_detected as has;
    let avx2 = has!("avx2") && has!("fma") && has!("f16c");
    let avx512 = has!("avx512f")
        && has!("avx512bw")
        && has!("avx512dq")
        && has!("avx512vl")
        && has!("avx512vnni");
    [
        (avx2, CpuFeatures::AVX2),
        (avx2 && has!("avxvnni"), CpuFeatures::AVX_VNNI),
        (avx2 && avx512, CpuFeatures::AVX512_VNNI),
    ]
}

#[cfg(target_arch = "aarch64")]
fn detected() -> [(bool, u32); 3] {
    use std::arch::is_aarch64_feature_detected as has;
    [
        (has!("neon"), CpuFeatures::NEON),
        (has!("dotprod"), CpuFeatures::DOTPROD),
        (has!("i8mm"), CpuFeatures::I8MM),
    ]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detected() -> [(bool, u32); 0] {
    []
}
