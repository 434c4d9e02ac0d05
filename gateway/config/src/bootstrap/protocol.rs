//! `Http1ProtocolOptions`, `Http2ProtocolOptions`, `HttpProtocolOptions`.

use std::time::Duration;

use http::{HeaderValue, uri::Authority};
use serde::Deserialize;

use super::value::{Enum, ProtoEnum, Time};
use crate::{
    document::{Fault, Located, Reader},
    snapshot::{Floods, Http1Options, Http2Options, Interval, Keepalive, Underscores},
};

/// `envoy.config.core.v3.HttpProtocolOptions`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct HttpProtocolOptions {
    pub(super) idle_timeout: Option<Time>,
    pub(super) max_connection_duration: Option<Time>,
    pub(super) max_headers_count: Option<Located<u32>>,
    pub(super) max_response_headers_kb: Option<Located<u32>>,
    pub(super) max_stream_duration: Option<Time>,
    pub(super) max_requests_per_connection: Option<u32>,
    pub(super) headers_with_underscores_action: Enum<Underscores>,
}

/// `envoy.config.core.v3.Http1ProtocolOptions`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Http1ProtocolOptions {
    allow_absolute_url: Option<Located<bool>>,
    accept_http_10: bool,
    default_host_for_http_10: Option<Located<String>>,
    enable_trailers: bool,
}

/// `envoy.config.core.v3.Http2ProtocolOptions`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Http2ProtocolOptions {
    max_concurrent_streams: Option<Located<u32>>,
    initial_stream_window_size: Option<Located<u32>>,
    initial_connection_window_size: Option<Located<u32>>,
    allow_connect: bool,
    connection_keepalive: Option<Located<KeepaliveSettings>>,
    max_inbound_priority_frames_per_stream: Option<u32>,
    max_inbound_window_update_frames_per_data_frame_sent: Option<Located<u32>>,
}

/// `envoy.config.core.v3.KeepaliveSettings`.
#[derive(Debug, Deserialize)]
struct KeepaliveSettings {
    interval: Option<Located<Time>>,
    timeout: Located<Time>,
    interval_jitter: Option<Located<Percent>>,
    connection_idle_interval: Option<Located<Time>>,
}

/// `envoy.type.v3.Percent`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Percent {
    value: f64,
}

impl KeepaliveSettings {
    fn build(&self) -> Result<Keepalive, Fault> {
        let time = |time: &Located<Time>| match time.value.0 {
            time if time >= Duration::from_millis(1) => Ok(time),
            _ => Err(Fault::at(time.node, "has to be 1 ms or longer")),
        };
        let jitter = match &self.interval_jitter {
            None => 15.0,
            Some(jitter) if (0.0..=100.0).contains(&jitter.value.value) => jitter.value.value,
            Some(jitter) => return Err(Fault::at(jitter.node, "has to be from 0 to 100")),
        };
        let interval = match &self.interval {
            None => None,
            Some(interval) => {
                let period = time(interval)?;
                Some(Interval {
                    period,
                    jitter: period.mul_f64(jitter / 100.0),
                })
            }
        };
        Ok(Keepalive {
            interval,
            silence: self
                .connection_idle_interval
                .as_ref()
                .map(time)
                .transpose()?,
            timeout: time(&self.timeout)?,
        })
    }
}

impl ProtoEnum for Underscores {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("ALLOW", 0, Ok(Self::Allow)),
        ("REJECT_REQUEST", 1, Ok(Self::Reject)),
        ("DROP_HEADER", 2, Ok(Self::Drop)),
    ];
}

impl HttpProtocolOptions {
    /// Most headers of a message. Default 100.
    pub(super) fn header_count(&self, reader: &Reader<'_>) -> Result<usize, Fault> {
        match &self.max_headers_count {
            None => Ok(100),
            Some(Located { node, value: 0 }) => Err(Fault::at(*node, "has to be 1 or more")),
            Some(Located { node, value }) if *value > MOST_HEADERS => {
                reader.note(
                    *node,
                    format!("no more than {MOST_HEADERS} headers of a message are taken here"),
                );
                Ok(MOST_HEADERS as usize)
            }
            Some(count) => Ok(count.value as usize),
        }
    }

    /// Most bytes of response headers. Default 80 KiB for HTTP/1, 60 KiB for HTTP/2.
    pub(super) fn response_header_bytes(&self, http2: bool) -> Result<usize, Fault> {
        match &self.max_response_headers_kb {
            None if http2 => Ok(60 * 1024),
            None => Ok(80 * 1024),
            Some(size) => header_bytes(size),
        }
    }
}

/// A header map holds 24,576 names, and others are to be added to those that came.
const MOST_HEADERS: u32 = 16_384;

/// A limit of header bytes given in KiB, up to 8192.
pub(super) fn header_bytes(kib: &Located<u32>) -> Result<usize, Fault> {
    match kib.value {
        1..=8192 => Ok(kib.value as usize * 1024),
        _ => Err(Fault::at(kib.node, "has to be from 1 to 8192")),
    }
}

impl Http1ProtocolOptions {
    pub(super) fn build(&self) -> Result<Http1Options, Fault> {
        if let Some(Located { node, value: false }) = self.allow_absolute_url {
            return Err(Fault::at(
                node,
                "absolute URLs are always allowed (RFC 9112 §3.2.2)",
            ));
        }
        Ok(Http1Options {
            enable_trailers: self.enable_trailers,
            accept_http_10: self.accept_http_10,
        })
    }
}

impl Http1ProtocolOptions {
    /// The host of HTTP/1.0 requests without one.
    pub(super) fn default_host(&self) -> Result<Option<HeaderValue>, Fault> {
        let Some(host) = &self.default_host_for_http_10 else {
            return Ok(None);
        };
        let is_authority = host.value.parse::<Authority>().is_ok();
        match HeaderValue::from_str(&host.value) {
            Ok(value) if is_authority => Ok(Some(value)),
            _ if host.value.is_empty() => Ok(None),
            _ => Err(Fault::at(host.node, "is not a host")),
        }
    }
}

impl Http2ProtocolOptions {
    /// Limits as in the file, otherwise ours: 1024 streams, windows of 1 MiB a stream. As much is buffered as Envoy's
    /// window is large, whatever the listener says.
    fn build(&self) -> Result<Http2Options, Fault> {
        // Values that Envoy takes: RFC 9113 §6.9.2 allows smaller windows, too.
        let window = |given: &Option<Located<u32>>, default: u32| match given {
            None => Ok(default),
            Some(size) if (65_535..=0x7fff_ffff).contains(&size.value) => Ok(size.value),
            Some(size) => Err(Fault::at(size.node, "has to be from 65535 to 2147483647")),
        };
        const ENVOY_WINDOW: u32 = 16 * 1024 * 1024;
        let buffer = window(&self.initial_stream_window_size, ENVOY_WINDOW)?;
        let max_concurrent_streams = match &self.max_concurrent_streams {
            None => 1024,
            Some(count) if (1..=0x7fff_ffff).contains(&count.value) => count.value,
            Some(count) => return Err(Fault::at(count.node, "has to be from 1 to 2147483647")),
        };
        let window_updates = match &self.max_inbound_window_update_frames_per_data_frame_sent {
            None => Floods::ENVOY.window_updates,
            Some(count) if count.value > 0 => count.value,
            Some(count) => return Err(Fault::at(count.node, "has to be 1 or more")),
        };
        Ok(Http2Options {
            max_concurrent_streams,
            initial_stream_window_size: window(&self.initial_stream_window_size, 1024 * 1024)?,
            initial_connection_window_size: window(
                &self.initial_connection_window_size,
                5 * 1024 * 1024,
            )?,
            stream_buffer: usize::try_from(buffer).ok(),
            allow_connect: self.allow_connect,
            keepalive: match &self.connection_keepalive {
                None => None,
                Some(settings) => Some(settings.value.build()?),
            },
            floods: Floods {
                priority: self
                    .max_inbound_priority_frames_per_stream
                    .unwrap_or(Floods::ENVOY.priority),
                window_updates,
            },
        })
    }

    /// The same for a connection manager.
    pub(super) fn build_downstream(&self) -> Result<Http2Options, Fault> {
        let given = self.build()?;
        Ok(match &self.initial_connection_window_size {
            Some(_) => given,
            None => given.towards_clients(),
        })
    }

    /// The same for a cluster, with defaults of its own.
    pub(super) fn build_upstream(&self) -> Result<Http2Options, Fault> {
        let given = self.build()?;
        let mut options = given.towards_endpoints();
        if self.initial_connection_window_size.is_some() {
            options.initial_connection_window_size = given.initial_connection_window_size;
            options.max_concurrent_streams = given.max_concurrent_streams;
        }
        options.keepalive = given.keepalive.or(options.keepalive);
        Ok(options)
    }
}
