//! What the server tells whoever runs it.

use std::fmt::Display;
use std::io::Write;

/// Writes a line to standard error; control characters as text, which a terminal would obey. Where nobody
/// can be told, nobody is.
pub fn tell(message: impl Display) {
    let _ = std::io::stderr().write_all(line(&message.to_string()).as_bytes());
}

fn line(message: &str) -> String {
    let mut line = String::from("rill: ");
    for char in message.chars() {
        match char.is_control() {
            true => line.extend(char.escape_default()),
            false => line.push(char),
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_that_no_terminal_obeys() {
        assert_eq!(
            line("a\x1b[31m\x07\n\u{9b}\u{e4}"),
            "rill: a\\u{1b}[31m\\u{7}\\n\\u{9b}\u{e4}\n"
        );
    }
}
