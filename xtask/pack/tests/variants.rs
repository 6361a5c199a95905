//! The many ways in which one model may be written.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use common::Packed;
use common::gguf_file::{self, Raw};
use common::hub_folder;
use common::tiny::{Tensor, Tiny};
use common::truth::{ceiling, differences};
use rill::image::layout::Format;
use rill_pack::gguf::{Array, Value};
use rill_pack::stored::Stored;
use rill_pack::{Options, Quiet, Summary, pack};
use serde_json::{Value as Json, json};

type Metadata = Vec<(String, Value)>;

/// Packs a source with default options.
fn packed(source: &Path) -> (Summary, Packed) {
    packed_with(source, &Options::default())
}

fn packed_with(source: &Path, options: &Options) -> (Summary, Packed) {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("m.rill");
    let summary = pack(source, &image, options, &Quiet).unwrap();
    (summary, Packed::open(&image))
}

/// Packs a folder that `write` fills.
fn packed_folder(write: impl FnOnce(&Path)) -> Packed {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("model");
    write(&source);
    packed(&source).1
}

/// Packs a tiny model as one plain folder and holds it to its weights.
fn checked(tiny: &Tiny, config: &Json) -> Packed {
    let packed = packed_folder(|folder| hub_folder::write(folder, config, &tiny.tensors()));
    let truth = gguf_file::tensors(tiny.tensors(), |_| Stored::F32);
    for (name, (rms, format)) in differences(&packed, &truth) {
        assert!(rms > 0.0 && rms < 1.2 * ceiling(format), "{name}: {rms}");
    }
    packed
}

#[test]
fn fused_experts_shards_and_old_spellings_are_the_same_model() {
    let tiny = Tiny::default();
    let (tensors, config) = (tiny.tensors(), tiny.config());
    let plain = checked(&tiny, &config);
    let fused = packed_folder(|folder| {
        hub_folder::write(folder, &config, &hub_folder::fused(&tensors));
    });
    assert!(fused.bytes == plain.bytes);
    let sharded = packed_folder(|folder| {
        hub_folder::write_sharded(folder, &config, &tensors, 3);
    });
    assert!(sharded.bytes == plain.bytes);

    let mut old = config.clone();
    let keys = old.as_object_mut().unwrap();
    for key in ["rope_parameters", "layer_types", "norm_eps", "tie_word_embeddings", "conv_bias"] {
        keys.remove(key);
    }
    old["rope_theta"] = json!(500_000.0);
    old["full_attn_idxs"] = json!([1, 3]);
    old["block_norm_eps"] = json!(1e-5);
    old["tie_embedding"] = json!(true);
    old["rope_scaling"] = Json::Null;
    let old = packed_folder(|folder| {
        hub_folder::write(folder, &old, &tensors);
        // The template inside the tokenizer's configuration.
        let (jinja, path) =
            (folder.join("chat_template.jinja"), folder.join("tokenizer_config.json"));
        let mut tokenizer: Json =
            serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        tokenizer["chat_template"] = fs::read_to_string(&jinja).unwrap().into();
        fs::write(path, tokenizer.to_string()).unwrap();
        fs::remove_file(jinja).unwrap();
    });
    assert!(old.bytes == plain.bytes);

    let mut nested = config.clone();
    nested["rope_parameters"] = json!({
        "full_attention": { "rope_theta": 500_000.0, "rope_type": "default" },
        "conv": null,
    });
    let nested = packed_folder(|folder| hub_folder::write(folder, &nested, &tensors));
    assert!(nested.bytes == plain.bytes);
}

#[test]
fn every_number_of_the_configuration_is_honoured() {
    let tiny = Tiny { expert_bias: false, kv_heads: 4, ..Tiny::default() };
    let mut config = tiny.config();
    config["norm_topk_prob"] = json!(false);
    config["routed_scaling_factor"] = json!(2.5);
    config["norm_eps"] = json!(1e-6);
    let packed = packed_folder(|folder| {
        hub_folder::write(folder, &config, &tiny.tensors());
        let generation = json!({
            "temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.1,
            "eos_token_id": [7, 2],
        });
        fs::write(folder.join("generation_config.json"), generation.to_string()).unwrap();
    });
    let manifest = &packed.image.manifest;
    let shape = &manifest.shape;
    assert_eq!([shape.vocab, shape.hidden, shape.heads, shape.kv_heads], [2053, 64, 4, 4]);
    assert_eq!([shape.head_dim, shape.dense_ff, shape.expert_ff], [16, 96, 32]);
    assert_eq!([shape.experts, shape.top_k, shape.conv_width, shape.max_context], [5, 2, 3, 4096]);
    assert_eq!([shape.rope_theta, shape.norm_eps, shape.routed_scale], [500_000.0, 1e-6, 2.5]);
    assert!(!shape.norm_top_k && !shape.expert_bias);
    let sampling = &manifest.sampling;
    assert_eq!([sampling.temperature, sampling.top_p, sampling.min_p], [0.7, 0.9, 0.05]);
    assert_eq!((sampling.top_k, sampling.repetition_penalty), (50, 1.1));
    assert!([7, 2].iter().all(|id| manifest.chat.stops.contains(id)));
    assert_eq!(manifest.name, "model");
}

#[test]
fn untied_heads_and_odd_sizes_are_packed() {
    checked(
        &Tiny { tied: false, ..Tiny::default() },
        &Tiny { tied: false, ..Tiny::default() }.config(),
    );
    // Neither width is a multiple of 32; both are padded with zeros.
    let odd = Tiny { dense_ff: 72, expert_ff: 40, experts: 19, ..Tiny::default() };
    let packed = checked(&odd, &odd.config());
    let shape = &packed.image.manifest.shape;
    assert_eq!([shape.dense_ff, shape.expert_ff], [96, 64]);
}

#[test]
fn dense_models_find_their_width_as_transformers_does() {
    let dense = Tiny { dense_layers: 4, dense_ff: 512, ..Tiny::default() };
    let plain = checked(&dense, &dense.config());
    assert_eq!(plain.image.manifest.pages(), 0);
    assert_eq!(plain.image.manifest.shape.experts, 0);
    // 2/3 of 700 is 466, rounded up to a multiple of 256; the old key wins over the new one.
    let mut old = dense.config();
    old["block_ff_dim"] = json!(700);
    old["intermediate_size"] = json!(1);
    old["block_auto_adjust_ff_dim"] = json!(true);
    old["block_ffn_dim_multiplier"] = json!(1.0);
    old["block_multiple_of"] = json!(256);
    assert!(checked(&dense, &old).bytes == plain.bytes);
    // Adjusting is the default; without a factor nothing is rounded up.
    let keys = old.as_object_mut().unwrap();
    keys.remove("block_auto_adjust_ff_dim");
    keys.insert("block_ffn_dim_multiplier".into(), Json::Null);
    keys.insert("block_ff_dim".into(), json!(768));
    assert!(checked(&dense, &old).bytes == plain.bytes);
}

/// Packs a GGUF file of a tiny model and returns the raw tensors with it.
fn gguf(
    tiny: &Tiny,
    choose: impl Fn(&str) -> Stored,
    options: &Options,
) -> (Vec<Raw>, Summary, Packed) {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("tiny.gguf");
    let raws = gguf_file::tensors(tiny.tensors(), choose);
    gguf_file::write(&source, &gguf_file::metadata(tiny), &raws);
    let (summary, packed) = packed_with(&source, options);
    (raws, summary, packed)
}

#[test]
fn a_plain_gguf_gives_the_same_weights_as_the_hub() {
    for tiny in [Tiny::default(), Tiny { tied: false, expert_bias: false, ..Tiny::default() }] {
        let hub = checked(&tiny, &tiny.config());
        for stored in [Stored::F32, Stored::F16, Stored::BF16] {
            let (_, _, packed) = gguf(&tiny, |_| stored, &Options::default());
            assert_eq!(packed.image.manifest.shape, hub.image.manifest.shape);
            for section in [rill::image::Section::Resident, rill::image::Section::Pages] {
                assert!(packed.section(section) == hub.section(section), "{stored:?} {section:?}");
            }
        }
    }
    let dense = Tiny { dense_layers: 4, ..Tiny::default() };
    let (raws, _, packed) = gguf(&dense, |_| Stored::F16, &Options::default());
    assert!(differences(&packed, &raws).values().all(|(rms, format)| *rms < ceiling(*format)));
}

#[test]
fn every_tensor_type_is_read() {
    for stored in Stored::ALL.into_iter().filter(|stored| stored.ggml_number().is_some()) {
        let (raws, summary, packed) = gguf(&Tiny::wide(), |_| stored, &Options::default());
        let exact = matches!(stored, Stored::Q4_0 | Stored::Q8_0);
        for (name, (rms, format)) in differences(&packed, &raws) {
            let report = summary.report.tensors[&name];
            assert_eq!((report.stored, report.format), (stored, format));
            assert_eq!(report.relative_rms.is_none(), exact);
            // Uneven steps and few levels are further from even ones than the hub's weights are.
            let most = if exact { 0.0 } else { 2.5 * ceiling(format) };
            assert!(rms <= most, "{name} from {stored:?}: {rms}");
        }
    }
}

#[test]
fn mixed_types_share_the_smallest_format_that_keeps_them() {
    // q4_0 beside q8_0: both exact in q8.
    let mixed = |name: &str| {
        let small =
            name.contains("attn_q") || name.contains("ffn_up") || name.starts_with("blk.2.");
        if small { Stored::Q4_0 } else { Stored::Q8_0 }
    };
    let (raws, _, packed) = gguf(&Tiny::default(), mixed, &Options::default());
    assert!(differences(&packed, &raws).values().all(|(rms, _)| *rms == 0.0));
    assert_eq!(packed.image.manifest.page_gate_up, Format::Q8);
    assert_eq!(packed.image.manifest.page_down, Format::Q8);

    // One tensor that must be quantised: its whole matrix, and all pages, follow the option, and
    // what can stay exact in it does.
    let part = |name: &str| {
        if name.contains("attn_k") || name == "blk.3.ffn_down_exps.weight" {
            Stored::F16
        } else {
            Stored::Q4_0
        }
    };
    for experts in [Format::Q4, Format::Q8] {
        let options = Options { experts, ..Options::default() };
        let (raws, summary, packed) = gguf(&Tiny::default(), part, &options);
        assert_eq!(packed.image.manifest.page_down, experts);
        assert_eq!(packed.image.manifest.page_gate_up, Format::Q4);
        let rounded: BTreeSet<_> = differences(&packed, &raws)
            .into_iter()
            .filter(|(_, (rms, _))| *rms > 0.0)
            .map(|(name, _)| name)
            .collect();
        let expected = ["blk.1.attn_k.weight", "blk.3.attn_k.weight", "blk.3.ffn_down_exps.weight"];
        assert_eq!(rounded, expected.map(String::from).into());
        assert_eq!(summary.report.tensors["blk.1.attn_q.weight"].format, Format::Q8);
    }
}

/// Writes a tiny model as `count` GGUF files.
fn write_split(folder: &Path, tiny: &Tiny, count: usize) {
    let raws = gguf_file::tensors(tiny.tensors(), |_| Stored::Q4_0);
    let each = raws.len().div_ceil(count);
    for (index, part) in raws.chunks(each).enumerate() {
        let number = |x: usize| Value::Unsigned(x as u64);
        let mut metadata = if index == 0 { gguf_file::metadata(tiny) } else { Vec::new() };
        metadata.push(("split.no".into(), number(index)));
        metadata.push(("split.count".into(), number(count)));
        let name = format!("tiny-{:05}-of-{count:05}.gguf", index + 1);
        gguf_file::write(&folder.join(name), &metadata, part);
    }
}

#[test]
fn a_split_gguf_is_one_model_whichever_part_is_named() {
    let tiny = Tiny::default();
    let (_, _, whole) = gguf(&tiny, |_| Stored::Q4_0, &Options::default());
    let folder = tempfile::tempdir().unwrap();
    write_split(folder.path(), &tiny, 3);
    for part in 1..=3 {
        let (_, split) = packed(&folder.path().join(format!("tiny-{part:05}-of-00003.gguf")));
        assert!(split.bytes == whole.bytes);
    }
    let image = folder.path().join("m.rill");
    let first = folder.path().join("tiny-00001-of-00003.gguf");
    let error =
        |source: &Path| pack(source, &image, &Options::default(), &Quiet).unwrap_err().to_string();
    // The wrong file under a part's name, a part that is not there, a name that says nothing.
    fs::copy(&first, folder.path().join("tiny-00002-of-00003.gguf")).unwrap();
    assert!(error(&first).contains("put all parts of one model in one folder"));
    fs::remove_file(folder.path().join("tiny-00002-of-00003.gguf")).unwrap();
    assert!(error(&first).contains("tiny-00002-of-00003.gguf cannot be read"));
    fs::rename(&first, folder.path().join("other.gguf")).unwrap();
    assert!(error(&folder.path().join("other.gguf")).contains("does not say which"));
}

/// The error of packing a folder.
fn hub_error(
    config: &Json,
    tensors: &BTreeMap<String, Tensor>,
    then: impl FnOnce(&Path),
) -> String {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("model");
    hub_folder::write(&source, config, tensors);
    then(&source);
    let image = folder.path().join("m.rill");
    let error = pack(&source, &image, &Options::default(), &Quiet).unwrap_err();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "something was left behind");
    error.to_string()
}

#[test]
fn unusable_folders_are_refused_with_the_reason() {
    let tiny = Tiny::default();
    let tensors = tiny.tensors();
    let with = |key: &str, value: Json| {
        let mut config = tiny.config();
        config[key] = value;
        hub_error(&config, &tensors, |_| ())
    };
    let cases = [
        (with("model_type", json!("llama")), "\"llama\" is not supported"),
        (with("conv_bias", json!(true)), "a bias in its convolutions"),
        (with("hidden_act", json!("gelu")), "the activation \"gelu\""),
        (with("rope_scaling", json!({"type": "yarn"})), "rope scaling of the type \"yarn\""),
        (
            with("rope_parameters", json!({"rope_type": "llama3"})),
            "rope scaling of the type \"llama3\"",
        ),
        (with("rope_parameters", json!({"rope_theta": "x"})), "unusable rope_theta"),
        (with("quantization_config", json!({"quant_method": "awq"})), "quantised by AWQ"),
        (with("layer_types", json!(vec!["conv"; 3])), "unusable layer_types"),
        (with("layer_types", json!(["conv", "conv", "conv", "sliding_attention"])), "sliding"),
        (with("layer_types", Json::Null), "lacks layer_types"),
        (with("hidden_size", Json::Null), "lacks hidden_size"),
        (with("hidden_size", json!(60)), "out of bounds"),
        (with("num_experts", json!(4_000_000_000_u32)), "out of bounds"),
        (with("num_experts_per_tok", json!(6)), "out of bounds"),
        (
            with("vocab_size", json!(2054)),
            "the shape [2053, 64], the model's description says [2054, 64]",
        ),
        (with("tie_word_embeddings", json!(false)), "the tensor lm_head.weight is missing"),
    ];
    for (error, expected) in cases {
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    }
    let config = tiny.config();
    let without =
        |name: &str| hub_error(&config, &tensors, |f| fs::remove_file(f.join(name)).unwrap());
    assert!(without("config.json").contains("neither a GGUF file nor a folder"));
    assert!(without("tokenizer.json").contains("tokenizer.json cannot be read"));
    assert!(without("model.safetensors").contains("model.safetensors cannot be read"));
    let garbled =
        |name: &str| hub_error(&config, &tensors, |f| fs::write(f.join(name), "{").unwrap());
    assert!(garbled("config.json").contains("config.json is damaged"));
    assert!(garbled("generation_config.json").contains("generation_config.json is damaged"));
    assert!(garbled("model.safetensors.index.json").contains("index.json is damaged"));
    let outside = hub_error(&config, &tensors, |folder| {
        let index = json!({ "weight_map": { "x": "../model.safetensors" } });
        fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    });
    assert!(outside.contains("outside the folder"));

    let missing = "model.layers.2.feed_forward.experts.3.w2.weight";
    let mut fewer = tensors.clone();
    fewer.remove(missing);
    let error = hub_error(&config, &fewer, |_| ());
    assert!(error.contains(&format!("the tensor {missing} is missing")), "{error}");
    let mut infinite = tensors.clone();
    infinite.get_mut(missing).unwrap().values[5] = f32::INFINITY;
    let error = hub_error(&config, &infinite, |_| ());
    assert!(error.contains(missing) && error.contains("not finite"), "{error}");
    let mut nan = tensors.clone();
    nan.get_mut("model.layers.0.ffn_norm.weight").unwrap().values[5] = f32::NAN;
    assert!(hub_error(&config, &nan, |_| ()).contains("layers.0.ffn_norm.weight holds a weight"));
}

/// Leaves the embedding 1000 rows.
fn shorten_embedding(raw: &mut Raw) {
    if raw.name == "token_embd.weight" {
        raw.bytes.truncate(raw.bytes.len() / raw.dims[0] * 1000);
        raw.dims[0] = 1000;
    }
}

#[test]
fn unusable_ggufs_are_refused_with_the_reason() {
    let tiny = Tiny::default();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("tiny.gguf");
    let error = |change: &dyn Fn(&mut Metadata, &mut Vec<Raw>)| {
        let mut metadata = gguf_file::metadata(&tiny);
        let mut raws = gguf_file::tensors(tiny.tensors(), |_| Stored::Q8_0);
        change(&mut metadata, &mut raws);
        gguf_file::write(&source, &metadata, &raws);
        let image = folder.path().join("m.rill");
        let error = pack(&source, &image, &Options::default(), &Quiet).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "something was left behind");
        error.to_string()
    };
    let with = |key: &str, value: Value| {
        error(&|metadata, _| {
            metadata.retain(|(old, _)| old != key);
            metadata.push((key.into(), value.clone()));
        })
    };
    let text = |text: &str| Value::Text(text.into());
    let cases = [
        (with("general.architecture", text("qwen3moe")), "\"qwen3moe\" is not supported"),
        (with("lfm2moe.expert_gating_func", Value::Unsigned(1)), "expert gating function 1"),
        (with("lfm2moe.rope.scaling.type", text("yarn")), "rope scaling of the type \"yarn\""),
        (with("lfm2moe.rope.dimension_count", Value::Unsigned(8)), "8 of 16 dimensions"),
        (
            with("lfm2moe.block_count", Value::Unsigned(5)),
            "unusable lfm2moe.attention.head_count_kv",
        ),
        (with("lfm2moe.block_count", text("x")), "unusable lfm2moe.block_count"),
        (with("lfm2moe.expert_count", Value::Unsigned(6)), "the model's description says [6, 64]"),
        (with("lfm2moe.embedding_length", Value::Unsigned(0)), "out of bounds"),
        (with("general.alignment", Value::Unsigned(0)), "general.alignment"),
        (
            with("lfm2moe.attention.head_count_kv", Value::Array(Array::Signed(vec![0, 2, 0, 1]))),
            "unusable lfm2moe.attention.head_count_kv",
        ),
        (
            error(&|metadata, _| metadata.retain(|(key, _)| key != "lfm2moe.rope.freq_base")),
            "lacks",
        ),
        (error(&|metadata, _| metadata.push(metadata[0].clone())), "appears twice"),
        (error(&|_, raws| raws.push(raws[0].clone())), "appears twice"),
        (error(&|_, raws| raws[3].number = 31), "has the type Q4_0_4_4, which is not supported"),
        (error(&|_, raws| raws[3].number = 99), "has the type 99 of ggml, which is not supported"),
        (error(&|_, raws| drop(raws.remove(3))), "is missing; the checkpoint is incomplete"),
        (error(&|_, raws| raws[3].dims = vec![1 << 40; 3]), "is impossible"),
        (error(&|_, raws| raws[3].bytes[..2].fill(0xff)), "not finite"),
        (with("tokenizer.ggml.model", text("llama")), "byte-level BPE"),
        (error(&|_, raws| raws.iter_mut().for_each(shorten_embedding)), "the model only 1000"),
    ];
    for (error, expected) in cases {
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    }
    fs::write(&source, b"GGUF\x02\0\0\0 and more").unwrap();
    let image = folder.path().join("m.rill");
    let old = pack(&source, &image, &Options::default(), &Quiet).unwrap_err().to_string();
    assert!(old.contains("GGUF version 2"), "{old}");
    let none = pack(&folder.path().join("no"), &image, &Options::default(), &Quiet).unwrap_err();
    assert!(none.to_string().contains("cannot be read"), "{none}");
}
