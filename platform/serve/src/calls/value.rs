//! One value of a call, from Python's spelling or JSON's to JSON, character by character.

use std::fmt::Write;

/// How deep lists and objects may lie in each other: two bytes are kept of each.
const DEPTH: usize = 4096;
/// Most bytes that are kept of a number or a word, and of white space behind a quote. A number that has
/// more is passed on as JSON has it.
const HELD: usize = 512;

/// What a character did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The value goes on.
    More,
    /// It ends with this character.
    End,
    /// It ended before this character.
    EndBefore,
    /// It is no value.
    Wrong,
}

/// A value under way. After its end it is ready for another.
#[derive(Debug, Clone, Default)]
pub struct Value {
    /// The lists and objects that it stands in.
    open: Vec<Open>,
    place: Place,
}

/// A list or an object that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Open {
    /// What closes it: one byte.
    close: u8,
    /// Whether something stands in it.
    filled: bool,
}

/// Where a value stands; of texts and words, whether they are the name of a field.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Place {
    /// Before a value, or before what closes a list.
    #[default]
    Before,
    /// Before the name of a field, or before what closes an object.
    Key,
    /// After it.
    Colon,
    /// In a text that began with this quote.
    Text(char, bool, Within),
    /// In a number or a word.
    Word(String, bool),
    /// In a number of which the beginning was written.
    Long(Long),
    /// After a value in a list or an object.
    After,
}

/// Where a text stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Within {
    /// Between two characters.
    Plain,
    /// After a backslash.
    Escape,
    /// In the number of a character: hexadecimal digits to come, and what they are so far; the first
    /// half of a pair before it.
    Number { digits: u8, value: u32, first: Option<u32> },
    /// After the first half of a pair; whether after the backslash behind it.
    Half(u32, bool),
    /// After a quote, and white space behind it: what follows says whether it is the last.
    Quote(String),
}

impl Value {
    /// Takes a character, and writes the JSON that is certain.
    pub fn take(&mut self, char: char, out: &mut String) -> Step {
        loop {
            match self.step(char, out) {
                // The innermost ended before this character, which belongs to what that stands in.
                Step::EndBefore if !self.open.is_empty() => {}
                Step::End if !self.open.is_empty() => return Step::More,
                Step::More => return Step::More,
                step => {
                    *self = Self::default();
                    return step;
                }
            }
        }
    }

    /// As [`Self::take`], for the innermost value.
    fn step(&mut self, char: char, out: &mut String) -> Step {
        match std::mem::take(&mut self.place) {
            Place::Before if char.is_whitespace() => Step::More,
            Place::Before => self.begin(char, out),
            Place::Key if char.is_whitespace() => self.go_on(Place::Key),
            Place::Key if char == '}' => self.close(char, out),
            Place::Key => {
                self.separate(out);
                self.text_or_word(char, true, out)
            }
            Place::Colon if char.is_whitespace() => self.go_on(Place::Colon),
            Place::Colon if char == ':' => {
                out.push_str(": ");
                Step::More
            }
            Place::Colon => Step::Wrong,
            Place::Text(quote, is_key, within) => self.text(quote, is_key, within, char, out),
            Place::Word(mut word, is_key) if is_word(char) => {
                word.push(char);
                if word.len() <= HELD {
                    return self.go_on(Place::Word(word, is_key));
                }
                let Some(long) = Long::of(&word).filter(|_| !is_key) else { return Step::Wrong };
                out.push_str(&word);
                self.go_on(Place::Long(long))
            }
            Place::Word(word, is_key) => {
                if is_key {
                    write(&word, out)
                } else {
                    write_word(&word, out)
                }
                self.end(is_key)
            }
            Place::Long(long) if is_word(char) => {
                let Some(long) = long.with(char) else { return Step::Wrong };
                out.push(char);
                self.go_on(Place::Long(long))
            }
            Place::Long(long) if long.is_whole() => self.end(false),
            Place::Long(_) => Step::Wrong,
            Place::After if char.is_whitespace() => self.go_on(Place::After),
            Place::After if char == ',' => {
                self.go_on(if self.is_in_object() { Place::Key } else { Place::Before })
            }
            Place::After => self.close(char, out),
        }
    }

    fn go_on(&mut self, place: Place) -> Step {
        self.place = place;
        Step::More
    }

    /// The innermost value, or the name of a field, ended before a character.
    fn end(&mut self, is_key: bool) -> Step {
        self.place = if is_key { Place::Colon } else { Place::After };
        Step::EndBefore
    }

    fn begin(&mut self, char: char, out: &mut String) -> Step {
        let in_object = self.is_in_object();
        if !in_object {
            if self.open.last().is_some_and(|open| char::from(open.close) == char) {
                return self.close(char, out);
            }
            self.separate(out);
        }
        let (open, close) = match char {
            '[' => ('[', b']'),
            '(' => ('[', b')'),
            '{' => ('{', b'}'),
            _ => return self.text_or_word(char, false, out),
        };
        if self.open.len() == DEPTH {
            return Step::Wrong;
        }
        out.push(open);
        self.open.push(Open { close, filled: false });
        self.go_on(if close == b'}' { Place::Key } else { Place::Before })
    }

    fn text_or_word(&mut self, char: char, is_key: bool, out: &mut String) -> Step {
        match char {
            '"' | '\'' => {
                out.push('"');
                self.go_on(Place::Text(char, is_key, Within::Plain))
            }
            char if is_word(char) => self.go_on(Place::Word(char.into(), is_key)),
            _ => Step::Wrong,
        }
    }

    /// Writes what stands between two values of a list, or two fields of an object.
    fn separate(&mut self, out: &mut String) {
        if let Some(open) = self.open.last_mut() {
            out.push_str(if open.filled { ", " } else { "" });
            open.filled = true;
        }
    }

    fn close(&mut self, char: char, out: &mut String) -> Step {
        match self.open.pop() {
            Some(open) if char::from(open.close) == char => {
                out.push(if char == '}' { '}' } else { ']' });
                self.place = Place::After;
                Step::End
            }
            _ => Step::Wrong,
        }
    }

    fn is_in_object(&self) -> bool {
        self.open.last().is_some_and(|open| open.close == b'}')
    }

    /// Takes a character in a text.
    fn text(
        &mut self,
        quote: char,
        is_key: bool,
        within: Within,
        char: char,
        out: &mut String,
    ) -> Step {
        let next = match within {
            Within::Plain if char == '\\' => Within::Escape,
            Within::Plain if char == quote => Within::Quote(String::new()),
            Within::Plain => {
                write_char(char, out);
                Within::Plain
            }
            Within::Escape => match escaped(char) {
                Escaped::Number(digits) => Within::Number { digits, value: 0, first: None },
                Escaped::Char(real) => {
                    write_char(real, out);
                    Within::Plain
                }
                Escaped::Nothing => Within::Plain,
                Escaped::Both => {
                    write_char('\\', out);
                    write_char(char, out);
                    Within::Plain
                }
            },
            Within::Number { digits, value, first } => {
                let Some(digit) = char.to_digit(16) else { return Step::Wrong };
                // At most eight digits fit.
                let value = value << 4 | digit;
                match (digits, first) {
                    (2.., _) => Within::Number { digits: digits - 1, value, first },
                    (_, Some(high)) if (0xdc00..0xe000).contains(&value) => {
                        let pair = 0x10000 + ((high - 0xd800) << 10) + (value - 0xdc00);
                        write_code(pair, out);
                        Within::Plain
                    }
                    (_, first) => {
                        if let Some(high) = first {
                            write_code(high, out);
                        }
                        match value {
                            0xd800..0xdc00 => Within::Half(value, false),
                            _ => {
                                write_code(value, out);
                                Within::Plain
                            }
                        }
                    }
                }
            }
            Within::Half(high, false) if char == '\\' => Within::Half(high, true),
            Within::Half(high, true) if char == 'u' => {
                Within::Number { digits: 4, value: 0, first: Some(high) }
            }
            Within::Half(high, escapes) => {
                write_code(high, out);
                let within = if escapes { Within::Escape } else { Within::Plain };
                return self.text(quote, is_key, within, char, out);
            }
            Within::Quote(_) if ",:)]}".contains(char) => {
                out.push('"');
                return self.end(is_key);
            }
            Within::Quote(mut space) if char.is_whitespace() && space.len() < HELD => {
                space.push(char);
                Within::Quote(space)
            }
            // A model forgot that its text has the quote in it.
            Within::Quote(space) => {
                write_char(quote, out);
                space.chars().for_each(|char| write_char(char, out));
                return self.text(quote, is_key, Within::Plain, char, out);
            }
        };
        self.go_on(Place::Text(quote, is_key, next))
    }
}

/// Where a number of JSON stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Long {
    /// Its last character.
    last: Option<char>,
    /// Whether it has had its point.
    has_point: bool,
    /// Whether it has had what begins its exponent.
    has_exponent: bool,
}

impl Long {
    /// After a text that a number of JSON begins with.
    fn of(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let is_padded = digits.starts_with('0') && digits[1..].starts_with(is_digit);
        let begin = Self::default();
        text.chars().try_fold(begin, |long, char| long.with(char)).filter(|_| !is_padded)
    }

    /// With one character more.
    fn with(self, char: char) -> Option<Self> {
        let Self { last, mut has_point, mut has_exponent } = self;
        let fits = match char {
            '.' => self.is_whole() && !has_point && !has_exponent,
            'e' | 'E' => self.is_whole() && !has_exponent,
            '-' => matches!(last, None | Some('e' | 'E')),
            '+' => matches!(last, Some('e' | 'E')),
            char => is_digit(char),
        };
        has_point |= char == '.';
        has_exponent |= matches!(char, 'e' | 'E');
        fits.then_some(Self { last: Some(char), has_point, has_exponent })
    }

    /// Whether it may end here.
    fn is_whole(self) -> bool {
        self.last.is_some_and(is_digit)
    }
}

fn is_digit(char: char) -> bool {
    char.is_ascii_digit()
}

/// What a character after a backslash stands for.
enum Escaped {
    Char(char),
    /// As many hexadecimal digits follow.
    Number(u8),
    Nothing,
    /// It and the backslash: so Python has it where it knows nothing better.
    Both,
}

fn escaped(char: char) -> Escaped {
    Escaped::Char(match char {
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'b' => '\x08',
        'f' => '\x0c',
        'a' => '\x07',
        'v' => '\x0b',
        '\\' | '\'' | '"' | '/' => char,
        'x' => return Escaped::Number(2),
        'u' => return Escaped::Number(4),
        'U' => return Escaped::Number(8),
        '\n' => return Escaped::Nothing,
        _ => return Escaped::Both,
    })
}

/// Whether a character may stand in a number or a word.
fn is_word(char: char) -> bool {
    char.is_alphanumeric() || "_+-.".contains(char)
}

/// Writes a text as JSON.
pub fn write(text: &str, out: &mut String) {
    out.push('"');
    text.chars().for_each(|char| write_char(char, out));
    out.push('"');
}

fn write_code(code: u32, out: &mut String) {
    write_char(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), out);
}

fn write_char(char: char, out: &mut String) {
    match char {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\0'..' ' => {
            // Writing to a text does not fail.
            let _ = write!(out, "\\u{:04x}", u32::from(char));
        }
        char => out.push(char),
    }
}

/// Writes a number or a word: what Python and JSON have words for, else a text.
fn write_word(word: &str, out: &mut String) {
    match word {
        "True" | "true" => out.push_str("true"),
        "False" | "false" => out.push_str("false"),
        "None" | "null" | "nan" | "NaN" => out.push_str("null"),
        _ => match number(word) {
            Some(number) => out.push_str(&number),
            None => write(word, out),
        },
    }
}

/// A number as JSON has it.
fn number(word: &str) -> Option<String> {
    if Long::of(word).is_some_and(Long::is_whole) {
        return Some(word.to_owned());
    }
    // Python's other spellings: 1_000, +1, .5, 5., 0x1f.
    if !word.starts_with(|char: char| char.is_ascii_digit() || "+-.".contains(char)) {
        return None;
    }
    let plain = word.replace('_', "");
    let plain = plain.strip_prefix('+').unwrap_or(&plain);
    let whole = match plain.get(..2) {
        Some("0x" | "0X") => i64::from_str_radix(&plain[2..], 16).ok(),
        _ => plain.parse().ok(),
    };
    if let Some(whole) = whole {
        return Some(whole.to_string());
    }
    let float = plain.parse::<f64>().ok().filter(|float| float.is_finite())?;
    serde_json::Number::from_f64(float).map(|number| number.to_string())
}
