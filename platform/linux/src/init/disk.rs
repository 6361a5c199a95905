//! The partitions of an appliance's disk.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// Partitions, as device files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partitions {
    /// The model: its image from the first byte on.
    pub model: PathBuf,
    /// An ext4 file system.
    pub state: Option<PathBuf>,
}

/// Identifies the disks of Rill: bytes 440 to 443 of the first sector.
const SIGNATURE: [u8; 4] = *b"RILL";
/// MBR types of the partitions.
const MODEL: u8 = 0xda;
const STATE: u8 = 0x83;
/// How long a card may take to be there, in steps of `STEP`.
const STEPS: u32 = 600;
const STEP: Duration = Duration::from_millis(50);

/// Waits for a disk of Rill and finds its partitions.
pub fn find() -> io::Result<Partitions> {
    for _ in 0..STEPS {
        if let Some(found) = look(Path::new("/sys/block"), Path::new("/dev"))? {
            return Ok(found);
        }
        sleep(STEP);
    }
    Err(io::Error::other("no disk with a model: is the card in its slot?"))
}

/// Looks at the disks that there are. `devices` has a file for each entry of `blocks`.
fn look(blocks: &Path, devices: &Path) -> io::Result<Option<Partitions>> {
    for entry in fs::read_dir(blocks)? {
        let name = entry?.file_name();
        let Some([model, state]) = kinds(&devices.join(&name)) else { continue };
        let partition = |number: usize| {
            let name = name.to_string_lossy();
            // mmcblk0p1, but sda1.
            let between = if name.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
            let path = devices.join(format!("{name}{between}{number}"));
            path.exists().then_some(path)
        };
        if let Some(model) = model.and_then(partition) {
            return Ok(Some(Partitions { model, state: state.and_then(partition) }));
        }
    }
    Ok(None)
}

/// The numbers of the model's and the state's partitions; `None` for another disk, or one that
/// cannot be read yet.
fn kinds(disk: &Path) -> Option<[Option<usize>; 2]> {
    let mut sector = [0; 512];
    File::open(disk).ok()?.read_exact(&mut sector).ok()?;
    if sector[440..444] != SIGNATURE || sector[510..] != [0x55, 0xaa] {
        return None;
    }
    let of_kind = |kind: u8| (1..=4).find(|number| sector[446 + 16 * (number - 1) + 4] == kind);
    Some([MODEL, STATE].map(of_kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(signature: &[u8; 4], kinds: [u8; 4]) -> Vec<u8> {
        let mut sector = vec![0; 1024];
        sector[440..444].copy_from_slice(signature);
        for (i, kind) in kinds.into_iter().enumerate() {
            sector[446 + 16 * i + 4] = kind;
        }
        sector[510..512].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    #[test]
    fn partitions_are_found_by_signature_and_type() {
        let folder = tempfile::tempdir().unwrap();
        let [blocks, devices] = ["sys", "dev"].map(|name| folder.path().join(name));
        for name in ["sda", "vda", "mmcblk0", "sr0"] {
            fs::create_dir_all(blocks.join(name)).unwrap();
        }
        fs::create_dir(&devices).unwrap();
        assert_eq!(look(&blocks, &devices).unwrap(), None);
        fs::write(devices.join("vda"), "short").unwrap();
        fs::write(devices.join("sda"), sector(b"ABCD", [0x0c, MODEL, 0, 0])).unwrap();
        fs::write(devices.join("mmcblk0"), sector(b"RILL", [0x0c, STATE, 0, MODEL])).unwrap();
        // The partitions come later than the disk.
        assert_eq!(look(&blocks, &devices).unwrap(), None);
        let [state, model] = ["mmcblk0p2", "mmcblk0p4"].map(|name| devices.join(name));
        fs::write(&model, "").unwrap();
        let found = look(&blocks, &devices).unwrap();
        assert_eq!(found, Some(Partitions { model: model.clone(), state: None }));
        fs::write(&state, "").unwrap();
        let found = look(&blocks, &devices).unwrap();
        assert_eq!(found, Some(Partitions { model, state: Some(state) }));
    }

    #[test]
    fn disks_with_letters_number_their_partitions_directly() {
        let folder = tempfile::tempdir().unwrap();
        let devices = folder.path().join("dev");
        fs::create_dir_all(folder.path().join("sys/vda")).unwrap();
        fs::create_dir(&devices).unwrap();
        fs::write(devices.join("vda"), sector(b"RILL", [MODEL, 0, 0, 0])).unwrap();
        fs::write(devices.join("vda1"), "").unwrap();
        let found = look(&folder.path().join("sys"), &devices).unwrap();
        assert_eq!(found, Some(Partitions { model: devices.join("vda1"), state: None }));
    }
}
