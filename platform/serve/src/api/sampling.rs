//! How tokens are chosen, from the fields that dialects share.

use rill::answer::{MAX_STOP_BYTES, MAX_STOP_STRINGS};
use rill::sampler::{Bias, MOST_BIASES};
use serde_json::Value;

use crate::error::ApiError;
use crate::fields::Fields;
use crate::job::Style;
use crate::server::{Open, Shared};

/// A style as the model's makers advise.
pub fn advised(shared: &Shared, open: &Open) -> Style {
    Style::new(open.facts.sampling.into(), shared.seed(), shared.limits.tokens)
}

/// Reads what every dialect calls by the same name.
pub fn read(fields: &mut Fields, style: &mut Style) -> Result<(), ApiError> {
    let settings = &mut style.settings;
    let sampling = &mut settings.sampling;
    set(&mut sampling.temperature, fields.number("temperature", 0.0..=100.0)?);
    // Nothing but the best is left of a share of 0.
    let top_p = fields.number("top_p", 0.0..=1.0)?;
    set(&mut sampling.top_p, top_p.map(|share| share.max(f32::MIN_POSITIVE)));
    let top_k = fields.integer("top_k", -1..=i64::from(u32::MAX))?;
    set(&mut sampling.top_k, top_k.map(|count| count.max(0) as u32));
    let min_p = fields.number("min_p", 0.0..=1.0)?;
    set(&mut sampling.min_p, min_p.map(|share| share.min(1.0 - f32::EPSILON)));
    for name in ["repetition_penalty", "repeat_penalty"] {
        set(&mut sampling.repetition_penalty, fields.number(name, 0.01..=100.0)?);
    }
    set(&mut settings.presence_penalty, fields.number("presence_penalty", -2.0..=2.0)?);
    set(&mut settings.frequency_penalty, fields.number("frequency_penalty", -2.0..=2.0)?);
    set(&mut settings.top_n_sigma, fields.number("top_n_sigma", -1.0..=1000.0)?);
    settings.top_n_sigma = settings.top_n_sigma.max(0.0);
    set(&mut settings.ignore_eos, fields.flag("ignore_eos")?);
    let least = fields.integer("min_tokens", 0..=i64::from(u32::MAX))?;
    set(&mut settings.min_tokens, least.map(|least| least as u32));
    let seed = fields.integer("seed", i64::MIN..=i64::MAX)?;
    set(&mut style.seed, seed.map(i64::cast_unsigned));
    if let Some(stops) = fields.texts("stop")? {
        style.stops = check_stops(stops).map_err(|message| fields.wrong("stop", message))?;
    }
    Ok(())
}

/// As [`read`], where a seed of -1 means any: then the one that was drawn stays.
pub fn read_with_any_seed(fields: &mut Fields, style: &mut Style) -> Result<(), ApiError> {
    if fields.peek("seed").and_then(Value::as_f64) == Some(-1.0) {
        fields.ignore(&["seed"]);
    }
    read(fields, style)
}

/// Reads the most tokens of an answer; below 0 means as many as there is room for. Returns the name of the
/// field that says it.
pub fn read_most<const N: usize>(
    fields: &mut Fields,
    names: [&'static str; N],
    least: i64,
    shared: &Shared,
    style: &mut Style,
) -> Result<&'static str, ApiError> {
    let most = i64::try_from(shared.limits.tokens).unwrap_or(i64::MAX);
    let mut said = names[0];
    for name in names {
        if let Some(count) = fields.integer(name, least..=most)? {
            style.most = if count < 0 { shared.limits.tokens } else { count as u64 };
            said = name;
        }
    }
    Ok(said)
}

/// Reads OpenAI's biases: a map from token ids to what is added to their logits.
pub fn read_biases(fields: &mut Fields, open: &Open, style: &mut Style) -> Result<(), ApiError> {
    let Some(value) = fields.value("logit_bias") else { return Ok(()) };
    let wrong = |message: &str| ApiError::field("logit_bias", message);
    let Value::Object(map) = value else {
        return Err(wrong("must be a map from token ids to numbers"));
    };
    if map.len() > MOST_BIASES {
        return Err(wrong("has more than 300 tokens"));
    }
    for (id, bias) in map {
        let id = id.parse().ok().filter(|id: &u32| *id < open.facts.vocab);
        let id = id.ok_or_else(|| wrong("has a key that is no token id of this model"))?;
        let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias));
        let bias = bias.ok_or_else(|| wrong("has a value that is no number from -100 to 100"))?;
        style.biases.push(Bias { id, bias: bias as f32 });
    }
    Ok(())
}

/// Tokens of thinking that an effort stands for; `None` for any number.
pub fn effort(name: &str) -> Option<Option<u64>> {
    match name {
        "none" => Some(Some(0)),
        "minimal" => Some(Some(128)),
        "low" => Some(Some(512)),
        "medium" => Some(Some(2048)),
        "high" | "xhigh" | "max" => Some(None),
        _ => None,
    }
}

/// As [`effort`], of a field in OpenAI's words.
pub fn read_effort(fields: &Fields, name: &str, word: &str) -> Result<Option<u64>, ApiError> {
    let wrong = || fields.wrong(name, "must be none, minimal, low, medium, high or xhigh");
    effort(word).ok_or_else(wrong)
}

fn check_stops(stops: Vec<String>) -> Result<Vec<String>, String> {
    let stops: Vec<String> = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
    if stops.len() > MAX_STOP_STRINGS {
        return Err(format!("has more than {MAX_STOP_STRINGS} texts"));
    }
    match stops.iter().find(|stop| stop.len() > MAX_STOP_BYTES) {
        Some(_) => Err(format!("has a text of more than {MAX_STOP_BYTES} bytes")),
        None => Ok(stops),
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Read = fn(&mut Fields, &mut Style) -> Result<(), ApiError>;

    /// The seed of a style of seed 7 after fields were read.
    fn seed(read: Read, json: &str) -> u64 {
        let mut style = Style::new(rill::image::Sampling::default().into(), 0, u64::MAX);
        style.seed = 7;
        let mut fields = Fields::parse(json.as_bytes()).unwrap();
        read(&mut fields, &mut style).unwrap();
        style.seed
    }

    #[test]
    fn a_seed_is_any_number_but_where_one_means_any() {
        for of in [read as Read, read_with_any_seed] {
            assert_eq!(seed(of, "{}"), 7);
            assert_eq!(seed(of, r#"{"seed": 3}"#), 3);
            assert_eq!(seed(of, r#"{"seed": -2}"#), u64::MAX - 1);
        }
        assert_eq!(seed(read, r#"{"seed": -1}"#), u64::MAX);
        for any in [r#"{"seed": -1}"#, r#"{"seed": -1.0}"#] {
            assert_eq!(seed(read_with_any_seed, any), 7);
        }
    }
}
