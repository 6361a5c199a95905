//! The character classes of the tokenizer are those of Oniguruma, the reference's regex engine.
//!
//! `RILL_BLESS=1 cargo test -p rill-tests --test unicode_classes` writes the table anew.

use std::fmt::Write;

use onig::Regex;

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtime/src/tokenizer/classes.rs");
const LAST: u32 = char::MAX as u32;
/// In the order of `Class`, the pattern of each that is not `Other`.
const PATTERNS: [&str; 4] = [r"[^\s\p{L}\p{N}]", r"\p{L}", r"\p{N}", r"\s"];
const NAMES: [&str; 4] = ["Other", "Letter", "Number", "Space"];

/// The class of every code point. Surrogates are no characters: they continue what is before.
fn classes() -> Vec<usize> {
    let patterns = PATTERNS.map(|pattern| Regex::new(pattern).expect(pattern));
    let mut classes = vec![];
    for point in 0..=LAST {
        let class = char::from_u32(point).map(|char| {
            let text = char.to_string();
            let matching: Vec<usize> =
                (0..4).filter(|&class| patterns[class].is_match(&text)).collect();
            assert_eq!(matching.len(), 1, "U+{point:04x} is in the classes {matching:?}");
            matching[0]
        });
        classes.push(class.or(classes.last().copied()).unwrap_or(0));
    }
    classes
}

fn source(classes: &[usize]) -> String {
    let starts: Vec<(usize, usize)> = (0..classes.len())
        .filter(|&point| point == 0 || classes[point] != classes[point - 1])
        .map(|point| (point, classes[point]))
        .collect();
    let mut table = String::new();
    for line in starts.chunks(8) {
        let words = line.iter().map(|(start, class)| format!("{:#x}", start << 2 | class));
        writeln!(table, "    {},", words.collect::<Vec<_>>().join(", ")).expect("a string");
    }
    let (onig, count) = (onig::version(), starts.len());
    let variants = NAMES
        .iter()
        .zip(PATTERNS)
        .map(|(name, pattern)| format!("    /// `{pattern}`\n    {name},\n"))
        .collect::<String>();
    format!(
        "//! Character classes, as Oniguruma {onig} has them.
//!
//! Written by `RILL_BLESS=1 cargo test -p rill-tests --test unicode_classes`, which also compares
//! every code point.

/// What the split pattern tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {{
{variants}}}

/// The class of a character.
pub(super) fn class(char: char) -> Class {{
    if char.is_ascii_alphabetic() {{
        return Class::Letter;
    }}
    let point = char as u32;
    let after = STARTS.partition_point(|start| start >> 2 <= point);
    match STARTS[after.saturating_sub(1)] & 3 {{
        0 => Class::Other,
        1 => Class::Letter,
        2 => Class::Number,
        _ => Class::Space,
    }}
}}

/// Where a class starts, ascending: first code point << 2 | class.
#[rustfmt::skip]
static STARTS: [u32; {count}] = [
{table}];
"
    )
}

#[test]
fn the_table_is_oniguruma_s() {
    let expected = source(&classes());
    if std::env::var_os("RILL_BLESS").is_some() {
        std::fs::write(TABLE, &expected).expect(TABLE);
    }
    let found = std::fs::read_to_string(TABLE).expect(TABLE);
    assert!(found == expected, "{TABLE} differs: run this test with RILL_BLESS=1");
}
