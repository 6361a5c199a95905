//! Losses that were measured, for the next attempt.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::kept;

#[derive(Serialize, Deserialize)]
struct Kept {
    /// The bits of each: decimals are not read back exactly.
    losses: Vec<u64>,
}

/// Writes them whole or not at all.
pub fn save(path: &Path, losses: &[f64]) -> io::Result<()> {
    let losses = losses.iter().map(|loss| loss.to_bits()).collect();
    kept::write(path, |file| Ok(serde_json::to_writer(file, &Kept { losses })?))
}

/// Reads `count` of them; `None` when they are not there, or damaged.
pub fn load(path: &Path, count: usize) -> Option<Vec<f64>> {
    let kept: Kept = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let losses: Vec<f64> = kept.losses.into_iter().map(f64::from_bits).collect();
    (losses.len() == count && losses.iter().all(|loss| loss.is_finite())).then_some(losses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_read_back_exactly_and_damaged_ones_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k.trial");
        let losses = [0.1, 1e-300, -2.5e-9];
        save(&path, &losses).unwrap();
        assert_eq!(load(&path, 3).unwrap(), losses);
        assert_eq!(load(&path, 2), None);
        save(&path, &[f64::NAN]).unwrap();
        assert_eq!(load(&path, 1), None);
        fs::write(&path, "{\"losses\": [1").unwrap();
        assert_eq!(load(&path, 1), None);
        kept::remove(&path);
        assert_eq!(load(&path, 1), None);
    }
}
