//! The GGUF container, version 3, little-endian:
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
//!
//! [`parse`] trusts nothing: every length is checked against the size of the file before anything
//! is allocated for it, and every tensor of a known type lies inside the file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use crate::quoted::{plain, quoted};
use crate::stored::Stored;

/// A value of the metadata. Integers of all widths are widened.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// u8, u16, u32, u64.
    Unsigned(u64),
    /// i8, i16, i32, i64.
    Signed(i64),
    /// f32, f64.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// UTF-8.
    Text(String),
    /// Values of one type.
    Array(Array),
}

/// An array in the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// u8, u16, u32, u64.
    Unsigned(Vec<u64>),
    /// i8, i16, i32, i64.
    Signed(Vec<i64>),
    /// f32, f64.
    Float(Vec<f64>),
    /// Truth values.
    Bool(Vec<bool>),
    /// UTF-8.
    Text(Vec<String>),
}

/// The type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorType {
    /// One that can be read.
    Known(Stored),
    /// A number that this program cannot read.
    Unknown(u32),
}

/// Where a tensor lies.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its name, unique in the file.
    pub name: String,
    /// Its type.
    pub kind: TensorType,
    /// Its sizes, slowest first: `(rows, cols)` for a matrix. At least one.
    pub dims: Vec<u64>,
    /// First byte in the file.
    pub offset: u64,
}

/// The head of a GGUF file.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    /// Metadata by key.
    pub metadata: BTreeMap<String, Value>,
    /// Tensors in file order.
    pub tensors: Vec<Tensor>,
}

/// Why a file is not usable GGUF.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// The magic bytes are missing.
    #[error("this is not a GGUF file")]
    NotGguf,
    /// Another version.
    #[error("GGUF version {0}; only version 3 is read: convert the model again")]
    Version(u32),
    /// Version 3 with its bytes in the other order.
    #[error("this is a big-endian GGUF file; only little-endian ones are read")]
    BigEndian,
    /// The head or a tensor reaches past the end of the file.
    #[error("the file ends inside {0}; download it again")]
    Truncated(String),
    /// The head is far larger than that of any model.
    #[error("the GGUF head has more than {most} {what}, the most that are read")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many are read.
        most: u64,
    },
    /// The file contradicts the format.
    #[error("the GGUF head is damaged: {0}")]
    Malformed(String),
}

impl Array {
    /// Whether it holds nothing but 0, false and empty texts.
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Unsigned(all) => all.iter().all(|&x| x == 0),
            Self::Signed(all) => all.iter().all(|&x| x == 0),
            Self::Float(all) => all.iter().all(|&x| x == 0.0),
            Self::Bool(all) => !all.contains(&true),
            Self::Text(all) => all.iter().all(String::is_empty),
        }
    }
}

impl Value {
    /// A number that fits 32 bits without sign.
    pub fn as_u32(&self) -> Option<u32> {
        match *self {
            Self::Unsigned(x) => x.try_into().ok(),
            Self::Signed(x) => x.try_into().ok(),
            _ => None,
        }
    }

    /// A number.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::Float(x) => Some(x as f32),
            _ => self.as_u32().map(|x| x as f32),
        }
    }

    /// A truth value.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(x) => Some(x),
            _ => None,
        }
    }

    /// A text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(x) => Some(x),
            _ => None,
        }
    }

    /// An array of texts.
    pub fn as_texts(&self) -> Option<&[String]> {
        match self {
            Self::Array(Array::Text(x)) => Some(x),
            _ => None,
        }
    }

    /// An array of numbers that fit 32 bits without sign.
    pub fn as_u32s(&self) -> Option<Vec<u32>> {
        self.integers()
    }

    /// An array of numbers that fit 32 bits with sign.
    pub fn as_i32s(&self) -> Option<Vec<i32>> {
        self.integers()
    }

    fn integers<T: TryFrom<u64> + TryFrom<i64>>(&self) -> Option<Vec<T>> {
        match self {
            Self::Array(Array::Unsigned(x)) => x.iter().map(|&x| x.try_into().ok()).collect(),
            Self::Array(Array::Signed(x)) => x.iter().map(|&x| x.try_into().ok()).collect(),
            _ => None,
        }
    }
}

/// As a person writes it; of an array its first elements.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(x) => x.fmt(f),
            Self::Signed(x) => x.fmt(f),
            Self::Float(x) => x.fmt(f),
            Self::Bool(x) => x.fmt(f),
            Self::Text(x) => f.write_str(&quoted(x)),
            Self::Array(Array::Unsigned(all)) => write_list(f, all),
            Self::Array(Array::Signed(all)) => write_list(f, all),
            Self::Array(Array::Float(all)) => write_list(f, all),
            Self::Array(Array::Bool(all)) => write_list(f, all),
            Self::Array(Array::Text(all)) => {
                write_list(f, &all.iter().take(SHOWN + 1).map(|x| quoted(x)).collect::<Vec<_>>())
            }
        }
    }
}

/// How many elements of an array are shown.
const SHOWN: usize = 16;

fn write_list(f: &mut fmt::Formatter<'_>, all: &[impl fmt::Display]) -> fmt::Result {
    let shown: Vec<_> = all.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = if all.len() > SHOWN { ", …" } else { "" };
    write!(f, "[{}{more}]", shown.join(", "))
}

/// Reads and checks the head of a GGUF file.
pub fn parse(source: &mut (impl Read + Seek)) -> Result<Gguf, GgufError> {
    let len = source.seek(SeekFrom::End(0))?;
    source.rewind()?;
    let mut head =
        Head { inner: BufReader::with_capacity(1 << 16, source), at: 0, len, elements: 0 };
    if len < 4 || head.bytes::<4>("the head")? != *b"GGUF" {
        return Err(GgufError::NotGguf);
    }
    match head.u32("the head")? {
        3 => {}
        0x0300_0000 => return Err(GgufError::BigEndian),
        version => return Err(GgufError::Version(version)),
    }
    let tensors = head.count("the number of tensors", TENSOR_LEAST)?;
    let entries = head.count("the number of keys", ENTRY_LEAST)?;
    limit("tensors", tensors, THINGS_MOST)?;
    limit("keys", entries, THINGS_MOST)?;
    let mut metadata = BTreeMap::new();
    for _ in 0..entries {
        let key = head.text("a key")?;
        let kind = head.u32(&key)?;
        let value = head.value(&key, kind)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(GgufError::Malformed(format!("the key {} appears twice", plain(&key))));
        }
    }
    let mut infos = Vec::new();
    for _ in 0..tensors {
        infos.push(head.tensor()?);
    }
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(value) => u64::from(value.as_u32().unwrap_or(0)),
    };
    if alignment == 0 {
        return Err(GgufError::Malformed("general.alignment is not a positive number".into()));
    }
    let start = head.at.checked_next_multiple_of(alignment);
    let mut names = BTreeSet::new();
    for tensor in &mut infos {
        let end = start.and_then(|start| {
            tensor.offset = tensor.offset.checked_add(start)?;
            tensor.offset.checked_add(tensor.bytes()?)
        });
        let Some(end) = end else {
            let reason = format!("the size of the tensor {} is impossible", plain(&tensor.name));
            return Err(GgufError::Malformed(reason));
        };
        if end > len {
            return Err(GgufError::Truncated(format!("the tensor {}", plain(&tensor.name))));
        }
        if !names.insert(tensor.name.as_str()) {
            let reason = format!("the tensor {} appears twice", plain(&tensor.name));
            return Err(GgufError::Malformed(reason));
        }
    }
    drop(names);
    Ok(Gguf { metadata, tensors: infos })
}

impl Tensor {
    /// Bytes in the file, 0 for an unknown type; `None` when they cannot be counted.
    fn bytes(&self) -> Option<u64> {
        let TensorType::Known(stored) = self.kind else { return Some(0) };
        let (cols, outer) = self.dims.split_last()?;
        let rows = outer.iter().try_fold(1_u64, |rows, &dim| rows.checked_mul(dim))?;
        stored.row_bytes(*cols)?.checked_mul(rows)
    }
}

/// Fewest bytes of a key and its value.
const ENTRY_LEAST: u64 = 8 + 4 + 1;
/// Fewest bytes of a tensor's description.
const TENSOR_LEAST: u64 = 8 + 4 + 8 + 4 + 8;
/// Most tensors, and keys. The largest models have thousands.
const THINGS_MOST: u64 = 1 << 16;
/// Most bytes of the head: ten times that of a vocabulary of 128,000 tokens.
const BYTES_MOST: u64 = 64 << 20;
/// Most elements of all arrays together.
const ELEMENTS_MOST: u64 = 8 << 20;
/// Most sizes of a tensor.
const DIMS_MOST: u32 = 4;

/// The head of a file as it is read.
struct Head<R> {
    inner: R,
    at: u64,
    len: u64,
    /// Elements of arrays so far.
    elements: u64,
}

fn limit(what: &'static str, found: u64, most: u64) -> Result<(), GgufError> {
    if found > most { Err(GgufError::Limit { what, most }) } else { Ok(()) }
}

impl<R: Read> Head<R> {
    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        self.room(N as u64, what)?;
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    /// Whether `bytes` more lie in the file.
    fn room(&self, bytes: u64, what: &str) -> Result<(), GgufError> {
        if bytes > self.len - self.at {
            return Err(GgufError::Truncated(plain(what)));
        }
        limit("bytes", self.at.saturating_add(bytes), BYTES_MOST)
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        self.bytes(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        self.bytes(what).map(u64::from_le_bytes)
    }

    /// A number of things of at least `least` bytes each, for all of which there is room.
    fn count(&mut self, what: &str, least: u64) -> Result<u64, GgufError> {
        let count = self.u64(what)?;
        self.room(count.saturating_mul(least), what)?;
        Ok(count)
    }

    fn text(&mut self, what: &str) -> Result<String, GgufError> {
        let len = self.count(what, 1)?;
        let mut bytes = vec![0; len as usize];
        self.inner.read_exact(&mut bytes)?;
        self.at += len;
        String::from_utf8(bytes)
            .map_err(|_| GgufError::Malformed(format!("{} is not UTF-8", plain(what))))
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<Value, GgufError> {
        Ok(match kind {
            0 | 2 | 4 | 10 => Value::Unsigned(self.unsigned(key, kind)?),
            1 | 3 | 5 | 11 => Value::Signed(self.signed(key, kind)?),
            6 | 12 => Value::Float(self.float(key, kind)?),
            7 => Value::Bool(self.truth(key)?),
            8 => Value::Text(self.text(key)?),
            9 => {
                let kind = self.u32(key)?;
                Value::Array(self.array(key, kind)?)
            }
            _ => return Err(unknown_kind(key, kind)),
        })
    }

    fn array(&mut self, key: &str, kind: u32) -> Result<Array, GgufError> {
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            _ => return Err(unknown_kind(key, kind)),
        };
        let count = self.count(key, least)?;
        self.elements = self.elements.saturating_add(count);
        limit("elements of arrays", self.elements, ELEMENTS_MOST)?;
        // A failed element ends the collection, so that only what is in the file is kept.
        Ok(match kind {
            0 | 2 | 4 | 10 => Array::Unsigned(
                (0..count).map(|_| self.unsigned(key, kind)).collect::<Result<_, _>>()?,
            ),
            1 | 3 | 5 | 11 => {
                Array::Signed((0..count).map(|_| self.signed(key, kind)).collect::<Result<_, _>>()?)
            }
            6 | 12 => {
                Array::Float((0..count).map(|_| self.float(key, kind)).collect::<Result<_, _>>()?)
            }
            7 => Array::Bool((0..count).map(|_| self.truth(key)).collect::<Result<_, _>>()?),
            _ => Array::Text((0..count).map(|_| self.text(key)).collect::<Result<_, _>>()?),
        })
    }

    fn unsigned(&mut self, key: &str, kind: u32) -> Result<u64, GgufError> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.bytes(key)?).into(),
            2 => u16::from_le_bytes(self.bytes(key)?).into(),
            4 => self.u32(key)?.into(),
            _ => self.u64(key)?,
        })
    }

    fn signed(&mut self, key: &str, kind: u32) -> Result<i64, GgufError> {
        Ok(match kind {
            1 => i8::from_le_bytes(self.bytes(key)?).into(),
            3 => i16::from_le_bytes(self.bytes(key)?).into(),
            5 => i32::from_le_bytes(self.bytes(key)?).into(),
            _ => i64::from_le_bytes(self.bytes(key)?),
        })
    }

    fn float(&mut self, key: &str, kind: u32) -> Result<f64, GgufError> {
        Ok(match kind {
            6 => f32::from_le_bytes(self.bytes(key)?).into(),
            _ => f64::from_le_bytes(self.bytes(key)?),
        })
    }

    fn truth(&mut self, key: &str) -> Result<bool, GgufError> {
        match self.bytes(key)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [byte] => {
                Err(GgufError::Malformed(format!("{}: {byte} is not a truth value", plain(key))))
            }
        }
    }

    /// A tensor's description; its offset still counts from the start of the data.
    fn tensor(&mut self) -> Result<Tensor, GgufError> {
        let name = self.text("the name of a tensor")?;
        let count = self.u32(&name)?;
        if !(1..=DIMS_MOST).contains(&count) {
            return Err(GgufError::Malformed(format!(
                "the tensor {} has {count} sizes",
                plain(&name)
            )));
        }
        let mut dims = Vec::new();
        for _ in 0..count {
            dims.push(self.u64(&name)?);
        }
        dims.reverse();
        let number = self.u32(&name)?;
        let kind = Stored::from_ggml(number).map_or(TensorType::Unknown(number), TensorType::Known);
        let offset = self.u64(&name)?;
        Ok(Tensor { name, kind, dims, offset })
    }
}

fn unknown_kind(key: &str, kind: u32) -> GgufError {
    GgufError::Malformed(format!("{} has the unsupported type {kind}", plain(key)))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    /// A file with one entry and one tensor of 32 Q8_0 weights.
    fn file(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
        let text = |out: &mut Vec<u8>, text: &str| {
            out.extend((text.len() as u64).to_le_bytes());
            out.extend(text.as_bytes());
        };
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend(1_u64.to_le_bytes());
        out.extend(1_u64.to_le_bytes());
        text(&mut out, key);
        out.extend(kind.to_le_bytes());
        out.extend(value);
        text(&mut out, "t");
        out.extend(1_u32.to_le_bytes());
        out.extend(32_u64.to_le_bytes());
        out.extend(Stored::Q8_0.ggml_number().unwrap().to_le_bytes());
        out.extend(0_u64.to_le_bytes());
        out.resize(out.len().next_multiple_of(32) + 34, 0);
        out
    }

    fn value(kind: u32, bytes: &[u8]) -> Value {
        parse(&mut Cursor::new(file("k", kind, bytes))).unwrap().metadata["k"].clone()
    }

    #[test]
    fn every_type_of_value_is_read() {
        assert_eq!(value(0, &[200]), Value::Unsigned(200));
        assert_eq!(value(1, &[200]), Value::Signed(-56));
        assert_eq!(value(2, &[1, 2]), Value::Unsigned(0x201));
        assert_eq!(value(3, &[0xfe, 0xff]), Value::Signed(-2));
        assert_eq!(value(4, &7_u32.to_le_bytes()).as_u32(), Some(7));
        assert_eq!(value(5, &(-7_i32).to_le_bytes()).as_u32(), None);
        assert_eq!(value(6, &1.5_f32.to_le_bytes()).as_f32(), Some(1.5));
        assert_eq!(value(7, &[1]).as_bool(), Some(true));
        assert_eq!(value(8, b"\x02\0\0\0\0\0\0\0ab").as_text(), Some("ab"));
        assert_eq!(value(9, b"\x05\0\0\0\x01\0\0\0\0\0\0\0\x09\0\0\0").as_u32s(), Some(vec![9]));
        assert_eq!(value(10, &u64::MAX.to_le_bytes()), Value::Unsigned(u64::MAX));
        assert_eq!(value(11, &i64::MIN.to_le_bytes()), Value::Signed(i64::MIN));
        assert_eq!(value(12, &0.1_f64.to_le_bytes()), Value::Float(0.1));
    }

    #[test]
    fn lengths_beyond_the_file_are_refused_before_anything_is_allocated() {
        let huge = u64::MAX.to_le_bytes();
        let array = |kind: u32| [&kind.to_le_bytes()[..], &huge].concat();
        let mut many = file("k", 7, &[0]);
        many[8..16].copy_from_slice(&huge);
        let files = [file("k", 8, &huge), file("k", 9, &array(0)), file("k", 9, &array(8)), many];
        for bytes in files {
            assert!(matches!(parse(&mut Cursor::new(bytes)), Err(GgufError::Truncated(_))));
        }
        for (kind, bytes) in [(7, vec![2]), (13, vec![0]), (9, array(9))] {
            let result = parse(&mut Cursor::new(file("k", kind, &bytes)));
            assert!(matches!(result, Err(GgufError::Malformed(_))));
        }
    }

    #[test]
    fn a_head_beyond_all_use_is_refused_before_it_is_read() {
        /// A file of which all but the beginning is a hole.
        struct Sparse(Cursor<Vec<u8>>, u64);

        impl Read for Sparse {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                self.0.read(into)
            }
        }

        impl Seek for Sparse {
            fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
                match to {
                    SeekFrom::End(_) => Ok(self.1),
                    to => self.0.seek(to),
                }
            }
        }

        let long = 1_u64 << 40;
        let count = (476_u64 << 20).to_le_bytes();
        let array = |kind: u32| [&kind.to_le_bytes()[..], &count].concat();
        let head = |at: usize| {
            let mut bytes = file("k", 7, &[0]);
            bytes[at..at + 8].copy_from_slice(&count);
            bytes
        };
        let files = [
            file("k", 9, &array(0)),
            file("k", 9, &array(8)),
            file("k", 8, &count),
            head(8),
            head(16),
        ];
        for bytes in files {
            let error = parse(&mut Sparse(Cursor::new(bytes), long)).unwrap_err();
            assert!(matches!(error, GgufError::Limit { .. }), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_head_never_panics(
            at in 0..120_usize,
            bytes in proptest::collection::vec(any::<u8>(), 1..12),
            cut in 0..200_usize,
        ) {
            let mut bytes_of_file = file("general.alignment", 4, &32_u32.to_le_bytes());
            for (offset, byte) in bytes.iter().enumerate() {
                if let Some(slot) = bytes_of_file.get_mut(at + offset) {
                    *slot = *byte;
                }
            }
            let len = bytes_of_file.len().min(cut + 60);
            if let Ok(head) = parse(&mut Cursor::new(&bytes_of_file[..len])) {
                for tensor in head.tensors {
                    prop_assert!(tensor.bytes().is_some_and(|n| tensor.offset + n <= len as u64));
                }
            }
        }
    }
}
