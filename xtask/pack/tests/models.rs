//! The models of the family as they were published: what their makers' configurations say, against
//! tensors of their full sizes (of which only the heads of files are made), and LFM2-24B-A2B's shape,
//! narrow, from the checkpoint to logits.

mod common;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use common::gguf_file;
use common::hub_folder;
use common::run::logits;
use common::tiny::Tiny;
use rill::image::{Ffn, Sampling, Shape};
use rill_pack::checkpoint::{Checkpoint, Model, Source, Store};
use rill_pack::gguf::Value;
use rill_pack::stored::Stored;
use rill_pack::{Options, Quiet, pack};
use serde_json::{Value as Json, json};

/// A published model.
struct Published {
    name: &'static str,
    tiny: Tiny,
    context: u32,
    rope_theta: f32,
    spelling: Spelling,
    /// Advice of `generation_config.json`.
    advice: Json,
}

/// How a `config.json` is written.
#[derive(Clone, Copy)]
enum Spelling {
    /// That of the first dense models, with the width that two thirds are meant of.
    Block(u32),
    /// That of the first dense models, with the width itself.
    BlockExact,
    /// That of transformers 4: RoPE's base alone, `tie_embedding`.
    Four,
    /// That of transformers 5: RoPE's parameters together, `dtype`.
    Five,
}

/// Layers of which these attend.
fn layers(count: usize, attends: &[usize]) -> Vec<bool> {
    (0..count).map(|layer| attends.contains(&layer)).collect()
}

fn dense(hidden: usize, ff: usize, attention: Vec<bool>) -> Tiny {
    Tiny {
        vocab: 65_536,
        hidden,
        heads: hidden / 64,
        kv_heads: 8,
        head_dim: 64,
        dense_ff: ff,
        dense_layers: attention.len(),
        attention,
        ..Tiny::default()
    }
}

fn moe(vocab: usize, experts: usize, expert_ff: usize, attention: Vec<bool>) -> Tiny {
    let (dense_layers, top_k) = (2, 4);
    Tiny { vocab, experts, expert_ff, dense_layers, top_k, ..dense(2048, 7168, attention) }
}

/// Sizes and spellings of the configurations that Liquid AI publishes with each model.
fn published() -> Vec<Published> {
    let sixteen = || layers(16, &[2, 5, 8, 10, 12, 14]);
    let thirty = || layers(30, &[2, 5, 9, 13, 17, 21, 24, 27]);
    let eight_b = || layers(24, &[2, 6, 10, 14, 18, 21]);
    let large = || layers(40, &[2, 6, 10, 14, 18, 22, 26, 30, 34, 38]);
    let earlier = json!({ "temperature": 0.3, "min_p": 0.15, "repetition_penalty": 1.05 });
    let later = json!({ "temperature": 0.1, "top_k": 50, "repetition_penalty": 1.05 });
    let thinks = json!({ "temperature": 0.2, "top_k": 80, "repetition_penalty": 1.05 });
    let of = |name, tiny, rope_theta, spelling, advice: &Json| Published {
        name,
        tiny,
        context: 128_000,
        rope_theta,
        spelling,
        advice: advice.clone(),
    };
    let block = Spelling::Block;
    vec![
        of("LFM2-350M", dense(1024, 4608, sixteen()), 1e6, block(6656), &earlier),
        of("LFM2-700M", dense(1536, 6912, sixteen()), 1e6, block(10_240), &earlier),
        of("LFM2-1.2B", dense(2048, 8192, sixteen()), 1e6, block(12_288), &earlier),
        of("LFM2-2.6B", dense(2048, 10_752, thirty()), 1e6, Spelling::BlockExact, &earlier),
        of("LFM2.5-350M", dense(1024, 4608, sixteen()), 1e6, Spelling::Five, &later),
        of("LFM2.5-1.2B", dense(2048, 8192, sixteen()), 1e6, Spelling::Five, &later),
        of("LFM2.5-2.6B", dense(2048, 10_752, thirty()), 1e6, Spelling::Five, &later),
        of("LFM2-8B-A1B", moe(65_536, 32, 1792, eight_b()), 1e6, Spelling::Four, &earlier),
        of("LFM2.5-8B-A1B", moe(128_000, 32, 1792, eight_b()), 5e6, Spelling::Five, &thinks),
        of("LFM2-24B-A2B", moe(65_536, 64, 1536, large()), 1e6, Spelling::Four, &later),
        of("LFM2.5-24B-A2B", moe(128_000, 64, 1536, large()), 5e6, Spelling::Five, &thinks),
    ]
}

impl Published {
    fn config(&self) -> Json {
        let tiny = &self.tiny;
        let class = if tiny.is_dense() { "Lfm2ForCausalLM" } else { "Lfm2MoeForCausalLM" };
        let mut config = tiny.config();
        let keys = config.as_object_mut().unwrap();
        for (key, value) in [
            ("architectures", json!([class])),
            ("bos_token_id", json!(1)),
            ("pad_token_id", json!(0)),
            ("initializer_range", json!(0.02)),
            ("use_cache", json!(true)),
            ("max_position_embeddings", json!(self.context)),
        ] {
            keys.insert(key.into(), value);
        }
        // None of them says it: it is the hidden size by the heads.
        keys.remove("head_dim");
        if matches!(self.spelling, Spelling::Five) {
            let rope = json!({ "rope_theta": self.rope_theta, "rope_type": "default" });
            keys.insert("rope_parameters".into(), rope);
            keys.insert("dtype".into(), json!("bfloat16"));
            keys.insert("transformers_version".into(), json!("5.0.0"));
            return config;
        }
        keys.remove("rope_parameters");
        keys.remove("tie_word_embeddings");
        for (key, value) in [
            ("rope_theta", json!(self.rope_theta)),
            ("tie_embedding", json!(true)),
            ("torch_dtype", json!("bfloat16")),
            ("transformers_version", json!("4.55.0")),
            ("use_pos_enc", json!(true)),
        ] {
            keys.insert(key.into(), value);
        }
        let width = match self.spelling {
            Spelling::Block(named) => named,
            Spelling::BlockExact => tiny.dense_ff as u32,
            Spelling::Four | Spelling::Five => return config,
        };
        let attends = tiny.attention.iter().enumerate().filter(|(_, attends)| **attends);
        let indices: Vec<_> = attends.map(|(layer, _)| layer).collect();
        for (key, value) in [
            ("block_auto_adjust_ff_dim", json!(width as usize != tiny.dense_ff)),
            ("block_dim", json!(tiny.hidden)),
            ("block_ff_dim", json!(width)),
            ("block_ffn_dim_multiplier", json!(1.0)),
            ("block_mlp_init_scale", json!(1.0)),
            ("block_multiple_of", json!(256)),
            ("block_norm_eps", json!(1e-5)),
            ("block_out_init_scale", json!(1.0)),
            ("block_use_swiglu", json!(true)),
            ("block_use_xavier_init", json!(true)),
            ("conv_dim", json!(tiny.hidden)),
            ("conv_dim_out", json!(tiny.hidden)),
            ("conv_use_xavier_init", json!(true)),
            ("full_attn_idxs", json!(indices)),
            ("num_heads", json!(tiny.heads)),
            ("theta", json!(self.rope_theta)),
        ] {
            keys.insert(key.into(), value);
        }
        keys.remove("intermediate_size");
        keys.remove("layer_types");
        config
    }

    /// The keys that llama.cpp writes.
    fn metadata(&self) -> Vec<(String, Value)> {
        let arch = if self.tiny.is_dense() { "lfm2" } else { "lfm2moe" };
        let mut metadata = gguf_file::metadata(&self.tiny);
        metadata.retain(|(key, _)| !key.ends_with("_length") || !key.contains(".attention."));
        let mut set = |key: String, value| {
            metadata.retain(|(old, _)| *old != key);
            metadata.push((key, value));
        };
        set("general.name".into(), Value::Text(self.name.into()));
        set(format!("{arch}.context_length"), Value::Unsigned(self.context.into()));
        set(format!("{arch}.rope.freq_base"), Value::Float(self.rope_theta.into()));
        set(format!("{arch}.vocab_size"), Value::Unsigned(self.tiny.vocab as u64));
        for (ours, theirs) in [
            ("temperature", "temp"),
            ("top_k", "top_k"),
            ("min_p", "min_p"),
            ("repetition_penalty", "penalty_repeat"),
        ] {
            if let Some(advice) = self.advice.get(ours).and_then(Json::as_f64) {
                set(format!("general.sampling.{theirs}"), Value::Float(advice));
            }
        }
        metadata
    }

    fn expected(&self) -> (Shape, Sampling) {
        let Tiny { vocab, hidden, heads, kv_heads, head_dim, dense_ff, .. } = self.tiny;
        let [vocab, hidden, heads, kv_heads, head_dim, dense_ff] =
            [vocab, hidden, heads, kv_heads, head_dim, dense_ff].map(|size| size as u32);
        let of_moe = |size: usize| if self.tiny.is_dense() { 0 } else { size as u32 };
        let shape = Shape {
            vocab,
            hidden,
            heads,
            kv_heads,
            head_dim,
            dense_ff,
            expert_ff: of_moe(self.tiny.expert_ff),
            experts: of_moe(self.tiny.experts),
            top_k: of_moe(self.tiny.top_k),
            conv_width: 3,
            max_context: self.context,
            rope_theta: self.rope_theta,
            norm_eps: 1e-5,
            norm_top_k: true,
            expert_bias: !self.tiny.is_dense(),
            routed_scale: 1.0,
        };
        let advised = |key: &str| self.advice.get(key).and_then(Json::as_f64);
        let plain = Sampling::default();
        let sampling = Sampling {
            temperature: advised("temperature").unwrap() as f32,
            top_k: advised("top_k").map_or(plain.top_k, |top_k| top_k as u32),
            min_p: advised("min_p").map_or(plain.min_p, |min_p| min_p as f32),
            repetition_penalty: advised("repetition_penalty").unwrap() as f32,
            ..plain
        };
        (shape, sampling)
    }

    #[track_caller]
    fn check(&self, model: &Model, notes: &[String]) {
        let name = self.name;
        let (shape, sampling) = self.expected();
        assert_eq!((&model.shape, model.sampling), (&shape, sampling), "{name}");
        assert_eq!((model.name.as_str(), model.tied, model.stops.contains(&7)), (name, true, true));
        assert_eq!(model.attention, self.tiny.attention, "{name}");
        assert_eq!(model.dense_layers, self.tiny.dense_layers, "{name}");
        assert_eq!(notes, [""; 0], "{name}");
    }
}

/// Files of which only the first bytes were made; the others are zeros.
#[derive(Default)]
struct Heads {
    folder: PathBuf,
    files: BTreeMap<PathBuf, (Vec<u8>, u64)>,
}

impl Heads {
    fn add(&mut self, path: impl Into<PathBuf>, head: impl Into<Vec<u8>>, size: Option<u64>) {
        let head = head.into();
        let size = size.unwrap_or(head.len() as u64);
        self.files.insert(path.into(), (head, size));
    }
}

impl Store for Heads {
    fn is_folder(&self, path: &Path) -> io::Result<bool> {
        Ok(path == self.folder)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Source>> {
        let (head, size) = self.files.get(path).ok_or(ErrorKind::NotFound)?;
        Ok(Box::new(Head { bytes: head.clone(), size: *size }))
    }

    fn whole_path(&self, path: &Path) -> PathBuf {
        path.into()
    }
}

#[derive(Debug)]
struct Head {
    bytes: Vec<u8>,
    size: u64,
}

impl Source for Head {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, at: u64, _: u64, into: &mut [u8]) -> io::Result<()> {
        let there = self.bytes.get(at as usize..).unwrap_or_default();
        let len = into.len().min(there.len());
        into[..len].copy_from_slice(&there[..len]);
        into[len..].fill(0);
        Ok(())
    }
}

#[test]
fn every_published_folder_is_read_as_its_makers_mean_it() {
    for model in published() {
        let folder = PathBuf::from(model.name);
        let mut store = Heads { folder: folder.clone(), ..Heads::default() };
        store.add(folder.join("config.json"), model.config().to_string(), None);
        store.add(folder.join("generation_config.json"), model.advice.to_string(), None);
        store.add(folder.join("tokenizer.json"), "{}", None);
        // Two shards, as the hub has them.
        let shapes = model.tiny.shapes();
        let half = shapes.len() / 2;
        let mut map = serde_json::Map::new();
        for (shard, shapes) in [&shapes[..half], &shapes[half..]].into_iter().enumerate() {
            let name = format!("model-{:05}-of-00002.safetensors", shard + 1);
            let (mut head, mut end) = (serde_json::Map::new(), 0);
            for (tensor, dims) in shapes {
                let start = end;
                end += 2 * dims.iter().product::<usize>() as u64;
                let of = json!({ "dtype": "BF16", "shape": dims, "data_offsets": [start, end] });
                head.insert(tensor.clone(), of);
                map.insert(tensor.clone(), json!(name));
            }
            let head = Json::Object(head).to_string().into_bytes();
            let bytes = [&(head.len() as u64).to_le_bytes()[..], &head].concat();
            let size = bytes.len() as u64 + end;
            store.add(folder.join(name), bytes, Some(size));
        }
        let index = json!({ "weight_map": map });
        store.add(folder.join("model.safetensors.index.json"), index.to_string(), None);
        let checkpoint = Checkpoint::open_in(&store, &folder).unwrap();
        model.check(&checkpoint.model, &checkpoint.notes);
    }
}

#[test]
fn every_published_gguf_is_read_as_its_makers_mean_it() {
    for model in published() {
        let path = PathBuf::from(format!("{}-Q4_0.gguf", model.name));
        let shapes = gguf_file::shapes(model.tiny.shapes());
        let described: Vec<_> = shapes
            .into_iter()
            .map(|(name, dims)| {
                let is_float = dims.len() == 1 || name.contains("inp") || name.contains(".conv.");
                let stored = if is_float { Stored::F32 } else { Stored::Q4_0 };
                let count = dims.iter().product::<usize>() / stored.block();
                let bytes = (count * stored.block_bytes()) as u64;
                (name, dims, stored.ggml_number().unwrap(), bytes)
            })
            .collect();
        let (head, size) = gguf_file::head(&model.metadata(), &described);
        let mut store = Heads::default();
        store.add(&path, head, Some(size));
        let checkpoint = Checkpoint::open_in(&store, &path).unwrap();
        model.check(&checkpoint.model, &checkpoint.notes);
    }
}

#[test]
fn the_shape_of_the_largest_model_is_packed_and_runs_within_any_budget() {
    let [.., largest] = &published()[..] else { panic!("there are models") };
    // Narrow, with all its layers, experts and routing.
    let tiny = Tiny {
        vocab: 2048,
        hidden: 64,
        heads: 4,
        kv_heads: 1,
        head_dim: 16,
        dense_ff: 96,
        expert_ff: 32,
        ..largest.tiny.clone()
    };
    let narrow = Published { tiny, ..published().pop().unwrap() };
    let folder = tempfile::tempdir().unwrap();
    let (source, image) = (folder.path().join("model"), folder.path().join("m.rill"));
    hub_folder::write(&source, &narrow.config(), &narrow.tiny.tensors());
    let summary = pack(&source, &image, &Options::default(), &Quiet).unwrap();
    let manifest = &summary.manifest;
    assert_eq!((manifest.layers.len(), manifest.pages()), (40, 38 * 64));
    let dense = manifest.layers.iter().filter(|layer| matches!(layer.ffn, Ffn::Dense { .. }));
    assert_eq!(dense.count(), 2);
    let bytes = std::fs::read(&image).unwrap();
    let ids = [1, 6, 386, 274, 206, 458, 424];
    let all = logits(&bytes, None, &ids);
    assert_eq!((all.len(), all[0].len()), (ids.len(), 2048));
    assert!(all.iter().flatten().all(|logit| logit.is_finite()));
    assert!(all[0] != all[1]);
    for slots in [4, 60, 1000] {
        assert!(logits(&bytes, Some(slots), &ids) == all, "{slots} slots");
    }
}
