//! Texts of a checkpoint in messages.

/// Most characters that are quoted.
const MOST: usize = 160;

/// A text between quotation marks, shortened, with control characters escaped. Backslashes stay as
/// they are: patterns are full of them.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for char in text.chars().take(MOST) {
        if char == '\\' {
            quoted.push(char);
        } else {
            quoted.extend(char.escape_debug());
        }
    }
    quoted.push('"');
    if text.chars().nth(MOST).is_some() {
        quoted.push('…');
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_and_control_characters_are_escaped() {
        assert_eq!(quoted("a\u{1b}[2J\n'\\s"), r#""a\u{1b}[2J\n\'\s""#);
        assert_eq!(quoted(&"é".repeat(161)), format!("\"{}\"…", "é".repeat(160)));
    }
}
