//! Reads GBNF.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars as Text;

use super::super::depth;
use super::{Chars, Expr, Grammar, Rule};

/// Most repetitions that are counted.
const MOST_REPEATS: u32 = 10_000;

/// Whether a name may have it.
pub fn is_name(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '-' || char == '_'
}

/// Reads a grammar; an error says in which line what is wrong.
pub fn parse(text: &str) -> Result<Grammar, String> {
    let mut parser =
        Parser { rest: text.chars().peekable(), line: 1, depth: 0, names: BTreeMap::new() };
    let mut found: Vec<Option<Rule>> = Vec::new();
    parser.space(true);
    while parser.rest.peek().is_some() {
        let line = parser.line;
        let name = parser.name()?;
        let number = parser.number(&name);
        parser.space(false);
        for char in "::=".chars() {
            parser.expect(char, "`::=` after the name of a rule")?;
        }
        parser.space(true);
        let body = parser.alternatives(false)?;
        if parser.rest.peek().is_some_and(|&char| char != '\n' && char != '\r') {
            return Err(parser.unexpected("the end of the line"));
        }
        parser.space(true);
        found.resize_with(parser.names.len(), || None);
        if found[number].replace(Rule { line, body }).is_some() {
            return Err(format!("line {line}: there are two rules `{name}`"));
        }
    }
    if found.len() > depth::MOST {
        return Err(format!("it has {} rules, and at most {} are taken", found.len(), depth::MOST));
    }
    let root = parser.names.get("root").map(|&(number, _)| number);
    let mut rules = Vec::with_capacity(found.len());
    let mut names: Vec<_> = parser.names.into_iter().collect();
    names.sort_by_key(|(_, (number, _))| *number);
    for (rule, (name, (_, line))) in found.into_iter().zip(names) {
        let missing = || format!("line {line}: there is no rule `{name}`");
        rules.push(rule.ok_or_else(missing)?);
    }
    Ok(Grammar { rules, root: root.ok_or("there is no rule `root`")? })
}

struct Parser<'t> {
    rest: Peekable<Text<'t>>,
    line: usize,
    /// How deep in brackets.
    depth: usize,
    /// Of each name its rule's number, and the line that it was met in first.
    names: BTreeMap<String, (usize, usize)>,
}

impl Parser<'_> {
    fn error(&self, message: impl std::fmt::Display) -> String {
        format!("line {}: {message}", self.line)
    }

    fn unexpected(&mut self, wanted: &str) -> String {
        match self.rest.peek().copied() {
            None => self.error(format_args!("it ends where {wanted} is expected")),
            Some('\n' | '\r') => self.error(format_args!("{wanted} is expected before its end")),
            Some(char) => self.error(format_args!("{wanted} is expected, not `{char}`")),
        }
    }

    fn next(&mut self) -> Option<char> {
        let char = self.rest.next();
        self.line += usize::from(char == Some('\n'));
        char
    }

    fn expect(&mut self, char: char, wanted: &str) -> Result<(), String> {
        match self.rest.peek() == Some(&char) {
            true => {
                self.next();
                Ok(())
            }
            false => Err(self.unexpected(wanted)),
        }
    }

    /// Takes this character, if it is next.
    fn takes(&mut self, char: char) -> bool {
        self.expect(char, "").is_ok()
    }

    /// Leaves out white space and comments, ends of lines only with `lines`.
    fn space(&mut self, lines: bool) {
        while let Some(&char) = self.rest.peek() {
            match char {
                ' ' | '\t' => {}
                '\n' | '\r' if lines => {}
                '#' => {
                    while self.rest.peek().is_some_and(|&char| char != '\n' && char != '\r') {
                        self.next();
                    }
                    continue;
                }
                _ => return,
            }
            self.next();
        }
    }

    fn name(&mut self) -> Result<String, String> {
        let mut name = String::new();
        while let Some(char) = self.rest.next_if(|&char| is_name(char)) {
            name.push(char);
        }
        if name.is_empty() { Err(self.unexpected("the name of a rule")) } else { Ok(name) }
    }

    /// The number of the rule of this name.
    fn number(&mut self, name: &str) -> usize {
        let next = (self.names.len(), self.line);
        self.names.entry(name.to_owned()).or_insert(next).0
    }

    fn alternatives(&mut self, nested: bool) -> Result<Expr, String> {
        let mut all = vec![self.sequence(nested)?];
        while self.takes('|') {
            self.space(true);
            all.push(self.sequence(nested)?);
        }
        Ok(Expr::any(all))
    }

    /// A sequence, up to a bracket, a bar or, where it is not `nested`, the end of the line.
    fn sequence(&mut self, nested: bool) -> Result<Expr, String> {
        let mut parts: Vec<Expr> = Vec::new();
        while let Some(&char) = self.rest.peek() {
            match char {
                '"' => parts.push(self.text()?),
                '[' => parts.push(self.class()?),
                '<' => parts.push(self.token()?),
                '.' => {
                    self.next();
                    parts.push(Expr::Class(Chars::default().others()));
                }
                '(' => {
                    self.next();
                    self.depth += 1;
                    if self.depth > depth::MOST {
                        return Err(self.error(format_args!(
                            "brackets go too deep, and at most {} levels are taken",
                            depth::MOST
                        )));
                    }
                    self.space(true);
                    parts.push(self.alternatives(true)?);
                    self.expect(')', "`)`")?;
                    self.depth -= 1;
                }
                '*' | '+' | '?' | '{' => {
                    let (least, most) = self.repeats()?;
                    let before = parts.pop();
                    let before = before.ok_or_else(|| {
                        self.error(format_args!("there is nothing before `{char}`"))
                    })?;
                    parts.push(Expr::Repeat(Box::new(before), least, most));
                }
                '!' => return Err(self.error("`!` is not supported: say which tokens may come")),
                char if is_name(char) => {
                    let name = self.name()?;
                    parts.push(Expr::Rule(self.number(&name)));
                }
                _ => break,
            }
            self.space(nested);
        }
        Ok(Expr::seq(parts))
    }

    fn repeats(&mut self) -> Result<(u32, Option<u32>), String> {
        match self.next() {
            Some('*') => return Ok((0, None)),
            Some('+') => return Ok((1, None)),
            Some('?') => return Ok((0, Some(1))),
            _ => {}
        }
        self.space(false);
        let least = self.count()?.ok_or_else(|| self.unexpected("a number"))?;
        self.space(false);
        let most = if self.takes(',') {
            self.space(false);
            self.count()?
        } else {
            Some(least)
        };
        self.space(false);
        self.expect('}', "`}`")?;
        if most.is_some_and(|most| most < least) {
            return Err(self.error(format_args!("at least {least} times and fewer at most")));
        }
        Ok((least, most))
    }

    fn count(&mut self) -> Result<Option<u32>, String> {
        let mut count = None;
        while let Some(digit) = self.rest.peek().and_then(|char| char.to_digit(10)) {
            self.next();
            let next = count.unwrap_or(0) * 10 + digit;
            if next > MOST_REPEATS {
                let message = format_args!("more than {MOST_REPEATS} repetitions are not counted");
                return Err(self.error(message));
            }
            count = Some(next);
        }
        Ok(count)
    }

    /// What is between quotation marks.
    fn text(&mut self) -> Result<Expr, String> {
        self.next();
        let mut text = String::new();
        while !self.takes('"') {
            text.push(self.char("`\"`")?);
        }
        Ok(if text.is_empty() { Expr::empty() } else { Expr::Text(text) })
    }

    fn class(&mut self) -> Result<Expr, String> {
        self.next();
        let negated = self.takes('^');
        let mut ranges = Vec::new();
        while !self.takes(']') {
            let first = self.char("`]`")?;
            let mut last = first;
            if self.takes('-') {
                if self.takes(']') {
                    ranges.extend([(first.into(), first.into()), ('-'.into(), '-'.into())]);
                    break;
                }
                last = self.char("`]`")?;
            }
            if last < first {
                return Err(self.error(format_args!("the range `{first}-{last}` is empty")));
            }
            ranges.push((first.into(), last.into()));
        }
        let chars = Chars::new(ranges);
        let chars = if negated { chars.others() } else { chars };
        if chars.is_empty() {
            return Err(self.error("no character is in this class"));
        }
        Ok(Expr::Class(chars))
    }

    fn token(&mut self) -> Result<Expr, String> {
        let mut name = String::new();
        loop {
            match self.rest.next_if(|char| !char.is_whitespace()) {
                None => return Err(self.unexpected("`>`")),
                Some(char) => name.push(char),
            }
            if name.ends_with('>') {
                return Ok(Expr::Token(name));
            }
        }
    }

    /// The next character of a text or a class, which ends with `end`.
    fn char(&mut self, end: &str) -> Result<char, String> {
        let wanted = |parser: &mut Self| parser.unexpected(end);
        let char = match self.rest.peek() {
            None => return Err(wanted(self)),
            Some('\n' | '\r') => return Err(wanted(self)),
            Some('\\') => {
                self.next();
                return self.escaped();
            }
            Some(&char) => char,
        };
        self.next();
        Ok(char)
    }

    fn escaped(&mut self) -> Result<char, String> {
        let Some(char) = self.next() else { return Err(self.unexpected("an escape")) };
        let digits = match char {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            '\\' | '"' | '[' | ']' | '-' | '^' | '/' => return Ok(char),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => return Err(self.error(format_args!("`\\{char}` is no escape"))),
        };
        let mut code = 0_u32;
        for _ in 0..digits {
            let digit = self.rest.peek().and_then(|char| char.to_digit(16));
            let digit = digit.ok_or_else(|| self.unexpected("a hexadecimal digit"))?;
            self.next();
            code = code.wrapping_shl(4) | digit;
        }
        char::from_u32(code).ok_or_else(|| self.error(format_args!("{code:#x} is no character")))
    }
}
