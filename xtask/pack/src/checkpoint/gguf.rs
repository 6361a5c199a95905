//! LFM2 models in GGUF, as llama.cpp's `convert_hf_to_gguf.py` writes them. Its LFM2 conversion
//! does not permute the rows of q and k.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rill::image::{Sampling, Shape};

use super::source::{Reader, Store};
use super::tensors::{Files, Located, Tensors};
use super::{
    Checkpoint, CheckpointError, LayerTensor, Model, Names, Parts, Swiglu, Words, assemble,
    shortened,
};
use crate::gguf::{self, Gguf, TensorType, Value};
use crate::tokenizer::GgufTokenizer;

/// `expert_gating_func` of sigmoid routing.
const GATING_SIGMOID: u32 = 2;
/// Most files of a split model.
const SPLIT_MOST: u32 = 9999;

/// Opens a GGUF file and, when it is split, all its parts.
pub(super) fn open(store: &dyn Store, path: &Path) -> Result<Checkpoint, CheckpointError> {
    let mut files = Files::default();
    let mut tensors = Tensors::default();
    let first = split_sibling(path, 1).unwrap_or_else(|| path.into());
    let head = add(store, &first, &mut files, &mut tensors)?;
    let split = split_count(&head.metadata)?;
    for number in 2..=split {
        let Some(part) = split_sibling(&first, number) else {
            let reason = format!("it is one of {split} parts, but its name does not say which");
            return Err(CheckpointError::Split { path: first, reason });
        };
        let other = add(store, &part, &mut files, &mut tensors)?;
        let place = other.metadata.get("split.no").and_then(Value::as_u32);
        if split_count(&other.metadata)? != split || place != Some(number - 1) {
            let reason = format!("it is not part {number} of {split} of the model");
            return Err(CheckpointError::Split { path: part, reason });
        }
    }
    let meta = Meta::new(head.metadata)?;
    let names = GgufNames {
        norm: ["token_embd_norm.weight", "output_norm.weight"]
            .into_iter()
            .find(|name| tensors.has(name))
            .unwrap_or("token_embd_norm.weight"),
    };
    let model = model(&meta, &tensors, &names, &first)?;
    let template = meta.text("tokenizer.chat_template").map(str::to_owned);
    let words = Words::Gguf(tokenizer(&meta)?);
    assemble(Parts { model, words, template }, files, &tensors, &names)
}

/// Reads the head of one file and adds its tensors.
fn add(
    store: &dyn Store,
    path: &Path,
    files: &mut Files,
    tensors: &mut Tensors,
) -> Result<Gguf, CheckpointError> {
    let (file, opened) = files.open(store, path)?;
    let mut head = gguf::parse(&mut Reader::new(opened))
        .map_err(|error| CheckpointError::Gguf { path: path.into(), error })?;
    for tensor in std::mem::take(&mut head.tensors) {
        let stored = match tensor.kind {
            TensorType::Known(stored) => Ok(stored),
            TensorType::Unknown(number) => Err(format!("{number} of ggml")),
        };
        let name = tensor.name.clone();
        let located = Located { file, offset: tensor.offset, stored, dims: tensor.dims };
        if !tensors.add(tensor.name, located) {
            let reason = format!("another part has the tensor {name} too");
            return Err(CheckpointError::Split { path: path.into(), reason });
        }
    }
    Ok(head)
}

fn split_count(metadata: &BTreeMap<String, Value>) -> Result<u32, CheckpointError> {
    match metadata.get("split.count") {
        None => Ok(1),
        Some(value) => match value.as_u32() {
            Some(count) if count <= SPLIT_MOST => Ok(count.max(1)),
            _ => Err(bad("split.count", value)),
        },
    }
}

/// `model-00003-of-00005.gguf` for part 3, given the name of any part.
fn split_sibling(path: &Path, number: u32) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let (front, total) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, place) = front.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(place) && digits(total))
        .then(|| path.with_file_name(format!("{stem}-{number:05}-of-{total}.gguf")))
}

/// The metadata with the architecture's prefix known.
struct Meta {
    entries: BTreeMap<String, Value>,
    arch: String,
}

impl Meta {
    fn new(entries: BTreeMap<String, Value>) -> Result<Self, CheckpointError> {
        let arch = entries.get("general.architecture").and_then(Value::as_text);
        match arch {
            Some("lfm2" | "lfm2moe") => Ok(Self { arch: arch.unwrap_or_default().into(), entries }),
            other => Err(CheckpointError::Architecture(other.unwrap_or("none").into())),
        }
    }

    fn moe(&self) -> bool {
        self.arch == "lfm2moe"
    }

    /// The full name of one of the architecture's keys.
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    /// An entry of the architecture that may be missing.
    fn maybe<T>(
        &self,
        name: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, CheckpointError> {
        self.optional(&self.key(name), read)
    }

    /// An entry of the architecture.
    fn need<T>(
        &self,
        name: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, CheckpointError> {
        self.maybe(name, read)?.ok_or_else(|| CheckpointError::MissingKey(self.key(name)))
    }

    /// An entry by its full name.
    fn optional<T>(
        &self,
        key: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, CheckpointError> {
        let Some(value) = self.entries.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| bad(key, value))
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.entries.get(key).and_then(Value::as_text)
    }
}

fn bad(key: &str, value: &Value) -> CheckpointError {
    CheckpointError::BadKey { key: key.into(), value: shortened(value) }
}

/// A number, or an array that holds the same one for every layer.
fn uniform(value: &Value) -> Option<u32> {
    value.as_u32().or_else(|| {
        let all = value.as_u32s()?;
        let first = *all.first()?;
        all.iter().all(|&x| x == first).then_some(first)
    })
}

fn model(
    meta: &Meta,
    tensors: &Tensors,
    names: &GgufNames,
    path: &Path,
) -> Result<Model, CheckpointError> {
    let layers = meta.need("block_count", Value::as_u32)? as usize;
    let hidden = meta.need("embedding_length", Value::as_u32)?;
    let heads = meta.need("attention.head_count", uniform)?;
    let head_dim = match meta.maybe("attention.key_length", Value::as_u32)? {
        Some(length) => length,
        None => hidden.checked_div(heads).unwrap_or(0),
    };
    // One number for each layer, 0 where it convolves; a single number says that all attend.
    let kv = meta.need("attention.head_count_kv", |value| {
        value.as_u32s().or_else(|| value.as_u32().map(|n| vec![n; layers.min(1 << 16)]))
    })?;
    let kv_heads = kv.iter().copied().max().unwrap_or(0);
    if kv.len() != layers || kv.iter().any(|&n| n != 0 && n != kv_heads) {
        let key = meta.key("attention.head_count_kv");
        return Err(CheckpointError::BadKey { key, value: shortened(&kv) });
    }
    refuse_unsupported(meta, head_dim)?;
    let dense_layers = if meta.moe() {
        meta.maybe("leading_dense_block_count", Value::as_u32)?.unwrap_or(0) as usize
    } else {
        layers
    };
    let moe = |name| if meta.moe() { meta.need(name, Value::as_u32) } else { Ok(0) };
    let embedding = tensors.dims(names.embedding())?;
    let vocab = embedding.first().and_then(|&rows| u32::try_from(rows).ok()).unwrap_or(u32::MAX);
    let bias = |layer| tensors.has(&names.of(LayerTensor::ExpertBias, layer));
    let shape = Shape {
        vocab,
        hidden,
        heads,
        kv_heads: if kv_heads == 0 { heads } else { kv_heads },
        head_dim,
        dense_ff: if dense_layers > 0 { meta.need("feed_forward_length", uniform)? } else { 0 },
        expert_ff: moe("expert_feed_forward_length")?,
        experts: moe("expert_count")?,
        top_k: moe("expert_used_count")?,
        conv_width: meta.need("shortconv.l_cache", Value::as_u32)?,
        max_context: meta.need("context_length", Value::as_u32)?,
        rope_theta: meta.need("rope.freq_base", Value::as_f32)?,
        norm_eps: meta.need("attention.layer_norm_rms_epsilon", Value::as_f32)?,
        norm_top_k: meta.maybe("expert_weights_norm", Value::as_bool)?.unwrap_or(true),
        expert_bias: meta.moe() && (dense_layers..layers).any(bias),
        routed_scale: meta.maybe("expert_weights_scale", Value::as_f32)?.unwrap_or(1.0),
    };
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    Ok(Model {
        name: meta.text("general.name").map(str::to_owned).or(stem).unwrap_or_default(),
        shape,
        attention: kv.iter().map(|&n| n != 0).collect(),
        dense_layers,
        tied: !tensors.has(names.head()),
        sampling: sampling(meta)?,
        stops: ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"]
            .into_iter()
            .filter_map(|key| meta.optional(key, Value::as_u32).transpose())
            .collect::<Result<_, _>>()?,
    })
}

fn refuse_unsupported(meta: &Meta, head_dim: u32) -> Result<(), CheckpointError> {
    let unsupported = |what: String| Err(CheckpointError::Unsupported(what));
    if let Some(gating) = meta.maybe("expert_gating_func", Value::as_u32)?
        && gating != GATING_SIGMOID
    {
        return unsupported(format!("the expert gating function {gating}"));
    }
    let scaling = meta.key("rope.scaling.type");
    if let Some(scaling) = meta.text(&scaling)
        && scaling != "none"
    {
        return unsupported(format!("rope scaling of the type {scaling}"));
    }
    if let Some(dims) = meta.maybe("rope.dimension_count", Value::as_u32)?
        && dims != head_dim
    {
        return unsupported(format!("a rotary embedding of {dims} of {head_dim} dimensions"));
    }
    if let Some(length) = meta.maybe("attention.value_length", Value::as_u32)?
        && length != head_dim
    {
        return unsupported(format!("values of {length} dimensions beside keys of {head_dim}"));
    }
    Ok(())
}

fn sampling(meta: &Meta) -> Result<Sampling, CheckpointError> {
    let advice = |name: &str, default: f32| -> Result<f32, CheckpointError> {
        let value = meta.optional(&format!("general.sampling.{name}"), Value::as_f32)?;
        Ok(value.unwrap_or(default))
    };
    let default = Sampling::default();
    Ok(Sampling {
        temperature: advice("temp", default.temperature)?,
        top_k: meta.optional("general.sampling.top_k", Value::as_u32)?.unwrap_or(default.top_k),
        top_p: advice("top_p", default.top_p)?,
        min_p: advice("min_p", default.min_p)?,
        repetition_penalty: advice("penalty_repeat", default.repetition_penalty)?,
    })
}

fn tokenizer(meta: &Meta) -> Result<GgufTokenizer, CheckpointError> {
    let key = |name| format!("tokenizer.ggml.{name}");
    let need = |name| CheckpointError::MissingKey(key(name));
    let texts = |name| -> Result<Vec<String>, CheckpointError> {
        meta.optional(&key(name), |value| value.as_texts().map(<[_]>::to_vec))?
            .ok_or_else(|| need(name))
    };
    Ok(GgufTokenizer {
        model: meta.text(&key("model")).ok_or_else(|| need("model"))?.into(),
        pre: meta.optional(&key("pre"), |value| value.as_text().map(str::to_owned))?,
        tokens: texts("tokens")?,
        token_types: meta.optional(&key("token_type"), Value::as_i32s)?.unwrap_or_default(),
        merges: texts("merges")?,
        bos: meta.optional(&key("bos_token_id"), Value::as_u32)?,
        eos: meta.optional(&key("eos_token_id"), Value::as_u32)?,
        add_bos: meta.optional(&key("add_bos_token"), Value::as_bool)?,
    })
}

struct GgufNames {
    norm: &'static str,
}

impl Names for GgufNames {
    fn embedding(&self) -> &str {
        "token_embd.weight"
    }

    fn head(&self) -> &str {
        "output.weight"
    }

    fn norm(&self) -> &str {
        self.norm
    }

    fn of(&self, tensor: LayerTensor, layer: usize) -> String {
        let name = match tensor {
            LayerTensor::OperatorNorm => "attn_norm.weight",
            LayerTensor::InProj => "shortconv.in_proj.weight",
            LayerTensor::Taps => "shortconv.conv.weight",
            LayerTensor::ConvOut => "shortconv.out_proj.weight",
            LayerTensor::Query => "attn_q.weight",
            LayerTensor::Key => "attn_k.weight",
            LayerTensor::Value => "attn_v.weight",
            LayerTensor::QueryNorm => "attn_q_norm.weight",
            LayerTensor::KeyNorm => "attn_k_norm.weight",
            LayerTensor::AttentionOut => "attn_output.weight",
            LayerTensor::FfnNorm => "ffn_norm.weight",
            LayerTensor::Gate => "ffn_gate.weight",
            LayerTensor::Up => "ffn_up.weight",
            LayerTensor::Down => "ffn_down.weight",
            LayerTensor::Router => "ffn_gate_inp.weight",
            LayerTensor::ExpertBias => "exp_probs_b.bias",
        };
        format!("blk.{layer}.{name}")
    }

    fn experts(
        &self,
        tensors: &Tensors,
        layer: usize,
        shape: &Shape,
    ) -> Result<Vec<Swiglu>, CheckpointError> {
        let [hidden, ff, experts] = [shape.hidden, shape.expert_ff, shape.experts].map(u64::from);
        let get =
            |name: &str, dims: &[u64]| tensors.get(&format!("blk.{layer}.{name}.weight"), dims);
        let gate = get("ffn_gate_exps", &[experts, ff, hidden])?;
        let up = get("ffn_up_exps", &[experts, ff, hidden])?;
        let down = get("ffn_down_exps", &[experts, hidden, ff])?;
        let [hidden, ff] = [shape.hidden, shape.expert_ff].map(|x| x as usize);
        let expert = |e: usize| Swiglu {
            gate_up: [&gate, &up].map(|part| part.cut(e * ff..(e + 1) * ff)),
            down: down.cut(e * hidden..(e + 1) * hidden),
        };
        Ok((0..shape.experts as usize).map(expert).collect())
    }
}
