//! Answers that take their time: `/delay`, `/drip`, `/sse`.
//!
//! A client that goes away ends them: the response future or the body stream is dropped with its timer.

use std::{
    convert::Infallible,
    ops::Range,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    body::Body,
    extract::{Path, Request},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt as _};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    MAX_DURATION,
    duration::{Timing, parse_bounded, server_timing},
    echo,
    query::{Values, first},
    reply::{self, Refusal},
    seen::{Args, Seen},
    status::parse_code,
};

const SERVER_TIMING: &str = "server-timing";
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

/// The most bytes of `/drip`.
const MAX_DROPS: u32 = 1024 * 1024;

/// The most events of `/sse`: about [`MAX_BODY`](super::MAX_BODY) bytes of them.
const MAX_EVENTS: u32 = 20_000;

/// Waits, then echoes the request.
pub(super) async fn delay(
    seen: Seen,
    Path(duration): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let wait = parse_bounded(&duration, MAX_DURATION)
        .map_err(|error| Refusal::bad(format!("invalid duration: {error}")))?;
    sleep(wait).await;
    let timing = server_timing(&[("initial_delay", wait, "initial delay")]);
    Ok((
        [(SERVER_TIMING, timing)],
        echo::with_body(seen, request).await?,
    )
        .into_response())
}

/// Distribution of the pieces of a slow body over time.
struct Pace {
    delay: Duration,
    duration: Duration,
    /// Between two pieces; the last is not followed by a pause.
    pause: Duration,
}

impl Pace {
    fn read(args: &Values, defaults: (Duration, Duration), pieces: u32) -> Result<Self, Refusal> {
        let read = |name: &str, default| match first(args, name) {
            None => Ok(default),
            Some(text) => parse_bounded(text, MAX_DURATION)
                .map_err(|error| Refusal::bad(format!("invalid {name}: {error}"))),
        };
        let (delay, duration) = (read("delay", defaults.0)?, read("duration", defaults.1)?);
        if delay + duration > MAX_DURATION {
            return Err(Refusal::bad(format!(
                "too much time: {duration:?} and a delay of {delay:?} exceed {MAX_DURATION:?}"
            )));
        }
        let pause = duration / pieces.saturating_sub(1).max(1);
        Ok(Self {
            delay,
            duration,
            pause,
        })
    }

    fn timings(&self) -> [Timing<'static>; 4] {
        [
            (
                "total_duration",
                self.delay + self.duration,
                "total request duration",
            ),
            ("initial_delay", self.delay, "initial delay"),
            (
                "write_duration",
                self.duration,
                "duration of writes after initial delay",
            ),
            (
                "pause_per_write",
                self.pause,
                "computed pause between writes",
            ),
        ]
    }
}

/// `numbytes` asterisks of known length, spread evenly over `duration` after `delay`.
pub(super) async fn drip(Args(args): Args) -> Result<Response, Refusal> {
    let count = match first(&args, "numbytes") {
        None => 10,
        Some(text) => {
            let count = reply::integer(text, "numbytes")?;
            u32::try_from(count)
                .ok()
                .filter(|count| (1..=MAX_DROPS).contains(count))
                .ok_or_else(|| {
                    Refusal::bad(format!(
                        "invalid numbytes: {count} is not between 1 and {MAX_DROPS}"
                    ))
                })?
        }
    };
    let defaults = (Duration::from_secs(2), Duration::from_secs(2));
    let pace = Pace::read(&args, defaults, count)?;
    let code = match first(&args, "code") {
        None => StatusCode::OK,
        Some(text) => parse_code(text)?,
    };
    sleep(pace.delay).await;

    let timing = server_timing(&pace.timings());
    let mut response = (
        code,
        [(SERVER_TIMING, timing)],
        reply::typed(reply::TEXT, ""),
    )
        .into_response();
    // These two statuses have no body (RFC 9110 §15.3.5, §15.4.5).
    if !matches!(code, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(count));
        let drops = paced(count, pace.pause).map(|due| Ok::<_, Infallible>("*".repeat(due.len())));
        *response.body_mut() = Body::from_stream(drops);
    }
    Ok(response)
}

/// A ping event every now and then, ended by a trailer with the timing.
pub(super) async fn sse(Args(args): Args) -> Result<Response, Refusal> {
    let count = match first(&args, "count") {
        None => 10,
        Some(text) => {
            let count = reply::integer(text, "count")?;
            u32::try_from(count)
                .ok()
                .filter(|count| (1..=MAX_EVENTS).contains(count))
                .ok_or_else(|| {
                    Refusal::bad(format!(
                        "invalid count: {count} is not between 1 and {MAX_EVENTS}"
                    ))
                })?
        }
    };
    let begin = Instant::now();
    let pace = Pace::read(&args, (Duration::ZERO, Duration::from_secs(5)), count)?;
    sleep(pace.delay).await;

    let events = paced(count, pace.pause)
        .map(|due| Ok::<_, Infallible>(Frame::data(Bytes::from(events(due)))));
    let timing = stream::once(async move {
        let mut timings = pace.timings();
        if let Some((_, total, _)) = timings.first_mut() {
            *total = begin.elapsed();
        }
        let mut trailers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&server_timing(&timings)) {
            trailers.insert(SERVER_TIMING, value);
        }
        Ok(Frame::trailers(trailers))
    });
    let body = Body::new(StreamBody::new(events.chain(timing)));
    let trailer = [(header::TRAILER, HeaderValue::from_static("Server-Timing"))];
    Ok((trailer, reply::typed(EVENT_STREAM, body)).into_response())
}

fn events(ids: Range<u32>) -> String {
    let millis = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis());
    ids.map(|id| format!("event: ping\ndata: {{\"id\":{id},\"timestamp\":{millis}}}\n\n"))
        .collect()
}

/// The pieces `0..count`, one every `pause`, the first at once.
///
/// Each item is what has fallen due since the one before: a pause shorter than the timer's step gives several pieces.
fn paced(count: u32, pause: Duration) -> impl Stream<Item = Range<u32>> {
    let start = Instant::now();
    stream::unfold(0, move |sent| async move {
        if sent == count {
            return None;
        }
        sleep_until(start + pause * sent).await;
        let due = start.elapsed().as_nanos().checked_div(pause.as_nanos());
        let due = due.and_then(|pauses| u32::try_from(pauses).ok()?.checked_add(1));
        let end = due.unwrap_or(count).clamp(sent + 1, count);
        Some((sent..end, end))
    })
}
