//! The pool against scripted HTTP/2 servers.

use std::{
    future::{Future, poll_fn},
    io,
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use h2::{
    Reason, RecvStream, SendStream,
    server::{Connection, SendResponse},
};
use http::{HeaderMap, Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::{Notify, mpsc},
};

use super::*;
use crate::{
    config::{GrpcService, Service},
    transport::{Message, Sidestream},
    wire::Reply,
};

/// Hands the other ends of its connections to the test.
struct Pipes(mpsc::UnboundedSender<DuplexStream>, AtomicUsize);

impl Connector for Pipes {
    type Io = DuplexStream;

    async fn connect(&self) -> io::Result<DuplexStream> {
        let (near, far) = duplex(64 * 1024);
        self.1.fetch_add(1, Ordering::SeqCst);
        match self.0.send(far) {
            Ok(()) => Ok(near),
            Err(_) => Err(io::Error::from_raw_os_error(111)),
        }
    }
}

fn pipes() -> (PoolBuilder, mpsc::UnboundedReceiver<DuplexStream>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let builder = Pool::builder(Pipes(sender, AtomicUsize::new(0))).connections(1);
    (builder, receiver)
}

type Server = Connection<DuplexStream, Bytes>;
type Accepted = (Request<RecvStream>, SendResponse<Bytes>);

async fn server(far: &mut mpsc::UnboundedReceiver<DuplexStream>) -> Server {
    server_with(far, &h2::server::Builder::new()).await
}

async fn server_with(
    far: &mut mpsc::UnboundedReceiver<DuplexStream>,
    builder: &h2::server::Builder,
) -> Server {
    let io = far.recv().await.unwrap();
    builder.handshake(io).await.unwrap()
}

fn open(pool: &Pool) -> PoolStream {
    let service = Service::Grpc(GrpcService::cluster("processor"));
    pool.open(Call {
        service: &service,
        metadata: HeaderMap::new(),
    })
    .unwrap()
}

fn message(head: &[u8], chunk: &'static [u8]) -> Message {
    Message {
        framed_head: framed(head, chunk.len()),
        chunk: Bytes::from_static(chunk),
    }
}

fn framed(head: &[u8], more: usize) -> Bytes {
    let mut out = vec![0];
    out.extend(u32::try_from(head.len() + more).unwrap().to_be_bytes());
    out.extend(head);
    out.into()
}

async fn recv(stream: &mut PoolStream) -> Result<Reply, Close> {
    poll_fn(|cx| stream.poll_recv(cx)).await
}

/// A call with one message sent, not yet on a connection.
fn call(pool: &Pool) -> PoolStream {
    let mut stream = open(pool);
    stream.send(message(&[0x12, 0x00], b""));
    stream
}

/// Serves calls with `answer` until the client goes away.
fn serve<F, O>(mut server: Server, answer: F)
where
    F: Fn(Accepted) -> O + Send + 'static,
    O: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        while let Some(Ok(accepted)) = server.accept().await {
            tokio::spawn(answer(accepted));
        }
    });
}

fn grpc_head() -> Response<()> {
    Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap()
}

fn trailers(status: &'static str) -> HeaderMap {
    [("grpc-status".parse().unwrap(), status.parse().unwrap())]
        .into_iter()
        .collect()
}

/// Reads the first message, answers with an empty reply and ends with OK.
async fn answer((mut request, mut respond): Accepted) {
    let _ = request.body_mut().data().await;
    let mut send = respond.send_response(grpc_head(), false).unwrap();
    send.send_data(framed(&[], 0), false).unwrap();
    send.send_trailers(trailers("0")).unwrap();
}

#[tokio::test]
async fn call_over_tcp() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        let mut server = h2::server::handshake(io).await.unwrap();
        let (mut request, respond) = server.accept().await.unwrap().unwrap();
        tokio::spawn(async move { while server.accept().await.is_some() {} });
        let head = request.headers().clone();
        let uri = request.uri().clone();
        let mut body = Vec::new();
        while body.len() < 7 {
            body.extend(request.body_mut().data().await.unwrap().unwrap());
        }
        let mut respond = respond;
        let mut send = respond.send_response(grpc_head(), false).unwrap();
        send.send_data(framed(&[0x0a, 0x00], 0), false).unwrap();
        assert!(request.body_mut().data().await.unwrap().unwrap().is_empty());
        assert!(request.body().is_end_stream());
        send.send_trailers(trailers("0")).unwrap();
        (head, uri, body)
    });
    let pool = Pool::builder(TcpConnector::new(address.to_string())).build();
    let mut stream = call(&pool);
    let reply = recv(&mut stream).await.unwrap();
    assert!(reply.part.is_some());
    stream.finish();
    assert!(recv(&mut stream).await.unwrap_err().is_ok());
    let (head, uri, body) = server.await.unwrap();
    assert_eq!(uri.authority().unwrap(), "processor");
    assert_eq!(uri.path(), crate::wire::METHOD);
    assert_eq!(head["x-forwarded-for"], "127.0.0.1");
    assert_eq!(body, framed(&[0x12, 0x00], 0));
    drop(stream);
    assert_eq!(pool.streams(), 0);
}

#[tokio::test]
async fn call_over_unix_socket() {
    let path = std::env::temp_dir().join(format!("extproc-pool-{}.sock", std::process::id()));
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        let mut server = h2::server::handshake(io).await.unwrap();
        while let Some(Ok(accepted)) = server.accept().await {
            tokio::spawn(answer(accepted));
        }
    });
    let pool = Pool::builder(UnixConnector::new(&path)).build();
    assert!(recv(&mut call(&pool)).await.is_ok());
    std::fs::remove_file(path).unwrap();
}

/// Each way in which one call can fail: what the server does, before or after its response began,
/// and what the caller is told.
#[tokio::test]
async fn failures_of_a_stream() {
    // A stream that is given back is reset a little later.
    type Do = fn(Accepted) -> Option<SendStream<Bytes>>;
    let rows: &[(&str, Do, i32, &str)] = &[
        (
            "reset before the response",
            |(_, mut respond)| {
                respond.send_reset(Reason::CANCEL);
                None
            },
            14,
            "upstream_reset_before_response_started{remote_reset}",
        ),
        (
            "reset with INTERNAL_ERROR after headers",
            |(_, mut respond)| Some(respond.send_response(grpc_head(), false).unwrap()),
            13,
            "upstream_reset_after_response_started{remote_reset}",
        ),
        (
            "end without trailers",
            |(_, mut respond)| {
                let mut send = respond.send_response(grpc_head(), false).unwrap();
                send.send_data(Bytes::new(), true).unwrap();
                None
            },
            2,
            "via_upstream",
        ),
        (
            "503",
            |(_, mut respond)| {
                let head = Response::builder().status(503).body(()).unwrap();
                Some(respond.send_response(head, false).unwrap())
            },
            14,
            "via_upstream",
        ),
        (
            "only trailers",
            |(_, mut respond)| {
                let mut head = grpc_head();
                *head.headers_mut() = trailers("7");
                respond.send_response(head, true).unwrap();
                None
            },
            7,
            "via_upstream",
        ),
        (
            "200 without a status",
            |(_, mut respond)| {
                respond.send_response(grpc_head(), true).unwrap();
                None
            },
            2,
            "via_upstream",
        ),
        (
            "a message that is none",
            |(_, mut respond)| {
                let mut send = respond.send_response(grpc_head(), false).unwrap();
                send.send_data(framed(&[0xff], 0), false).unwrap();
                Some(send)
            },
            13,
            "via_upstream",
        ),
        (
            "a message over the limit",
            |(_, mut respond)| {
                let mut send = respond.send_response(grpc_head(), false).unwrap();
                send.send_data(framed(&[0; 101], 0), false).unwrap();
                Some(send)
            },
            8,
            "via_upstream",
        ),
        (
            "trailers with an error",
            |(_, mut respond)| {
                let mut send = respond.send_response(grpc_head(), false).unwrap();
                send.send_trailers(trailers("16")).unwrap();
                None
            },
            16,
            "via_upstream",
        ),
    ];
    for (name, act, code, details) in rows {
        let act = *act;
        let (builder, mut far) = pipes();
        let pool = builder.max_message(100).build();
        let mut stream = call(&pool);
        let (close, ()) = tokio::join!(recv(&mut stream), async {
            serve(server(&mut far).await, move |accepted| async move {
                if let Some(mut send) = act(accepted) {
                    settle().await;
                    send.send_reset(Reason::INTERNAL_ERROR);
                }
            });
        });
        let close = close.unwrap_err();
        assert_eq!(
            (close.code(), close.details.as_str()),
            (*code, *details),
            "{name}"
        );
        drop(stream);
        assert_eq!(pool.streams(), 0, "{name}");
    }
}

#[tokio::test]
async fn connection_lost() {
    for started in [false, true] {
        let (builder, mut far) = pipes();
        let pool = builder.build();
        let mut stream = call(&pool);
        let (close, ()) = tokio::join!(recv(&mut stream), async {
            let mut server = server(&mut far).await;
            let (_request, mut respond) = server.accept().await.unwrap().unwrap();
            if started {
                let _send = respond.send_response(grpc_head(), false).unwrap();
                poll_fn(|cx| {
                    let _ = server.poll_closed(cx);
                    Poll::Ready(())
                })
                .await;
            }
        });
        let close = close.unwrap_err();
        match started {
            false => assert_eq!(
                (close.code(), close.details.as_str()),
                (
                    14,
                    "upstream_reset_before_response_started{connection_termination}"
                )
            ),
            true => assert_eq!(close.code(), 13),
        }
    }
}

#[tokio::test]
async fn connection_refused() {
    let (builder, far) = pipes();
    drop(far);
    let pool = builder.build();
    let mut streams = [call(&pool), call(&pool)];
    for stream in &mut streams {
        let close = recv(stream).await.unwrap_err();
        assert_eq!(close.code(), 14);
        assert_eq!(
            close.message,
            "upstream connect error or disconnect/reset before headers. reset reason: remote \
             connection failure"
        );
        assert_eq!(
            close.details,
            "upstream_reset_before_response_started{remote_connection_failure|\
             delayed_connect_error:_Connection_refused}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn connect_timeout() {
    struct Never;
    impl Connector for Never {
        type Io = DuplexStream;
        async fn connect(&self) -> io::Result<DuplexStream> {
            std::future::pending().await
        }
    }
    let pool = Pool::builder(Never)
        .connect_timeout(Duration::from_secs(1))
        .build();
    let close = recv(&mut call(&pool)).await.unwrap_err();
    assert!(close.message.ends_with("connection timeout"), "{close}");
}

/// What a host's connector knows better is passed on.
#[tokio::test]
async fn connector_says_why() {
    struct Empty;
    impl Connector for Empty {
        type Io = DuplexStream;
        async fn connect(&self) -> io::Result<DuplexStream> {
            Err(io::Error::other(Close::unavailable("no healthy upstream")))
        }
    }
    let close = recv(&mut call(&Pool::builder(Empty).build()))
        .await
        .unwrap_err();
    assert_eq!(close, Close::unavailable("no healthy upstream"));
}

/// Serves calls until `shutdown`, then goes away gracefully; each call is answered when `gate`
/// opens.
fn serve_until(mut server: Server, shutdown: Arc<Notify>, gate: Arc<Notify>) {
    tokio::spawn(async move {
        loop {
            tokio::select! {
                accepted = server.accept() => {
                    let Some(Ok(accepted)) = accepted else { return };
                    let gate = gate.clone();
                    tokio::spawn(async move {
                        gate.notified().await;
                        answer(accepted).await;
                    });
                }
                () = shutdown.notified() => server.graceful_shutdown(),
            }
        }
    });
}

/// Lets the tasks of both sides do what they can.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

#[tokio::test]
async fn graceful_goaway_loses_no_call() {
    let (builder, mut far) = pipes();
    let pool = builder.build();
    let (shutdown, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mut old = call(&pool);
    let old = tokio::spawn(async move { recv(&mut old).await });
    serve_until(server(&mut far).await, shutdown.clone(), gate.clone());
    settle().await;
    shutdown.notify_one();
    settle().await;
    let mut new = call(&pool);
    let (reply, ()) = tokio::join!(recv(&mut new), async {
        serve(server(&mut far).await, answer);
    });
    reply.unwrap();
    assert_eq!(pool.connections(), 1);
    gate.notify_one();
    old.await.unwrap().unwrap();
}

/// The server has not seen the call when it goes away (its last stream id is 0): another connection
/// serves it.
#[tokio::test]
async fn goaway_below_the_call() {
    let (builder, mut far) = pipes();
    let pool = builder.build();
    let mut stream = call(&pool);
    let (reply, ()) = tokio::join!(recv(&mut stream), async {
        let mut io = far.recv().await.unwrap();
        io.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        let mut seen = [0; 60];
        io.read_exact(&mut seen).await.unwrap();
        io.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            .await
            .unwrap();
        serve(server(&mut far).await, answer);
        settle().await;
    });
    reply.unwrap();
}

#[tokio::test]
async fn refused_once_is_repeated_elsewhere() {
    let (builder, mut far) = pipes();
    let pool = builder.build();
    let mut stream = call(&pool);
    let refuse = |(_, mut respond): Accepted| async move {
        respond.send_reset(Reason::REFUSED_STREAM);
    };
    let (reply, ()) = tokio::join!(recv(&mut stream), async {
        serve(server(&mut far).await, refuse);
        serve(server(&mut far).await, answer);
    });
    reply.unwrap();
    assert_eq!(pool.connections(), 2);
    // Both refuse: the second refusal is the answer.
    let (builder, mut far) = pipes();
    let pool = builder.build();
    let mut stream = call(&pool);
    let (reply, ()) = tokio::join!(recv(&mut stream), async {
        serve(server(&mut far).await, refuse);
        serve(server(&mut far).await, refuse);
    });
    let close = reply.unwrap_err();
    assert!(
        close.message.ends_with("remote refused stream reset"),
        "{close}"
    );
    // With no other connection allowed the same one is asked again.
    let (builder, mut far) = pipes();
    let pool = builder.max_connections(1).build();
    let mut stream = call(&pool);
    let refused = AtomicUsize::new(0);
    let (reply, ()) = tokio::join!(recv(&mut stream), async {
        let mut server = server(&mut far).await;
        let (_, mut respond) = server.accept().await.unwrap().unwrap();
        respond.send_reset(Reason::REFUSED_STREAM);
        refused.fetch_add(1, Ordering::SeqCst);
        serve(server, answer);
    });
    reply.unwrap();
}

#[tokio::test]
async fn limit_of_the_peer() {
    let (builder, mut far) = pipes();
    let pool = builder.max_connections(1).build();
    let gate = Arc::new(Notify::new());
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let mut stream = call(&pool);
            tokio::spawn(async move { recv(&mut stream).await })
        })
        .collect();
    let mut settings = h2::server::Builder::new();
    settings.max_concurrent_streams(1);
    let server = server_with(&mut far, &settings).await;
    serve_until(server, Arc::new(Notify::new()), gate.clone());
    for _ in 0..3 {
        settle().await;
        gate.notify_one();
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
    // The limit is known now: only one stream is opened at a time, the others wait here.
    let gate_calls: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = call(&pool);
            tokio::spawn(async move { recv(&mut stream).await })
        })
        .collect();
    settle().await;
    assert_eq!(pool.streams(), 1);
    for _ in 0..2 {
        settle().await;
        gate.notify_one();
    }
    for call in gate_calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!((pool.streams(), pool.connections()), (0, 1));
}

#[tokio::test]
async fn limit_of_zero_and_its_end() {
    let (builder, mut far) = pipes();
    let pool = builder
        .max_connections(1)
        .max_pending(1)
        .open_timeout(Duration::from_millis(60))
        .build();
    let mut settings = h2::server::Builder::new();
    settings.max_concurrent_streams(0);
    let (started, server) = tokio::join!(recv_for(&pool, Duration::from_millis(1)), async {
        server_with(&mut far, &settings).await
    });
    assert!(started.is_none());
    let server = tokio::spawn(async move {
        let mut server = server;
        poll_fn(|cx| server.poll_closed(cx)).await
    });
    settle().await;
    let mut waits = call(&pool);
    let mut excess = call(&pool);
    let (waits, excess) = tokio::join!(recv(&mut waits), recv(&mut excess));
    assert!(waits.unwrap_err().message.contains("60ms"));
    assert!(excess.unwrap_err().message.ends_with("overflow"));
    server.abort();
}

/// Calls and gives up after `time`.
async fn recv_for(pool: &Pool, time: Duration) -> Option<Result<Reply, Close>> {
    let mut stream = call(pool);
    tokio::time::timeout(time, recv(&mut stream)).await.ok()
}

#[tokio::test]
async fn grows_before_it_is_full() {
    let (builder, mut far) = pipes();
    let pool = builder.max_streams(5).build();
    let gate = Arc::new(Notify::new());
    tokio::spawn({
        let gate = gate.clone();
        async move {
            loop {
                let server = server(&mut far).await;
                serve_until(server, Arc::new(Notify::new()), gate.clone());
            }
        }
    });
    let mut calls = Vec::new();
    for (count, connections) in [(1, 1), (4, 1), (5, 2), (9, 2), (10, 3)] {
        while calls.len() < count {
            let mut stream = call(&pool);
            calls.push(tokio::spawn(async move { recv(&mut stream).await }));
            settle().await;
        }
        assert_eq!(pool.connections(), connections, "with {count} calls");
    }
    for call in calls {
        gate.notify_one();
        settle().await;
        call.abort();
    }
    settle().await;
    assert_eq!(pool.streams(), 0);
}

/// Ten thousand replies below 20 bytes are sent before one is read.
#[tokio::test]
async fn many_small_replies() {
    const REPLIES: usize = 10_000;
    let (builder, mut far) = pipes();
    let pool = builder.build();
    let mut stream = call(&pool);
    let (first, ()) = tokio::join!(recv(&mut stream), async {
        serve(server(&mut far).await, |(_, mut respond)| async move {
            let mut send = respond.send_response(grpc_head(), false).unwrap();
            for _ in 0..REPLIES {
                send.send_data(framed(&[0x0a, 0x00], 0), false).unwrap();
            }
            send.send_trailers(trailers("0")).unwrap();
        });
    });
    first.unwrap();
    settle().await;
    for _ in 1..REPLIES {
        recv(&mut stream).await.unwrap();
    }
    assert!(recv(&mut stream).await.unwrap_err().is_ok());
}

/// Messages larger than every window, both ways; a server that does not read is back-pressure.
#[tokio::test]
async fn large_messages_and_back_pressure() {
    const SIZE: usize = 3 * 1024 * 1024;
    static CHUNK: [u8; SIZE] = [7; SIZE];
    let (builder, mut far) = pipes();
    let pool = builder.build();
    let mut stream = open(&pool);
    let head = {
        // request_body { body: CHUNK }
        let mut inner = vec![0x0a];
        prost::encoding::encode_varint(SIZE as u64, &mut inner);
        let mut head = vec![0x22];
        prost::encoding::encode_varint((inner.len() + SIZE) as u64, &mut head);
        head.extend(inner);
        head
    };
    let total = 5 + head.len() + SIZE;
    stream.send(message(&head, &CHUNK));
    let gate = Arc::new(Notify::new());
    let ready = poll_fn(|cx| Poll::Ready(stream.poll_ready(cx).is_ready())).await;
    assert!(!ready, "3 MiB wait for a connection");
    let (reply, ()) = tokio::join!(
        async {
            tokio::time::timeout(Duration::from_millis(50), recv(&mut stream))
                .await
                .unwrap_err();
            assert!(poll_fn(|cx| Poll::Ready(stream.poll_ready(cx).is_pending())).await);
            gate.notify_one();
            recv(&mut stream).await
        },
        async {
            let gate = gate.clone();
            serve(server(&mut far).await, move |(mut request, mut respond)| {
                let gate = gate.clone();
                async move {
                    gate.notified().await;
                    let mut size = 0;
                    let mut body = BytesMut::new();
                    while size < total {
                        let data = request.body_mut().data().await.unwrap().unwrap();
                        request
                            .body_mut()
                            .flow_control()
                            .release_capacity(data.len())
                            .unwrap();
                        size += data.len();
                        body.extend_from_slice(&data);
                    }
                    // The same message back, under a field that replies are not read for.
                    let mut send = respond.send_response(grpc_head(), false).unwrap();
                    body[5] = 0x72;
                    send.send_data(body.freeze(), false).unwrap();
                    send.send_trailers(trailers("0")).unwrap();
                }
            });
        }
    );
    reply.unwrap();
    assert!(recv(&mut stream).await.unwrap_err().is_ok());
}

#[tokio::test]
async fn dropping_resets_and_frees() {
    let (builder, mut far) = pipes();
    let pool = builder.build();
    let mut stream = call(&pool);
    let (reply, reset) = tokio::join!(recv(&mut stream), async {
        let (told, told_by) = tokio::sync::oneshot::channel();
        let told = std::sync::Mutex::new(Some(told));
        serve(server(&mut far).await, move |(_request, mut respond)| {
            let told = told.lock().unwrap().take();
            async move {
                let mut send = respond.send_response(grpc_head(), false).unwrap();
                send.send_data(framed(&[], 0), false).unwrap();
                let reason = poll_fn(|cx| send.poll_reset(cx)).await;
                let _ = told.unwrap().send(reason.unwrap());
            }
        });
        told_by
    });
    reply.unwrap();
    drop(stream);
    assert_eq!(pool.streams(), 0);
    assert_eq!(reset.await.unwrap(), Reason::CANCEL);
}

#[tokio::test(start_paused = true)]
async fn idle_and_old_connections_close() {
    for (idle, age) in [(Some(10), None), (None, Some(10))] {
        let (builder, mut far) = pipes();
        let pool = builder
            .idle_timeout(idle.map(Duration::from_secs))
            .max_connection_age(age.map(Duration::from_secs))
            .build();
        let mut stream = call(&pool);
        let (reply, server) = tokio::join!(recv(&mut stream), async {
            let mut server = server(&mut far).await;
            let accepted = server.accept().await.unwrap().unwrap();
            tokio::spawn(async move {
                tokio::spawn(answer(accepted));
                server.accept().await.is_none()
            })
        });
        reply.unwrap();
        tokio::time::sleep(Duration::from_secs(25)).await;
        // A stream is open: it is never idle, and an old one finishes what it has.
        assert_eq!(pool.connections(), usize::from(idle.is_some()));
        assert!(recv(&mut stream).await.unwrap_err().is_ok());
        drop(stream);
        tokio::time::sleep(Duration::from_secs(25)).await;
        assert_eq!(pool.connections(), 0);
        assert!(server.await.unwrap(), "the connection is closed");
    }
}

#[tokio::test(start_paused = true)]
async fn keep_alive_finds_a_dead_connection() {
    let (builder, mut far) = pipes();
    let pool = builder
        .keep_alive(Duration::ZERO, Duration::from_secs(2))
        .build();
    let mut stream = call(&pool);
    let start = tokio::time::Instant::now();
    let (close, _io) = tokio::join!(recv(&mut stream), async {
        let mut io = far.recv().await.unwrap();
        io.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        io
    });
    assert_eq!(close.unwrap_err().code(), 14);
    assert_eq!(start.elapsed().as_secs(), 12);
}

/// A short chunk travels in the frame of its head, a long one in its own.
#[tokio::test]
async fn chunks_and_frames() {
    static LONG: [u8; 1000] = [1; 1000];
    for (chunk, frames) in [(&LONG[..10], vec![17]), (&LONG[..], vec![7, 1000])] {
        let (builder, mut far) = pipes();
        let pool = builder.build();
        let mut stream = open(&pool);
        stream.send(message(&[0x12, 0x00], chunk));
        stream.finish();
        let (reply, seen) = tokio::join!(recv(&mut stream), async {
            let mut server = server(&mut far).await;
            let (mut request, respond) = server.accept().await.unwrap().unwrap();
            tokio::spawn(async move { while server.accept().await.is_some() {} });
            let mut seen = Vec::new();
            while let Some(data) = request.body_mut().data().await {
                seen.push(data.unwrap().len());
            }
            answer((request, respond)).await;
            seen
        });
        reply.unwrap();
        assert_eq!(seen, frames);
    }
}
