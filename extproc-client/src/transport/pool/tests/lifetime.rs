//! Connections that are lost, go away, grow old or silent.

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

#[tokio::test(start_paused = true)]
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
#[tokio::test(start_paused = true)]
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
        // Longer than the limits.
        tokio::time::sleep(Duration::from_secs(25)).await;
        // A stream is open: it is never idle, and an old one finishes what it has.
        assert_eq!(pool.connections(), usize::from(idle.is_some()));
        assert!(recv(&mut stream).await.unwrap_err().is_ok());
        drop(stream);
        // Longer than the limits.
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
