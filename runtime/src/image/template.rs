/// Longest template section.
pub const TEMPLATE_MAX: usize = 72 << 10;

/// The checkpoint's own chat template, in Jinja, and what it calls two of its tokens. The core does
/// not read it; a program that renders Jinja does. An empty section is a model without one.
///
/// | offset | bytes | content |
/// |---|---|---|
/// | 0 | 4 | bytes of `bos_token`, B |
/// | 4 | 4 | bytes of `eos_token`, E |
/// | 8 | B | `bos_token` |
/// | 8 + B | E | `eos_token` |
/// | 8 + B + E | the rest | the template |
///
/// Lengths are little-endian, texts UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChatTemplate<'a> {
    /// What the template knows as `bos_token`.
    pub bos: &'a str,
    /// What the template knows as `eos_token`.
    pub eos: &'a str,
    /// The template.
    pub source: &'a str,
}

impl<'a> ChatTemplate<'a> {
    /// Reads a section that is not empty; `None` when it contradicts itself.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (bos_len, rest) = bytes.split_first_chunk()?;
        let (eos_len, rest) = rest.split_first_chunk()?;
        let [bos_len, eos_len] = [bos_len, eos_len].map(|len| u32::from_le_bytes(*len) as usize);
        let (bos, rest) = rest.split_at_checked(bos_len)?;
        let (eos, source) = rest.split_at_checked(eos_len)?;
        let text = |bytes| core::str::from_utf8(bytes).ok();
        Some(Self { bos: text(bos)?, eos: text(eos)?, source: text(source)? })
    }

    /// Its bytes, as they stand in the image.
    pub fn bytes(&self) -> impl Iterator<Item = u8> {
        let lens = [self.bos, self.eos].map(|text| (text.len() as u32).to_le_bytes());
        let texts = [self.bos, self.eos, self.source];
        lens.into_iter().flatten().chain(texts.into_iter().flat_map(str::bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn a_section_reads_back_and_a_cut_one_does_not() {
        let section = ChatTemplate { bos: "<s>", eos: "</s>", source: "{{ 'é' }}" };
        let bytes: Vec<u8> = section.bytes().collect();
        assert_eq!(ChatTemplate::parse(&bytes), Some(section));
        for len in 0..15 {
            assert_eq!(ChatTemplate::parse(&bytes[..len]), None);
        }
        for at in [0, 3, 4, 7, 8] {
            let mut wrong = bytes.clone();
            wrong[at] = 255;
            assert_ne!(ChatTemplate::parse(&wrong), Some(section));
        }
    }
}
