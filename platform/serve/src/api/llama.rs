//! What clients of llama.cpp's server ask for beside OpenAI's API.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::ask::{self, gone};
use super::held::Given;
use super::openai::shape::{event, logprob, text};
use super::spoken::Tokens;
use super::stream::{Writer, respond};
use super::{Asked, Server, model, sampling};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::form::Wanted;
use crate::job::{Account, Ending, Event, Likely, Prompt, Style, Token};
use crate::server::{Open, Shared};

/// Fields that change nothing here: of a full context nothing is left out, so that nothing is to be kept.
const DECORATION: [&str; 5] = ["model", "cache_prompt", "id_slot", "n_keep", "timings_per_token"];

/// What chooses a token, as llama.cpp orders it where nothing is said.
const SAMPLERS: [&str; 9] =
    ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"];

/// `POST /completion`
pub async fn complete(State(shared): Server, request: Request) -> Response {
    match continued(&shared, request).await {
        Ok(response) => response,
        Err(error) => error.response("/"),
    }
}

async fn continued(shared: &Arc<Shared>, request: Request) -> Result<Response, ApiError> {
    let Asked { mut fields, open, guest, room } = Asked::read(shared, request).await?;
    let prompt = prompt(&open, &mut fields).await?;
    let (mut style, told, given) = order(shared, &open, &mut fields)?;
    let schema = fields.value("json_schema").map(Wanted::Schema);
    let grammar = fields.text("grammar")?.filter(|text| !text.is_empty()).map(Wanted::Grammar);
    if grammar.is_some() && schema.is_some() {
        let message = "cannot be there beside `grammar`: leave one of them out";
        return Err(fields.wrong("json_schema", message));
    }
    fields.end()?;
    let field = if grammar.is_some() { "grammar" } else { "json_schema" };
    ask::form(&open, field, grammar.or(schema), &mut style).await?;
    drop(room);
    let name = open.facts.name.clone();
    let answers = ask::answer(shared, &open, guest, vec![prompt], 1, style, given)?;
    if given == Given::Streamed {
        return Ok(respond(answers, Pieces { name, told, tokens: Tokens::default() }));
    }
    let (mut whole, held) = answers.whole().await?;
    let whole = whole.pop().unwrap_or_default();
    let mut body =
        whole.account.as_ref().map(|account| summary(&name, account)).unwrap_or_default();
    body["content"] = whole.text.into();
    told.tell(&whole.tokens, &mut body);
    Ok(held.respond(&body))
}

async fn prompt(open: &Open, fields: &mut Fields) -> Result<Prompt, ApiError> {
    match fields.value("prompt") {
        Some(Value::String(text)) => ask::text(open, "prompt", text).await,
        Some(Value::Array(ids)) => {
            let tokens = ids_of(open, fields, "prompt", &ids)?;
            ask::fits(open, "prompt", Prompt { tokens, thinks: false })
        }
        _ => Err(fields.wrong("prompt", "must be a text or a list of token ids")),
    }
}

fn ids_of(open: &Open, fields: &Fields, name: &str, ids: &[Value]) -> Result<Vec<u32>, ApiError> {
    let id = |id: &Value| {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        id.filter(|id| *id < open.facts.vocab)
            .ok_or_else(|| fields.wrong(name, "must be a list of this model's token ids"))
    };
    ids.iter().map(id).collect()
}

fn order(
    shared: &Shared,
    open: &Open,
    fields: &mut Fields,
) -> Result<(Style, Told, Given), ApiError> {
    fields.ignore(&DECORATION);
    let mut style = sampling::advised(shared, open);
    sampling::read_with_any_seed(fields, &mut style)?;
    let most = sampling::read_most(fields, ["n_predict", "max_tokens"], -1, shared, &mut style)?;
    let best = fields.integer("n_probs", 0..=20)?.unwrap_or(0) as usize;
    let told =
        Told { ids: fields.flag("return_tokens")?.unwrap_or(false), probabilities: best > 0 };
    style.logprobs = (told.ids || told.probabilities).then_some(best);
    for off in ["mirostat", "dry_multiplier", "xtc_probability", "dynatemp_range"] {
        fields.only(off, &[json!(0), json!(0.0)])?;
    }
    fields.only("typical_p", &[json!(1), json!(1.0)])?;
    fields.only("samplers", &[json!(SAMPLERS)])?;
    // As many as llama.cpp looks back where nothing is said; and all of them.
    fields.only("repeat_last_n", &[json!(64), json!(-1)])?;
    fields.only("post_sampling_probs", &[json!(false)])?;
    let streams = fields.flag("stream")?.unwrap_or(false);
    Ok((style, told, Given::new(streams, most)))
}

/// What is told of an answer's tokens.
#[derive(Debug, Clone, Copy)]
struct Told {
    ids: bool,
    probabilities: bool,
}

impl Told {
    /// Adds it to an answer, or to a piece of one.
    fn tell(self, tokens: &[Likely], body: &mut Value) {
        if self.ids {
            body["tokens"] = tokens.iter().map(|(token, _)| token.id).collect();
        }
        if self.probabilities && !tokens.is_empty() {
            body["completion_probabilities"] = probabilities(tokens);
        }
    }
}

/// How an answer ended, and what it took.
fn summary(name: &str, account: &Account) -> Value {
    let stop = match account.ending {
        Ending::Stop => "eos",
        Ending::StopText => "word",
        Ending::Length => "limit",
    };
    let [prompt, answer] =
        [account.prompt_time, account.answer_time].map(|t| t.as_secs_f64() * 1e3);
    let computed = account.prompt - account.cached;
    let pace = |count: f64, time: f64| if time > 0.0 { count / time * 1e3 } else { 0.0 };
    json!({
        "content": "",
        "model": name,
        "stop": true,
        "stop_type": stop,
        "truncated": false,
        "tokens_evaluated": account.prompt,
        "tokens_predicted": account.tokens,
        "tokens_cached": account.prompt + account.tokens as usize,
        "timings": {
            "cache_n": account.cached,
            "prompt_n": computed,
            "prompt_ms": prompt,
            "prompt_per_second": pace(computed as f64, prompt),
            "predicted_n": account.tokens,
            "predicted_ms": answer,
            "predicted_per_second": pace(account.tokens as f64, answer),
        },
    })
}

fn probabilities(tokens: &[Likely]) -> Value {
    let one = |token: &Token| {
        json!({"id": token.id, "token": text(token), "bytes": token.bytes,
               "logprob": logprob(token.logprob)})
    };
    let each = tokens.iter().map(|(token, best)| {
        let mut said = one(token);
        said["top_logprobs"] = best.iter().map(one).collect();
        said
    });
    each.collect()
}

/// A stream of pieces.
struct Pieces {
    name: String,
    told: Told,
    tokens: Tokens,
}

impl Writer for Pieces {
    const KIND: &'static str = "text/event-stream";
    const PING: &'static str = ": waiting\n\n";

    fn event(&mut self, _: usize, happened: Event) -> String {
        match happened {
            Event::Begun { .. } | Event::Decided(_) => String::new(),
            Event::Said { text, token, behind } => {
                let tokens = self.tokens.read(&text, token, behind);
                let said: String = text.into_iter().map(|(_, piece)| piece).collect();
                if said.is_empty() {
                    return String::new();
                }
                let mut piece = json!({"content": said, "stop": false});
                self.told.tell(&tokens, &mut piece);
                event(&piece)
            }
            Event::Ended(account) => event(&summary(&self.name, &account)),
            Event::Failed(trouble) => event(&ApiError::from(trouble).body()),
        }
    }
}

/// `POST /tokenize`
pub async fn tokenize(State(shared): Server, request: Request) -> Response {
    match tokens(&shared, request).await {
        Ok(body) => Json(body).into_response(),
        Err(error) => error.response("/"),
    }
}

async fn tokens(shared: &Shared, request: Request) -> Result<Value, ApiError> {
    let Asked { mut fields, open, .. } = Asked::read(shared, request).await?;
    let text = fields.text("content")?.unwrap_or_default();
    let begins = fields.flag("add_special")?.unwrap_or(false);
    let control = fields.flag("parse_special")?.unwrap_or(true);
    let pieces = fields.flag("with_pieces")?.unwrap_or(false);
    fields.ignore(&["model"]);
    fields.end()?;
    let encode = move |clerk: &mut crate::clerk::Clerk<'_>| {
        let ids = match begins {
            true => clerk.text(&text)?.tokens,
            false => clerk.tokens(&text, control)?,
        };
        let named = |id: &u32| {
            let piece = clerk.piece(*id);
            let piece =
                std::str::from_utf8(piece).map_or_else(|_| json!(piece), |text| json!(text));
            json!({"id": id, "piece": piece})
        };
        Ok(if pieces { ids.iter().map(named).collect() } else { json!(ids) })
    };
    let encoded: Option<Result<Value, crate::clerk::PromptError>> = open.clerk.ask(encode).await;
    let encoded = encoded.ok_or_else(gone)?.map_err(|error| ApiError::field("content", error))?;
    Ok(json!({"tokens": encoded}))
}

/// `POST /detokenize`
pub async fn detokenize(State(shared): Server, request: Request) -> Response {
    match content(&shared, request).await {
        Ok(body) => Json(body).into_response(),
        Err(error) => error.response("/"),
    }
}

async fn content(shared: &Shared, request: Request) -> Result<Value, ApiError> {
    let Asked { mut fields, open, .. } = Asked::read(shared, request).await?;
    let ids = fields.list("tokens")?.unwrap_or_default();
    let ids = ids_of(&open, &fields, "tokens", &ids)?;
    fields.ignore(&["model"]);
    fields.end()?;
    let decode = move |clerk: &mut crate::clerk::Clerk<'_>| {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| clerk.piece(*id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let text = open.clerk.ask(decode).await.ok_or_else(gone)?;
    Ok(json!({"content": text}))
}

/// `GET /props`
pub async fn props(State(shared): Server) -> Response {
    let open = match model(&shared) {
        Ok(open) => open,
        Err(error) => return error.response("/"),
    };
    let facts = &open.facts;
    let sampling = &facts.sampling;
    let settings = json!({
        "n_ctx": facts.context,
        "params": {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repetition_penalty,
        },
    });
    let body = json!({
        "default_generation_settings": settings,
        "total_slots": facts.places,
        "model_alias": facts.name,
        "chat_template": facts.template.as_deref().unwrap_or_default(),
        "modalities": {"vision": false, "audio": false},
        "build_info": concat!("rill-", env!("CARGO_PKG_VERSION")),
    });
    Json(body).into_response()
}

/// `GET /slots`
pub async fn slots(State(shared): Server) -> Response {
    let open = match model(&shared) {
        Ok(open) => open,
        Err(error) => return error.response("/"),
    };
    let (busy, _) = shared.metrics.loads();
    let slot = |id| json!({"id": id, "n_ctx": open.facts.context, "is_processing": id < busy});
    Json((0..open.facts.places as u64).map(slot).collect::<Value>()).into_response()
}
