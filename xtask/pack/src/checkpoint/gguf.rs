//! LFM2 models in GGUF, as llama.cpp's `convert_hf_to_gguf.py` writes them. Its LFM2 conversion
//! does not permute the rows of q and k.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rill::image::Shape;

use super::advice::{self, Advised};
use super::source::{Reader, Store};
use super::tensors::{Files, Located, Tensors};
use super::{
    Checkpoint, CheckpointError, LayerTensor, Model, Names, Parts, Swiglu, Words, assemble,
    unused_note,
};
use crate::gguf::{self, Gguf, TensorType, Value};
use crate::quoted::{quoted, shortened};
use crate::stored::ggml_name;
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
    let mut notes = Vec::new();
    let model = model(&meta, &tensors, &names, &first, &mut notes)?;
    let template = meta.text("tokenizer.chat_template").map(str::to_owned);
    let words = Words::Gguf(tokenizer(&meta, &mut notes)?);
    notes.extend(meta.not_used());
    assemble(Parts { model, words, template, notes }, files, &tensors, &names)
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
            TensorType::Unknown(number) => {
                Err(ggml_name(number).map_or_else(|| format!("{number} of ggml"), str::to_owned))
            }
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
    /// The keys that were asked for.
    used: RefCell<BTreeSet<String>>,
}

impl Meta {
    fn new(entries: BTreeMap<String, Value>) -> Result<Self, CheckpointError> {
        let arch = entries.get("general.architecture").and_then(Value::as_text);
        match arch {
            Some(arch @ ("lfm2" | "lfm2moe")) => {
                Ok(Self { arch: arch.into(), used: RefCell::default(), entries })
            }
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
        self.used.borrow_mut().insert(key.into());
        read(value).map(Some).ok_or_else(|| bad(key, value))
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.entries.get(key).and_then(Value::as_text)
    }

    /// What to say of the architecture's keys that nothing asked for.
    fn not_used(&self) -> Option<String> {
        let (used, prefix) = (self.used.borrow(), self.key(""));
        let keys = self.entries.keys().filter(|key| key.starts_with(&prefix));
        let unused: Vec<_> = keys.filter(|key| !used.contains(*key)).map(String::as_str).collect();
        unused_note("", &unused)
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
    notes: &mut Vec<String>,
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
        return Err(CheckpointError::BadKey { key, value: shortened(&format_args!("{kv:?}")) });
    }
    let max_context = meta.need("context_length", Value::as_u32)?;
    refuse_unsupported(meta, head_dim, max_context)?;
    let dense_layers = if meta.moe() {
        meta.maybe("leading_dense_block_count", Value::as_u32)?.unwrap_or(0) as usize
    } else {
        layers
    };
    let moe = |name| if meta.moe() { meta.need(name, Value::as_u32) } else { Ok(0) };
    let widths = FeedForward::of(meta, layers, dense_layers)?;
    let embedding = tensors.dims(names.embedding())?;
    let vocab = embedding.first().and_then(|&rows| u32::try_from(rows).ok()).unwrap_or(u32::MAX);
    // It is as long as the embedding, which is believed.
    meta.maybe("vocab_size", |_| Some(()))?;
    let bias = |layer| tensors.has(&names.of(LayerTensor::ExpertBias, layer));
    let shape = Shape {
        vocab,
        hidden,
        heads,
        kv_heads: if kv_heads == 0 { heads } else { kv_heads },
        head_dim,
        dense_ff: widths.dense,
        expert_ff: widths.expert,
        experts: moe("expert_count")?,
        top_k: moe("expert_used_count")?,
        conv_width: meta.need("shortconv.l_cache", Value::as_u32)?,
        max_context,
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
        sampling: advice::sampling(
            |name| {
                let name = match name {
                    "temperature" => "temp",
                    "repetition_penalty" => "penalty_repeat",
                    same => same,
                };
                meta.entries.get(&format!("general.sampling.{name}")).map(Advised::from_gguf)
            },
            notes,
        ),
        stops: ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"]
            .into_iter()
            .filter_map(|key| meta.optional(key, Value::as_u32).transpose())
            .collect::<Result<_, _>>()?,
    })
}

fn refuse_unsupported(meta: &Meta, head_dim: u32, max_context: u32) -> Result<(), CheckpointError> {
    let unsupported = |what: String| Err(CheckpointError::Unsupported(what));
    if let Some(gating) = meta.maybe("expert_gating_func", Value::as_u32)?
        && gating != GATING_SIGMOID
    {
        return unsupported(format!("the expert gating function {gating}"));
    }
    let scaling = meta.maybe("rope.scaling.type", |value| value.as_text().map(str::to_owned))?;
    match scaling.as_deref() {
        Some("none") => {
            // Then nothing else of it counts.
            for key in ["factor", "attn_factor", "original_context_length", "finetuned"] {
                meta.maybe(&format!("rope.scaling.{key}"), |_| Some(()))?;
            }
        }
        Some(scaling) => {
            return unsupported(format!("rope scaling of the type {}", quoted(scaling)));
        }
        None => {}
    }
    refuse_telling(meta, max_context)?;
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

/// Keys that nothing here honours and that change the answers, unless they are off: 0, false,
/// empty, or for factors 1.
const TELLING: [(&str, Off); 26] = [
    ("pooling_type", Off::Zero),
    ("use_parallel_residual", Off::Zero),
    ("attention.clamp_kqv", Off::Zero),
    ("attention.max_alibi_bias", Off::Zero),
    ("attention.scale", Off::Zero),
    ("attention.shared_kv_layers", Off::Zero),
    ("attention.output_scale", Off::One),
    ("attention.temperature_scale", Off::Zero),
    ("attention.temperature_length", Off::Zero),
    ("attn_logit_softcapping", Off::Zero),
    ("final_logit_softcapping", Off::Zero),
    ("router_logit_softcapping", Off::Zero),
    ("logit_scale", Off::One),
    ("residual_scale", Off::One),
    ("embedding_scale", Off::One),
    ("expert_shared_count", Off::Zero),
    ("expert_shared_feed_forward_length", Off::Zero),
    ("expert_group_count", Off::One),
    ("expert_group_used_count", Off::One),
    ("expert_group_scale", Off::One),
    ("swiglu_clamp_exp", Off::Zero),
    ("rope.scale_linear", Off::One),
    ("rope.scaling.factor", Off::One),
    ("rope.scaling.attn_factor", Off::One),
    ("rope.dimension_sections", Off::Zero),
    ("classifier.output_labels", Off::Zero),
];

/// Values with which a key changes nothing.
#[derive(Debug, Clone, Copy)]
enum Off {
    /// 0, false, or nothing but that.
    Zero,
    /// 0 (not set) or 1.
    One,
}

impl Off {
    fn is(self, value: &Value) -> bool {
        let number = match value {
            Value::Array(array) => return array.is_zero(),
            Value::Text(text) => return text.is_empty(),
            Value::Bool(truth) => f64::from(u8::from(*truth)),
            Value::Unsigned(x) => *x as f64,
            Value::Signed(x) => *x as f64,
            Value::Float(x) => *x,
        };
        number == 0.0 || matches!(self, Self::One) && number == 1.0
    }
}

fn refuse_telling(meta: &Meta, max_context: u32) -> Result<(), CheckpointError> {
    let refuse = |name: &str, value: &Value| {
        let what = format!("{} = {}", meta.key(name), shortened(value));
        Err(CheckpointError::Unsupported(what))
    };
    for (name, off) in TELLING {
        if let Some(value) = meta.maybe(name, |value| Some(value.clone()))?
            && !off.is(&value)
        {
            return refuse(name, &value);
        }
    }
    // A window that holds the whole context is none.
    for name in ["attention.sliding_window", "attention.chunk_size"] {
        if let Some(value) = meta.maybe(name, |value| Some(value.clone()))?
            && !Off::Zero.is(&value)
            && value.as_u32().is_none_or(|window| window < max_context)
        {
            return refuse(name, &value);
        }
    }
    match meta.maybe("attention.causal", |value| Some(value.clone()))? {
        Some(value) if value != Value::Bool(true) => refuse("attention.causal", &value),
        _ => Ok(()),
    }
}

/// Widths of the feed-forward parts.
struct FeedForward {
    dense: u32,
    expert: u32,
}

impl FeedForward {
    /// `feed_forward_length` is one number, that of the dense layers, or one for each layer.
    fn of(meta: &Meta, layers: usize, dense_layers: usize) -> Result<Self, CheckpointError> {
        const LENGTH: &str = "feed_forward_length";
        const EXPERT: &str = "expert_feed_forward_length";
        let unusable = |value: &Value| CheckpointError::BadKey {
            key: meta.key(LENGTH),
            value: shortened(value),
        };
        let length = meta.maybe(LENGTH, |value| Some(value.clone()))?;
        let each = length.as_ref().and_then(Value::as_u32s);
        let (dense, expert) = match (&length, &each) {
            (Some(value), Some(each)) => {
                if each.len() != layers {
                    return Err(unusable(value));
                }
                let (dense, expert) = each.split_at(dense_layers.min(layers));
                let same = |widths: &[u32]| widths.windows(2).all(|pair| pair[0] == pair[1]);
                if !same(dense) || !same(expert) {
                    return Err(unusable(value));
                }
                (dense.first().copied(), expert.first().copied())
            }
            (Some(value), None) => (Some(value.as_u32().ok_or_else(|| unusable(value))?), None),
            (None, _) => (None, None),
        };
        let expert = match meta.maybe(EXPERT, Value::as_u32)? {
            Some(width) => Some(width),
            None => expert,
        };
        let need = |used: bool, name: &str, width: Option<u32>| match width {
            _ if !used => Ok(0),
            Some(width) => Ok(width),
            None => Err(CheckpointError::MissingKey(meta.key(name))),
        };
        Ok(Self {
            dense: need(dense_layers > 0, LENGTH, dense)?,
            expert: need(meta.moe(), EXPERT, expert)?,
        })
    }
}

fn tokenizer(meta: &Meta, notes: &mut Vec<String>) -> Result<GgufTokenizer, CheckpointError> {
    let key = |name| format!("tokenizer.ggml.{name}");
    let need = |name| CheckpointError::MissingKey(key(name));
    let texts = |name| -> Result<Vec<String>, CheckpointError> {
        meta.optional(&key(name), |value| value.as_texts().map(<[_]>::to_vec))?
            .ok_or_else(|| need(name))
    };
    let pre = meta.optional(&key("pre"), |value| value.as_text().map(str::to_owned))?;
    // Every model of these architectures has one split; old converters do not name it.
    let pre = pre.unwrap_or_else(|| {
        notes.push(format!("{} is missing; taken as that of the architecture, lfm2", key("pre")));
        "lfm2".into()
    });
    Ok(GgufTokenizer {
        model: meta.text(&key("model")).ok_or_else(|| need("model"))?.into(),
        pre: Some(pre),
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

    fn layers(&self) -> &str {
        "blk."
    }

    /// Experts lie in one tensor for each of the three matrices; newer converters put gate before
    /// up in `ffn_gate_up_exps` (experts, 2 ff, hidden).
    fn experts(
        &self,
        tensors: &Tensors,
        layer: usize,
        shape: &Shape,
    ) -> Result<Vec<Swiglu>, CheckpointError> {
        let [hidden, ff, experts] = [shape.hidden, shape.expert_ff, shape.experts].map(u64::from);
        let get =
            |name: &str, dims: &[u64]| tensors.get(&format!("blk.{layer}.{name}.weight"), dims);
        let down = get("ffn_down_exps", &[experts, hidden, ff])?;
        let fused = tensors.has(&format!("blk.{layer}.ffn_gate_up_exps.weight"));
        let gate_up = if fused {
            vec![get("ffn_gate_up_exps", &[experts, 2 * ff, hidden])?]
        } else {
            vec![
                get("ffn_gate_exps", &[experts, ff, hidden])?,
                get("ffn_up_exps", &[experts, ff, hidden])?,
            ]
        };
        let [hidden, ff] = [shape.hidden, shape.expert_ff].map(|x| x as usize);
        let half = |e: usize, half: usize| match gate_up.as_slice() {
            [fused] => fused.cut((2 * e + half) * ff..(2 * e + half + 1) * ff),
            parts => parts[half].cut(e * ff..(e + 1) * ff),
        };
        let expert = |e: usize| Swiglu {
            gate_up: [half(e, 0), half(e, 1)],
            down: down.cut(e * hidden..(e + 1) * hidden),
        };
        Ok((0..shape.experts as usize).map(expert).collect())
    }
}
