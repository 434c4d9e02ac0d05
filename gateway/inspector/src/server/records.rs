//! Answers about records: their list, one of them, its replay, and the state of all.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    Json,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Inner;
use crate::{
    printed,
    record::Record,
    replay::Play,
    ring::{Shared, lock},
    takeaway,
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    /// Words that the exchange has to contain; `problem:` stands for those with a problem.
    r#match: String,
    pub(super) format: String,
    processor: String,
    /// Number of the filter in the exchange, the one nearest to the client is 0.
    index: usize,
    /// The last version that is known.
    pub(super) after: Option<u64>,
}

impl Asked {
    pub(super) fn takes(&self, record: &Record) -> bool {
        let status = record
            .status
            .map(|status| status.to_string())
            .unwrap_or_default();
        self.r#match.split_whitespace().all(|word| match word {
            "problem:" => record.has_problem(),
            word => {
                let contains = |text: &str| text.contains(word);
                contains(&record.path)
                    || contains(&record.authority)
                    || contains(&record.method)
                    || status == word
                    || record.processors.iter().any(|p| contains(&p.filter))
            }
        })
    }
}

pub(super) async fn state(State(inner): State<Arc<Inner>>) -> Json<Value> {
    Json(state_of(&inner))
}

fn state_of(inner: &Inner) -> Value {
    let ring = &inner.inspector.ring;
    let settings = &inner.inspector.settings;
    let (kept, bytes) = ring.size();
    json!({
        "kept": kept,
        "bytes": bytes,
        "dropped": ring.dropped.load(Ordering::Relaxed),
        "skipped": ring.skipped.load(Ordering::Relaxed),
        "most": settings.exchanges,
        "one_in": settings.one_in,
        "bodies": settings.bodies,
        "following": inner.streams.load(Ordering::Relaxed),
        "replay": inner.inspector.targets(),
    })
}

pub(super) async fn list(State(inner): State<Arc<Inner>>, Query(asked): Query<Asked>) -> Response {
    let mut state = state_of(&inner);
    let summaries = inner.inspector.ring.all().into_iter().filter_map(|shared| {
        let record = lock(&shared);
        asked.takes(&record).then(|| record.summary())
    });
    state["exchanges"] = summaries.collect();
    shown(&state)
}

fn shown(value: &Value) -> Response {
    json_text(printed::json(value.to_string()))
}

fn json_text(json: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

fn find(inner: &Inner, id: u64) -> Result<Shared, (StatusCode, &'static str)> {
    let found = inner.inspector.ring.get(id);
    found.ok_or((StatusCode::NOT_FOUND, "no such exchange, or not any more\n"))
}

pub(super) async fn one(
    State(inner): State<Arc<Inner>>,
    Path(id): Path<u64>,
    Query(asked): Query<Asked>,
) -> Response {
    let shared = match find(&inner, id) {
        Ok(shared) => shared,
        Err(missing) => return missing.into_response(),
    };
    let record = lock(&shared);
    match asked.format.as_str() {
        "" | "json" => json_text(record.json()),
        "text" => record.text().into_response(),
        "curl" => takeaway::curl(&record).into_response(),
        "fake-proxy" => takeaway::fake_proxy(&record, asked.index).into_response(),
        "scenario" => takeaway::scenario(&record).into_response(),
        _ => {
            let reason = "format: one of json, text, curl, fake-proxy, scenario\n";
            (StatusCode::BAD_REQUEST, reason).into_response()
        }
    }
}

pub(super) async fn replay(
    State(inner): State<Arc<Inner>>,
    Path(id): Path<u64>,
    Query(asked): Query<Asked>,
) -> Response {
    if asked.processor.is_empty() {
        return (StatusCode::BAD_REQUEST, "processor: HOST:PORT is missing\n").into_response();
    }
    let shared = match find(&inner, id) {
        Ok(shared) => shared,
        Err(missing) => return missing.into_response(),
    };
    let inspector = &inner.inspector;
    if !inspector.may_play_to(&asked.processor) {
        let reason = format!(
            "a replay reaches processors of the configuration and of --inspect-replay alone: {}\n",
            inspector.targets().join(", ")
        );
        return (StatusCode::FORBIDDEN, reason).into_response();
    }
    let play = Play::new(
        &lock(&shared),
        asked.index,
        &asked.processor,
        &inspector.settings,
    );
    let play = match play {
        Ok(play) => play,
        Err(reason) => return (StatusCode::CONFLICT, format!("{reason}\n")).into_response(),
    };
    match play.run().await {
        Some(shared) => json_text(lock(&shared).json()),
        None => (StatusCode::BAD_GATEWAY, "nothing was recorded\n").into_response(),
    }
}
