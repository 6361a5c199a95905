//! Deciding whether two split patterns cut every text alike.
//!
//! A pattern is compiled to an automaton whose choices are ordered, as Thompson's construction with
//! the priorities of a backtracking engine (<https://swtch.com/~rsc/regexp/regexp2.html>): the
//! first alternative that matches wins. Its states, run on all texts at once and side by side with
//! another's, are finite, so that the answer is a proof or a shortest counterexample. No pattern is
//! ever matched against a text: one that would take a backtracking engine for ever does no harm.

use std::collections::{HashMap, VecDeque};

use super::pattern::{END, Node, Set, char_of};

/// Most steps of a compiled pattern.
const STEPS_MOST: usize = 1000;
/// Most pairs of states that are looked at.
const PAIRS_MOST: usize = 1000;

/// How two patterns compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// They cut every text alike.
    Equal,
    /// They cut off different pieces from the start of this text.
    Differ(String),
    /// There are too many cases to decide.
    TooLarge,
}

/// Compares two patterns. Two that match nothing at some place are equal there.
pub fn compare(a: &Node, b: &Node) -> Comparison {
    let (Some(a), Some(b)) = (Program::new(a), Program::new(b)) else {
        return Comparison::TooLarge;
    };
    search(&a, &b)
}

fn search(a: &Program, b: &Program) -> Comparison {
    // Short and readable examples first.
    let symbols = || [END].into_iter().chain(0x20..0x7f).chain(0..0x20).chain(0x7f..END);
    let start = Pair { a: a.start(), b: b.start(), differ: false };
    // Each pair with the one before it and the symbol between.
    let mut seen = HashMap::from([(start.clone(), None)]);
    let mut waiting = VecDeque::from([start]);
    while let Some(pair) = waiting.pop_front() {
        for symbol in symbols() {
            let ((a_ends, a), (b_ends, b)) = (a.step(&pair.a, symbol), b.step(&pair.b, symbol));
            // The last end counts, so that a later one on both sides repairs a difference.
            let differ = if a_ends && b_ends { false } else { pair.differ || a_ends != b_ends };
            if a.is_empty() && b.is_empty() {
                if differ {
                    return Comparison::Differ(example(&seen, &pair, symbol));
                }
                continue;
            }
            let next = Pair { a, b, differ };
            if !seen.contains_key(&next) {
                if seen.len() == PAIRS_MOST {
                    return Comparison::TooLarge;
                }
                seen.insert(next.clone(), Some((pair.clone(), symbol)));
                waiting.push_back(next);
            }
        }
    }
    Comparison::Equal
}

/// The text that leads to a pair, and one symbol more.
fn example(seen: &HashMap<Pair, Option<(Pair, usize)>>, pair: &Pair, last: usize) -> String {
    let mut symbols = vec![last];
    let mut pair = pair;
    while let Some(Some((before, symbol))) = seen.get(pair) {
        symbols.push(*symbol);
        pair = before;
    }
    symbols.into_iter().rev().filter_map(char_of).collect()
}

/// How far both patterns are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Pair {
    a: Vec<usize>,
    b: Vec<usize>,
    /// Whether the pieces would differ if nothing followed.
    differ: bool,
}

/// A step of a compiled pattern; where there is no target, the next step follows.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A character of these.
    One(Set),
    /// No character, but one of these must follow.
    Ahead(Set),
    /// Both, the first before the second.
    Fork(usize, usize),
    Jump(usize),
    /// The end of a piece.
    End,
}

struct Program(Vec<Step>);

impl Program {
    /// None when it is too large.
    fn new(node: &Node) -> Option<Self> {
        let mut program = Self(vec![]);
        program.add(node)?;
        program.push(Step::End)?;
        Some(program)
    }

    fn push(&mut self, step: Step) -> Option<usize> {
        self.0.push(step);
        (self.0.len() <= STEPS_MOST).then(|| self.0.len() - 1)
    }

    fn add(&mut self, node: &Node) -> Option<()> {
        match node {
            Node::One(set) => self.push(Step::One(*set)).map(drop),
            Node::Ahead(set) => self.push(Step::Ahead(*set)).map(drop),
            Node::All(all) => all.iter().try_for_each(|node| self.add(node)),
            Node::Any(any) => {
                let mut ends = vec![];
                for (left, node) in (0..any.len()).rev().zip(any) {
                    let fork = if left > 0 { Some(self.push(Step::End)?) } else { None };
                    self.add(node)?;
                    if let Some(fork) = fork {
                        ends.push(self.push(Step::End)?);
                        self.0[fork] = Step::Fork(fork + 1, self.0.len());
                    }
                }
                let after = self.0.len();
                ends.into_iter().for_each(|end| self.0[end] = Step::Jump(after));
                Some(())
            }
            Node::Repeat(node, least, most) => {
                (0..*least).try_for_each(|_| self.add(node))?;
                match most {
                    None => {
                        let fork = self.push(Step::End)?;
                        self.add(node)?;
                        self.push(Step::Jump(fork))?;
                        self.0[fork] = Step::Fork(fork + 1, self.0.len());
                    }
                    Some(most) => {
                        let mut forks = vec![];
                        for _ in *least..*most {
                            forks.push(self.push(Step::End)?);
                            self.add(node)?;
                        }
                        let after = self.0.len();
                        forks.into_iter().for_each(|at| self.0[at] = Step::Fork(at + 1, after));
                    }
                }
                Some(())
            }
        }
    }

    /// Where a piece begins.
    fn start(&self) -> Vec<usize> {
        vec![0]
    }

    /// Whether a piece ends before `symbol`, and what goes on after it, the preferred first.
    fn step(&self, threads: &[usize], symbol: usize) -> (bool, Vec<usize>) {
        let mut after = vec![];
        let mut seen = vec![false; self.0.len()];
        let mut stack: Vec<usize> = threads.iter().rev().copied().collect();
        while let Some(at) = stack.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            match &self.0[at] {
                Step::One(set) if set.has(symbol) => after.push(at + 1),
                Step::Ahead(set) if set.has(symbol) => stack.push(at + 1),
                Step::One(_) | Step::Ahead(_) => {}
                Step::Fork(first, second) => stack.extend([*second, *first]),
                Step::Jump(target) => stack.push(*target),
                // What is less preferred does not count any more.
                Step::End => return (true, after),
            }
        }
        debug_assert!(symbol != END || after.is_empty());
        (false, after)
    }
}

#[cfg(test)]
mod tests {
    use super::super::pattern::parse;
    use super::*;

    fn cut(a: &str, b: &str) -> Comparison {
        compare(&parse(a).unwrap(), &parse(b).unwrap())
    }

    #[test]
    fn patterns_are_compared_by_what_they_cut() {
        let equal = [
            ("ab|a", "ab?"),
            ("a++", "a+"),
            (r"\s*[\r\n]+", r"\s*[\r\n]"),
            (r"a?+\p{N}", r"a\p{N}|\p{N}"),
            ("(?i:ll|k)", "[lL]{2}|(?i:[k])"),
        ];
        for (a, b) in equal {
            assert_eq!(cut(a, b), Comparison::Equal, "{a} {b}");
        }
        let differ = [
            ("a|ab", "ab|a", "ab"),
            ("a{1,3}", "a{1,2}", "aaa"),
            ("a{1,3}+", "a{1,3}", "aaaa"),
            ("a+(?!b)", "a++(?!b)", "aab"),
            ("a?+a", "a?a", "a"),
            (r"\s+$|\s", r"\s", "  "),
            ("(?i:s)", "[sS]", "\u{17f}"),
            ("(?i:[k])", "[kK]", "\u{212a}"),
            (r"\p{L}", "[a-zA-Z]", "\u{17f}"),
            ("a(?=b)|a$", "a", "a "),
        ];
        for (a, b, example) in differ {
            assert_eq!(cut(a, b), Comparison::Differ(example.into()), "{a} {b}");
        }
    }

    #[test]
    fn what_cannot_be_decided_is_said() {
        for (pattern, part) in [
            ("(a*)*", "`(a*)*`"),
            ("a+?", "`a+?`"),
            ("(ab)++", "`(ab)++`"),
            ("(?<=a)b", "`(?<=`"),
            (r"\p{Lu}", r"`\p{Lu}`"),
            (r"\bx", r"`\b`"),
            ("(?i:fi)", "in any case"),
            (r"(?i:\p{L})", "in any case"),
            ("(a", "unmatched `(`"),
            ("a)", "unmatched `)`"),
            ("[a", "end"),
            ("[a&&b]", "`&&`"),
            ("a{1,99}", "`a{1,99}`"),
            ("日", "'日'"),
        ] {
            let reason = parse(pattern).expect_err(pattern);
            assert!(reason.contains(part), "{pattern}: {reason}");
        }
        assert!(parse(&"(".repeat(900)).is_err());
        assert!(parse(&"a".repeat(100_000)).is_err());
        assert_eq!(cut("(?:(?:a{1,64}){1,64}){1,64}", "a"), Comparison::TooLarge);
    }
}
