//! `GET /operator/state`: how the server is, for its operator's page.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::future::join;
use rill::stats::Phase;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::Server;
use crate::metrics::{CLASSES, OUTCOMES};
use crate::model::Facts;
use crate::server::{Open, Shared};
use crate::worker::{Experts, View};

/// How long the engine is waited for; a batch may take longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Says how the server is.
pub async fn state(State(shared): Server) -> Response {
    let stage = match shared.model() {
        _ if shared.is_leaving() => Stage::Leaving,
        Ok(open) => Stage::Ready(open),
        Err(Some(_)) => Stage::Loading,
        Err(None) => Stage::Leaving,
    };
    let view = match &stage {
        Stage::Ready(_) => look(&shared).await,
        _ => None,
    };
    let (resident, celsius) = join(shared.resident.look(), shared.temperature.look()).await;
    Json(describe(&shared, &stage, view, resident, celsius)).into_response()
}

enum Stage {
    Loading,
    Ready(Open),
    Leaving,
}

/// What the engine's side sees, if it comes to saying so.
async fn look(shared: &Arc<Shared>) -> Option<View> {
    timeout(PATIENCE, shared.look()?).await.ok()?.ok()
}

fn describe(
    shared: &Shared,
    stage: &Stage,
    view: Option<View>,
    resident: Option<u64>,
    celsius: Option<f64>,
) -> Value {
    let figures = shared.metrics.figures();
    let (busy, queued) = shared.metrics.loads();
    let facts = match stage {
        Stage::Ready(open) => Some(&*open.facts),
        _ => None,
    };
    let stats = figures.engine;
    let mut state = json!({
        "since": shared.run_id(),
        "seconds": shared.since.elapsed().as_secs_f64(),
        "stage": match stage {
            Stage::Loading => "loading",
            Stage::Ready(_) => "ready",
            Stage::Leaving => "leaving",
        },
        "silence": shared.metrics.silence().as_secs_f64(),
        "load": {"busy": busy, "queued": queued, "queue": shared.limits.queue},
        "responses": named(&CLASSES, figures.responses),
        "answers": named(&OUTCOMES, figures.answers),
        "first": {"count": figures.first.0, "seconds": figures.first.1},
        "engine": {
            "prompt": phase(&stats.prompt),
            "answer": phase(&stats.decode),
            "drafted": stats.drafted,
            "accepted": stats.accepted,
            "forced": stats.forced,
            "reused": figures.reused,
            "turns": stats.turns,
            "parked": stats.parked,
        },
        "temperature": celsius,
        "model": facts.map(model),
        "memory": facts.map(|facts| memory(facts, resident)),
        "places": null,
        "experts": null,
    });
    if let (Some(view), Some(facts)) = (view, facts) {
        state["places"] = view
            .places
            .iter()
            .map(|seat| {
                seat.map_or(Value::Null, |seat| {
                    json!({
                        "prompt": seat.prompt,
                        "cached": seat.cached,
                        "tokens": seat.tokens,
                        "speed": seat.speed,
                    })
                })
            })
            .collect();
        state["experts"] = view.experts.map_or(Value::Null, |seen| experts(&seen, facts));
    }
    state
}

fn named(names: &[&str], counts: [u64; 4]) -> Map<String, Value> {
    names.iter().zip(counts).map(|(name, count)| ((*name).to_owned(), count.into())).collect()
}

/// Times in seconds.
fn phase(phase: &Phase) -> Value {
    json!({
        "tokens": phase.tokens,
        "seconds": phase.time as f64 / 1e6,
        "hits": phase.cache.hits + phase.cache.guessed,
        "misses": phase.cache.misses + phase.cache.late,
        "bytes": phase.cache.bytes,
        "waiting": phase.cache.waiting as f64 / 1e6,
    })
}

fn model(facts: &Facts) -> Value {
    json!({
        "name": facts.name,
        "bytes": facts.bytes,
        "context": facts.context,
        "kernels": facts.kernels,
    })
}

fn memory(facts: &Facts, resident: Option<u64>) -> Value {
    let part = |(name, bytes): &(&str, u64)| json!({"name": name, "bytes": bytes});
    json!({
        "budget": facts.budget,
        "resident": resident,
        "parts": facts.parts.iter().map(part).collect::<Value>(),
    })
}

/// The experts: what is small enough to be asked for every second.
fn experts(seen: &Experts, facts: &Facts) -> Value {
    let count = seen.states.len() as u32 / seen.banks.max(1);
    let is_last = |since: &Option<u64>| since.is_some_and(|uses| uses < u64::from(facts.cycle));
    let used = seen.since.iter().map(|since| u8::from(is_last(since)));
    let often = seen.often.iter().map(|share| (share * 1000.0).round() as u32);
    json!({
        "banks": seen.banks,
        "experts": count,
        "slots": facts.slots,
        "cycle": facts.cycle,
        "states": seen.states,
        "used": used.collect::<Vec<_>>(),
        "often": often.collect::<Vec<_>>(),
    })
}
