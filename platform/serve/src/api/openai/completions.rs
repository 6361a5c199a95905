//! `POST /v1/completions`

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use rill::tokenizer::Utf8Stream;
use serde_json::{Map, Value, json};

use super::shape::{DECORATION, DONE, Head, event, logprob, reason, text, usage};
use crate::api::ask::{self, Whole};
use crate::api::held::Given;
use crate::api::spoken::Tokens;
use crate::api::stream::{Writer, respond};
use crate::api::{Asked, Server, sampling};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::job::{Account, Event, Likely, Prompt, Style, Token};
use crate::server::{Open, Shared};

/// Continues a plain text.
pub async fn complete(State(shared): Server, request: Request) -> Response {
    match answer(&shared, request).await {
        Ok(response) => response,
        Err(error) => error.response("/v1"),
    }
}

struct Order {
    style: Style,
    count: usize,
    given: Given,
    counts: bool,
}

async fn answer(shared: &Arc<Shared>, request: Request) -> Result<Response, ApiError> {
    let Asked { mut fields, open, guest, room } = Asked::read(shared, request).await?;
    let wanted = fields.value("prompt");
    let order = order(shared, &open, &mut fields)?;
    fields.end()?;
    let prompts = prompts(shared, &open, wanted).await?;
    drop(room);
    let Order { style, count, given, counts } = order;
    let all = prompts.len() * count;
    let answers = ask::answer(shared, &open, guest, prompts, count, style, given)?;
    let head = Head::new(shared, &open.facts, "cmpl", "text_completion");
    if given == Given::Streamed {
        let pieces = Pieces {
            head,
            counts,
            per_prompt: count,
            choices: vec![Choice::default(); all],
            failed: false,
        };
        return Ok(respond(answers, pieces));
    }
    let (whole, held) = answers.whole().await?;
    let choice = |(index, whole): (usize, &Whole)| {
        json!({
            "index": index,
            "text": whole.text,
            "logprobs": logprobs(&whole.tokens, &mut Offset::default()),
            "finish_reason": whole.account.map(|account| reason(account.ending, false)),
        })
    };
    let mut body = head.with(whole.iter().enumerate().map(choice).collect());
    let accounts = whole.iter().filter_map(|whole| whole.account.as_ref());
    body["usage"] = usage(accounts, count);
    Ok(held.respond(&body))
}

fn order(shared: &Shared, open: &Open, fields: &mut Fields) -> Result<Order, ApiError> {
    fields.ignore(&DECORATION);
    fields.only("echo", &[json!(false)])?;
    fields.only("suffix", &[json!("")])?;
    let mut style = sampling::advised(shared, open);
    // OpenAI's own default.
    style.most = 16;
    sampling::read(fields, &mut style)?;
    sampling::read_biases(fields, open, &mut style)?;
    let most = sampling::read_most(fields, ["max_tokens"], -1, shared, &mut style)?;
    style.logprobs = fields.integer("logprobs", 0..=20)?.map(|best| best as usize);
    let count = fields.integer("n", 1..=shared.limits.choices as i64)?.unwrap_or(1);
    fields.only("best_of", &[json!(count)])?;
    let streams = fields.flag("stream")?.unwrap_or(false);
    let mut counts = false;
    if let Some(mut options) = fields.object("stream_options")? {
        counts = options.flag("include_usage")?.unwrap_or(false);
        options.ignore(&["include_obfuscation"]);
        options.end()?;
    }
    Ok(Order { style, count: count as usize, given: Given::new(streams, most), counts })
}

/// The prompts of a request: a text, a list of texts, tokens, or a list of lists of tokens.
async fn prompts(
    shared: &Shared,
    open: &Open,
    wanted: Option<Value>,
) -> Result<Vec<Prompt>, ApiError> {
    let wrong = || ApiError::field("prompt", "must be a text, a list of texts, or token ids");
    let unknown = || ApiError::field("prompt", "must be a list of this model's token ids");
    let list = match wanted {
        None => return Err(ApiError::field("prompt", "is missing")),
        Some(Value::Array(list)) if list.first().is_some_and(Value::is_number) => {
            vec![Value::Array(list)]
        }
        Some(Value::Array(list)) => list,
        Some(other) => vec![other],
    };
    if list.len() > shared.limits.choices {
        let most = shared.limits.choices;
        return Err(ApiError::field("prompt", format!("has more than {most} prompts")));
    }
    let mut prompts = Vec::new();
    for one in list {
        prompts.push(match one {
            Value::String(text) => ask::text(open, "prompt", text).await?,
            Value::Array(ids) => {
                let id = |id: &Value| {
                    let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                    id.filter(|id| *id < open.facts.vocab).ok_or_else(unknown)
                };
                let tokens = ids.iter().map(id).collect::<Result<_, _>>()?;
                ask::fits(open, "prompt", Prompt { tokens, thinks: false })?
            }
            _ => return Err(wrong()),
        });
    }
    if prompts.is_empty() { Err(wrong()) } else { Ok(prompts) }
}

/// Where a token begins in the text of its answer.
#[derive(Debug, Clone, Default)]
struct Offset {
    utf8: Utf8Stream,
    /// Characters that are whole.
    chars: usize,
}

impl Offset {
    /// Where the next token begins; in a character of several tokens each of them begins where it does.
    fn next(&mut self, token: &Token) -> usize {
        let begin = self.chars;
        let Self { utf8, chars } = self;
        utf8.push(&token.bytes, |text| *chars += text.chars().count());
        begin
    }
}

/// Log-probabilities in the older of OpenAI's two forms; `offset` is where the tokens begin in the text.
fn logprobs(tokens: &[Likely], offset: &mut Offset) -> Value {
    if tokens.is_empty() {
        return Value::Null;
    }
    let offsets: Vec<_> = tokens.iter().map(|(token, _)| offset.next(token)).collect();
    let best = |(_, best): &Likely| {
        let map = best.iter().map(|token| (text(token), json!(logprob(token.logprob))));
        Value::Object(map.collect::<Map<_, _>>())
    };
    json!({
        "tokens": tokens.iter().map(|(token, _)| text(token)).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|(t, _)| logprob(t.logprob)).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(best).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

/// A stream of pieces.
struct Pieces {
    head: Head,
    counts: bool,
    per_prompt: usize,
    choices: Vec<Choice>,
    failed: bool,
}

/// One of the answers in a stream.
#[derive(Debug, Clone, Default)]
struct Choice {
    tokens: Tokens,
    offset: Offset,
    account: Option<Account>,
}

impl Pieces {
    fn piece(&self, index: usize, text: &str, logprobs: &Value, reason: Option<&str>) -> String {
        let choice = json!({
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": reason,
        });
        let mut piece = self.head.with(vec![choice]);
        if self.counts {
            piece["usage"] = Value::Null;
        }
        event(&piece)
    }
}

impl Writer for Pieces {
    const KIND: &'static str = "text/event-stream";
    const PING: &'static str = ": waiting\n\n";

    fn event(&mut self, choice: usize, happened: Event) -> String {
        match happened {
            Event::Begun { .. } | Event::Decided(_) => String::new(),
            Event::Said { text, token, behind } => {
                let Choice { tokens, offset, .. } = &mut self.choices[choice];
                let tokens = tokens.read(&text, token, behind);
                let said: String = text.into_iter().map(|(_, piece)| piece).collect();
                if said.is_empty() {
                    return String::new();
                }
                let logprobs = logprobs(&tokens, offset);
                self.piece(choice, &said, &logprobs, None)
            }
            Event::Ended(account) => {
                self.choices[choice].account = Some(account);
                self.piece(choice, "", &Value::Null, Some(reason(account.ending, false)))
            }
            Event::Failed(trouble) => {
                self.failed = true;
                event(&ApiError::from(trouble).body())
            }
        }
    }

    fn end(&mut self) -> String {
        if !self.counts || self.failed {
            return DONE.into();
        }
        let mut last = self.head.with(Vec::new());
        let accounts = self.choices.iter().filter_map(|choice| choice.account.as_ref());
        last["usage"] = usage(accounts, self.per_prompt);
        event(&last) + DONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_begin_where_their_characters_do() {
        let mut offset = Offset::default();
        let mut next =
            |bytes: &[u8]| offset.next(&Token { id: 0, bytes: bytes.to_vec(), logprob: 0.0 });
        let fox = "🦊".as_bytes();
        let pieces = [&b"ab"[..], &fox[..1], &fox[1..2], &fox[2..3], &fox[3..], b"c\xff", b"d"];
        assert_eq!(pieces.map(&mut next), [0, 2, 2, 2, 2, 3, 5]);
    }
}
