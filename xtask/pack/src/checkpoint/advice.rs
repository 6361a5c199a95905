//! Advice on sampling, as makers of checkpoints write it, often by hand. It never stops packing:
//! what cannot be used is left aside, and said.

use rill::image::Sampling;

use crate::gguf;
use crate::quoted::{quoted, shortened};

/// A value of the advice.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Advised {
    /// A number, however it is written.
    Number(f64),
    /// Something else, for a message.
    Other(String),
}

impl Advised {
    /// Advice of a JSON file; `None` for null.
    pub fn from_json(value: &serde_json::Value) -> Option<Self> {
        match value {
            serde_json::Value::Null => None,
            serde_json::Value::Number(number) => number.as_f64().map(Self::Number),
            serde_json::Value::String(text) => Some(Self::from_text(text)),
            other => Some(Self::Other(shortened(other))),
        }
    }

    /// Advice of a GGUF file.
    pub fn from_gguf(value: &gguf::Value) -> Self {
        match value {
            gguf::Value::Unsigned(x) => Self::Number(*x as f64),
            gguf::Value::Signed(x) => Self::Number(*x as f64),
            gguf::Value::Float(x) => Self::Number(*x),
            gguf::Value::Text(text) => Self::from_text(text),
            other => Self::Other(shortened(other)),
        }
    }

    fn from_text(text: &str) -> Self {
        text.trim().parse().map_or_else(|_| Self::Other(quoted(text)), Self::Number)
    }
}

/// Makes sense of advice: `find` gives what stands under a name of `generation_config.json`. What
/// is left aside goes to `notes`.
pub(super) fn sampling(
    find: impl Fn(&str) -> Option<Advised>,
    notes: &mut Vec<String>,
) -> Sampling {
    let mut number = |name: &str, default: f32, usable: fn(f64) -> Option<f64>| -> f64 {
        let default = f64::from(default);
        let found = match find(name) {
            None => return default,
            Some(Advised::Number(number)) => match usable(number) {
                Some(number) => return number,
                None => number.to_string(),
            },
            Some(Advised::Other(text)) => text,
        };
        notes.push(format!("advice on {name} left aside, for it is not usable: {found}"));
        default
    };
    let default = Sampling::default();
    Sampling {
        temperature: number("temperature", default.temperature, |x| {
            (0.0..=1e6).contains(&x).then_some(x)
        }) as f32,
        // Some write -1 for all, some a whole number with a point.
        top_k: number("top_k", default.top_k as f32, |x| {
            (x.fract() == 0.0).then_some(x.clamp(0.0, f64::from(u32::MAX)))
        }) as u32,
        top_p: number("top_p", default.top_p, |x| (x > 1e-6).then_some(x.min(1.0))) as f32,
        min_p: number("min_p", default.min_p, |x| (x < 0.9999).then_some(x.max(0.0))) as f32,
        repetition_penalty: number("repetition_penalty", default.repetition_penalty, |x| {
            (1e-3..=1e3).contains(&x).then_some(x)
        }) as f32,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(advice: &serde_json::Value) -> (Sampling, Vec<String>) {
        let mut notes = Vec::new();
        let find = |name: &str| advice.get(name).and_then(Advised::from_json);
        (sampling(find, &mut notes), notes)
    }

    #[test]
    fn every_spelling_of_a_number_is_read_and_the_rest_is_left_aside() {
        let default = Sampling::default();
        for (advice, top_k) in [
            (json!(-1), 0),
            (json!(0), 0),
            (json!(50.0), 50),
            (json!("40"), 40),
            (json!(1e30), u32::MAX),
        ] {
            let (sampling, notes) = of(&json!({ "top_k": advice }));
            assert_eq!((sampling.top_k, notes.len()), (top_k, 0), "{advice}");
        }
        let odd = json!({ "temperature": null, "top_p": 7, "min_p": -0.5 });
        let (sampling, notes) = of(&odd);
        assert_eq!((sampling.temperature, sampling.top_p), (default.temperature, 1.0));
        assert_eq!((sampling.min_p, notes.len()), (0.0, 0));
        let wrong = json!({
            "temperature": -1, "top_k": 0.5, "top_p": 0, "min_p": 1, "repetition_penalty": [1],
        });
        let (sampling, notes) = of(&wrong);
        assert_eq!(sampling, default);
        assert_eq!(notes.len(), 5);
        assert_eq!(notes[1], "advice on top_k left aside, for it is not usable: 0.5");
    }

    #[test]
    fn values_that_are_not_finite_are_left_aside() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut notes = Vec::new();
            let wrong = sampling(|_| Some(Advised::Number(value)), &mut notes);
            let all = [wrong.temperature, wrong.top_p, wrong.min_p, wrong.repetition_penalty];
            assert!(all.iter().all(|x| x.is_finite()), "{wrong:?}");
        }
    }
}
