//! Outputs that others computed, and how far ours are from them.

use rill_pack::softmax::Softmax;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::kiosk;

/// One of `cases.json`.
#[derive(Debug, Deserialize)]
pub struct Case {
    /// The rendered conversation.
    pub text: String,
    /// Its tokens.
    pub ids: Vec<u32>,
    /// The messages it was rendered from, unless it is raw text.
    pub messages: Option<Vec<Message>>,
    /// The best continuation.
    pub greedy_ids: Vec<u32>,
    /// The smallest gap between the best two logits along it.
    pub least_margin: f32,
}

/// A message of a conversation.
#[derive(Debug, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(kiosk::path("reference/cases.json"));
    serde_json::from_str(&text.expect("the reference cases are there")).expect("they are JSON")
}

/// Reference tensors by name.
pub struct Tensors {
    bytes: Vec<u8>,
}

impl Tensors {
    /// Reads a file of the reference folder.
    pub fn read(name: &str) -> Self {
        let path = kiosk::path("reference").join(name);
        Self { bytes: std::fs::read(path).expect("the reference tensors are there") }
    }

    /// Logits (tokens, vocab) of a case.
    pub fn logits(&self, case: usize) -> Vec<Vec<f32>> {
        let (shape, dtype, bytes) = self.tensor(&format!("case{case}.logits"));
        assert_eq!(dtype, Dtype::F32);
        let values: Vec<f32> =
            bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        values.chunks_exact(shape[1]).map(<[f32]>::to_vec).collect()
    }

    /// Chosen experts (MoE layers, tokens, top_k) of a case, ascending.
    pub fn experts(&self, case: usize) -> (Vec<usize>, Vec<u8>) {
        let (shape, dtype, bytes) = self.tensor(&format!("case{case}.experts"));
        assert_eq!(dtype, Dtype::U8);
        (shape, bytes)
    }

    fn tensor(&self, name: &str) -> (Vec<usize>, Dtype, Vec<u8>) {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("they are safetensors");
        let tensor = tensors.tensor(name).expect("the case is there");
        (tensor.shape().to_vec(), tensor.dtype(), tensor.data().to_vec())
    }
}

/// Mean over the tokens of KL(reference || ours), in nats, and the share of equal best tokens.
pub fn compare(reference: &[Vec<f32>], ours: &[Vec<f32>]) -> (f64, f64) {
    assert_eq!(reference.len(), ours.len());
    let (mut kl, mut same) = (0.0, 0);
    for (reference, ours) in reference.iter().zip(ours) {
        kl += Softmax::new(reference).divergence(&Softmax::new(ours));
        same += usize::from(best(reference) == best(ours));
    }
    (kl / reference.len() as f64, same as f64 / reference.len() as f64)
}

/// The largest element's index, the first among equals.
pub fn best(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}
