//! Reading split patterns: the part of Oniguruma's language that they are written in.
//!
//! What can be read has an exact meaning as an ordered automaton with one character of lookahead
//! (see [`super::cut`]); everything else is refused by name. Facts about the language are from
//! Oniguruma's `doc/RE` with its default syntax, which the reference uses: `X?+`, `X*+` and `X++`
//! are possessive, but `X{1,3}+` repeats `X{1,3}`.

use std::ops::Range;

/// Most characters of a pattern.
const LEN_MOST: usize = 1000;
/// Most groups inside each other.
const DEPTH_MOST: usize = 8;
/// Most times that something is repeated a counted number of times.
const COUNT_MOST: usize = 64;

/// A pattern.
#[derive(Debug, Clone)]
pub enum Node {
    /// One character.
    One(Set),
    /// Nothing, where the next character (or the end of the text) is one of these.
    Ahead(Set),
    /// One after the other.
    All(Vec<Self>),
    /// The first that matches.
    Any(Vec<Self>),
    /// As often as possible: at least the first number, at most the second.
    Repeat(Box<Self>, usize, Option<usize>),
}

/// Characters that split patterns can tell apart, and the end of a text: all of ASCII, what is of
/// one case with ASCII, and one representative of each class for all others.
const SYMBOLS: usize = 128 + OTHERS.len() + 1;
/// The end of a text.
pub const END: usize = SYMBOLS - 1;
/// The long s and the Kelvin sign, then a letter, a number, a space and something else.
const OTHERS: [char; 6] = ['\u{17f}', '\u{212a}', 'é', '²', '\u{3000}', '€'];
const LONG_S: usize = 128;
const KELVIN: usize = 129;

/// The character of a symbol; none for the end.
pub fn char_of(symbol: usize) -> Option<char> {
    match symbol {
        0..128 => Some(char::from(symbol as u8)),
        END => None,
        _ => OTHERS.get(symbol - 128).copied(),
    }
}

/// Some symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set([bool; SYMBOLS]);

impl Set {
    fn of(test: impl Fn(usize) -> bool) -> Self {
        Self(std::array::from_fn(test))
    }

    /// Characters; never the end.
    fn chars(test: impl Fn(char) -> bool) -> Self {
        Self::of(|symbol| char_of(symbol).is_some_and(&test))
    }

    /// Whether a symbol is among them.
    pub fn has(&self, symbol: usize) -> bool {
        self.0[symbol]
    }

    fn or(self, other: Self) -> Self {
        Self::of(|symbol| self.has(symbol) || other.has(symbol))
    }

    /// All other characters.
    fn other_chars(self) -> Self {
        Self::of(|symbol| symbol != END && !self.has(symbol))
    }

    /// All other symbols.
    fn others(self) -> Self {
        Self::of(|symbol| !self.has(symbol))
    }

    /// The same in both cases, of ASCII letters; Unicode adds two characters.
    fn any_case(self) -> Self {
        let has = |byte: u8| self.has(byte.to_ascii_lowercase().into()) || self.has(byte.into());
        Self::of(|symbol| match symbol {
            0..128 => has(symbol as u8) || has((symbol as u8).to_ascii_uppercase()),
            LONG_S => has(b's') || has(b'S'),
            KELVIN => has(b'k') || has(b'K'),
            _ => self.has(symbol),
        })
    }
}

/// `\s`
fn is_space(char: char) -> bool {
    char.is_whitespace()
}

/// Reads a pattern. The error is what of it cannot be read.
pub fn parse(pattern: &str) -> Result<Node, String> {
    let chars: Vec<char> = pattern.chars().take(LEN_MOST + 1).collect();
    if chars.len() > LEN_MOST {
        return Err(format!("more than {LEN_MOST} characters"));
    }
    let mut parser = Parser { chars: &chars, at: 0, any_case: false };
    let node = parser.alternatives(0)?;
    match parser.peek() {
        None => Ok(node),
        Some(char) => Err(format!("an unmatched `{char}`")),
    }
}

struct Parser<'p> {
    chars: &'p [char],
    at: usize,
    /// Inside `(?i:`.
    any_case: bool,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Result<char, String> {
        let char = self.peek().ok_or("an unexpected end")?;
        self.at += 1;
        Ok(char)
    }

    /// Goes on after `text`, if it is there.
    fn skip(&mut self, text: &str) -> bool {
        let is_there = self.chars[self.at..].iter().copied().take(text.len()).eq(text.chars());
        if is_there {
            self.at += text.len();
        }
        is_there
    }

    fn text(&self, range: Range<usize>) -> String {
        self.chars[range].iter().collect()
    }

    fn alternatives(&mut self, depth: usize) -> Result<Node, String> {
        if depth > DEPTH_MOST {
            return Err(format!("more than {DEPTH_MOST} groups inside each other"));
        }
        let mut any = vec![self.sequence(depth)?];
        while self.skip("|") {
            any.push(self.sequence(depth)?);
        }
        Ok(Node::Any(any))
    }

    fn sequence(&mut self, depth: usize) -> Result<Node, String> {
        let mut all = vec![];
        while self.peek().is_some_and(|char| !matches!(char, '|' | ')')) {
            let start = self.at;
            let node = self.term(depth)?;
            let node = self.repeated(node, start)?;
            if self.any_case
                && let (Some(Node::One(before)), Node::One(after)) = (all.last(), &node)
                && may_be_ligature(before, after)
            {
                return Err(format!("`{}` in any case", self.text(start - 1..self.at)));
            }
            all.push(node);
        }
        Ok(Node::All(all))
    }

    fn term(&mut self, depth: usize) -> Result<Node, String> {
        let start = self.at;
        match self.next()? {
            '(' => self.group(depth),
            '[' => self.class().map(Node::One),
            '$' => Ok(Node::Ahead(Set::of(|symbol| symbol == END || symbol == '\n' as usize))),
            char @ ('.' | '^' | '*' | '+' | '?' | '{') => Err(format!("`{char}`")),
            '\\' => {
                let (set, is_class) = self.escape()?;
                if is_class && self.any_case {
                    return Err(format!("`{}` in any case", self.text(start..self.at)));
                }
                Ok(Node::One(if self.any_case { set.any_case() } else { set }))
            }
            char => {
                let set = literal(char)?;
                Ok(Node::One(if self.any_case { set.any_case() } else { set }))
            }
        }
    }

    /// After an opening parenthesis.
    fn group(&mut self, depth: usize) -> Result<Node, String> {
        let outside = self.any_case;
        let start = self.at - 1;
        let ahead = if self.skip("?!") {
            Some(false)
        } else if self.skip("?=") {
            Some(true)
        } else {
            if self.skip("?i:") {
                self.any_case = true;
            } else if !self.skip("?:") && self.peek() == Some('?') {
                let end = (start + 4).min(self.chars.len());
                return Err(format!("the group `{}`", self.text(start..end)));
            }
            None
        };
        let inside = self.alternatives(depth + 1)?;
        if !self.skip(")") {
            return Err("an unmatched `(`".into());
        }
        self.any_case = outside;
        let Some(is_wanted) = ahead else { return Ok(inside) };
        let set = single(&inside)
            .ok_or_else(|| format!("`{}`, of more than a character", self.text(start..self.at)))?;
        Ok(Node::Ahead(if is_wanted { set } else { set.others() }))
    }

    /// What a backslash begins, and whether it is a class.
    fn escape(&mut self) -> Result<(Set, bool), String> {
        let char = self.next()?;
        let set = match char {
            'r' => literal('\r')?,
            'n' => literal('\n')?,
            't' => literal('\t')?,
            's' => return Ok((Set::chars(is_space), true)),
            'S' => return Ok((Set::chars(|char| !is_space(char)), true)),
            'p' | 'P' => {
                let start = self.at - 2;
                let inside = self.skip("{^");
                let letter = (inside || self.skip("{")).then(|| self.next()).transpose()?;
                let set = match letter {
                    Some('L') => Set::chars(char::is_alphabetic),
                    Some('N') => Set::chars(char::is_numeric),
                    _ => return Err(self.class_name(start)),
                };
                if !self.skip("}") {
                    return Err(self.class_name(start));
                }
                let is_negated = inside != (char == 'P');
                return Ok((if is_negated { set.other_chars() } else { set }, true));
            }
            other if other.is_ascii_alphanumeric() => return Err(format!("`\\{other}`")),
            other => literal(other)?,
        };
        Ok((set, false))
    }

    /// A class such as `\p{Lu}`, for messages.
    fn class_name(&self, start: usize) -> String {
        let len = self.chars[start..].iter().take(24).take_while(|&&char| char != '}').count();
        format!("`{}`", self.text(start..(start + len + 1).min(self.chars.len())))
    }

    /// After an opening bracket.
    fn class(&mut self) -> Result<Set, String> {
        let start = self.at - 1;
        let is_negated = self.skip("^");
        let mut set = Set::of(|_| false);
        let mut is_plain = true;
        let mut last = None;
        if self.peek() == Some(']') {
            return Err("`[]`".into());
        }
        loop {
            match self.next()? {
                ']' => break,
                '[' => return Err("a class inside a class".into()),
                '&' if self.peek() == Some('&') => return Err("`&&`".into()),
                '\\' => {
                    let (found, is_class) = self.escape()?;
                    is_plain &= !is_class;
                    set = set.or(found);
                    last = None;
                }
                '-' if self.peek() != Some(']') => {
                    let (Some(from), to) = (last.take(), self.next()?) else {
                        return Err("a `-` without a beginning".into());
                    };
                    if !to.is_ascii_alphanumeric() || from > to {
                        return Err(format!("the range `{from}-{to}`"));
                    }
                    set = set.or(Set::chars(|char| (from..=to).contains(&char)));
                }
                char => {
                    set = set.or(literal(char)?);
                    last = Some(char);
                }
            }
        }
        match (is_negated, self.any_case) {
            (false, false) => Ok(set),
            (true, false) => Ok(set.other_chars()),
            (false, true) if is_plain => Ok(set.any_case()),
            _ => Err(format!("`{}` in any case", self.text(start..self.at))),
        }
    }

    /// What `node`, which began at `start`, becomes with the quantifier that follows it.
    fn repeated(&mut self, node: Node, start: usize) -> Result<Node, String> {
        let bounds = match self.peek() {
            Some('?') => Some((0, Some(1))),
            Some('*') => Some((0, None)),
            Some('+') => Some((1, None)),
            Some('{') => None,
            _ => return Ok(node),
        };
        self.at += 1;
        let node = match bounds {
            Some((least, most)) if self.skip("+") => {
                let Some(set) = single(&node) else { return Err(self.quantified(start)) };
                let greedy = Node::Repeat(node.into(), least, most);
                match most {
                    // Without the character only where it is not there.
                    Some(_) => Node::Any(vec![Node::One(set), Node::Ahead(set.others())]),
                    // All of them: no more may follow.
                    None => Node::All(vec![greedy, Node::Ahead(set.others())]),
                }
            }
            Some((least, most)) => {
                repeat(node, least, most).ok_or_else(|| self.quantified(start))?
            }
            None => {
                let (least, most) = self.interval().ok_or_else(|| self.quantified(start))?;
                let counted = repeat(node, least, most).ok_or_else(|| self.quantified(start))?;
                if self.skip("+") {
                    repeat(counted, 1, None).ok_or_else(|| self.quantified(start))?
                } else {
                    counted
                }
            }
        };
        match self.peek() {
            Some('?' | '*' | '+' | '{') => {
                self.at += 1;
                Err(self.quantified(start))
            }
            _ => Ok(node),
        }
    }

    fn quantified(&self, start: usize) -> String {
        format!("`{}`", self.text(start..self.at))
    }

    /// After an opening brace: `3}`, `1,3}`, `1,}` or `,3}`.
    fn interval(&mut self) -> Option<(usize, Option<usize>)> {
        let start = self.at;
        while self.next().ok()? != '}' {}
        let text = self.text(start..self.at - 1);
        let number = |text: &str| text.parse().ok().filter(|&count| count <= COUNT_MOST);
        let (least, most) = match text.split_once(',') {
            None => (number(&text)?, Some(number(&text)?)),
            Some((least, "")) => (number(least)?, None),
            Some(("", most)) => (0, Some(number(most)?)),
            Some((least, most)) => (number(least)?, Some(number(most)?)),
        };
        most.is_none_or(|most| least <= most && most > 0).then_some((least, most))
    }
}

/// A repetition, unless it could go round without a character.
fn repeat(node: Node, least: usize, most: Option<usize>) -> Option<Node> {
    (!may_be_empty(&node)).then(|| Node::Repeat(node.into(), least, most))
}

fn may_be_empty(node: &Node) -> bool {
    match node {
        Node::One(_) => false,
        Node::Ahead(_) => true,
        Node::All(all) => all.iter().all(may_be_empty),
        Node::Any(any) => any.iter().any(may_be_empty),
        Node::Repeat(node, least, _) => *least == 0 || may_be_empty(node),
    }
}

/// The set of a node that is one character.
fn single(node: &Node) -> Option<Set> {
    match node {
        Node::One(set) => Some(*set),
        Node::All(nodes) | Node::Any(nodes) => match &nodes[..] {
            [node] => single(node),
            _ => None,
        },
        _ => None,
    }
}

fn literal(char: char) -> Result<Set, String> {
    if char.is_ascii() {
        Ok(Set::of(|symbol| symbol == char as usize))
    } else {
        Err(format!("{char:?}"))
    }
}

/// Whether one character can stand for these two in any case: ß, ﬀ, ﬁ, ﬂ, ﬅ (`CaseFolding.txt` of
/// Unicode, status F, without those that have marks).
fn may_be_ligature(before: &Set, after: &Set) -> bool {
    let has = |set: &Set, letters: &str| letters.bytes().any(|byte| set.has(byte.into()));
    has(before, "s") && has(after, "st") || has(before, "f") && has(after, "fil")
}
