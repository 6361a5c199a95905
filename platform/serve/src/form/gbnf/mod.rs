//! Grammars in GBNF, as llama.cpp reads them, written in llguidance's dialect of Lark.
//!
//! A rule is `name ::= sequence | sequence`, the answer's is `root`. There are texts (`"a\n"`), classes of
//! characters (`[^a-z]`, `.`), groups, `*`, `+`, `?`, `{m,n}`, tokens (`<name>`, `<[number]>`) and comments
//! (`# to the end of the line`). Within brackets, after `::=` and after `|` a sequence may go on in the
//! next line.

mod chars;
mod lark;
mod parse;
#[cfg(test)]
mod tests;
mod work;

pub use lark::lark;
pub use parse::parse;

use chars::Chars;

/// Whether a grammar is in GBNF and not in Lark, which has no `::=`: its first rule tells.
pub fn is_gbnf(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim_start);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with(['#', '/']));
    let rest = first.map(|line| line.trim_start_matches(parse::is_name));
    rest.is_some_and(|rest| rest.trim_start().starts_with("::="))
}

/// The rules of a grammar.
#[derive(Debug)]
pub struct Grammar {
    rules: Vec<Rule>,
    root: usize,
}

#[derive(Debug)]
struct Rule {
    /// The line that it begins in, from 1 on.
    line: usize,
    body: Expr,
}

/// What a text may be.
#[derive(Debug, Clone, PartialEq)]
enum Expr {
    /// This.
    Text(String),
    /// One character.
    Class(Chars),
    /// A control token: a name or a number in `<` and `>`.
    Token(String),
    /// What the rule of this number says.
    Rule(usize),
    /// One after the other.
    Seq(Vec<Expr>),
    /// One of them.
    Any(Vec<Expr>),
    /// So often at least, and at most.
    Repeat(Box<Expr>, u32, Option<u32>),
}

impl Expr {
    fn empty() -> Self {
        Self::Seq(Vec::new())
    }

    /// One after the other, without sequences in sequences.
    fn seq(parts: Vec<Self>) -> Self {
        let mut flat = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Self::Seq(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        if flat.len() == 1 { flat.remove(0) } else { Self::Seq(flat) }
    }

    fn any(mut options: Vec<Self>) -> Self {
        if options.len() == 1 { options.remove(0) } else { Self::Any(options) }
    }

    /// What it is made of.
    fn parts(&self) -> &[Self] {
        match self {
            Self::Text(_) | Self::Class(_) | Self::Token(_) | Self::Rule(_) => &[],
            Self::Seq(parts) | Self::Any(parts) => parts,
            Self::Repeat(part, ..) => std::slice::from_ref(part),
        }
    }

    /// Whether `is` holds for it or for any part of it.
    fn has(&self, is: &mut impl FnMut(&Self) -> bool) -> bool {
        is(self) || self.parts().iter().any(|part| part.has(is))
    }
}
