//! What a calibration under way leaves for the next attempt: what tokens count for, the samples as they come
//! out of the last layer that is finished, and what was found so far.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3Default;

use super::report::LayerReport;
use crate::kept;

/// The state after some layers.
#[derive(Debug, Default, PartialEq)]
pub struct State {
    /// The layers that are finished.
    pub layers: Vec<LayerReport>,
    /// What each token counts for.
    pub weights: Vec<f32>,
    /// (tokens, hidden).
    pub rows: Vec<f32>,
}

/// The first line of its file; weights and rows follow.
#[derive(Serialize, Deserialize)]
struct Head {
    layers: Vec<LayerReport>,
    weights: usize,
    rows: usize,
    checksum: u64,
}

/// Longest first line that is read.
const LINE_MOST: u64 = 1 << 22;

impl State {
    /// Writes it in the place of an earlier one, whole or not at all.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let head = Head {
            layers: self.layers.clone(),
            weights: self.weights.len(),
            rows: self.rows.len(),
            checksum: self.checksum(),
        };
        kept::write(path, |file| {
            serde_json::to_writer(&mut *file, &head)?;
            file.write_all(b"\n")?;
            self.values().try_for_each(|x| file.write_all(&x.to_le_bytes()))
        })
    }

    /// Reads one of `tokens` tokens of `hidden` values each; `None` when there is none, or a damaged one.
    pub fn load(path: &Path, tokens: usize, hidden: usize) -> Option<Self> {
        let mut file = BufReader::new(File::open(path).ok()?);
        let mut line = Vec::new();
        file.by_ref().take(LINE_MOST).read_until(b'\n', &mut line).ok()?;
        let Head { layers, weights, rows, checksum } = serde_json::from_slice(&line).ok()?;
        if (weights, rows) != (tokens, tokens * hidden) {
            return None;
        }
        let mut state = Self { layers, weights: vec![0.0; weights], rows: vec![0.0; rows] };
        let mut bytes = [0; 4];
        for value in state.weights.iter_mut().chain(&mut state.rows) {
            file.read_exact(&mut bytes).ok()?;
            *value = f32::from_le_bytes(bytes);
        }
        (state.checksum() == checksum).then_some(state)
    }

    fn values(&self) -> impl Iterator<Item = &f32> {
        self.weights.iter().chain(&self.rows)
    }

    fn checksum(&self) -> u64 {
        let mut hash = Xxh3Default::new();
        self.values().for_each(|x| hash.update(&x.to_le_bytes()));
        hash.digest()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_state_is_read_back_as_it_was_and_a_damaged_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k.layers");
        let report = LayerReport { few: vec![(3, 17)], ..LayerReport::default() };
        let state = State {
            layers: vec![report],
            weights: vec![0.5],
            rows: vec![0.1, -2.5, f32::MIN_POSITIVE],
        };
        state.save(&path).unwrap();
        assert_eq!(State::load(&path, 1, 3), Some(state));
        assert_eq!(State::load(&path, 1, 4), None);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(State::load(&path, 1, 3), None);
        bytes.truncate(bytes.len() - 1);
        fs::write(&path, &bytes).unwrap();
        assert_eq!(State::load(&path, 1, 3), None);
    }
}
