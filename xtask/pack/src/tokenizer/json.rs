//! Hugging Face `tokenizer.json`.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use rill::tokenizer::split::Variant;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::quoted::{plain, quoted};

use super::{AddedToken, MAX_IDS, Source, TokenizerError, Vocabulary, inconsistent};

/// Checks the tokenizer of a Hugging Face checkpoint: the text of its `tokenizer.json` and, if
/// there is one, of its `tokenizer_config.json`.
///
/// `truncation` and `padding` are settings of a call, not of the tokenizer, and are left alone.
pub fn from_json(json: &str, config: Option<&str>) -> Result<Vocabulary, TokenizerError> {
    let file: File<'_> = parse("tokenizer.json", json)?;
    let config: Config = config.map_or(Ok(Config::default()), |config| parse(CONFIG, config))?;
    check_normalizer(&part("normalizer", file.normalizer)?)?;
    let variant = variant_of(&part("pre-tokenizer", file.pre_tokenizer)?)?;
    check_decoder(&part("decoder", file.decoder)?)?;
    file.model.check()?;
    let added: Vec<_> =
        file.added_tokens.0.into_iter().map(Added::check).collect::<Result<_, _>>()?;
    let id_of = |name: &str| {
        let added = added.iter().find(|(token, _)| token.text == name).map(|(token, _)| token.id);
        let text = || file.model.vocab.0.iter().find(|(text, _)| text == name).map(|(_, id)| *id);
        added.or_else(text).ok_or_else(|| inconsistent(format!("{} is no token", quoted(name))))
    };
    let begin = begin_of(&part("post-processor", file.post_processor)?)?;
    let named = config.bos_token.map(Name::text);
    let add_bos = begin.is_some() || config.add_bos_token == Some(true);
    let bos = begin.or(named).as_deref().map(id_of).transpose()?;
    let eos = config.eos_token.map(Name::text).as_deref().map(id_of).transpose()?;
    let Model { ignore_merges, vocab, merges, .. } = file.model;
    let vocab = vocab.0;
    let merges = merges.0.into_iter().map(|Merge(left, right)| (left, right)).collect();
    Vocabulary::check(Source { vocab, merges, added, variant, ignore_merges, bos, add_bos, eos })
}

const CONFIG: &str = "tokenizer_config.json";

/// Most bytes of a part that says how to work: usual ones have hundreds.
const PART_MOST: usize = 1 << 20;
/// Most merges: a vocabulary may come with several ways to each token.
const MERGES_MOST: usize = 4 * MAX_IDS as usize;

#[derive(Deserialize)]
struct File<'j> {
    #[serde(default)]
    added_tokens: List<Added, { MAX_IDS as usize }>,
    #[serde(borrow)]
    normalizer: Option<&'j RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'j RawValue>,
    #[serde(borrow)]
    post_processor: Option<&'j RawValue>,
    #[serde(borrow)]
    decoder: Option<&'j RawValue>,
    #[serde(borrow)]
    model: Model<'j>,
}

/// A part that says how to work, unless it is too long.
fn part(name: &'static str, json: Option<&RawValue>) -> Result<Value, TokenizerError> {
    let Some(json) = json else { return Ok(Value::Null) };
    let found = || format!("{} bytes long", json.get().len());
    require(json.get().len() <= PART_MOST, name, found, "parts of at most 1 MiB")?;
    parse("tokenizer.json", json.get())
}

#[derive(Deserialize, Default)]
struct Config {
    bos_token: Option<Name>,
    eos_token: Option<Name>,
    add_bos_token: Option<bool>,
}

/// A token's name, alone or with the properties it was added with.
#[derive(Deserialize)]
#[serde(untagged)]
enum Name {
    Plain(String),
    Added { content: String },
}

impl Name {
    fn text(self) -> String {
        match self {
            Self::Plain(text) | Self::Added { content: text } => text,
        }
    }
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

impl Added {
    fn check(self) -> Result<(AddedToken, bool), TokenizerError> {
        if self.single_word || self.lstrip || self.rstrip {
            return Err(TokenizerError::Unsupported {
                part: "added token list",
                found: format!("{} with lstrip, rstrip or single_word", quoted(&self.content)),
                supported: "added tokens without these",
            });
        }
        let token = AddedToken { id: self.id, text: self.content, is_special: self.special };
        Ok((token, self.normalized))
    }
}

#[derive(Deserialize)]
struct Model<'j> {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(borrow, default)]
    vocab: Names<'j>,
    #[serde(borrow, default)]
    merges: List<Merge<'j>, MERGES_MOST>,
}

impl Model<'_> {
    fn check(&self) -> Result<(), TokenizerError> {
        let kind = self.kind.as_deref().unwrap_or("without a type");
        require(kind == "BPE", "model", || plain(kind), "BPE")?;
        let affix = |affix: &Option<String>| affix.as_deref().is_none_or(str::is_empty);
        let properties = [
            ("dropout", self.dropout.is_none_or(|p| p == 0.0)),
            ("unk_token", self.unk_token.is_none()),
            ("continuing_subword_prefix", affix(&self.continuing_subword_prefix)),
            ("end_of_word_suffix", affix(&self.end_of_word_suffix)),
            ("byte_fallback", !self.byte_fallback),
        ];
        for (name, is_plain) in properties {
            require(is_plain, "model", || format!("BPE with {name}"), "plain byte-level BPE")?;
        }
        Ok(())
    }
}

/// A text of the file, copied only where it has escapes.
struct Text<'j>(Cow<'j, str>);

impl<'de: 'j, 'j> Deserialize<'de> for Text<'j> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(text.into()))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(text.to_owned().into()))
            }
        }
        from.deserialize_str(Texts)
    }
}

/// Tokens by name, in the file's order.
#[derive(Default)]
struct Names<'j>(Vec<(Cow<'j, str>, u32)>);

impl<'de: 'j, 'j> Deserialize<'de> for Names<'j> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Names<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens with their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names<'de>, A::Error> {
                let mut names = vec![];
                while let Some((Text(name), id)) = map.next_entry()? {
                    if names.len() == MAX_IDS as usize {
                        return Err(Error::custom(format!("it has more than {MAX_IDS} tokens")));
                    }
                    names.push((name, id));
                }
                Ok(Names(names))
            }
        }
        from.deserialize_map(Entries)
    }
}

/// A list of at most `MOST` things.
struct List<T, const MOST: usize>(Vec<T>);

impl<T, const MOST: usize> Default for List<T, MOST> {
    fn default() -> Self {
        Self(vec![])
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for List<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Items<T, const MOST: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Items<T, MOST> {
            type Value = List<T, MOST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T, MOST>, A::Error> {
                let mut items = vec![];
                while let Some(item) = seq.next_element()? {
                    if items.len() == MOST {
                        let what = format!("it has a list of more than {MOST}");
                        return Err(Error::custom(what));
                    }
                    items.push(item);
                }
                Ok(List(items))
            }
        }
        from.deserialize_seq(Items(PhantomData))
    }
}

/// A merge, as files have it since or before version 0.20 of the reference: two texts, or one with
/// a space between them.
struct Merge<'j>(Cow<'j, str>, Cow<'j, str>);

impl<'de: 'j, 'j> Deserialize<'de> for Merge<'j> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Merges;

        fn cut<E: Error>(line: &str) -> Result<(&str, &str), E> {
            let pair = line.split_once(' ').filter(|(_, right)| !right.contains(' '));
            pair.ok_or_else(|| E::custom(format!("merge {} is not of two", quoted(line))))
        }

        impl<'de> Visitor<'de> for Merges {
            type Value = Merge<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge")
            }

            fn visit_borrowed_str<E: Error>(self, line: &'de str) -> Result<Merge<'de>, E> {
                cut(line).map(|(left, right)| Merge(left.into(), right.into()))
            }

            fn visit_str<E: Error>(self, line: &str) -> Result<Merge<'de>, E> {
                cut(line)
                    .map(|(left, right)| Merge(left.to_owned().into(), right.to_owned().into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge<'de>, A::Error> {
                let (left, right) = (seq.next_element()?, seq.next_element()?);
                match (left, right, seq.next_element::<Text<'de>>()?) {
                    (Some(Text(left)), Some(Text(right)), None) => Ok(Merge(left, right)),
                    _ => Err(Error::custom("a merge is not of two")),
                }
            }
        }
        from.deserialize_any(Merges)
    }
}

fn parse<'a, T: Deserialize<'a>>(file: &'static str, json: &'a str) -> Result<T, TokenizerError> {
    serde_json::from_str(json).map_err(|source| TokenizerError::Json { file, source })
}

fn require(
    is_so: bool,
    part: &'static str,
    found: impl FnOnce() -> String,
    supported: &'static str,
) -> Result<(), TokenizerError> {
    if is_so {
        Ok(())
    } else {
        Err(TokenizerError::Unsupported { part, found: found(), supported })
    }
}

/// The steps of a part that may be nothing, one step, or a `Sequence` of them under `list`.
fn steps<'v>(value: &'v Value, list: &str) -> Vec<&'v Value> {
    match value {
        Value::Null => vec![],
        _ if kind(value) == "Sequence" => {
            let inner = value[list].as_array().map(Vec::as_slice).unwrap_or_default();
            inner.iter().flat_map(|step| steps(step, list)).collect()
        }
        _ => vec![value],
    }
}

fn kind(step: &Value) -> &str {
    step["type"].as_str().unwrap_or("without a type")
}

fn describe(steps: &[&Value]) -> String {
    if steps.is_empty() {
        return "nothing".into();
    }
    plain(&steps.iter().map(|step| step.to_string()).collect::<Vec<_>>().join(", then "))
}

fn check_normalizer(normalizer: &Value) -> Result<(), TokenizerError> {
    let steps = steps(normalizer, "normalizers");
    require(steps.is_empty(), "normalizer", || describe(&steps), "none")
}

/// How the pre-tokenizer cuts.
fn variant_of(pre_tokenizer: &Value) -> Result<Variant, TokenizerError> {
    let steps = steps(pre_tokenizer, "pretokenizers");
    let is_bytes = |step: &Value| {
        kind(step) == "ByteLevel" && step["add_prefix_space"] == false && step["use_regex"] == false
    };
    // A pattern that matches everywhere leaves nothing between its pieces to keep or to remove.
    let keeps = |step: &Value| {
        let (behavior, is_inverted) = (step["behavior"].as_str(), step["invert"] == true);
        matches!((behavior, is_inverted), (Some("Isolated"), _) | (Some("Removed"), true))
    };
    if let [split, bytes] = steps[..]
        && kind(split) == "Split"
        && keeps(split)
        && is_bytes(bytes)
        && let Some(pattern) = split["pattern"]["Regex"].as_str()
    {
        return super::variant(pattern);
    }
    Err(TokenizerError::Unsupported {
        part: "pre-tokenizer",
        found: describe(&steps),
        supported: "a split by Llama 3's pattern, isolated, then ByteLevel without prefix space or \
                    pattern",
    })
}

fn check_decoder(decoder: &Value) -> Result<(), TokenizerError> {
    let steps = steps(decoder, "decoders");
    let good = matches!(steps[..], [step] if kind(step) == "ByteLevel");
    require(good, "decoder", || describe(&steps), "ByteLevel")
}

/// The token that the post-processor puts before a text, if any.
fn begin_of(post_processor: &Value) -> Result<Option<String>, TokenizerError> {
    let steps = steps(post_processor, "processors");
    let mut begin = None;
    for step in &steps {
        let single = step["single"].as_array().map(Vec::as_slice).unwrap_or_default();
        let name = |part: &Value| part["SpecialToken"]["id"].as_str().map(String::from);
        let is_text = |part: &Value| part["Sequence"]["id"] == "A";
        let found = match (kind(step), single) {
            // It only moves offsets.
            ("ByteLevel", _) => None,
            ("TemplateProcessing", [text]) if is_text(text) => None,
            ("TemplateProcessing", [token, text]) if is_text(text) => name(token),
            _ => {
                let found = describe(&steps);
                let supported = "at most one token before the text";
                return Err(TokenizerError::Unsupported {
                    part: "post-processor",
                    found,
                    supported,
                });
            }
        };
        begin = begin.or(found);
    }
    Ok(begin)
}
