//! Who may ask: a file of keys.
//!
//! Each line is one key, as [`Key::line`] writes it: its name, the SHA-256 of the key in hexadecimal
//! digits, how many requests and how many tokens (of prompts and answers) it may have a minute, `-` for
//! any number. With `operator` at its end it is a key of whoever runs the server: it also opens what tells
//! how the server is. Empty lines and lines that begin with `#` say nothing.
//!
//! ```text
//! # name   sha256             requests/minute  tokens/minute
//! kiosk    0f3a...            60               20000
//! house    77c1...            -                -              operator
//! ```
//!
//! A key is 256 random bits, so a plain hash gives nobody who reads the file a way to guess it, and no
//! slow one is needed.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::files;

/// Most bytes of a file of keys.
pub const MOST_BYTES: u64 = 1 << 20;
/// For how long requests and tokens are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// A new key.
#[derive(Debug)]
pub struct Key {
    /// What whoever asks says.
    pub secret: String,
    /// What stands in the file.
    pub line: String,
}

impl Key {
    /// Makes a key from the system's random numbers.
    pub fn new(name: &str, requests: Option<u64>, tokens: Option<u64>) -> io::Result<Self> {
        let mut bytes = [0; 32];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += rustix::rand::getrandom(
                &mut bytes[filled..],
                rustix::rand::GetRandomFlags::empty(),
            )?;
        }
        let secret = format!("rill-{}", hex(&bytes));
        let limit = |limit: Option<u64>| limit.map_or("-".to_owned(), |limit| limit.to_string());
        let hash = hex(&Sha256::digest(&secret));
        let line = format!("{name} {hash} {} {}", limit(requests), limit(tokens));
        Ok(Self { secret, line })
    }

    /// Makes it a key of whoever runs the server.
    #[must_use]
    pub fn of_operator(mut self) -> Self {
        self.line.push(' ');
        self.line.push_str(OPERATOR);
        self
    }
}

/// What stands at the end of a line whose key is an operator's.
const OPERATOR: &str = "operator";

/// Whether a name can stand in a file of keys.
pub fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    !name.is_empty() && name.len() <= 64 && name.bytes().all(fits)
}

/// Why keys cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("{0}")]
    File(#[from] io::Error),
    /// It is longer than any file of keys.
    #[error("it has more than {MOST_BYTES} bytes")]
    Long,
    /// A line is not as it must be.
    #[error(
        "line {0}: not a name, a SHA-256, requests and tokens a minute, or those and `operator`; `rill \
         key` writes such lines"
    )]
    Line(usize),
    /// A name is there twice.
    #[error("line {0}: the name is there before")]
    Twice(usize),
    /// Nobody could ask.
    #[error("it has no key; `rill key` makes one")]
    Empty,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    name: String,
    hash: [u8; 32],
    requests: Option<u64>,
    tokens: Option<u64>,
    operator: bool,
}

/// What a key used since when.
#[derive(Debug, Clone, Copy)]
struct Use {
    since: Instant,
    requests: u64,
    tokens: u64,
}

/// The keys, and what each of them used.
#[derive(Debug, Default)]
pub struct Keys {
    entries: Vec<Entry>,
    used: HashMap<String, Use>,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is let in; the name of its key.
    Welcome(String),
    /// No such key.
    Unknown,
    /// Its key used up what it may have for so many seconds.
    Spent(u64),
}

impl Keys {
    /// Reads the keys of a file.
    pub fn read(path: &Path) -> Result<Self, KeysError> {
        let bytes = files::read(path, MOST_BYTES).map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => KeysError::Long,
            _ => KeysError::File(error),
        })?;
        Self::parse(std::str::from_utf8(&bytes).map_err(io::Error::other)?)
    }

    /// Reads the keys of a file's text.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let mut entries: Vec<Entry> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = entry(line).ok_or(KeysError::Line(number + 1))?;
            if entries.iter().any(|other| other.name == entry.name) {
                return Err(KeysError::Twice(number + 1));
            }
            entries.push(entry);
        }
        if entries.is_empty() {
            return Err(KeysError::Empty);
        }
        Ok(Self { entries, used: HashMap::new() })
    }

    /// Takes the place of the keys so far: who used up what stays known.
    pub fn renew(&mut self, keys: Self) {
        self.entries = keys.entries;
        let Self { entries, used } = self;
        used.retain(|name, _| entries.iter().any(|entry| entry.name == *name));
    }

    /// Judges a request with this key, and counts it. Takes equally long whichever key it is, and
    /// whether there is one.
    pub fn judge(&mut self, key: &str, now: Instant) -> Verdict {
        let hash: [u8; 32] = Sha256::digest(key).into();
        let mut found = u32::MAX;
        for (number, entry) in (0..).zip(&self.entries) {
            let is_it: Choice = entry.hash.ct_eq(&hash);
            found = u32::conditional_select(&found, &number, is_it);
        }
        self.count(found as usize, now)
    }

    /// Judges a request in the name of a key that nobody has to show, and counts it.
    pub fn judge_named(&mut self, name: &str, now: Instant) -> Verdict {
        let found = self.entries.iter().position(|entry| entry.name == name);
        self.count(found.unwrap_or(usize::MAX), now)
    }

    /// Whether there is a key of this name.
    pub fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == name)
    }

    /// Whether the key of this name is one of whoever runs the server.
    pub fn is_operators(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == name && entry.operator)
    }

    fn count(&mut self, number: usize, now: Instant) -> Verdict {
        let Some(entry) = self.entries.get(number) else { return Verdict::Unknown };
        let fresh = Use { since: now, requests: 0, tokens: 0 };
        let used = self.used.entry(entry.name.clone()).or_insert(fresh);
        let age = now.duration_since(used.since);
        if age >= WINDOW {
            *used = fresh;
        }
        let is_spent = |used, limit: Option<u64>| limit.is_some_and(|limit| used >= limit);
        if is_spent(used.requests, entry.requests) || is_spent(used.tokens, entry.tokens) {
            return Verdict::Spent(WINDOW.saturating_sub(age).as_secs() + 1);
        }
        used.requests += 1;
        Verdict::Welcome(entry.name.clone())
    }

    /// The key of this name used so many tokens.
    pub fn spend(&mut self, name: &str, tokens: u64) {
        if let Some(used) = self.used.get_mut(name) {
            used.tokens = used.tokens.saturating_add(tokens);
        }
    }
}

fn entry(line: &str) -> Option<Entry> {
    let mut words = line.split_whitespace();
    let name = words.next().filter(|name| is_name(name))?.to_owned();
    let digits = words.next().filter(|digits| digits.len() == 64 && digits.is_ascii())?;
    let mut hash = [0; 32];
    for (byte, digits) in hash.iter_mut().zip(digits.as_bytes().chunks(2)) {
        // `from_str_radix` would take a sign.
        let digits = std::str::from_utf8(digits).ok()?;
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        *byte = u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
    }
    let mut limit = || match words.next() {
        Some("-") | None => Some(None),
        Some(number) => Some(Some(number.parse::<u64>().ok().filter(|limit| *limit > 0)?)),
    };
    let (requests, tokens) = (limit()?, limit()?);
    let operator = match words.next() {
        None => false,
        Some(word) => Some(true).filter(|_| word == OPERATOR)?,
    };
    words.next().is_none().then_some(Entry { name, hash, requests, tokens, operator })
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_welcome_and_others_are_not() {
        let [kiosk, other] = ["kiosk", "other"].map(|name| Key::new(name, None, None).unwrap());
        assert_ne!(kiosk.secret, other.secret);
        let mut keys = Keys::parse(&format!("# keys\n\n{}\n", kiosk.line)).unwrap();
        let now = Instant::now();
        assert_eq!(keys.judge(&kiosk.secret, now), Verdict::Welcome("kiosk".into()));
        for wrong in [&*other.secret, "", "rill-", &kiosk.secret[..68]] {
            assert_eq!(keys.judge(wrong, now), Verdict::Unknown);
        }
    }

    #[test]
    fn a_key_is_an_operators_where_its_line_says_so() {
        let kiosk = Key::new("kiosk", None, None).unwrap();
        let house = Key::new("house", Some(5), None).unwrap().of_operator();
        let mut keys = Keys::parse(&format!("{}\n{}", kiosk.line, house.line)).unwrap();
        assert_eq!(keys.judge(&house.secret, Instant::now()), Verdict::Welcome("house".into()));
        assert_eq!(
            ["kiosk", "house", "other"].map(|name| keys.is_operators(name)),
            [false, true, false]
        );
    }

    #[test]
    fn what_is_used_up_comes_back_after_a_minute() {
        let key = Key::new("kiosk", Some(2), Some(100)).unwrap();
        let mut keys = Keys::parse(&key.line).unwrap();
        let now = Instant::now();
        let welcome = Verdict::Welcome("kiosk".into());
        assert_eq!(keys.judge(&key.secret, now), welcome);
        assert_eq!(keys.judge(&key.secret, now), welcome);
        assert_eq!(keys.judge(&key.secret, now + Duration::from_secs(50)), Verdict::Spent(11));
        // Reading the keys again changes nothing about it.
        keys.renew(Keys::parse(&key.line).unwrap());
        assert_eq!(keys.judge(&key.secret, now + Duration::from_secs(59)), Verdict::Spent(2));
        assert_eq!(keys.judge(&key.secret, now + WINDOW), welcome);
        // In its name it is counted the same.
        assert_eq!(keys.judge_named("kiosk", now + WINDOW), welcome);
        assert_eq!(keys.judge_named("other", now + WINDOW), Verdict::Unknown);
        keys.spend("kiosk", 100);
        assert_eq!(keys.judge(&key.secret, now + WINDOW), Verdict::Spent(61));
    }

    #[test]
    fn files_that_are_wrong_say_where() {
        let line = Key::new("kiosk", Some(1), None).unwrap().line;
        let error = |text: &str| Keys::parse(text).unwrap_err().to_string();
        assert!(error("").contains("no key"));
        assert!(error(&format!("{line}\n{line}")).starts_with("line 2: the name"));
        for more in ["7", "operators", "operator 7"] {
            let wrong = format!("{line} {more}");
            assert!(error(&wrong).starts_with("line 1: not"), "{wrong}");
        }
        for wrong in ["kiosk", "kiosk 00", "kiosk operator", &line.replace("kiosk", "ki/osk")] {
            assert!(error(&format!("# keys\n{wrong}")).starts_with("line 2: not"), "{wrong}");
        }
        for wrong in [line.replace(" 1 ", " 0 "), line.replace(" 1 ", " x ")] {
            assert!(error(&wrong).starts_with("line 1: not"), "{wrong}");
        }
    }
}
