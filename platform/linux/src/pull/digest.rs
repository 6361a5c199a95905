use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// A sum of a whole file, as the hub lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sum {
    /// SHA-256 of the bytes: large files.
    Sha256(String),
    /// Git's name of the blob, SHA-1 of a head and the bytes: all others.
    Blob(String),
}

/// Computes a [`Sum`] of bytes that come in order.
pub enum Summer {
    /// See [`Sum::Sha256`].
    Sha256(Sha256),
    /// See [`Sum::Blob`].
    Blob(Sha1),
}

impl Summer {
    /// Of a file with `size` bytes, of the kind of `sum`.
    pub fn like(sum: &Sum, size: u64) -> Self {
        match sum {
            Sum::Sha256(_) => Self::Sha256(Sha256::new()),
            Sum::Blob(_) => {
                Self::Blob(Sha1::new().chain_update(format!("blob {size}\0").as_bytes()))
            }
        }
    }

    /// More bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Blob(hash) => hash.update(bytes),
        }
    }

    /// Whether the bytes have this sum.
    pub fn is(self, sum: &Sum) -> bool {
        let (made, listed) = match (self, sum) {
            (Self::Sha256(hash), Sum::Sha256(listed)) => (hex(&hash.finalize()), listed),
            (Self::Blob(hash), Sum::Blob(listed)) => (hex(&hash.finalize()), listed),
            _ => return false,
        };
        made.eq_ignore_ascii_case(listed)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(bytes: &[u8], sum: Sum) -> bool {
        let mut summer = Summer::like(&sum, bytes.len() as u64);
        bytes.chunks(2).for_each(|chunk| summer.update(chunk));
        summer.is(&sum)
    }

    #[test]
    fn both_kinds_of_sums_are_those_of_git_and_sha256sum() {
        // printf hello | git hash-object --stdin; printf hello | sha256sum
        let blob = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert!(is(b"hello", Sum::Blob(blob.into())));
        assert!(is(b"hello", Sum::Sha256(sha256.to_uppercase())));
        assert!(!is(b"hellO", Sum::Blob(blob.into())));
        assert!(!is(b"hellO", Sum::Sha256(sha256.into())));
    }
}
