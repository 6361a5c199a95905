//! The tokenizer of an image as a `tokenizer.json`, which ExecuTorch's runners read.
//!
//! The image's tables (`rill::tokenizer::tables`) hold all that is in such a file but the order of its keys.

use anyhow::{Context, Result};
use rill::tokenizer::Tokenizer;
use rill::tokenizer::split::Variant;
use rill::tokenizer::tables::{HEADER_WORDS, IGNORE_MERGES, WHOLE_END, WHOLE_NUMBERS};
use rill_pack::tokenizer::{char_of, spelling};
use serde_json::{Map, Value, json};

/// The file for a tokenizer section of a model that knows `vocab` tokens.
pub fn json(section: &[u8], vocab: u32) -> Result<String> {
    let tokenizer = Tokenizer::parse(section, vocab)?;
    let tables = Tables::of(section);
    let added: Vec<_> = tables.added.iter().map(|added| (added[0], tables.text(added))).collect();
    let mut words = Map::new();
    for id in 0..tokenizer.len() as u32 {
        let bytes = tokenizer.piece(id);
        if !bytes.is_empty() && added.iter().all(|(added, _)| *added != id) {
            words.insert(visible(bytes), id.into());
        }
    }
    let merges = tables.merges.iter().map(|&[left, right, _]| {
        json!([visible(tokenizer.piece(left)), visible(tokenizer.piece(right))])
    });
    let mut tokens = Vec::new();
    for (id, text) in &added {
        let content = std::str::from_utf8(text).context("an added token is no text")?;
        tokens.push(json!({
            "id": id,
            "content": content,
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": false,
            "special": tokenizer.is_special(*id),
        }));
    }
    tokens.sort_by_key(|token| token["id"].as_u64());
    let begin = tokenizer.bos().and_then(|bos| {
        let token = tokens.iter().find(|token| token["id"] == bos)?;
        Some(post_processor(bos, token["content"].as_str()?))
    });
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": tokens,
        "normalizer": null,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": { "Regex": spelling(variant(tables.flags)) },
                    "behavior": "Isolated",
                    "invert": false,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": false,
                    "trim_offsets": true,
                    "use_regex": false,
                },
            ],
        },
        "post_processor": begin,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": true,
            "trim_offsets": true,
            "use_regex": true,
        },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": tables.flags & IGNORE_MERGES != 0,
            "vocab": words,
            "merges": merges.collect::<Vec<_>>(),
        },
    });
    Ok(serde_json::to_string(&file)?)
}

/// What begins every text with a token.
fn post_processor(id: u32, text: &str) -> Value {
    let begin = json!({ "SpecialToken": { "id": text, "type_id": 0 } });
    let sequence = |name: &str, kind: u32| json!({ "Sequence": { "id": name, "type_id": kind } });
    json!({
        "type": "TemplateProcessing",
        "single": [begin, sequence("A", 0)],
        "pair": [begin, sequence("A", 0), sequence("B", 1)],
        "special_tokens": { text: { "id": text, "ids": [id], "tokens": [text] } },
    })
}

/// How the tables' flags say that text is cut.
fn variant(flags: u32) -> Variant {
    Variant { whole_numbers: flags & WHOLE_NUMBERS != 0, whole_end: flags & WHOLE_END != 0 }
}

/// Bytes as such files write them: each is a character that can be seen.
fn visible(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char_of).collect()
}

/// The parts of a section that only such a file needs. The section was checked.
struct Tables<'t> {
    flags: u32,
    /// Left, right and merged id, in order of rank.
    merges: Vec<[u32; 3]>,
    /// Id, start and length in the blob.
    added: Vec<[u32; 3]>,
    blob: &'t [u8],
}

impl<'t> Tables<'t> {
    fn of(section: &'t [u8]) -> Self {
        let word = |at: usize| {
            let bytes = section.get(4 * at..4 * at + 4).and_then(|bytes| bytes.first_chunk());
            bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
        };
        let [tokens, token_slots, merges, merge_slots, added, blob] =
            [3, 4, 5, 6, 7, 8].map(|at| word(at) as usize);
        let triples = |start: usize, count: usize| {
            (0..count).map(|i| [0, 1, 2].map(|part| word(start + 3 * i + part))).collect()
        };
        let merges_at = HEADER_WORDS + 256 + tokens + 1 + tokens.div_ceil(32) + token_slots;
        let added_at = merges_at + 3 * merges + merge_slots;
        Self {
            flags: word(1),
            merges: triples(merges_at, merges),
            added: triples(added_at, added),
            blob: &section[section.len() - blob..],
        }
    }

    fn text(&self, added: &[u32; 3]) -> &'t [u8] {
        let [_, start, len] = added.map(|word| word as usize);
        self.blob.get(start..start + len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use rill::image::Section;
    use rill::tokenizer::split::PATTERN;

    use super::*;

    #[test]
    fn a_tokenizer_that_is_written_and_packed_again_is_the_same() {
        let model = crate::image::kiosk().unwrap();
        let mut file = std::fs::File::open(&model).unwrap();
        let image = super::super::program::read(&mut file).unwrap();
        let section =
            super::super::program::section(&mut file, &image.header, Section::Tokenizer).unwrap();
        let text = json(&section, image.manifest.shape.vocab).unwrap();
        let again = rill_pack::tokenizer::from_json(&text, None).unwrap().tables();
        assert!(again == section);
    }

    #[test]
    fn bytes_are_seen_as_in_other_tokenizers() {
        assert_eq!(visible(b"a b\n\x7f\xad\xff"), "aĠbĊġŃÿ");
    }

    #[test]
    fn variants_have_their_patterns() {
        let pattern = |flags| spelling(variant(flags));
        assert_eq!(pattern(0), PATTERN);
        assert!(pattern(WHOLE_NUMBERS).contains(r"|\p{N}+|"));
        assert!(pattern(WHOLE_END).contains(r"|\s++$|\s*[\r\n]+|"));
    }
}
