//! What an image says about the model in it: every number the engine needs, read from the file.

use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

use super::layout::Format;

/// Most layers of a model.
pub const MAX_LAYERS: usize = 96;
/// Most experts of a layer.
pub const MAX_EXPERTS: usize = 128;
/// Most experts a token may use in a layer.
pub const MAX_TOP_K: usize = 16;
/// Most tokens that can end an answer.
pub const MAX_STOPS: usize = 8;

/// The model of an image. Stored as postcard; its fields' order is part of the format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// What the model is called.
    pub name: String<96>,
    /// Shapes and constants.
    pub shape: Shape,
    /// The layers, first to last.
    pub layers: Vec<Layer, MAX_LAYERS>,
    /// Format of the token embedding, a matrix (vocabulary, hidden), also the output head unless
    /// `head` says otherwise.
    pub embedding: Format,
    /// Format of an output head of its own (vocabulary, hidden); `None` when tied.
    pub head: Option<Format>,
    /// Format of every page's gate and up parts.
    pub page_gate_up: Format,
    /// Format of every page's down part.
    pub page_down: Format,
    /// How to hold a conversation.
    pub chat: Chat,
    /// Sampling the model's makers advise.
    pub sampling: Sampling,
}

/// The sizes and constants of a model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// Tokens that the embedding has rows for.
    pub vocab: u32,
    /// Width of the residual stream; a multiple of 32.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; divides `heads`.
    pub kv_heads: u32,
    /// Width of a head; even.
    pub head_dim: u32,
    /// Width of a dense feed-forward layer; 0 when there is none. A multiple of 32.
    pub dense_ff: u32,
    /// Width of an expert; 0 when there are none. A multiple of 32.
    pub expert_ff: u32,
    /// Experts of a MoE layer; 0 for a dense model.
    pub experts: u32,
    /// Experts a token uses.
    pub top_k: u32,
    /// Taps of the short convolution.
    pub conv_width: u32,
    /// Positions the model was made for.
    pub max_context: u32,
    /// Base of the rotary embedding.
    pub rope_theta: f32,
    /// Epsilon of every RMS norm.
    pub norm_eps: f32,
    /// Whether the chosen experts' weights are divided by their sum.
    pub norm_top_k: bool,
    /// Whether a bias is added to the scores when choosing (never when weighing).
    pub expert_bias: bool,
    /// Factor on the chosen experts' weights.
    pub routed_scale: f32,
}

/// One layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// What mixes tokens.
    pub mixer: Mixer,
    /// What transforms each token.
    pub ffn: Ffn,
}

/// The operator that mixes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mixer {
    /// Gated short convolution.
    Conv {
        /// Format of the input projection (3 hidden, hidden): B, C, x.
        in_proj: Format,
        /// Format of the output projection (hidden, hidden).
        out_proj: Format,
    },
    /// Grouped-query attention.
    Attention {
        /// Format of the joint projection ((heads + 2 kv_heads) head_dim, hidden): q, k, v.
        qkv: Format,
        /// Format of the output projection (hidden, heads head_dim).
        out_proj: Format,
    },
}

/// The feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ffn {
    /// One SwiGLU for all tokens.
    Dense {
        /// Format of gate and up, each (dense_ff, hidden).
        gate_up: Format,
        /// Format of down (hidden, dense_ff).
        down: Format,
    },
    /// A router and a bank of experts, whose pages follow the resident section.
    Moe,
}

/// What the core must know to hold a conversation in ChatML.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Chat {
    /// Token that begins every sequence.
    pub begin: Option<u32>,
    /// Token that opens a message (`<|im_start|>`).
    pub open: Option<u32>,
    /// Token that closes a message (`<|im_end|>`).
    pub close: Option<u32>,
    /// Tokens that end an answer.
    pub stops: Vec<u32, MAX_STOPS>,
    /// Name of the role that instructs.
    pub system: String<24>,
    /// Name of the role that asks.
    pub user: String<24>,
    /// Name of the role that answers.
    pub assistant: String<24>,
    /// How the checkpoint's own template compares with this.
    pub template: Template,
    /// How the model thinks before it answers; `None` for one that does not.
    pub thinking: Option<Thinking>,
}

/// How a model thinks: in text between two markers, at the beginning of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thinking {
    /// What begins it (`<think>`).
    pub open: String<24>,
    /// What ends it (`</think>`).
    pub close: String<24>,
    /// Whether the prompt of an answer begins it, so that the model starts within.
    pub prompted: bool,
    /// What becomes of it when the conversation goes on.
    pub earlier: Earlier,
}

/// What becomes of thinking when the conversation goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Earlier {
    /// It stays.
    #[default]
    Stays,
    /// It leaves before the next message.
    Leaves,
    /// It leaves when there is a later answer.
    LeavesButLast,
}

/// How the checkpoint's chat template compares with the core's ChatML.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Template {
    /// It renders the same text.
    Same,
    /// It renders the same text but for thinking, in which it does as [`Chat::thinking`] says.
    SameButThinking,
    /// It renders something else: chatting would feed the model a format it was not trained on.
    Differs,
    /// The checkpoint has none.
    #[default]
    Missing,
}

/// Sampling parameters. The defaults are Liquid's for LFM2.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Divides the logits; 0 takes the best token always.
    pub temperature: f32,
    /// Keeps this many of the best; 0 keeps all.
    pub top_k: u32,
    /// Keeps the best until their probabilities sum to this; 1 keeps all.
    pub top_p: f32,
    /// Keeps what is at least this fraction as probable as the best; 0 keeps all.
    pub min_p: f32,
    /// Divides (or multiplies, when negative) the logits of tokens seen before; 1 is none.
    pub repetition_penalty: f32,
}

impl Default for Sampling {
    fn default() -> Self {
        // https://docs.liquid.ai, LFM2 model cards.
        Self { temperature: 0.3, top_k: 0, top_p: 1.0, min_p: 0.15, repetition_penalty: 1.05 }
    }
}

impl Sampling {
    /// The name of a value that none can have; `None` when all are within their bounds.
    pub fn out_of_range(&self) -> Option<&'static str> {
        let Self { temperature, top_k: _, top_p, min_p, repetition_penalty } = *self;
        let checks = [
            ("temperature", temperature.is_finite() && temperature >= 0.0),
            ("top_p", top_p > 0.0 && top_p <= 1.0),
            ("min_p", (0.0..1.0).contains(&min_p)),
            ("repetition_penalty", repetition_penalty.is_finite() && repetition_penalty > 0.0),
        ];
        checks.into_iter().find(|(_, good)| !good).map(|(name, _)| name)
    }
}

/// What is wrong with a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ManifestError {
    /// It is not postcard of this version's structure.
    Encoding,
    /// This field has a value that no model can have, or one that this version does not support.
    Field(&'static str),
}

impl core::fmt::Display for ManifestError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Encoding => write!(f, "the manifest cannot be decoded"),
            Self::Field(name) => write!(f, "the manifest's {name} is out of range"),
        }
    }
}

impl core::error::Error for ManifestError {}

impl Manifest {
    /// Reads and checks a manifest.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let (manifest, rest) =
            postcard::take_from_bytes::<Self>(bytes).map_err(|_| ManifestError::Encoding)?;
        if !rest.is_empty() {
            return Err(ManifestError::Encoding);
        }
        manifest.check()?;
        Ok(manifest)
    }

    /// Writes a manifest into `buffer` and returns the part used.
    pub fn encode<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], ManifestError> {
        postcard::to_slice(self, buffer).map(|used| &*used).map_err(|_| ManifestError::Encoding)
    }

    /// How many MoE layers there are.
    pub fn banks(&self) -> usize {
        self.layers.iter().filter(|layer| layer.ffn == Ffn::Moe).count()
    }

    /// How many pages: one for every expert of every MoE layer.
    pub fn pages(&self) -> usize {
        self.banks() * self.shape.experts as usize
    }

    /// How many attention layers there are.
    pub fn attention_layers(&self) -> usize {
        self.layers.iter().filter(|layer| matches!(layer.mixer, Mixer::Attention { .. })).count()
    }

    /// How many convolution layers there are.
    pub fn conv_layers(&self) -> usize {
        self.layers.len() - self.attention_layers()
    }

    /// Checks every field once; the rest of the engine trusts them. The bounds keep all size
    /// arithmetic far inside 64 bits.
    pub fn check(&self) -> Result<(), ManifestError> {
        let s = &self.shape;
        let field = |name, good: bool| if good { Ok(()) } else { Err(ManifestError::Field(name)) };
        let positive = |x: f32| x.is_finite() && x > 0.0;
        field("vocab", (1..=1 << 20).contains(&s.vocab))?;
        field("hidden", (32..=1 << 14).contains(&s.hidden) && s.hidden.is_multiple_of(32))?;
        field("heads", (1..=256).contains(&s.heads))?;
        field(
            "kv_heads",
            s.kv_heads >= 1 && s.kv_heads <= s.heads && s.heads.is_multiple_of(s.kv_heads),
        )?;
        field("head_dim", (2..=256).contains(&s.head_dim) && s.head_dim.is_multiple_of(2))?;
        field("heads x head_dim", (s.heads * s.head_dim).is_multiple_of(32))?;
        field("conv_width", (2..=16).contains(&s.conv_width))?;
        field("max_context", (1..=1 << 20).contains(&s.max_context))?;
        field("rope_theta", positive(s.rope_theta))?;
        field("norm_eps", s.norm_eps.is_finite() && s.norm_eps >= 0.0)?;
        field("routed_scale", positive(s.routed_scale))?;
        field("layers", !self.layers.is_empty())?;
        let dense = self.layers.iter().any(|layer| matches!(layer.ffn, Ffn::Dense { .. }));
        let width = |x: u32| (32..=1 << 16).contains(&x) && x.is_multiple_of(32);
        field("dense_ff", if dense { width(s.dense_ff) } else { s.dense_ff == 0 })?;
        if self.banks() > 0 {
            field("expert_ff", width(s.expert_ff))?;
            field("experts", (1..=MAX_EXPERTS as u32).contains(&s.experts))?;
            field("top_k", (1..=MAX_TOP_K as u32).contains(&s.top_k) && s.top_k <= s.experts)?;
        } else {
            field("experts", s.experts == 0 && s.top_k == 0 && s.expert_ff == 0)?;
        }
        for id in [self.chat.begin, self.chat.open, self.chat.close].iter().flatten() {
            field("chat token", *id < s.vocab)?;
        }
        field("stop token", self.chat.stops.iter().all(|id| *id < s.vocab))?;
        let marked = |thinking: &Thinking| !thinking.open.is_empty() && !thinking.close.is_empty();
        field("thinking", self.chat.thinking.as_ref().is_none_or(marked))?;
        self.sampling.out_of_range().map_or(Ok(()), |name| Err(ManifestError::Field(name)))
    }
}
