//! A source checkpoint, GGUF or Hugging Face, in one shape: what the model is, and where the rows
//! of each of its matrices lie. Weights are read later, piece by piece.

mod advice;
mod config;
mod entries;
mod gguf;
mod hub;
mod source;
mod tensors;

use std::path::{Path, PathBuf};

use rill::image::Shape;

pub use self::source::{Disk, Source, Store};
use self::tensors::Tensors;
pub use self::tensors::{Files, Part, Rows};
use crate::gguf::GgufError;
pub use crate::model::Model;
use crate::quoted::{plain, quoted};
use crate::tokenizer::GgufTokenizer;

/// A checkpoint that is complete: every tensor is there, in the right shape and a known type.
#[derive(Debug)]
pub struct Checkpoint {
    /// What the model is.
    pub model: Model,
    /// The files that its parts point into.
    pub files: Files,
    /// (vocab, hidden).
    pub embedding: Part,
    /// (vocab, hidden) when not tied.
    pub head: Option<Part>,
    /// (hidden,).
    pub norm: Part,
    /// The layers.
    pub layers: Vec<Layer>,
    /// Its tokenizer, unread.
    pub words: Words,
    /// Its chat template, Jinja.
    pub template: Option<String>,
    /// What whoever packs it should know: what was left aside or assumed.
    pub notes: Vec<String>,
}

/// Where a tokenizer is described.
#[derive(Debug, Clone)]
pub enum Words {
    /// `tokenizer.json` and, when there is one, `tokenizer_config.json`.
    Json(String, Option<String>),
    /// Metadata of a GGUF file.
    Gguf(GgufTokenizer),
}

/// The tensors of a layer.
#[derive(Debug)]
pub struct Layer {
    /// (hidden,).
    pub operator_norm: Part,
    /// What mixes tokens.
    pub mixer: Mixer,
    /// (hidden,).
    pub ffn_norm: Part,
    /// What transforms each token.
    pub ffn: Ffn,
}

/// The tensors of a mixer.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there are a few dozen, and boxes would only hide them"
)]
pub enum Mixer {
    /// Gated short convolution.
    Conv {
        /// (3 hidden, hidden).
        in_proj: Part,
        /// (hidden, conv_width), oldest tap first.
        taps: Part,
        /// (hidden, hidden).
        out_proj: Part,
    },
    /// Grouped-query attention.
    Attention {
        /// q (heads head_dim, hidden), k and v (kv_heads head_dim, hidden).
        qkv: [Part; 3],
        /// (head_dim,).
        q_norm: Part,
        /// (head_dim,).
        k_norm: Part,
        /// (hidden, heads head_dim).
        out_proj: Part,
    },
}

/// The tensors of a feed-forward part.
#[derive(Debug)]
pub enum Ffn {
    /// One for all tokens.
    Dense(Swiglu),
    /// A router and its experts.
    Moe {
        /// (experts, hidden).
        router: Part,
        /// (experts,).
        bias: Option<Part>,
        /// By number.
        experts: Vec<Swiglu>,
    },
}

/// `down(silu(gate x) * (up x))`.
#[derive(Debug)]
pub struct Swiglu {
    /// Gate and up, each (ff, hidden).
    pub gate_up: [Part; 2],
    /// (hidden, ff).
    pub down: Part,
}

/// Why a checkpoint cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It is neither kind of checkpoint.
    #[error(
        "{0} is neither a GGUF file nor a folder with config.json and safetensors; give one of them"
    )]
    Unrecognised(PathBuf),
    /// A file cannot be read.
    #[error("{path} cannot be read: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A GGUF file is unusable.
    #[error("{path}: {error}")]
    Gguf {
        /// The file.
        path: PathBuf,
        /// Why.
        error: GgufError,
    },
    /// A file of the folder is unusable.
    #[error("{path} is damaged ({reason}); download it again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A part of a split checkpoint belongs elsewhere.
    #[error("{path}: {reason}; put all parts of one model in one folder")]
    Split {
        /// The part.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Not a model of this family.
    #[error("the architecture {} is not supported; only lfm2 and lfm2moe are", quoted(.0))]
    Architecture(String),
    /// The description of the model has no such entry.
    #[error("the model's description lacks {0}")]
    MissingKey(String),
    /// An entry of the description cannot be used.
    #[error("the model's description has an unusable {key}: {value}")]
    BadKey {
        /// The entry.
        key: String,
        /// Its value, shortened.
        value: String,
    },
    /// A number of the description is beyond what an image can hold.
    #[error("the model's description is out of bounds: {0}")]
    Bounds(#[from] rill::image::ManifestError),
    /// The model uses something that the engine does not do.
    #[error("the model uses {0}, which is not supported")]
    Unsupported(String),
    /// The weights are encoded in a way of another program.
    #[error(
        "its weights were quantised by {0}, whose encoding is not read; give the folder that they were made from, or a GGUF file of the model"
    )]
    Quantised(String),
    /// A tensor that would change the answers has no place in the image.
    #[error(
        "the tensor {0} would change the model's answers and nothing here uses it; the model is a variant that is not supported, or its tensors were renamed: convert it again with llama.cpp"
    )]
    UnusedTensor(String),
    /// A tensor is not in any file.
    #[error("the tensor {0} is missing; the checkpoint is incomplete")]
    MissingTensor(String),
    /// A tensor has other sizes than the description says.
    #[error("the tensor {name} has the shape {found:?}, the model's description says {expected:?}")]
    TensorShape {
        /// The tensor.
        name: String,
        /// Its sizes.
        found: Vec<u64>,
        /// What they should be.
        expected: Vec<u64>,
    },
    /// A tensor has an encoding that cannot be read.
    #[error(
        "the tensor {name} has the type {kind}, which is not supported; use a file with Q4_0, Q8_0, Q4_K, BF16 or another usual type"
    )]
    TensorType {
        /// The tensor.
        name: String,
        /// Its type, as the file calls it.
        kind: String,
    },
}

impl Checkpoint {
    /// Opens a GGUF file (for a split one any of its parts) or a Hugging Face folder.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::open_in(&Disk, path)
    }

    /// As [`Checkpoint::open`], from the files of `store`.
    pub fn open_in(store: &dyn Store, path: &Path) -> Result<Self, CheckpointError> {
        let read = |error| CheckpointError::Read { path: path.into(), error };
        if store.is_folder(path).map_err(read)? {
            hub::open(store, path)
        } else {
            gguf::open(store, path)
        }
    }
}

/// What the tensors of a layer are called.
trait Names {
    fn embedding(&self) -> &str;
    fn head(&self) -> &str;
    fn norm(&self) -> &str;
    fn of(&self, tensor: LayerTensor, layer: usize) -> String;
    /// What the names of all tensors of layers begin with, before the layer's number.
    fn layers(&self) -> &str;
    /// The experts of a layer, however they are grouped.
    fn experts(
        &self,
        tensors: &Tensors,
        layer: usize,
        shape: &Shape,
    ) -> Result<Vec<Swiglu>, CheckpointError>;
}

/// The tensors that a layer can have, experts apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LayerTensor {
    OperatorNorm,
    InProj,
    Taps,
    ConvOut,
    Query,
    Key,
    Value,
    QueryNorm,
    KeyNorm,
    AttentionOut,
    FfnNorm,
    Gate,
    Up,
    Down,
    Router,
    ExpertBias,
}

/// Everything of a checkpoint that is not a tensor.
struct Parts {
    model: Model,
    words: Words,
    template: Option<String>,
    notes: Vec<String>,
}

/// Finds every tensor of the model and checks its shape.
fn assemble(
    parts: Parts,
    files: Files,
    tensors: &Tensors,
    names: &dyn Names,
) -> Result<Checkpoint, CheckpointError> {
    let Parts { model, words, template, mut notes } = parts;
    model.check()?;
    let shape = &model.shape;
    let [vocab, hidden, head_dim, dense_ff, experts] =
        [shape.vocab, shape.hidden, shape.head_dim, shape.dense_ff, shape.experts].map(u64::from);
    let q_dim = u64::from(shape.heads) * head_dim;
    let kv_dim = u64::from(shape.kv_heads) * head_dim;
    let mut layers = Vec::new();
    for (layer, &attention) in model.attention.iter().enumerate() {
        let get = |tensor, dims: &[u64]| tensors.get(&names.of(tensor, layer), dims);
        let mixer = if attention {
            Mixer::Attention {
                qkv: [
                    get(LayerTensor::Query, &[q_dim, hidden])?,
                    get(LayerTensor::Key, &[kv_dim, hidden])?,
                    get(LayerTensor::Value, &[kv_dim, hidden])?,
                ],
                q_norm: get(LayerTensor::QueryNorm, &[head_dim])?,
                k_norm: get(LayerTensor::KeyNorm, &[head_dim])?,
                out_proj: get(LayerTensor::AttentionOut, &[hidden, q_dim])?,
            }
        } else {
            Mixer::Conv {
                in_proj: get(LayerTensor::InProj, &[3 * hidden, hidden])?,
                taps: get(LayerTensor::Taps, &[hidden, shape.conv_width.into()])?,
                out_proj: get(LayerTensor::ConvOut, &[hidden, hidden])?,
            }
        };
        let ffn = if layer < model.dense_layers {
            Ffn::Dense(Swiglu {
                gate_up: [
                    get(LayerTensor::Gate, &[dense_ff, hidden])?,
                    get(LayerTensor::Up, &[dense_ff, hidden])?,
                ],
                down: get(LayerTensor::Down, &[hidden, dense_ff])?,
            })
        } else {
            Ffn::Moe {
                router: get(LayerTensor::Router, &[experts, hidden])?,
                bias: if shape.expert_bias {
                    Some(get(LayerTensor::ExpertBias, &[experts])?)
                } else {
                    None
                },
                experts: names.experts(tensors, layer, shape)?,
            }
        };
        layers.push(Layer {
            operator_norm: get(LayerTensor::OperatorNorm, &[hidden])?,
            mixer,
            ffn_norm: get(LayerTensor::FfnNorm, &[hidden])?,
            ffn,
        });
    }
    let head = if model.tied { None } else { Some(tensors.get(names.head(), &[vocab, hidden])?) };
    let embedding = tensors.get(names.embedding(), &[vocab, hidden])?;
    let norm = tensors.get(names.norm(), &[hidden])?;
    if model.dense_layers < layers.len() && !shape.expert_bias {
        notes.push("the router has no expert bias".into());
    }
    notes.extend(not_used(tensors, names.layers(), layers.len())?);
    Ok(Checkpoint { embedding, head, norm, layers, model, files, words, template, notes })
}

/// Endings of tensors of a layer without which its answers are the same: what follows from other
/// numbers, and the scales of activations and caches that are not rounded here.
const IDLE: [&str; 6] =
    ["rotary_emb.inv_freq", "input_scale", "output_scale", "q_scale", "k_scale", "v_scale"];
/// Beginnings of tensors outside of layers that change the answers.
const TELLING: [&str; 6] =
    ["rope_freqs", "rope_factors", "dense_2", "dense_3", "cls", "position_embd"];

/// What to say of tensors that nothing asked for; an error if one would change the answers.
fn not_used(
    tensors: &Tensors,
    prefix: &str,
    layers: usize,
) -> Result<Option<String>, CheckpointError> {
    let unused = tensors.unused();
    let telling = |name: &&&str| {
        let layer: Option<usize> =
            name.strip_prefix(prefix).and_then(|rest| rest.split('.').next()?.parse().ok());
        match layer {
            Some(layer) if layer < layers => !IDLE.iter().any(|ending| name.ends_with(ending)),
            // Layers after the last one are for other ways to run the model.
            Some(_) => false,
            None => name.ends_with(".bias") || TELLING.iter().any(|start| name.starts_with(start)),
        }
    };
    if let Some(name) = unused.iter().find(telling) {
        return Err(CheckpointError::UnusedTensor((*name).into()));
    }
    Ok(unused_note("", &unused))
}

/// What to say of tensors, or of keys after a `prefix`, that nothing asked for.
fn unused_note(prefix: &str, names: &[&str]) -> Option<String> {
    /// How many are named.
    const MOST: usize = 4;
    let named: Vec<_> = names.iter().take(MOST).map(|name| plain(name)).collect();
    let more = match names.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!named.is_empty()).then(|| format!("not used: {prefix}{}{more}", named.join(", ")))
}
