use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Call, Calls};

/// The calls of a text that comes in these pieces.
fn calls<'t>(pieces: impl IntoIterator<Item = &'t str>) -> Vec<Call> {
    let (mut parser, mut calls) = (Calls::default(), Vec::new());
    for piece in pieces {
        parser.push(piece, &mut |piece| Call::collect(&mut calls, piece));
    }
    calls
}

/// Names and arguments of a text all of whose calls are whole.
#[track_caller]
fn whole(text: &str) -> Vec<(String, Value)> {
    let all = calls([text]);
    let one = |call: &Call| {
        assert!(call.whole, "{text}: {call:?}");
        let arguments = serde_json::from_str(&call.arguments);
        (call.name.clone(), arguments.unwrap_or_else(|error| panic!("{error}: {call:?}")))
    };
    all.iter().map(one).collect()
}

#[track_caller]
fn arguments(text: &str) -> Value {
    let mut calls = whole(text);
    assert_eq!(calls.len(), 1, "{text}: {calls:?}");
    calls.remove(0).1
}

#[test]
fn calls_are_told_apart() {
    let two = "[lights.turn_on(room='hall', level=3), stop()]";
    let expected = [
        ("lights.turn_on".into(), json!({"room": "hall", "level": 3})),
        ("stop".into(), json!({})),
    ];
    assert_eq!(whole(two), expected);
    assert_eq!(whole("[]"), []);
    assert_eq!(whole("f(a=1)\n[g(b=2,)]").len(), 2);
    let objects = r#"[{"name": "f", "arguments": {"a": [1, {"b": null}]}}, {"name": "g"},
                     {"type": "function", "name": "h", "parameters": {}}]"#;
    let expected = [("f", json!({"a": [1, {"b": null}]})), ("g", json!({})), ("h", json!({}))];
    assert_eq!(whole(objects), expected.map(|(name, value)| (name.to_owned(), value)));
}

#[test]
fn values_have_pythons_spelling_or_jsons() {
    let cases = [
        ("True, b=False, c=None", json!([true, false, null])),
        ("true, b=false, c=null", json!([true, false, null])),
        ("-3, b=2.5e3, c=+7", json!([-3, 2.5e3, 7])),
        (".5, b=1_000, c=0x1F", json!([0.5, 1000, 31])),
        (
            "[1, [2, []]], b=(1, 'x'), c={'k': {'l': [True]}}",
            json!([[1, [2, []]], [1, "x"], {"k": {"l": [true]}}]),
        ),
        ("[1, 2,], b={1: 2, 'x': 3,}, c={}", json!([[1, 2], {"1": 2, "x": 3}, {}])),
        (r#"'it\'s', b="it's", c='say "x"'"#, json!(["it's", "it's", "say \"x\""])),
        (
            r#"'a\nb', b='\u00e9\x41\U0001F98A', c="\ud83e\udd8a\ud83e""#,
            json!(["a\nb", "éA🦊", "🦊\u{fffd}"]),
        ),
        (r#"'\d+\/', b='(a, b)]', c='x=1, y'"#, json!(["\\d+/", "(a, b)]", "x=1, y"])),
        (
            "'it's here', b='the 'best' one', c=celsius",
            json!(["it's here", "the 'best' one", "celsius"]),
        ),
        ("nan, b=+1e999, c='日本'", json!([null, "+1e999", "日本"])),
    ];
    for (text, expected) in cases {
        let found = arguments(&format!("[f(a={text})]"));
        let found: Vec<_> = ["a", "b", "c"].map(|name| found[name].clone()).into();
        assert_eq!(Value::from(found), expected, "{text}");
    }
}

#[test]
fn what_is_no_call_is_none_and_what_is_cut_is_not_whole() {
    for text in ["Hello!", "[1, 2]", "f(1)", "f(a b)", "[{'x': 1}]", "{\"name\": 3}", "f(a=g(1))"] {
        assert!(calls([text]).iter().all(|call| !call.whole), "{text}");
    }
    let cut = calls(["[f(a='x'), g(b=[1, 'tw"]);
    assert!(cut[0].whole && !cut[1].whole);
    assert_eq!(cut[1].arguments, "{\"b\": [1, \"tw");
    for (text, is_whole) in
        [("[f(a=1), g()]", true), ("[f(a=1), g(", false), ("[f(a=g(1))]", false)]
    {
        let mut parser = Calls::default();
        parser.push(text, &mut |_| {});
        assert_eq!(parser.finish(), is_whole, "{text}");
    }
    let deep = format!("[f(a={})]", "[".repeat(100_000));
    assert!(!calls([&*deep])[0].whole);
    let long = format!("[{}(a=1)]", "f".repeat(100_000));
    assert_eq!(calls([&*long]), []);
}

#[test]
fn what_a_schema_allows_is_read_however_long_and_deep() {
    let digits = "7".repeat(3000);
    for number in [
        "1e999".into(),
        digits[..400].into(),
        digits.clone(),
        format!("-{digits}"),
        format!("0.{digits}"),
        format!("{digits}.5e+{digits}"),
        format!("1e-{digits}"),
    ] {
        let all = calls([&*format!("[f(a={number}, b=[{number}], c=2), g()]")]);
        assert_eq!(all[0].arguments, format!("{{\"a\": {number}, \"b\": [{number}], \"c\": 2}}"));
        assert!(all.len() == 2 && all.iter().all(|call| call.whole), "{number}");
    }
    for none in [
        format!("0{digits}"),
        format!("{digits}."),
        format!("{digits}e"),
        format!("{digits}.1.1"),
        format!("{digits}_000"),
        format!("+{digits}"),
        format!("-{}", "-".repeat(600)),
        "x".repeat(600),
    ] {
        assert!(calls([&*format!("[f(a={none})]")]).iter().all(|call| !call.whole), "{none}");
    }
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let all = calls([&*format!("[f(a={}), g()]", deep(2000))]);
    assert_eq!(all[0].arguments, format!("{{\"a\": {}}}", deep(2000)));
    assert!(all.len() == 2 && all.iter().all(|call| call.whole));
}

/// A value of a call.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
        "\\PC{0,12}".prop_map(Value::from),
        "['\"\\\\ ,:)\\]}\n]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map("\\PC{0,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The ends of the pieces of a text that is cut near these places.
fn cut<'t>(text: &'t str, cuts: &[usize]) -> Vec<&'t str> {
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
    ends.retain(|&end| text.is_char_boundary(end));
    ends.extend([0, text.len()]);
    ends.sort_unstable();
    ends.windows(2).map(|ends| &text[ends[0]..ends[1]]).collect()
}

proptest! {
    /// What a template writes of a call is that call again, however it comes.
    #[test]
    fn what_is_written_is_read(
        names in proptest::collection::vec("[a-z_.]{1,6}", 1..3),
        map in proptest::collection::hash_map("[a-zA-Z_]{1,6}|\\PC{0,6}", value(), 0..4),
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        let arguments = Value::Object(map.into_iter().collect());
        let written: Vec<_> = names
            .iter()
            .map(|name| json!({"function": {"name": name, "arguments": arguments}}))
            .collect();
        let text = rill_template::write_calls(&written);
        let expected: Vec<_> = names.into_iter().map(|name| (name, arguments.clone())).collect();
        prop_assert_eq!(whole(&text), expected);
        prop_assert_eq!(calls(cut(&text, &cuts)), calls([&*text]));
    }

    /// Nothing panics, every piece is JSON so far as it goes, and no more comes out than goes in.
    #[test]
    fn anything_can_come(
        text in "(\\[|f\\(|a=|'|\"|\\\\|\\\\u|d83e|\\{|\\}|\\(|\\)|\\]|,|:| |name|arguments|1|-|True|é|\\PC){0,60}",
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        let found = calls([&*text]);
        prop_assert_eq!(&calls(cut(&text, &cuts)), &found);
        for call in found {
            prop_assert!(call.arguments.len() <= 8 * text.len() + 2);
            if call.whole {
                let value: Result<Value, _> = serde_json::from_str(&call.arguments);
                prop_assert!(value.is_ok_and(|value| value.is_object()), "{:?}", call);
            }
        }
    }
}
