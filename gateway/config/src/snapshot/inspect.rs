//! The page of exchanges with processors.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU64,
};

/// Settings of the inspector. Limits that are not set are the inspector's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspect {
    /// Address that it listens on. Default 127.0.0.1:15001.
    pub address: SocketAddr,
    /// Bytes recorded of each body, and of each message with one.
    pub body_bytes: Option<usize>,
    /// Most exchanges kept.
    pub exchanges: Option<usize>,
    /// Most bytes kept.
    pub bytes: Option<usize>,
    /// One exchange of so many is recorded. Default 1.
    pub one_in: NonZeroU64,
    /// Text that `METHOD authority/path` of a recorded exchange contains.
    pub only: Option<String>,
    /// More names of headers, parameters and attributes whose values are not recorded.
    pub redact: Vec<String>,
    /// Addresses `HOST:PORT` that recorded requests may be played to, beside the configuration's processors.
    pub replay: Vec<String>,
}

impl Default for Inspect {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 15001)),
            body_bytes: None,
            exchanges: None,
            bytes: None,
            one_in: NonZeroU64::MIN,
            only: None,
            redact: Vec::new(),
            replay: Vec::new(),
        }
    }
}
