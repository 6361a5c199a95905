//! Hugging Face `tokenizer.json`.

use std::collections::HashMap;

use rill::tokenizer::split::Variant;
use serde::Deserialize;
use serde_json::Value;

use super::{AddedToken, Source, TokenizerError, Vocabulary, inconsistent};

/// Checks the tokenizer of a Hugging Face checkpoint: the text of its `tokenizer.json` and, if
/// there is one, of its `tokenizer_config.json`.
///
/// `truncation` and `padding` are settings of a call, not of the tokenizer, and are left alone.
pub fn from_json(json: &str, config: Option<&str>) -> Result<Vocabulary, TokenizerError> {
    let file: File = parse("tokenizer.json", json)?;
    let config: Config = config.map_or(Ok(Config::default()), |config| parse(CONFIG, config))?;
    check_normalizer(&file.normalizer)?;
    let variant = variant_of(&file.pre_tokenizer)?;
    check_decoder(&file.decoder)?;
    file.model.check()?;
    let added: Vec<_> =
        file.added_tokens.into_iter().map(Added::check).collect::<Result<_, _>>()?;
    let id_of = |name: &str| {
        let added = added.iter().find(|(token, _)| token.text == name).map(|(token, _)| token.id);
        added
            .or_else(|| file.model.vocab.get(name).copied())
            .ok_or_else(|| inconsistent(format!("{name:?} is no token")))
    };
    let begin = begin_of(&file.post_processor)?;
    let named = config.bos_token.map(Name::text);
    let add_bos = begin.is_some() || config.add_bos_token == Some(true);
    let bos = begin.or(named).as_deref().map(id_of).transpose()?;
    let eos = config.eos_token.map(Name::text).as_deref().map(id_of).transpose()?;
    let merges = file.model.merges.into_iter().map(Merge::pair).collect::<Result<_, _>>()?;
    let ignore_merges = file.model.ignore_merges;
    let vocab = file.model.vocab.into_iter().collect();
    Vocabulary::check(Source { vocab, merges, added, variant, ignore_merges, bos, add_bos, eos })
}

const CONFIG: &str = "tokenizer_config.json";

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: Model,
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
                found: format!("{:?} with lstrip, rstrip or single_word", self.content),
                supported: "added tokens without these",
            });
        }
        let token = AddedToken { id: self.id, text: self.content, is_special: self.special };
        Ok((token, self.normalized))
    }
}

#[derive(Deserialize)]
struct Model {
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
    #[serde(default)]
    vocab: HashMap<String, u32>,
    #[serde(default)]
    merges: Vec<Merge>,
}

impl Model {
    fn check(&self) -> Result<(), TokenizerError> {
        let kind = self.kind.as_deref().unwrap_or("without a type");
        require(kind == "BPE", "model", || kind.into(), "BPE")?;
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

/// A merge, as files have it since or before version 0.20 of the reference.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

impl Merge {
    fn pair(self) -> Result<(String, String), TokenizerError> {
        match self {
            Self::Pair(left, right) => Ok((left, right)),
            Self::Line(line) => match line.split(' ').collect::<Vec<_>>()[..] {
                [left, right] => Ok((left.into(), right.into())),
                _ => Err(inconsistent(format!("merge {line:?}"))),
            },
        }
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
    steps.iter().map(|step| step.to_string()).collect::<Vec<_>>().join(", then ")
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
