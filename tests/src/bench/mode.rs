//! The modes that are measured, and the bootstrap that goes with each.

/// One row of the table.
#[derive(Debug)]
pub struct Mode {
    /// Its name on the command line.
    pub name: &'static str,
    /// Name in the table.
    pub title: &'static str,
    /// The filter's `processing_mode`; no filter without one.
    pub processing: Option<&'static str>,
    /// Bytes that the client uploads; GET if none.
    pub upload: usize,
    /// Bytes of the response body.
    pub download: usize,
    /// Connections of the client.
    pub connections: usize,
    /// The share of Envoy's CPU time per request that is aimed at.
    pub target: f64,
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

const SMALL: Mode = Mode {
    name: "plain",
    title: "no filter",
    processing: None,
    upload: 0,
    download: 12,
    connections: 16,
    target: 0.45,
};

const HEADERS: Mode = Mode {
    name: "headers",
    title: "headers",
    processing: Some("{}"),
    target: 0.33,
    ..SMALL
};

const BODY: Mode = Mode {
    target: 0.5,
    ..HEADERS
};

/// All modes, in the order of the table.
pub const MODES: &[Mode] = &[
    SMALL,
    Mode {
        name: "plain-256",
        title: "no filter, 256 connections",
        connections: 256,
        ..SMALL
    },
    HEADERS,
    Mode {
        name: "headers-256",
        title: "headers, 256 connections",
        connections: 256,
        ..HEADERS
    },
    Mode {
        name: "upload",
        title: "headers, a 1 MiB upload passes by",
        upload: MIB,
        ..BODY
    },
    Mode {
        name: "buffered",
        title: "BUFFERED, 16 KiB up, 64 KiB down",
        processing: Some("{request_body_mode: BUFFERED, response_body_mode: BUFFERED}"),
        upload: 16 * KIB,
        download: 64 * KIB,
        ..BODY
    },
    Mode {
        name: "streamed",
        title: "STREAMED, 1 MiB both ways",
        processing: Some("{request_body_mode: STREAMED, response_body_mode: STREAMED}"),
        upload: MIB,
        download: MIB,
        ..BODY
    },
    Mode {
        name: "duplex-small",
        title: "FULL_DUPLEX_STREAMED, 16 KiB both ways",
        upload: 16 * KIB,
        download: 16 * KIB,
        ..DUPLEX
    },
    Mode {
        name: "duplex",
        title: "FULL_DUPLEX_STREAMED, 1 MiB both ways",
        upload: MIB,
        download: MIB,
        ..DUPLEX
    },
];

const DUPLEX: Mode = Mode {
    processing: Some(
        "{request_body_mode: FULL_DUPLEX_STREAMED, request_trailer_mode: SEND, \
         response_body_mode: FULL_DUPLEX_STREAMED, response_trailer_mode: SEND}",
    ),
    ..BODY
};

/// The mode in which memory of open exchanges is measured.
pub const OPEN: &Mode = &HEADERS;

/// Ports on which the parts of a run listen.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// The proxy.
    pub listener: u16,
    /// The proxy's admin server.
    pub admin: u16,
    /// The upstream.
    pub upstream: u16,
    /// The processor.
    pub processor: u16,
}

impl Mode {
    /// The bootstrap, the same for both proxies.
    #[must_use]
    pub fn bootstrap(&self, ports: Ports) -> String {
        include_str!("../../bench/bootstrap.yaml")
            .replace("{filter}", &self.filter())
            .replace("{listener}", &ports.listener.to_string())
            .replace("{admin}", &ports.admin.to_string())
            .replace("{upstream}", &ports.upstream.to_string())
            .replace("{processor}", &ports.processor.to_string())
    }

    fn filter(&self) -> String {
        let Some(processing) = self.processing else {
            return String::new();
        };
        format!(
            r#"          - name: envoy.filters.http.ext_proc
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
              grpc_service: {{envoy_grpc: {{cluster_name: processor}}}}
              message_timeout: 30s
              processing_mode: {processing}"#
        )
    }
}
