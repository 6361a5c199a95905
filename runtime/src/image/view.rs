use super::checksum::checksum;
use super::layout::{BLOCK, Format, MatrixShape, TENSOR_ALIGN, TILE_ROWS, align_up};
use super::manifest::{Ffn, Manifest, ManifestError, Mixer};
use super::template::TEMPLATE_MAX;
use crate::seams::{Storage, StorageError};

/// First bytes of every image.
pub const MAGIC: [u8; 8] = *b"RILL\r\n\x1a\n";
/// The version this code reads and writes.
pub const FORMAT_VERSION: u32 = 3;
/// The weight layout of [`super::layout`].
pub const LAYOUT_TILES_16X32: u32 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 256;
/// Sections start, and pages start and end, at multiples of this.
pub const PAGE_ALIGN: usize = 16 << 10;
/// What a page's parts are aligned to where they can be read one at a time.
pub const SPLIT_ALIGN: usize = 4 << 10;
/// How many sections an image has.
pub const SECTIONS: usize = 6;

/// Largest manifest that is read; the largest legal one is smaller.
const MANIFEST_MAX: usize = 4 << 10;
const HEADER_SUM_AT: usize = PAGE_LEN_AT + 8;
const SPANS_AT: usize = 24;
const PAGE_LEN_AT: usize = SPANS_AT + 24 * SECTIONS;

/// The parts of an image, in file order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Section {
    /// [`Manifest`].
    Manifest,
    /// The tokenizer's tables.
    Tokenizer,
    /// The checkpoint's chat template: [`ChatTemplate`](super::ChatTemplate).
    Template,
    /// The always-used tensors.
    Resident,
    /// Two checksums a page.
    PageSums,
    /// The experts.
    Pages,
}

impl Section {
    /// All of them, in file order.
    pub const ALL: [Self; SECTIONS] = [
        Self::Manifest,
        Self::Tokenizer,
        Self::Template,
        Self::Resident,
        Self::PageSums,
        Self::Pages,
    ];

    /// What it is called in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Tokenizer => "tokenizer",
            Self::Template => "chat template",
            Self::Resident => "resident weights",
            Self::PageSums => "page checksums",
            Self::Pages => "pages",
        }
    }
}

/// Where a section lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Span {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// XXH3-64 of them; 0 for the pages.
    pub checksum: u64,
}

impl Span {
    /// One past the last byte.
    pub const fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// The first 256 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the file.
    pub file_len: u64,
    /// Where each section lies, by [`Section`] order.
    pub spans: [Span; SECTIONS],
    /// Bytes of one page, padding included.
    pub page_len: u64,
}

/// Why an image cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ImageError {
    /// It does not begin with the magic bytes.
    NotAnImage,
    /// It has another version of the format.
    Version(u32),
    /// Its weights lie in an order that no kernel here reads.
    Layout(u32),
    /// The header contradicts itself.
    Header,
    /// The file is shorter than its header says.
    Truncated {
        /// Bytes it should have.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// A section's bytes are not those that were written.
    Checksum(Section),
    /// The manifest is unusable.
    Manifest(ManifestError),
    /// A section has not the length that the manifest implies.
    Length(Section),
    /// The tokenizer's tables contradict themselves.
    Tokenizer,
    /// The device failed while this section was read.
    Storage(Section, StorageError),
}

impl core::fmt::Display for ImageError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotAnImage => write!(f, "not a Rill image; make one with `rill pack`"),
            Self::Version(v) => write!(
                f,
                "image format {v}, this program reads format {FORMAT_VERSION}; pack the model again"
            ),
            Self::Layout(v) => write!(f, "weight layout {v} is unknown here; pack the model again"),
            Self::Header => write!(f, "the header is damaged; copy or pack the image again"),
            Self::Truncated { expected, found } => {
                write!(f, "the file has {found} of {expected} bytes; copy it again")
            }
            Self::Checksum(section) => {
                write!(f, "the {} section is damaged; copy or pack the image again", section.name())
            }
            Self::Manifest(error) => error.fmt(f),
            Self::Length(section) => {
                write!(f, "the {} section does not fit the manifest; pack again", section.name())
            }
            Self::Tokenizer => write!(f, "the tokenizer tables are inconsistent; pack again"),
            Self::Storage(section, error) => write!(f, "reading the {}: {error}", section.name()),
        }
    }
}

impl core::error::Error for ImageError {}

impl From<ManifestError> for ImageError {
    fn from(error: ManifestError) -> Self {
        Self::Manifest(error)
    }
}

impl Header {
    /// Lays out a file with sections of these lengths; checksums are still 0.
    pub fn new(lens: [u64; SECTIONS], page_len: u64) -> Self {
        let mut end = HEADER_BYTES as u64;
        let spans = lens.map(|len| {
            let offset = end.next_multiple_of(PAGE_ALIGN as u64);
            end = offset + len;
            Span { offset, len, checksum: 0 }
        });
        Self { file_len: end.next_multiple_of(PAGE_ALIGN as u64), spans, page_len }
    }

    /// Where `section` lies.
    pub const fn span(&self, section: Section) -> Span {
        self.spans[section as usize]
    }

    /// Reads a section and checks it. `buffer` has room for it, is as long as the device asks of reads, and
    /// aligned.
    pub fn read<'b>(
        &self,
        section: Section,
        storage: &mut dyn Storage<'_>,
        buffer: &'b mut [u8],
    ) -> Result<&'b [u8], ImageError> {
        let Span { offset, len, checksum: sum } = self.span(section);
        let read = storage.read_patiently(offset, buffer);
        read.map_err(|error| ImageError::Storage(section, error))?;
        let bytes = &buffer[..len as usize];
        if checksum(bytes) == sum { Ok(bytes) } else { Err(ImageError::Checksum(section)) }
    }

    /// What tells this image from others: a checksum of the header, which has those of all sections.
    pub fn identity(&self) -> u64 {
        checksum(&self.to_bytes())
    }

    /// The header as it stands in the file.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&LAYOUT_TILES_16X32.to_le_bytes());
        let mut at = 16;
        let spans = self.spans.iter().flat_map(|s| [s.offset, s.len, s.checksum]);
        for word in [self.file_len].into_iter().chain(spans).chain([self.page_len]) {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
            at += 8;
        }
        debug_assert_eq!(at, HEADER_SUM_AT);
        let sum = checksum(&bytes[..HEADER_SUM_AT]);
        bytes[HEADER_SUM_AT..HEADER_SUM_AT + 8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads and checks a header. Nothing of the rest of the file is looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let found = bytes.len() as u64;
        if bytes.len() >= MAGIC.len() && bytes[..MAGIC.len()] != MAGIC {
            return Err(ImageError::NotAnImage);
        }
        let Some((bytes, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(ImageError::Truncated { expected: HEADER_BYTES as u64, found });
        };
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let version = word(8) as u32;
        if version != FORMAT_VERSION {
            return Err(ImageError::Version(version));
        }
        if word(HEADER_SUM_AT) != checksum(&bytes[..HEADER_SUM_AT])
            || bytes[HEADER_SUM_AT + 8..].iter().any(|&byte| byte != 0)
        {
            return Err(ImageError::Header);
        }
        let layout = (word(8) >> 32) as u32;
        if layout != LAYOUT_TILES_16X32 {
            return Err(ImageError::Layout(layout));
        }
        let span = |i: usize| {
            let at = SPANS_AT + 24 * i;
            Span { offset: word(at), len: word(at + 8), checksum: word(at + 16) }
        };
        let header = Self {
            file_len: word(16),
            spans: core::array::from_fn(span),
            page_len: word(PAGE_LEN_AT),
        };
        // Lengths determine everything else, so a header is right when it equals a new one.
        if header.spans.iter().any(|span| span.len > 1 << 50) {
            return Err(ImageError::Header);
        }
        let mut expected = Self::new(header.spans.map(|span| span.len), header.page_len);
        for (new, old) in expected.spans.iter_mut().zip(&header.spans) {
            new.checksum = old.checksum;
        }
        if header != expected || header.span(Section::Pages).checksum != 0 {
            return Err(ImageError::Header);
        }
        Ok(header)
    }
}

/// How a page is made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct PageShape {
    /// Gate and up, interleaved: (2 expert_ff, hidden).
    pub gate_up: MatrixShape,
    /// Down: (hidden, expert_ff).
    pub down: MatrixShape,
}

impl PageShape {
    /// Bytes of the page, padding included.
    pub const fn bytes(&self) -> usize {
        align_up(self.gate_up.bytes() + self.down.bytes(), PAGE_ALIGN)
    }

    /// Where down starts: at the first multiple of 4096 after gate and up when that makes the
    /// page no longer, so that both parts can be read straight from a block device, one at a
    /// time; else right after them.
    pub const fn down_at(&self) -> usize {
        let aligned = align_up(self.gate_up.bytes(), SPLIT_ALIGN);
        if aligned + self.down.bytes() <= self.bytes() { aligned } else { self.gate_up.bytes() }
    }

    /// Whether a device that asks for this alignment can read the two parts one at a time.
    pub const fn splits_at(&self, alignment: usize) -> bool {
        self.down_at().is_multiple_of(alignment)
    }
}

/// Bytes of the resident section.
pub type Extent = core::ops::Range<usize>;

/// A quantised matrix's shape, and where it is in the resident section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatrixExtent {
    /// Its shape.
    pub shape: MatrixShape,
    /// Its bytes.
    pub extent: Extent,
}

/// Where every tensor of the resident section lies. It follows from the manifest alone: there are
/// no offsets in the file that could be wrong.
///
/// Order: embedding, head when it is not tied, final norm; then layer by layer the operator norm,
/// the mixer's tensors, the feed-forward norm, the feed-forward's tensors, each in the order of
/// the fields below and at a multiple of 64 bytes.
pub struct Resident {
    next: usize,
}

/// Tensors that belong to no layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadTensors {
    /// (vocab, hidden).
    pub embedding: MatrixExtent,
    /// (vocab, hidden) when not tied.
    pub head: Option<MatrixExtent>,
    /// (hidden,) f32.
    pub norm: Extent,
}

/// Tensors of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerTensors {
    /// (hidden,) f32.
    pub operator_norm: Extent,
    /// What mixes tokens.
    pub mixer: MixerTensors,
    /// (hidden,) f32.
    pub ffn_norm: Extent,
    /// What transforms each token.
    pub ffn: FfnTensors,
}

/// Tensors of a mixer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MixerTensors {
    /// Gated short convolution.
    Conv {
        /// (3 hidden, hidden): B, C, x.
        in_proj: MatrixExtent,
        /// (conv_width, hidden) f32, oldest tap first.
        taps: Extent,
        /// (hidden, hidden).
        out_proj: MatrixExtent,
    },
    /// Grouped-query attention.
    Attention {
        /// ((heads + 2 kv_heads) head_dim, hidden).
        qkv: MatrixExtent,
        /// (head_dim,) f32.
        q_norm: Extent,
        /// (head_dim,) f32.
        k_norm: Extent,
        /// (hidden, heads head_dim).
        out_proj: MatrixExtent,
    },
}

/// Tensors of a feed-forward part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FfnTensors {
    /// One SwiGLU for all.
    Dense {
        /// Interleaved, (2 dense_ff, hidden).
        gate_up: MatrixExtent,
        /// (hidden, dense_ff).
        down: MatrixExtent,
    },
    /// A router before a bank of pages.
    Moe {
        /// (experts, hidden) f32 in tile rows: `[tile row][column][16]`.
        router: Extent,
        /// (experts,) f32; zeros when the model has none.
        bias: Extent,
    },
}

impl Resident {
    /// Walks the resident section: `each` is called for the layers, first to last. Returns the
    /// tensors of no layer and the length of the section.
    pub fn of(
        manifest: &Manifest,
        mut each: impl FnMut(usize, LayerTensors),
    ) -> (HeadTensors, usize) {
        let (head, mut walk) = Self::begin(manifest);
        for index in 0..manifest.layers.len() {
            each(index, walk.next_layer(manifest, index));
        }
        (head, walk.next)
    }

    /// Begins a walk with the tensors of no layer. [`Self::next_layer`] goes on.
    pub fn begin(manifest: &Manifest) -> (HeadTensors, Self) {
        let mut walk = Self { next: 0 };
        let shape = &manifest.shape;
        let [hidden, vocab] = [shape.hidden, shape.vocab].map(|x| x as usize);
        let head = HeadTensors {
            embedding: walk.matrix(manifest.embedding, vocab, hidden),
            head: manifest.head.map(|format| walk.matrix(format, vocab, hidden)),
            norm: walk.floats(hidden),
        };
        (head, walk)
    }

    /// The tensors of layer `index`; to be called for 0, 1, 2 and so on.
    pub fn next_layer(&mut self, manifest: &Manifest, index: usize) -> LayerTensors {
        let layer = &manifest.layers[index];
        self.layer(manifest, layer.mixer, layer.ffn)
    }

    fn layer(&mut self, manifest: &Manifest, mixer: Mixer, ffn: Ffn) -> LayerTensors {
        let shape = &manifest.shape;
        let hidden = shape.hidden as usize;
        let head_dim = shape.head_dim as usize;
        let q_dim = shape.heads as usize * head_dim;
        let kv_dim = shape.kv_heads as usize * head_dim;
        LayerTensors {
            operator_norm: self.floats(hidden),
            mixer: match mixer {
                Mixer::Conv { in_proj, out_proj } => MixerTensors::Conv {
                    in_proj: self.matrix(in_proj, 3 * hidden, hidden),
                    taps: self.floats(shape.conv_width as usize * hidden),
                    out_proj: self.matrix(out_proj, hidden, hidden),
                },
                Mixer::Attention { qkv, out_proj } => MixerTensors::Attention {
                    qkv: self.matrix(qkv, q_dim + 2 * kv_dim, hidden),
                    q_norm: self.floats(head_dim),
                    k_norm: self.floats(head_dim),
                    out_proj: self.matrix(out_proj, hidden, q_dim),
                },
            },
            ffn_norm: self.floats(hidden),
            ffn: match ffn {
                Ffn::Dense { gate_up, down } => FfnTensors::Dense {
                    gate_up: self.matrix(gate_up, 2 * shape.dense_ff as usize, hidden),
                    down: self.matrix(down, hidden, shape.dense_ff as usize),
                },
                Ffn::Moe => FfnTensors::Moe {
                    router: self.floats(align_up(shape.experts as usize, TILE_ROWS) * hidden),
                    bias: self.floats(shape.experts as usize),
                },
            },
        }
    }

    fn matrix(&mut self, format: Format, rows: usize, cols: usize) -> MatrixExtent {
        let shape = MatrixShape { format, rows, cols };
        MatrixExtent { shape, extent: self.take(shape.bytes()) }
    }

    fn floats(&mut self, count: usize) -> Extent {
        self.take(count * 4)
    }

    fn take(&mut self, bytes: usize) -> Extent {
        let start = self.next;
        self.next = align_up(start + bytes, TENSOR_ALIGN);
        start..start + bytes
    }
}

/// A checked image: what is needed to plan, to load and to find every page.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Where everything lies.
    pub header: Header,
    /// The model.
    pub manifest: Manifest,
}

impl Image {
    /// Reads header and manifest from a device and checks them against each other.
    ///
    /// `scratch` is a buffer of at least [`PAGE_ALIGN`] bytes, aligned as the device asks.
    pub fn open(storage: &mut dyn Storage<'_>, scratch: &mut [u8]) -> Result<Self, ImageError> {
        let found = storage.geometry().len;
        let scratch = &mut scratch[..PAGE_ALIGN];
        let at = |section| move |error| ImageError::Storage(section, error);
        // A file shorter than a section's alignment can only be something else or cut.
        if found < 2 * PAGE_ALIGN as u64 {
            let head = (found as usize).min(HEADER_BYTES);
            let aligned = head - head % storage.geometry().alignment as usize;
            storage.read_patiently(0, &mut scratch[..aligned]).map_err(at(Section::Manifest))?;
            Header::parse(&scratch[..aligned])?;
            return Err(ImageError::Truncated { expected: 2 * PAGE_ALIGN as u64, found });
        }
        storage.read_patiently(0, scratch).map_err(at(Section::Manifest))?;
        let header = Header::parse(scratch)?;
        if found < header.file_len {
            return Err(ImageError::Truncated { expected: header.file_len, found });
        }
        if header.span(Section::Manifest).len > MANIFEST_MAX as u64 {
            return Err(ImageError::Length(Section::Manifest));
        }
        let bytes = header.read(Section::Manifest, storage, scratch)?;
        Self::check(header, Manifest::decode(bytes)?)
    }

    /// Joins a header and a manifest that agree.
    pub fn check(header: Header, manifest: Manifest) -> Result<Self, ImageError> {
        let image = Self { header, manifest };
        let (_, resident) = Resident::of(&image.manifest, |_, _| {});
        let pages = image.manifest.pages() as u64;
        let page = image.page_shape().map_or(0, |shape| shape.bytes() as u64);
        let agree = |section, len| {
            if header.span(section).len == len { Ok(()) } else { Err(ImageError::Length(section)) }
        };
        if header.span(Section::Template).len > TEMPLATE_MAX as u64 {
            return Err(ImageError::Length(Section::Template));
        }
        agree(Section::Resident, resident as u64)?;
        agree(Section::PageSums, pages * 16)?;
        agree(Section::Pages, pages * page)?;
        if header.page_len != page {
            return Err(ImageError::Length(Section::Pages));
        }
        Ok(image)
    }

    /// How this image's pages are made up; `None` for a dense model.
    pub fn page_shape(&self) -> Option<PageShape> {
        page_shape(&self.manifest)
    }

    /// First byte of a page in the file.
    pub const fn page_offset(&self, page: u32) -> u64 {
        self.header.span(Section::Pages).offset + page as u64 * self.header.page_len
    }
}

/// How the pages of such a model are made up; `None` when it has none.
pub fn page_shape(manifest: &Manifest) -> Option<PageShape> {
    let shape = &manifest.shape;
    (manifest.pages() > 0).then(|| {
        let [hidden, ff] = [shape.hidden, shape.expert_ff].map(|x| x as usize);
        debug_assert!(ff.is_multiple_of(BLOCK));
        PageShape {
            gate_up: MatrixShape { format: manifest.page_gate_up, rows: 2 * ff, cols: hidden },
            down: MatrixShape { format: manifest.page_down, rows: hidden, cols: ff },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_a_changed_bit_is_noticed() {
        let mut header = Header::new([100, 5000, 300, 70_000, 64, 4 * 32_768], 32_768);
        header.spans[0].checksum = 7;
        let bytes = header.to_bytes();
        assert_eq!(Header::parse(&bytes), Ok(header));
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::parse(&bad).is_err(), "bit {bit}");
        }
        for len in 0..HEADER_BYTES {
            assert!(Header::parse(&bytes[..len]).is_err());
        }
    }

    #[test]
    fn pages_of_the_8b_model_are_5_9_mib() {
        let shape = PageShape {
            gate_up: MatrixShape { format: Format::Q4, rows: 3584, cols: 2048 },
            down: MatrixShape { format: Format::Q4, rows: 2048, cols: 1792 },
        };
        assert_eq!(shape.bytes(), 6_193_152);
    }
}
