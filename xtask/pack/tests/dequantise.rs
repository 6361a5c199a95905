//! The decoders against the reference decoder of the Python package `gguf`: see
//! `data/make_dequantised.py`.

use std::path::Path;

use rill_pack::stored::Stored;

#[test]
fn every_encoding_decodes_as_the_reference_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dequantised.safetensors");
    let file = std::fs::read(path).unwrap();
    let cases = safetensors::SafeTensors::deserialize(&file).unwrap();
    for stored in Stored::ALL {
        if stored == Stored::F32 {
            continue;
        }
        let bytes = cases.tensor(&format!("{}.bytes", stored.name())).unwrap();
        let expected = cases.tensor(&format!("{}.weights", stored.name())).unwrap();
        let expected: Vec<f32> =
            expected.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert!(expected.len() >= 64);
        let mut weights = vec![0.0; expected.len()];
        stored.dequantise(bytes.data(), &mut weights);
        assert_eq!(weights, expected, "{}", stored.name());
    }
}
