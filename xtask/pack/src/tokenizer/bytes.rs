//! The byte-level alphabet of GPT-2: a printable character for every byte.
//!
//! Bytes that are printable in Latin-1 stand for themselves; the others get the characters from
//! U+0100 on, in order.

/// The bytes that UTF-8 uses (RFC 3629): every tokenizer must have tokens for them.
pub fn used() -> impl Iterator<Item = u8> {
    (0..=0xf4).filter(|byte| !matches!(byte, 0xc0 | 0xc1))
}

/// The character that stands for a byte.
pub fn char_of(byte: u8) -> char {
    if stands_for_itself(byte) {
        return byte.into();
    }
    let before = (0..byte).filter(|&other| !stands_for_itself(other)).count() as u8;
    // 68 bytes are not printable: all these characters are in U+0100..U+0144.
    char::from_u32(0x100 + u32::from(before)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The bytes that a name stands for; `None` when it has a character outside the alphabet.
pub fn decode(name: &str) -> Option<Vec<u8>> {
    name.chars().map(byte_of).collect()
}

fn byte_of(char: char) -> Option<u8> {
    match u32::from(char) {
        point @ 0..=0xff => Some(point as u8).filter(|&byte| stands_for_itself(byte)),
        point @ 0x100..=0x143 => {
            (0..=255).filter(|&byte| !stands_for_itself(byte)).nth(point as usize - 0x100)
        }
        _ => None,
    }
}

fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_character() {
        for byte in 0..=255 {
            assert_eq!(decode(&char_of(byte).to_string()), Some(vec![byte]));
        }
        assert_eq!([0, b' ', b'a', 0x7f, 0xad, 0xff].map(char_of), ['Ā', 'Ġ', 'a', 'ġ', 'Ń', 'ÿ']);
        assert_eq!(decode("Ġa b"), None);
        assert_eq!(decode("\u{144}"), None);
    }
}
