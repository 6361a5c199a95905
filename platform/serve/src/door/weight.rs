//! What a body takes once it is parsed: from two bytes can come a value of eighty.

/// Bytes of a value in a list, with the room that a list grows into.
pub const VALUE: usize = 192;
/// Bytes of an object, or of a list, which has room for four from its first member on.
const GROUP: usize = 640;

/// Bytes that the values of a JSON text take at most, beside those of its texts. What is no JSON weighs
/// something too.
pub fn weigh(text: &[u8]) -> usize {
    let (mut weight, mut is_text, mut is_escaped) = (VALUE, false, false);
    for byte in text {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b'{' | b'[' if !is_text => weight += GROUP,
            // A member of an object has a name beside its value.
            b',' | b':' if !is_text => weight += VALUE,
            _ => {}
        }
    }
    weight
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::*;

    #[test]
    fn what_stands_in_a_text_weighs_nothing() {
        assert_eq!(weigh(br#""a, [b]: \"{c}\\""#), VALUE);
        assert_eq!(weigh(br#"{"a": [1, 2]}"#), 3 * VALUE + 2 * GROUP);
    }

    /// Bytes that a value has room for on the heap, and its own; without those of its texts.
    fn size(value: &Value) -> usize {
        let heap = match value {
            Value::Array(list) => {
                list.capacity() * size_of::<Value>()
                    + list.iter().map(|v| size(v) - size_of::<Value>()).sum::<usize>()
            }
            Value::Object(map) => object(map),
            _ => 0,
        };
        size_of::<Value>() + heap
    }

    /// A member has a hash, a name and a value; a place in the index takes a number and a byte, and a
    /// sixteen of them more stand at its end. A list of members grows to twice as many.
    fn object(map: &Map<String, Value>) -> usize {
        if map.is_empty() {
            return 0;
        }
        let member = size_of::<(u64, String, Value)>();
        let places = map.len().max(2) * 2;
        let names = map.len() * 32;
        let inner: usize = map.values().map(|value| size(value) - size_of::<Value>()).sum();
        (map.len().max(2) * 2) * member + places * 9 * 8 / 7 + 16 + names + inner
    }

    #[test]
    fn nothing_weighs_less_than_it_takes() {
        let long = |one: &str| format!("[{}]", vec![one; 1000].join(","));
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        let wide: Vec<_> = (0..1000).map(|n| format!("\"{n}\":0")).collect();
        let texts = [
            long("0"),
            long("[]"),
            long("{}"),
            long("[0]"),
            long(r#"{"":0}"#),
            long(r#"{"a":[{}]}"#),
            deep,
            format!("{{{}}}", wide.join(",")),
        ];
        for text in texts {
            let value = serde_json::from_str(&text).unwrap();
            assert!(
                size(&value) <= weigh(text.as_bytes()),
                "{} of {}: {}",
                size(&value),
                weigh(text.as_bytes()),
                &text[..20]
            );
        }
    }
}
