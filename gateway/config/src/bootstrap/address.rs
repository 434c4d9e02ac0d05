//! `envoy.config.core.v3.Address`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::Deserialize;

use super::value::{Enum, ProtoEnum};
use crate::{
    document::{Fault, Located},
    snapshot::EndpointAddress,
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Address {
    socket_address: Option<SocketAddress>,
    pipe: Option<Pipe>,
}

#[derive(Debug, Deserialize)]
struct SocketAddress {
    #[serde(default)]
    protocol: Enum<Protocol>,
    address: Located<String>,
    port_value: Option<u16>,
    #[serde(default)]
    ipv4_compat: bool,
}

#[derive(Debug, Deserialize)]
struct Pipe {
    path: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct Protocol;

impl ProtoEnum for Protocol {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("TCP", 0, Ok(Self)),
        ("UDP", 1, Err("only TCP is supported")),
    ];
}

impl Located<Address> {
    /// An address to listen on: an IP address and a port.
    pub(super) fn to_listen(&self) -> Result<SocketAddr, Fault> {
        let Some(socket) = &self.value.socket_address else {
            return Err(Fault::at(
                self.node,
                "only socket_address is supported for a listener",
            ));
        };
        let ip = socket.ip()?;
        Ok(SocketAddr::new(ip, self.port(socket)?))
    }

    /// Returns whether `::` stands for IPv4 as well.
    pub(super) fn ipv4_compat(&self) -> bool {
        let socket = self.value.socket_address.as_ref();
        socket.is_some_and(|socket| socket.ipv4_compat)
    }

    /// An address to connect to; `names` says whether it may be a name to resolve.
    pub(super) fn to_connect(&self, names: bool) -> Result<EndpointAddress, Fault> {
        match (&self.value.socket_address, &self.value.pipe) {
            (Some(socket), None) => {
                let port = self.port(socket)?;
                match (socket.ip(), names) {
                    (Ok(ip), _) => Ok(EndpointAddress::Socket(SocketAddr::new(ip, port))),
                    (Err(_), true) if !socket.address.value.is_empty() => {
                        Ok(EndpointAddress::Name(socket.address.value.clone(), port))
                    }
                    (Err(fault), _) => Err(fault),
                }
            }
            (None, Some(pipe)) => Ok(EndpointAddress::Pipe(PathBuf::from(&pipe.path))),
            _ => Err(Fault::at(
                self.node,
                "one and only one of socket_address and pipe has to be set",
            )),
        }
    }

    fn port(&self, socket: &SocketAddress) -> Result<u16, Fault> {
        socket
            .port_value
            .ok_or_else(|| Fault::at(self.node, "missing field \"port_value\""))
    }
}

impl SocketAddress {
    fn ip(&self) -> Result<IpAddr, Fault> {
        let Enum(Protocol) = self.protocol;
        self.address.value.parse().map_err(|_| {
            Fault::at(
                self.address.node,
                format!(
                    "{:?} is not an IP address (names need a cluster of type STRICT_DNS or LOGICAL_DNS)",
                    self.address.value
                ),
            )
        })
    }
}
