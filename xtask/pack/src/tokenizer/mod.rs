//! A checkpoint's tokenizer: read from `tokenizer.json` or GGUF metadata, checked to be of the
//! kind that the core has, and written as the image's tokenizer section.
//!
//! Everything that would make the core's ids differ from the checkpoint's is refused by name.

mod bytes;
mod cut;
mod gguf;
mod json;
mod overlap;
mod pattern;
mod tables;
mod whole;

pub use bytes::char_of;
pub use gguf::{GgufTokenizer, from_gguf};
pub use json::from_json;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use rill::tokenizer::split::{PATTERN, Variant};

use crate::quoted::{plain, quoted};
use cut::{Comparison, compare};

/// Most ids; also the bound of the image's vocabulary.
const MAX_IDS: u32 = 1 << 20;

/// A tokenizer that the core can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    /// The tokens by id; `None` is a hole in the numbering.
    tokens: Vec<Option<Token>>,
    /// Left, right and merged id, in order of rank.
    merges: Vec<[u32; 3]>,
    /// Tokens that are found in the text before it is cut, sorted by text.
    added: Vec<AddedToken>,
    /// In what the split differs from the core's pattern.
    variant: Variant,
    /// Whether a piece that is a token is not merged; also where that makes no difference.
    ignore_merges: bool,
    /// The token for the beginning of a text.
    bos: Option<u32>,
    /// Whether every text begins with `bos`.
    add_bos: bool,
    /// The token for the end of a text.
    eos: Option<u32>,
}

/// What an id stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    /// What it decodes to.
    bytes: Vec<u8>,
    /// Whether a piece of text can be this token without a merge.
    is_text: bool,
}

/// A token that is found in the text before it is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AddedToken {
    id: u32,
    text: String,
    /// A control token: only found where control tokens are asked for.
    is_special: bool,
}

/// Why a tokenizer cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file is not what it should be.
    #[error("{file} cannot be read: {source}; download the checkpoint again")]
    Json {
        /// Which file.
        file: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// It does something that the core does not.
    #[error("the tokenizer's {part} is {found}; Rill supports only {supported}")]
    Unsupported {
        /// Which part.
        part: &'static str,
        /// What it has.
        found: String,
        /// What it may have.
        supported: &'static str,
    },
    /// It cuts texts in another way than the core.
    #[error(
        "the tokenizer cuts texts by the pattern {}, which takes another first piece of {} than \
         Llama 3's does; Rill supports only patterns that cut alike",
        quoted(.pattern),
        quoted(.example)
    )]
    Cut {
        /// The pattern.
        pattern: String,
        /// A text that shows it.
        example: String,
    },
    /// It cuts texts by a pattern that may mean anything.
    #[error(
        "the tokenizer cuts texts by the pattern {}, which has {part}; Rill supports only patterns \
         that cut as Llama 3's does",
        quoted(.pattern)
    )]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What of it is beyond what can be compared.
        part: String,
    },
    /// Its parts contradict each other.
    #[error("the tokenizer is inconsistent: {0}; download the checkpoint again")]
    Inconsistent(String),
}

/// What both sources say, before it is checked.
struct Source<'s> {
    /// The model's tokens in the byte-level alphabet, with their ids.
    vocab: Vec<(Cow<'s, str>, u32)>,
    /// The pairs to merge, by rank.
    merges: Vec<(Cow<'s, str>, Cow<'s, str>)>,
    /// The added tokens, and whether each is looked for in normalised text.
    added: Vec<(AddedToken, bool)>,
    variant: Variant,
    ignore_merges: bool,
    bos: Option<u32>,
    add_bos: bool,
    eos: Option<u32>,
}

impl Vocabulary {
    /// How many ids there are, holes included.
    #[expect(clippy::len_without_is_empty, reason = "there are always the 256 bytes")]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The token for the beginning of a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Whether every text begins with [`Self::bos`].
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// The token for the end of a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The control token with this name.
    pub fn control(&self, name: &str) -> Option<u32> {
        self.added.iter().find(|token| token.is_special && token.text == name).map(|token| token.id)
    }

    /// The control tokens: their names and ids.
    pub fn controls(&self) -> impl Iterator<Item = (&str, u32)> {
        let special = self.added.iter().filter(|token| token.is_special);
        special.map(|token| (token.text.as_str(), token.id))
    }

    /// The added token with this name.
    pub fn added(&self, name: &str) -> Option<u32> {
        self.added.iter().find(|token| token.text == name).map(|token| token.id)
    }

    /// The name of an added token.
    pub fn added_text(&self, id: u32) -> Option<&str> {
        self.added.iter().find(|token| token.id == id).map(|token| token.text.as_str())
    }

    fn check(source: Source<'_>) -> Result<Self, TokenizerError> {
        let Source { vocab, merges, added, variant, ignore_merges, bos, add_bos, eos } = source;
        let ids = ids_by_name(&vocab)?;
        check_added(&added, &ids)?;
        let last = vocab.iter().map(|(_, id)| id).chain(added.iter().map(|(token, _)| &token.id));
        let len = last.max().map_or(0, |&last| last as usize + 1);
        let mut tokens = vec![None; len];
        for (name, id) in &vocab {
            put(&mut tokens, *id, name, bytes::decode(name).is_some())?;
        }
        for (token, _) in &added {
            if ids.get(token.text.as_str()) != Some(&token.id) {
                put(&mut tokens, token.id, &token.text, false)?;
            } else if token.is_special
                && let Some(Some(entry)) = tokens.get_mut(token.id as usize)
            {
                entry.is_text = false;
            }
        }
        for byte in bytes::used() {
            let name = String::from(char_of(byte));
            if !ids.contains_key(name.as_str()) {
                return Err(inconsistent(format!("the byte {byte:#04x} has no token")));
            }
        }
        let merges = ranked(&merges, &ids)?;
        let ignore_merges = ignore_merges || !whole::matters(&tokens, &merges);
        let mut added: Vec<_> = added.into_iter().map(|(token, _)| token).collect();
        added.sort_by(|a, b| a.text.cmp(&b.text));
        added.dedup();
        let vocabulary = Self { tokens, merges, added, variant, ignore_merges, bos, add_bos, eos };
        vocabulary.check_control()?;
        Ok(vocabulary)
    }

    /// Control tokens must not come out of plain text, or a user could write them.
    fn check_control(&self) -> Result<(), TokenizerError> {
        let control = self.added.iter().filter(|token| token.is_special);
        let control: HashMap<u32, &str> =
            control.map(|token| (token.id, token.text.as_str())).collect();
        if let Some(name) = self.merges.iter().flatten().find_map(|id| control.get(id)) {
            return Err(TokenizerError::Unsupported {
                part: "merge list",
                found: format!("used for the control token {}", plain(name)),
                supported: "control tokens that no text merges into",
            });
        }
        for (name, id) in [("begin", self.bos), ("end", self.eos)] {
            if id.is_some_and(|id| id as usize >= self.len()) {
                return Err(inconsistent(format!("the {name} token is not in the vocabulary")));
            }
        }
        if self.add_bos && self.bos.is_none() {
            return Err(inconsistent("it adds a begin token but names none".into()));
        }
        Ok(())
    }
}

/// Finds how the core cuts as `pattern` does.
fn variant(found: &str) -> Result<Variant, TokenizerError> {
    let unread = |part| TokenizerError::Pattern { pattern: found.into(), part };
    let node = pattern::parse(found).map_err(unread)?;
    let mut example = String::new();
    for (whole_numbers, whole_end) in [(false, false), (true, false), (false, true), (true, true)] {
        let variant = Variant { whole_numbers, whole_end };
        match compare(&node, &pattern::parse(&spelling(variant)).map_err(unread)?) {
            Comparison::Equal => return Ok(variant),
            Comparison::Differ(text) if example.is_empty() => example = text,
            Comparison::Differ(_) => {}
            Comparison::TooLarge => return Err(unread("too many cases".into())),
        }
    }
    Err(TokenizerError::Cut { pattern: found.into(), example })
}

/// The core's pattern, as checkpoints spell it.
pub fn spelling(variant: Variant) -> String {
    let mut pattern = PATTERN.to_owned();
    if variant.whole_numbers {
        pattern = pattern.replace(r"\p{N}{1,3}", r"\p{N}+");
    }
    if variant.whole_end {
        pattern = pattern.replace(r"|\s*[", r"|\s++$|\s*[");
    }
    pattern
}

fn inconsistent(what: String) -> TokenizerError {
    TokenizerError::Inconsistent(what)
}

fn ids_by_name<'v>(
    vocab: &'v [(Cow<'_, str>, u32)],
) -> Result<HashMap<&'v str, u32>, TokenizerError> {
    let mut ids = HashMap::with_capacity(vocab.len());
    for (name, id) in vocab {
        if *id >= MAX_IDS {
            return Err(inconsistent(format!("id {id} of {} is out of range", quoted(name))));
        }
        if ids.insert(name.as_ref(), *id).is_some() {
            return Err(inconsistent(format!("{} is there twice", quoted(name))));
        }
    }
    Ok(ids)
}

fn check_added(
    added: &[(AddedToken, bool)],
    ids: &HashMap<&str, u32>,
) -> Result<(), TokenizerError> {
    let mut by_text = HashMap::with_capacity(added.len());
    for (token, _) in added {
        if token.id >= MAX_IDS || token.text.is_empty() {
            return Err(inconsistent(format!("added token {} is empty or out of range", token.id)));
        }
        if ids.get(token.text.as_str()).is_some_and(|&id| id != token.id) {
            return Err(inconsistent(format!("{} has two ids", quoted(&token.text))));
        }
        if by_text.insert(token.text.as_str(), token).is_some_and(|other| other != token) {
            return Err(inconsistent(format!("{} is added twice", quoted(&token.text))));
        }
    }
    // The reference looks for the two kinds one after the other, the core at once.
    let kind = |wanted| -> Vec<&str> {
        let texts: HashSet<&str> = added
            .iter()
            .filter(|(_, normalised)| *normalised == wanted)
            .map(|(token, _)| token.text.as_str())
            .collect();
        texts.into_iter().collect()
    };
    let found = match overlap::find(&kind(true), &kind(false)) {
        Ok(None) => return Ok(()),
        Ok(Some((a, b))) => format!(
            "ambiguous: {} and {} can overlap but differ in `normalized`",
            quoted(a),
            quoted(b)
        ),
        Err(overlap::TooMany) => format!(
            "too long: texts that differ in `normalized` have more than {} beginnings",
            overlap::PREFIXES_MOST
        ),
    };
    Err(TokenizerError::Unsupported {
        part: "added token list",
        found,
        supported: "overlapping added tokens that are alike",
    })
}

fn put(
    tokens: &mut [Option<Token>],
    id: u32,
    name: &str,
    is_text: bool,
) -> Result<(), TokenizerError> {
    let slot = &mut tokens[id as usize];
    if slot.is_some() {
        return Err(inconsistent(format!(
            "id {id} of {} belongs to another token, too",
            quoted(name)
        )));
    }
    // A name outside the byte-level alphabet decodes to itself.
    let bytes = bytes::decode(name).unwrap_or_else(|| name.as_bytes().to_vec());
    *slot = Some(Token { bytes, is_text });
    Ok(())
}

/// Looks up the ids of the merges. Of equal pairs the last counts, as in the reference.
fn ranked(
    merges: &[(Cow<'_, str>, Cow<'_, str>)],
    ids: &HashMap<&str, u32>,
) -> Result<Vec<[u32; 3]>, TokenizerError> {
    let id_of = |name: &str| {
        let unknown = || inconsistent(format!("merge needs {}, which is no token", quoted(name)));
        ids.get(name).copied().ok_or_else(unknown)
    };
    let mut last = HashMap::with_capacity(merges.len());
    let mut ranked = Vec::with_capacity(merges.len());
    for (rank, (left, right)) in merges.iter().enumerate() {
        let merge = [id_of(left)?, id_of(right)?, id_of(&format!("{left}{right}"))?];
        last.insert((merge[0], merge[1]), rank);
        ranked.push(merge);
    }
    let mut rank = 0..;
    ranked.retain(|merge| last.get(&(merge[0], merge[1])).copied() == rank.next());
    Ok(ranked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rill::tokenizer::Tokenizer;
    use serde_json::{Value, json};

    /// A `tokenizer.json` of the bytes, two merges and a control token.
    fn plain() -> Value {
        let mut vocab: serde_json::Map<String, Value> =
            (0..=255_u8).map(|byte| (char_of(byte).to_string(), byte.into())).collect();
        vocab.extend([("ab".into(), 256.into()), ("abc".into(), 257.into())]);
        json!({
            "added_tokens": [{"id": 258, "content": "<|end|>", "special": true}],
            "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PATTERN},
                 "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
            ]},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": vocab, "merges": ["a b", "ab c"]},
        })
    }

    #[test]
    fn both_spellings_of_merges_and_gguf_give_the_same_tables() {
        let old = from_json(&plain().to_string(), None).unwrap();
        let mut new = plain();
        new["model"]["merges"] = json!([["a", "b"], ["ab", "c"]]);
        assert_eq!(from_json(&new.to_string(), None).unwrap(), old);
        let mut tokens: Vec<String> = (0..=255).map(|byte| char_of(byte).into()).collect();
        tokens.extend(["ab", "abc", "<|end|>"].map(String::from));
        let gguf = GgufTokenizer {
            model: "gpt2".into(),
            pre: Some("lfm2".into()),
            token_types: [vec![1; 258], vec![3]].concat(),
            tokens,
            merges: vec!["a b".into(), "ab c".into()],
            ..GgufTokenizer::default()
        };
        assert_eq!(from_gguf(gguf).unwrap(), old);
        // llama.cpp takes whole-piece matches for granted; a file that does not says so where it matters.
        let mut other = plain();
        other["model"]["merges"] = json!(["b c", "a b", "ab c"]);
        other["model"]["vocab"]["bc"] = json!(259);
        let merged = from_json(&other.to_string(), None).unwrap();
        assert!(old.ignore_merges && !merged.ignore_merges);
        let tables = old.tables();
        let tokenizer = Tokenizer::parse(&tables, 259).unwrap();
        let mut out = [0; 4];
        let len = tokenizer.encode("abcab<|end|>", true, &mut [0; 64], &mut out).unwrap();
        assert_eq!(out[..len], [257, 256, 258]);
        assert!(Tokenizer::parse(&tables, 258).is_err());
    }

    #[test]
    fn what_the_core_cannot_do_is_refused_by_name() {
        let cases: [(&str, Value, &str); 17] = [
            ("/normalizer", json!({"type": "NFC"}), "normalizer"),
            ("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("\\s+"), "than Llama 3's"),
            ("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!(r"\p{Lu}"), r"has `\p{Lu}`"),
            ("/pre_tokenizer/pretokenizers/0/pattern", json!({"String": " "}), "pre-tokenizer"),
            ("/pre_tokenizer/pretokenizers/0/behavior", json!("Removed"), "pre-tokenizer"),
            ("/pre_tokenizer/pretokenizers/1/add_prefix_space", json!(true), "pre-tokenizer"),
            ("/pre_tokenizer", json!(null), "pre-tokenizer is nothing"),
            ("/decoder", json!({"type": "Metaspace"}), "decoder"),
            ("/model/type", json!("Unigram"), "model"),
            ("/model/merges", json!(["a x y"]), "merge"),
            ("/model/merges", json!(["b c"]), "\"bc\", which is no token"),
            ("/model/vocab/a", json!(98), "belongs to another token"),
            ("/added_tokens/0/lstrip", json!(true), "lstrip"),
            ("/added_tokens/0/id", json!(3), "belongs to another token"),
            ("/added_tokens/0/content", json!("ab"), "two ids"),
            ("/added_tokens/0/content", json!(""), "empty"),
            ("/added_tokens", json!("none"), "tokenizer.json"),
        ];
        for (path, value, part) in cases {
            let mut file = plain();
            // A place that the plain file leaves out.
            if file.pointer(path).is_none() {
                let (parent, key) = path.rsplit_once('/').unwrap();
                file.pointer_mut(parent).unwrap()[key] = Value::Null;
            }
            *file.pointer_mut(path).unwrap() = value;
            let error = from_json(&file.to_string(), None).expect_err(path).to_string();
            assert!(error.contains(part), "{path}: {error}");
        }
        for (name, value) in
            [("dropout", json!(0.1)), ("unk_token", json!("a")), ("byte_fallback", json!(true))]
        {
            let mut file = plain();
            file["model"][name] = value;
            let error = from_json(&file.to_string(), None).expect_err(name).to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn gguf_files_name_their_split() {
        let file = |pre: Option<&str>| GgufTokenizer {
            model: "gpt2".into(),
            pre: pre.map(String::from),
            // No merge leads to the last one.
            tokens: (0..=255).map(|byte| char_of(byte).into()).chain(["ab".into()]).collect(),
            token_types: vec![1; 257],
            bos: Some(0),
            ..GgufTokenizer::default()
        };
        let lfm2 = from_gguf(file(Some("lfm2"))).unwrap();
        assert!(lfm2.ignore_merges && lfm2.adds_bos());
        // All models of the family cut alike.
        for pre in [None, Some("llama-bpe"), Some("llama3")] {
            assert_eq!(from_gguf(file(pre)).unwrap(), lfm2);
        }
        let smaug = from_gguf(file(Some("smaug-bpe"))).unwrap();
        assert!(!smaug.ignore_merges && !smaug.adds_bos());
        for pre in ["qwen2", "gpt-4o", "default", ""] {
            let error = from_gguf(file(Some(pre))).unwrap_err().to_string();
            assert!(error.contains("tokenizer.ggml.pre") && error.contains("\"lfm2\""), "{error}");
        }
    }

    #[test]
    fn begin_and_end_come_from_post_processor_and_config() {
        let mut file = plain();
        let config = r#"{"bos_token": {"content": "<|end|>"}, "eos_token": "<|end|>"}"#;
        let read = |file: &Value, config| {
            let found = from_json(&file.to_string(), config).unwrap();
            (found.bos(), found.adds_bos(), found.eos())
        };
        assert_eq!(read(&file, None), (None, false, None));
        assert_eq!(read(&file, Some(config)), (Some(258), false, Some(258)));
        file["post_processor"] = json!({"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
        ]});
        assert_eq!(read(&file, None), (Some(258), true, None));
        file["post_processor"]["single"].as_array_mut().unwrap().reverse();
        assert!(from_json(&file.to_string(), None).is_err());
    }

    #[test]
    fn unlike_added_tokens_may_not_overlap() {
        let with = |content: &str| {
            let mut file = plain();
            let other = json!({"id": 259, "content": content, "normalized": true});
            file["added_tokens"].as_array_mut().unwrap().push(other);
            from_json(&file.to_string(), None).is_ok()
        };
        assert!(with("<think>") && with("other"));
        assert!(!with("end") && !with("x<|end|>") && !with("|><x") && !with("x<|"));
    }
}
