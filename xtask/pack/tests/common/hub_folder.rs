//! Writes Hugging Face folders.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use super::kiosk;
use super::tiny::Tensor;

/// Writes one safetensors file, all bf16 except the experts' biases.
pub fn write_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    let data: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| {
            let values = tensor.values.iter();
            if name.ends_with("expert_bias") {
                (name, Dtype::F32, tensor, values.flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
            } else {
                let bytes = values.flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
                (name, Dtype::BF16, tensor, bytes)
            }
        })
        .collect();
    let views = data.iter().map(|(name, dtype, tensor, bytes)| {
        (name.as_str(), TensorView::new(*dtype, tensor.dims.clone(), bytes).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Reads one safetensors file of bf16 and f32 tensors.
pub fn read_tensors(path: &Path) -> BTreeMap<String, Tensor> {
    let file = fs::read(path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let read = |(name, view): (String, TensorView<'_>)| {
        let values = match view.dtype() {
            Dtype::F32 => {
                view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
            }
            Dtype::BF16 => {
                let pairs = view.data().as_chunks::<2>().0.iter();
                pairs.map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
            }
            other => panic!("{name}: {other:?}"),
        };
        (name, Tensor { dims: view.shape().to_vec(), values })
    };
    tensors.tensors().into_iter().map(read).collect()
}

/// Writes everything but the weights; the tokenizer is the kiosk model's.
pub fn write_rest(folder: &Path, config: &Value) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        fs::copy(kiosk().join("kiosk-16m").join(name), folder.join(name)).unwrap();
    }
}

/// Writes a folder with one file of weights.
pub fn write(folder: &Path, config: &Value, tensors: &BTreeMap<String, Tensor>) {
    write_rest(folder, config);
    write_tensors(&folder.join("model.safetensors"), tensors);
}

/// Writes a folder whose weights are dealt out to several files.
pub fn write_sharded(
    folder: &Path,
    config: &Value,
    tensors: &BTreeMap<String, Tensor>,
    shards: usize,
) {
    write_rest(folder, config);
    let mut parts = vec![BTreeMap::new(); shards];
    let mut map = HashMap::new();
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        let shard = index % shards;
        parts[shard].insert(name.clone(), tensor.clone());
        map.insert(name, format!("model-{:05}-of-{shards:05}.safetensors", shard + 1));
    }
    for (shard, part) in parts.iter().enumerate() {
        let name = format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
        write_tensors(&folder.join(name), part);
    }
    let index = json!({ "metadata": {}, "weight_map": map });
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

/// The tensors with each layer's experts fused into two, as transformers' own class has them.
pub fn fused(tensors: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let mut all = BTreeMap::new();
    let mut experts: BTreeMap<String, BTreeMap<usize, [Option<&Tensor>; 3]>> = BTreeMap::new();
    for (name, tensor) in tensors {
        let Some((prefix, rest)) = name.split_once(".experts.") else {
            all.insert(name.clone(), tensor.clone());
            continue;
        };
        let (number, w) = rest.split_once(".w").unwrap();
        let which: usize = w[..1].parse().unwrap();
        let layer = experts.entry(prefix.into()).or_default();
        layer.entry(number.parse().unwrap()).or_default()[which - 1] = Some(tensor);
    }
    for (prefix, layer) in experts {
        let (mut gate_up, mut down) = (Vec::new(), Vec::new());
        let mut dims = [0; 2];
        for tensors in layer.values() {
            let [w1, w2, w3] = tensors.map(Option::unwrap);
            gate_up.extend(w1.values.iter().chain(&w3.values));
            down.extend(&w2.values);
            dims = [w1.dims[0], w1.dims[1]];
        }
        let [ff, hidden] = dims;
        let count = layer.len();
        let gate_up = Tensor { dims: vec![count, 2 * ff, hidden], values: gate_up };
        let down = Tensor { dims: vec![count, hidden, ff], values: down };
        all.insert(format!("{prefix}.experts.gate_up_proj"), gate_up);
        all.insert(format!("{prefix}.experts.down_proj"), down);
    }
    all
}
