use std::collections::HashMap;

use serde_json::Value;

use crate::conversation::Conversation;
use crate::source::Source;
use crate::template::Words;

/// Keeps texts of a conversation apart from the template's, through all that a template does to
/// them.
///
/// A control token is told by its name (`<|im_end|>`) in the rendered text. Before rendering, the
/// characters of names that are no letters (`<`, `|`, `>`; the first letter where a name has
/// nothing else) are exchanged, in every text of the
/// conversation, for stand-ins: characters for private use, one for one. A text keeps its length
/// and its beginnings, white space and letters, so that trimming, cutting, splitting, joining,
/// `tojson` and changes of case do what they would have done; but no such operation makes a name
/// of stand-ins. In the rendered text only what has a real name is a token, and the stand-ins
/// turn back.
///
/// A template may look for markers in a text (`'</think>' in content`). Texts between quotes in
/// the template stay what they are where a conversation has them, unless a control token's name
/// contains them or they contain one. A template that looks for part of a control token's name
/// does not find it in a text; nothing worse.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Stand-ins by character.
    stand_ins: Vec<(char, char)>,
    names: Vec<String>,
    /// Texts that stay, longest first.
    markers: Vec<String>,
    /// Those that stay in an assistant's messages only.
    thinking: Vec<String>,
}

/// The private use of the last plane; a range of it that a conversation does not use is found.
const PRIVATE: std::ops::RangeInclusive<u32> = 0x10_0000..=0x10_FFFD;

impl Guard {
    /// For the control tokens of `words` in this template and conversation.
    pub fn new(source: &Source, words: &Words, conversation: &Conversation) -> Self {
        let names: Vec<String> =
            words.control.iter().map(|(name, _)| name.clone()).filter(|n| !n.is_empty()).collect();
        let mut exchanged: Vec<char> = names.iter().flat_map(|name| signs(name)).collect();
        exchanged.sort_unstable();
        exchanged.dedup();
        let base = unused(&source.text, conversation, exchanged.len() as u32);
        let stand_ins = exchanged
            .iter()
            .zip(base..)
            .filter_map(|(&real, code)| Some((real, char::from_u32(code)?)))
            .collect();
        let contained = |literal: &String| {
            names
                .iter()
                .any(|name| name.contains(literal.as_str()) || literal.contains(name.as_str()))
        };
        let has_signs = |literal: &&String| literal.chars().any(|c| exchanged.contains(&c));
        let mut markers: Vec<String> =
            source.literals.iter().filter(has_signs).filter(|l| !contained(l)).cloned().collect();
        markers.sort_by_key(|marker| std::cmp::Reverse(marker.len()));
        let thinking = words.thinking.iter().flatten().cloned().collect();
        Self { stand_ins, names, markers, thinking }
    }

    /// Exchanges characters of a text; `assistant` says whose it is.
    pub fn hide(&self, text: &str, assistant: bool) -> String {
        let hidden = self.hide_but(text, assistant, true);
        // Markers that touch could make a name together.
        let unhidden = |name: &&String| hidden.contains(name.as_str());
        let expected = |name: &&String| assistant && self.thinking.contains(name);
        if self.names.iter().filter(unhidden).any(|name| !expected(&name)) {
            return self.hide_but(text, assistant, false);
        }
        hidden
    }

    fn hide_but(&self, text: &str, assistant: bool, markers: bool) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(char) = rest.chars().next() {
            let Some(stand_in) = self.stand_in(char) else {
                out.push(char);
                rest = &rest[char.len_utf8()..];
                continue;
            };
            let thinking = self.thinking.iter().filter(|_| assistant);
            let marker = thinking
                .chain(self.markers.iter().filter(|_| markers))
                .find(|marker| rest.starts_with(marker.as_str()));
            match marker {
                Some(marker) => {
                    out.push_str(marker);
                    rest = &rest[marker.len()..];
                }
                None => {
                    out.push(stand_in);
                    rest = &rest[char.len_utf8()..];
                }
            }
        }
        out
    }

    /// As [`Self::hide`] for the name of a field, which a template may ask for: a plain word stays.
    pub fn hide_key(&self, key: &str) -> String {
        let word = key.chars().all(|c| c.is_alphanumeric() || c == '_');
        let named = || self.names.iter().any(|name| key.contains(name.as_str()));
        if word && !named() { key.to_owned() } else { self.hide(key, false) }
    }

    /// Turns stand-ins back.
    pub fn show(&self, text: &str) -> String {
        text.chars().map(|char| self.real(char).unwrap_or(char)).collect()
    }

    /// What a stand-in stands for.
    pub fn real(&self, char: char) -> Option<char> {
        self.stand_ins.iter().find(|(_, stand_in)| *stand_in == char).map(|&(real, _)| real)
    }

    fn stand_in(&self, char: char) -> Option<char> {
        self.stand_ins.iter().find(|(real, _)| *real == char).map(|&(_, stand_in)| stand_in)
    }
}

/// What makes a name more than a word: its characters that are neither letters nor white space.
/// Where it has none, its first letter, small and large.
fn signs(name: &str) -> Vec<char> {
    let is_sign = |c: &char| !c.is_alphanumeric() && !c.is_whitespace() && *c != '_';
    let signs: Vec<char> = name.chars().filter(is_sign).collect();
    if !signs.is_empty() {
        return signs;
    }
    let first = name.chars().find(|c| !c.is_whitespace());
    let cases = |c: char| c.to_lowercase().chain(c.to_uppercase()).chain([c]);
    first.into_iter().flat_map(cases).collect()
}

/// The first of `count` private characters that stand nowhere.
fn unused(source: &str, conversation: &Conversation, count: u32) -> u32 {
    let window = |char: char| {
        PRIVATE
            .contains(&u32::from(char))
            .then(|| (u32::from(char) - PRIVATE.start()) / count.max(1))
    };
    let mut used = HashMap::new();
    let mut look =
        |text: &str| text.chars().filter_map(window).for_each(|w| *used.entry(w).or_insert(0) += 1);
    look(source);
    conversation.roots().for_each(|root| texts(root, &mut look));
    let windows = (PRIVATE.end() - PRIVATE.start()) / count.max(1);
    // A text that used all of 65,000 characters would find the last one used: it is shown wrong.
    let free = (0..windows).find(|w| !used.contains_key(w)).unwrap_or(windows);
    PRIVATE.start() + free * count
}

/// Calls `each` with every text and key of a value.
pub fn texts(value: &Value, each: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => each(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, each)),
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            each(key);
            texts(value, each);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
