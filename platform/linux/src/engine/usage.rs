//! What runs find out about the experts, kept beside the image.
//!
//! How often each was used: the next run knows from its first token which are worth their RAM. It
//! is 12 bytes an expert and says nothing about what was talked about. And, when asked, which were
//! in RAM: the next run reads these first. It is 4 bytes an expert.

use std::path::Path;

use rill::experts::{History, Rates};
use rill::session::Session;

use super::beside::Kind;

const USES: Kind = Kind { magic: *b"RILLUSE\x01", ending: ".usage" };
const RESIDENT: Kind = Kind { magic: *b"RILLRAM\x01", ending: ".resident" };

/// Gives `session` the uses that earlier runs found out; says whether there were any. `image` tells
/// images apart, `path` is where it lies.
pub fn recall(session: &mut Session<'_>, image: u64, path: &Path) -> bool {
    let Some(pages) = session.history().map(|history| history.pages()) else { return false };
    let Some(rates) = kept_uses(image, path, pages) else { return false };
    (0..pages).zip(rates).for_each(|(page, rates)| session.recall(page, rates));
    true
}

/// How often earlier runs used each of an image's `pages` experts, as far as that was kept.
pub fn kept_uses(image: u64, path: &Path, pages: u32) -> Option<Vec<Rates>> {
    let words = size_of::<Rates>() / size_of::<u32>() * pages as usize;
    let rates = USES.read(path, image, words).and_then(|words| rates(&words));
    rates.filter(|rates| rates.len() == pages as usize)
}

/// Keeps the uses that are known now.
pub fn save(history: Option<&History<'_>>, image: u64, path: &Path) {
    let Some(history) = history else { return };
    let rates = (0..history.pages()).flat_map(|page| history.rates(page));
    USES.write(path, image, rates.map(f32::to_bits));
}

/// The experts that were in RAM, those worth most first; none where that was not kept.
pub fn recall_resident(session: &Session<'_>, image: u64, path: &Path) -> Vec<u32> {
    let Some(pages) = session.history().map(|history| history.pages()) else { return Vec::new() };
    let kept = RESIDENT.read(path, image, pages as usize).unwrap_or_default();
    if kept.iter().all(|&page| page < pages) { kept } else { Vec::new() }
}

/// Keeps which experts are in RAM now.
pub fn save_resident(session: &Session<'_>, image: u64, path: &Path) {
    let Some(history) = session.history() else { return };
    let mut pages: Vec<u32> = session.resident_pages().collect();
    let worth = |page: u32| history.rates(page)[1];
    pages.sort_by(|&a, &b| worth(b).total_cmp(&worth(a)).then(a.cmp(&b)));
    RESIDENT.write(path, image, pages.into_iter());
}

/// Three shares each, if that is what these are.
fn rates(words: &[u32]) -> Option<Vec<Rates>> {
    let shares: Vec<f32> = words.iter().map(|&word| f32::from_bits(word)).collect();
    let right = shares.iter().all(|share| (0.0..=1.0).contains(share));
    right.then(|| shares.as_chunks::<3>().0.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shares_are_taken_over() {
        let words = |shares: [f32; 6]| shares.map(f32::to_bits);
        let right = words([0.0, 0.5, 1.0, 0.125, 0.25, 0.75]);
        assert_eq!(rates(&right).unwrap(), [[0.0, 0.5, 1.0], [0.125, 0.25, 0.75]]);
        assert_eq!(rates(&words([0.0, 2.0, 0.0, 0.0, 0.0, 0.0])), None);
        assert_eq!(rates(&words([0.0, 0.0, 0.0, f32::NAN, 0.0, 0.0])), None);
    }
}
