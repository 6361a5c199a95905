//! Images for ExecuTorch's runtime: a program (`.pte`), the backend that it delegates to, and what others
//! need to use both.
//!
//! A program is `head | padding to 16 KiB | the image, byte for byte`: its segments are ranges of the image.
//! So the backend, and `rill` itself, find the image in it and read experts straight from the file.

pub mod backend;
mod flat;
pub mod made;
pub mod program;
pub mod sdk;
mod segments;
mod tokenizer;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rill::image::Section;
use serde_json::{Map, Value, json};
use xtask::workspace;

use super::bundle::Bundle;
use super::sizes::Sizes;
use super::{Inputs, licences, put};
use backend::Backend;

/// The program, in the folder that is made.
pub const PROGRAM: &str = "model.pte";
/// What C programs include.
pub const HEADER: &str = "platform/ffi/include/rill.h";
/// What of the repository goes along, and where to.
const FILES: [(&str, &str); 5] = [
    (HEADER, "include/rill.h"),
    ("platform/executorch/include/rill_backend.h", "include/rill_backend.h"),
    ("platform/executorch/examples/chat.cpp", "examples/chat.cpp"),
    ("platform/executorch/examples/CMakeLists.txt", "examples/CMakeLists.txt"),
    ("platform/executorch/README.md", "README.md"),
];
const CMAKE: &str = "platform/executorch/cmake/RillBackendConfig.cmake";

/// Makes the folder; returns it.
pub fn make(inputs: &Inputs, output: &Path) -> Result<Vec<PathBuf>> {
    let board = &inputs.board;
    let made = tempfile::Builder::new().prefix(".rill").tempdir_in(output)?;
    let backend = backend::build(board, made.path())?;
    let others = licences::collect(&licences::Linked::library(board))?;
    let folder = made.path().join(format!("rill-{}", board.name));
    let mut bundle = Bundle::new(&folder);
    let sizes = fill(inputs, &backend, &others, &mut bundle)?;
    bundle.finish()?;
    println!("{sizes}");
    sizes.check(&board.name)?;
    Ok(vec![put(&folder, output)?])
}

/// Writes all files of the folder.
fn fill(inputs: &Inputs, backend: &Backend, others: &str, bundle: &mut Bundle) -> Result<Sizes> {
    let board = &inputs.board;
    let mut sizes = Sizes::default();
    let shared = bundle.copy("lib/librill_backend.so", &backend.shared, 0o644)?;
    sizes.add("shared library", shared).limit("sizes.program", Some(board.sizes.program));
    sizes.add_sections(&backend.shared)?;
    sizes.add("static library", bundle.copy("lib/librill_backend.a", &backend.archive, 0o644)?);

    let mut program = program::open(&inputs.model, inputs.ram)?;
    let bytes = bundle.add(PROGRAM, &mut program.content, 0o644)?;
    ensure!(bytes == program.bytes, "{} became shorter", inputs.model.display());
    sizes.add("program", bytes);
    let mut model = File::open(&inputs.model)?;
    let section = program::section(&mut model, &program.image.header, Section::Tokenizer)?;
    let shape = &program.image.manifest.shape;
    let text = tokenizer::json(&section, shape.vocab)?;
    sizes.add("tokenizer", bundle.write("tokenizer.json", &text, 0o644)?);

    let mut bytes = 0;
    for (from, to) in FILES {
        bytes += bundle.copy(to, &workspace::root().join(from), 0o644)?;
    }
    let cmake = fs::read_to_string(workspace::root().join(CMAKE)).context(CMAKE)?;
    let cmake = cmake.replace("@EXECUTORCH@", sdk::VERSION);
    bytes += bundle.write("lib/cmake/RillBackend/RillBackendConfig.cmake", &cmake, 0o644)?;
    sizes.add("for those who build", bytes);
    sizes.add("licences", bundle.licences(others)?);

    let hashes = bundle.sums().map(|(path, sum)| (path.to_owned(), sum.into()));
    let manifest = json!({
        "rill": env!("CARGO_PKG_VERSION"),
        "target": board.target,
        "executorch": sdk::VERSION,
        "program": {
            "format": "ET12",
            "backend": flat::BACKEND,
            "version": program::VERSION,
            "model": program.image.manifest.name.as_str(),
            "identity": format!("{:016x}", program.image.header.identity()),
            "vocabulary": shape.vocab,
            "context": program.context,
            "budget": inputs.ram,
        },
        "sha256": hashes.collect::<Map<String, Value>>(),
    });
    let text = serde_json::to_string_pretty(&manifest)? + "\n";
    sizes.add("manifest", bundle.write("manifest.json", &text, 0o644)?);
    Ok(sizes)
}
