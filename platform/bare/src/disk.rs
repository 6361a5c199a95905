//! What lies where on a card: a partition table (MBR), a FAT partition with the configuration, and
//! a partition that is the image.

use core::cell::RefCell;
use core::fmt;

use embedded_sdmmc::{
    Block, BlockCount, BlockDevice, BlockIdx, Error as FatError, Mode, TimeSource, Timestamp,
    VolumeIdx, VolumeManager,
};
use rill::seams::{Storage, StorageError, StorageErrorKind};

use crate::config::CONFIG_BYTES;
use crate::storage::BLOCK;

/// Type of the partition that is an image.
pub const IMAGE_TYPE: u8 = 0xda;
/// Name of the configuration.
pub const CONFIG_NAME: &str = "RILL.CFG";

const TABLE_AT: usize = 446;
const ENTRY_BYTES: usize = 16;
const SIGNATURE_AT: usize = 510;
const SIGNATURE: [u8; 2] = [0x55, 0xaa];

/// A partition, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// Why a card cannot be used.
#[derive(Debug)]
pub enum DiskError {
    /// It cannot be read.
    Storage(StorageError),
    /// It has no partition table.
    NoTable,
    /// No partition is an image.
    NoImage,
    /// The FAT partition is damaged or of an unknown kind.
    Fat(FatError<StorageError>),
    /// The configuration is longer than it may be.
    ConfigTooLong,
    /// The configuration is not UTF-8.
    ConfigNotText,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Storage(error) => write!(f, "the card cannot be read: {error}"),
            Self::NoTable => {
                write!(f, "the card has no partition table (MBR); write an image made for it")
            }
            Self::NoImage => write!(
                f,
                "no partition of the card holds a model (type {IMAGE_TYPE:#x}); write an image \
                 made for it"
            ),
            Self::Fat(error) => write!(f, "the boot partition cannot be read: {error}"),
            Self::ConfigTooLong => {
                write!(f, "{CONFIG_NAME} has more than {CONFIG_BYTES} bytes")
            }
            Self::ConfigNotText => write!(f, "{CONFIG_NAME} is not UTF-8 text"),
        }
    }
}

impl core::error::Error for DiskError {}

/// Finds the partition that is an image.
pub fn image_partition(disk: &mut dyn Storage<'static>) -> Result<Partition, DiskError> {
    let mut block = Aligned([0; BLOCK]);
    disk.read_patiently(0, &mut block.0).map_err(DiskError::Storage)?;
    if block.0[SIGNATURE_AT..] != SIGNATURE {
        return Err(DiskError::NoTable);
    }
    block.0[TABLE_AT..SIGNATURE_AT]
        .chunks_exact(ENTRY_BYTES)
        .find(|entry| entry[4] == IMAGE_TYPE)
        .map(|entry| {
            let word = |at: usize| {
                let mut word = [0; 4];
                word.copy_from_slice(&entry[at..at + 4]);
                u64::from(u32::from_le_bytes(word)) * BLOCK as u64
            };
            Partition { start: word(8), len: word(12) }
        })
        .ok_or(DiskError::NoImage)
}

/// Reads the configuration into `buffer`; empty when the first partition's root folder has none.
pub fn read_config<'b>(
    disk: &mut dyn Storage<'static>,
    buffer: &'b mut [u8; CONFIG_BYTES],
) -> Result<&'b str, DiskError> {
    let manager: VolumeManager<_, _, 1, 1, 1> =
        VolumeManager::new_with_limits(Sectors(RefCell::new(disk)), NoTime, 0);
    let volume = manager.open_volume(VolumeIdx(0)).map_err(DiskError::Fat)?;
    let root = volume.open_root_dir().map_err(DiskError::Fat)?;
    let file = match root.open_file_in_dir(CONFIG_NAME, Mode::ReadOnly) {
        Ok(file) => file,
        Err(FatError::NotFound) => return Ok(""),
        Err(error) => return Err(DiskError::Fat(error)),
    };
    let mut len = 0;
    while !file.is_eof() {
        if len == buffer.len() {
            return Err(DiskError::ConfigTooLong);
        }
        len += file.read(&mut buffer[len..]).map_err(DiskError::Fat)?;
    }
    core::str::from_utf8(&buffer[..len]).map_err(|_| DiskError::ConfigNotText)
}

/// A block where devices can put it.
#[repr(align(64))]
struct Aligned([u8; BLOCK]);

/// A disk as the FAT library wants it: block by block, never written.
struct Sectors<'d>(RefCell<&'d mut dyn Storage<'static>>);

impl BlockDevice for Sectors<'_> {
    type Error = StorageError;

    fn read(&self, blocks: &mut [Block], start: BlockIdx) -> Result<(), StorageError> {
        let mut disk = self.0.borrow_mut();
        let mut aligned = Aligned([0; BLOCK]);
        let mut offset = u64::from(start.0) * BLOCK as u64;
        for block in blocks {
            disk.read_patiently(offset, &mut aligned.0)?;
            block.contents.copy_from_slice(&aligned.0);
            offset += BLOCK as u64;
        }
        Ok(())
    }

    fn write(&self, _: &[Block], _: BlockIdx) -> Result<(), StorageError> {
        Err(StorageError { kind: StorageErrorKind::Permanent, code: 0 })
    }

    fn num_blocks(&self) -> Result<BlockCount, StorageError> {
        let blocks = self.0.borrow().geometry().len / BLOCK as u64;
        Ok(BlockCount(u32::try_from(blocks).unwrap_or(u32::MAX)))
    }
}

/// Nothing is written, so nobody asks.
struct NoTime;

impl TimeSource for NoTime {
    fn get_timestamp(&self) -> Timestamp {
        Timestamp {
            year_since_1970: 0,
            zero_indexed_month: 0,
            zero_indexed_day: 0,
            hours: 0,
            minutes: 0,
            seconds: 0,
        }
    }
}
