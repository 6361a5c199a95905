//! Entries of a `config.json` that give the model no shape: what some must be, and which do not matter.

use std::collections::BTreeMap;

use serde_json::Value;

/// Entries that change the answers, and what they must be not to.
pub(super) const TELLING: [(&str, Plain); 21] = [
    ("is_causal", Plain::True),
    ("causal", Plain::True),
    ("use_pos_enc", Plain::True),
    ("block_use_swiglu", Plain::True),
    ("use_bidirectional_attention", Plain::Off),
    ("attention_bias", Plain::Off),
    ("qkv_bias", Plain::Off),
    ("mlp_bias", Plain::Off),
    ("attn_logit_softcapping", Plain::Off),
    ("final_logit_softcapping", Plain::Off),
    ("router_logit_softcapping", Plain::Off),
    ("num_shared_experts", Plain::Off),
    ("n_shared_experts", Plain::Off),
    ("attention_chunk_size", Plain::Off),
    ("n_group", Plain::One),
    ("topk_group", Plain::One),
    ("logits_scaling", Plain::One),
    ("logit_scale", Plain::One),
    ("embedding_multiplier", Plain::One),
    ("residual_multiplier", Plain::One),
    ("partial_rotary_factor", Plain::One),
];

/// A value with which an entry changes nothing.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plain {
    /// True.
    True,
    /// False or 0.
    Off,
    /// 1, or 0 for not set.
    One,
}

impl Plain {
    /// Whether `value` is that.
    pub fn is(self, value: &Value) -> bool {
        match (self, value) {
            (Self::True, Value::Bool(truth)) => *truth,
            (Self::Off, Value::Bool(truth)) => !truth,
            (Self::Off, value) => value.as_f64() == Some(0.0),
            (Self::One, value) => matches!(value.as_f64(), Some(0.0 | 1.0)),
            _ => false,
        }
    }
}

/// Entries that change no answer: how the model was trained and saved, what a program is to return,
/// sizes that other entries repeat. Windows and classes are judged apart.
const IDLE: [&str; 53] = [
    "_attn_implementation",
    "_name_or_path",
    "add_cross_attention",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "block_dim",
    "block_mlp_init_scale",
    "block_out_init_scale",
    "block_use_xavier_init",
    "bos_token_id",
    "chunk_size_feed_forward",
    "conv_dim",
    "conv_dim_out",
    "conv_use_xavier_init",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "dtype",
    "finetuning_task",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "max_window_layers",
    "model_name",
    "num_heads",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "pruned_heads",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "sep_token_id",
    "sliding_window",
    "task_specific_params",
    "tie_encoder_decoder",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_sliding_window",
];

/// Those of `entries` that may mean anything: nothing here asks for them. In order.
pub(super) fn unknown(entries: &BTreeMap<String, Value>) -> Vec<&str> {
    let known =
        |key: &str| IDLE.contains(&key) || TELLING.iter().any(|(telling, _)| *telling == key);
    let says = |(key, value): &(&String, &Value)| !value.is_null() && !known(key);
    entries.iter().filter(says).map(|(key, _)| key.as_str()).collect()
}
