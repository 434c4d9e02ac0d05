//! `AgentgatewayPolicy`, of which ext_proc is what matters here.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{GATEWAY_API, Metadata, ObjectRef, Unknown};
use crate::manifests::objects::or_default;

/// `agentgateway.dev/v1alpha1` `AgentgatewayPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct AgentgatewayPolicy {
    /// The object's metadata.
    pub metadata: Metadata,
    /// Its specification.
    pub spec: AgentgatewayPolicySpec,
}

impl AgentgatewayPolicy {
    /// Reads an object as the API server shows it. One that cannot be read keeps its targets, so that they can be
    /// refused: without it they would be open. Where not even those can be read, they are all that it could apply to.
    ///
    /// # Errors
    /// Its metadata cannot be read.
    pub fn read(value: Value) -> Result<Self, String> {
        let error = match Self::deserialize(&value) {
            Ok(policy) => return Ok(policy),
            Err(error) => error.to_string(),
        };
        let metadata =
            Metadata::deserialize(&value["metadata"]).map_err(|error| error.to_string())?;
        let spec = &value["spec"];
        let refs = Option::deserialize(&spec["targetRefs"]);
        let selectors = Option::deserialize(&spec["targetSelectors"]);
        let (target_refs, target_selectors) = match (refs, selectors) {
            (Ok(refs), Ok(selectors)) => (refs.unwrap_or_default(), selectors.unwrap_or_default()),
            _ => (Vec::new(), TargetSelector::everything()),
        };
        Ok(Self {
            metadata,
            spec: AgentgatewayPolicySpec {
                target_refs,
                target_selectors,
                unreadable: Some(error),
                ..AgentgatewayPolicySpec::default()
            },
        })
    }
}

/// `AgentgatewayPolicySpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct AgentgatewayPolicySpec {
    /// Targets in its own namespace.
    #[serde(deserialize_with = "or_default")]
    pub target_refs: Vec<TargetRef>,
    /// Targets by labels.
    #[serde(deserialize_with = "or_default")]
    pub target_selectors: Vec<TargetSelector>,
    /// Strategy against other policies.
    #[serde(deserialize_with = "or_default")]
    pub strategy: Strategy,
    /// For the connections of clients.
    pub frontend: Option<Frontend>,
    /// For requests.
    pub traffic: Option<Traffic>,
    /// Reason why the rest could not be read.
    #[serde(skip)]
    #[cfg_attr(feature = "schemars", schemars(skip))]
    pub unreadable: Option<String>,
    /// Fields that are not known here, which nothing may be done without.
    #[serde(flatten)]
    #[cfg_attr(feature = "schemars", schemars(skip))]
    pub unknown: Unknown,
}

impl AgentgatewayPolicySpec {
    /// The fields that are not known here, by their paths.
    pub fn unknown(&self) -> Vec<String> {
        let http = self.frontend.as_ref().and_then(|all| all.http.as_ref());
        let parts = [
            ("", Some(&self.unknown)),
            (
                "frontend.",
                self.frontend.as_ref().map(|part| &part.unknown),
            ),
            ("frontend.http.", http.map(|part| &part.unknown)),
            ("traffic.", self.traffic.as_ref().map(|part| &part.unknown)),
        ];
        super::paths(parts)
    }
}

/// One target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct TargetRef {
    /// The group.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// The name.
    pub name: String,
    /// A listener of the Gateway, or a rule of the route.
    pub section_name: Option<String>,
    /// A port of the Gateway.
    pub port: Option<u16>,
}

/// Targets by labels.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct TargetSelector {
    /// The group.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// All of these.
    #[serde(deserialize_with = "or_default")]
    pub match_labels: BTreeMap<String, String>,
    /// A listener of the Gateway, or a rule of the route.
    pub section_name: Option<String>,
    /// A port of the Gateway.
    pub port: Option<u16>,
}

impl TargetSelector {
    /// All that a policy may apply to.
    fn everything() -> Vec<Self> {
        ["Gateway", "HTTPRoute"]
            .map(|kind| Self {
                group: GATEWAY_API.into(),
                kind: kind.into(),
                ..Self::default()
            })
            .into()
    }
}

/// Strategy of a policy against others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Strategy {
    /// Precedence.
    pub inheritance: Inheritance,
}

/// Precedence between policies of several levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub enum Inheritance {
    /// The more specific one.
    #[default]
    Default,
    /// This one.
    Override,
}

/// Settings of a Gateway's listeners.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Frontend {
    /// HTTP.
    pub http: Option<FrontendHttp>,
    /// Fields that are not known here, which nothing may be done without.
    #[serde(flatten)]
    #[cfg_attr(feature = "schemars", schemars(skip))]
    pub unknown: Unknown,
}

/// HTTP settings of a Gateway's listeners.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct FrontendHttp {
    /// Largest buffered body, in bytes. Default 2 MiB.
    pub max_buffer_size: Option<u32>,
    /// Fields that are not known here, which nothing may be done without.
    #[serde(flatten)]
    #[cfg_attr(feature = "schemars", schemars(skip))]
    pub unknown: Unknown,
}

/// Treatment of requests.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct Traffic {
    /// When.
    #[serde(deserialize_with = "or_default")]
    pub phase: Phase,
    /// External processing.
    pub ext_proc: Option<ExtProc>,
    /// Fields that are not known here, which nothing may be done without.
    #[serde(flatten)]
    #[cfg_attr(feature = "schemars", schemars(skip))]
    pub unknown: Unknown,
}

/// When a traffic policy runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub enum Phase {
    /// Before the route is chosen.
    PreRouting,
    /// After the route is chosen.
    #[default]
    PostRouting,
}

/// External processing, or a choice between several.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ExtProc {
    /// The one processor, unless `conditional` is set.
    #[serde(flatten)]
    pub case: ExtProcCase,
    /// The first whose condition holds.
    #[serde(deserialize_with = "or_default")]
    pub conditional: Vec<Conditional>,
}

/// A processor with its condition.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Conditional {
    /// CEL; always if unset.
    pub condition: Option<String>,
    /// Action.
    pub policy: ExtProcCase,
}

/// One processor and how it is used.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct ExtProcCase {
    /// The processor.
    pub backend_ref: Option<ObjectRef>,
    /// The processor, by address.
    pub url: Option<String>,
    /// Treatment of requests when it fails.
    #[serde(deserialize_with = "or_default")]
    pub failure_mode: FailureMode,
    /// Parts of the exchange that it sees.
    #[serde(deserialize_with = "or_default")]
    pub processing_options: ProcessingOptions,
    /// Metadata for it: namespace, name, CEL.
    #[serde(deserialize_with = "or_default")]
    pub metadata_context: BTreeMap<String, BTreeMap<String, String>>,
    /// Attributes of requests: name, CEL.
    #[serde(deserialize_with = "or_default")]
    pub request_attributes: BTreeMap<String, String>,
    /// Attributes of responses: name, CEL.
    #[serde(deserialize_with = "or_default")]
    pub response_attributes: BTreeMap<String, String>,
}

/// Treatment of requests when the processor fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub enum FailureMode {
    /// They are refused.
    #[default]
    FailClosed,
    /// They go on without it, as long as no part of their body was sent to it.
    FailOpen,
}

/// Parts of the exchange that the processor sees; each field has a default of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct ProcessingOptions {
    /// Request bodies.
    pub request_body_mode: BodySendMode,
    /// Response bodies.
    pub response_body_mode: BodySendMode,
    /// Request headers.
    pub request_header_mode: HeaderSendMode,
    /// Response headers.
    pub response_header_mode: HeaderSendMode,
    /// Request trailers.
    pub request_trailer_mode: HeaderSendMode,
    /// Response trailers.
    pub response_trailer_mode: HeaderSendMode,
    /// True if replies may change the modes.
    pub allow_mode_override: bool,
}

/// Mode of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub enum BodySendMode {
    /// Not at all.
    None,
    /// As a whole.
    Buffered,
    /// As much as fits.
    BufferedPartial,
    /// As it comes; replies come as they like.
    #[default]
    FullDuplexStreamed,
}

/// Choice to send headers or trailers, or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub enum HeaderSendMode {
    /// They are.
    #[default]
    Send,
    /// They are not.
    Skip,
}
