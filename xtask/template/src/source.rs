//! A template's source, made ready for the engine.
//!
//! Three things are added to what stands between `{%` and `%}`; lines stay where they are:
//!
//! - `{% generation %}` and `{% endgeneration %}`, with which Hugging Face marks what the assistant
//!   said, become a `with` block, which has the same scope and writes nothing;
//! - the value of every `{% set %}` goes through a filter that makes it a plain tree, see
//!   [`crate::values`];
//! - so do the arguments of macros, and the items of recursive loops and of `with`.
//!
//! Without the last two a template could build, in a few lines, a value that holds itself or that
//! has more parts than there are atoms, which the engine would compare or print for ever.

/// The filter that what is kept in a variable goes through.
pub const KEPT: &str = "rill_kept";
/// The filter that what is kept in a namespace goes through.
pub const HELD: &str = "rill_held";

/// A source, ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// For the engine.
    pub text: String,
    /// The texts between quotes in it.
    pub literals: Vec<String>,
}

/// Makes a source ready. One that is no template stays none.
pub fn prepare(source: &str) -> Source {
    let mut out = Source { text: String::with_capacity(source.len()), literals: Vec::new() };
    let mut rest = source;
    while let Some(at) = rest.find("{").filter(|_| !rest.is_empty()) {
        let (before, tag) = rest.split_at(at);
        out.text.push_str(before);
        let end = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map_or(tag.len(), |end| end + 2),
            Some(b'{') => closing(tag, "}}"),
            Some(b'%') => closing(tag, "%}"),
            _ => 1,
        };
        let (tag, after) = tag.split_at(end);
        rest = after;
        if tag.starts_with("{%") && tag.ends_with("%}") && tag.len() >= 4 {
            rest = out.block(tag, rest);
        } else {
            if tag.starts_with("{{") {
                out.collect(tag);
            }
            out.text.push_str(tag);
        }
    }
    out.text.push_str(rest);
    out.literals.sort_unstable();
    out.literals.dedup();
    out
}

impl Source {
    /// Takes over a block tag; `after` follows it. Returns what is left of that.
    fn block<'s>(&mut self, tag: &str, after: &'s str) -> &'s str {
        let inner = &tag[2..tag.len() - 2];
        let sign = |c: Option<char>| c.filter(|c| matches!(c, '-' | '+'));
        let open = sign(inner.chars().next());
        let inner = &inner[open.map_or(0, char::len_utf8)..];
        let close = sign(inner.chars().next_back());
        let inner = &inner[..inner.len() - close.map_or(0, char::len_utf8)];
        let [open, close] = [open, close].map(|c| c.map(String::from).unwrap_or_default());
        let trimmed = inner.trim_start();
        let space = &inner[..inner.len() - trimmed.len()];
        let word_len = trimmed.find(|c: char| !is_name(c)).unwrap_or(trimmed.len());
        let (word, arguments) = trimmed.split_at(word_len);
        self.collect(arguments);
        let mut put = |word: &str, arguments: &str| {
            self.text.push_str(&format!("{{%{open}{space}{word}{arguments}{close}%}}"));
        };
        let mut checked = Vec::new();
        match word {
            "generation" if arguments.trim().is_empty() => put("with", arguments),
            "endgeneration" if arguments.trim().is_empty() => put("endwith", arguments),
            "set" => match assignment(arguments) {
                Some((target, value)) => {
                    let filter = if target.contains('.') { HELD } else { KEPT };
                    put(word, &format!("{target}=({value})|{filter} "));
                }
                None => put(word, arguments),
            },
            "macro" | "with" => {
                put(word, arguments);
                let list = match word {
                    "macro" => arguments.split_once('(').map_or("", |(_, list)| list),
                    _ => arguments,
                };
                checked = parts(list, ',').into_iter().map(target_of).collect();
            }
            "for" => {
                put(word, arguments);
                if arguments.trim_end().ends_with("recursive")
                    && let Some((target, _)) = arguments.split_once(" in ")
                {
                    checked =
                        target.split(',').map(|name| name.trim_matches(['(', ')', ' '])).collect();
                }
            }
            "raw" => {
                put(word, arguments);
                return self.raw(after);
            }
            _ => put(word, arguments),
        }
        for name in checked.into_iter().map(str::trim) {
            if !name.is_empty() && name.chars().all(is_name) {
                // Beside its tag and with the same sign: lines and white space stay as they are.
                self.text.push_str(&format!("{{%- set {name} = {name}|{KEPT} {close}%}}"));
            }
        }
        after
    }

    /// Copies what stands in a raw block, which is no template.
    fn raw<'s>(&mut self, after: &'s str) -> &'s str {
        let mut at = 0;
        while let Some(start) = after[at..].find("{%") {
            let tag = &after[at + start..];
            let word = tag[2..].trim_start_matches(['-', '+']).trim_start();
            if word.starts_with("endraw") {
                let end = at + start + closing(tag, "%}");
                self.text.push_str(&after[..end]);
                return &after[end..];
            }
            at += start + 2;
        }
        self.text.push_str(after);
        ""
    }

    /// Takes note of the texts between quotes.
    fn collect(&mut self, code: &str) {
        let mut chars = code.chars();
        while let Some(quote) = chars.next() {
            if !matches!(quote, '\'' | '"') {
                continue;
            }
            let mut literal = String::new();
            while let Some(char) = chars.next() {
                match char {
                    '\\' => match chars.next() {
                        Some('n') => literal.push('\n'),
                        Some('t') => literal.push('\t'),
                        Some('r') => literal.push('\r'),
                        Some(other) => literal.push(other),
                        None => {}
                    },
                    char if char == quote => break,
                    char => literal.push(char),
                }
            }
            self.literals.push(literal);
        }
    }
}

fn is_name(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// Where a tag that begins `text` ends: after `end`, outside of quotes and braces. All of the text
/// when it does not.
fn closing(text: &str, end: &str) -> usize {
    let mut depth = 0_usize;
    let mut quote = None;
    let mut chars = text.char_indices().skip(2);
    while let Some((at, char)) = chars.next() {
        match (quote, char) {
            (Some(_), '\\') => {
                chars.next();
            }
            (Some(open), char) if open == char => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(char),
            (None, _) if depth == 0 && text[at..].starts_with(end) => return at + end.len(),
            (None, '{' | '[' | '(') => depth += 1,
            (None, '}' | ']' | ')') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
    }
    text.len()
}

/// The target and the value of a `set`; `None` for one with a block.
fn assignment(arguments: &str) -> Option<(&str, &str)> {
    let first = *parts(arguments, '=').first()?;
    let value = arguments[first.len()..].strip_prefix('=')?;
    (!value.starts_with('=')).then_some((first, value))
}

/// The name in `name = value` or `name`, also before the `)` that ends a list.
fn target_of(part: &str) -> &str {
    let end = part.find(['=', ')']).unwrap_or(part.len());
    &part[..end]
}

/// Splits at `separator` where it stands outside of quotes and brackets.
fn parts(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quote) = (Vec::new(), 0, 0_usize, None);
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match (quote, char) {
            (Some(_), '\\') => {
                chars.next();
            }
            (Some(open), char) if open == char => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(char),
            (None, char) if char == separator && depth == 0 => {
                parts.push(&text[start..at]);
                start = at + char.len_utf8();
            }
            (None, '{' | '[' | '(') => depth += 1,
            (None, '}' | ']' | ')') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_made_ready_and_the_rest_stays() {
        let cases = [
            ("a {%- generation -%} b {% endgeneration %}", "a {%- with -%} b {% endwith %}"),
            ("{% set x = 1 %}", "{% set x =( 1 )|rill_kept %}"),
            ("{%- set ns.x = a == '%}' -%}", "{%- set ns.x =( a == '%}' )|rill_held -%}"),
            ("{% set x %}= {% endset %}", "{% set x %}= {% endset %}"),
            ("{# {% set x = 1 %} #}", "{# {% set x = 1 %} #}"),
            ("{% raw %}{% set x = 1 %}{%- endraw %}", "{% raw %}{% set x = 1 %}{%- endraw %}"),
            ("{{ {'a': {'b': '}}'}} }}{", "{{ {'a': {'b': '}}'}} }}{"),
            (
                "{% macro f(a, b=[1, 2]) -%}",
                "{% macro f(a, b=[1, 2]) -%}{%- set a = a|rill_kept -%}{%- set b = b|rill_kept -%}",
            ),
            (
                "{% with a = x, b = y %}",
                "{% with a = x, b = y %}{%- set a = a|rill_kept %}{%- set b = b|rill_kept %}",
            ),
            (
                "{% for k, v in x recursive %}",
                "{% for k, v in x recursive %}{%- set k = k|rill_kept %}{%- set v = v|rill_kept %}",
            ),
            ("{% for a in x %}", "{% for a in x %}"),
            ("{% set x = 'unterminated", "{% set x = 'unterminated"),
            ("{%", "{%"),
            ("{%}", "{%}"),
        ];
        for (source, expected) in cases {
            assert_eq!(prepare(source).text, expected);
        }
    }

    #[test]
    fn literals_are_collected() {
        let source = "{% if '</think>' in a[\"b\"] %}{{ 'it\\'s\\n' }}{% set x = 'v' %}text 'no'";
        assert_eq!(prepare(source).literals, ["</think>", "b", "it's\n", "v"]);
    }
}
