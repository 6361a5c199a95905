//! The kiosk model, packed once a process for each way of packing.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use rill::image::layout::Format;
use rill_pack::{Calibration, Options, Quiet, pack, pack_calibrated};

/// Everything as packed by default: int4 experts, the rest int8.
pub const DEFAULT: Options =
    Options { experts: Format::Q4, dense: Format::Q8, embedding: Format::Q8 };
/// int8 everywhere.
pub const Q8: Options = Options { experts: Format::Q8, dense: Format::Q8, embedding: Format::Q8 };

/// A file of the kiosk folder.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/kiosk").join(name)
}

/// The image of the first `layers` layers in RAM: their last may be one of attention.
pub fn first_layers(layers: usize) -> &'static [u8] {
    configured(|config| {
        config["num_hidden_layers"] = layers.into();
        config["layer_types"].as_array_mut().expect("layers have types").truncate(layers);
    })
}

/// The image of a model that says of itself that it was made for so many positions.
pub fn of_context(positions: u32) -> &'static [u8] {
    configured(|config| config["max_position_embeddings"] = positions.into())
}

/// The image of the model with another chat template.
pub fn with_template(template: &str) -> &'static [u8] {
    changed(|folder| {
        std::fs::write(folder.join("chat_template.jinja"), template)
            .expect("there is room for temporary files");
    })
}

/// The image of the model with control tokens for tools, and a template that shows them.
pub fn with_tools() -> &'static [u8] {
    static IMAGE: OnceLock<&[u8]> = OnceLock::new();
    IMAGE.get_or_init(|| {
        changed(|folder| {
            let template = std::fs::read_to_string(path("tools.jinja")).expect("it is there");
            let file = folder.join("tokenizer.json");
            let text = std::fs::read(&file).expect("a checkpoint has a tokenizer");
            let mut tokenizer: serde_json::Value =
                serde_json::from_slice(&text).expect("it is JSON");
            let vocab = tokenizer["model"]["vocab"].as_object().expect("it has a vocabulary");
            let first = vocab.values().filter_map(serde_json::Value::as_u64).max().unwrap_or(0) + 1;
            let names = template.match_indices("<|tool_").map(|(at, _)| {
                let name = &template[at..];
                &name[..name.find("|>").expect("a name ends") + 2]
            });
            let mut known = std::collections::BTreeSet::new();
            let added = tokenizer["added_tokens"].as_array_mut().expect("it has control tokens");
            for (id, name) in (first..).zip(names.filter(|name| known.insert(*name))) {
                let mut token = added[0].clone();
                token["content"] = name.into();
                token["id"] = id.into();
                added.push(token);
            }
            std::fs::write(&file, tokenizer.to_string()).expect("there is room");
            std::fs::write(folder.join("chat_template.jinja"), template).expect("there is room");
        })
    })
}

/// The image of the model with another configuration.
fn configured(change: impl FnOnce(&mut serde_json::Value)) -> &'static [u8] {
    changed(|folder| {
        let file = folder.join("config.json");
        let text = std::fs::read(&file).expect("a checkpoint has a configuration");
        let mut config: serde_json::Value = serde_json::from_slice(&text).expect("it is JSON");
        change(&mut config);
        std::fs::write(&file, config.to_string()).expect("there is room for temporary files");
    })
}

/// The image of a copy of the model's folder that was changed.
fn changed(change: impl FnOnce(&Path)) -> &'static [u8] {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    for file in std::fs::read_dir(path("kiosk-16m")).expect("the kiosk folder is there") {
        let file = file.expect("the kiosk folder can be read");
        std::fs::copy(file.path(), folder.path().join(file.file_name())).expect("it can be copied");
    }
    change(folder.path());
    packed(folder.path(), &DEFAULT)
}

/// The image of `source` (a name in the kiosk folder) in RAM.
pub fn image(source: &'static str, options: Options) -> &'static [u8] {
    static PACKED: Mutex<Vec<(&str, Options, &[u8])>> = Mutex::new(Vec::new());
    let mut packed = PACKED.lock().expect("no test panics while packing");
    if let Some((.., bytes)) = packed.iter().find(|(s, o, _)| (*s, *o) == (source, options)) {
        return bytes;
    }
    let bytes = self::packed(&path(source), &options);
    packed.push((source, options, bytes));
    bytes
}

fn packed(source: &Path, options: &Options) -> &'static [u8] {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let file = folder.path().join("kiosk.rill");
    pack(source, &file, options, &Quiet).expect("the kiosk model packs");
    std::fs::read(&file).expect("it was just written").leak()
}

/// As packed by default, without calibration: at once.
pub fn default_image() -> &'static [u8] {
    image("kiosk-16m", DEFAULT)
}

/// As built into the program: calibrated.
pub fn built_in_image() -> &'static [u8] {
    static IMAGE: OnceLock<&[u8]> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        let file = folder.path().join("kiosk.rill");
        let texts = ["calibration.jsonl", "calibration.txt"].map(|name| path("texts").join(name));
        let calibration = Calibration::with(&texts);
        pack_calibrated(&path("kiosk-16m"), &file, &DEFAULT, &calibration, &Quiet)
            .expect("the kiosk model packs");
        std::fs::read(&file).expect("it was just written").leak()
    })
}
