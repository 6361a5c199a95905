//! The kiosk model, packed once a process for each way of packing.

use std::path::PathBuf;
use std::sync::Mutex;

use rill::image::layout::Format;
use rill_pack::{Options, Quiet, pack};

/// Everything as packed by default: int4 experts, the rest int8.
pub const DEFAULT: Options =
    Options { experts: Format::Q4, dense: Format::Q8, embedding: Format::Q8 };
/// int8 everywhere.
pub const Q8: Options = Options { experts: Format::Q8, dense: Format::Q8, embedding: Format::Q8 };

/// A file of the kiosk folder.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/kiosk").join(name)
}

/// The image of `source` (a name in the kiosk folder) in RAM.
pub fn image(source: &'static str, options: Options) -> &'static [u8] {
    static PACKED: Mutex<Vec<(&str, Options, &[u8])>> = Mutex::new(Vec::new());
    let mut packed = PACKED.lock().expect("no test panics while packing");
    if let Some((.., bytes)) = packed.iter().find(|(s, o, _)| (*s, *o) == (source, options)) {
        return bytes;
    }
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let file = folder.path().join("kiosk.rill");
    pack(&path(source), &file, &options, &Quiet).expect("the kiosk model packs");
    let bytes: &'static [u8] = std::fs::read(&file).expect("it was just written").leak();
    packed.push((source, options, bytes));
    bytes
}

/// As built into the program.
pub fn default_image() -> &'static [u8] {
    image("kiosk-16m", DEFAULT)
}
