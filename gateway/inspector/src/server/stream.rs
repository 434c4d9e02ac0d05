//! The stream of records as they change.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    body::Body,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::broadcast;

use super::{Inner, records::Asked};
use crate::{
    printed,
    ring::{Shared, lock},
};

/// Streams at a time; more are refused.
const STREAMS: usize = 16;

/// One of the places for streams, given back when dropped.
struct Place(Arc<Inner>);

impl Place {
    fn take(inner: &Arc<Inner>) -> Option<Self> {
        let place = Self(inner.clone());
        (inner.streams.fetch_add(1, Ordering::Relaxed) < STREAMS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) async fn follow(
    State(inner): State<Arc<Inner>>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Response {
    let Some(place) = Place::take(&inner) else {
        let reason = "too many streams are open: close a page\n";
        let again = [(header::RETRY_AFTER, "10")];
        return (StatusCode::SERVICE_UNAVAILABLE, again, reason).into_response();
    };
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let last = text("last-event-id").and_then(|id| id.parse().ok());
    let accept = text("accept").unwrap_or_default();
    let lines = asked.format == "ndjson" || accept.contains("application/x-ndjson");
    let transcript = asked.format == "text";
    let after = last.or(asked.after);
    let records = changes(inner, place, after);
    if !lines && !transcript {
        let events = futures_util::StreamExt::filter_map(records, move |shared| {
            let record = lock(&shared);
            let event = asked.takes(&record).then(|| {
                let data = printed::json(record.summary().to_string());
                Ok::<_, Infallible>(Event::default().id(record.version.to_string()).data(data))
            });
            drop(record);
            async move { event }
        });
        return Sse::new(events)
            .keep_alive(KeepAlive::default())
            .into_response();
    }
    let texts = futures_util::StreamExt::filter_map(records, move |shared| {
        let record = lock(&shared);
        let line = (record.done && asked.takes(&record)).then(|| match transcript {
            true => record.text(),
            false => record.json() + "\n",
        });
        drop(record);
        async move { line.map(|line| Ok::<_, Infallible>(Bytes::from(line))) }
    });
    let kind = match transcript {
        true => "text/plain; charset=utf-8",
        false => "application/x-ndjson",
    };
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(texts)).into_response()
}

/// Records as they change, after those that changed since version `after`. A reader that is slow misses some changes and gets
/// the records as they are then. What waits for it is numbers: a record that had to make room is not kept for it.
fn changes(inner: Arc<Inner>, place: Place, after: Option<u64>) -> impl Stream<Item = Shared> {
    let follower = inner.inspector.ring.follow();
    let known = after.map(|after| since(&inner, after)).unwrap_or_default();
    stream::unfold(
        (inner, place, follower, known, after.unwrap_or(0)),
        |(inner, place, mut follower, mut known, mut seen)| async move {
            loop {
                while let Some(id) = known.pop_front() {
                    if let Some(shared) = inner.inspector.ring.get(id) {
                        seen = seen.max(lock(&shared).version);
                        return Some((shared, (inner, place, follower, known, seen)));
                    }
                }
                match follower.recv().await {
                    Ok(change) => {
                        // One that has changed again is told with that change.
                        let found = inner.inspector.ring.get(change.id);
                        let is_last = |found: &Shared| lock(found).version == change.version;
                        known.extend(found.filter(is_last).map(|_| change.id));
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => known = since(&inner, seen),
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        },
    )
}

/// Numbers of records that changed since that version, in the order of their changes.
fn since(inner: &Inner, version: u64) -> VecDeque<u64> {
    let all = inner.inspector.ring.all().into_iter().map(|shared| {
        let record = lock(&shared);
        (record.version, record.id)
    });
    let mut changed: Vec<(u64, u64)> = all.filter(|(changed, _)| *changed > version).collect();
    changed.sort_unstable();
    changed.into_iter().map(|(_, id)| id).collect()
}
