use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::CheckpointError;
use super::source::{Source, Store};
use crate::stored::Stored;
use xxhash_rust::xxh3::xxh3_64;

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

    /// Tells these files from others, and from themselves when they were changed.
    pub fn identity(&self) -> String {
        let mut identity = String::new();
        for (path, file) in &self.files {
            let changed = std::fs::metadata(path).and_then(|found| found.modified()).ok();
            let path = path.canonicalize().unwrap_or_else(|_| path.clone());
            identity += &format!("{} {} {changed:?}, ", path.display(), file.size());
        }
        format!("files {:016x}", xxh3_64(identity.as_bytes()))
    }

    /// Reads `rows` of `part`.
    pub fn read<'p>(
        &self,
        part: &'p Part,
        rows: Range<usize>,
    ) -> Result<Rows<'p>, CheckpointError> {
        debug_assert!(rows.start <= rows.end && rows.end <= part.rows);
        let first = rows.start;
        let bytes = self.run(part.span, part.row_bytes(), rows.clone())?;
        let scales = match &part.scales {
            Some(scales) if !rows.is_empty() => {
                let lines = scales.line(rows.start)..scales.line(rows.end - 1) + 1;
                let width = scales.across * scales.stored.block_bytes();
                let bytes = self.run(scales.span, width, lines.clone())?;
                let mut numbers = vec![0.0; lines.len() * scales.across];
                scales.stored.dequantise(&bytes, &mut numbers);
                numbers
            }
            _ => Vec::new(),
        };
        Ok(Rows { part, first, bytes, scales })
    }

    /// Reads a run of rows of `width` bytes each.
    fn run(
        &self,
        span: Span,
        width: usize,
        rows: Range<usize>,
    ) -> Result<Vec<u8>, CheckpointError> {
        let (path, file) = &self.files[span.file];
        let mut bytes = vec![0; rows.len() * width];
        file.read_at(span.offset + (rows.start * width) as u64, span.end, &mut bytes)
            .map_err(|error| CheckpointError::Read { path: path.clone(), error })?;
        Ok(bytes)
    }
}

/// Rows of a part as they stand in its file.
#[derive(Debug)]
pub struct Rows<'p> {
    part: &'p Part,
    first: usize,
    bytes: Vec<u8>,
    /// The scales of these rows, line by line.
    scales: Vec<f32>,
}

impl<'p> Rows<'p> {
    /// The part that they are of.
    pub const fn part(&self) -> &'p Part {
        self.part
    }

    /// Row `row` of the part, as stored.
    pub fn stored(&self, row: usize) -> &[u8] {
        let width = self.part.row_bytes();
        &self.bytes[(row - self.first) * width..][..width]
    }

    /// Row `row` of the part, as numbers.
    pub fn decode(&self, row: usize, weights: &mut [f32]) {
        self.part.stored.dequantise(self.stored(row), weights);
        if let Some(scales) = &self.part.scales {
            let line = scales.line(row) - scales.line(self.first);
            let line = &self.scales[line * scales.across..][..scales.across];
            for (weights, scale) in weights.chunks_mut(scales.block[1]).zip(line) {
                weights.iter_mut().for_each(|weight| *weight *= scale);
            }
        }
    }
}

/// Where a tensor lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    /// The file's number.
    file: usize,
    /// First byte.
    offset: u64,
    /// Where its tensor ends: what is read next is likely to lie before that.
    end: u64,
}

/// A matrix in a file: rows one after the other. A vector is one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The tensor that it is, or is cut from.
    pub name: String,
    span: Span,
    /// Encoding.
    pub stored: Stored,
    /// How many rows.
    pub rows: usize,
    /// Weights of a row: whole blocks.
    pub cols: usize,
    /// What multiplies its weights.
    scales: Option<Scales>,
}

impl Part {
    /// Bytes of a row.
    pub const fn row_bytes(&self) -> usize {
        self.cols / self.stored.block() * self.stored.block_bytes()
    }

    /// Some of its rows.
    pub fn cut(&self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        let mut part = Self { name: self.name.clone(), rows: rows.len(), ..*self };
        part.span.offset += (rows.start * self.row_bytes()) as u64;
        if let Some(scales) = &mut part.scales {
            scales.first += rows.start;
        }
        part
    }
}

/// A tensor of numbers that each multiply a rectangle of a part's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scales {
    span: Span,
    stored: Stored,
    /// Rows and columns of weights that share one.
    block: [usize; 2],
    /// How many a line has: one for each rectangle beside another.
    across: usize,
    /// Lines, and rows of weights, of each of the matrices that the tensor stacks.
    lines: usize,
    matrix: usize,
    /// Which row of the tensor the part begins with.
    first: usize,
}

impl Scales {
    /// The line for row `row` of the part.
    const fn line(&self, row: usize) -> usize {
        let row = self.first + row;
        row / self.matrix * self.lines + row % self.matrix / self.block[0]
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
    /// With each whether it was asked for.
    by_name: HashMap<String, (Located, Cell<bool>)>,
}

/// Endings of the names of tensors that scale the tensor without the ending. Both multiply.
const SCALES: [&str; 2] = ["_scale_inv", "_scale"];
/// Rows and columns of weights that share a scale where there are several of both:
/// `weight_block_size` of all published models.
const SCALE_BLOCK: [usize; 2] = [128, 128];

impl Tensors {
    /// Adds a tensor; false when there is one of this name.
    pub fn add(&mut self, name: String, tensor: Located) -> bool {
        self.by_name.insert(name, (tensor, Cell::new(false))).is_none()
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// All names, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// The names of those that [`Self::get`] was never asked for, in order.
    pub fn unused(&self) -> Vec<&str> {
        let unused = self.by_name.iter().filter(|(_, (_, used))| !used.get());
        let mut names: Vec<_> = unused.map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// Its sizes, slowest first.
    pub fn dims(&self, name: &str) -> Result<&[u64], CheckpointError> {
        Ok(&self.find(name)?.0.dims)
    }

    /// A tensor of these sizes, slowest first; sizes of 1 do not count. Three sizes make one
    /// matrix of the first two's product of rows.
    pub fn get(&self, name: &str, dims: &[u64]) -> Result<Part, CheckpointError> {
        let (tensor, used) = self.find(name)?;
        used.set(true);
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
                let Located { file, offset, .. } = *tensor;
                let span = Span { file, offset, end: offset };
                let mut part = Part { name: name.into(), span, stored, rows, cols, scales: None };
                part.span.end += (rows * part.row_bytes()) as u64;
                if stored == Stored::F8_E4M3 {
                    let matrices = if dims.len() > 2 { dims[0] as usize } else { 1 };
                    part.scales = Some(self.scales(&part, matrices)?);
                }
                Ok(part)
            }
            _ => Err(CheckpointError::TensorShape {
                name: name.into(),
                found: tensor.dims.clone(),
                expected: dims.into(),
            }),
        }
    }

    /// What scales a part that is `matrices` matrices stacked: one number for each of them or for
    /// all, one a row, or one for each rectangle.
    fn scales(&self, part: &Part, matrices: usize) -> Result<Scales, CheckpointError> {
        let names = SCALES.map(|ending| format!("{}{ending}", part.name));
        let Some(name) = names.iter().find(|name| self.has(name)) else {
            return Err(CheckpointError::MissingTensor(names.join(" or ")));
        };
        let (tensor, used) = self.find(name)?;
        used.set(true);
        let stored = match &tensor.stored {
            Ok(stored @ (Stored::F32 | Stored::F16 | Stored::BF16)) => *stored,
            other => {
                let kind = other.clone().map_or_else(|kind| kind, |stored| stored.name().into());
                return Err(CheckpointError::TensorType { name: name.clone(), kind });
            }
        };
        let matrix = part.rows.checked_div(matrices).unwrap_or(0).max(1);
        let shape = || CheckpointError::TensorShape {
            name: name.clone(),
            found: tensor.dims.clone(),
            expected: [matrices, matrix, part.cols]
                .iter()
                .zip([1, SCALE_BLOCK[0], SCALE_BLOCK[1]])
                .map(|(size, block)| size.div_ceil(block) as u64)
                .collect(),
        };
        let mut dims = Vec::new();
        for &dim in &tensor.dims {
            dims.push(usize::try_from(dim).map_err(|_| shape())?);
        }
        let mut scales = Scales {
            span: Span { file: tensor.file, offset: tensor.offset, end: tensor.offset },
            stored,
            block: [matrix, part.cols.max(1)],
            across: 1,
            lines: 1,
            matrix,
            first: 0,
        };
        let inner =
            if matrices > 1 && dims.first() == Some(&matrices) { &dims[1..] } else { &dims };
        match *inner {
            [] | [1] | [1, 1] if matrices > 1 && inner.len() == dims.len() => {
                // One for all matrices: as if they were one.
                scales.matrix = part.rows.max(1);
                scales.block[0] = scales.matrix;
            }
            _ if matrices > 1 && inner.len() == dims.len() => return Err(shape()),
            [] | [1] | [1, 1] => {}
            [lines] | [lines, 1] if lines == matrix => {
                scales.lines = lines;
                scales.block[0] = 1;
            }
            [lines, across]
                if lines == matrix.div_ceil(SCALE_BLOCK[0])
                    && across == part.cols.div_ceil(SCALE_BLOCK[1]) =>
            {
                (scales.lines, scales.across) = (lines, across);
                scales.block = SCALE_BLOCK;
            }
            _ => return Err(shape()),
        }
        let count = scales.lines * scales.across * (part.rows.max(1) / scales.matrix);
        scales.span.end += (count * stored.block_bytes()) as u64;
        Ok(scales)
    }

    fn find(&self, name: &str) -> Result<&(Located, Cell<bool>), CheckpointError> {
        self.by_name.get(name).ok_or_else(|| CheckpointError::MissingTensor(name.into()))
    }
}
