//! Plays a case against a proxy and says what is wrong with what came of it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;

use super::case::{Case, Expect, Statuses, StreamSpec, Then};
use super::message::{End, Message, Reading, read, show};
use super::peer::{Client, Eof, Received, Side, Stage, is_probe, upstream};
use crate::support::http1::{bytes_of, latin1};
use crate::support::script::{Protocol, fields};

/// The stream of the question whether the connection is still good.
const PROBE_STREAM: u32 = 1001;

/// Fields that differ from run to run, or that every proxy may add. They count only where a case names them.
const FREE: &[&str] = &[
    "date",
    "server",
    "x-envoy-expected-rq-timeout-ms",
    "x-forwarded-proto",
    "x-request-id",
];

/// Plays a case; `limit` bounds every single wait. An error is what a person has to read.
///
/// # Errors
/// Whatever is not as the case wants it.
pub async fn play(
    case: Arc<Case>,
    proxy: SocketAddr,
    listener: TcpListener,
    limit: Duration,
) -> Result<(), String> {
    let stage = Arc::new(Stage {
        case: Arc::clone(&case),
        client: Side::default(),
        upstream: Side::default(),
        limit,
        notes: Mutex::default(),
    });
    let serving = tokio::spawn(upstream(Arc::clone(&stage), listener));
    let result = judge(&stage, proxy).await;
    serving.abort();
    let notes = stage.notes.lock().unwrap_or_else(PoisonError::into_inner);
    match (result, notes.is_empty()) {
        (Ok(()), true) => Ok(()),
        (Ok(()), false) => Err(notes.join("\n")),
        (Err(error), _) => Err(format!("{}\n{error}", notes.join("\n"))),
    }
}

async fn judge(stage: &Arc<Stage>, proxy: SocketAddr) -> Result<(), String> {
    let client = Client::run(Arc::clone(stage), proxy)
        .await
        .map_err(|error| error.to_string())?;
    let case = &stage.case;
    if let Some(statuses) = &case.rejected {
        return rejected(stage, &client, statuses).await;
    }
    let Some(answer) = &case.answer else {
        return Err("the case says nothing of the answer".into());
    };
    let then = answered(stage, answer).await?;
    after(stage, &client, then).await?;
    if let Some(wanted) = &case.upstream {
        let same = |connections: &[Received]| {
            compare(wanted, &requests(case, connections), case, false).is_ok()
        };
        if !matches!(wanted, Expect::Nothing) {
            stage.upstream.wait(stage.limit, same).await;
        }
        let got = requests(case, &stage.upstream.connections());
        compare(wanted, &got, case, false).map_err(|error| format!("upstream: {error}"))?;
    }
    Ok(())
}

/// A refusal: one answer or the end of the stream, and nothing complete at the upstream.
async fn rejected(stage: &Stage, client: &Client, statuses: &Statuses) -> Result<(), String> {
    let case = &stage.case;
    let http2 = case.http2_client();
    if !http2 {
        // What follows a refused request on its connection must not be served.
        client.probe(PROBE_STREAM);
    }
    let over = |connections: &[Received]| {
        connections.first().is_some_and(|own| {
            own.eof.is_some()
                || own
                    .reader
                    .as_ref()
                    .is_some_and(|reader| reader.goaway.is_some() || reader.ended() > 0)
        })
    };
    let in_time = stage.client.wait(stage.limit, over).await;
    let got = responses(case, &stage.client.connections());
    let shown = show(&got);
    if !in_time {
        return Err(format!("not refused in time:\n{shown}"));
    }
    let gone = {
        let connections = stage.client.connections();
        let own = connections.first();
        own.is_none_or(|own| {
            let goaway = own.reader.as_ref().and_then(|reader| reader.goaway);
            own.eof.is_some() || goaway.is_some_and(|code| code != 0)
        })
    };
    match got.as_slice() {
        [only] if only.end == End::Complete => {
            if !only
                .status()
                .is_some_and(|status| statuses.contains(status))
            {
                return Err(format!("refused with another status:\n{shown}"));
            }
        }
        [only] if http2 && matches!(only.end, End::Reset(_)) => {}
        _ if http2 && gone => {}
        _ => return Err(format!("no refusal:\n{shown}")),
    }
    if http2 && !gone {
        after(stage, client, Then::Usable).await?;
    }
    let reached = requests(case, &stage.upstream.connections());
    if reached.iter().any(|request| request.end != End::Cut) {
        return Err(format!("refused, but the upstream got\n{}", show(&reached)));
    }
    let probed = stage
        .upstream
        .connections()
        .iter()
        .any(|own| latin1(&own.bytes).contains(super::peer::PROBE));
    if !http2 && probed {
        return Err("what followed the refused request reached the upstream".into());
    }
    Ok(())
}

/// Waits for the answer and compares it. Gives what is to be looked at next.
async fn answered(stage: &Stage, answer: &Expect) -> Result<Then, String> {
    let case = &stage.case;
    let each = match answer {
        Expect::Any(list) => list,
        one => std::slice::from_ref(one),
    };
    let closes = matches!(case.then, Some(Then::Closed | Then::Reset));
    let enough = |connections: &[Received]| {
        let Some(own) = connections.first() else {
            return false;
        };
        let got = responses(case, connections);
        own.eof.is_some()
            || !closes
                && each.iter().any(|one| {
                    !ends_connection(one, case) && compare(one, &got, case, true).is_ok()
                })
    };
    stage.client.wait(stage.limit, enough).await;
    let got = responses(case, &stage.client.connections());
    compare(answer, &got, case, true).map_err(|error| format!("client: {error}"))?;
    // Of several answers, the one that came says what has become of the connection.
    let came = each
        .iter()
        .find(|one| compare(one, &got, case, true).is_ok());
    let own = match came.is_some_and(|one| ends_connection(one, case)) {
        true => Then::Closed,
        false => Then::Usable,
    };
    Ok(case.then.unwrap_or(own))
}

/// Tells whether this answer is only over when the connection is.
fn ends_connection(answer: &Expect, case: &Case) -> bool {
    match answer {
        Expect::Text(text) => {
            let reading = Reading {
                responses_to: Some(methods(case)),
                ..Reading::default()
            };
            // Without the end of the connection it is not complete.
            read(&bytes_of(text), &reading)
                .last()
                .is_some_and(|last| last.end != End::Complete && !is_tunnel(case, last))
        }
        Expect::Streams(list) => list.iter().any(|stream| stream.cut),
        Expect::Any(list) => list
            .first()
            .is_some_and(|first| ends_connection(first, case)),
        _ => false,
    }
}

async fn after(stage: &Stage, client: &Client, then: Then) -> Result<(), String> {
    let case = &stage.case;
    let count = || responses(case, &stage.client.connections()).len();
    let before = count();
    match then {
        Then::Any => Ok(()),
        Then::Reset => {
            let reset = |connections: &[Received]| {
                connections
                    .first()
                    .is_some_and(|own| own.eof.is_some_and(|eof| eof != Eof::Fin))
            };
            match stage.client.wait(stage.limit, reset).await {
                true => Ok(()),
                false => Err("the connection is not reset".into()),
            }
        }
        Then::Closed => {
            let closed =
                |connections: &[Received]| connections.first().is_some_and(|own| own.eof.is_some());
            if !stage.client.wait(stage.limit, closed).await {
                return Err("the connection stays open".into());
            }
            let clean = stage
                .client
                .connections()
                .first()
                .is_some_and(|own| own.eof == Some(Eof::Fin));
            if !clean {
                return Err("the connection ends with a reset".into());
            }
            if count() != before {
                return Err("more than the answer came".into());
            }
            Ok(())
        }
        Then::Usable => {
            client.probe(PROBE_STREAM);
            let answered = |connections: &[Received]| {
                let got = responses(case, connections);
                let more = got.get(before..).unwrap_or_default();
                let over = connections.first().is_some_and(|own| own.eof.is_some());
                over || more.iter().any(|one| one.end != End::Cut)
            };
            stage.client.wait(stage.limit, answered).await;
            let got = responses(case, &stage.client.connections());
            match got.get(before..).unwrap_or_default() {
                [one] if one.status().is_some() && one.end == End::Complete => Ok(()),
                other => Err(format!(
                    "the connection is not usable afterwards:\n{}",
                    show(other)
                )),
            }
        }
    }
}

/// The methods of the requests that the client sends.
fn methods(case: &Case) -> Vec<String> {
    let mut methods = Vec::new();
    for step in &case.send.0 {
        let super::case::Step::Bytes(bytes) = step else {
            continue;
        };
        let text = latin1(&bytes.bytes());
        let lines = text.lines().filter(|line| line.contains(" HTTP/1."));
        methods.extend(lines.filter_map(|line| line.split(' ').next().map(str::to_owned)));
    }
    // The question that comes last.
    methods.push("GET".into());
    methods
}

fn is_tunnel(case: &Case, message: &Message) -> bool {
    let connect = methods(case)
        .first()
        .is_some_and(|method| method == "CONNECT");
    message.status() == Some(101)
        || connect
            && message
                .status()
                .is_some_and(|status| (200..300).contains(&status))
}

fn responses(case: &Case, connections: &[Received]) -> Vec<Message> {
    let Some(own) = connections.first() else {
        return Vec::new();
    };
    if let Some(reader) = &own.reader {
        return reader.messages();
    }
    let reading = Reading {
        responses_to: Some(methods(case)),
        eof: own.eof == Some(Eof::Fin),
        ..Reading::default()
    };
    let mut messages = read(&own.bytes, &reading);
    for message in &mut messages {
        if is_tunnel(case, message) {
            message.end = End::Complete;
        }
    }
    messages
}

/// Returns the requests that reached the upstream, the suite's own question left out.
fn requests(case: &Case, connections: &[Received]) -> Vec<Message> {
    let tunnel = opens_tunnel(case);
    let mut all = Vec::new();
    for own in connections {
        let mut messages = match &own.reader {
            Some(reader) => reader.messages(),
            None => {
                let reading = Reading {
                    tunnel,
                    eof: own.eof.is_some(),
                    ..Reading::default()
                };
                read(&own.bytes, &reading)
            }
        };
        if tunnel && case.to == Protocol::Http1 {
            for message in &mut messages {
                message.end = End::Complete;
            }
        }
        all.extend(messages.into_iter().filter(|message| !is_probe(message)));
    }
    all
}

fn opens_tunnel(case: &Case) -> bool {
    let first = case
        .reply
        .iter()
        .flat_map(|steps| &steps.0)
        .find_map(|step| match step {
            super::case::Step::Bytes(bytes) => Some(latin1(&bytes.bytes())),
            _ => None,
        });
    let connect = methods(case)
        .first()
        .is_some_and(|method| method == "CONNECT");
    first.is_some_and(|text| {
        text.contains("HTTP/1.1 101 ") || connect && text.starts_with("HTTP/1.1 2")
    })
}

fn compare(expect: &Expect, got: &[Message], case: &Case, response: bool) -> Result<(), String> {
    let shown = || show(got);
    if let Some(bad) = got.iter().find(|message| message.end == End::Malformed) {
        return Err(format!("{}\n{}", bad.first, shown()));
    }
    match expect {
        Expect::Nothing if got.is_empty() => Ok(()),
        Expect::Nothing => Err(format!("wanted nothing, got\n{}", shown())),
        Expect::Status(status) => {
            let mut last = got.iter().filter(|message| !message.is_interim());
            match (last.next(), last.next()) {
                (Some(one), None) if one.status() == Some(*status) && one.end == End::Complete => {
                    Ok(())
                }
                _ => Err(format!("wanted {status}, got\n{}", shown())),
            }
        }
        Expect::Any(list) => {
            let mut first = None;
            for one in list {
                match compare(one, got, case, response) {
                    Ok(()) => return Ok(()),
                    Err(error) => first = first.or(Some(error)),
                }
            }
            first.map_or(Ok(()), Err)
        }
        Expect::Text(text) => {
            let reading = Reading {
                responses_to: response.then(|| methods(case)),
                tunnel: !response && opens_tunnel(case),
                eof: case.then != Some(Then::Reset),
            };
            let mut wanted = read(&bytes_of(text), &reading);
            for message in &mut wanted {
                if response && is_tunnel(case, message) {
                    message.end = End::Complete;
                }
            }
            same(&wanted, got)
        }
        Expect::Streams(list) => {
            let wanted: Vec<Message> = list.iter().flat_map(stream).collect();
            let by_status = list.len() == got.len()
                && list.iter().zip(got).all(|(spec, message)| {
                    spec.status.is_some() && spec.status == message.status()
                });
            let mut got = got.to_vec();
            for (message, wanted) in got.iter_mut().zip(&wanted) {
                if by_status {
                    message.fields.clone_from(&wanted.fields);
                    message.body.clone_from(&wanted.body);
                }
                if let (End::Reset(code), End::Reset(u32::MAX)) = (&mut message.end, &wanted.end) {
                    *code = u32::MAX;
                }
            }
            same(&wanted, &got)
        }
    }
}

fn same(wanted: &[Message], got: &[Message]) -> Result<(), String> {
    let mut got = got.to_vec();
    for (index, message) in got.iter_mut().enumerate() {
        let pair = wanted.get(index);
        for name in FREE {
            if pair.is_none_or(|pair| pair.field(name).is_none()) {
                message.forget(name);
            }
        }
    }
    if wanted == got {
        return Ok(());
    }
    Err(format!("wanted\n{}got\n{}", show(wanted), show(&got)))
}

/// The messages of a stream: interim ones, and the final one.
fn stream(spec: &StreamSpec) -> Vec<Message> {
    let mut out: Vec<Message> = spec
        .interim
        .iter()
        .map(|head| Message {
            fields: fields(head),
            end: End::Complete,
            ..Message::default()
        })
        .collect();
    let end = match (&spec.reset, spec.cut) {
        (Some(code), _) => End::Reset(code.parse().unwrap_or(u32::MAX)),
        (None, true) => End::Cut,
        (None, false) => End::Complete,
    };
    out.push(Message {
        fields: fields(&spec.head),
        body: spec
            .body
            .as_ref()
            .map(|body| body.bytes())
            .unwrap_or_default(),
        trailers: fields(&spec.trailers),
        end,
        ..Message::default()
    });
    for message in &mut out {
        message.settle();
    }
    out
}
