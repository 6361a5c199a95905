//! Compares every tensor of an image with its source.

use std::cell::RefCell;
use std::collections::BTreeMap;

use rill::image::layout::Format;
use rill::image::{Ffn, FfnTensors, Mixer, MixerTensors};

use super::gguf_file::{Raw, values};
use super::{Packed, compare, unwoven};

/// The relative RMS that rounding to a format may cost on the tests' weights.
pub fn ceiling(format: Format) -> f64 {
    match format {
        Format::Q4 => 0.09,
        Format::Q8 => 0.006,
    }
}

/// Compares all of `packed` with `source`, whose tensors have GGUF's names. Norms, router and
/// convolution must be equal. Returns for each matrix the relative RMS and its format.
pub fn differences(packed: &Packed, source: &[Raw]) -> BTreeMap<String, (f64, Format)> {
    let manifest = &packed.image.manifest;
    let found = RefCell::new(BTreeMap::new());
    let tensor = |name: &str| source.iter().find(|raw| raw.name == name);
    let truth = |name: &str| values(tensor(name).unwrap_or_else(|| panic!("{name} is missing")));
    let matrix = |name: &str, rows: &[Vec<f32>], format| {
        let cols = *tensor(name).unwrap().dims.last().unwrap();
        let rms = compare(name, rows, &truth(name), cols);
        found.borrow_mut().insert(name.to_owned(), (rms, format));
    };
    let embedding = packed.matrix(&packed.top.embedding);
    matrix("token_embd.weight", &embedding, manifest.embedding);
    assert_eq!(tensor("output.weight").is_some(), manifest.head.is_some());
    if let Some(head) = &packed.top.head {
        matrix("output.weight", &packed.matrix(head), manifest.head.unwrap());
    }
    assert_eq!(packed.floats(&packed.top.norm), truth("token_embd_norm.weight"));
    let mut bank = 0;
    for (index, (tensors, layer)) in packed.layers.iter().zip(&manifest.layers).enumerate() {
        let name = |rest: &str| format!("blk.{index}.{rest}");
        let equal = |place, rest: &str| {
            assert_eq!(packed.floats(place), truth(&name(rest)), "{rest} of {index}");
        };
        equal(&tensors.operator_norm, "attn_norm.weight");
        equal(&tensors.ffn_norm, "ffn_norm.weight");
        match (&tensors.mixer, layer.mixer) {
            (
                MixerTensors::Conv { in_proj, taps, out_proj },
                Mixer::Conv { in_proj: in_format, out_proj: out_format },
            ) => {
                matrix(&name("shortconv.in_proj.weight"), &packed.matrix(in_proj), in_format);
                matrix(&name("shortconv.out_proj.weight"), &packed.matrix(out_proj), out_format);
                let (taps, source) = (packed.floats(taps), truth(&name("shortconv.conv.weight")));
                let hidden = manifest.shape.hidden as usize;
                let width = manifest.shape.conv_width as usize;
                for (at, &value) in source.iter().enumerate() {
                    assert_eq!(taps[at % width * hidden + at / width], value);
                }
            }
            (
                MixerTensors::Attention { qkv, q_norm, k_norm, out_proj },
                Mixer::Attention { qkv: joint, out_proj: out_format },
            ) => {
                let mut rows = packed.matrix(qkv);
                for part in ["attn_q.weight", "attn_k.weight", "attn_v.weight"] {
                    let rest = rows.split_off(tensor(&name(part)).unwrap().dims[0]);
                    matrix(&name(part), &rows, joint);
                    rows = rest;
                }
                assert!(rows.iter().flatten().all(|&x| x == 0.0));
                equal(q_norm, "attn_q_norm.weight");
                equal(k_norm, "attn_k_norm.weight");
                matrix(&name("attn_output.weight"), &packed.matrix(out_proj), out_format);
            }
            _ => panic!("layer {index} is not what its manifest says"),
        }
        match (&tensors.ffn, layer.ffn) {
            (
                FfnTensors::Dense { gate_up, down },
                Ffn::Dense { gate_up: joint, down: down_format },
            ) => {
                let [gate, up] = unwoven(packed.matrix(gate_up));
                matrix(&name("ffn_gate.weight"), &gate, joint);
                matrix(&name("ffn_up.weight"), &up, joint);
                matrix(&name("ffn_down.weight"), &packed.matrix(down), down_format);
            }
            (FfnTensors::Moe { router, bias }, Ffn::Moe) => {
                let (tiles, source) = (packed.floats(router), truth(&name("ffn_gate_inp.weight")));
                let hidden = manifest.shape.hidden as usize;
                for (row, weights) in source.chunks_exact(hidden).enumerate() {
                    for (col, &weight) in weights.iter().enumerate() {
                        let tile = row / 16 * 16 * hidden;
                        assert_eq!(tiles[tile + col * 16 + row % 16], weight);
                    }
                }
                if manifest.shape.expert_bias {
                    equal(bias, "exp_probs_b.bias");
                } else {
                    assert!(packed.floats(bias).iter().all(|&x| x == 0.0));
                }
                experts(packed, bank, &|rest| truth(&name(rest)), &mut |rest, rms, format| {
                    found.borrow_mut().insert(name(rest), (rms, format));
                });
                bank += 1;
            }
            _ => panic!("layer {index} is not what its manifest says"),
        }
    }
    found.into_inner()
}

/// Compares the pages of a bank.
fn experts(
    packed: &Packed,
    bank: usize,
    truth: &dyn Fn(&str) -> Vec<f32>,
    found: &mut dyn FnMut(&str, f64, Format),
) {
    let manifest = &packed.image.manifest;
    let count = manifest.shape.experts as usize;
    let hidden = manifest.shape.hidden as usize;
    let pages: Vec<_> = (0..count).map(|expert| packed.expert(bank * count + expert)).collect();
    let kinds = [
        ("ffn_gate_exps.weight", manifest.page_gate_up),
        ("ffn_up_exps.weight", manifest.page_gate_up),
        ("ffn_down_exps.weight", manifest.page_down),
    ];
    for (kind, (name, format)) in kinds.into_iter().enumerate() {
        let source = truth(name);
        let each = source.len() / count;
        let cols = if kind == 2 { each / hidden } else { hidden };
        let mut worst = 0.0_f64;
        for (page, weights) in pages.iter().zip(source.chunks_exact(each)) {
            worst = worst.max(compare(name, &page[kind], weights, cols));
        }
        found(name, worst, format);
    }
}
