//! Statuses of the objects that a translation read: plain data, for whoever writes it somewhere.

use std::collections::BTreeMap;

use super::types::{Key, ParentRef, RouteGroupKind};

/// One condition of an object's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its type, such as `Accepted`.
    pub kind: &'static str,
    /// True if it holds.
    pub status: bool,
    /// A word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// The generation of the object that this was found for.
    pub observed_generation: i64,
}

impl Condition {
    pub(super) fn new(
        generation: i64,
        kind: &'static str,
        status: bool,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        /// Longest message in bytes. The API server takes 32768 characters, and an object may have many conditions.
        const LONGEST: usize = 4096;
        let mut message = message.into();
        if message.len() > LONGEST {
            message.truncate(message.floor_char_boundary(LONGEST));
            message.push('…');
        }
        Self {
            kind,
            status,
            reason,
            message,
            observed_generation: generation,
        }
    }
}

/// A reason for programs, and a sentence for people.
pub(super) type Reason = (&'static str, String);

/// The status of every object that is ours to speak of. An object of another controller is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statuses {
    /// `GatewayClass`: conditions; the features are [`SUPPORTED_FEATURES`](super::SUPPORTED_FEATURES).
    pub classes: BTreeMap<String, Vec<Condition>>,
    /// `Gateway`.
    pub gateways: BTreeMap<Key, GatewayStatus>,
    /// `HTTPRoute`: one entry for each parent reference to a Gateway of ours.
    pub routes: BTreeMap<Key, Vec<RouteParentStatus>>,
    /// `AgentgatewayPolicy`: one entry for each ancestor.
    pub policies: BTreeMap<Key, Vec<AncestorStatus>>,
    /// `AgentgatewayBackend`: conditions.
    pub backends: BTreeMap<Key, Vec<Condition>>,
}

/// The status of a Gateway, without what only its running workload knows (addresses).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayStatus {
    /// `Accepted` and `Programmed`, as far as configuration decides them.
    pub conditions: Vec<Condition>,
    /// In the order of the specification.
    pub listeners: Vec<ListenerStatus>,
}

/// The status of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Kinds of routes that may attach.
    pub supported_kinds: Vec<RouteGroupKind>,
    /// Routes that did.
    pub attached_routes: u32,
    /// `Accepted`, `Programmed`, `ResolvedRefs`, `Conflicted`.
    pub conditions: Vec<Condition>,
}

/// Status of a route for one parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteParentStatus {
    /// The reference as the route has it.
    pub parent: ParentRef,
    /// `Accepted` and `ResolvedRefs`.
    pub conditions: Vec<Condition>,
}

/// Status of a policy for one ancestor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AncestorStatus {
    /// The Gateway, or agentgateway's `StatusSummary` for targets that reach none.
    pub ancestor: ParentRef,
    /// `Accepted` and `Attached`.
    pub conditions: Vec<Condition>,
}
