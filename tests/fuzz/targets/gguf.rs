//! Reads and packs GGUF files: any bytes, and a sound file with damage. Nothing may panic, and no
//! length in a file may make the packer allocate more than the file has.

#![no_main]

use std::fs;
use std::io::Cursor;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use rill_fuzz::common::gguf_file;
use rill_fuzz::{Edit, tiny};
use rill_pack::stored::Stored;
use rill_pack::{Quiet, gguf, pack};

#[derive(Debug, Arbitrary)]
enum File {
    /// These bytes after the magic number and the version.
    Raw(Vec<u8>),
    /// A sound file with edits to its head, which is where the structure is, and a cut.
    Damaged { edits: Vec<Edit>, cut: Option<u32> },
}

/// A sound file, and how much of it is not weights.
fn sound() -> (Vec<u8>, usize) {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let path = folder.path().join("tiny.gguf");
    let tensors = gguf_file::tensors(tiny().tensors(), |_| Stored::Q4_0);
    gguf_file::write(&path, &gguf_file::metadata(&tiny()), &tensors);
    let bytes = fs::read(path).expect("it was just written");
    let head = gguf::parse(&mut Cursor::new(&bytes)).expect("it is sound");
    let weights = head.tensors.iter().map(|tensor| tensor.offset).min();
    (bytes, weights.expect("it has tensors") as usize)
}

thread_local! {
    static SOUND: (Vec<u8>, usize) = sound();
    // In RAM: images are synced to disk, which would take most of the time.
    static FOLDER: tempfile::TempDir =
        tempfile::tempdir_in("/dev/shm").expect("there is room for temporary files");
}

fuzz_target!(|file: File| {
    let bytes = match file {
        File::Raw(rest) => [b"GGUF\x03\0\0\0", rest.as_slice()].concat(),
        File::Damaged { edits, cut } => {
            let (mut bytes, head) = SOUND.with(Clone::clone);
            edits.iter().for_each(|edit| edit.apply(&mut bytes[..head]));
            bytes.truncate(cut.map_or(usize::MAX, |cut| cut as usize));
            bytes
        }
    };
    if gguf::parse(&mut Cursor::new(&bytes)).is_err() {
        return;
    }
    // What can be read may still not be a model.
    FOLDER.with(|folder| {
        let (source, image) = (folder.path().join("fuzz.gguf"), folder.path().join("fuzz.rill"));
        fs::write(&source, &bytes).expect("there is room for temporary files");
        let _ = pack(&source, &image, &Default::default(), &Quiet);
    });
});
