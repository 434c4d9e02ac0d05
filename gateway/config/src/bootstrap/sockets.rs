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
    transport_socket: TransportSocket,
}

pub(super) type SocketMatch = Located<TransportSocketMatch>;

impl TransportSocketMatch {
    /// Whether it is for endpoints with these metadata: all that it names stands there.
    pub(super) fn matches(&self, metadata: &Metadata) -> bool {
        let wanted = self.r#match.build();
        let found = metadata.filter_metadata.get(NAMESPACE);
        wanted
            .fields
            .iter()
            .all(|(key, value)| found.and_then(|found| found.fields.get(key)) == Some(value))
    }

    pub(super) fn upstream(
        &self,
        reader: &Reader<'_>,
        secrets: &Secrets,
    ) -> Result<Option<UpstreamTls>, Fault> {
        self.transport_socket.upstream(reader, secrets)
    }
}
