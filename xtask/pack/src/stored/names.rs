//! Encodings of ggml by name, to speak of those that cannot be read.

use super::Stored;

/// The name of an encoding by its number in GGUF (`enum ggml_type` in ggml.h), those that ggml has
/// given up included; `None` for a number that it has not given yet.
pub fn ggml_name(number: u32) -> Option<&'static str> {
    if let Some(stored) = Stored::from_ggml(number) {
        return Some(stored.name());
    }
    Some(match number {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        15 => "Q8_K",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        41 => "Q1_0",
        _ => return None,
    })
}
