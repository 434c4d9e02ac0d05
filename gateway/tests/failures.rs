//! Failures as people meet them, with a gateway and a processor over sockets: `gateway trace` says the cause in words.

#[allow(dead_code, reason = "shared by several tests")]
#[path = "../proxy/tests/common/mod.rs"]
mod common;
mod program;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    pin::Pin,
};

use envoy_types::pb::envoy::{
    config::core::v3::{HeaderValue, HeaderValueOption},
    extensions::filters::http::ext_proc::v3::ProcessingMode,
    service::ext_proc::v3::{
        CommonResponse, HeaderMutation, HeadersResponse, ProcessingRequest, ProcessingResponse,
        external_processor_server::{ExternalProcessor, ExternalProcessorServer},
        processing_response::Response as Answer,
    },
};
use extproc_sdk::{Processor, Server, TlsConfig};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_stream::{Stream, StreamExt as _, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use self::{
    common::{Bootstrap, cluster, protocol},
    program::{followed, gateway, logged},
};

/// Answer of a processor to the headers of a request; nothing where it is `None`.
type Answers = fn() -> Option<ProcessingResponse>;

/// A processor by hand, which may do what an SDK would not let it.
struct ByHand(Answers);

#[tonic::async_trait]
impl ExternalProcessor for ByHand {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let answers = self.0;
        let replies = request.into_inner().filter_map(move |_| answers().map(Ok));
        Ok(Response::new(Box::pin(replies)))
    }
}

/// Serves a processor without TLS.
fn by_hand(runtime: &Runtime, answers: Answers) -> SocketAddr {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(ExternalProcessorServer::new(ByHand(answers)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    runtime.spawn(server);
    address
}

struct Idle;

impl Processor for Idle {
    type State = ();
}

fn tls_file(name: &str) -> String {
    format!("{}/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Serves a processor with TLS, under a certificate for `a.example` of the tests' authority.
fn with_tls(runtime: &Runtime) -> SocketAddr {
    let read = |name: &str| std::fs::read(tls_file(name)).unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::new(Idle).tls(TlsConfig::new(read("a.pem"), read("a.key")));
    runtime.spawn(server.serve(listener, std::future::pending()));
    address
}

/// A cluster's TLS with this authority and name.
fn tls(authority: &str, name: &str) -> String {
    format!(
        "transport_socket: {{name: tls, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, \
         sni: {name}, common_tls_context: {{validation_context: {{trusted_ca: {{filename: {}}}, \
         match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: {name}}}}}]}}}}}}}}",
        tls_file(authority)
    )
}

/// Transcript by `gateway trace` of one request through a gateway whose processor is there, with these settings of filter and
/// cluster.
fn transcript(case: &str, processor: SocketAddr, filter: &str, tls: &str) -> String {
    let filter = format!(
        "{{name: authz, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor, \
         grpc_service: {{envoy_grpc: {{cluster_name: processor}}}}, processing_mode: {{response_header_mode: SKIP}}, {filter}}}}}"
    );
    let http2 = protocol("explicit_http_config: {http2_protocol_options: {}}");
    let config = Bootstrap {
        routes: &["{match: {prefix: /}, direct_response: {status: 200}}"],
        filters: &[&filter],
        clusters: &[cluster("processor", processor, &[&http2, tls])],
        ..Bootstrap::default()
    };
    let file = std::env::temp_dir().join(format!("failures-{}-{case}.yaml", std::process::id()));
    std::fs::write(&file, config.text()).unwrap();
    let mut serving = gateway(&[
        "--config",
        file.to_str().unwrap(),
        "--inspect=127.0.0.1:0",
        "--concurrency=1",
    ]);
    let mut log = BufReader::new(serving.0.stderr.take().unwrap());
    let page = logged(&mut log, "url=http://");
    let inspector = page.trim_end_matches('/');
    let address = logged(&mut log, "address=");
    std::fs::remove_file(&file).unwrap();
    let mut trace = gateway(&["trace", "--inspector", inspector]);
    followed(inspector);
    let mut client = TcpStream::connect(address).unwrap();
    write!(
        client,
        "GET /{case} HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    let mut told = BufReader::new(trace.0.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("over for this filter") {
        assert!(told.read_line(&mut text).unwrap() > 0, "{text}");
    }
    drop(serving);
    // The rest of what was told, such as the verdict.
    told.read_to_string(&mut text).unwrap();
    text
}

fn says(text: &str, words: &[&str]) {
    for words in words {
        assert!(text.contains(words), "{words}\n{text}");
    }
}

fn headers(fields: &[(&str, &str)]) -> HeadersResponse {
    let set_headers = fields.iter().map(|(name, value)| HeaderValueOption {
        header: Some(HeaderValue {
            key: (*name).to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        }),
        ..HeaderValueOption::default()
    });
    HeadersResponse {
        response: Some(CommonResponse {
            header_mutation: Some(HeaderMutation {
                set_headers: set_headers.collect(),
                ..HeaderMutation::default()
            }),
            ..CommonResponse::default()
        }),
    }
}

#[test]
fn wrong_phase_answered() {
    let runtime = Runtime::new().unwrap();
    let processor = by_hand(&runtime, || {
        Some(ProcessingResponse {
            response: Some(Answer::ResponseHeaders(HeadersResponse::default())),
            ..ProcessingResponse::default()
        })
    });
    let text = transcript("phase", processor, "message_timeout: 10s", "");
    says(
        &text,
        &[
            "verdict: the reply fits no message that waits for one: the processor answered response_headers, which was not sent to it, as \
             response_header_mode is SKIP; request_headers waits for an answer; failure_mode_allow is not set, so the client gets 500",
        ],
    );
}

#[test]
fn mutation_refused() {
    let runtime = Runtime::new().unwrap();
    let processor = by_hand(&runtime, || {
        Some(ProcessingResponse {
            response: Some(Answer::RequestHeaders(headers(&[
                ("x-envoy-retry-on", "5xx"),
                ("x-good", "1"),
            ]))),
            ..ProcessingResponse::default()
        })
    });
    let text = transcript("mutation", processor, "message_timeout: 10s", "");
    says(
        &text,
        &[
            "!!            set x-envoy-retry-on: 5xx: refused, x-envoy headers need mutation_rules.allow_envoy",
            "set x-good: 1\n",
        ],
    );
}

#[test]
fn timeout() {
    let runtime = Runtime::new().unwrap();
    let processor = by_hand(&runtime, || None);
    let text = transcript("timeout", processor, "message_timeout: 0.3s", "");
    says(
        &text,
        &[
            "verdict: no reply came within message_timeout: no reply to request_headers in time (message_timeout is 300ms); \
             failure_mode_allow is not set, so the client gets 504",
        ],
    );
}

#[test]
fn wrong_mode() {
    let runtime = Runtime::new().unwrap();
    let processor = by_hand(&runtime, || {
        Some(ProcessingResponse {
            response: Some(Answer::RequestHeaders(HeadersResponse::default())),
            mode_override: Some(ProcessingMode {
                response_header_mode: 1,
                ..ProcessingMode::default()
            }),
            ..ProcessingResponse::default()
        })
    });
    let text = transcript("mode", processor, "message_timeout: 10s", "");
    says(
        &text,
        &["!!            mode_override ignored: allow_mode_override is not set"],
    );
}

#[test]
fn a_processor_without_tls_behind_a_cluster_with_it() {
    let runtime = Runtime::new().unwrap();
    let processor = by_hand(&runtime, || None);
    let text = transcript(
        "plain",
        processor,
        "message_timeout: 10s",
        &tls("ca.pem", "a.example"),
    );
    says(
        &text,
        &[
            "verdict: the side stream could not be opened",
            "does not speak TLS",
        ],
    );
}

#[test]
fn a_processor_with_tls_behind_a_cluster_without_it() {
    let runtime = Runtime::new().unwrap();
    let text = transcript("cleartext", with_tls(&runtime), "message_timeout: 10s", "");
    says(
        &text,
        &["the server speaks TLS, and this connection does not"],
    );
}

#[test]
fn a_processor_whose_certificate_is_of_another_authority() {
    let runtime = Runtime::new().unwrap();
    let text = transcript(
        "authority",
        with_tls(&runtime),
        "message_timeout: 10s",
        &tls("client.pem", "a.example"),
    );
    says(
        &text,
        &["the server's certificate is not signed by trusted_ca"],
    );
}

#[test]
fn a_processor_whose_certificate_is_for_another_name() {
    let runtime = Runtime::new().unwrap();
    let text = transcript(
        "name",
        with_tls(&runtime),
        "message_timeout: 10s",
        &tls("ca.pem", "b.example"),
    );
    says(&text, &["the server's certificate is for another name"]);
}
