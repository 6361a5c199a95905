use std::collections::BTreeSet;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv};
use llguidance::{Matcher, ParserFactory};
use proptest::prelude::*;

use super::*;

/// Every byte is a token.
fn factory() -> ParserFactory {
    let environment: TokEnv = Arc::new(ApproximateTokEnv::single_byte());
    let mut factory = ParserFactory::new_simple(&environment).expect("it can be made");
    factory.quiet();
    factory
}

fn matcher(factory: &ParserFactory, gbnf: &str) -> Matcher {
    let written = lark(parse(gbnf).expect(gbnf)).expect("it is short");
    let matcher =
        Matcher::new(factory.create_parser(TopLevelGrammar::from_lark(written.text.clone())));
    assert_eq!(matcher.get_error(), None, "{gbnf}\n{}", written.text);
    matcher
}

/// Whether a text is of a grammar, and whether one that begins so can be.
fn is_of(matcher: &Matcher, text: &str) -> (bool, bool) {
    let mut matcher = matcher.deep_clone();
    let bytes: Vec<u32> = text.bytes().map(u32::from).collect();
    let begins = matcher.try_consume_tokens(&bytes).expect("no error") == bytes.len();
    (begins && matcher.is_accepting().expect("no error"), begins)
}

#[track_caller]
fn check(gbnf: &str, of_it: &[&str], not: &[&str]) {
    let matcher = matcher(&factory(), gbnf);
    for text in of_it {
        assert_eq!(is_of(&matcher, text), (true, true), "{text:?}");
    }
    for text in not {
        assert!(!is_of(&matcher, text).0, "{text:?}");
    }
}

/// White space that leads back to itself, as older grammars have it, and counted.
#[test]
fn json() {
    for ws in ["([ \\t\\n] ws)?", "| \" \" | \"\\n\" [ \\t]{0,20}", "[ \\t\\n]*"] {
        let gbnf = format!(
            r#"root ::= object
value ::= object | list | text | number | ("true" | "false" | "null") ws
object ::=
  "{{" ws (
    text ":" ws value
    ("," ws text ":" ws value)*
  )? "}}" ws
list ::= "[" ws ( value ("," ws value)* )? "]" ws
text ::= "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{{4}}) # escapes
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{{0,15}})) ("." [0-9]+)? ([eE] [-+]? [1-9] [0-9]{{0,15}})? ws
ws ::= {ws}
"#
        );
        check(
            &gbnf,
            &[
                "{}",
                "{\"a\": [1, -2.5e+3, \"x\\n\\u00e9 é\"], \"b\": {\"c\":null}}",
                "{ \"a\" :true}\n  ",
            ],
            &["", "[]", "{\"a\":}", "{\"a\": \"\n\"}", "{\"a\": 1,}", "{\"a\": .5}"],
        );
    }
}

/// The end of a line is white space of the number before it, or what must come after that.
#[test]
fn arithmetic() {
    check(
        "root  ::= (expr \"=\" ws term \"\\n\")+\n\
         expr  ::= term ([-+*/] term)*\n\
         term  ::= name | num | \"(\" ws expr \")\" ws\n\
         name  ::= [a-z] [a-z0-9_]* ws\n\
         num   ::= [0-9]+ ws\n\
         ws    ::= [ \\t\\n]*\n",
        &["1+2=3\n", "a_1 *(b -2) = c\n\n\nx=1\n", "(1) = 2 \n \n"],
        &["1+2=3", "1+=3\n", "(1=2\n"],
    );
}

#[test]
fn lists_and_moves() {
    check(
        "root ::= item+\n# each in a line of its own\nitem ::= \"- \" [^\\r\\n\\x0b\\x0c\\x85\\u2028\\u2029]+ \"\\n\"",
        &["- a\n", "- é ö\n- - b\n"],
        &["", "- a", "-a\n", "- \n", "- a\nb\n"],
    );
    check(
        "root ::= (\n  \"1. \" move \" \" move \"\\n\"\n  ([1-9] [0-9]? \". \" move \" \" move \"\\n\")+\n)\n\
         move ::= (pawn | piece | castle) [+#]?\n\
         piece ::= [NBKQR] [a-h]? [1-8]? \"x\"? [a-h] [1-8]\n\
         pawn ::= ([a-h] \"x\")? [a-h] [1-8] (\"=\" [NBKQR])?\n\
         castle ::= \"O-O\" \"-O\"?\n",
        &["1. e4 e5\n2. Nf3 Nc6\n3. O-O exd8=Q#\n"],
        &["1. e4 e5\n", "1. e9 e5\n2. a3 a4\n", "1. O-O-O-O e5\n2. a3 a4\n"],
    );
}

#[test]
fn what_leads_back_to_itself() {
    // At its end alone, also by a way round, it is a repetition.
    check("root ::= \"a\" root | \"b\"", &["b", "aaab"], &["", "a", "bb"]);
    check(
        "root ::= \"a\" (\"b\" root | \"c\" root)? | \"d\"",
        &["a", "aba", "abacd"],
        &["ab", "da"],
    );
    check("root ::= \"a\" two | \"x\"\ntwo ::= \"b\" root", &["x", "abx", "ababx"], &["ab", "ax"]);
    check("root ::= \"(\" root \")\" | [0-9]*", &["", "12", "((3))"], &["((3)", "(3))"]);
    // The longest piece would take what must come after it.
    check(
        "root ::= root2 \"a\"\nroot2 ::= [a-z]* | \"(\" root2 \")\"",
        &["a", "abca", "(za)a"],
        &["b"],
    );
    check(
        "root ::= (\"x\" | \"xy\") \"yz\" | \"(\" root \")\"",
        &["xyz", "xyyz", "(xyz)", "((xyyz))"],
        &["xz", "(xyz"],
    );
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    for (gbnf, said) in [
        ("root ::= \"a\n\"", "line 1: `\"` is expected before its end"),
        ("root ::= a\n\na ::= b | c\nc ::= \"x\"", "line 3: there is no rule `b`"),
        ("# only\na ::= \"x\"", "there is no rule `root`"),
        ("root ::= \"x\"\nroot ::= \"y\"", "line 2: there are two rules `root`"),
        ("root ::= (\"x\"\n| \"y\"", "line 2: it ends where `)` is expected"),
        (
            "root ::= \"x\"\nroot2 = \"y\"",
            "line 2: `::=` after the name of a rule is expected, not `=`",
        ),
        ("root ::= \"x\")", "line 1: the end of the line is expected, not `)`"),
        ("root ::= * \"x\"", "line 1: there is nothing before `*`"),
        ("root ::= \"x\"{3,2}", "line 1: at least 3 times and fewer at most"),
        ("root ::= \"x\"{99999}", "line 1: more than 10000 repetitions are not counted"),
        ("root ::=\n [z-a]", "line 2: the range `z-a` is empty"),
        ("root ::= []", "line 1: no character is in this class"),
        ("root ::= \"\\q\"", "line 1: `\\q` is no escape"),
        ("root ::= \"\\uD800\"", "line 1: 0xd800 is no character"),
        ("root ::= !<x>", "line 1: `!` is not supported: say which tokens may come"),
    ] {
        assert_eq!(parse(gbnf).map(|_| ()), Err(said.to_owned()), "{gbnf}");
    }
}

/// Each round of looking for what begins a rule finds it for one more of them.
#[test]
fn what_takes_too_much_work_is_refused() {
    let chain = |rules: usize, last: &str| {
        let rule = |n: usize| format!("r{n} ::= \"a\" r{n} \"b\" | r{} | \"c\"\n", n + 1);
        let all: String = (0..rules).map(rule).collect();
        let grammar = format!("root ::= r0\n{all}r{rules} ::= {last}\n");
        lark(parse(&grammar).expect("it is right"))
    };
    let class = "[acegikmoqsuwyACEGIKMOQSUWY02468]";
    assert!(chain(10, class).is_some() && chain(900, class).is_none());
    // Each character of a text is looked at, however few others there are.
    let text = format!("\"{}\"", "xy".repeat(8000));
    assert!(chain(10, &text).is_some());
    assert!(chain(200, "\"xy\"").is_some());
    assert!(chain(200, &text).is_none());
    // Options are put together at once, however many they are.
    let options: Vec<_> =
        ('\u{4000}'..).step_by(2).take(4000).map(|char| format!("\"{char}\"")).collect();
    assert!(chain(10, &options.join("|")).is_some());
    assert!(chain(100, &options.join("|")).is_none());
}

/// A longest piece may take what another way would need, where two ways begin alike: llguidance's lexer goes
/// one way.
#[test]
fn some_texts_of_a_grammar_are_not_taken() {
    let gbnf = "root ::= \"abc\" root \")\" | [a] root \"d\" | \"bx\"";
    check(gbnf, &["bx", "abcbx)"], &["abxd"]);
}

#[test]
fn the_first_rule_tells_the_language() {
    assert!(is_gbnf("# a comment: b\n\n  root ::= a"));
    assert!(is_gbnf("root::="));
    for lark in ["start: \"a ::= b\"", "// x ::= y\nstart: A", "", "%ignore /x/\na ::= b"] {
        assert!(!is_gbnf(lark), "{lark}");
    }
}

/// Where the texts of an expression can end that begin at `at`.
fn ends(grammar: &Grammar, expr: &Expr, text: &[char], at: usize) -> BTreeSet<usize> {
    match expr {
        Expr::Text(wanted) => {
            let wanted: Vec<char> = wanted.chars().collect();
            text[at..].starts_with(&wanted).then_some(at + wanted.len()).into_iter().collect()
        }
        Expr::Class(chars) => {
            let next = text.get(at).filter(|&&char| chars.meets(&Chars::one(char)));
            next.map(|_| at + 1).into_iter().collect()
        }
        Expr::Token(_) => BTreeSet::new(),
        Expr::Rule(number) => ends(grammar, &grammar.rules[*number].body, text, at),
        Expr::Seq(parts) => parts.iter().fold(BTreeSet::from([at]), |from, part| {
            from.into_iter().flat_map(|at| ends(grammar, part, text, at)).collect()
        }),
        Expr::Any(options) => {
            options.iter().flat_map(|option| ends(grammar, option, text, at)).collect()
        }
        Expr::Repeat(inner, least, most) => {
            let (mut all, mut from) = (BTreeSet::new(), BTreeSet::from([at]));
            for count in 0..=most.unwrap_or(u32::MAX) {
                if count >= *least {
                    let known = all.len();
                    all.extend(&from);
                    if known == all.len() {
                        break;
                    }
                }
                from = from.into_iter().flat_map(|at| ends(grammar, inner, text, at)).collect();
            }
            all
        }
    }
}

/// A sequence of some of three characters and three rules, each of which leads to itself only after a
/// character.
fn sequence() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "\"[abc]{1,2}\"",
        "\\[[abc]{1,2}\\]",
        Just("\"a\" root".to_owned()),
        Just("\"(\" one \")\"".to_owned()),
        Just("[bc] two".to_owned()),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        let many = || prop::collection::vec(inner.clone(), 1..3);
        prop_oneof![
            many().prop_map(|parts| parts.join(" ")),
            many().prop_map(|parts| format!("({})", parts.join(" | "))),
            (inner.clone(), prop::sample::select(&["*", "+", "?", "{1,2}"][..]))
                .prop_map(|(inner, times)| format!("({inner}){times}")),
        ]
    })
}

proptest! {
    /// No text is taken that is not of the grammar.
    #[test]
    fn what_is_taken_is_of_the_grammar(
        rules in [sequence(), sequence(), sequence()],
        texts in prop::collection::vec("[abc()]{0,6}", 20),
    ) {
        let [root, one, two] = rules;
        let gbnf = format!("root ::= {root} | \"a\"\none ::= {one} | \"b\"\ntwo ::= {two} | \"c\"");
        let grammar = parse(&gbnf).expect("it is right");
        let matcher = matcher(&factory(), &gbnf);
        for text in texts {
            let chars: Vec<char> = text.chars().collect();
            let body = &grammar.rules[grammar.root].body;
            let is = ends(&grammar, body, &chars, 0).contains(&chars.len());
            prop_assert!(is || !is_of(&matcher, &text).0, "{text:?} of {gbnf}");
        }
    }
}
