//! What people meet in the field: files of converters, quantisers and fine-tunes that differ from
//! the plain ones, and what must come of each.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::Packed;
use common::gguf_file::{self, Raw};
use common::hub_folder;
use common::run::logits;
use common::tiny::{Random, Tensor, Tiny};
use common::truth::differences;
use rill::image::{Manifest, Section};
use rill_pack::gguf::{Array, Value};
use rill_pack::stored::Stored;
use rill_pack::{Options, Quiet, Summary, pack};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value as Json, json};

type Metadata = Vec<(String, Value)>;

/// Packs a GGUF file whose metadata and tensors `change` changes.
fn gguf(
    tiny: &Tiny,
    stored: Stored,
    change: impl FnOnce(&mut Metadata, &mut Vec<Raw>),
) -> Result<(Summary, Packed, Vec<Raw>), String> {
    let folder = tempfile::tempdir().unwrap();
    let (source, image) = (folder.path().join("model.gguf"), folder.path().join("m.rill"));
    let mut metadata = gguf_file::metadata(tiny);
    let mut raws = gguf_file::tensors(tiny.tensors(), |_| stored);
    change(&mut metadata, &mut raws);
    gguf_file::write(&source, &metadata, &raws);
    let summary = pack(&source, &image, &Options::default(), &Quiet).map_err(|e| e.to_string())?;
    Ok((summary, Packed::open(&image), raws))
}

/// A file with one more key.
fn with_key(key: &str, value: Value) -> Result<(Summary, Packed, Vec<Raw>), String> {
    gguf(&Tiny::default(), Stored::Q4_0, |metadata, _| {
        metadata.retain(|(old, _)| old != key);
        metadata.push((key.into(), value));
    })
}

/// Packs a folder that `write` fills.
fn folder(write: impl FnOnce(&Path)) -> Result<(Summary, Packed), String> {
    let folder = tempfile::tempdir().unwrap();
    let (source, image) = (folder.path().join("model"), folder.path().join("m.rill"));
    write(&source);
    let summary = pack(&source, &image, &Options::default(), &Quiet).map_err(|e| e.to_string())?;
    Ok((summary, Packed::open(&image)))
}

/// Packs a plain folder with another configuration.
fn with_config(change: impl FnOnce(&mut Json)) -> Result<(Summary, Packed), String> {
    let tiny = Tiny::default();
    let mut config = tiny.config();
    change(&mut config);
    folder(|path| hub_folder::write(path, &config, &tiny.tensors()))
}

/// Expects an error that contains a text.
fn refused<T>(result: Result<T, String>, expected: &str) {
    let Err(error) = result else { panic!("packed, without {expected:?}") };
    assert!(error.contains(expected), "{error:?} lacks {expected:?}");
}

#[test]
fn of_a_q4_0_made_with_an_importance_matrix_only_the_other_tensor_is_rounded() {
    let tiny = Tiny { dense_layers: 1, ..Tiny::default() };
    let down = "blk.0.ffn_down.weight";
    let (summary, packed, raws) = gguf(&tiny, Stored::Q4_0, |_, raws| {
        let raw = raws.iter_mut().find(|raw| raw.name == down).unwrap();
        let all = gguf_file::tensors(tiny.tensors(), |_| Stored::Q4_1);
        *raw = all.into_iter().find(|raw| raw.name == down).unwrap();
    })
    .unwrap();
    for (name, (rms, _)) in differences(&packed, &raws) {
        assert_eq!(rms > 0.0, name == down, "{name}: {rms}");
    }
    let text = summary.to_string();
    assert!(text.contains("Q4_1    -> q8  rounded"), "{text}");
    assert!(!text.contains("second time"), "{text}");
}

#[test]
fn rounding_what_was_rounded_before_is_said_with_what_would_keep_more() {
    for (stored, said) in [(Stored::IQ4_NL, true), (Stored::MXFP4, true), (Stored::BF16, false)] {
        let (summary, ..) = gguf(&Tiny::default(), stored, |_, _| ()).unwrap();
        let text = summary.to_string();
        let (name, advice) = (stored.name(), "--experts q8 would lose about 0.5 %");
        let twice =
            format!("{name} had been rounded before, and q4 rounds a second time; {advice}");
        assert_eq!(text.contains(&twice), said, "{text}");
        assert!(text.contains(&format!("{name:<7} -> q4  rounded")), "{text}");
    }
}

#[test]
fn keys_that_change_the_answers_are_refused_by_name() {
    let cases = [
        ("attention.sliding_window", Value::Unsigned(30)),
        ("attention.causal", Value::Bool(false)),
        ("pooling_type", Value::Unsigned(1)),
        ("final_logit_softcapping", Value::Float(30.5)),
        ("expert_shared_count", Value::Unsigned(1)),
        ("logit_scale", Value::Float(0.5)),
        ("rope.scaling.factor", Value::Float(4.5)),
    ];
    for (name, value) in cases {
        let (key, said) = (format!("lfm2moe.{name}"), value.to_string());
        refused(with_key(&key, value), &format!("{key} = {said}, which is not supported"));
    }
    refused(with_key("lfm2moe.rope.scaling.type", Value::Unsigned(3)), "rope.scaling.type: 3");
    let said = |value| with_key("lfm2moe.attention.clamp_kqv", value).err().unwrap();
    assert!(said(Value::Unsigned(30)).contains("clamp_kqv = 30, which"));
    assert!(said(Value::Text("a\u{1b}b".into())).contains(r#"clamp_kqv = "a\u{1b}b", which"#));
    let long = Value::Array(Array::Unsigned((1..100_000).collect()));
    assert!(
        said(long).contains(
            "clamp_kqv = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, …], which"
        )
    );
    let plain = gguf(&Tiny::default(), Stored::Q4_0, |_, _| ()).unwrap().1;
    let harmless = [
        ("attention.sliding_window", Value::Unsigned(4096)),
        ("attention.causal", Value::Bool(true)),
        ("pooling_type", Value::Unsigned(0)),
        ("logit_scale", Value::Float(1.0)),
        ("rope.scaling.type", Value::Text("none".into())),
    ];
    for (name, value) in harmless {
        let (summary, packed, _) = with_key(&format!("lfm2moe.{name}"), value).unwrap();
        assert!(packed.bytes == plain.bytes, "{name}");
        assert_eq!(summary.notes, [""; 0], "{name}");
    }
    let (summary, packed, _) = with_key("lfm2moe.mystery", Value::Unsigned(5)).unwrap();
    assert!(packed.bytes == plain.bytes);
    assert_eq!(summary.notes, ["not used: lfm2moe.mystery"]);
    let (summary, ..) = gguf(&Tiny::default(), Stored::Q4_0, |metadata, _| {
        let key = |n| (format!("lfm2moe.mystery\u{7}{n}"), Value::Bool(true));
        metadata.extend((0..9).map(key));
    })
    .unwrap();
    let first = r"not used: lfm2moe.mystery\u{7}0, lfm2moe.mystery\u{7}1, ";
    assert!(summary.notes[0].starts_with(first) && summary.notes[0].ends_with(" and 5 more"));

    for (key, value) in [
        ("sliding_window", json!(1024)),
        ("is_causal", json!(false)),
        ("use_pos_enc", json!(false)),
        ("attention_bias", json!(true)),
        ("logits_scaling", json!(8.0)),
        ("num_shared_experts", json!(1)),
        ("partial_rotary_factor", json!(0.5)),
        ("architectures", json!(["Lfm2MoeForSequenceClassification"])),
    ] {
        let expected = if key == "architectures" { "ForSequenceClassification" } else { key };
        refused(with_config(|config| config[key] = value), expected);
    }
    for rope in [json!({ "rope_type": 7 }), json!({ "rope_type": ["yarn"] })] {
        refused(with_config(|config| config["rope_scaling"] = rope), "a rope_type that is no text");
    }
    refused(with_config(|config| config["rope_scaling"] = json!({ "factor": 4.0 })), "scaling by");
    let plain = with_config(|_| ()).unwrap().1;
    let same = with_config(|config| {
        config["sliding_window"] = Json::Null;
        config["use_pos_enc"] = json!(true);
        config["attention_bias"] = json!(false);
        config["architectures"] = json!(["Lfm2MoeForCausalLM"]);
        config["rope_scaling"] = json!({ "rope_type": null });
    });
    let (summary, packed) = same.unwrap();
    assert!(packed.bytes == plain.bytes);
    assert_eq!(summary.notes, [""; 0]);
    // What nothing here knows is listed; what says nothing of answers is not.
    let (summary, packed) = with_config(|config| {
        config["mystery"] = json!({ "depth": 3 });
        config["other_mystery"] = Json::Null;
        config["torch_dtype"] = json!("bfloat16");
        config["block_use_xavier_init"] = json!(true);
    })
    .unwrap();
    assert!(packed.bytes == plain.bytes);
    assert_eq!(summary.notes, ["not used: of config.json mystery"]);
}

#[test]
fn tensors_that_change_the_answers_are_refused_by_name_and_others_are_listed() {
    let extra = |name: &str| {
        let (name, bytes) = (name.to_owned(), vec![0; 64 * 4]);
        gguf(&Tiny::default(), Stored::Q4_0, |_, raws| {
            raws.push(Raw { name, dims: vec![64], number: 0, bytes });
        })
    };
    for name in [
        "blk.0.shortconv.in_proj.bias",
        "blk.1.attn_q.bias",
        "blk.2.ffn_gate_shexp.weight",
        "output.bias",
        "rope_freqs.weight",
    ] {
        refused(extra(name), &format!("the tensor {name} would change the model's answers"));
    }
    let plain = gguf(&Tiny::default(), Stored::Q4_0, |_, _| ()).unwrap().1;
    let (summary, packed, _) = extra("blk.4.nextn.eh_proj.weight").unwrap();
    assert!(packed.bytes == plain.bytes);
    assert!(summary.to_string().contains("note: not used: blk.4.nextn.eh_proj.weight\n"));

    let renamed = gguf(&Tiny::default(), Stored::Q4_0, |_, raws| {
        for raw in raws {
            raw.name = raw.name.replace("exp_probs_b.bias", "ffn_exp_probs_b.bias");
        }
    });
    refused(renamed, "blk.1.ffn_exp_probs_b.bias");
    let gone = |layer: &'static str| {
        gguf(&Tiny::default(), Stored::Q4_0, move |_, raws| {
            raws.retain(|raw| !(raw.name.starts_with(layer) && raw.name.ends_with("probs_b.bias")));
        })
    };
    refused(gone("blk.2."), "the tensor blk.2.exp_probs_b.bias is missing");
    let (summary, ..) = gone("blk.").unwrap();
    assert_eq!(summary.notes, ["the router has no expert bias"]);

    let tiny = Tiny::default();
    let hub = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut tensors = tiny.tensors();
        change(&mut tensors);
        folder(|path| hub_folder::write(path, &tiny.config(), &tensors))
    };
    let bias = "model.layers.2.feed_forward.expert_bias";
    refused(hub(&|tensors| drop(tensors.remove(bias))), bias);
    let more = |name: &'static str| {
        hub(&move |tensors| {
            let tensor = Tensor { dims: vec![1], values: vec![0.0] };
            tensors.insert(name.into(), tensor);
        })
    };
    refused(more("model.layers.0.conv.in_proj.bias"), "model.layers.0.conv.in_proj.bias");
    let (summary, _) = more("model.layers.1.self_attn.rotary_emb.inv_freq").unwrap();
    assert_eq!(summary.notes, ["not used: model.layers.1.self_attn.rotary_emb.inv_freq"]);
    refused(
        folder(|path| {
            hub_folder::write(path, &tiny.config(), &tiny.tensors());
            fs::write(path.join("modules.json"), "[]").unwrap();
        }),
        "pooling",
    );
}

#[test]
fn other_spellings_of_a_gguf_are_the_same_model() {
    let tiny = Tiny::default();
    let plain = gguf(&tiny, Stored::Q4_0, |_, _| ()).unwrap().1;
    let fused = gguf(&tiny, Stored::Q4_0, |_, raws| {
        for layer in 1..4 {
            let take = |raws: &mut Vec<Raw>, part: &str| {
                let name = format!("blk.{layer}.ffn_{part}_exps.weight");
                let at = raws.iter().position(|raw| raw.name == name).unwrap();
                raws.remove(at)
            };
            let (gate, up) = (take(raws, "gate"), take(raws, "up"));
            let each = gate.bytes.len() / tiny.experts;
            let pairs = gate.bytes.chunks(each).zip(up.bytes.chunks(each));
            raws.push(Raw {
                name: format!("blk.{layer}.ffn_gate_up_exps.weight"),
                dims: vec![tiny.experts, 2 * tiny.expert_ff, tiny.hidden],
                number: gate.number,
                bytes: pairs.flat_map(|(gate, up)| [gate, up].concat()).collect(),
            });
        }
    });
    let fused = fused.unwrap().1;
    assert!(fused.bytes == plain.bytes);
    let ids = [1, 6, 386, 274, 206, 458];
    assert!(logits(&fused.bytes, Some(2), &ids) == logits(&plain.bytes, None, &ids));

    let widths = |values: [i64; 4], keep: bool| {
        gguf(&tiny, Stored::Q4_0, move |metadata, _| {
            metadata.retain(|(key, _)| {
                key != "lfm2moe.feed_forward_length"
                    && (keep || key != "lfm2moe.expert_feed_forward_length")
            });
            let array = Value::Array(Array::Signed(values.to_vec()));
            metadata.push(("lfm2moe.feed_forward_length".into(), array));
        })
    };
    for keep in [true, false] {
        assert!(widths([96, 32, 32, 32], keep).unwrap().1.bytes == plain.bytes);
    }
    refused(widths([96, 32, 64, 32], true), "unusable lfm2moe.feed_forward_length");
    refused(widths([96, -1, -1, -1], true), "unusable lfm2moe.feed_forward_length");

    let (summary, packed, _) = gguf(&tiny, Stored::Q4_0, |metadata, _| {
        metadata.retain(|(key, _)| key != "tokenizer.ggml.pre");
    })
    .unwrap();
    assert!(packed.bytes == plain.bytes);
    assert!(summary.to_string().contains("note: tokenizer.ggml.pre is missing; taken as"));
}

#[test]
fn advice_on_sampling_never_stops_packing() {
    for value in [Value::Signed(-1), Value::Unsigned(0), Value::Float(0.0)] {
        let (summary, ..) = with_key("general.sampling.top_k", value).unwrap();
        assert_eq!(summary.manifest.sampling.top_k, 0);
        assert_eq!(summary.notes, [""; 0]);
    }
    let (summary, ..) = with_key("general.sampling.temp", Value::Text("warm".into())).unwrap();
    assert_eq!(summary.notes.len(), 1);
    let advised = |advice: Json| {
        let tiny = Tiny::default();
        folder(|path| {
            hub_folder::write(path, &tiny.config(), &tiny.tensors());
            fs::write(path.join("generation_config.json"), advice.to_string()).unwrap();
        })
        .unwrap()
        .0
    };
    for (advice, top_k) in [(json!(-1), 0), (json!(50.0), 50), (json!("80"), 80)] {
        assert_eq!(advised(json!({ "top_k": advice })).manifest.sampling.top_k, top_k);
    }
    let summary = advised(json!({
        "top_k": {}, "top_p": 0, "temperature": null, "repetition_penalty": -3, "eos_token_id": "x",
    }));
    assert_eq!(summary.manifest.sampling, rill::image::Sampling::default());
    assert_eq!(summary.notes.len(), 3);
}

#[test]
fn the_number_of_experts_has_two_names() {
    let plain = with_config(|_| ()).unwrap().1;
    for both in [false, true] {
        let local = with_config(|config| {
            config["num_local_experts"] = config["num_experts"].clone();
            if !both {
                config.as_object_mut().unwrap().remove("num_experts");
            }
        });
        assert!(local.unwrap().1.bytes == plain.bytes);
    }
}

/// LFM2.5's spelling of the split.
const LFM25: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s";

/// Changes a file of JSON.
fn edit(file: &Path, change: impl FnOnce(&mut Json)) {
    let mut json: Json = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    change(&mut json);
    fs::write(file, json.to_string()).unwrap();
}

#[test]
fn a_folder_and_a_gguf_of_the_same_weights_give_the_same_image_but_for_its_name() {
    let dense = Tiny { dense_layers: 4, ..Tiny::default() };
    let untied = Tiny { tied: false, expert_bias: false, ..Tiny::default() };
    let end = gguf_file::kiosk_head().metadata["tokenizer.ggml.eos_token_id"].as_u32();
    // Ways to write one tokenizer.
    type Change = fn(&mut Json);
    let ways: [Change; 5] = [
        |_| {},
        |file| file["model"]["ignore_merges"] = json!(true),
        |file| file["model"]["ignore_merges"] = json!(false),
        |file| drop(file["model"].as_object_mut().unwrap().remove("ignore_merges")),
        |file| {
            file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = LFM25.into();
            let merges = file["model"]["merges"].as_array_mut().unwrap();
            for merge in merges.iter_mut().filter(|merge| merge.is_array()) {
                *merge =
                    format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()).into();
            }
        },
    ];
    for tiny in [Tiny::default(), dense, untied] {
        let named = |name: &str| {
            let of_gguf = gguf(&tiny, Stored::BF16, |metadata, _| {
                metadata.retain(|(key, _)| key != "general.name");
                metadata.push(("general.name".into(), Value::Text(name.into())));
            });
            of_gguf.unwrap().1
        };
        let (alike, other) = (named("model"), named("Another name"));
        for way in ways {
            let of_hub = folder(|path| {
                let mut config = tiny.config();
                config["eos_token_id"] = json!(end);
                hub_folder::write(path, &config, &tiny.tensors());
                edit(&path.join("tokenizer.json"), way);
            });
            let of_hub = of_hub.unwrap().1;
            assert_eq!(of_hub.image.manifest, alike.image.manifest);
            assert!(of_hub.bytes == alike.bytes);
            let renamed = Manifest {
                name: other.image.manifest.name.clone(),
                ..of_hub.image.manifest.clone()
            };
            assert_eq!(renamed, other.image.manifest);
            for section in Section::ALL.into_iter().filter(|&section| section != Section::Manifest)
            {
                assert!(of_hub.section(section) == other.section(section), "{section:?}");
            }
        }
    }
}

#[test]
fn a_tokenizer_that_merges_tokens_on_gives_another_image_only_where_the_file_says_so() {
    let tiny = Tiny::default();
    let of_hub = |ignores: bool| {
        let packed = folder(|path| {
            hub_folder::write(path, &tiny.config(), &tiny.tensors());
            edit(&path.join("tokenizer.json"), |file| {
                let model = &mut file["model"];
                model["ignore_merges"] = json!(ignores);
                // Without the last merge no text merges into what it made.
                model["merges"].as_array_mut().unwrap().pop();
            });
        });
        packed.unwrap().1
    };
    let of_gguf = gguf(&tiny, Stored::BF16, |metadata, _| {
        for (key, value) in metadata {
            if key == "tokenizer.ggml.merges"
                && let Value::Array(Array::Text(merges)) = value
            {
                merges.pop();
            }
        }
    });
    let of_gguf = of_gguf.unwrap().1;
    let [whole, merged] = [true, false].map(of_hub);
    assert!(whole.section(Section::Tokenizer) == of_gguf.section(Section::Tokenizer));
    assert!(merged.section(Section::Tokenizer) != of_gguf.section(Section::Tokenizer));
}

/// How a folder says what scales its 8-bit floats.
#[derive(Debug, Clone, Copy)]
enum Scaled {
    /// One number for each 128 x 128 weights.
    Blocks,
    /// One a row.
    Rows,
    /// One a tensor.
    Tensor,
}

/// Writes a folder with matrices of 8-bit floats, and one with the same weights in bf16.
fn write_fp8(tiny: &Tiny, scaled: Scaled, fused: bool, eight: &Path, plain: &Path) {
    let mut random = Random(3);
    let mut tensors = tiny.tensors();
    if fused {
        tensors = hub_folder::fused(&tensors);
    }
    let mut written = Vec::new();
    for (name, tensor) in &mut tensors {
        let is_matrix = ["_proj", ".w1.", ".w2.", ".w3."].iter().any(|part| name.contains(part));
        if !is_matrix {
            let bytes = tensor.values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
            written.push((name.clone(), Dtype::F32, tensor.dims.clone(), bytes));
            continue;
        }
        let [outer @ .., rows, cols] = tensor.dims.as_slice() else { panic!("{name}") };
        let (count, rows, cols) = (outer.iter().product::<usize>(), *rows, *cols);
        let block = match scaled {
            Scaled::Blocks => [128, 128],
            Scaled::Rows => [1, cols],
            Scaled::Tensor => [rows, cols],
        };
        let lines = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
        // Powers of two, so that bf16 holds every product.
        let scales: Vec<f32> = (0..count * lines[0] * lines[1])
            .map(|_| 2.0_f32.powi(random.next() as i32 % 3 - 8))
            .collect();
        let bytes: Vec<u8> = (0..tensor.values.len())
            .map(|_| random.next() as u8)
            .map(|byte| if byte & 0x7f == 0x7f { 0 } else { byte })
            .collect();
        Stored::F8_E4M3.dequantise(&bytes, &mut tensor.values);
        for (index, value) in tensor.values.iter_mut().enumerate() {
            let (matrix, row, col) = (index / cols / rows, index / cols % rows, index % cols);
            let line = matrix * lines[0] + row / block[0];
            *value *= scales[line * lines[1] + col / block[1]];
        }
        let (ending, dims) = match scaled {
            Scaled::Blocks => ("_scale_inv", [outer, &lines].concat()),
            Scaled::Rows => ("_scale", [outer, &[rows, 1]].concat()),
            Scaled::Tensor => {
                ("_scale", [outer, &[1][..outer.len()], &[1][..outer.len()]].concat())
            }
        };
        let scales = scales.iter().flat_map(|x| x.to_le_bytes()).collect();
        written.push((format!("{name}{ending}"), Dtype::F32, dims, scales));
        written.push((name.clone(), Dtype::F8_E4M3, tensor.dims.clone(), bytes));
    }
    let mut config = tiny.config();
    hub_folder::write(plain, &config, &tensors);
    config["quantization_config"] = match scaled {
        Scaled::Blocks => json!({ "quant_method": "fp8", "weight_block_size": [128, 128] }),
        _ => json!({ "quant_method": "compressed-tensors", "format": "float-quantized" }),
    };
    hub_folder::write_rest(eight, &config);
    let views = written.iter().map(|(name, dtype, dims, bytes)| {
        (name.as_str(), TensorView::new(*dtype, dims.clone(), bytes).unwrap())
    });
    let file = eight.join("model.safetensors");
    fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn eight_bit_floats_are_packed_with_their_scales() {
    let tiny = Tiny {
        hidden: 160,
        head_dim: 40,
        dense_ff: 288,
        expert_ff: 160,
        experts: 2,
        ..Tiny::default()
    };
    for (scaled, fused) in [
        (Scaled::Blocks, false),
        (Scaled::Blocks, true),
        (Scaled::Rows, false),
        (Scaled::Rows, true),
        (Scaled::Tensor, false),
        (Scaled::Tensor, true),
    ] {
        let place = tempfile::tempdir().unwrap();
        let [eight, plain] = ["eight", "plain"].map(|kind| place.path().join(kind).join("model"));
        write_fp8(&tiny, scaled, fused, &eight, &plain);
        let images = [&eight, &plain].map(|source| {
            let image = place.path().join("m.rill");
            let summary = pack(source, &image, &Options::default(), &Quiet).unwrap();
            (fs::read(image).unwrap(), summary.to_string())
        });
        assert!(images[0].0 == images[1].0, "{scaled:?} {fused}");
        assert!(images[0].1.contains("F8_E4M3 -> q4  rounded"), "{}", images[0].1);
    }
}

#[test]
fn eight_bit_floats_without_usable_scales_are_refused() {
    let tiny = Tiny::default();
    let name = "model.layers.0.conv.in_proj.weight";
    let with_scale = |scale: Option<(&str, Dtype, Vec<usize>)>| {
        folder(|path| {
            hub_folder::write(path, &tiny.config(), &tiny.tensors());
            let file = path.join("model.safetensors");
            let mut tensors = hub_folder::read_tensors(&file);
            let dims = tensors.remove(name).unwrap().dims;
            hub_folder::write_tensors(&path.join("a.safetensors"), &tensors);
            let bytes = vec![0x38; dims.iter().product()];
            let mut views =
                vec![(name.to_owned(), TensorView::new(Dtype::F8_E4M3, dims, &bytes).unwrap())];
            let zeros = vec![0; 1 << 16];
            if let Some((ending, dtype, dims)) = scale {
                let len = dims.iter().product::<usize>() * dtype.bitsize() / 8;
                let view = TensorView::new(dtype, dims, &zeros[..len]).unwrap();
                views.push((format!("{name}{ending}"), view));
            }
            fs::write(path.join("b.safetensors"), safetensors::serialize(views, None).unwrap())
                .unwrap();
            fs::remove_file(file).unwrap();
            let map = json!({ "weight_map": { "x": "a.safetensors", "y": "b.safetensors" } });
            fs::write(path.join("model.safetensors.index.json"), map.to_string()).unwrap();
        })
    };
    refused(with_scale(None), &format!("{name}_scale_inv or {name}_scale is missing"));
    refused(
        with_scale(Some(("_scale", Dtype::I32, vec![1]))),
        "weight_scale has the type I32, which is not supported",
    );
    refused(with_scale(Some(("_scale", Dtype::F32, vec![7]))), "weight_scale has the shape [7]");
    refused(with_scale(Some(("_scale_inv", Dtype::BF16, vec![2, 2, 2]))), "has the shape");
    assert!(with_scale(Some(("_scale", Dtype::BF16, vec![192, 1]))).is_ok());
}

#[test]
fn encodings_of_other_programs_are_refused_by_name() {
    let cases = [
        (json!({ "quant_method": "awq", "bits": 4 }), "AWQ"),
        (json!({ "quant_method": "gptq", "bits": 4 }), "GPTQ"),
        (json!({ "quant_method": "bitsandbytes" }), "bitsandbytes"),
        (json!({ "group_size": 64, "bits": 4 }), "MLX"),
        (
            json!({ "quant_method": "compressed-tensors", "format": "pack-quantized" }),
            "compressed-tensors as pack-quantized",
        ),
        (json!({ "quant_method": "new\u{1b}way" }), "\"new\\u{1b}way\""),
    ];
    for (how, name) in cases {
        let error = format!("quantised by {name}, whose encoding is not read; give");
        refused(with_config(|config| config["quantization_config"] = how), &error);
    }
    let mlx = json!({ "group_size": 64, "bits": 4 });
    refused(with_config(|config| config["quantization"] = mlx), "MLX");
    // Where the configuration is silent, the names of tensors are not.
    for (ending, name) in [("qweight", "AWQ or GPTQ"), ("biases", "MLX")] {
        let tiny = Tiny::default();
        let mut tensors = tiny.tensors();
        let tensor = tensors.remove("model.layers.0.conv.in_proj.weight").unwrap();
        tensors.insert(format!("model.layers.0.conv.in_proj.{ending}"), tensor);
        refused(folder(|path| hub_folder::write(path, &tiny.config(), &tensors)), name);
    }
}
