use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::CheckpointError;
use super::source::{Source, Store};
use crate::stored::Stored;

/// The open files of a checkpoint.
#[derive(Debug, Default)]
pub struct Files {
    files: Vec<(PathBuf, Box<dyn Source>)>,
}

impl Files {
    /// Opens one more file and returns its number.
    pub(super) fn open(
        &mut self,
        store: &dyn Store,
        path: &Path,
    ) -> Result<(usize, &dyn Source), CheckpointError> {
        let file =
            store.open(path).map_err(|error| CheckpointError::Read { path: path.into(), error })?;
        self.files.push((path.into(), file));
        let number = self.files.len() - 1;
        Ok((number, &*self.files[number].1))
    }

    /// Reads `rows` of `part`, as stored.
    pub fn read(
        &self,
        part: &Part,
        rows: Range<usize>,
        into: &mut Vec<u8>,
    ) -> Result<(), CheckpointError> {
        debug_assert!(rows.start <= rows.end && rows.end <= part.rows);
        let (path, file) = &self.files[part.file];
        into.resize(rows.len() * part.row_bytes(), 0);
        let at = part.offset + (rows.start * part.row_bytes()) as u64;
        file.read_at(at, part.end, into)
            .map_err(|error| CheckpointError::Read { path: path.clone(), error })
    }
}

/// A matrix in a file: rows one after the other. A vector is one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The tensor that it is, or is cut from.
    pub name: String,
    /// The file's number.
    file: usize,
    /// First byte.
    offset: u64,
    /// Where its tensor ends: what is read next is likely to lie before that.
    end: u64,
    /// Encoding.
    pub stored: Stored,
    /// How many rows.
    pub rows: usize,
    /// Weights of a row: whole blocks.
    pub cols: usize,
}

impl Part {
    /// Bytes of a row.
    pub const fn row_bytes(&self) -> usize {
        self.cols / self.stored.block() * self.stored.block_bytes()
    }

    /// Some of its rows.
    pub fn cut(&self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        let offset = self.offset + (rows.start * self.row_bytes()) as u64;
        Self { name: self.name.clone(), offset, rows: rows.len(), ..*self }
    }
}

/// A tensor in a file, whose bytes are known to lie inside it.
#[derive(Debug)]
pub(super) struct Located {
    pub file: usize,
    pub offset: u64,
    /// The encoding, or what the file calls one that cannot be read.
    pub stored: Result<Stored, String>,
    /// Sizes, slowest first.
    pub dims: Vec<u64>,
}

/// All tensors of a checkpoint by name.
#[derive(Debug, Default)]
pub(super) struct Tensors {
    by_name: HashMap<String, Located>,
}

impl Tensors {
    /// Adds a tensor; false when there is one of this name.
    pub fn add(&mut self, name: String, tensor: Located) -> bool {
        self.by_name.insert(name, tensor).is_none()
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Its sizes, slowest first.
    pub fn dims(&self, name: &str) -> Result<&[u64], CheckpointError> {
        Ok(&self.find(name)?.dims)
    }

    /// A tensor of these sizes, slowest first; sizes of 1 do not count. Three sizes make one
    /// matrix of the first two's product of rows.
    pub fn get(&self, name: &str, dims: &[u64]) -> Result<Part, CheckpointError> {
        let tensor = self.find(name)?;
        let counted =
            |dims: &[u64]| -> Vec<u64> { dims.iter().copied().filter(|&dim| dim != 1).collect() };
        let stored = tensor
            .stored
            .clone()
            .map_err(|kind| CheckpointError::TensorType { name: name.into(), kind })?;
        let sizes = dims.split_last().and_then(|(&cols, outer)| {
            let rows = outer.iter().try_fold(1_u64, |rows, &dim| rows.checked_mul(dim))?;
            Some((usize::try_from(rows).ok()?, usize::try_from(cols).ok()?))
        });
        match sizes {
            // The container's reader has checked that blocks are whole in the file's own rows.
            Some((rows, cols))
                if counted(&tensor.dims) == counted(dims)
                    && cols.is_multiple_of(stored.block()) =>
            {
                let mut part = Part {
                    name: name.into(),
                    file: tensor.file,
                    offset: tensor.offset,
                    end: tensor.offset,
                    stored,
                    rows,
                    cols,
                };
                part.end += (rows * part.row_bytes()) as u64;
                Ok(part)
            }
            _ => Err(CheckpointError::TensorShape {
                name: name.into(),
                found: tensor.dims.clone(),
                expected: dims.into(),
            }),
        }
    }

    fn find(&self, name: &str) -> Result<&Located, CheckpointError> {
        self.by_name.get(name).ok_or_else(|| CheckpointError::MissingTensor(name.into()))
    }
}
