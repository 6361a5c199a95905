//! `config.json` and `generation_config.json` of a Hugging Face checkpoint, in all the spellings
//! that LFM2 models have been published with. Precedence and defaults are those of `Lfm2Config`
//! and `Lfm2MoeConfig` in transformers.

use std::collections::BTreeMap;

use rill::image::Shape;
use serde::Deserialize;
use serde_json::Value;

use super::advice::{self, Advised};
use super::entries::{Plain, TELLING, unknown};
use super::{CheckpointError, Model, unused_note};
use crate::quoted::{plain, quoted, shortened};

/// What is read of `config.json`.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    model_type: Option<String>,
    vocab_size: Option<u32>,
    hidden_size: Option<u32>,
    num_hidden_layers: Option<u32>,
    num_attention_heads: Option<u32>,
    num_key_value_heads: Option<u32>,
    head_dim: Option<u32>,
    max_position_embeddings: Option<u32>,
    norm_eps: Option<f32>,
    block_norm_eps: Option<f32>,
    hidden_act: Option<String>,

    rope_parameters: Option<Value>,
    rope_scaling: Option<Value>,
    rope_theta: Option<f32>,
    theta: Option<f32>,

    layer_types: Option<Vec<String>>,
    full_attn_idxs: Option<Vec<u32>>,
    #[serde(rename = "conv_L_cache")]
    conv_l_cache: Option<u32>,
    conv_bias: Option<bool>,

    intermediate_size: Option<u32>,
    block_ff_dim: Option<u32>,
    block_auto_adjust_ff_dim: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    block_ffn_dim_multiplier: Option<Option<f64>>,
    block_multiple_of: Option<u32>,

    num_dense_layers: Option<u32>,
    moe_intermediate_size: Option<u32>,
    num_experts: Option<u32>,
    num_local_experts: Option<u32>,
    num_experts_per_tok: Option<u32>,
    norm_topk_prob: Option<bool>,
    use_expert_bias: Option<bool>,
    routed_scaling_factor: Option<f32>,

    tie_word_embeddings: Option<bool>,
    tie_embedding: Option<bool>,
    eos_token_id: Option<Tokens>,
    quantization_config: Option<Value>,
    quantization: Option<Value>,

    /// Everything else.
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// `generation_config.json`: advice, of which anything may be missing or wrong.
pub(super) type Generation = serde_json::Map<String, Value>;

/// One token or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Tokens {
    One(u32),
    Many(Vec<u32>),
}

/// Tells `null` from a key that is not there.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Option<f64>>, D::Error> {
    Option::deserialize(value).map(Some)
}

impl Config {
    /// The model that this configuration describes.
    /// What is left aside of it and of the advice goes to `notes`.
    pub fn model(
        &self,
        name: String,
        generation: &Generation,
        notes: &mut Vec<String>,
    ) -> Result<Model, CheckpointError> {
        let moe = match self.model_type.as_deref() {
            Some("lfm2") => false,
            Some("lfm2_moe") => true,
            other => return Err(CheckpointError::Architecture(other.unwrap_or("none").into())),
        };
        self.refuse_unsupported()?;
        let layers = need("num_hidden_layers", self.num_hidden_layers)?;
        let hidden = need("hidden_size", self.hidden_size)?;
        let heads = need("num_attention_heads", self.num_attention_heads)?;
        let dense_layers =
            if moe { self.num_dense_layers.unwrap_or(2).min(layers) } else { layers };
        let of_moe = |key, value| if moe { need(key, value) } else { Ok(0) };
        let shape = Shape {
            vocab: need("vocab_size", self.vocab_size)?,
            hidden,
            heads,
            kv_heads: self.num_key_value_heads.unwrap_or(heads),
            head_dim: self.head_dim.unwrap_or(hidden.checked_div(heads).unwrap_or(0)),
            dense_ff: if dense_layers > 0 { self.dense_ff(moe)? } else { 0 },
            expert_ff: of_moe("moe_intermediate_size", self.moe_intermediate_size)?,
            experts: of_moe("num_experts", self.num_experts.or(self.num_local_experts))?,
            top_k: of_moe("num_experts_per_tok", self.num_experts_per_tok)?,
            conv_width: self.conv_l_cache.unwrap_or(3),
            max_context: self.max_position_embeddings.unwrap_or(128_000),
            rope_theta: self.rope_theta()?,
            norm_eps: self.norm_eps.or(self.block_norm_eps).unwrap_or(1e-5),
            norm_top_k: self.norm_topk_prob.unwrap_or(true),
            expert_bias: moe && self.use_expert_bias.unwrap_or(true),
            routed_scale: self.routed_scaling_factor.unwrap_or(1.0),
        };
        notes.extend(unused_note("of config.json ", &unknown(&self.others)));
        let stops = generation.get("eos_token_id").and_then(|ids| Tokens::deserialize(ids).ok());
        Ok(Model {
            name,
            shape,
            attention: self.attention(layers as usize)?,
            dense_layers: dense_layers as usize,
            tied: self.tie_embedding.or(self.tie_word_embeddings).unwrap_or(true),
            sampling: advice::sampling(
                |name| generation.get(name).and_then(Advised::from_json),
                notes,
            ),
            stops: match stops.as_ref().or(self.eos_token_id.as_ref()) {
                None => Vec::new(),
                Some(Tokens::One(id)) => vec![*id],
                Some(Tokens::Many(ids)) => ids.clone(),
            },
        })
    }

    fn refuse_unsupported(&self) -> Result<(), CheckpointError> {
        let unsupported = |what: String| Err(CheckpointError::Unsupported(what));
        if self.conv_bias == Some(true) {
            return unsupported("a bias in its convolutions".into());
        }
        if let Some(act) = self.hidden_act.as_deref()
            && !matches!(act, "silu" | "swish")
        {
            return unsupported(format!("the activation {}", quoted(act)));
        }
        self.refuse_quantised()?;
        self.refuse_telling()?;
        for rope in [self.rope_scaling.as_ref(), self.rope_parameters()].into_iter().flatten() {
            refuse_scaled(rope)?;
        }
        Ok(())
    }

    /// Refuses encodings of other programs. 8-bit floats with scales are read, whoever made them.
    fn refuse_quantised(&self) -> Result<(), CheckpointError> {
        let refuse = |by: String| Err(CheckpointError::Quantised(by));
        let present = |value: &&Value| !value.is_null();
        let text = |value: &Value, key: &str| value.get(key)?.as_str().map(str::to_lowercase);
        if let Some(how) = self.quantization_config.as_ref().filter(present)
            && let Some(method) = text(how, "quant_method")
        {
            let format = text(how, "format");
            return match method.as_str() {
                "fp8" | "fbgemm_fp8" => Ok(()),
                "compressed-tensors" => match format.as_deref() {
                    None | Some("float-quantized" | "naive-quantized" | "dense") => Ok(()),
                    Some(format) => refuse(format!("compressed-tensors as {}", plain(format))),
                },
                "modelopt" if text(how, "quant_algo").as_deref() == Some("fp8") => Ok(()),
                "awq" => refuse("AWQ".into()),
                "gptq" => refuse("GPTQ".into()),
                "mlx" => refuse("MLX".into()),
                "bitsandbytes" => refuse("bitsandbytes".into()),
                _ => refuse(quoted(&method)),
            };
        }
        // MLX names no method.
        let unnamed = [&self.quantization, &self.quantization_config];
        match unnamed.into_iter().flatten().find(present) {
            None => Ok(()),
            Some(how) if how.get("group_size").is_some() => refuse("MLX".into()),
            Some(_) => refuse("a program that its configuration does not name".into()),
        }
    }

    /// Refuses entries that change the answers and that nothing here honours.
    fn refuse_telling(&self) -> Result<(), CheckpointError> {
        let refuse = |key: &str, value: &Value| {
            Err(CheckpointError::Unsupported(format!("{key} = {}", shortened(value))))
        };
        let entry = |key: &str| self.others.get(key).filter(|value| !value.is_null());
        for (key, plain) in TELLING {
            if let Some(value) = entry(key)
                && !plain.is(value)
            {
                return refuse(key, value);
            }
        }
        // A window that holds the whole context is none.
        if let Some(window) = entry("sliding_window")
            && entry("use_sliding_window") != Some(&Value::Bool(false))
            && window.as_u64() != Some(0)
            && window.as_u64().is_none_or(|window| {
                window < u64::from(self.max_position_embeddings.unwrap_or(128_000))
            })
        {
            return refuse("sliding_window", window);
        }
        let classes = entry("architectures").and_then(Value::as_array);
        match classes
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .find(|class| class.contains("For") && !class.contains("ForCausalLM"))
        {
            None => Ok(()),
            Some(class) => {
                Err(CheckpointError::Unsupported(format!("the head of {}", quoted(class))))
            }
        }
    }

    /// The rotary embedding's parameters; some versions keep them by the type of layer.
    fn rope_parameters(&self) -> Option<&Value> {
        let parameters = self.rope_parameters.as_ref()?;
        Some(parameters.get("full_attention").unwrap_or(parameters))
    }

    fn rope_theta(&self) -> Result<f32, CheckpointError> {
        match self.rope_parameters().and_then(|parameters| parameters.get("rope_theta")) {
            None => Ok(self.theta.or(self.rope_theta).unwrap_or(1e6)),
            Some(value) => value.as_f64().map(|theta| theta as f32).ok_or_else(|| {
                CheckpointError::BadKey { key: "rope_theta".into(), value: shortened(value) }
            }),
        }
    }

    /// For each layer whether it attends.
    fn attention(&self, layers: usize) -> Result<Vec<bool>, CheckpointError> {
        if let Some(types) = &self.layer_types {
            if types.len() != layers {
                let value = format!("{} entries for {layers} layers", types.len());
                return Err(CheckpointError::BadKey { key: "layer_types".into(), value });
            }
            return types
                .iter()
                .map(|kind| match kind.as_str() {
                    "full_attention" => Ok(true),
                    "conv" | "short_conv" => Ok(false),
                    other => Err(CheckpointError::Unsupported(format!(
                        "layers of type {}",
                        quoted(other)
                    ))),
                })
                .collect();
        }
        let Some(indices) = &self.full_attn_idxs else {
            return Err(CheckpointError::MissingKey("layer_types (or full_attn_idxs)".into()));
        };
        if indices.iter().any(|&index| index as usize >= layers) {
            let value = shortened(&format_args!("{indices:?}"));
            return Err(CheckpointError::BadKey { key: "full_attn_idxs".into(), value });
        }
        let mut attention = Vec::new();
        for layer in 0..layers.min(rill::image::MAX_LAYERS + 1) {
            attention.push(indices.iter().any(|&index| index as usize == layer));
        }
        Ok(attention)
    }

    /// The width of the dense feed-forward parts. `lfm2` models name a width of which, by default,
    /// two thirds are meant, times a factor and rounded up (`Lfm2MLP` in transformers).
    fn dense_ff(&self, moe: bool) -> Result<u32, CheckpointError> {
        if moe {
            return need("intermediate_size", self.intermediate_size);
        }
        let named = need("intermediate_size", self.block_ff_dim.or(self.intermediate_size))?;
        if !self.block_auto_adjust_ff_dim.unwrap_or(true) {
            return Ok(named);
        }
        let thirds = (2.0 * f64::from(named) / 3.0) as u32;
        let Some(factor) = self.block_ffn_dim_multiplier.unwrap_or(Some(1.0)) else {
            return Ok(thirds);
        };
        let multiple = self.block_multiple_of.unwrap_or(256).max(1);
        let width = (factor * f64::from(thirds)) as u32;
        width.checked_next_multiple_of(multiple).ok_or_else(|| CheckpointError::BadKey {
            key: "intermediate_size".into(),
            value: named.to_string(),
        })
    }
}

/// Refuses a rotary embedding that is not the plain one.
fn refuse_scaled(rope: &Value) -> Result<(), CheckpointError> {
    let unsupported = |what: String| Err(CheckpointError::Unsupported(what));
    let kind = rope.get("rope_type").or(rope.get("type")).filter(|kind| !kind.is_null());
    match kind {
        None => {
            if let Some(factor) = rope.get("factor").filter(|&factor| !Plain::One.is(factor)) {
                return unsupported(format!("rope scaling by {}", shortened(factor)));
            }
        }
        Some(Value::String(kind)) if kind == "default" => {}
        Some(Value::String(kind)) => {
            return unsupported(format!("rope scaling of the type {}", quoted(kind)));
        }
        Some(kind) => {
            return unsupported(format!("a rope_type that is no text, {}", shortened(kind)));
        }
    }
    match rope.get("partial_rotary_factor").filter(|part| !part.is_null()) {
        Some(part) if part.as_f64() != Some(1.0) => {
            unsupported(format!("a rotary embedding of {} of a head", shortened(part)))
        }
        _ => Ok(()),
    }
}

fn need(key: &str, value: Option<u32>) -> Result<u32, CheckpointError> {
    value.ok_or_else(|| CheckpointError::MissingKey(key.into()))
}
