//! Calls of tools in answers: from what a model writes to names and JSON, as it comes.
//!
//! LFM2 writes a list of calls between two control tokens: `[name(key='value', other=3)]`, with values
//! as Python writes them, or, where it is told to, `[{"name": "name", "arguments": {"key": "value"}}]`.
//! [`Calls`] takes either, character by character, so it does not matter how a text was cut; `value`
//! makes one value JSON. Whatever comes, what is kept of it has a bound, and the arguments of a call that
//! is whole are a JSON object.

#[cfg(test)]
mod tests;
mod value;

use value::{Step, Value};

/// Longest name of a tool or of an argument, in bytes.
const NAME: usize = 256;

/// What comes of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A call of the tool of this name begins.
    Begin(String),
    /// More of the JSON text of its arguments.
    Arguments(String),
    /// It is whole.
    End,
}

/// A call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Call {
    /// The tool.
    pub name: String,
    /// Arguments as JSON; of a call that was cut, their beginning.
    pub arguments: String,
    /// Whether it is whole.
    pub whole: bool,
}

impl Call {
    /// Adds a piece to the calls so far.
    pub fn collect(calls: &mut Vec<Self>, piece: Piece) {
        match (piece, calls.last_mut()) {
            (Piece::Begin(name), _) => calls.push(Self { name, ..Self::default() }),
            (Piece::Arguments(more), Some(call)) => call.arguments.push_str(&more),
            (Piece::End, Some(call)) => call.whole = true,
            (_, None) => {}
        }
    }
}

/// Takes a text of calls apart as it comes.
#[derive(Debug, Clone, Default)]
pub struct Calls {
    place: Place,
    value: Value,
}

/// Where a text stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Place {
    /// No call has begun, or one has ended.
    #[default]
    Between,
    /// In the name of a tool.
    Name(String),
    /// Before or in the name of an argument; whether another one stands before it.
    Key(String, bool),
    /// In an argument.
    Argument,
    /// After one.
    After,
    /// In a call that is an object.
    Object(Known, Within),
    /// What came is no call: it goes up to the end.
    Broken,
}

/// What has come of a call that is an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Known {
    name: bool,
    arguments: bool,
}

/// Where a text stands in a call that is an object.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Within {
    /// Before or in the name of a field.
    Key(String),
    /// After it.
    Colon(String),
    /// In the name of the tool.
    Name(String),
    /// Before or in the arguments.
    Arguments,
    /// In what says nothing here.
    Other,
    /// After the value of a field.
    After,
}

/// What a character makes of a place.
enum Next<P> {
    /// It is taken.
    Taken(P),
    /// It belongs to what follows.
    Before(P),
    /// There is nothing that it could be.
    Wrong,
}

use Next::{Before, Taken, Wrong};

impl Calls {
    /// Takes more of the text.
    pub fn push(&mut self, text: &str, emit: &mut impl FnMut(Piece)) {
        let mut out = Out { text: String::new(), emit };
        for char in text.chars() {
            // A second time: what ends a word may begin what follows.
            while let Before(()) = self.take(char, &mut out) {}
        }
        out.send();
    }

    /// The text ends here; another may begin. Says whether all of it was calls, the last one whole.
    pub fn finish(&mut self) -> bool {
        std::mem::take(self).place == Place::Between
    }

    fn take(&mut self, char: char, out: &mut Out<impl FnMut(Piece)>) -> Next<()> {
        let next = match std::mem::take(&mut self.place) {
            Place::Between => match char {
                '{' => Taken(Place::Object(Known::default(), Within::Key(String::new()))),
                char if is_name(char) => Taken(Place::Name(char.into())),
                char if char.is_whitespace() || "[],".contains(char) => Taken(Place::Between),
                _ => Wrong,
            },
            Place::Name(name) if char == '(' => {
                out.begin(name.trim_end());
                out.text.push('{');
                Taken(Place::Key(String::new(), false))
            }
            Place::Name(name) => longer(name, char).map_or(Wrong, |name| Taken(Place::Name(name))),
            Place::Key(key, _) if key.is_empty() && char == ')' => {
                out.text.push('}');
                out.end();
                Taken(Place::Between)
            }
            Place::Key(key, more) if key.is_empty() && char.is_whitespace() => {
                Taken(Place::Key(key, more))
            }
            Place::Key(key, more) if !key.is_empty() && char == '=' => {
                out.text.push_str(if more { ", " } else { "" });
                value::write(key.trim_end(), &mut out.text);
                out.text.push_str(": ");
                Taken(Place::Argument)
            }
            Place::Key(key, more) => {
                longer(key, char).map_or(Wrong, |key| Taken(Place::Key(key, more)))
            }
            Place::Argument => {
                self.value.take(char, &mut out.text).next(Place::Argument, Place::After)
            }
            Place::After => match char {
                ',' => Taken(Place::Key(String::new(), true)),
                ')' => Before(Place::Key(String::new(), true)),
                char if char.is_whitespace() => Taken(Place::After),
                _ => Wrong,
            },
            Place::Object(known, within) => self.object(known, within, char, out),
            Place::Broken => Taken(Place::Broken),
        };
        let (place, taken) = match next {
            Taken(place) => (place, Taken(())),
            Before(place) => (place, Before(())),
            Wrong => (Place::Broken, Taken(())),
        };
        self.place = place;
        taken
    }

    /// Takes a character in a call that is an object.
    fn object(
        &mut self,
        mut known: Known,
        within: Within,
        char: char,
        out: &mut Out<impl FnMut(Piece)>,
    ) -> Next<Place> {
        let next = match within {
            Within::Key(key) if key.is_empty() && char.is_whitespace() => Taken(Within::Key(key)),
            Within::Key(key) if key.is_empty() && char == '}' => {
                if !known.name {
                    return Wrong;
                }
                out.text.push_str(if known.arguments { "" } else { "{}" });
                out.end();
                return Taken(Place::Between);
            }
            Within::Key(key) if key.is_empty() && char != '"' && char != '\'' => Wrong,
            Within::Key(key) => {
                let (key, step) = self.short(key, char);
                step.next(Within::Key(key.clone()), Within::Colon(key))
            }
            Within::Colon(key) if char.is_whitespace() => Taken(Within::Colon(key)),
            Within::Colon(key) if char == ':' => match &*key {
                "\"name\"" if !known.name => Taken(Within::Name(String::new())),
                // They come once, and after the name.
                "\"arguments\"" | "\"parameters\"" if known.name && !known.arguments => {
                    Taken(Within::Arguments)
                }
                "\"name\"" | "\"arguments\"" | "\"parameters\"" => Wrong,
                _ => Taken(Within::Other),
            },
            Within::Colon(_) => Wrong,
            Within::Name(name) => {
                let (name, step) = self.short(name, char);
                if matches!(step, Step::End | Step::EndBefore) {
                    let Ok(name) = serde_json::from_str::<String>(&name) else { return Wrong };
                    out.begin(&name);
                    known.name = true;
                }
                step.next(Within::Name(name), Within::After)
            }
            Within::Arguments if !known.arguments && char.is_whitespace() => {
                Taken(Within::Arguments)
            }
            Within::Arguments if !known.arguments && char != '{' => Wrong,
            Within::Arguments => {
                known.arguments = true;
                self.value.take(char, &mut out.text).next(Within::Arguments, Within::After)
            }
            Within::Other => {
                self.value.take(char, &mut String::new()).next(Within::Other, Within::After)
            }
            Within::After if char.is_whitespace() => Taken(Within::After),
            Within::After if char == ',' => Taken(Within::Key(String::new())),
            Within::After if char == '}' => Before(Within::Key(String::new())),
            Within::After => Wrong,
        };
        match next {
            Taken(within) => Taken(Place::Object(known, within)),
            Before(within) => Before(Place::Object(known, within)),
            Wrong => Wrong,
        }
    }

    /// Takes a character of a value that is kept, which must be short.
    fn short(&mut self, mut text: String, char: char) -> (String, Step) {
        let step = self.value.take(char, &mut text);
        let step = if text.len() > NAME { Step::Wrong } else { step };
        (text, step)
    }
}

impl Step {
    /// What is next in a value, and after it.
    fn next<P>(self, within: P, after: P) -> Next<P> {
        match self {
            Self::More => Taken(within),
            Self::End => Taken(after),
            Self::EndBefore => Before(after),
            Self::Wrong => Wrong,
        }
    }
}

/// What comes of the text that is at work.
struct Out<'e, E> {
    /// Arguments that were not emitted yet.
    text: String,
    emit: &'e mut E,
}

impl<E: FnMut(Piece)> Out<'_, E> {
    fn begin(&mut self, name: &str) {
        (self.emit)(Piece::Begin(name.to_owned()));
    }

    fn send(&mut self) {
        if !self.text.is_empty() {
            (self.emit)(Piece::Arguments(std::mem::take(&mut self.text)));
        }
    }

    fn end(&mut self) {
        self.send();
        (self.emit)(Piece::End);
    }
}

/// Whether a character may stand in a name.
fn is_name(char: char) -> bool {
    char.is_alphanumeric() || "_.-:/$".contains(char)
}

/// A name with one character more, while it is one.
fn longer(mut name: String, char: char) -> Option<String> {
    let fits = name.len() < NAME && (is_name(char) || char == ' ');
    name.push(char);
    fits.then_some(name)
}
