//! Health of endpoints, from checks and from the outcome of requests.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header, response::Parts};
use http_body_util::{BodyExt, Full, Limited};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    attempt::send_once,
    connect::{Address, Connected},
    error::Failure,
    member::{Host, Lending},
};
use crate::{
    config::snapshot::{CheckKind, Health as Settings, HealthCheck, Outliers, Priority},
    http::body::Body,
};

/// The health of every cluster's endpoints, by the cluster's name. Entries are made on demand and live as long as the gateway,
/// so that a new configuration goes on with what is known.
#[derive(Debug, Default)]
pub(crate) struct HealthByCluster(Mutex<HashMap<String, Arc<ClusterHealth>>>);

impl HealthByCluster {
    pub(super) fn of(&self, cluster: &str) -> Arc<ClusterHealth> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(cluster.to_owned()).or_default().clone()
    }

    /// Forgets the clusters that are gone.
    pub(crate) fn sweep(&self) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, health| Arc::strong_count(health) > 1);
    }
}

/// The endpoints of one cluster, whose health all workers share.
#[derive(Debug, Default)]
pub(crate) struct ClusterHealth(Mutex<HashMap<Address, Weak<Health>>>);

impl ClusterHealth {
    /// Of the endpoint at `address`.
    pub(crate) fn of(&self, address: &Address, settings: &Settings) -> Arc<Health> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, health| health.strong_count() > 0);
        if let Some(health) = known.get(address).and_then(Weak::upgrade)
            && health.check == settings.check
        {
            return health;
        }
        // The old one may live on with a response; its checks write there alone.
        let health = Arc::new(Health {
            check: settings.check.clone(),
            unknown: AtomicBool::new(settings.check.is_some()),
            ..Health::default()
        });
        known.insert(address.clone(), Arc::downgrade(&health));
        health
    }

    /// Returns whether one more endpoint may be left out.
    fn has_room(&self, settings: &Outliers) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<Arc<Health>> = known.values().filter_map(Weak::upgrade).collect();
        let ejected = all.iter().filter(|health| health.is_ejected()).count();
        settings.always_one && ejected == 0
            || (ejected + 1) * 100 <= all.len() * settings.most as usize
    }
}

/// The health of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// The check that it is about.
    check: Option<HealthCheck>,
    /// No check has ended yet.
    unknown: AtomicBool,
    looked: Notify,
    /// The checks left it out.
    failed: AtomicBool,
    /// Its last good check said that it is degraded.
    degraded: AtomicBool,
    /// A worker checks it.
    checking: AtomicBool,
    /// Until then, in milliseconds of [`now`], the outcome of its requests leaves it out.
    ejected: AtomicU64,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    server_errors: u32,
    gateway_failures: u32,
    ejections: u32,
}

/// Milliseconds of a clock that never goes back.
fn now() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let start = START.get_or_init(Instant::now);
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Health {
    /// Returns whether it is to be used, as long as enough others are.
    pub(crate) fn is_fit(&self) -> bool {
        !self.failed.load(Ordering::Relaxed) && !self.is_ejected()
    }

    pub(crate) fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::Relaxed)
    }

    /// Tells whether the checks left it out.
    pub(crate) fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Tells whether the outcome of its requests leaves it out.
    pub(crate) fn is_ejected(&self) -> bool {
        let until = self.ejected.load(Ordering::Relaxed);
        until > 0 && now() < until
    }

    /// Returns whether the first check is still to end.
    pub(crate) fn is_unknown(&self) -> bool {
        self.unknown.load(Ordering::Acquire)
    }

    /// Waits for the first check, which has a limit.
    pub(crate) async fn known(&self, limit: Duration) {
        let looked = self.looked.notified();
        if self.is_unknown() {
            let _ = timeout(limit, looked).await;
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request to it had this outcome: a status, or none at all.
    pub(crate) fn outcome(
        &self,
        status: Option<StatusCode>,
        settings: &Outliers,
        cluster: &ClusterHealth,
    ) {
        let server_error = status.is_none_or(|status| status.is_server_error());
        let gateway = status.is_none_or(|status| (502..=504).contains(&status.as_u16()));
        let mut counts = self.counts();
        counts.server_errors = if server_error {
            counts.server_errors + 1
        } else {
            0
        };
        counts.gateway_failures = if gateway {
            counts.gateway_failures + 1
        } else {
            0
        };
        let reached = |count: u32, most: Option<u32>| most.is_some_and(|most| count >= most);
        if !reached(counts.server_errors, settings.server_errors)
            && !reached(counts.gateway_failures, settings.gateway_failures)
        {
            return;
        }
        counts.server_errors = 0;
        counts.gateway_failures = 0;
        if self.is_ejected() || !cluster.has_room(settings) {
            return;
        }
        counts.ejections = counts.ejections.saturating_add(1);
        let time = settings.base_time.saturating_mul(counts.ejections);
        let time = time.min(settings.max_time).as_millis();
        let until = now().saturating_add(u64::try_from(time).unwrap_or(u64::MAX));
        self.ejected.store(until.max(1), Ordering::Relaxed);
    }
}

/// Gives the right to check back.
struct Checking<'a>(&'a Health);

impl Drop for Checking<'_> {
    fn drop(&mut self) {
        self.0.checking.store(false, Ordering::Release);
    }
}

/// Checks an endpoint as long as a cluster has it. Of all workers one does it at a time.
pub(crate) async fn watch(host: Weak<Host>, check: HealthCheck) {
    loop {
        let Some(held) = host.upgrade() else { return };
        let health = held.health.clone();
        drop(held);
        if !health.checking.swap(true, Ordering::AcqRel) {
            let _checking = Checking(&health);
            check_on(&host, &health, &check).await;
            return;
        }
        sleep(check.interval).await;
    }
}

async fn check_on(host: &Weak<Host>, health: &Health, check: &HealthCheck) {
    let mut in_a_row = 0;
    let mut other = None;
    while let Some(host) = host.upgrade() {
        let asked = match &other {
            None => host.checked().map(Arc::new),
            Some(_) => other.take(),
        };
        let checked = asked.as_ref().unwrap_or(&host);
        let failed = health.failed.load(Ordering::Relaxed);
        let good = match timeout(check.timeout, ask(checked, check)).await {
            Ok(Ok(Answer::Good { degraded })) => {
                health.degraded.store(degraded, Ordering::Relaxed);
                true
            }
            // To be short of room, at once or after a wait for it, says nothing of the endpoint.
            Ok(Err(Failure::Overflow | Failure::Timeout)) => !failed,
            Ok(Ok(Answer::Bad) | Err(_)) | Err(_) => false,
        };
        drop(host);
        other = asked;
        // What agrees with what is known ends a row.
        in_a_row = if good == failed { in_a_row + 1 } else { 0 };
        let threshold = match good {
            true => check.healthy_threshold,
            false => check.unhealthy_threshold,
        };
        if health.is_unknown() || in_a_row >= threshold {
            health.failed.store(!good, Ordering::Relaxed);
            in_a_row = 0;
        }
        health.unknown.store(false, Ordering::Release);
        health.looked.notify_waiters();
        sleep(check.interval).await;
    }
}

/// Result of a check.
enum Answer {
    Good {
        /// The endpoint asks for what others cannot take alone (`x-envoy-degraded`).
        degraded: bool,
    },
    Bad,
}

impl From<bool> for Answer {
    fn from(good: bool) -> Self {
        match good {
            true => Self::Good { degraded: false },
            false => Self::Bad,
        }
    }
}

/// Asks the endpoint whether it is fit.
async fn ask(host: &Arc<Host>, check: &HealthCheck) -> Result<Answer, Failure> {
    // Before the check's own limit ends, so that the wait for a connection is told apart from one for an answer.
    let asked = Lending {
        client_http2: true,
        limit: Some(check.timeout / 2),
        ..Lending::default()
    };
    match &check.kind {
        CheckKind::Tcp { send, receive } => {
            let queue = Arc::default();
            let place = host.shared.connection(Priority::Default, &queue);
            let place = place.ok_or(Failure::Overflow)?;
            let connected = host.connect_raw(place).await;
            Ok(match connected {
                Ok(_) if receive.is_empty() => true.into(),
                Ok(connected) => talk(connected, send, receive).await.into(),
                Err(_) => false.into(),
            })
        }
        CheckKind::Http {
            method,
            path,
            host: name,
            expected,
            send,
            receive,
            looked_at,
        } => {
            let request = Request::builder().method(method.clone());
            let name = authority(host, name);
            let (head, body) = request_of(host, asked, request, name, path, send.clone()).await?;
            let status = head.status.as_u16();
            let is_expected = |(first, end): &(u16, u16)| (*first..*end).contains(&status);
            let body = body.get(..*looked_at).unwrap_or(&body);
            Ok(
                match expected.iter().any(is_expected) && has(body, receive) {
                    true => Answer::Good {
                        degraded: head.headers.contains_key("x-envoy-degraded"),
                    },
                    false => Answer::Bad,
                },
            )
        }
        CheckKind::Grpc {
            service,
            authority: name,
        } => {
            const PATH: &str = "/grpc.health.v1.Health/Check";
            let request = Request::builder()
                .method(Method::POST)
                .header(header::CONTENT_TYPE, "application/grpc")
                .header(header::TE, "trailers");
            let question = Bytes::from(question(service));
            let name = authority(host, name);
            let (_, body) = request_of(host, asked, request, name, PATH, question).await?;
            // Uncompressed, and of its one field, `status`, the value 1: SERVING.
            Ok(matches!(&*body, [0, 0, 0, 0, 2, 8, 1]).into())
        }
    }
}

/// The authority of a request: the endpoint's own, that of the check, or the cluster's name.
fn authority<'a>(host: &'a Host, of_check: &'a str) -> &'a str {
    match (host.check.hostname.as_str(), of_check) {
        ("", "") => &host.shared.cluster.name,
        ("", of_check) => of_check,
        (own, _) => own,
    }
}

/// Tells whether all pieces are there, one behind the other.
fn has(text: &[u8], pieces: &[Bytes]) -> bool {
    let mut rest = text;
    pieces.iter().all(|piece| {
        let at = rest
            .windows(piece.len().max(1))
            .position(|window| window == piece);
        let after = at.and_then(|at| rest.get(at + piece.len()..));
        rest = after.unwrap_or_default();
        after.is_some()
    })
}

/// Sends something and waits for all pieces of the answer, which has to come before the check ends.
async fn talk(mut connected: Connected, send: &[u8], receive: &[Bytes]) -> bool {
    const MOST: usize = 64 * 1024;
    if connected.io.write_all(send).await.is_err() || connected.io.flush().await.is_err() {
        return false;
    }
    let mut text = Vec::new();
    let mut piece = [0; 1024];
    while !has(&text, receive) {
        match connected.io.read(&mut piece).await {
            Ok(1..) if text.len() >= MOST => return false,
            Ok(count @ 1..) => text.extend_from_slice(piece.get(..count).unwrap_or_default()),
            Ok(0) | Err(_) => return false,
        }
    }
    true
}

/// A `HealthCheckRequest` with its gRPC prefix.
fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(0x80 | (length & 0x7f) as u8);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend(message);
    framed
}

async fn request_of(
    host: &Arc<Host>,
    asked: Lending,
    request: http::request::Builder,
    authority: &str,
    path: &str,
    body: Bytes,
) -> Result<(Parts, Bytes), Failure> {
    const MOST: usize = 64 * 1024;
    let uri = Uri::builder()
        .scheme("http")
        .authority(authority)
        .path_and_query(path);
    let body = match body.is_empty() {
        true => Body::empty(),
        false => Body::new(Full::new(body)),
    };
    // What the configuration says is a path; an authority may not be one.
    let uri = uri.build().map_err(|_| Failure::Protocol)?;
    let request = request.uri(uri).body(body);
    let request = request.map_err(|_| Failure::Protocol)?;
    let (parts, body) = send_once(host, asked, request).await?.into_parts();
    let body = Limited::new(body, MOST).collect().await;
    let body = body.map_err(|_| Failure::Protocol)?;
    Ok((parts, body.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Outliers {
        Outliers {
            server_errors: Some(3),
            gateway_failures: Some(2),
            base_time: Duration::from_secs(30),
            max_time: Duration::from_secs(300),
            most: 50,
            always_one: false,
        }
    }

    #[test]
    fn what_fails_in_a_row_is_left_out() {
        let cluster = ClusterHealth::default();
        let address = |port: u16| Address::Socket(([127, 0, 0, 1], port).into());
        let one = cluster.of(&address(1), &Settings::default());
        let other = cluster.of(&address(2), &Settings::default());
        assert!(Arc::ptr_eq(
            &one,
            &cluster.of(&address(1), &Settings::default())
        ));
        let error = Some(StatusCode::INTERNAL_SERVER_ERROR);
        for status in [error, error, Some(StatusCode::OK), error, error] {
            one.outcome(status, &settings(), &cluster);
        }
        assert!(one.is_fit(), "a success in between");
        one.outcome(error, &settings(), &cluster);
        assert!(!one.is_fit());
        for _ in 0..2 {
            other.outcome(None, &settings(), &cluster);
        }
        assert!(other.is_fit(), "half of all is the most");
    }

    #[test]
    fn one_may_be_left_out_in_any_case() {
        for (always_one, fit) in [(false, true), (true, false)] {
            let cluster = ClusterHealth::default();
            let address = Address::Socket(([127, 0, 0, 1], 1).into());
            let health = cluster.of(&address, &Settings::default());
            let settings = Outliers {
                always_one,
                ..settings()
            };
            for _ in 0..2 {
                health.outcome(None, &settings, &cluster);
            }
            assert_eq!(health.is_fit(), fit);
        }
    }

    #[test]
    fn gateway_failures_are_counted_apart() {
        let cluster = ClusterHealth::default();
        let address = Address::Socket(([127, 0, 0, 1], 1).into());
        let health = cluster.of(&address, &Settings::default());
        let settings = Outliers {
            most: 100,
            ..settings()
        };
        for status in [None, Some(StatusCode::BAD_GATEWAY)] {
            assert!(health.is_fit());
            health.outcome(status, &settings, &cluster);
        }
        assert!(!health.is_fit());
    }

    #[test]
    fn pieces_of_an_answer() {
        let pieces = |list: &[&'static str]| -> Vec<Bytes> {
            list.iter().map(|piece| Bytes::from(*piece)).collect()
        };
        assert!(has(b"", &[]));
        assert!(has(b"+PONG\r\n", &pieces(&["PO", "G"])));
        assert!(!has(b"+PONG", &pieces(&["G", "PO"])));
        assert!(!has(b"aba", &pieces(&["ab", "ba"])));
        assert!(!has(b"a", &pieces(&["ab"])));
    }

    #[test]
    fn questions() {
        assert_eq!(question(""), [0, 0, 0, 0, 0]);
        assert_eq!(question("a"), [0, 0, 0, 0, 3, 0x0a, 1, b'a']);
    }
}
