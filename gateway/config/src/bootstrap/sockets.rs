//! `TransportSocketMatch`: endpoints of one cluster that are spoken to in several ways, with TLS and without.

use extproc_client::host::Metadata;
use serde::Deserialize;

use super::{any::StructValue, listener::TransportSocket, secrets::Secrets};
use crate::{
    document::{Fault, Located, Reader},
    snapshot::UpstreamTls,
};

/// Metadata of an endpoint, or of its locality, that decides.
const NAMESPACE: &str = "envoy.transport_socket_match";

/// `envoy.config.cluster.v3.Cluster.TransportSocketMatch`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TransportSocketMatch {
    r#match: StructValue,
    transport_socket: Option<Located<TransportSocket>>,
}

pub(super) type SocketMatch = Located<TransportSocketMatch>;

/// The socket for an endpoint: the first one that its own metadata fit, or else the first one that those of its locality fit. Without any,
/// only a socket that asks for nothing fits.
pub(super) fn choose(
    sockets: &[SocketMatch],
    own: Option<&Metadata>,
    of_locality: Option<&Metadata>,
) -> Option<usize> {
    let none = Metadata::default();
    [own, of_locality]
        .into_iter()
        .map(|metadata| metadata.unwrap_or(&none))
        .find_map(|metadata| {
            sockets
                .iter()
                .position(|socket| socket.value.matches(metadata))
        })
}

impl TransportSocketMatch {
    /// Tells whether it is for endpoints with these metadata, which have to contain all that it names.
    fn matches(&self, metadata: &Metadata) -> bool {
        let wanted = self.r#match.build();
        let found = metadata.filter_metadata.get(NAMESPACE);
        wanted
            .fields
            .iter()
            .all(|(key, value)| found.and_then(|found| found.fields.get(key)) == Some(value))
    }
}

impl Located<TransportSocketMatch> {
    /// TLS settings; `None` for bare connections.
    pub(super) fn upstream(
        &self,
        reader: &Reader<'_>,
        secrets: &Secrets,
    ) -> Result<Option<UpstreamTls>, Fault> {
        match &self.value.transport_socket {
            Some(socket) => socket.upstream(reader, secrets),
            None => Err(Fault::at(self.node, "missing field \"transport_socket\"")),
        }
    }
}
