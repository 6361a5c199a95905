//! LFM2 models as Hugging Face folders: JSON beside one or many safetensors files.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use rill::image::Shape;
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::config::{Config, Generation};
use super::source::{self, Reader, Store};
use super::tensors::{Files, Located, Tensors};
use super::{Checkpoint, CheckpointError, LayerTensor, Names, Parts, Swiglu, Words, assemble};
use crate::output::cached_name;
use crate::stored::Stored;

/// Largest safetensors head, a limit of the format.
const HEAD_MOST: u64 = 100_000_000;
/// Largest `tokenizer.json`: several times that of any vocabulary in use.
const TOKENIZER_MOST: u64 = 64 << 20;
/// Largest other text.
const TEXT_MOST: u64 = 8 << 20;

/// Opens a Hugging Face folder.
pub(super) fn open(store: &dyn Store, folder: &Path) -> Result<Checkpoint, CheckpointError> {
    let file = folder.join("config.json");
    let Some(config) = optional_text(store, &file)? else {
        return Err(CheckpointError::Unrecognised(folder.into()));
    };
    let config: Config = parsed(&file, &config)?;
    let generation: Generation = optional_json(store, &folder.join("generation_config.json"))?;
    let tokenizer_config = optional_text(store, &folder.join("tokenizer_config.json"))?;
    let template = match optional_text(store, &folder.join("chat_template.jinja"))? {
        Some(template) => Some(template),
        None => tokenizer_config.as_deref().and_then(template_inside),
    };
    let mut files = Files::default();
    let mut tensors = Tensors::default();
    for shard in shards(store, folder)? {
        add(store, &shard, &mut files, &mut tensors)?;
    }
    let mut notes = Vec::new();
    let model = config.model(name_of(store, folder), &generation, &mut notes)?;
    refuse_foreign(&tensors)?;
    refuse_pooled(store, folder)?;
    let file = folder.join("tokenizer.json");
    let tokenizer = source::text(store, &file, TOKENIZER_MOST)
        .map_err(|error| CheckpointError::Read { path: file, error })?;
    let words = Words::Json(tokenizer, tokenizer_config);
    assemble(Parts { model, words, template, notes }, files, &tensors, &HubNames)
}

/// Refuses weights in another program's encoding by the names of its tensors, for folders whose
/// configuration was taken from the plain model.
fn refuse_foreign(tensors: &Tensors) -> Result<(), CheckpointError> {
    let programs = [
        (".qweight", "AWQ or GPTQ"),
        (".weight_packed", "compressed-tensors as pack-quantized"),
        (".biases", "MLX"),
        (".absmax", "bitsandbytes"),
    ];
    for (ending, program) in programs {
        if tensors.names().any(|name| name.ends_with(ending)) {
            return Err(CheckpointError::Quantised(program.into()));
        }
    }
    Ok(())
}

/// Refuses a folder of sentence-transformers, which makes one vector of a text.
fn refuse_pooled(store: &dyn Store, folder: &Path) -> Result<(), CheckpointError> {
    match optional_text(store, &folder.join("modules.json"))? {
        None => Ok(()),
        Some(_) => {
            let what = "modules.json, which makes one vector of a text (pooling)";
            Err(CheckpointError::Unsupported(what.into()))
        }
    }
}

/// The folder's own name, or the repository's whose it is.
fn name_of(store: &dyn Store, folder: &Path) -> String {
    let whole = store.whole_path(folder);
    if let Some(name) = cached_name(&whole) {
        return name.to_string_lossy().into_owned();
    }
    whole.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn optional_text(store: &dyn Store, path: &Path) -> Result<Option<String>, CheckpointError> {
    match source::text(store, path, TEXT_MOST) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CheckpointError::Read { path: path.into(), error }),
    }
}

fn parsed<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, CheckpointError> {
    serde_json::from_str(text).map_err(|error| damaged(path, &error))
}

fn optional_json<T: DeserializeOwned + Default>(
    store: &dyn Store,
    path: &Path,
) -> Result<T, CheckpointError> {
    optional_text(store, path)?.map_or_else(|| Ok(T::default()), |text| parsed(path, &text))
}

fn damaged(path: &Path, reason: &dyn std::fmt::Display) -> CheckpointError {
    CheckpointError::Damaged { path: path.into(), reason: reason.to_string() }
}

/// The template of `tokenizer_config.json`: a text, or several with names, one of them "default".
fn template_inside(tokenizer_config: &str) -> Option<String> {
    let config: Value = serde_json::from_str(tokenizer_config).ok()?;
    match config.get("chat_template")? {
        Value::String(template) => Some(template.clone()),
        Value::Array(named) => named
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|entry| Some(entry.get("template")?.as_str()?.to_owned())),
        _ => None,
    }
}

/// `model.safetensors.index.json`.
#[derive(Debug, Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The safetensors files, in a fixed order.
fn shards(store: &dyn Store, folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let index = folder.join("model.safetensors.index.json");
    let Some(text) = optional_text(store, &index)? else {
        return Ok(vec![folder.join("model.safetensors")]);
    };
    let Index { weight_map } = parsed(&index, &text)?;
    let names: BTreeSet<String> = weight_map.into_values().collect();
    names
        .into_iter()
        .map(|name| {
            if Path::new(&name).file_name() == Some(name.as_ref()) {
                Ok(folder.join(name))
            } else {
                Err(damaged(&index, &format_args!("it names a file outside the folder: {name}")))
            }
        })
        .collect()
}

/// Reads the head of one safetensors file and adds its tensors.
fn add(
    store: &dyn Store,
    path: &Path,
    files: &mut Files,
    tensors: &mut Tensors,
) -> Result<(), CheckpointError> {
    let (file, source) = files.open(store, path)?;
    let read = |error| CheckpointError::Read { path: path.into(), error };
    let len = source.size();
    let mut opened = Reader::new(source);
    let mut count = [0; 8];
    if len < count.len() as u64 {
        return Err(damaged(path, &"it is empty or cut"));
    }
    opened.read_exact(&mut count).map_err(read)?;
    let head_len = u64::from_le_bytes(count);
    if head_len > HEAD_MOST || head_len > len.saturating_sub(8) {
        return Err(damaged(path, &"its head is longer than the file or the format allows"));
    }
    let mut head = vec![0; head_len as usize];
    opened.read_exact(&mut head).map_err(read)?;
    // Deserialising checks that the tensors lie one after the other and have their sizes.
    let metadata: Metadata = serde_json::from_slice(&head).map_err(|e| damaged(path, &e))?;
    let start = 8 + head_len;
    if len - start < metadata.data_len() as u64 {
        return Err(damaged(path, &"it is cut off"));
    }
    for (name, info) in metadata.tensors() {
        let stored = match info.dtype {
            Dtype::F32 => Ok(Stored::F32),
            Dtype::F16 => Ok(Stored::F16),
            Dtype::BF16 => Ok(Stored::BF16),
            Dtype::F8_E4M3 => Ok(Stored::F8_E4M3),
            other => Err(format!("{other:?}")),
        };
        let dims = info.shape.iter().map(|&dim| dim as u64).collect();
        let offset = start + info.data_offsets.0 as u64;
        if !tensors.add(name.clone(), Located { file, offset, stored, dims }) {
            let reason = format!("another part has the tensor {name} too");
            return Err(CheckpointError::Split { path: path.into(), reason });
        }
    }
    Ok(())
}

struct HubNames;

impl Names for HubNames {
    fn embedding(&self) -> &str {
        "model.embed_tokens.weight"
    }

    fn head(&self) -> &str {
        "lm_head.weight"
    }

    fn norm(&self) -> &str {
        "model.embedding_norm.weight"
    }

    fn of(&self, tensor: LayerTensor, layer: usize) -> String {
        let name = match tensor {
            LayerTensor::OperatorNorm => "operator_norm.weight",
            LayerTensor::InProj => "conv.in_proj.weight",
            LayerTensor::Taps => "conv.conv.weight",
            LayerTensor::ConvOut => "conv.out_proj.weight",
            LayerTensor::Query => "self_attn.q_proj.weight",
            LayerTensor::Key => "self_attn.k_proj.weight",
            LayerTensor::Value => "self_attn.v_proj.weight",
            LayerTensor::QueryNorm => "self_attn.q_layernorm.weight",
            LayerTensor::KeyNorm => "self_attn.k_layernorm.weight",
            LayerTensor::AttentionOut => "self_attn.out_proj.weight",
            LayerTensor::FfnNorm => "ffn_norm.weight",
            LayerTensor::Gate => "feed_forward.w1.weight",
            LayerTensor::Up => "feed_forward.w3.weight",
            LayerTensor::Down => "feed_forward.w2.weight",
            LayerTensor::Router => "feed_forward.gate.weight",
            LayerTensor::ExpertBias => "feed_forward.expert_bias",
        };
        format!("model.layers.{layer}.{name}")
    }

    fn layers(&self) -> &str {
        "model.layers."
    }

    /// On the hub experts lie one by one; transformers' own class fuses them into
    /// `gate_up_proj` (experts, 2 ff, hidden), gate before up, and `down_proj`
    /// (experts, hidden, ff).
    fn experts(
        &self,
        tensors: &Tensors,
        layer: usize,
        shape: &Shape,
    ) -> Result<Vec<Swiglu>, CheckpointError> {
        let [hidden, ff, experts] = [shape.hidden, shape.expert_ff, shape.experts].map(u64::from);
        let prefix = format!("model.layers.{layer}.feed_forward.experts");
        let fused = format!("{prefix}.gate_up_proj");
        if !tensors.has(&fused) {
            return (0..experts)
                .map(|e| {
                    let get =
                        |w, dims: &[u64]| tensors.get(&format!("{prefix}.{e}.{w}.weight"), dims);
                    Ok(Swiglu {
                        gate_up: [get("w1", &[ff, hidden])?, get("w3", &[ff, hidden])?],
                        down: get("w2", &[hidden, ff])?,
                    })
                })
                .collect();
        }
        let gate_up = tensors.get(&fused, &[experts, 2 * ff, hidden])?;
        let down = tensors.get(&format!("{prefix}.down_proj"), &[experts, hidden, ff])?;
        let [hidden, ff] = [shape.hidden, shape.expert_ff].map(|x| x as usize);
        let expert = |e: usize| Swiglu {
            gate_up: [2 * e, 2 * e + 1].map(|half| gate_up.cut(half * ff..(half + 1) * ff)),
            down: down.cut(e * hidden..(e + 1) * hidden),
        };
        Ok((0..shape.experts as usize).map(expert).collect())
    }
}
