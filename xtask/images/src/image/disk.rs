//! Disk images: a partition table, FAT32 and raw partitions, written to a sparse file without
//! mounting anything and without being root.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bytesize::ByteSize;
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use fscommon::{BufStream, StreamSlice};
use mbrman::{CHS, MBR, MBRPartitionEntry};

/// Bytes of a sector.
const SECTOR: u64 = 512;
/// Where partitions start is a multiple of this: what cards erase together.
const ALIGN: u64 = 4 << 20;
/// FAT32 has at least this many clusters.
const FAT32_CLUSTERS: u64 = 65_525;
/// MBR type of FAT32 with linear addresses.
const FAT32: u8 = 0x0c;
/// MBR type of data without a file system.
pub const RAW: u8 = 0xda;
/// Identifies disk and boot volume; the same for all, as equal inputs give equal bytes.
pub const SIGNATURE: u32 = 0x4c4c_4952;

/// A partition of a disk.
pub enum Partition {
    /// A FAT32 file system of this size with files, by name.
    Boot {
        /// Its size.
        size: ByteSize,
        /// What is in it: paths with `/` and contents.
        files: Vec<(String, Content)>,
    },
    /// The bytes of a file.
    Raw {
        /// Its MBR type.
        kind: u8,
        /// Where they come from.
        from: PathBuf,
    },
}

/// What is in a file.
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Those of another file.
    Copy(PathBuf),
}

impl Content {
    /// Its length.
    pub fn len(&self) -> Result<u64> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
            Self::Copy(path) => len(path),
        }
    }
}

/// Writes a disk of at least `least` bytes; its length is a power of two, as QEMU's cards ask.
pub fn write(path: &Path, least: ByteSize, partitions: &[Partition]) -> Result<()> {
    let mut places = Vec::new();
    let mut end = ALIGN;
    for partition in partitions {
        let bytes = match partition {
            Partition::Boot { size, .. } => size.as_u64(),
            Partition::Raw { from, .. } => len(from)?,
        };
        let bytes = bytes.next_multiple_of(SECTOR);
        places.push((end, bytes));
        end = (end + bytes).next_multiple_of(ALIGN);
    }
    let total = end.max(least.as_u64()).next_power_of_two();
    let mut disk = File::options().read(true).write(true).create_new(true).open(path)?;
    disk.set_len(total)?;
    let mut table = MBR::new_from(&mut disk, SECTOR as u32, SIGNATURE.to_le_bytes())?;
    for (i, (partition, (start, bytes))) in partitions.iter().zip(&places).enumerate() {
        let sector = |bytes: u64| u32::try_from(bytes / SECTOR).context("beyond 2 TiB");
        let slot = table.get_mut(i + 1).context("a disk has at most four partitions")?;
        *slot = MBRPartitionEntry {
            boot: if i == 0 { mbrman::BOOT_ACTIVE } else { mbrman::BOOT_INACTIVE },
            first_chs: CHS::empty(),
            sys: match partition {
                Partition::Boot { .. } => FAT32,
                Partition::Raw { kind, .. } => *kind,
            },
            last_chs: CHS::empty(),
            starting_lba: sector(*start)?,
            sectors: sector(*bytes)?,
        };
    }
    table.write_into(&mut disk)?;
    for (partition, (start, bytes)) in partitions.iter().zip(&places) {
        match partition {
            Partition::Boot { files, .. } => format(&disk, *start, *bytes, files)?,
            Partition::Raw { from, .. } => {
                let mut file = File::open(from).with_context(|| from.display().to_string())?;
                copy_sparse(&mut file, &mut disk, *start)?;
            }
        }
    }
    disk.sync_all()?;
    Ok(())
}

/// Copies a file to where a new disk has zeros; what is zero stays a hole.
fn copy_sparse(from: &mut File, disk: &mut File, start: u64) -> Result<()> {
    let mut block = vec![0; 1 << 16];
    let mut at = start;
    loop {
        let len = from.read(&mut block)?;
        if len == 0 {
            return Ok(());
        }
        if block[..len].iter().any(|&byte| byte != 0) {
            disk.seek(SeekFrom::Start(at))?;
            disk.write_all(&block[..len])?;
        }
        at += len as u64;
    }
}

/// Makes a FAT32 file system in a part of a disk.
fn format(disk: &File, start: u64, bytes: u64, files: &[(String, Content)]) -> Result<()> {
    // The smallest clusters waste the least; a table beyond some MiB is slow to look through.
    let mut cluster = SECTOR;
    while bytes / cluster > 4 * FAT32_CLUSTERS {
        cluster *= 2;
    }
    ensure!(bytes / cluster > FAT32_CLUSTERS + 1024, "{bytes} bytes are too few for FAT32");
    let mut part = BufStream::new(StreamSlice::new(disk.try_clone()?, start, start + bytes)?);
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(cluster as u32)
        .volume_id(SIGNATURE)
        .volume_label(*b"RILL       ");
    fatfs::format_volume(&mut part, options)?;
    part.flush()?;
    // Without a clock, as `fatfs` is built here, all files have the same time.
    let volume = FileSystem::new(part, FsOptions::new().update_accessed_date(false))?;
    let root = volume.root_dir();
    for (path, content) in files {
        for (at, _) in path.match_indices('/') {
            root.create_dir(&path[..at])?;
        }
        let mut file = root.create_file(path).with_context(|| path.clone())?;
        file.truncate()?;
        match content {
            Content::Bytes(bytes) => file.write_all(bytes),
            Content::Copy(from) => {
                let mut from = File::open(from).with_context(|| from.display().to_string())?;
                std::io::copy(&mut from, &mut file).map(|_| ())
            }
        }
        .with_context(|| format!("{path} does not fit the boot partition"))?;
    }
    drop(root);
    volume.unmount()?;
    Ok(())
}

fn len(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).with_context(|| path.display().to_string())?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(folder: &Path, name: &str) -> PathBuf {
        let model = folder.join("model");
        std::fs::write(&model, [7; 1000]).unwrap();
        let files = vec![
            ("config.txt".to_owned(), Content::Bytes(b"arm_64bit=1\n".to_vec())),
            ("overlays/a-long-name.dtbo".to_owned(), Content::Copy(model.clone())),
        ];
        let path = folder.join(name);
        let parts = [
            Partition::Boot { size: ByteSize::mib(40), files },
            Partition::Raw { kind: RAW, from: model },
        ];
        write(&path, ByteSize::mib(8), &parts).unwrap();
        path
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = disk(folder.path(), "a.img");
        let mut file = File::open(&path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 64 << 20);
        let table = MBR::read_from(&mut file, 512).unwrap();
        let kinds: Vec<_> = table.iter().map(|(_, part)| part.sys).collect();
        assert_eq!(kinds[..3], [FAT32, RAW, 0]);
        let raw = table.get(2).unwrap();
        assert_eq!((raw.starting_lba % 8192, raw.sectors), (0, 2));
        let mut bytes = [0; 1024];
        file.seek(SeekFrom::Start(u64::from(raw.starting_lba) * 512)).unwrap();
        file.read_exact(&mut bytes).unwrap();
        assert_eq!((bytes[999], bytes[1000]), (7, 0));
        let boot = table.get(1).unwrap();
        let start = u64::from(boot.starting_lba) * 512;
        let end = start + u64::from(boot.sectors) * 512;
        let volume =
            FileSystem::new(StreamSlice::new(file, start, end).unwrap(), FsOptions::new()).unwrap();
        assert_eq!(volume.fat_type(), FatType::Fat32);
        let mut text = String::new();
        volume.root_dir().open_file("CONFIG.TXT").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "arm_64bit=1\n");
        let mut copy = Vec::new();
        let mut file = volume.root_dir().open_file("overlays/a-long-name.dtbo").unwrap();
        file.read_to_end(&mut copy).unwrap();
        assert_eq!(copy, [7; 1000]);
    }

    #[test]
    fn equal_inputs_give_equal_bytes_in_a_sparse_file() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a.img", "b.img"].map(|name| disk(folder.path(), name));
        assert!(std::fs::read(&a).unwrap() == std::fs::read(&b).unwrap());
        assert!(std::fs::metadata(&a).unwrap().blocks() * 512 < 4 << 20);
    }
}
