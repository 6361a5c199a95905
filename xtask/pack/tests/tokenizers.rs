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
use serde_json::{Value as Json, json};

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

/// Quadratic checks would take minutes.
#[test]
fn very_many_added_tokens_take_no_time_to_speak_of() {
    let token = |id: usize, content: String, normalized: bool| json!({ "id": id, "content": content, "special": true, "normalized": normalized });
    let add = |tokens: Vec<Json>| {
        packed_folder(|file| file["added_tokens"].as_array_mut().unwrap().extend(tokens))
    };
    // They are more than the model has rows for, which is found after all was checked.
    let flat = (0..200_000).map(|n| token(2000 + n, format!("<|control {n}|>"), n % 2 == 0));
    let error = add(flat.collect()).unwrap_err().to_string();
    assert!(error.contains("overlap") || error.contains("the model only"), "{error}");
    let alike = (0..200_000).map(|n| token(2000 + n, format!("<|control {n}|>"), false));
    let error = add(alike.collect()).unwrap_err().to_string();
    assert!(error.contains("the model only"), "{error}");
    let nested = (0..3000).map(|n| token(2000 + n, format!("<|{}", "~".repeat(n + 1)), n % 2 == 0));
    let error = add(nested.collect()).unwrap_err().to_string();
    assert!(error.contains("can overlap"), "{error}");
    assert!(error.len() < 1000, "{error}");
}

#[test]
fn what_is_beyond_all_use_is_refused_with_its_limit() {
    let error = packed_folder(|file| {
        let vocab = file["model"]["vocab"].as_object_mut().unwrap();
        vocab.extend((0..1 << 20).map(|n| (format!("x{n}"), n.into())));
    });
    assert!(error.unwrap_err().to_string().contains("more than 1048576 tokens"));
    let error = packed_folder(|file| file["decoder"] = vec![0; 1 << 20].into());
    assert!(error.unwrap_err().to_string().contains("at most 1 MiB"));
    let error = packed_folder(|file| file["model"]["type"] = "\u{1b}]x".repeat(1 << 10).into());
    let error = error.unwrap_err().to_string();
    assert!(error.len() < 2000 && !error.contains('\u{1b}'), "{error}");
}
