//! Knowledge of the program around the layer about an exchange, given through request and response extensions.
//!
//! All of it is optional: a bare `ExtProcLayer` in a tower stack works without. A gateway puts an
//! [`ExchangeContext`] into the request's extensions and an [`Outcome`] into the response's.

#![warn(clippy::exhaustive_structs)]

use std::{any::Any, fmt, sync::Arc};

use http::request;

use crate::{attributes::Surroundings, config::FilterConfig, metadata::DynamicMetadata};
pub use crate::{
    context::{
        facts::{CertificateFacts, EarlierAttempt, HostFacts, Received, RouteFacts, UpstreamInfo},
        outcome::{
            ExchangeSummary, Origin, Outcome, RefusedRequest, ResponseFlags, UpstreamFailure,
        },
    },
    metadata::Metadata,
    types::{
        buffers::{BufferAccount, Held},
        limits::{HeaderLimits, Limits},
    },
};

/// Request extension: the surroundings of one exchange. Cheap to clone; all layers of a chain see
/// the same one.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ExchangeContext {
    /// The program around the layer, asked for what may change while the exchange goes on: its route.
    pub host: Option<Arc<dyn Host>>,
    /// Buffer and header limits; Envoy's defaults if unset.
    pub limits: Limits,
    /// Dynamic metadata of the exchange, shared with other filters and the access log.
    pub metadata: DynamicMetadata,
    /// Facts about connection, route and node, for attributes.
    pub facts: Arc<HostFacts>,
    /// The endpoint that the request goes to, where that is known when a layer sees the request: attributes may ask for it
    /// then. Otherwise it is known with the response, by its [`Outcome`].
    pub endpoint: Option<Arc<UpstreamInfo>>,
    /// Told how many bytes of bodies filters hold.
    pub buffers: Option<Arc<dyn BufferAccount>>,
    /// The request is answered locally before any filter saw it (a malformed request): filters see
    /// the response alone.
    pub response_only: bool,
    /// Form of a local reply. Without it, the request as it comes to a filter decides, which an earlier one may have
    /// changed.
    pub reply_form: Option<ReplyForm>,
    /// The bytes of the request's body that came from the client, for attributes. Without it, a filter counts what comes to it.
    pub received: Option<Arc<dyn Received>>,
    /// The client waits for `100 Continue` before it sends its body: nothing is read of that before the request goes on,
    /// so that a refusal comes first. An `expect` header that is still there says the same.
    pub awaits_continue: bool,
    /// Set by a layer: response attributes are configured, so the head that goes to the upstream is to be kept for them in
    /// [`UpstreamInfo::sent`].
    pub keep_sent: bool,
    /// Set by a layer: the body is not as it came, and ends where it says so. HTTP/1 has no part in that.
    pub(crate) remade: bool,
}

impl ExchangeContext {
    /// Returns the surroundings of a request, by its head.
    pub fn of_head(head: &request::Parts) -> Option<&Self> {
        head.extensions.get()
    }

    /// Returns the surroundings of a request to be changed for layers further on.
    pub fn of_head_mut(head: &mut request::Parts) -> Option<&mut Self> {
        head.extensions.get_mut()
    }

    /// Gives a request these surroundings.
    pub fn attach(self, head: &mut request::Parts) {
        head.extensions.insert(self);
    }

    /// Asks whoever sends a request to keep its head.
    pub(crate) fn ask_for_head(head: &mut request::Parts) {
        head.extensions.get_or_insert_default::<Self>().keep_sent = true;
    }

    /// Tells layers further on that the body is made anew.
    pub(crate) fn note_remade(head: &mut request::Parts) {
        if let Some(context) = Self::of_head_mut(head) {
            context.remade = true;
        }
    }

    /// Returns what [expressions](crate::attributes::Expression) may ask for.
    pub fn surroundings(&self) -> Surroundings<'_> {
        Surroundings {
            facts: &self.facts,
            route: self.route_facts(),
            metadata: &self.metadata,
            attempts: self.attempts(),
        }
    }

    /// Attempts that were made so far to get a response.
    pub(crate) fn attempts(&self) -> u64 {
        self.host.as_ref().map_or(0, |host| host.attempts())
    }

    /// Facts of the route that was selected last.
    pub(crate) fn route_facts(&self) -> Arc<RouteFacts> {
        self.host
            .as_ref()
            .map_or_else(Arc::default, |host| host.route_facts())
    }
}

/// The program around the layer, in one exchange. It selects routes, and a reply may have the route selected again, so that
/// each layer asks when the request comes to it.
pub trait Host: fmt::Debug + Send + Sync {
    /// Number of the exchange, the same for all its layers, for [observers](crate::observer); 0 if it has none. Asked only
    /// when an observer wants everything, so that a host may take [`next_id`](crate::observer::next_id) when it is asked first.
    fn exchange_id(&self) -> u64 {
        0
    }

    /// Configuration of the layer `filter` on the route that holds for a request with this head. The route is selected
    /// again first if it was cleared since.
    fn route(&self, filter: &str, head: &request::Parts) -> RouteConfig {
        let _ = (filter, head);
        RouteConfig::Inherit
    }

    /// Facts of the route that was selected last, for attributes.
    fn route_facts(&self) -> Arc<RouteFacts> {
        Arc::default()
    }

    /// A reply clears the route (`clear_route_cache`): it is to be selected again for whoever asks next.
    fn clear_route(&self) {}

    /// The whole response is here, and the request is not: what still comes of that is for nobody, in no layer.
    fn end_request(&self) {}

    /// Tells that [`end_request`](Self::end_request) was called. Asked for each piece of the request.
    fn is_request_over(&self) -> bool {
        false
    }

    /// The layer shows the response, or may come to show it, to a processor that can refuse or change it. Interim responses,
    /// which no layer sees, then say nothing that the response might not.
    fn shows_response(&self) {}

    /// The program's own part in the exchange, for an observer of its own to find.
    fn own(&self) -> Option<&dyn Any> {
        None
    }

    /// Attempts that were made so far to get a response, for attributes.
    fn attempts(&self) -> u64 {
        0
    }

    /// Tells that somebody in front has answered the request. A layer whose processor still has the request's headers then calls
    /// the service behind it at once, without a body, and its processor sees the response that this gives. Asked whenever such a
    /// layer is polled.
    fn is_answered(&self) -> bool {
        false
    }
}

/// Configuration of a layer on a route.
#[derive(Clone, Debug, Default)]
pub enum RouteConfig {
    /// The layer's own; a layer that is [disabled](crate::ExtProcLayer::disabled) does nothing.
    #[default]
    Inherit,
    /// None: the layer does nothing.
    Disabled,
    /// This one, also if the layer is disabled.
    Use(Arc<FilterConfig>),
}

/// The form of local replies, which the request as it came from the client decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplyForm {
    /// It is one of gRPC: the status goes into `grpc-status`.
    pub grpc: bool,
    /// It is a HEAD: there is no content.
    pub head: bool,
}
