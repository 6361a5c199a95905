//! The decoders against the reference decoder of the Python package `gguf`: see
//! `data/make_dequantised.py`.

use std::path::Path;

use rill_pack::stored::Stored;
use safetensors::SafeTensors;

fn reference(check: impl FnOnce(&SafeTensors<'_>)) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dequantised.safetensors");
    let file = std::fs::read(path).unwrap();
    check(&SafeTensors::deserialize(&file).unwrap());
}

fn decoded(stored: Stored, bytes: &[u8]) -> Vec<u32> {
    let mut weights = vec![0.0; bytes.len() / stored.block_bytes() * stored.block()];
    stored.dequantise(bytes, &mut weights);
    weights.into_iter().map(f32::to_bits).collect()
}

#[test]
fn every_encoding_decodes_as_the_reference_does() {
    reference(|cases| {
        for stored in Stored::ALL {
            if [Stored::F32, Stored::F8_E4M3].contains(&stored) {
                continue;
            }
            let bytes = cases.tensor(&format!("{}.bytes", stored.name())).unwrap();
            let expected = cases.tensor(&format!("{}.weights", stored.name())).unwrap();
            let expected =
                expected.data().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
            let expected: Vec<_> = expected.collect();
            assert!(expected.len() >= 64);
            // Bit for bit, signs of zero included.
            assert_eq!(decoded(stored, bytes.data()), expected, "{}", stored.name());
        }
    });
}

#[test]
fn every_entry_of_every_table_is_that_of_the_reference() {
    use Stored::*;
    reference(|cases| {
        for stored in [IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S] {
            let bytes = cases.tensor(&format!("{}.table", stored.name())).unwrap();
            let expected = cases.tensor(&format!("{}.sum", stored.name())).unwrap();
            let sum = decoded(stored, bytes.data())
                .into_iter()
                .zip(0_u64..)
                .fold(0_u64, |sum, (bits, at)| {
                    sum.wrapping_add(u64::from(bits).wrapping_mul(2 * at + 1))
                });
            assert_eq!(sum.to_le_bytes(), expected.data(), "{}", stored.name());
        }
    });
}

#[test]
fn eight_bit_floats_are_what_their_definition_says() {
    // Figures of the definition: https://arxiv.org/abs/2209.05433, table 1.
    let cases = [
        (0x00, 0.0),
        (0x01, 2.0_f32.powi(-9)),
        (0x07, 0.875 * 2.0_f32.powi(-6)),
        (0x08, 2.0_f32.powi(-6)),
        (0x38, 1.0),
        (0x39, 1.125),
        (0x7e, 448.0),
        (0xfe, -448.0),
        (0xb8, -1.0),
    ];
    for (byte, value) in cases {
        assert_eq!(decoded(Stored::F8_E4M3, &[byte]), [value.to_bits()], "{byte:#x}");
    }
    for byte in [0x7f, 0xff] {
        assert!(f32::from_bits(decoded(Stored::F8_E4M3, &[byte])[0]).is_nan());
    }
}
