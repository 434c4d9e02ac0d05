//! Recorders of traces, and how what they send reaches its collector.

use std::{fmt, io, sync::Arc};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full, Limited};
use tokio::{runtime, sync::oneshot, time::timeout};

use crate::{
    config::snapshot::{Snapshot, TraceProvider, Tracing as Config},
    processors::ClusterClient,
    telemetry::spans::Recorder,
    trace::{Answer, Collector, TraceCounts, Tracer, Tracing},
    upstream::Upstreams,
};

/// The longest that an answer of a collector may be.
const ANSWER: usize = 1024 * 1024;

/// Whoever opens recorders; part of the program around the gateway.
#[derive(Clone)]
pub(crate) struct Opener(pub(crate) Arc<dyn Tracing>);

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener")
    }
}

/// Recorders that are open. One stays so from one configuration to the next.
#[derive(Debug)]
pub(crate) struct Tracers {
    opener: Option<Opener>,
    counts: Arc<TraceCounts>,
    open: Vec<Open>,
    /// The number of them that were open before the configuration that is being built.
    before: usize,
    /// Runtime of requests to collectors, and their connections.
    runtime: Option<runtime::Handle>,
    upstreams: Arc<ArcSwapOption<Upstreams>>,
}

#[derive(Debug)]
struct Open {
    provider: Arc<TraceProvider>,
    tracer: Arc<dyn Tracer>,
    /// The configuration that is being built uses it.
    used: bool,
}

impl Tracers {
    pub(crate) fn new(
        opener: Option<Opener>,
        counts: Arc<TraceCounts>,
        runtime: Option<runtime::Handle>,
    ) -> Self {
        Self {
            opener,
            counts,
            open: Vec::new(),
            before: 0,
            runtime,
            upstreams: Arc::default(),
        }
    }

    /// Begins a new configuration.
    pub(crate) fn begin(&mut self) {
        for open in &mut self.open {
            open.used = false;
        }
        self.before = self.open.len();
    }

    /// Lets go of what was opened since: nothing becomes of the configuration.
    pub(crate) fn abandon(&mut self) {
        self.open.truncate(self.before);
    }

    /// Lets go of what the configuration did not ask for. A recorder ends with its last exchange.
    pub(crate) fn sweep(&mut self, upstreams: Option<Arc<Upstreams>>) {
        self.upstreams.store(upstreams);
        self.open.retain(|open| open.used);
    }

    /// The recorder that `config` asks for; none if this program records no traces.
    ///
    /// # Errors
    /// The recorder cannot be had as it is configured.
    pub(crate) fn recorder(&mut self, config: &Arc<Config>) -> io::Result<Option<Recorder>> {
        let Some(Opener(opener)) = &self.opener else {
            return Ok(None);
        };
        let provider = &config.provider;
        let known = self.open.iter_mut();
        let known = known.into_iter().find(|open| open.provider == *provider);
        let tracer = match known {
            Some(open) => {
                open.used = true;
                open.tracer.clone()
            }
            None => {
                let collector = collector(provider, self.runtime.clone(), self.upstreams.clone());
                let tracer = opener
                    .open(provider, collector, self.counts.clone())
                    .map_err(|reason| io::Error::other(format!("tracing: {reason}")))?;
                self.open.push(Open {
                    provider: provider.clone(),
                    tracer: tracer.clone(),
                    used: true,
                });
                tracer
            }
        };
        Ok(Some(Recorder {
            config: config.clone(),
            tracer,
        }))
    }

    /// Tells of traces that nobody records.
    pub(crate) fn warn(&self, snapshot: &Snapshot) {
        let chains = snapshot.listeners.iter().flat_map(|l| l.all_chains());
        if self.opener.is_none() && chains.into_iter().any(|chain| chain.http.tracing.is_some()) {
            tracing::warn!("the configuration asks for traces, which this program does not record");
        }
    }

    /// All that are open.
    pub(crate) fn all(&self) -> Vec<Arc<dyn Tracer>> {
        self.open.iter().map(|open| open.tracer.clone()).collect()
    }
}

/// The way to the collector of `provider`.
fn collector(
    provider: &TraceProvider,
    runtime: Option<runtime::Handle>,
    upstreams: Arc<ArcSwapOption<Upstreams>>,
) -> Collector {
    let cluster = provider.exporter.cluster.clone();
    Collector::new(move |request, limit| {
        let (told, answer) = oneshot::channel();
        let upstream = upstreams.load();
        let upstream = upstream.as_ref().and_then(|all| all.get(&cluster).cloned());
        if let (Some(runtime), Some(upstream)) = (&runtime, upstream) {
            runtime.spawn(async move {
                let asked = timeout(limit, ask(ClusterClient::new(upstream), request)).await;
                let asked = asked.unwrap_or_else(|_| Err("no answer in time".into()));
                // Nobody may wait for it any more.
                let _ = told.send(asked);
            });
        }
        Box::pin(async move {
            let gone = |_| Err("the cluster is gone".to_owned());
            answer.await.unwrap_or_else(gone)
        })
    })
}

async fn ask(mut client: ClusterClient, request: Request<Bytes>) -> Result<Answer, String> {
    let response = tower::Service::call(&mut client, request.map(Full::new)).await;
    let (parts, body) = response
        .map_err(|failure| failure.to_string())?
        .into_parts();
    let body = Limited::new(body, ANSWER).collect().await;
    let body = body.map_err(|error| error.to_string())?;
    let mut headers = parts.headers;
    if let Some(trailers) = body.trailers() {
        headers.extend(trailers.clone());
    }
    Ok(Answer {
        status: parts.status,
        headers,
        body: body.to_bytes(),
    })
}
