//! Python's methods on texts, lists and dicts: those of [`pycompat`], the ones that it lacks, and
//! those where Python differs.

use std::iter;

use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use crate::paid::{PaidText, collect, pay};
use crate::values;

/// Calls `value.method(args)`.
pub fn call(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    // What it reads, and may copy.
    pay(state, value.as_str().map_or(0, str::len))?;
    let own = match value.kind() {
        ValueKind::String => value.as_str().map(|text| of_text(state, text, method, args)),
        ValueKind::Seq => Some(of_list(state, value, method, args)),
        ValueKind::Map if method == "copy" => Some(Ok(value.clone())),
        _ => None,
    };
    match own {
        Some(Err(error)) if error.kind() == ErrorKind::UnknownMethod => {}
        Some(outcome) => return outcome,
        None => {}
    }
    match method {
        // What these walk through or write may be a list that is only said to be long.
        "startswith" | "endswith" | "format" => {
            let args: Vec<Value> =
                args.iter().map(|arg| plain(state, arg)).collect::<Result<_, _>>()?;
            if method == "format" {
                pay_format(state, value.as_str().unwrap_or_default(), &args)?;
            }
            pycompat::unknown_method_callback(state, value, method, &args)
        }
        "count" => {
            let value = plain(state, value)?;
            pycompat::unknown_method_callback(state, &value, method, args)
        }
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// A value as a plain tree, paid for; arguments with names stay such.
fn plain(state: &State, value: &Value) -> Result<Value, Error> {
    if !value.is_kwargs() {
        return values::kept(state, value.clone(), true);
    }
    let named = Kwargs::try_from(value.clone())?;
    let pair = |name| Ok((name, values::kept(state, named.get(name)?, true)?));
    Ok(named.args().map(pair).collect::<Result<Kwargs, Error>>()?.into())
}

/// Pays for the most that `format` makes of plain values: its widths and precisions, and the longest
/// value in every place.
fn pay_format(state: &State, format: &str, args: &[Value]) -> Result<(), Error> {
    let numbers = format.split(|char: char| !char.is_ascii_digit()).filter(|part| !part.is_empty());
    let widths =
        numbers.fold(0, |sum: usize, part| sum.saturating_add(part.parse().unwrap_or(usize::MAX)));
    let written = |arg: &Value| arg.as_str().map_or_else(|| arg.to_string().len(), str::len);
    let longest = args.iter().map(written).max().unwrap_or(0).max(NUMBER_BYTES);
    pay(state, format.matches('{').count().saturating_mul(longest).saturating_add(widths))
}

/// Longest number that a format without a precision writes, and more.
const NUMBER_BYTES: usize = 400;

/// What Python takes for white space.
pub fn is_space(char: char) -> bool {
    char.is_whitespace() || ('\x1c'..='\x1f').contains(&char)
}

/// Python's `str.strip`, also as the filter `trim`.
pub fn strip(text: &str, chars: Option<&str>) -> String {
    let is_stripped = stripped(chars);
    text.trim_matches(is_stripped).to_owned()
}

/// What `strip` takes away: these characters, or white space.
fn stripped(chars: Option<&str>) -> impl Fn(char) -> bool + Copy + use<'_> {
    move |char| chars.map_or_else(|| is_space(char), |chars| chars.contains(char))
}

/// Python's `str.replace`, also as the filter; what it makes is paid for before it is made.
pub fn replace(
    state: &State,
    text: &str,
    old: &str,
    new: &str,
    most: Option<i64>,
) -> Result<String, Error> {
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let count = text.matches(old).take(most).count();
    pay(state, text.len().saturating_add(count.saturating_mul(new.len())))?;
    Ok(text.replacen(old, new, most))
}

fn of_text(state: &State, text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let no_sep = || Error::new(ErrorKind::InvalidOperation, "empty separator");
    Ok(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            let is_stripped = stripped(chars);
            Value::from(match method {
                "strip" => text.trim_matches(is_stripped),
                "lstrip" => text.trim_start_matches(is_stripped),
                _ => text.trim_end_matches(is_stripped),
            })
        }
        "split" | "rsplit" => {
            let (separator, most): (Option<&str>, Option<i64>) = split_args(args)?;
            let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
            let parts = match (separator, method) {
                (Some(""), _) => return Err(no_sep()),
                (Some(separator), "split") => {
                    collect(state, text.splitn(most.saturating_add(1), separator))?
                }
                (Some(separator), _) => {
                    let mut parts =
                        collect(state, text.rsplitn(most.saturating_add(1), separator))?;
                    parts.reverse();
                    parts
                }
                (None, "split") => collect(state, split_space(text, most))?,
                (None, _) => {
                    let mut parts = collect(state, rsplit_space(text, most))?;
                    parts.reverse();
                    parts
                }
            };
            list_of(parts)
        }
        "replace" => {
            let (old, new, most): (&str, &str, Option<i64>) = from_args(args)?;
            Value::from(replace(state, text, old, new, most)?)
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            Value::from(join(state, text, items)?)
        }
        "splitlines" => {
            let (keep,): (Option<bool>,) = from_args(args)?;
            list_of(collect(state, lines(text, keep.unwrap_or(false)))?)
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(no_sep());
            }
            let first = method == "partition";
            let found = if first { text.find(separator) } else { text.rfind(separator) };
            let parts = match found {
                Some(at) => [&text[..at], separator, &text[at + separator.len()..]],
                None if first => [text, "", ""],
                None => ["", "", text],
            };
            Value::from(Tuple::new(parts.map(Value::from).to_vec()))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "index" | "rindex" => {
            let (part,): (&str,) = from_args(args)?;
            let found = if method == "index" { text.find(part) } else { text.rfind(part) };
            let at = found
                .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
            Value::from(text[..at].chars().count())
        }
        "ljust" | "rjust" | "center" | "zfill" => {
            let (width, fill): (i64, Option<&str>) = from_args(args)?;
            pay(state, width.clamp(0, PADDED) as usize)?;
            Value::from(padded(text, method, width, fill)?)
        }
        "casefold" => Value::from(text.to_lowercase()),
        "swapcase" => {
            let swap = |c: char| -> String {
                if c.is_uppercase() {
                    c.to_lowercase().collect()
                } else {
                    c.to_uppercase().collect()
                }
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "title" => Value::from(title(text)),
        "isspace" => Value::from(!text.is_empty() && text.chars().all(is_space)),
        "isdecimal" => Value::from(!text.is_empty() && text.chars().all(|c| c.is_ascii_digit())),
        _ => return Err(ErrorKind::UnknownMethod.into()),
    })
}

fn list_of(parts: Vec<&str>) -> Value {
    Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>())
}

/// `sep` and `maxsplit`, the latter by place or name.
fn split_args(args: &[Value]) -> Result<(Option<&str>, Option<i64>), Error> {
    let (places, names): (Rest<&Value>, Kwargs) = from_args(args)?;
    let [first, second] = [0, 1].map(|index| places.get(index).copied());
    let separator = match first {
        Some(value) if value.is_none() => None,
        Some(value) => Some(value.as_str().ok_or_else(|| {
            Error::new(ErrorKind::InvalidOperation, "the separator must be a text")
        })?),
        None => None,
    };
    let most = match second {
        Some(value) => value.as_i64(),
        None if names.has("maxsplit") => Some(names.get("maxsplit")?),
        None => None,
    };
    names.assert_all_used()?;
    Ok((separator, most))
}

fn split_space(text: &str, most: usize) -> impl Iterator<Item = &str> {
    let (mut rest, mut left) = (text.trim_start_matches(is_space), most);
    iter::from_fn(move || {
        let end = if left == 0 { rest.len() } else { rest.find(is_space).unwrap_or(rest.len()) };
        left = left.saturating_sub(1);
        let part = &rest[..end];
        rest = rest[end..].trim_start_matches(is_space);
        (!part.is_empty()).then_some(part)
    })
}

/// From the last part to the first.
fn rsplit_space(text: &str, most: usize) -> impl Iterator<Item = &str> {
    let (mut rest, mut left) = (text.trim_end_matches(is_space), most);
    iter::from_fn(move || {
        let last = rest.char_indices().rev().find(|&(_, char)| left > 0 && is_space(char));
        left = left.saturating_sub(1);
        let start = last.map_or(0, |(at, char)| at + char.len_utf8());
        let part = &rest[start..];
        rest = rest[..start].trim_end_matches(is_space);
        (!part.is_empty()).then_some(part)
    })
}

/// Lines, ended by what ends lines in Python.
fn lines(text: &str, keep: bool) -> impl Iterator<Item = &str> {
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut rest = text;
    iter::from_fn(move || {
        let at = rest.find(is_end).unwrap_or(rest.len());
        let end = match rest[at..].starts_with("\r\n") {
            true => 2,
            false => rest[at..].chars().next().map_or(0, char::len_utf8),
        };
        let line = &rest[..if keep { at + end } else { at }];
        let is_one = !rest.is_empty();
        rest = &rest[at + end..];
        is_one.then_some(line)
    })
}

/// Python's `separator.join(items)`.
fn join(state: &State, separator: &str, items: &Value) -> Result<String, Error> {
    let mut out = PaidText::default();
    for (index, item) in items.try_iter()?.checked().enumerate() {
        let item = item?;
        if index > 0 {
            out.push_str(state, separator)?;
        }
        match item.as_str() {
            Some(text) => out.push_str(state, text)?,
            None => out.push_str(state, &plain(state, &item)?.to_string())?,
        }
    }
    out.finish(state)
}

/// Longest text that is padded, in characters.
const PADDED: i64 = 1 << 16;

fn padded(text: &str, method: &str, width: i64, fill: Option<&str>) -> Result<String, Error> {
    let wrong = |text: &'static str| Error::new(ErrorKind::InvalidOperation, text);
    if width > PADDED {
        return Err(wrong("a text is padded to at most 65536 characters"));
    }
    let mut chars = fill.unwrap_or(if method == "zfill" { "0" } else { " " }).chars();
    let (Some(fill), None) = (chars.next(), chars.next()) else {
        return Err(wrong("the fill must be one character"));
    };
    let missing = (width.max(0) as usize).saturating_sub(text.chars().count());
    let pad = |count: usize| fill.to_string().repeat(count);
    Ok(match method {
        "ljust" => text.to_owned() + &pad(missing),
        "rjust" => pad(missing) + text,
        "zfill" => match text.strip_prefix(['-', '+']) {
            Some(digits) => format!("{}{}{digits}", &text[..1], pad(missing)),
            None => pad(missing) + text,
        },
        _ => {
            // As CPython rounds.
            let left = missing / 2 + (missing & width.max(0) as usize & 1);
            pad(left) + text + &pad(missing - left)
        }
    })
}

/// Every run of letters with its first in upper case, the rest in lower.
fn title(text: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match (char.is_alphabetic(), inside) {
            (true, false) => out.extend(char.to_uppercase()),
            (true, true) => out.extend(char.to_lowercase()),
            (false, _) => out.push(char),
        }
        inside = char.is_alphabetic();
    }
    out
}

fn of_list(state: &State, list: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match method {
        "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            for (index, item) in list.try_iter()?.checked().enumerate() {
                state.consume_fuel(1)?;
                if item? == *wanted {
                    return Ok(Value::from(index));
                }
            }
            Err(Error::new(ErrorKind::InvalidOperation, "the value is not in the list"))
        }
        "copy" => Ok(list.clone()),
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}
