//! `traffic.extProc` as the ext_proc filter's configuration.

use std::{sync::Arc, time::Duration};

use extproc_client::{
    FilterConfig,
    config::{BodyMode, GrpcService, MutationRules, ProcessingMode, SendMode, Service},
};

use super::super::{
    backends::Backends,
    gateways::Referrer,
    types::{
        AGENTGATEWAY, BodySendMode, ExtProcCase, FailureMode, HeaderSendMode, Key,
        ProcessingOptions, Traffic,
    },
};

/// How long a reply may take. The API has no such setting; a processor that takes longer does not
/// answer any more.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A processor that nobody is: exchanges fail as its failure mode says.
const NOBODY: &str = "";

/// A policy's ext_proc.
pub(super) struct Compiled {
    config: Option<Arc<FilterConfig>>,
    /// What is no good in it.
    pub(super) problems: Vec<String>,
}

impl Compiled {
    pub(super) fn config(&self) -> Option<Arc<FilterConfig>> {
        self.config.clone()
    }
}

/// `None` if the policy says nothing of ext_proc.
pub(super) fn compile(
    backends: &mut Backends<'_>,
    policy: &Key,
    traffic: &Traffic,
) -> Option<Compiled> {
    let ext_proc = traffic.ext_proc.as_ref()?;
    let mut problems = Vec::new();
    let config = case(
        backends,
        policy,
        &ext_proc.case,
        "traffic.extProc",
        &mut problems,
    );
    Some(Compiled {
        config: Some(config),
        problems,
    })
}

fn case(
    backends: &mut Backends<'_>,
    policy: &Key,
    case: &ExtProcCase,
    place: &str,
    problems: &mut Vec<String>,
) -> Arc<FilterConfig> {
    let cluster = processor(backends, policy, case).unwrap_or_else(|message| {
        problems.push(format!("{place}: {message}"));
        NOBODY.to_owned()
    });
    let mode = mode(&case.processing_options, place, problems);
    let config = FilterConfig::builder(Service::Grpc(GrpcService::cluster(cluster)))
        .failure_mode_allow(case.failure_mode == FailureMode::FailOpen)
        .processing_mode(mode)
        .allow_mode_override(case.processing_options.allow_mode_override)
        .message_timeout(MESSAGE_TIMEOUT)
        .mutation_rules(MutationRules {
            allow_all_routing: true,
            allow_envoy: true,
            ..MutationRules::default()
        })
        .build();
    match config {
        Ok(config) => Arc::new(config),
        Err(error) => {
            problems.push(format!("{place}: {error}"));
            Arc::new(refusing())
        }
    }
}

/// A configuration that refuses every request.
fn refusing() -> FilterConfig {
    let nobody = Service::Grpc(GrpcService::cluster(NOBODY));
    match FilterConfig::builder(nobody).build() {
        Ok(config) => config,
        // Nothing is set that could be at odds.
        Err(error) => unreachable!("{error}"),
    }
}

/// The processor's cluster.
fn processor(
    backends: &mut Backends<'_>,
    policy: &Key,
    case: &ExtProcCase,
) -> Result<String, String> {
    match (&case.backend_ref, &case.url) {
        (Some(reference), None) => {
            let from = Referrer {
                group: AGENTGATEWAY,
                kind: "AgentgatewayPolicy",
                namespace: &policy.namespace,
            };
            if reference.name.contains('.') && reference.group.is_empty() {
                return Err(format!(
                    "backendRef.name: {:?} has to be the name of the Service, not a host name",
                    reference.name
                ));
            }
            backends
                .resolve(&from, reference, false)
                .map_err(|(_, message)| format!("backendRef: {message}"))
        }
        (None, Some(url)) => backends
            .url(url)
            .map_err(|message| format!("url: {message}")),
        _ => Err("exactly one of backendRef and url has to be set".into()),
    }
}

fn mode(options: &ProcessingOptions, place: &str, problems: &mut Vec<String>) -> ProcessingMode {
    let body = |mode| match mode {
        BodySendMode::None => BodyMode::None,
        BodySendMode::Buffered => BodyMode::Buffered,
        BodySendMode::BufferedPartial => BodyMode::BufferedPartial,
        BodySendMode::FullDuplexStreamed => BodyMode::FullDuplexStreamed,
    };
    let send = |mode| match mode {
        HeaderSendMode::Send => SendMode::Send,
        HeaderSendMode::Skip => SendMode::Skip,
    };
    let mut mode = ProcessingMode {
        request_header_mode: send(options.request_header_mode),
        response_header_mode: send(options.response_header_mode),
        request_body_mode: body(options.request_body_mode),
        response_body_mode: body(options.response_body_mode),
        request_trailer_mode: send(options.request_trailer_mode),
        response_trailer_mode: send(options.response_trailer_mode),
    };
    let duplex = BodyMode::FullDuplexStreamed;
    let trailers = [mode.request_trailer_mode, mode.response_trailer_mode];
    if (mode.request_body_mode == duplex || mode.response_body_mode == duplex)
        && trailers.contains(&SendMode::Skip)
    {
        tracing::warn!(
            "{place}.processingOptions: trailers are sent, as body mode FullDuplexStreamed needs them"
        );
        mode.request_trailer_mode = SendMode::Send;
        mode.response_trailer_mode = SendMode::Send;
    }
    let _ = problems;
    mode
}
