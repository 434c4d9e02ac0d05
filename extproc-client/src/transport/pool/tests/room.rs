//! Limits of streams and of calls that wait.

use super::*;

#[tokio::test(start_paused = true)]
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

#[tokio::test(start_paused = true)]
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

#[tokio::test(start_paused = true)]
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

#[tokio::test(start_paused = true)]
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

/// A stream is not polled while its client takes nothing: it must leave the window of the connection to others.
#[tokio::test]
async fn streams_that_nobody_polls_keep_no_window() {
    static LARGE: [u8; 1024 * 1024] = [7; 1024 * 1024];
    /// Bytes after which the processor answers: more than the window of the connection.
    const ENOUGH: usize = 200_000;
    let (builder, mut far) = pipes();
    let pool = builder.build();
    let calls: Vec<_> = (0..8).map(|_| call(&pool)).collect();
    let opening = tokio::spawn(async move {
        let mut opened = Vec::new();
        for mut call in calls {
            recv(&mut call).await.unwrap();
            opened.push(call);
        }
        opened
    });
    let mut server = h2::server::Builder::new();
    let server = server_with(&mut far, server.initial_window_size(2 * 1024 * 1024)).await;
    serve(server, |(mut request, mut respond)| async move {
        let mut send = respond.send_response(grpc_head(), false).unwrap();
        send.send_data(framed(&[], 0), false).unwrap();
        let mut left = ENOUGH;
        while let Some(Ok(data)) = request.body_mut().data().await {
            let flow = request.body_mut().flow_control();
            flow.release_capacity(data.len()).unwrap();
            if left > 0 && left <= data.len() {
                send.send_data(framed(&[], 0), false).unwrap();
            }
            left = left.saturating_sub(data.len());
        }
    });
    let mut opened = opening.await.unwrap();
    let mut last = opened.pop().unwrap();
    for stalled in &mut opened {
        stalled.send(message(&[], &LARGE));
    }
    last.send(message(&[], &LARGE));
    let answered = tokio::time::timeout(Duration::from_secs(20), recv(&mut last)).await;
    answered.expect("the window is gone").unwrap();
    drop(opened);
}

/// The end of a stream has no bytes, and so needs no window: nobody may look again to send it later.
#[tokio::test]
async fn the_end_waits_for_no_window() {
    /// With the five bytes in front of the first message and of this one, as much as goes ahead of the window.
    static FILLS: [u8; 64 * 1024 - 7 - 5] = [7; 64 * 1024 - 7 - 5];
    let (builder, mut far) = pipes();
    let pool = builder.build();
    let mut stream = call(&pool);
    let opening = tokio::spawn(async move {
        recv(&mut stream).await.unwrap();
        stream.send(message(&[], &FILLS));
        stream.finish();
        stream
    });
    let server = server(&mut far).await;
    let (sender, mut ended) = mpsc::unbounded_channel();
    let gate = Arc::new(Notify::new());
    let open = gate.clone();
    serve(server, move |(mut request, mut respond)| {
        let (sender, open) = (sender.clone(), open.clone());
        async move {
            let mut send = respond.send_response(grpc_head(), false).unwrap();
            send.send_data(framed(&[], 0), false).unwrap();
            open.notified().await;
            let mut bytes = 0;
            while let Some(Ok(data)) = request.body_mut().data().await {
                let flow = request.body_mut().flow_control();
                flow.release_capacity(data.len()).unwrap();
                bytes += data.len();
            }
            sender.send(bytes).unwrap();
        }
    });
    let stream = opening.await.unwrap();
    // All is sent that the window lets go.
    gate.notify_one();
    let bytes = tokio::time::timeout(Duration::from_secs(10), ended.recv());
    assert_eq!(bytes.await.expect("the end did not come"), Some(64 * 1024));
    drop(stream);
}
