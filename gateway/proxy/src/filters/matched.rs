//! The filters `ExtensionWithMatcher` and `Composite`: a match tree decides by the head of the request what is done.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use extproc_client::{config::Effort, host::ExchangeContext};
use http::{Request, StatusCode, request::Parts};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::{Chain, ResponseFuture, Serve, show_behind::show, switched::said};
use crate::{
    config::snapshot::{
        Filter, FilterKind, MatchAction, MatchInput, MatchKind, MatchTest, MatchTree, Matched,
        OnRoute, Predicate, Then,
    },
    exchange::{Exchange, host::is_answered},
    http::{body::Body, headers::request_field, local_reply},
    route::{is_drawn, value_is},
};

/// The filter with all chains that its tree, or a tree of a route, may choose.
pub(super) struct MatchedFilter {
    /// Its name, if routes speak of it.
    pub(super) name: Option<String>,
    pub(super) config: Arc<Matched>,
    pub(super) chains: Vec<(Arc<[Filter]>, Chain)>,
    pub(super) inner: Chain,
}

/// Error of a tree that cannot be decided within the bounds of an evaluation. Whatever the tree guards stays closed.
#[derive(Debug)]
struct Undecided;

impl MatchedFilter {
    /// The chain that the request goes through.
    fn choose(&self, parts: &Parts) -> Result<&Chain, Undecided> {
        let said = said(parts, self.name.as_deref());
        let tree = match &said {
            Some(OnRoute::As(FilterKind::Matched(own))) => &own.tree,
            _ => &self.config.tree,
        };
        let base = self.config.base.as_ref();
        let Some(tree) = tree else {
            return Ok(&self.inner);
        };
        // The tree is about requests.
        if is_answered(parts) {
            return base.map_or(Ok(&self.inner), |base| self.chain(base));
        }
        let mut view = View {
            parts,
            effort: Effort::default(),
        };
        let action = view.evaluate(tree)?;
        if view.effort.is_spent() {
            return Err(Undecided);
        }
        match action {
            Some(MatchAction::Skip) => Ok(&self.inner),
            Some(MatchAction::Execute(_, share)) if !is_drawn(*share) => Ok(&self.inner),
            Some(MatchAction::Execute(filters, _)) => self.chain(filters),
            Some(MatchAction::Keep) | None => base.map_or(Ok(&self.inner), |base| self.chain(base)),
        }
    }

    /// The chain of these filters. Those of routes that this filter was not built with are not passed by.
    fn chain(&self, filters: &Arc<[Filter]>) -> Result<&Chain, Undecided> {
        let mut chains = self.chains.iter();
        let found = chains.find(|(known, _)| Arc::ptr_eq(known, filters));
        found.map(|(_, chain)| chain).ok_or(Undecided)
    }
}

impl Serve for MatchedFilter {
    fn serve(&self, request: Request<Body>) -> ResponseFuture {
        let (parts, body) = request.into_parts();
        match self.choose(&parts) {
            Ok(chain) => chain.call(Request::from_parts(parts, body)),
            Err(Undecided) => {
                let exchange = Exchange::of_head(&parts);
                let grpc = exchange.is_some_and(|exchange| exchange.grpc);
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                let reply = local_reply::reply(grpc, status, "".into(), "match_undecided", 0);
                show(&self.inner, parts, reply)
            }
        }
    }
}

/// A request as a match tree sees it.
struct View<'a> {
    parts: &'a Parts,
    effort: Effort,
}

impl<'a> View<'a> {
    fn evaluate<'t>(&mut self, tree: &'t MatchTree) -> Result<Option<&'t MatchAction>, Undecided> {
        match &tree.kind {
            MatchKind::List(list) => {
                for (predicate, then) in list {
                    if self.holds(predicate)?
                        && let Some(action) = self.follow(then)?
                    {
                        return Ok(Some(action));
                    }
                }
            }
            MatchKind::Exact(input, map) => {
                let value = self.text(input)?;
                if let Some(then) = value.and_then(|value| map.get(&*value))
                    && let Some(action) = self.follow(then)?
                {
                    return Ok(Some(action));
                }
            }
            MatchKind::Prefix(input, list) => {
                // What is not there begins with nothing, not even with the empty prefix.
                if let Some(value) = self.text(input)? {
                    for (prefix, then) in list {
                        if value.starts_with(prefix)
                            && let Some(action) = self.follow(then)?
                        {
                            return Ok(Some(action));
                        }
                    }
                }
            }
        }
        match &tree.on_no_match {
            Some(then) => self.follow(then),
            None => Ok(None),
        }
    }

    /// Work on a match; `None` if that is nothing, so that others are looked at.
    fn follow<'t>(&mut self, then: &'t Then) -> Result<Option<&'t MatchAction>, Undecided> {
        match then {
            Then::Tree(tree) => self.evaluate(tree),
            Then::Action(action) => Ok(Some(action)),
        }
    }

    fn holds(&mut self, predicate: &Predicate) -> Result<bool, Undecided> {
        match predicate {
            Predicate::Single(input, test) => self.passes(input, test),
            Predicate::Or(list) => {
                for one in list {
                    if self.holds(one)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Predicate::And(list) => {
                for one in list {
                    if !self.holds(one)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Predicate::Not(inner) => Ok(!self.holds(inner)?),
        }
    }

    fn passes(&mut self, input: &MatchInput, test: &MatchTest) -> Result<bool, Undecided> {
        Ok(match test {
            MatchTest::Text(matcher) => match self.text(input)? {
                Some(text) => matcher
                    .try_matches(&text, &mut self.effort)
                    .ok_or(Undecided)?,
                None => false,
            },
            MatchTest::Ip(ranges) => match self.address(input)? {
                Some(address) => ranges.iter().any(|range| range.contains(address)),
                None => false,
            },
            MatchTest::Value { matcher, invert } => {
                let value = match input {
                    MatchInput::Metadata(namespace, path) => self.metadata(namespace, path)?,
                    _ => None,
                };
                value_is(matcher, value.as_ref(), &mut self.effort).ok_or(Undecided)? != *invert
            }
            MatchTest::Cel(expression) => {
                let Some(context) = ExchangeContext::of_head(self.parts) else {
                    return Err(Undecided);
                };
                let holds = expression.holds(self.parts, &context.surroundings());
                holds.map_err(|_| Undecided)?
            }
        })
    }

    fn metadata(&self, namespace: &str, path: &[String]) -> Result<Option<Value>, Undecided> {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        Ok(exchange(self.parts)?.metadata.json(namespace, &path))
    }

    fn address(&self, input: &MatchInput) -> Result<Option<IpAddr>, Undecided> {
        let exchange = exchange(self.parts)?;
        Ok(match input {
            MatchInput::SourceIp => Some(exchange.client.ip()),
            MatchInput::DirectSourceIp => Some(exchange.peer.remote.ip()),
            MatchInput::DestinationIp => Some(exchange.peer.local.ip()),
            _ => self.text(input)?.and_then(|text| text.parse().ok()),
        })
    }

    fn text<'t>(&self, input: &'t MatchInput) -> Result<Option<Cow<'t, str>>, Undecided>
    where
        'a: 't,
    {
        let exchange = exchange(self.parts)?;
        let shown = |value: &dyn ToString| Some(value.to_string().into());
        Ok(match input {
            MatchInput::Header(name) => request_field(self.parts, name),
            MatchInput::Query(name) => {
                let query = self.parts.uri.query().unwrap_or_default();
                decoded_parameter(query, name)
            }
            MatchInput::SourceIp => shown(&exchange.client.ip()),
            MatchInput::SourcePort => shown(&exchange.client.port()),
            MatchInput::DirectSourceIp => shown(&exchange.peer.remote.ip()),
            MatchInput::DestinationIp => shown(&exchange.peer.local.ip()),
            MatchInput::DestinationPort => shown(&exchange.peer.local.port()),
            MatchInput::ServerName => {
                let tls = exchange.peer.tls.as_ref();
                tls.map(|tls| tls.server_name.as_str().into())
                    .filter(|name: &Cow<'_, str>| !name.is_empty())
            }
            MatchInput::Environment(value) => value.as_deref().map(Cow::Borrowed),
            MatchInput::Metadata(..) | MatchInput::Attributes => None,
        })
    }
}

/// The exchange of a request, which every request has that a connection of a client began.
fn exchange(parts: &Parts) -> Result<&Exchange, Undecided> {
    let exchange = Exchange::of_head(parts);
    exchange.map(|exchange| &**exchange).ok_or(Undecided)
}

/// The first query parameter of that name; both are decoded.
fn decoded_parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let decoded = |text: &'a str| percent_decode_str(text).decode_utf8_lossy();
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key) == name).then(|| decoded(value))
    })
}
