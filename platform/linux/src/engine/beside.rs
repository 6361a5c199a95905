//! Small files beside an image, with what runs found out: some magic bytes, the image's identity,
//! 32-bit words, and a checksum of it all. What is damaged, or another image's, is as good as
//! nothing.

use std::io::{self, Write};
use std::path::Path;

use crate::regular;
use crate::replace::{Access, replace, with_ending};
use rill::image::checksum;

/// A kind of file.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Its first bytes.
    pub magic: [u8; 8],
    /// What its name adds to the image's.
    pub ending: &'static str,
}

/// Magic and the image's identity before the words, a checksum after them.
const HEAD: usize = 16;
const TAIL: usize = 8;

impl Kind {
    /// The words that were kept for `image` (what tells images apart), which lies at `path`; at most
    /// `most`. `None` where there are none that fit.
    pub fn read(self, path: &Path, image: u64, most: usize) -> Option<Vec<u32>> {
        let most = (HEAD + most * size_of::<u32>() + TAIL) as u64;
        self.decode(&regular::read(&with_ending(path, self.ending), most).ok()?, image)
    }

    /// Keeps words, whole or not at all. A folder that may not be written costs the next run some
    /// time, which is not worth a word.
    pub fn write(self, path: &Path, image: u64, words: impl Iterator<Item = u32>) {
        let bytes = self.encode(image, words);
        let _: io::Result<()> =
            replace(&with_ending(path, self.ending), Access::Ordinary, |out| out.write_all(&bytes));
    }

    fn encode(self, image: u64, words: impl Iterator<Item = u32>) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(image.to_le_bytes());
        bytes.extend(words.flat_map(u32::to_le_bytes));
        bytes.extend(checksum(&bytes).to_le_bytes());
        bytes
    }

    fn decode(self, bytes: &[u8], image: u64) -> Option<Vec<u32>> {
        let (body, sum) = bytes.split_last_chunk::<TAIL>()?;
        let words = body.strip_prefix(&self.magic)?.strip_prefix(&image.to_le_bytes())?;
        let (words, rest) = words.as_chunks::<4>();
        let right = checksum(body) == u64::from_le_bytes(*sum) && rest.is_empty();
        right.then(|| words.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const KIND: Kind = Kind { magic: *b"RILLTEST", ending: ".test" };

    #[test]
    fn only_what_was_kept_for_the_same_image_comes_back() {
        let words = [5, 0, u32::MAX, 7];
        let bytes = KIND.encode(7, words.into_iter());
        assert_eq!(bytes.len(), HEAD + 16 + TAIL);
        assert_eq!(KIND.decode(&bytes, 7).unwrap(), words);
        assert_eq!(KIND.decode(&bytes, 8), None);
        assert_eq!(Kind { magic: *b"RILLTALK", ..KIND }.decode(&bytes, 7), None);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert_eq!(KIND.decode(&damaged, 7), None, "byte {at}");
            assert_eq!(KIND.decode(&bytes[..at], 7), None);
        }
    }

    #[test]
    fn a_file_that_is_too_long_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image.rill");
        assert_eq!(KIND.read(&image, 7, 9), None);
        KIND.write(&image, 7, 1..4);
        assert_eq!(KIND.read(&image, 7, 3).unwrap(), [1, 2, 3]);
        assert_eq!(KIND.read(&image, 7, 2), None);
        let names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["image.rill.test"]);
    }
}
