//! Cost of an exchange on this SDK, beside the same processor written by hand on tonic.
//!
//! `cargo bench -p extproc-sdk --bench cost -- [--exchanges N] [--rounds N] [--only sdk|tonic]`
//!
//! Two servers with the same settings, each on a thread of its own; a client on a third thread gives both the same work in
//! turn. What is compared is the CPU time of the servers' threads (`/proc`, so Linux only): medians over the rounds, and
//! their ratio. `--only` runs one of them, for an instruction count under `valgrind --tool=callgrind`.

use std::{fs, net::SocketAddr, pin::Pin, sync::mpsc, thread, time::Instant};

use envoy_types::pb::envoy::{
    config::core::v3::{
        HeaderMap, HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction,
    },
    extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode,
    service::ext_proc::v3::{
        BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, HttpBody, HttpHeaders,
        ProcessingRequest, ProcessingResponse, ProtocolConfiguration, TrailersResponse,
        external_processor_client::ExternalProcessorClient,
        external_processor_server::{ExternalProcessor, ExternalProcessorServer},
        processing_request::Request,
        processing_response::Response,
    },
};
use extproc_sdk::{BoxError, Call, Headers, HeadersReply, Processor, RECEIVE_LIMIT, Server};
use futures_core::Stream;
use futures_util::{StreamExt as _, stream};
use tokio::{net::TcpListener, runtime};
use tonic::{
    Status,
    transport::{Channel, server::TcpIncoming},
};

/// Exchanges under way at the same time.
const CONCURRENCY: usize = 64;
/// Headers of each message.
const HEADERS: usize = 12;
/// The pieces of a body, where there is one.
const PIECES: usize = 16;
const PIECE: usize = 16 * 1024;

/// Sets a header on requests and on responses.
struct Stamp;

impl Processor for Stamp {
    type State = ();

    async fn request_headers(
        &self,
        _: &mut Call<()>,
        _: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        Ok(HeadersReply::new().set("x-stamp", "request"))
    }

    async fn response_headers(
        &self,
        _: &mut Call<()>,
        _: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        Ok(HeadersReply::new().set("x-stamp", "response"))
    }
}

/// The same by hand, as examples on the web do it: no check, no deadline, no counter, one mode.
struct ByHand;

#[tonic::async_trait]
impl ExternalProcessor for ByHand {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: tonic::Request<tonic::Streaming<ProcessingRequest>>,
    ) -> Result<tonic::Response<Self::ProcessStream>, Status> {
        let mut inbound = request.into_inner();
        let replies = async_stream::stream! {
            while let Some(Ok(message)) = inbound.next().await {
                let Some(request) = message.request else { break };
                let response = match request {
                    Request::RequestHeaders(_) => Response::RequestHeaders(stamp("request")),
                    Request::ResponseHeaders(_) => Response::ResponseHeaders(stamp("response")),
                    Request::RequestBody(_) => Response::RequestBody(BodyResponse::default()),
                    Request::ResponseBody(_) => Response::ResponseBody(BodyResponse::default()),
                    Request::RequestTrailers(_) => Response::RequestTrailers(TrailersResponse::default()),
                    Request::ResponseTrailers(_) => Response::ResponseTrailers(TrailersResponse::default()),
                };
                yield Ok(ProcessingResponse {
                    response: Some(response),
                    ..ProcessingResponse::default()
                });
            }
        };
        Ok(tonic::Response::new(Box::pin(replies)))
    }
}

fn stamp(value: &str) -> HeadersResponse {
    let header = HeaderValue {
        key: "x-stamp".to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    HeadersResponse {
        response: Some(CommonResponse {
            header_mutation: Some(HeaderMutation {
                set_headers: vec![HeaderValueOption {
                    header: Some(header),
                    append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
                    ..HeaderValueOption::default()
                }],
                ..HeaderMutation::default()
            }),
            ..CommonResponse::default()
        }),
    }
}

/// A server on a thread of its own.
struct Measured {
    name: &'static str,
    address: SocketAddr,
    /// File in which the system counts the CPU time of the thread.
    counter: String,
}

impl Measured {
    fn start(name: &'static str, by_hand: bool) -> Self {
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                let thread = fs::read_link("/proc/thread-self").expect("/proc");
                tell.send((listener.local_addr().expect("an address"), thread))
                    .expect("a listener");
                if !by_hand {
                    return Server::new(Stamp)
                        .serve(listener, std::future::pending())
                        .await
                        .expect("a server");
                }
                let service =
                    ExternalProcessorServer::new(ByHand).max_decoding_message_size(RECEIVE_LIMIT);
                tonic::transport::Server::builder()
                    .initial_stream_window_size(1024 * 1024)
                    .initial_connection_window_size(5 * 1024 * 1024)
                    .add_service(service)
                    .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
                    .await
                    .expect("a server");
            });
        });
        let (address, thread) = told.recv().expect("a server");
        Self {
            name,
            address,
            counter: format!("/proc/{}/schedstat", thread.display()),
        }
    }

    /// CPU time of the thread so far, in microseconds.
    fn cpu(&self) -> f64 {
        let text = fs::read_to_string(&self.counter).expect("the thread's counter");
        let nanoseconds = text
            .split(' ')
            .next()
            .and_then(|number| number.parse::<f64>().ok());
        nanoseconds.expect("a number") / 1000.0
    }
}

/// Messages that a client sends in an exchange.
#[derive(Clone, Copy)]
enum Work {
    Headers,
    Bodies,
}

impl Work {
    fn label(self) -> &'static str {
        match self {
            Self::Headers => "headers of request and response",
            Self::Bodies => "and a request body, 16 pieces of 16 KiB",
        }
    }

    fn messages(self) -> Vec<ProcessingRequest> {
        let headers = || HttpHeaders {
            headers: Some(HeaderMap {
                headers: (0..HEADERS)
                    .map(|number| HeaderValue {
                        key: format!("x-header-{number}"),
                        raw_value: b"a value of the usual length".to_vec(),
                        ..HeaderValue::default()
                    })
                    .collect(),
            }),
            ..HttpHeaders::default()
        };
        let pieces = match self {
            Self::Headers => 0,
            Self::Bodies => PIECES,
        };
        let piece = |number| HttpBody {
            body: vec![b'x'; PIECE],
            end_of_stream: number + 1 == pieces,
            ..HttpBody::default()
        };
        let mut requests = vec![Request::RequestHeaders(headers())];
        requests.extend((0..pieces).map(|number| Request::RequestBody(piece(number))));
        requests.push(Request::ResponseHeaders(headers()));
        let mut messages: Vec<_> = requests
            .into_iter()
            .map(|request| ProcessingRequest {
                request: Some(request),
                ..ProcessingRequest::default()
            })
            .collect();
        messages[0].protocol_config = Some(ProtocolConfiguration {
            request_body_mode: BodySendMode::Streamed.into(),
            ..ProtocolConfiguration::default()
        });
        messages
    }
}

/// Runs exchanges, and waits for every reply.
async fn drive(client: &ExternalProcessorClient<Channel>, work: Work, exchanges: usize) {
    let messages = work.messages();
    let expected = messages.len();
    stream::iter(0..exchanges)
        .for_each_concurrent(CONCURRENCY, |_| {
            let (mut client, messages) = (client.clone(), messages.clone());
            async move {
                let replies = client
                    .process(stream::iter(messages))
                    .await
                    .expect("replies");
                let count = replies
                    .into_inner()
                    .map(|reply| reply.expect("a reply"))
                    .count()
                    .await;
                assert_eq!(count, expected);
            }
        })
        .await;
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn argument(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1)
}

fn main() {
    let number =
        |name, otherwise| argument(name).map_or(otherwise, |text| text.parse().expect("a number"));
    let (exchanges, rounds) = (number("--exchanges", 4000), number("--rounds", 9));
    let only = argument("--only");
    let servers: Vec<_> = [("sdk", false), ("tonic", true)]
        .into_iter()
        .filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name))
        .map(|(name, by_hand)| Measured::start(name, by_hand))
        .collect();
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut clients = Vec::new();
        for server in &servers {
            let channel =
                Channel::from_shared(format!("http://{}", server.address)).expect("a URL");
            let channel = channel
                .initial_stream_window_size(1024 * 1024)
                .initial_connection_window_size(5 * 1024 * 1024)
                .connect()
                .await
                .expect("a connection");
            clients.push(ExternalProcessorClient::new(channel));
        }
        for work in [Work::Headers, Work::Bodies] {
            let exchanges = match work {
                Work::Headers => exchanges,
                Work::Bodies => exchanges / 8,
            };
            for client in &clients {
                drive(client, work, exchanges / 4).await;
            }
            let mut spent = vec![Vec::new(); servers.len()];
            let begun = Instant::now();
            for round in 0..rounds {
                for turn in 0..servers.len() {
                    // Neither is always first.
                    let turn = (turn + round) % servers.len();
                    let before = servers[turn].cpu();
                    drive(&clients[turn], work, exchanges).await;
                    let each = (servers[turn].cpu() - before) / exchanges as f64;
                    spent[turn].push(each);
                }
            }
            println!(
                "{}: {rounds} rounds of {exchanges} exchanges, {:.1} s",
                work.label(),
                begun.elapsed().as_secs_f64()
            );
            for (server, spent) in servers.iter().zip(&spent) {
                println!(
                    "  {:6} {:7.2} us of CPU per exchange",
                    server.name,
                    median(spent.clone())
                );
            }
            if let [sdk, by_hand] = spent.as_slice() {
                let ratios = sdk.iter().zip(by_hand).map(|(sdk, by_hand)| sdk / by_hand);
                println!(
                    "  ratio  {:7.3} (median of the rounds)",
                    median(ratios.collect())
                );
            }
        }
    });
}
