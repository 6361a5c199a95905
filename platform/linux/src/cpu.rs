use rill::kernels::CpuFeatures;

/// What every core of this machine can do, as the kernel reports it.
pub fn features() -> CpuFeatures {
    // SAFETY: std asked the CPU (x86-64) or the kernel (aarch64, `AT_HWCAP`) about each bit, and
    // Linux lets a process see only what all of its cores have.
    unsafe { CpuFeatures::new(detect()) }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> u32 {
    use std::arch::is_x86_feature_detected as has;
    let when = |condition: bool, bit: u32| if condition { bit } else { 0 };
    let avx2 = has!("avx2") && has!("fma") && has!("f16c");
    let avx512 = has!("avx512f")
        && has!("avx512bw")
        && has!("avx512dq")
        && has!("avx512vl")
        && has!("avx512vnni");
    when(avx2, CpuFeatures::AVX2)
        | when(avx2 && has!("avxvnni"), CpuFeatures::AVX_VNNI)
        | when(avx2 && avx512, CpuFeatures::AVX512_VNNI)
}

#[cfg(target_arch = "aarch64")]
fn detect() -> u32 {
    use std::arch::is_aarch64_feature_detected as has;
    let when = |condition: bool, bit: u32| if condition { bit } else { 0 };
    when(has!("neon"), CpuFeatures::NEON)
        | when(has!("dotprod"), CpuFeatures::DOTPROD)
        | when(has!("i8mm"), CpuFeatures::I8MM)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detect() -> u32 {
    0
}
