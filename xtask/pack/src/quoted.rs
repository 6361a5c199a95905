//! Texts of a checkpoint in messages.

/// Most characters of a text that are quoted, and of a value.
const MOST: usize = 160;
const VALUE_MOST: usize = 60;

/// A text between quotation marks, shortened, with control characters escaped.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", plain(text))
}

/// A text as it is, but shortened, with control characters escaped. Backslashes and quotation marks
/// stay: patterns and JSON are full of them.
pub fn plain(text: &str) -> String {
    cut(text, MOST)
}

/// A value as a file writes it, shortened likewise.
pub fn shortened(value: &impl std::fmt::Display) -> String {
    cut(&value.to_string(), VALUE_MOST)
}

fn cut(text: &str, most: usize) -> String {
    let mut plain = String::new();
    for char in text.chars().take(most) {
        if matches!(char, '\\' | '"' | '\'') {
            plain.push(char);
        } else {
            plain.extend(char.escape_debug());
        }
    }
    if text.chars().nth(most).is_some() {
        plain.push('…');
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_and_control_characters_are_escaped() {
        assert_eq!(quoted("a\u{1b}[2J\n'\\s"), r#""a\u{1b}[2J\n'\s""#);
        assert_eq!(quoted(&"é".repeat(161)), format!("\"{}…\"", "é".repeat(160)));
        assert_eq!(shortened(&"\n".repeat(61)), format!("{}…", r"\n".repeat(60)));
    }
}
