//! Losses that were measured, for the next attempt.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Kept {
    /// The bits of each: decimals are not read back exactly.
    losses: Vec<u64>,
}

/// Writes them whole or not at all.
pub fn save(path: &Path, losses: &[f64]) -> io::Result<()> {
    let losses = losses.iter().map(|loss| loss.to_bits()).collect();
    let new = beside(path);
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(&Kept { losses })?)?;
    file.sync_data()?;
    fs::rename(&new, path)
}

/// Reads `count` of them; `None` when they are not there, or damaged.
pub fn load(path: &Path, count: usize) -> Option<Vec<f64>> {
    let kept: Kept = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let losses: Vec<f64> = kept.losses.into_iter().map(f64::from_bits).collect();
    (losses.len() == count && losses.iter().all(|loss| loss.is_finite())).then_some(losses)
}

/// Removes what was written.
pub fn remove(path: &Path) {
    // It is of no use to an image that is complete or given up.
    let _ = fs::remove_file(path);
    let _ = fs::remove_file(beside(path));
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
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
        remove(&path);
        assert_eq!(load(&path, 1), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
