//! The filter chains of a listener, and what all its connections share.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;

use crate::{
    config::snapshot::{ChainMatch, HttpManager, TransportProtocol},
    downstream::{drain::Drainer, tls::Acceptor},
    exchange::chain::Chain as Filters,
    limits::overload::Overload,
    telemetry::{access_log::Logger, spans::Recorder, stats::HttpStats},
};

/// State of a filter chain that all workers share.
#[derive(Debug)]
pub(crate) struct ListenerShared {
    /// The chain's name; may be empty.
    pub(crate) filter_chain: String,
    pub(crate) stats: Arc<HttpStats>,
    pub(crate) logs: Vec<Arc<Logger>>,
    pub(crate) recorder: Option<Recorder>,
}

/// A filter chain as one worker serves it, out of one snapshot.
pub(crate) struct ChainRuntime {
    pub(crate) http: Arc<HttpManager>,
    pub(crate) buffer_limit: usize,
    pub(crate) shared: Arc<ListenerShared>,
    pub(crate) filters: Filters,
    pub(crate) overload: Arc<Overload>,
}

impl fmt::Debug for ChainRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainRuntime").finish_non_exhaustive()
    }
}

impl ChainRuntime {
    /// Bytes of a body that are held for a client of this protocol version.
    pub(crate) fn buffer(&self, version: http::Version) -> usize {
        let of_stream = match version {
            http::Version::HTTP_2 => self.http.http2.stream_buffer,
            _ => None,
        };
        of_stream.unwrap_or(self.buffer_limit)
    }
}

/// Current configuration of a filter chain. Its connections hold the slot, so that their next request is served by
/// what a newer snapshot put there.
pub(crate) type Slot = Arc<ArcSwap<ChainRuntime>>;

/// A filter chain to new connections.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    /// `None` is the default chain.
    pub(crate) matches: Option<ChainMatch>,
    pub(crate) tls: Option<Acceptor>,
    pub(crate) handshake_timeout: Duration,
    pub(crate) slot: Slot,
    /// Gives every connection its part; no [`Drain`] itself, which would be waited for.
    pub(crate) drainer: Drainer,
}

/// Criteria by which a filter chain is chosen.
pub(crate) struct Hello<'a> {
    pub(crate) port: u16,
    pub(crate) transport: TransportProtocol,
    /// Lower case; empty if the client gave none.
    pub(crate) server_name: &'a str,
    pub(crate) protocols: &'a [&'a [u8]],
}

/// The filter chains of a listener, as one worker sees them.
#[derive(Debug)]
pub(crate) struct Chains {
    pub(crate) listener: String,
    /// `Listener.access_log`.
    pub(crate) logs: Arc<[Arc<Logger>]>,
    /// Connections that were redirected here count as ones to where they were to go.
    pub(crate) original_dst: bool,
    /// In the order of the configuration, the default one last.
    pub(crate) chains: Vec<Chain>,
}

impl Chains {
    /// The one chain, if it takes every connection and needs no handshake.
    pub(crate) fn without_looking(&self) -> Option<&Chain> {
        match self.chains.as_slice() {
            [only] if only.tls.is_none() => {
                let all = ChainMatch::default();
                only.matches
                    .as_ref()
                    .is_none_or(|matches| *matches == all)
                    .then_some(only)
            }
            _ => None,
        }
    }

    /// The chain for a connection: the criteria are looked at one after the other, and each leaves the
    /// chains with the most specific value that fits, as `FilterChainMatch` says.
    pub(crate) fn choose(&self, hello: &Hello<'_>) -> Option<&Chain> {
        let candidates: Vec<(&Chain, &ChainMatch)> = self
            .chains
            .iter()
            .filter_map(|chain| Some((chain, chain.matches.as_ref()?)))
            .collect();
        let candidates = most_specific(candidates, |matches| match matches.destination_port {
            Some(wanted) => (wanted == hello.port).then_some(1),
            None => Some(0),
        });
        let candidates = most_specific(candidates, |matches| {
            best(&matches.server_names, |name| names(name, hello.server_name))
        });
        let candidates = most_specific(candidates, |matches| match matches.transport_protocol {
            Some(wanted) => (wanted == hello.transport).then_some(1),
            None => Some(0),
        });
        let candidates = most_specific(candidates, |matches| {
            best(&matches.application_protocols, |name| {
                hello.protocols.contains(&name.as_bytes()).then_some(1)
            })
        });
        match candidates.first() {
            Some((chain, _)) => Some(chain),
            None => self.chains.iter().find(|chain| chain.matches.is_none()),
        }
    }
}

/// Leaves what fits best; `rank` is `None` for what does not fit.
fn most_specific<'a>(
    candidates: Vec<(&'a Chain, &'a ChainMatch)>,
    rank: impl Fn(&ChainMatch) -> Option<usize>,
) -> Vec<(&'a Chain, &'a ChainMatch)> {
    let ranks = candidates.iter().map(|(_, matches)| rank(matches));
    let ranks: Vec<Option<usize>> = ranks.collect();
    let Some(best) = ranks.iter().copied().flatten().max() else {
        return Vec::new();
    };
    candidates
        .into_iter()
        .zip(ranks)
        .filter_map(|(candidate, rank)| (rank == Some(best)).then_some(candidate))
        .collect()
}

/// The best rank of a list; 0 for an empty one, which fits everything.
fn best(list: &[String], rank: impl Fn(&str) -> Option<usize>) -> Option<usize> {
    match list.is_empty() {
        true => Some(0),
        false => list.iter().filter_map(|entry| rank(entry)).max(),
    }
}

/// Specificity of a chain's server name for the client's.
fn names(pattern: &str, asked: &str) -> Option<usize> {
    if asked.is_empty() {
        return None;
    }
    if pattern == asked {
        return Some(usize::MAX);
    }
    let suffix = pattern.strip_prefix('*')?;
    (suffix.starts_with('.') && asked.len() > suffix.len() && asked.ends_with(suffix))
        .then_some(suffix.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names() {
        assert_eq!(names("a.example", "a.example"), Some(usize::MAX));
        assert!(names("*.example", "a.b.example") < names("*.b.example", "a.b.example"));
        for (pattern, asked) in [
            ("*.example", "example"),
            ("*.example", ".example"),
            ("a.example", "b.example"),
            ("*", "a.example"),
            ("a.example", ""),
        ] {
            assert_eq!(names(pattern, asked), None, "{pattern} {asked}");
        }
        assert_eq!(best(&[], |_| None), Some(0));
        let list = ["*.example".to_owned(), "a.example".to_owned()];
        assert_eq!(
            best(&list, |name| names(name, "a.example")),
            Some(usize::MAX)
        );
        assert_eq!(best(&list, |name| names(name, "b.test")), None);
    }
}
