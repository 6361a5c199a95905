//! A tiny model with random weights, under the hub's tensor names, to be written in many ways.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A tensor: sizes, slowest first, and values that bf16 holds exactly.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub dims: Vec<usize>,
    pub values: Vec<f32>,
}

/// What a tiny model looks like.
#[derive(Debug, Clone)]
pub struct Tiny {
    pub vocab: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub dense_ff: usize,
    pub expert_ff: usize,
    pub experts: usize,
    pub top_k: usize,
    pub attention: Vec<bool>,
    /// All layers of a dense model.
    pub dense_layers: usize,
    pub expert_bias: bool,
    pub tied: bool,
}

impl Default for Tiny {
    fn default() -> Self {
        Self {
            vocab: 2053,
            hidden: 64,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            dense_ff: 96,
            expert_ff: 32,
            experts: 5,
            top_k: 2,
            attention: vec![false, true, false, true],
            dense_layers: 1,
            expert_bias: true,
            tied: true,
        }
    }
}

impl Tiny {
    /// One whose every row fills the blocks of the K-quants.
    pub fn wide() -> Self {
        Self {
            hidden: 256,
            dense_ff: 256,
            expert_ff: 256,
            head_dim: 64,
            experts: 2,
            ..Self::default()
        }
    }

    pub fn is_dense(&self) -> bool {
        self.dense_layers == self.attention.len()
    }

    /// All tensors, under their names on the hub; experts one by one.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        let mut random = Random(1);
        let mut make = |(name, dims): (String, Vec<usize>)| {
            let values = (0..dims.iter().product()).map(|_| random.weight()).collect();
            (name, Tensor { dims, values })
        };
        self.shapes().into_iter().map(&mut make).collect()
    }

    /// Names and sizes of all tensors, as [`Self::tensors`] has them.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let mut all = Vec::new();
        let mut add = |name: String, dims: &[usize]| all.push((name, dims.to_vec()));
        let (h, q, kv) = (self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim);
        add("model.embed_tokens.weight".into(), &[self.vocab, h]);
        add("model.embedding_norm.weight".into(), &[h]);
        if !self.tied {
            add("lm_head.weight".into(), &[self.vocab, h]);
        }
        for (layer, &attention) in self.attention.iter().enumerate() {
            let mut of = |name: &str, dims: &[usize]| {
                add(format!("model.layers.{layer}.{name}"), dims);
            };
            of("operator_norm.weight", &[h]);
            of("ffn_norm.weight", &[h]);
            if attention {
                of("self_attn.q_proj.weight", &[q, h]);
                of("self_attn.k_proj.weight", &[kv, h]);
                of("self_attn.v_proj.weight", &[kv, h]);
                of("self_attn.out_proj.weight", &[h, q]);
                of("self_attn.q_layernorm.weight", &[self.head_dim]);
                of("self_attn.k_layernorm.weight", &[self.head_dim]);
            } else {
                of("conv.in_proj.weight", &[3 * h, h]);
                of("conv.conv.weight", &[h, 1, 3]);
                of("conv.out_proj.weight", &[h, h]);
            }
            if layer < self.dense_layers {
                of("feed_forward.w1.weight", &[self.dense_ff, h]);
                of("feed_forward.w2.weight", &[h, self.dense_ff]);
                of("feed_forward.w3.weight", &[self.dense_ff, h]);
                continue;
            }
            of("feed_forward.gate.weight", &[self.experts, h]);
            if self.expert_bias {
                of("feed_forward.expert_bias", &[self.experts]);
            }
            for expert in 0..self.experts {
                of(&format!("feed_forward.experts.{expert}.w1.weight"), &[self.expert_ff, h]);
                of(&format!("feed_forward.experts.{expert}.w2.weight"), &[h, self.expert_ff]);
                of(&format!("feed_forward.experts.{expert}.w3.weight"), &[self.expert_ff, h]);
            }
        }
        all
    }

    /// `config.json` in the newest spelling.
    pub fn config(&self) -> Value {
        let types: Vec<_> = self
            .attention
            .iter()
            .map(|&attention| if attention { "full_attention" } else { "conv" })
            .collect();
        let mut config = json!({
            "model_type": if self.is_dense() { "lfm2" } else { "lfm2_moe" },
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.attention.len(),
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.dense_ff,
            "max_position_embeddings": 4096,
            "norm_eps": 1e-5,
            "rope_parameters": { "rope_theta": 500_000.0, "rope_type": "default" },
            "layer_types": types,
            "conv_L_cache": 3,
            "conv_bias": false,
            "tie_word_embeddings": self.tied,
            "eos_token_id": 7,
        });
        let more = if self.is_dense() {
            json!({ "block_auto_adjust_ff_dim": false })
        } else {
            json!({
                "num_dense_layers": self.dense_layers,
                "moe_intermediate_size": self.expert_ff,
                "num_experts": self.experts,
                "num_experts_per_tok": self.top_k,
                "norm_topk_prob": true,
                "use_expert_bias": self.expert_bias,
                "routed_scaling_factor": 1.0,
            })
        };
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }
}

/// xorshift64*: <https://doi.org/10.18637/jss.v008.i14>
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// A number in -0.5..0.5 that bf16 and f16 hold exactly.
    pub fn weight(&mut self) -> f32 {
        (self.next() % 256) as f32 / 256.0 - 0.5
    }
}
