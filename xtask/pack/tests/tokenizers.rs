//! Tokenizers as files have them: spellings of one split, and files made to cost time or memory.

mod common;

use std::fs;
use std::path::Path;

use common::gguf_file::{self, Raw};
use common::hub_folder;
use common::tiny::Tiny;
use rill_pack::gguf::Value;
use rill_pack::stored::Stored;
use rill_pack::{Options, PackError, Quiet, pack};
use serde_json::Value as Json;

/// Packs a source and returns the image.
fn packed(source: &Path) -> Result<Vec<u8>, PackError> {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("m.rill");
    pack(source, &image, &Options::default(), &Quiet)?;
    Ok(fs::read(image).unwrap())
}

/// Packs a folder of a tiny model whose `tokenizer.json` was changed.
fn packed_folder(change: impl FnOnce(&mut Json)) -> Result<Vec<u8>, PackError> {
    let tiny = Tiny::default();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("model");
    hub_folder::write(&source, &tiny.config(), &tiny.tensors());
    let file = source.join("tokenizer.json");
    let mut tokenizer: Json = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    change(&mut tokenizer);
    fs::write(file, tokenizer.to_string()).unwrap();
    packed(&source)
}

/// Packs a GGUF file of a tiny model whose metadata was changed.
fn packed_gguf(change: impl FnOnce(&mut Vec<(String, Value)>)) -> Result<Vec<u8>, PackError> {
    let tiny = Tiny::default();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("model.gguf");
    let mut metadata = gguf_file::metadata(&tiny);
    change(&mut metadata);
    let tensors: Vec<Raw> = gguf_file::tensors(tiny.tensors(), |_| Stored::F32);
    gguf_file::write(&source, &metadata, &tensors);
    packed(&source)
}

/// LFM2.5's spelling of the split.
const LFM25: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s";

fn set_pattern(pattern: &str) -> impl FnOnce(&mut Json) {
    move |file| {
        file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern.into();
    }
}

#[test]
fn a_split_that_is_spelled_otherwise_gives_the_same_image() {
    let plain = packed_folder(|_| {}).unwrap();
    assert!(packed_folder(set_pattern(LFM25)).unwrap() == plain);
    let longer = packed_folder(set_pattern(&LFM25.replace("{1,3}", "+"))).unwrap();
    assert!(longer != plain, "it says that numbers stay whole");
}

#[test]
fn a_split_that_cuts_otherwise_is_refused_with_an_example() {
    let error = packed_folder(set_pattern(&LFM25.replace("{1,3}", "{1,2}"))).unwrap_err();
    let text = error.to_string();
    for part in [r"\p{N}{1,2}", "\"000\"", "Llama 3's"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    // What would take a backtracking engine for ever is not run.
    let error = packed_folder(set_pattern(r"(\p{L}+)+\p{N}|(?:(?:a|a)*b)*c")).unwrap_err();
    assert!(error.to_string().contains("Llama 3's"), "{error}");
}

#[test]
fn a_gguf_file_that_does_not_name_its_split_has_that_of_its_family() {
    let plain = packed_gguf(|_| {}).unwrap();
    let without = packed_gguf(|metadata| metadata.retain(|(key, _)| key != "tokenizer.ggml.pre"));
    assert!(without.unwrap() == plain);
    let other = packed_gguf(|metadata| {
        let pre = metadata.iter_mut().find(|(key, _)| key == "tokenizer.ggml.pre").unwrap();
        pre.1 = Value::Text("qwen2".into());
    });
    assert!(other.unwrap_err().to_string().contains("\"qwen2\""));
}
