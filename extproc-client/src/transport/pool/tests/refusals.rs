//! Calls that a peer refuses.

use super::*;

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

/// A refused call waits for another connection, and holds up nobody who can use the first one; when
/// no other can be had it takes the first again.
#[tokio::test(start_paused = true)]
async fn refused_call_lets_others_pass() {
    struct Once(Pipes);
    impl Connector for Once {
        type Io = DuplexStream;
        async fn connect(&self) -> io::Result<DuplexStream> {
            if self.0.1.load(Ordering::SeqCst) > 0 {
                std::future::pending::<()>().await;
            }
            self.0.connect().await
        }
    }
    let (sender, mut far) = mpsc::unbounded_channel();
    let pool = Pool::builder(Once(Pipes(sender, AtomicUsize::new(0))))
        .connections(1)
        .connect_timeout(Duration::from_secs(2))
        .build();
    let mut refused = call(&pool);
    let refused = tokio::spawn(async move { recv(&mut refused).await });
    let mut server = server(&mut far).await;
    let (_, mut respond) = server.accept().await.unwrap().unwrap();
    respond.send_reset(Reason::REFUSED_STREAM);
    serve(server, answer);
    settle().await;
    assert!(!refused.is_finished(), "it waits for a second connection");
    let start = tokio::time::Instant::now();
    for _ in 0..3 {
        recv(&mut call(&pool)).await.unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(1));
    refused.await.unwrap().unwrap();
    assert_eq!(pool.connections(), 1);
}

#[tokio::test]
async fn a_first_refusal_may_be_the_answer() {
    let (builder, mut far) = pipes();
    let pool = builder.retry_first_refusal(false).build();
    let mut stream = call(&pool);
    let (reply, mut server) = tokio::join!(recv(&mut stream), async {
        let mut server = server(&mut far).await;
        let (_, mut respond) = server.accept().await.unwrap().unwrap();
        respond.send_reset(Reason::REFUSED_STREAM);
        poll_fn(|cx| {
            let _ = server.poll_closed(cx);
            Poll::Ready(())
        })
        .await;
        server
    });
    let close = reply.unwrap_err();
    assert!(
        close.message.ends_with("remote refused stream reset"),
        "{close}"
    );
    // The connection is no longer fresh: the next refusal is repeated.
    let mut stream = call(&pool);
    let (reply, ()) = tokio::join!(recv(&mut stream), async {
        let (_, mut respond) = server.accept().await.unwrap().unwrap();
        respond.send_reset(Reason::REFUSED_STREAM);
        serve(server, answer);
        serve(super::server(&mut far).await, answer);
    });
    reply.unwrap();
}
