//! Connections: made, full, lost, going away, closed.

use super::*;

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

/// An attempt to connect that ends without a result is a failure, not an attempt for ever.
#[tokio::test]
async fn connector_panics() {
    struct Broken;
    impl Connector for Broken {
        type Io = DuplexStream;
        async fn connect(&self) -> io::Result<DuplexStream> {
            panic!("a connector with a bug")
        }
    }
    let pool = Pool::builder(Broken).build();
    for _ in 0..2 {
        let close = recv(&mut call(&pool)).await.unwrap_err();
        assert!(
            close
                .message
                .ends_with("the attempt to connect was given up"),
            "{close}"
        );
    }
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

/// A budget with so many of each share left.
#[derive(Debug)]
struct Left([AtomicUsize; 3]);

impl Left {
    fn of(&self, share: Share) -> &AtomicUsize {
        let [waiting, streams, retries] = &self.0;
        match share {
            Share::Waiting => waiting,
            Share::Stream => streams,
            Share::Retry => retries,
        }
    }

    fn all(&self) -> [usize; 3] {
        [Share::Waiting, Share::Stream, Share::Retry]
            .map(|share| self.of(share).load(Ordering::SeqCst))
    }
}

impl Budget for Left {
    fn take(&self, share: Share) -> bool {
        self.of(share)
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok()
    }

    fn give_back(&self, share: Share) {
        self.of(share).fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_budget_is_shared_and_given_back() {
    let left = Arc::new(Left([1, 1, 0].map(AtomicUsize::new)));
    let (builder, mut far) = pipes();
    let pool = builder.budget(left.clone()).build();
    let (other, _far) = pipes();
    let other = other.budget(left.clone()).build();
    // The first waits for the connection; nobody else may, in another pool neither.
    let mut first = call(&pool);
    assert_eq!(left.all(), [0, 1, 0]);
    let refused = try_open(&other).unwrap_err();
    assert!(refused.message.ends_with("overflow"), "{refused}");
    let first = tokio::spawn(async move { recv(&mut first).await });
    let server = server(&mut far).await;
    let gate = Arc::new(Notify::new());
    serve_until(server, Arc::default(), gate.clone());
    settle().await;
    assert_eq!(left.all(), [1, 0, 0]);
    // There is a connection, but no place for a stream.
    let refused = try_open(&pool).unwrap_err();
    assert!(refused.message.ends_with("overflow"), "{refused}");
    gate.notify_one();
    first.await.unwrap().unwrap();
    assert_eq!(left.all(), [1, 1, 0]);
    // What is given up before it is polled gives back what it has.
    drop(open(&pool));
    assert_eq!(left.all(), [1, 1, 0]);
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

#[tokio::test(start_paused = true)]
async fn idle_and_old_connections_close() {
    for (idle, age) in [(Some(10), None), (None, Some(10))] {
        let (builder, mut far) = pipes();
        let pool = builder
            .idle_timeout(idle.map(Duration::from_secs))
            .max_connection_age(age.map(Duration::from_secs))
            .build();
        let mut stream = call(&pool);
        let (reply, (ended,)) = tokio::join!(recv(&mut stream), async {
            let mut server = server(&mut far).await;
            let accepted = server.accept().await.unwrap().unwrap();
            let ended = tokio::spawn(async move {
                tokio::spawn(answer(accepted));
                server.accept().await.is_none()
            });
            (ended,)
        });
        reply.unwrap();
        tokio::time::sleep(Duration::from_secs(25)).await;
        // A stream is open: it is never idle, and an old one finishes what it has.
        assert_eq!(pool.connections(), usize::from(idle.is_some()));
        assert!(recv(&mut stream).await.unwrap_err().is_ok());
        drop(stream);
        tokio::time::sleep(Duration::from_secs(25)).await;
        assert_eq!(pool.connections(), 0);
        assert!(ended.await.unwrap(), "the connection is closed");
    }
}

#[tokio::test(start_paused = true)]
async fn keep_alive_finds_a_dead_connection() {
    let (builder, mut far) = pipes();
    let pool = builder
        .keepalive(Some(Keepalive {
            timeout: Duration::from_secs(2),
            ..Keepalive::default()
        }))
        .build();
    let mut stream = call(&pool);
    let start = tokio::time::Instant::now();
    let (close, _io) = tokio::join!(recv(&mut stream), async {
        let mut io = far.recv().await.unwrap();
        io.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        io
    });
    assert_eq!(close.unwrap_err().code(), 14);
    // The server's settings came within the first ten seconds.
    assert_eq!(start.elapsed().as_secs(), 22);
}

/// Far more calls than streams, on several threads, some given up while they wait: everyone else
/// gets a turn, and nothing is left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn waiting_in_turn() {
    let (builder, mut far) = pipes();
    let pool = builder
        .connections(2)
        .max_connections(2)
        .max_streams(3)
        .max_pending(usize::MAX)
        .open_timeout(Duration::from_secs(60))
        .build();
    tokio::spawn(async move {
        while let Some(io) = far.recv().await {
            tokio::spawn(async move {
                let mut settings = h2::server::Builder::new();
                settings.max_concurrent_streams(2);
                serve(settings.handshake(io).await.unwrap(), answer);
            });
        }
    });
    let calls: Vec<_> = (0..1000)
        .map(|number| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let mut stream = call(&pool);
                if number % 7 == 0 {
                    let patience = Duration::from_micros(number * 20);
                    let _ = tokio::time::timeout(patience, recv(&mut stream)).await;
                    return;
                }
                recv(&mut stream).await.unwrap();
            })
        })
        .collect();
    for call in calls {
        tokio::time::timeout(Duration::from_secs(30), call)
            .await
            .expect("a call was forgotten")
            .unwrap();
    }
    assert_eq!((pool.streams(), pool.connections()), (0, 2));
}

/// A runtime that ends before it gave the attempt a turn takes nothing with it that the pool needs.
#[test]
fn an_attempt_that_never_had_a_turn() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (builder, mut far) = pipes();
    let pool = builder.build();
    let first = runtime();
    let mut stream = call(&pool);
    let polled = first.block_on(poll_fn(|cx| Poll::Ready(stream.poll_recv(cx))));
    assert!(polled.is_pending());
    drop(stream);
    drop(first);
    runtime().block_on(async {
        let mut stream = call(&pool);
        tokio::select! {
            reply = recv(&mut stream) => panic!("no connection is made: {reply:?}"),
            server = server(&mut far) => serve(server, answer),
        }
        recv(&mut stream).await.unwrap();
    });
}

/// The stream that fills the connection is reset when it is dropped, not with the next call.
#[tokio::test]
async fn the_last_stream_that_the_peer_allows_is_reset_when_it_is_dropped() {
    let (builder, mut far) = pipes();
    let pool = builder.max_connections(1).build();
    let mut settings = h2::server::Builder::new();
    settings.max_concurrent_streams(1);
    let (ended, mut ends) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let server = server_with(&mut far, &settings).await;
        serve(server, move |(mut request, mut respond)| {
            let ended = ended.clone();
            async move {
                let mut send = respond.send_response(grpc_head(), false).unwrap();
                send.send_data(framed(&[], 0), false).unwrap();
                while let Some(Ok(_)) = request.body_mut().data().await {}
                ended.send(()).unwrap();
            }
        });
        std::future::pending::<()>().await;
    });
    // The limit is known from the second call on.
    for _ in 0..2 {
        let mut stream = call(&pool);
        recv(&mut stream).await.unwrap();
        drop(stream);
        tokio::time::timeout(Duration::from_secs(10), ends.recv())
            .await
            .expect("the stream was not reset");
    }
}

/// A reply is overdue: if nothing at all came meanwhile, the connection may lead nowhere.
#[tokio::test(start_paused = true)]
async fn a_silent_connection_gets_no_more_calls() {
    let (builder, mut far) = pipes();
    let pool = builder.build();
    let mut stream = call(&pool);
    let a_second = Duration::from_secs(1);
    let (silence, _server) = tokio::join!(
        tokio::time::timeout(a_second, recv(&mut stream)),
        server(&mut far)
    );
    assert!(silence.is_err());
    stream.timed_out();
    assert_eq!(pool.connections(), 1, "the server's settings came");
    stream.send(message(&[0x12, 0x00], b""));
    assert!(
        tokio::time::timeout(a_second, recv(&mut stream))
            .await
            .is_err()
    );
    stream.timed_out();
    assert_eq!((pool.connections(), pool.streams()), (0, 0));
    let mut other = call(&pool);
    let (reply, ()) = tokio::join!(recv(&mut other), async {
        serve(server(&mut far).await, answer);
    });
    reply.unwrap();
}

/// Servers end connections most of whose streams are reset. Before one does, new calls go elsewhere, and those that there
/// are stay.
#[tokio::test(start_paused = true)]
async fn cancelled_calls_do_not_end_others() {
    let (builder, mut far) = pipes();
    let pool = builder.build();
    let gate = Arc::<Notify>::default();
    // The messages of cancelled calls stay unread in it.
    let mut builder = h2::server::Builder::new();
    builder.data_frame_budget(1 << 24);
    let mut long = call(&pool);
    let moment = Duration::from_millis(1);
    let (_, server) = tokio::join!(
        tokio::time::timeout(moment, recv(&mut long)),
        server_with(&mut far, &builder)
    );
    serve_until(server, Arc::default(), gate.clone());
    let mut cancelled = 0;
    let another = loop {
        let mut stream = call(&pool);
        tokio::select! {
            _ = tokio::time::timeout(moment, recv(&mut stream)) => cancelled += 1,
            io = far.recv() => break io,
        }
    };
    assert!((190..=250).contains(&cancelled), "{cancelled}");
    gate.notify_one();
    recv(&mut long).await.unwrap();
    drop(another);
}
