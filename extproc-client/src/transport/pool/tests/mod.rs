//! The pool against scripted HTTP/2 servers.

mod balance;
mod calls;
mod connecting;
mod flush;
mod lifetime;
mod refusals;
mod room;

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
    config::{GrpcService, RetryPolicy, Service},
    text::retry_on::RetryOn,
    transport::Sidestream,
    wire::{Reply, message::Message},
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

fn open(pool: &impl Transport<Sidestream = PoolStream>) -> PoolStream {
    try_open(pool).unwrap()
}

fn try_open(pool: &impl Transport<Sidestream = PoolStream>) -> Result<PoolStream, Close> {
    let service = Service::Grpc(GrpcService::cluster("processor"));
    pool.open(Call {
        service: &service,
        metadata: HeaderMap::new(),
        buffers: None,
    })
}

fn message(head: &[u8], chunk: &'static [u8]) -> Message {
    Message {
        framed_head: framed(head, chunk.len()),
        body: Bytes::from_static(chunk).into(),
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
fn call(pool: &impl Transport<Sidestream = PoolStream>) -> PoolStream {
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

/// Lets the tasks of both sides do what they can. In a test whose time is paused: it moves on once every task waits.
async fn settle() {
    // Of paused time.
    tokio::time::sleep(Duration::from_millis(20)).await;
}
