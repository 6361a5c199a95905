//! The tokenizer against Hugging Face's, on the same `tokenizer.json`.
//!
//! `RILL_CASES=1000000` sets the number of random texts; the default suits every run of the suite.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::select;
use rill::tokenizer::{EncodeError, SCRATCH_WORDS_PER_BYTE, Tokenizer, Utf8Stream};
use rill_pack::tokenizer::TokenizerError;
use serde_json::{Value, json};

const KIOSK: &str = include_str!("../data/kiosk/kiosk-16m/tokenizer.json");
const CASES: &str = include_str!("../data/kiosk/reference/cases.json");

/// The same tokenizer twice: the reference and the tables of an image.
struct Pair {
    reference: tokenizers::Tokenizer,
    /// As the reference, but control tokens in the text are text.
    without_control: tokenizers::Tokenizer,
    tables: Vec<u8>,
    added: Vec<String>,
}

impl Pair {
    fn new(json: &str) -> Self {
        let reference: tokenizers::Tokenizer = json.parse().expect("the reference reads it");
        let mut without_control = reference.clone();
        without_control.set_encode_special_tokens(true);
        let vocabulary = rill_pack::tokenizer::from_json(json, None).expect("the packer reads it");
        let added =
            reference.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
        Self { reference, without_control, tables: vocabulary.tables(), added }
    }

    fn ours(&self) -> Tokenizer<'_> {
        Tokenizer::parse(&self.tables, u32::MAX).expect("tables of the packer")
    }

    fn check_text(&self, text: &str) {
        for (parse_specials, reference) in [(true, &self.reference), (false, &self.without_control)]
        {
            let expected = reference.encode_fast(text, false).expect(text);
            let found = encode(&self.ours(), &[text], parse_specials);
            assert_eq!(found, expected.get_ids(), "{text:?}, control tokens {parse_specials}");
        }
    }

    /// Cuts a text at the given places and encodes the parts as one.
    fn check_parts(&self, text: &str, cuts: &[usize]) {
        let mut parts = vec![];
        let mut rest = text;
        for cut in cuts {
            let at = (0..=rest.len().min(cut % 8)).rfind(|&at| rest.is_char_boundary(at));
            let (part, later) = rest.split_at(at.unwrap_or(0));
            parts.push(part);
            rest = later;
        }
        parts.push(rest);
        let ours = self.ours();
        let ids = encode(&ours, &[text], true);
        assert_eq!(encode(&ours, &parts, true), ids, "{parts:?}");
        for &id in self.reference.get_added_tokens_decoder().keys() {
            assert_eq!(ours.begins_with(text, id), ids.first() == Some(&id), "{text:?}, {id}");
        }
    }

    fn check_ids(&self, ids: &[u32]) {
        let expected = self.reference.decode(ids, false).expect("the reference decodes anything");
        assert_eq!(decode(&self.ours(), ids), expected, "{ids:?}");
    }
}

fn encode(tokenizer: &Tokenizer<'_>, parts: &[&str], parse_specials: bool) -> Vec<u32> {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let mut scratch = vec![0; bytes * SCRATCH_WORDS_PER_BYTE];
    let mut out = vec![0; bytes];
    let len = tokenizer
        .encode_parts(parts, parse_specials, &mut scratch, &mut out)
        .expect("scratch and room for any text of this length");
    out.truncate(len);
    out
}

fn decode(tokenizer: &Tokenizer<'_>, ids: &[u32]) -> String {
    let mut text = String::new();
    let mut stream = Utf8Stream::default();
    for &id in ids {
        stream.push(tokenizer.piece(id), |part| text.push_str(part));
    }
    stream.finish(|part| text.push_str(part));
    text
}

static SMALL: LazyLock<Pair> = LazyLock::new(|| Pair::new(KIOSK));
static LARGE: LazyLock<Pair> = LazyLock::new(|| Pair::new(&large()));

/// A tokenizer like LFM2's: more tokens, of which many can only be reached as whole pieces, and
/// added tokens of all kinds.
fn large() -> String {
    let mut file: Value = serde_json::from_str(KIOSK).expect("JSON");
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let vocab = file["model"]["vocab"].as_object_mut().expect("a map");
    let mut names: Vec<String> =
        vocab.keys().filter(|name| !name.starts_with("<|")).cloned().collect();
    names.sort();
    let mut merges = vec![];
    while merges.len() < 20_000 {
        let [left, right] = [names.len(); 2].map(&mut random);
        let (left, right) = (names[left].clone(), names[right].clone());
        let name = format!("{left}{right}");
        if name.len() < 40 && !vocab.contains_key(&name) {
            vocab.insert(name.clone(), vocab.len().into());
            merges.push(json!([left, right]));
            names.push(name);
        }
    }
    // Words that no merge makes.
    for word in ["Ġwhole", "piece", "ĊĊĊĊ", "ĠĠĠ", "Äłreach", "'ll", "Ġunreachable", "Ã©tÃ©", "999"]
    {
        if !vocab.contains_key(word) {
            vocab.insert(word.into(), vocab.len().into());
        }
    }
    let first = vocab.len();
    let old = file["model"]["merges"].as_array_mut().expect("a list");
    // New merges between the old ones, so that rank and id have different orders.
    for merge in merges {
        let at = random(old.len() + 1);
        old.insert(at, merge);
    }
    file["model"]["ignore_merges"] = true.into();
    let added = file["added_tokens"].as_array_mut().expect("a list");
    let tokens = [
        ("<|im", true),
        ("<|im_start|><|im_end|>", true),
        ("<think>", false),
        ("</think>", false),
        ("<th", false),
        ("  ", false),
        ("é😀", false),
        ("a b", false),
        ("\n\n<", false),
        ("ſ", true),
    ];
    for (offset, (content, special)) in tokens.into_iter().enumerate() {
        added.push(json!({
            "id": first + offset, "content": content, "special": special, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        }));
    }
    file.to_string()
}

/// The file with another split pattern.
fn with_pattern(file: &str, pattern: &str) -> String {
    let mut file: Value = serde_json::from_str(file).expect("JSON");
    file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern.into();
    file.to_string()
}

/// Spellings that models of the family, and those with OpenAI's cl100k, come with.
const SPELLINGS: [&str; 6] = [
    // Llama 3 and LFM2.
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    // LFM2.5.
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s",
    // cl100k without its possessive interval, which is none to Oniguruma.
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s*[\r\n]|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    // cl100k.
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
];

static SPELLED: LazyLock<[Pair; SPELLINGS.len()]> =
    LazyLock::new(|| SPELLINGS.map(|pattern| Pair::new(&with_pattern(KIOSK, pattern))));

/// Patterns of parts that people have written, right and wrong, in order.
fn patterns() -> impl Strategy<Value = String> {
    const PARTS: [&[&str]; 7] = [
        &[
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)|",
            "'(?i:[sdmt]|ll|ve|re)|",
            "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|",
            "'s|'t|'re|'ve|'m|'ll|'d|",
            "(?i:'ve|'s|'t|'re|'d|'ll|'m)|",
            "",
        ],
        &[
            r"[^\r\n\p{L}\p{N}]?\p{L}+|",
            r"[^\r\n\p{L}\p{N}]?+\p{L}++|",
            r"(?:[^\p{L}\p{N}\n\r]|)\p{L}\p{L}*|",
            r" ?\p{L}+|",
        ],
        &[
            r"\p{N}{1,3}|",
            r"\p{N}{1,3}+|",
            r"\p{N}\p{N}?+\p{N}?+|",
            r"\p{N}{1,2}|",
            r"\p{N}|",
            r"\p{N}+|",
        ],
        &[
            r" ?[^\s\p{L}\p{N}]+[\r\n]*|",
            r" ?[^\s\p{L}\p{N}]++[\r\n]*+|",
            r" ?+[^\s\p{L}\p{N}]+[\n\r]*|",
            r" ?[^\s\p{L}\p{N}]+[\r\n]?|",
            r" ?[^\s\p{L}\p{N}]+|",
        ],
        &["", "", r"\s++$|", r"\s+$|"],
        &[r"\s*[\r\n]+|", r"\s*[\r\n]|", r"\s*\n|", r"\s*+[\r\n]|", ""],
        &[r"\s+(?!\S)|\s+", r"\s+(?!\S)|\s", r"\s+(?=\s)|\s+", r"\s+"],
    ];
    PARTS.map(select).prop_map(|parts| parts.concat())
}

/// Texts made of what the pattern and the tables distinguish.
fn texts(pair: &'static Pair) -> BoxedStrategy<String> {
    const WORDS: [&str; 24] = [
        "'s",
        "'S",
        "'\u{17f}",
        "'t",
        "'RE",
        "'Ve",
        "'m",
        "'LL",
        "'lL",
        "'d",
        "'",
        "’s",
        " whole",
        "piece",
        "unreachable",
        "the fox",
        "Hello",
        "été",
        "Straße",
        "日本語",
        "한국어",
        "Ελλάδα",
        "नमस्ते",
        "🦊👩‍👩‍👧",
    ];
    const CHARS: [char; 34] = [
        ' ', ' ', ' ', '\n', '\n', '\r', '\t', '\u{b}', '\u{85}', '\u{a0}', '\u{2028}', '\u{3000}',
        '\u{200b}', '\u{feff}', 'a', 'Z', 's', 'l', 'ſ', 'K', 'é', 'ß', '0', '9', '²', '٣', 'Ⅷ',
        '!', '.', '<', '|', '>', '_', '\u{301}',
    ];
    let part = prop_oneof![
        4 => select(&CHARS[..]).prop_map(String::from),
        3 => select(&WORDS[..]).prop_map(String::from),
        1 => any::<char>().prop_map(String::from),
        1 => "[a-zA-Z]{1,12}",
        1 => "[0-9]{1,9}",
        1 => "[ \n\r\t]{1,9}",
        1 => "\\PC{1,6}",
        1 => select(&pair.added[..]),
        1 => (select(&pair.added[..]), any::<prop::sample::Index>()).prop_map(|(text, cut)| {
            text.chars().take(cut.index(text.chars().count())).collect()
        }),
    ];
    proptest::collection::vec(part, 0..24).prop_map(|parts| parts.concat()).boxed()
}

fn config() -> ProptestConfig {
    let cases = std::env::var("RILL_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases.unwrap_or(6000))
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn small_encodes_alike(text in texts(&SMALL), cuts in prop::collection::vec(any::<usize>(), 0..6)) {
        SMALL.check_text(&text);
        SMALL.check_parts(&text, &cuts);
    }

    #[test]
    fn large_encodes_alike(text in texts(&LARGE), cuts in prop::collection::vec(any::<usize>(), 0..6)) {
        LARGE.check_text(&text);
        LARGE.check_parts(&text, &cuts);
    }

    #[test]
    fn small_decodes_alike(ids in prop::collection::vec(prop_oneof![0..1633_u32, 0..264_u32], 0..24)) {
        SMALL.check_ids(&ids);
    }

    #[test]
    fn large_decodes_alike(ids in prop::collection::vec(prop_oneof![0..22_000_u32, 8..264_u32], 0..24)) {
        LARGE.check_ids(&ids);
    }

    #[test]
    fn damaged_tables_never_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>(), 0..5_u32), 1..4),
        text in texts(&LARGE),
    ) {
        // Whole words, small changes and extreme values: what random bytes would rarely be.
        let mut tables = SMALL.tables.clone();
        for (place, value, kind) in damage {
            let at = place.index(tables.len() / 4) * 4;
            let word = u32::from_le_bytes(tables[at..at + 4].try_into().expect("4 bytes"));
            let word = match kind {
                0 => value,
                1 => word.wrapping_add(1),
                2 => word.wrapping_sub(1),
                3 => u32::MAX,
                _ => value % 2000,
            };
            tables[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        if let Ok(tokenizer) = Tokenizer::parse(&tables, 65_536) {
            let ids = encode(&tokenizer, &[&text], true);
            decode(&tokenizer, &ids);
        }
    }
}

#[test]
fn every_token_decodes_alike() {
    for pair in [&*SMALL, &*LARGE] {
        let count = pair.reference.get_vocab_size(true) as u32;
        assert_eq!(pair.ours().len(), count as usize);
        for id in 0..count + 3 {
            pair.check_ids(&[id]);
        }
    }
}

#[test]
fn names_lead_to_ids_and_back() {
    for pair in [&*SMALL, &*LARGE] {
        let ours = pair.ours();
        for (id, token) in pair.reference.get_added_tokens_decoder() {
            assert_eq!(ours.token_id(token.content.as_bytes()), Some(id));
            assert_eq!(ours.is_special(id), token.special);
        }
        for id in (0..ours.len() as u32).filter(|&id| !ours.is_special(id)) {
            let text = ours.piece(id);
            let found = ours.token_id(text).expect("its own bytes");
            assert_eq!(ours.piece(found), text);
        }
        assert_eq!(ours.token_id(b"no token at all"), None);
        assert_eq!(ours.piece(u32::MAX), b"");
        assert_eq!(ours.bos(), Some(1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn every_spelling_encodes_alike(texts in prop::collection::vec(texts(&SMALL), 4)) {
        for pair in &*SPELLED {
            texts.iter().for_each(|text| pair.check_text(text));
        }
    }

    /// A pattern is accepted where the core cuts as it does, and refused with a text that proves the
    /// difference.
    #[test]
    fn patterns_are_judged_by_what_they_do(
        pattern in patterns(),
        texts in prop::collection::vec(texts(&SMALL), 40),
    ) {
        let file = with_pattern(CHARACTERS.as_str(), &pattern);
        match rill_pack::tokenizer::from_json(&file, None) {
            Ok(_) => {
                let pair = Pair::new(&file);
                texts.iter().for_each(|text| pair.check_text(text));
            }
            Err(TokenizerError::Cut { example, .. }) => {
                let first = |file: &str| {
                    let reference: tokenizers::Tokenizer = file.parse().expect("it is read");
                    let split = reference.encode(example.as_str(), false).expect("any text");
                    split.get_word_ids().to_vec()
                };
                prop_assert_ne!(first(&file), first(&CHARACTERS), "{:?} by {}", example, pattern);
            }
            Err(other) => panic!("{pattern}: {other}"),
        }
    }
}

/// A tokenizer of the bytes only, so that pieces are known by their tokens' words.
static CHARACTERS: LazyLock<String> = LazyLock::new(|| {
    let mut file: Value = serde_json::from_str(KIOSK).expect("JSON");
    file["model"]["merges"] = json!([]);
    file.to_string()
});

/// Every character, alone and where it could join its neighbours. The planes without any
/// characters are sampled: `unicode_classes` compares the class of all of them.
#[test]
fn every_character_is_cut_alike() {
    let empty_planes = (0x4_0000..=u32::from(char::MAX)).step_by(97);
    for char in (0..0x4_0000).chain(empty_planes).filter_map(char::from_u32) {
        let text = format!("{char}a'{char} {char}{char}1\n{char}! {char}");
        let expected = SMALL.reference.encode_fast(text.as_str(), false).expect("any text");
        assert_eq!(encode(&SMALL.ours(), &[&text], true), expected.get_ids(), "{text:?}");
        // Cases can be folded in more ways in classes than in texts.
        let expected = SPELLED[1].reference.encode_fast(text.as_str(), false).expect("any text");
        assert_eq!(encode(&SPELLED[1].ours(), &[&text], true), expected.get_ids(), "{text:?}");
    }
}

#[test]
fn reference_conversations_have_their_ids() {
    let cases: Value = serde_json::from_str(CASES).expect("JSON");
    for case in cases.as_array().expect("a list") {
        let text = case["text"].as_str().expect("text");
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        assert_eq!(encode(&SMALL.ours(), &[text], true), ids, "{text:?}");
        let answer: Vec<u32> = serde_json::from_value(case["greedy_ids"].clone()).expect("ids");
        let text: Vec<u32> = answer.into_iter().filter(|&id| id != 7).collect();
        assert_eq!(decode(&SMALL.ours(), &text), case["greedy_text"].as_str().expect("text"));
    }
}

/// Quadratic merging would take hours.
#[test]
fn a_megabyte_without_a_space_is_merged_alike() {
    let mut text = String::new();
    while text.len() < 1 << 20 {
        text += "thestoryofafoxandakite";
    }
    SMALL.check_text(&text);
    SMALL.check_text(&"a".repeat(1 << 20));
    SMALL.check_text(&" ".repeat(1 << 20));
}

#[test]
fn what_does_not_fit_is_an_error() {
    let tokenizer = SMALL.ours();
    let mut out = [0; 4];
    let mut scratch = [0; 5 * SCRATCH_WORDS_PER_BYTE];
    let mut encode = |text| tokenizer.encode(text, true, &mut scratch, &mut out);
    assert_eq!(encode("kites kites"), Err(EncodeError::Piece { bytes: 6, most: 5 }));
    assert_eq!(encode("1 2 3 4"), Err(EncodeError::Full { room: 4 }));
    assert_eq!(encode("kite"), Ok(2));
}
