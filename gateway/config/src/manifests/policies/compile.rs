//! `traffic.extProc` as the ext_proc filter's configuration.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use extproc_client::{
    FilterConfig,
    attributes::Expression,
    config::{
        BodyMode, GrpcService, MetadataOptions, MutationRules, ProcessingMode, RouteCacheAction,
        SendMode, Service,
    },
};

use super::super::{
    backends::{Backends, NOT_PERMITTED},
    compiled::Allowance,
    gateways::Referrer,
    status::Reason,
    types::{
        AGENTGATEWAY, BodySendMode, ExtProcCase, FailureMode, HeaderSendMode, Key, Phase,
        ProcessingOptions, Traffic,
    },
};
use crate::snapshot::Case;

/// Longest time for a reply. The API has no such setting; a processor that takes longer does not answer any more.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A processor that nobody is, since clusters are named otherwise: exchanges fail as its failure mode says.
const NOBODY: &str = "nobody";

/// The namespace of `metadataContext` whose entries become metadata of the gRPC call.
const INITIAL_METADATA: &str = "agentgateway.dev.grpc_initial_metadata";

/// A policy's ext_proc.
pub(super) struct ExtProc {
    pub(super) cases: Arc<[Case]>,
    /// Configuration that refuses every request.
    pub(super) refusing: Arc<FilterConfig>,
    /// References that no ReferenceGrant permits.
    pub(super) not_permitted: Vec<String>,
    /// Faults in it.
    pub(super) problems: Vec<String>,
}

impl ExtProc {
    /// Returns whether a request decides what is done with it.
    pub(super) fn depends(&self) -> bool {
        !matches!(&*self.cases, [only] if only.condition.is_none()
            && only.metadata.is_empty()
            && only.initial_metadata.is_empty())
    }

    /// The configuration that holds for every request.
    pub(super) fn config(&self) -> Option<Arc<FilterConfig>> {
        match &*self.cases {
            [only] if !self.depends() => Some(only.config.clone()),
            _ => None,
        }
    }
}

/// `None` if the policy says nothing of ext_proc.
pub(super) fn compile(
    backends: &mut Backends<'_>,
    allowance: Allowance<'_>,
    policy: &Key,
    traffic: &Traffic,
) -> Option<ExtProc> {
    const PLACE: &str = "traffic.extProc";
    let ext_proc = traffic.ext_proc.as_ref()?;
    let mut compiler = Compiler {
        backends,
        allowance,
        policy,
        pre_routing: traffic.phase == Phase::PreRouting,
        refusing: refusing(),
        not_permitted: Vec::new(),
        problems: Vec::new(),
    };
    let mut cases = Vec::new();
    if ext_proc.conditional.is_empty() {
        cases.push(compiler.case(&ext_proc.case, PLACE));
    }
    for (index, conditional) in ext_proc.conditional.iter().enumerate() {
        let place = format!("{PLACE}.conditional[{index}]");
        let mut case = compiler.case(&conditional.policy, &format!("{place}.policy"));
        if let Some(text) = &conditional.condition {
            match compiler.allowance.expression(text) {
                Ok(condition) => case.condition = Some(condition),
                Err(error) => {
                    // Nobody can say which requests this is for: none may pass it by.
                    compiler
                        .problems
                        .push(format!("{place}.condition: {text:?} {error}"));
                    case.config = compiler.refusing.clone();
                }
            }
        }
        cases.push(case);
    }
    Some(ExtProc {
        refusing: compiler.refusing,
        not_permitted: compiler.not_permitted,
        problems: compiler.problems,
        cases: cases.into(),
    })
}

/// A configuration that refuses every request.
pub(super) fn refusing() -> Arc<FilterConfig> {
    match FilterConfig::builder(Service::Grpc(GrpcService::cluster(NOBODY))).build() {
        Ok(config) => Arc::new(config),
        // Nothing is set that could be at odds with anything.
        Err(error) => unreachable!("{error}"),
    }
}

struct Compiler<'c, 'o> {
    backends: &'c mut Backends<'o>,
    allowance: Allowance<'c>,
    policy: &'c Key,
    pre_routing: bool,
    refusing: Arc<FilterConfig>,
    not_permitted: Vec<String>,
    problems: Vec<String>,
}

impl Compiler<'_, '_> {
    fn case(&mut self, case: &ExtProcCase, place: &str) -> Case {
        let not_permitted = self.not_permitted.len();
        let cluster = self.processor(case).unwrap_or_else(|(reason, message)| {
            let message = format!("{place}: {message}");
            if reason == NOT_PERMITTED {
                self.not_permitted.push(message.clone());
            }
            self.problems.push(message);
            NOBODY.to_owned()
        });
        let mut metadata = Vec::new();
        let mut initial_metadata = Vec::new();
        for (namespace, entries) in &case.metadata_context {
            let place = format!("{place}.metadataContext[{namespace:?}]");
            let entries = self.expressions(entries, &place);
            match namespace.as_str() {
                INITIAL_METADATA => initial_metadata = entries,
                _ => metadata.push((namespace.clone(), entries)),
            }
        }
        let request = self.expressions(
            &case.request_attributes,
            &format!("{place}.requestAttributes"),
        );
        let response = self.expressions(
            &case.response_attributes,
            &format!("{place}.responseAttributes"),
        );
        let config = FilterConfig::builder(Service::Grpc(GrpcService::cluster(cluster)))
            .failure_mode_allow(case.failure_mode == FailureMode::FailOpen)
            .processing_mode(mode(&case.processing_options, place))
            // Routes are selected for what is there after the phase before routing.
            .route_cache_action(match self.pre_routing {
                true => RouteCacheAction::Clear,
                false => RouteCacheAction::Default,
            })
            .allow_mode_override(case.processing_options.allow_mode_override)
            .message_timeout(MESSAGE_TIMEOUT)
            .named_request_attributes(request)
            .named_response_attributes(response)
            .metadata_options(MetadataOptions {
                forward_untyped: metadata.iter().map(|(name, _)| name.clone()).collect(),
                ..MetadataOptions::default()
            })
            .mutation_rules(MutationRules {
                allow_all_routing: true,
                allow_envoy: true,
                ..MutationRules::default()
            })
            .build();
        let config = match config {
            // Whatever the failure mode says: that is for a processor which the policy may have.
            Ok(_) if self.not_permitted.len() > not_permitted => self.refusing.clone(),
            Ok(config) => Arc::new(config),
            Err(error) => {
                self.problems.push(format!("{place}: {error}"));
                self.refusing.clone()
            }
        };
        Case {
            condition: None,
            config,
            metadata,
            initial_metadata,
        }
    }

    /// The expressions that can be read; an entry that cannot never has a value.
    fn expressions(
        &mut self,
        entries: &BTreeMap<String, String>,
        place: &str,
    ) -> Vec<(String, Expression)> {
        let mut compiled = Vec::with_capacity(entries.len());
        for (name, text) in entries {
            match self.allowance.expression(text) {
                Ok(expression) => compiled.push((name.clone(), expression)),
                Err(error) => self.problems.push(format!("{place} {name:?} {error}")),
            }
        }
        compiled
    }

    /// The processor's cluster.
    fn processor(&mut self, case: &ExtProcCase) -> Result<String, Reason> {
        let invalid = |message: String| ("Invalid", message);
        match (&case.backend_ref, &case.url) {
            (Some(reference), None) => {
                let from = Referrer {
                    group: AGENTGATEWAY,
                    kind: "AgentgatewayPolicy",
                    namespace: &self.policy.namespace,
                };
                if reference.name.contains('.') && reference.group.is_empty() {
                    return Err(invalid(format!(
                        "backendRef.name: {:?} has to be the name of the Service, not a host name",
                        reference.name
                    )));
                }
                self.backends
                    .resolve(&from, reference)
                    .map_err(|(reason, message)| (reason, format!("backendRef: {message}")))
            }
            (None, Some(url)) => self
                .backends
                .url(url)
                .map_err(|(reason, message)| (reason, format!("url: {message}"))),
            _ => Err(invalid(
                "exactly one of backendRef and url has to be set".into(),
            )),
        }
    }
}

fn mode(options: &ProcessingOptions, place: &str) -> ProcessingMode {
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
    mode
}
