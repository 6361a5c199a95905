//! Writes a grammar in Lark.
//!
//! llguidance recognises texts in two steps: a lexer finds the longest piece that an expression of the
//! places it is at takes, and a parser puts the pieces together. GBNF knows no such pieces, so they are
//! chosen here: as large as they can be, because pieces are what makes masks cheap, and so small that a
//! longest piece never takes what should come after it. Rules that do not lead back to themselves, and those
//! that do at their end alone, are regular; a regular sequence is one piece where what may follow it in a
//! text cannot go on with it, else it is put together of smaller ones, down to single characters.
//!
//! Nothing that is no text of the grammar is taken. Some texts of a grammar that leads back to itself are not
//! taken either: where one way begins with a longer piece than another, the lexer goes the longer way.

use std::fmt::Write;

use serde_json::Value;

use super::work::Work;
use super::{Chars, Expr, Grammar};

/// Most parts that are looked at together.
const MOST_PARTS: usize = 64;
/// Most pieces that a grammar is taken apart into.
const MOST_PIECES: usize = 50_000;

/// A grammar in Lark.
#[derive(Debug)]
pub struct Lark {
    /// One rule a line.
    pub text: String,
    /// Of each line the one that it comes from.
    pub lines: Vec<usize>,
}

/// Writes a grammar; nothing where it becomes too long, or takes too much work.
pub fn lark(mut grammar: Grammar) -> Option<Lark> {
    let is_regular = find_regular(&mut grammar);
    let count = grammar.rules.len();
    let mut writer = Writer {
        is_regular,
        starts: vec![(Chars::default(), false); count],
        alphabets: vec![Chars::default(); count],
        follow: vec![Chars::default(); count],
        beyond: vec![None; count],
        written: vec![false; count],
        lark: Lark { text: String::new(), lines: Vec::new() },
        pieces: 0,
        work: Work::default(),
        grammar,
    };
    writer.find_starts();
    writer.find_follow();
    writer.write();
    (!writer.is_too_much()).then_some(writer.lark)
}

/// Which rules are regular. Those that lead back to themselves at their end alone become repetitions.
fn find_regular(grammar: &mut Grammar) -> Vec<bool> {
    let mut known = vec![None; grammar.rules.len()];
    for number in 0..known.len() {
        is_regular_rule(grammar, number, &mut known);
    }
    known.into_iter().map(|known| known == Some(true)).collect()
}

fn is_regular_rule(grammar: &mut Grammar, number: usize, known: &mut [Option<bool>]) -> bool {
    if let Some(known) = known[number] {
        return known;
    }
    // As long as it is being looked at, a way back to it is none of a regular rule.
    known[number] = Some(false);
    let mut body = std::mem::replace(&mut grammar.rules[number].body, Expr::empty());
    if let Some((again, end)) = tail(&body, number, 0)
        && !again.is_empty()
        && !end.is_empty()
    {
        let again = Expr::Repeat(Box::new(Expr::any(again)), 0, None);
        body = Expr::seq(vec![again, Expr::any(end)]);
    }
    let mut used = Vec::new();
    let has_tokens = body.has(&mut |part| {
        if let Expr::Rule(used_rule) = part {
            used.push(*used_rule);
        }
        matches!(part, Expr::Token(_))
    });
    grammar.rules[number].body = body;
    let is_regular =
        !has_tokens && used.into_iter().all(|used| is_regular_rule(grammar, used, known));
    known[number] = Some(is_regular);
    is_regular
}

/// What comes before a rule that is last in an expression, for each way to get there, and the ways
/// that do not lead there; nothing where it stands elsewhere too, or there are many ways.
fn tail(expr: &Expr, rule: usize, depth: usize) -> Option<(Vec<Expr>, Vec<Expr>)> {
    const MOST_WAYS: usize = 16;
    const MOST_DEPTH: usize = 8;
    let is_it = |part: &Expr| *part == Expr::Rule(rule);
    if is_it(expr) {
        return Some((vec![Expr::empty()], Vec::new()));
    }
    if !expr.has(&mut |part| is_it(part)) {
        return Some((Vec::new(), vec![expr.clone()]));
    }
    if depth == MOST_DEPTH {
        return None;
    }
    let (again, end) = match expr {
        Expr::Any(options) => {
            let (mut again, mut end) = (Vec::new(), Vec::new());
            for option in options {
                let (more, others) = tail(option, rule, depth + 1)?;
                again.extend(more);
                end.extend(others);
            }
            (again, end)
        }
        Expr::Seq(parts) => {
            let (last, before) = parts.split_last()?;
            if before.iter().any(|part| part.has(&mut |part| is_it(part))) {
                return None;
            }
            let with = |ways: Vec<Expr>| {
                ways.into_iter().map(|way| Expr::seq([before, &[way]].concat())).collect()
            };
            let (again, end) = tail(last, rule, depth + 1)?;
            (with(again), with(end))
        }
        Expr::Repeat(inner, 0, Some(1)) => {
            let (again, mut end) = tail(inner, rule, depth + 1)?;
            end.push(Expr::empty());
            (again, end)
        }
        _ => return None,
    };
    (again.len() + end.len() <= MOST_WAYS).then_some((again, end))
}

struct Writer {
    grammar: Grammar,
    is_regular: Vec<bool>,
    /// Of each rule the characters that its texts begin with, and whether it has the empty one.
    starts: Vec<(Chars, bool)>,
    /// Of each rule the characters of its texts.
    alphabets: Vec<Chars>,
    /// Of each rule that is not regular the characters that may follow its texts.
    follow: Vec<Chars>,
    /// Of each regular rule [`Self::beyond`], where it is known.
    beyond: Vec<Option<Chars>>,
    /// Which regular rules have their line.
    written: Vec<bool>,
    lark: Lark,
    /// Pieces so far.
    pieces: usize,
    /// What it took so far to know what begins and follows what, and to write it.
    work: Work,
}

impl Writer {
    fn is_too_much(&self) -> bool {
        self.pieces > MOST_PIECES || self.work.is_too_much()
    }

    /// Counts a part whose characters these are.
    fn look(&self, chars: &Chars) {
        self.work.count(1 + chars.len());
    }

    fn find_starts(&mut self) {
        let mut grew = true;
        while std::mem::take(&mut grew) && !self.is_too_much() {
            for number in 0..self.starts.len() {
                let (chars, can_be_empty) = self.start(&self.grammar.rules[number].body);
                let known = &mut self.starts[number];
                grew |= self.work.join(&mut known.0, &chars) || known.1 != can_be_empty;
                known.1 = can_be_empty;
                let alphabet = self.alphabet(&self.grammar.rules[number].body);
                grew |= self.work.join(&mut self.alphabets[number], &alphabet);
            }
        }
    }

    /// The characters that texts of an expression begin with, and whether it has the empty one.
    fn start(&self, expr: &Expr) -> (Chars, bool) {
        let found = self.start_of_part(expr);
        self.look(&found.0);
        found
    }

    fn start_of_part(&self, expr: &Expr) -> (Chars, bool) {
        if self.is_too_much() {
            return (Chars::default(), true);
        }
        match expr {
            Expr::Text(text) => (text.chars().next().map(Chars::one).unwrap_or_default(), false),
            Expr::Class(chars) => (chars.clone(), false),
            Expr::Token(_) => (Chars::default(), false),
            Expr::Rule(number) => self.starts[*number].clone(),
            Expr::Seq(parts) => self.start_of(parts),
            Expr::Any(options) => {
                let (starts, can_be_empty) = self.starts_of(options);
                (starts.into_iter().collect(), can_be_empty)
            }
            Expr::Repeat(inner, least, most) => {
                let (chars, can_be_empty) = self.start(inner);
                (chars, can_be_empty || *least == 0 || *most == Some(0))
            }
        }
    }

    fn start_of(&self, parts: &[Expr]) -> (Chars, bool) {
        let mut all = Vec::new();
        for part in parts {
            let (chars, can_be_empty) = self.start(part);
            all.push(chars);
            if !can_be_empty {
                return (all.into_iter().collect(), false);
            }
        }
        (all.into_iter().collect(), true)
    }

    /// What each of some options begins with, and whether any has the empty text.
    fn starts_of(&self, options: &[Expr]) -> (Vec<Chars>, bool) {
        let (starts, empty): (Vec<_>, Vec<_>) =
            options.iter().map(|option| self.start(option)).unzip();
        (starts, empty.contains(&true))
    }

    /// What may come after what is before some parts, which `after` follows.
    fn after(&self, parts: &[Expr], after: &Chars) -> Chars {
        let (mut chars, can_be_empty) = self.start_of(parts);
        if can_be_empty {
            self.work.join(&mut chars, after);
        }
        chars
    }

    fn find_follow(&mut self) {
        let mut grew = true;
        while std::mem::take(&mut grew) && !self.is_too_much() {
            for number in 0..self.follow.len() {
                if self.is_regular[number] {
                    continue;
                }
                let mut found = Vec::new();
                let body = &self.grammar.rules[number].body;
                self.followed(body, &self.follow[number], &mut found);
                for (rule, chars) in found {
                    grew |= self.work.join(&mut self.follow[rule], &chars);
                }
            }
        }
    }

    /// What follows each rule within an expression that `after` follows.
    fn followed(&self, expr: &Expr, after: &Chars, found: &mut Vec<(usize, Chars)>) {
        self.look(after);
        match expr {
            _ if self.is_too_much() => {}
            Expr::Rule(number) if !self.is_regular[*number] => found.push((*number, after.clone())),
            Expr::Rule(_) | Expr::Text(_) | Expr::Class(_) | Expr::Token(_) => {}
            Expr::Seq(parts) => {
                let mut after = after.clone();
                for part in parts.iter().rev() {
                    self.followed(part, &after, found);
                    after = self.after(std::slice::from_ref(part), &after);
                }
            }
            Expr::Any(options) => {
                options.iter().for_each(|option| self.followed(option, after, found));
            }
            Expr::Repeat(inner, _, most) => {
                self.followed(inner, &self.between(inner, *most, after), found);
            }
        }
    }

    /// What follows each of a repetition that `after` follows.
    fn between(&self, inner: &Expr, most: Option<u32>, after: &Chars) -> Chars {
        let mut after = after.clone();
        if most != Some(1) {
            self.work.join(&mut after, &self.start(inner).0);
        }
        after
    }

    fn regular(&self, expr: &Expr) -> bool {
        !expr.has(&mut |part| {
            self.work.count(1);
            match part {
                Expr::Token(_) => true,
                Expr::Rule(number) => !self.is_regular[*number],
                _ => false,
            }
        })
    }

    /// The characters of texts of an expression.
    fn alphabet(&self, expr: &Expr) -> Chars {
        let found = self.alphabet_of_part(expr);
        self.look(&found);
        found
    }

    fn alphabet_of_part(&self, expr: &Expr) -> Chars {
        if self.is_too_much() {
            return Chars::default();
        }
        match expr {
            Expr::Text(text) => {
                self.work.count(text.len());
                Chars::new(text.chars().map(|char| (char.into(), char.into())).collect())
            }
            Expr::Rule(number) => self.alphabets[*number].clone(),
            Expr::Class(chars) => chars.clone(),
            Expr::Token(_) => Chars::default(),
            Expr::Seq(parts) | Expr::Any(parts) => {
                parts.iter().map(|part| self.alphabet(part)).collect()
            }
            Expr::Repeat(inner, ..) => self.alphabet(inner),
        }
    }

    /// The characters that texts of a regular expression can go on with and still be of it, and maybe more.
    fn beyond(&mut self, expr: &Expr) -> Chars {
        if let Expr::Rule(number) = expr {
            if self.beyond[*number].is_none() {
                let body = self.grammar.rules[*number].body.clone();
                self.beyond[*number] = Some(self.beyond(&body));
            }
            return self.beyond[*number].clone().unwrap_or_default();
        }
        // Where a text can be taken apart in two ways, any character is thought to go on with it.
        self.beyond_plain(expr).unwrap_or_else(|| self.alphabet(expr))
    }

    /// As [`Self::beyond`], of an expression whose texts have one way each.
    fn beyond_plain(&mut self, expr: &Expr) -> Option<Chars> {
        let mut all = Chars::default();
        match expr {
            Expr::Text(_) | Expr::Class(_) | Expr::Token(_) | Expr::Rule(_) => {}
            Expr::Seq(parts) => {
                for part in parts {
                    let (start, can_be_empty) = self.start(part);
                    if self.work.meet(&all, &start) {
                        return None;
                    }
                    if !can_be_empty {
                        all = Chars::default();
                    }
                    let beyond = self.beyond(part);
                    self.work.join(&mut all, &beyond);
                }
            }
            Expr::Any(options) => {
                let (starts, can_be_empty) = self.starts_of(options);
                let starts = Chars::apart(&starts)?;
                all = options.iter().map(|option| self.beyond(option)).collect();
                if can_be_empty {
                    self.work.join(&mut all, &starts);
                }
            }
            Expr::Repeat(inner, least, most) => {
                let (start, _) = self.start(inner);
                all = self.beyond(inner);
                if *most != Some(1) && self.work.meet(&all, &start) {
                    return None;
                }
                if *most != Some(*least) {
                    self.work.join(&mut all, &start);
                }
            }
        }
        Some(all)
    }

    /// Whether a regular expression can be one piece where `after` follows.
    fn is_piece(&mut self, expr: &Expr, after: &Chars) -> bool {
        if after.is_empty() {
            return true;
        }
        let beyond = self.beyond(expr);
        !self.work.meet(&beyond, after)
    }

    fn write(&mut self) {
        let root = self.grammar.root;
        let start = if self.is_regular[root] {
            self.piece(&Expr::Rule(root), root)
        } else {
            format!("r{root}")
        };
        self.line("start", &start, root);
        for number in 0..self.grammar.rules.len() {
            if !self.is_regular[number] {
                let body = self.grammar.rules[number].body.clone();
                let after = self.follow[number].clone();
                let text = self.rule(&body, &after, number);
                self.line(&format!("r{number}"), &text, number);
            }
        }
    }

    fn line(&mut self, name: &str, body: &str, rule: usize) {
        // Writing to a text does not fail.
        let _ = writeln!(self.lark.text, "{name}: {body}");
        self.lark.lines.push(self.grammar.rules[rule].line);
    }

    /// An expression of a rule that `after` follows; `from` is the rule that it comes from.
    fn rule(&mut self, expr: &Expr, after: &Chars, from: usize) -> String {
        self.pieces += 1;
        self.look(after);
        if self.is_too_much() {
            return String::new();
        }
        let is_regular = self.regular(expr);
        if is_regular && self.is_piece(expr, after) {
            return self.piece(expr, from);
        }
        match expr {
            Expr::Text(_) | Expr::Class(_) => self.piece(expr, from),
            Expr::Token(name) => name.clone(),
            Expr::Rule(number) if is_regular => {
                let body = self.grammar.rules[*number].body.clone();
                format!("({})", self.rule(&body, after, from))
            }
            Expr::Rule(number) => format!("r{number}"),
            Expr::Seq(parts) => self.sequence(parts, after, from),
            Expr::Any(options) => {
                let options: Vec<_> =
                    options.iter().map(|option| self.rule(option, after, from)).collect();
                format!("({})", options.join(" | "))
            }
            Expr::Repeat(inner, least, most) => {
                let after = self.between(inner, *most, after);
                format!("({}){}", self.rule(inner, &after, from), times(*least, *most))
            }
        }
    }

    /// A sequence, its longest regular parts as pieces.
    fn sequence(&mut self, parts: &[Expr], after: &Chars, from: usize) -> String {
        let (mut written, mut after, mut end) = (Vec::new(), after.clone(), parts.len());
        while let Some(last) = end.checked_sub(1) {
            let least = end.saturating_sub(MOST_PARTS);
            let regular = parts[least..end].iter().rev().take_while(|part| self.regular(part));
            let begin = (end - regular.count()).min(last);
            let run = Expr::seq(parts[begin..end].to_vec());
            let begin = match begin < last && self.is_piece(&run, &after) {
                true => begin,
                false => last,
            };
            written.push(match begin < last {
                true => self.piece(&run, from),
                false => self.rule(&parts[last], &after, from),
            });
            after = self.after(&parts[begin..end], &after);
            end = begin;
        }
        written.reverse();
        if written.is_empty() { "\"\"".into() } else { written.join(" ") }
    }

    /// A regular expression as one piece: the name of its line, if it is long.
    fn piece(&mut self, expr: &Expr, from: usize) -> String {
        let text = self.plain(expr);
        self.work.count(text.len());
        if matches!(expr, Expr::Text(_) | Expr::Class(_) | Expr::Rule(_)) {
            return text;
        }
        let name = format!("P{}", self.lark.lines.len());
        self.line(&name, &text, from);
        name
    }

    /// A regular expression.
    fn plain(&mut self, expr: &Expr) -> String {
        match expr {
            Expr::Text(text) => Value::from(&**text).to_string().replace('\x7f', "\\u007f"),
            Expr::Class(chars) => format!("/{chars}/"),
            Expr::Token(name) => name.clone(),
            Expr::Rule(number) => {
                if !std::mem::replace(&mut self.written[*number], true) {
                    let body = self.grammar.rules[*number].body.clone();
                    let text = self.plain(&body);
                    self.line(&format!("R{number}"), &text, *number);
                }
                format!("R{number}")
            }
            Expr::Seq(parts) if parts.is_empty() => "\"\"".into(),
            Expr::Seq(parts) => {
                parts.iter().map(|part| self.plain(part)).collect::<Vec<_>>().join(" ")
            }
            Expr::Any(options) => {
                let options: Vec<_> = options.iter().map(|option| self.plain(option)).collect();
                format!("({})", options.join(" | "))
            }
            Expr::Repeat(inner, least, most) => {
                format!("({}){}", self.plain(inner), times(*least, *most))
            }
        }
    }
}

fn times(least: u32, most: Option<u32>) -> String {
    match (least, most) {
        (0, None) => "*".into(),
        (1, None) => "+".into(),
        (0, Some(1)) => "?".into(),
        (least, None) => format!("{{{least},}}"),
        (least, Some(most)) => format!("{{{least},{most}}}"),
    }
}
