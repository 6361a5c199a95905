//! Writes GGUF files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use rill_pack::gguf::{Array, Gguf, TensorType, Value};
use rill_pack::stored::Stored;

use super::kiosk;
use super::tiny::{Random, Tensor, Tiny};

/// A tensor as it is written.
#[derive(Debug, Clone)]
pub struct Raw {
    pub name: String,
    /// Slowest first.
    pub dims: Vec<usize>,
    pub number: u32,
    pub bytes: Vec<u8>,
}

/// Writes a file. Metadata and tensors keep their order.
pub fn write(path: &Path, metadata: &[(String, Value)], tensors: &[Raw]) {
    let described: Vec<_> = tensors
        .iter()
        .map(|raw| (raw.name.clone(), raw.dims.clone(), raw.number, raw.bytes.len() as u64))
        .collect();
    let (mut out, _) = head(metadata, &described);
    for tensor in tensors {
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&tensor.bytes);
    }
    fs::write(path, out).unwrap();
}

/// A tensor's name, sizes, number of its type, and bytes.
pub type Described = (String, Vec<usize>, u32, u64);

/// All of a file before the tensors' bytes, and how many bytes the whole file has.
pub fn head(metadata: &[(String, Value)], tensors: &[Described]) -> (Vec<u8>, u64) {
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut out, key);
        let at = out.len();
        out.extend([0; 4]);
        let kind = put_value(&mut out, value);
        out[at..at + 4].copy_from_slice(&kind.to_le_bytes());
    }
    let mut offset = 0_u64;
    for (name, dims, number, bytes) in tensors {
        text(&mut out, name);
        out.extend((dims.len() as u32).to_le_bytes());
        dims.iter().rev().for_each(|&dim| out.extend((dim as u64).to_le_bytes()));
        out.extend(number.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = (offset + bytes).next_multiple_of(32);
    }
    let start = out.len().next_multiple_of(32) as u64;
    (out, start + offset)
}

/// Names and sizes of a GGUF file's tensors, given those of the hub.
pub fn shapes(hub: Vec<(String, Vec<usize>)>) -> Vec<(String, Vec<usize>)> {
    let mut all: Vec<(String, Vec<usize>)> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (name, dims) in hub {
        let name = gguf_name(&name);
        let is_expert = name.contains("_exps");
        match places.get(&name) {
            Some(&place) if is_expert => all[place].1[0] += 1,
            _ => {
                places.insert(name.clone(), all.len());
                let front: &[usize] = if is_expert { &[1] } else { &[] };
                all.push((name, [front, &dims].concat()));
            }
        }
    }
    all
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Writes a value and returns the number of its type: u32, i32, f32, bool, text, or an array.
fn put_value(out: &mut Vec<u8>, value: &Value) -> u32 {
    match value {
        Value::Unsigned(x) => {
            out.extend((*x as u32).to_le_bytes());
            4
        }
        Value::Signed(x) => {
            out.extend((*x as i32).to_le_bytes());
            5
        }
        Value::Float(x) => {
            out.extend((*x as f32).to_le_bytes());
            6
        }
        Value::Bool(x) => {
            out.push(u8::from(*x));
            7
        }
        Value::Text(x) => {
            text(out, x);
            8
        }
        Value::Array(array) => {
            let at = out.len();
            out.extend([0; 4]);
            let (kind, len) = match array {
                Array::Unsigned(x) => (4_u32, x.len()),
                Array::Signed(x) => (5, x.len()),
                Array::Float(x) => (6, x.len()),
                Array::Bool(x) => (7, x.len()),
                Array::Text(x) => (8, x.len()),
            };
            out[at..at + 4].copy_from_slice(&kind.to_le_bytes());
            out.extend((len as u64).to_le_bytes());
            match array {
                Array::Unsigned(x) => x.iter().for_each(|x| out.extend((*x as u32).to_le_bytes())),
                Array::Signed(x) => x.iter().for_each(|x| out.extend((*x as i32).to_le_bytes())),
                Array::Float(x) => x.iter().for_each(|x| out.extend((*x as f32).to_le_bytes())),
                Array::Bool(x) => x.iter().for_each(|x| out.push(u8::from(*x))),
                Array::Text(x) => x.iter().for_each(|x| text(out, x)),
            }
            9
        }
    }
}

/// The head of the kiosk's own GGUF file.
pub fn kiosk_head() -> Gguf {
    let mut file = fs::File::open(kiosk().join("kiosk-q4_0.gguf")).unwrap();
    rill_pack::gguf::parse(&mut file).unwrap()
}

/// The metadata of a tiny model, with the kiosk's tokenizer.
pub fn metadata(tiny: &Tiny) -> Vec<(String, Value)> {
    let arch = if tiny.is_dense() { "lfm2" } else { "lfm2moe" };
    let number = |x: usize| Value::Unsigned(x as u64);
    let kv = tiny.attention.iter().map(|&a| if a { tiny.kv_heads as i64 } else { 0 }).collect();
    let mut all = vec![
        ("general.architecture".to_owned(), Value::Text(arch.into())),
        ("general.name".to_owned(), Value::Text("tiny".into())),
    ];
    let mut of = |key: &str, value| all.push((format!("{arch}.{key}"), value));
    of("block_count", number(tiny.attention.len()));
    of("context_length", number(4096));
    of("embedding_length", number(tiny.hidden));
    of("feed_forward_length", number(tiny.dense_ff));
    of("attention.head_count", number(tiny.heads));
    of("attention.head_count_kv", Value::Array(Array::Signed(kv)));
    of("attention.key_length", number(tiny.head_dim));
    of("attention.value_length", number(tiny.head_dim));
    of("rope.freq_base", Value::Float(500_000.0));
    of("attention.layer_norm_rms_epsilon", Value::Float(1e-5));
    of("shortconv.l_cache", number(3));
    if !tiny.is_dense() {
        of("expert_count", number(tiny.experts));
        of("expert_used_count", number(tiny.top_k));
        of("expert_feed_forward_length", number(tiny.expert_ff));
        of("leading_dense_block_count", number(tiny.dense_layers));
        of("expert_gating_func", number(2));
    }
    let tokenizer = kiosk_head().metadata.into_iter().filter(|(k, _)| k.starts_with("tokenizer."));
    all.extend(tokenizer);
    all
}

/// The tensors of the hub in GGUF's names and grouping, encoded as `choose` says by GGUF name;
/// vectors, router and convolution are F32.
pub fn tensors(hub: BTreeMap<String, Tensor>, choose: impl Fn(&str) -> Stored) -> Vec<Raw> {
    let mut grouped: Vec<(String, Tensor)> = Vec::new();
    // Experts in the order of their numbers, not of their names.
    let mut hub: Vec<_> = hub.into_iter().collect();
    hub.sort_by_key(|(name, _)| expert_of(name));
    for (name, tensor) in hub {
        let gguf = gguf_name(&name);
        match grouped.iter_mut().find(|(name, _)| *name == gguf) {
            Some((_, group)) => {
                group.dims[0] += 1;
                group.values.extend(tensor.values);
            }
            None if gguf.contains("_exps") => {
                let dims = [&[1], tensor.dims.as_slice()].concat();
                grouped.push((gguf, Tensor { dims, ..tensor }));
            }
            None => grouped.push((gguf, tensor)),
        }
    }
    grouped
        .into_iter()
        .map(|(name, tensor)| {
            let plain = tensor.dims.len() == 1 || name.contains("inp") || name.contains(".conv.");
            let stored = if plain { Stored::F32 } else { choose(&name) };
            let bytes = encode(stored, &tensor.values);
            Raw { name, dims: tensor.dims, number: stored.ggml_number().unwrap(), bytes }
        })
        .collect()
}

/// The number of the expert that a tensor of the hub belongs to.
fn expert_of(hub: &str) -> Option<usize> {
    hub.split_once(".experts.")?.1.split('.').next()?.parse().ok()
}

/// What llama.cpp calls a tensor of the hub. Experts of a layer share a name.
fn gguf_name(hub: &str) -> String {
    let fixed = match hub {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.embedding_norm.weight" => Some("token_embd_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(name) = fixed {
        return name.into();
    }
    let (layer, rest) = hub.strip_prefix("model.layers.").unwrap().split_once('.').unwrap();
    let rest = match rest {
        "operator_norm.weight" => "attn_norm.weight",
        "ffn_norm.weight" => "ffn_norm.weight",
        "self_attn.q_proj.weight" => "attn_q.weight",
        "self_attn.k_proj.weight" => "attn_k.weight",
        "self_attn.v_proj.weight" => "attn_v.weight",
        "self_attn.out_proj.weight" => "attn_output.weight",
        "self_attn.q_layernorm.weight" => "attn_q_norm.weight",
        "self_attn.k_layernorm.weight" => "attn_k_norm.weight",
        "conv.in_proj.weight" => "shortconv.in_proj.weight",
        "conv.conv.weight" => "shortconv.conv.weight",
        "conv.out_proj.weight" => "shortconv.out_proj.weight",
        "feed_forward.w1.weight" => "ffn_gate.weight",
        "feed_forward.w2.weight" => "ffn_down.weight",
        "feed_forward.w3.weight" => "ffn_up.weight",
        "feed_forward.gate.weight" => "ffn_gate_inp.weight",
        "feed_forward.expert_bias" => "exp_probs_b.bias",
        expert if expert.ends_with("w1.weight") => "ffn_gate_exps.weight",
        expert if expert.ends_with("w2.weight") => "ffn_down_exps.weight",
        expert if expert.ends_with("w3.weight") => "ffn_up_exps.weight",
        other => panic!("{other}"),
    };
    format!("blk.{layer}.{rest}")
}

/// Encodes values. For block formats the integers are random: what counts is that the packer reads
/// the same as [`Stored::dequantise`].
fn encode(stored: Stored, values: &[f32]) -> Vec<u8> {
    match stored {
        Stored::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Stored::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        Stored::BF16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        _ => {
            let mut random = Random(values.len() as u64 + u64::from(stored.ggml_number().unwrap()));
            let scales = f16_scales(stored);
            let mut bytes = Vec::new();
            for _ in 0..values.len() / stored.block() {
                let mut block: Vec<u8> =
                    (0..stored.block_bytes()).map(|_| random.next() as u8).collect();
                for &at in scales {
                    let scale = f16::from_f32(random.weight() / 64.0);
                    block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                }
                match stored {
                    // The nibbles of the scale: those of a small f16.
                    Stored::IQ1_M => [0x00, 0x00, 0x00, 0x20]
                        .into_iter()
                        .zip([49, 51, 53, 55])
                        .for_each(|(bits, at)| block[at] = block[at] & 15 | bits),
                    Stored::MXFP4 => block[0] = 118,
                    Stored::NVFP4 => block[..4].fill(0x18),
                    _ => {}
                }
                bytes.extend(block);
            }
            bytes
        }
    }
}

/// Where the f16 scales of a block lie.
fn f16_scales(stored: Stored) -> &'static [usize] {
    match stored {
        Stored::Q4_1 | Stored::Q5_1 | Stored::Q4_K | Stored::Q5_K => &[0, 2],
        Stored::Q2_K => &[80, 82],
        Stored::Q3_K => &[108],
        Stored::Q6_K => &[208],
        Stored::TQ1_0 => &[52],
        Stored::TQ2_0 => &[64],
        Stored::IQ1_M | Stored::MXFP4 | Stored::NVFP4 => &[],
        _ => &[0],
    }
}

/// The tensors of a GGUF file.
pub fn read(path: &Path) -> Vec<Raw> {
    let file = fs::read(path).unwrap();
    let head = rill_pack::gguf::parse(&mut std::io::Cursor::new(&file)).unwrap();
    let raw = |tensor: rill_pack::gguf::Tensor| {
        let TensorType::Known(stored) = tensor.kind else { panic!("{}", tensor.name) };
        let dims: Vec<_> = tensor.dims.iter().map(|&dim| dim as usize).collect();
        let len = dims.iter().product::<usize>() / stored.block() * stored.block_bytes();
        let bytes = file[tensor.offset as usize..][..len].to_vec();
        Raw { name: tensor.name, dims, number: stored.ggml_number().unwrap(), bytes }
    };
    head.tensors.into_iter().map(raw).collect()
}

/// The values of a raw tensor.
pub fn values(raw: &Raw) -> Vec<f32> {
    let stored = Stored::from_ggml(raw.number).unwrap();
    let mut values = vec![0.0; raw.dims.iter().product()];
    stored.dequantise(&raw.bytes, &mut values);
    values
}
