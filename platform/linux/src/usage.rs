//! What runs find out about the experts' uses, kept in a small file beside the image.
//!
//! The next run knows from its first token which experts are worth their RAM. It is 12 bytes an
//! expert, says nothing about what was talked about, and is ignored when it does not fit the image.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rill::experts::Rates;
use rill::image::checksum;
use rill::session::Session;
use rill_linux::replace::replace;

const MAGIC: [u8; 8] = *b"RILLUSE\x01";
/// Magic and the image's identity before the rates, a checksum after them.
const HEAD: usize = 16;
const TAIL: usize = 8;

/// The file of an image.
pub fn usage_file(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".usage");
    name.into()
}

/// Gives `session` what earlier runs found out; says whether there was anything. `image` tells
/// images apart.
pub fn recall(session: &mut Session<'_>, image: u64, file: &Path) -> bool {
    let Some(pages) = session.history().map(|history| history.pages()) else { return false };
    let len = HEAD + pages as usize * size_of::<Rates>() + TAIL;
    // What has another length is not even read.
    let fits = fs::metadata(file).is_ok_and(|metadata| metadata.len() == len as u64);
    let Some(rates) = fits.then(|| fs::read(file).ok()).flatten().and_then(|b| decode(&b, image))
    else {
        return false;
    };
    (0..pages).zip(rates).for_each(|(page, rates)| session.recall(page, rates));
    true
}

/// Keeps what is known now. A folder that may not be written costs the next run some hits, which is
/// not worth a word.
pub fn save(session: &Session<'_>, image: u64, file: &Path) {
    let Some(history) = session.history() else { return };
    let rates: Vec<Rates> = (0..history.pages()).map(|page| history.rates(page)).collect();
    let _: io::Result<()> = replace(file, |out| out.write_all(&encode(&rates, image)));
}

fn encode(rates: &[Rates], image: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(image.to_le_bytes());
    bytes.extend(rates.iter().flatten().flat_map(|rate| rate.to_le_bytes()));
    bytes.extend(checksum(&bytes).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8], image: u64) -> Option<Vec<Rates>> {
    let (body, sum) = bytes.split_last_chunk::<TAIL>()?;
    let rates = body.strip_prefix(&MAGIC)?.strip_prefix(&image.to_le_bytes())?;
    let rates: Vec<f32> = rates.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let right = checksum(body) == u64::from_le_bytes(*sum)
        && rates.iter().all(|rate| (0.0..=1.0).contains(rate));
    right.then(|| rates.as_chunks::<3>().0.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_kept_for_the_same_image_comes_back() {
        let rates = [[0.0, 0.5, 1.0], [0.125, 0.25, 0.75]];
        let bytes = encode(&rates, 7);
        assert_eq!(bytes.len(), HEAD + 24 + TAIL);
        assert_eq!(decode(&bytes, 7).unwrap(), rates);
        assert_eq!(decode(&bytes, 8), None);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert_eq!(decode(&damaged, 7), None, "byte {at}");
            assert_eq!(decode(&bytes[..at], 7), None);
        }
        assert_eq!(decode(&encode(&[[0.0, 2.0, 0.0]], 7), 7), None);
        assert_eq!(decode(&encode(&[[f32::NAN; 3]], 7), 7), None);
    }
}
