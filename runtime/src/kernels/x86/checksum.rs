//! XXH3-64 of long inputs with AVX2 (<https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md>).
//!
//! The library that the scalar table calls knows its instruction set at compile time, and a program
//! for every x86-64 is compiled for SSE2: this is the same sum in half the time.

use core::arch::x86_64::*;

use crate::image::checksum as portable;

/// Bytes that the 8 lanes of the state take at a time.
const STRIPE: usize = 64;
/// Stripes between two scrambles; each takes the secret 8 bytes further on.
const STRIPES: usize = (SECRET.len() - STRIPE) / 8;
/// Up to here a sum is made in another way.
const SHORT: usize = 240;
/// Where the last stripe and the merge take the secret.
const LAST_AT: usize = SECRET.len() - STRIPE - 7;
const MERGE_AT: usize = 11;

const PRIME32_1: u64 = 0x9e37_79b1;
const PRIME32_2: u64 = 0x85eb_ca77;
const PRIME32_3: u64 = 0xc2b2_ae3d;
const PRIME64_1: u64 = 0x9e37_79b1_85eb_ca87;
const PRIME64_2: u64 = 0xc2b2_ae3d_27d4_eb4f;
const PRIME64_3: u64 = 0x1656_67b1_9e37_79f9;
const PRIME64_4: u64 = 0x85eb_ca77_c2b2_ae63;
const PRIME64_5: u64 = 0x27d4_eb2f_1656_67c5;
const PRIME_MX1: u64 = 0x1656_6791_9e37_79f9;

static SECRET: [u8; 192] = xxhash_rust::const_xxh3::const_custom_default_secret(0);

/// See [`Kernels::checksum`](crate::kernels::Kernels::checksum).
#[target_feature(enable = "avx2")]
pub fn checksum(bytes: &[u8]) -> u64 {
    if bytes.len() <= SHORT {
        return portable(bytes);
    }
    let mut state = State::new();
    // The last stripe has a turn of its own, and may share bytes with the one before.
    let before = &bytes[..(bytes.len() - 1) / STRIPE * STRIPE];
    for block in before.as_chunks::<STRIPE>().0.chunks(STRIPES) {
        for (stripe, secret) in block.iter().zip(SECRET.as_chunks::<8>().0.windows(8)) {
            state.take(stripe, secret.as_flattened());
        }
        if block.len() == STRIPES {
            state.scramble(&SECRET[SECRET.len() - STRIPE..]);
        }
    }
    state.take(&bytes[bytes.len() - STRIPE..], &SECRET[LAST_AT..]);
    state.merge((bytes.len() as u64).wrapping_mul(PRIME64_1))
}

/// Lanes 0..4 and 4..8.
struct State([__m256i; 2]);

impl State {
    #[target_feature(enable = "avx2")]
    fn new() -> Self {
        let lanes = [
            [PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3],
            [PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1],
        ];
        Self(bytemuck::cast(lanes))
    }

    /// Adds to each lane its neighbour's word, and the product of both halves of its own word, which
    /// the secret has changed.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn take(&mut self, stripe: &[u8], secret: &[u8]) {
        let halves = stripe.as_chunks::<32>().0.iter().zip(secret.as_chunks::<32>().0);
        for (lanes, (words, secret)) in self.0.iter_mut().zip(halves) {
            let words = load(words);
            let keyed = _mm256_xor_si256(words, load(secret));
            let product = _mm256_mul_epu32(keyed, _mm256_srli_epi64::<32>(keyed));
            let swapped = _mm256_shuffle_epi32::<0b01_00_11_10>(words);
            *lanes = _mm256_add_epi64(*lanes, _mm256_add_epi64(swapped, product));
        }
    }

    /// `lane = (lane ^ lane >> 47 ^ secret) * PRIME32_1`.
    #[target_feature(enable = "avx2")]
    fn scramble(&mut self, secret: &[u8]) {
        let prime = _mm256_set1_epi64x(PRIME32_1 as i64);
        for (lanes, secret) in self.0.iter_mut().zip(secret.as_chunks::<32>().0) {
            let mixed = _mm256_xor_si256(*lanes, _mm256_srli_epi64::<47>(*lanes));
            let mixed = _mm256_xor_si256(mixed, load(secret));
            let low = _mm256_mul_epu32(mixed, prime);
            let high = _mm256_mul_epu32(_mm256_srli_epi64::<32>(mixed), prime);
            *lanes = _mm256_add_epi64(low, _mm256_slli_epi64::<32>(high));
        }
    }

    /// The sum: 128-bit products of neighbouring lanes, folded.
    fn merge(self, start: u64) -> u64 {
        let lanes: [[u64; 2]; 4] = bytemuck::cast(self.0);
        let secret = SECRET[MERGE_AT..].as_chunks::<16>().0;
        let sum = lanes.iter().zip(secret).fold(start, |sum, (lanes, secret)| {
            let [a, b]: [u64; 2] = bytemuck::cast(*secret);
            let product = u128::from(lanes[0] ^ a) * u128::from(lanes[1] ^ b);
            sum.wrapping_add(product as u64 ^ (product >> 64) as u64)
        });
        let mixed = (sum ^ (sum >> 37)).wrapping_mul(PRIME_MX1);
        mixed ^ (mixed >> 32)
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: all 32 bytes are readable.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}
