//! Single calls: what is sent, what is received, how they end.

use super::*;

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
async fn messages_that_leave_together_share_a_frame() {
    let (builder, mut far) = pipes();
    let pool = builder.build();
    let mut stream = open(&pool);
    let (reply, (mut request, mut send)) = tokio::join!(recv(&mut stream), async {
        let mut server = server(&mut far).await;
        let (request, mut respond) = server.accept().await.unwrap().unwrap();
        tokio::spawn(async move { while server.accept().await.is_some() {} });
        let mut send = respond.send_response(grpc_head(), false).unwrap();
        send.send_data(framed(&[], 0), false).unwrap();
        (request, send)
    });
    reply.unwrap();
    // The stream is open, so that what is sent leaves at once.
    stream.send_with_next(message(&[1], b""));
    stream.send_with_next(message(&[2], b""));
    stream.send(message(&[3], b""));
    let received = tokio::spawn(async move { recv(&mut stream).await });
    let data = request.body_mut().data().await.unwrap().unwrap();
    assert_eq!(data, [1, 2, 3].map(|byte| framed(&[byte], 0)).concat());
    send.send_trailers(trailers("0")).unwrap();
    assert!(received.await.unwrap().unwrap_err().is_ok());
}

/// A peer may end the connection for a head larger than it takes: such a call waits until that is known, and no longer than
/// for a stream.
#[tokio::test(start_paused = true)]
async fn a_large_head_waits_for_the_settings() {
    const LIMIT: Duration = Duration::from_secs(2);
    let large = |pool: &Pool| {
        let service = Service::Grpc(GrpcService::cluster("processor"));
        let value = HeaderValue::try_from("v".repeat(20_000)).unwrap();
        let metadata = HeaderMap::from_iter([(http::HeaderName::from_static("x-large"), value)]);
        let call = Call {
            service: &service,
            metadata,
            buffers: None,
        };
        let mut stream = pool.open(call).unwrap();
        stream.send(message(&[0x12, 0x00], b""));
        stream
    };
    for (takes, says) in [
        (Some(16_384), Some("initial metadata too large")),
        (None, Some("within 2s")),
        (Some(65_536), None),
    ] {
        let (builder, mut far) = pipes();
        let pool = builder.max_connections(1).open_timeout(LIMIT).build();
        let mut stream = large(&pool);
        let received = tokio::spawn(async move { recv(&mut stream).await });
        let io = far.recv().await.unwrap();
        settle().await;
        assert_eq!((pool.connections(), pool.streams()), (1, 0), "{takes:?}");
        // Others pass.
        let mut small = call(&pool);
        let small = tokio::spawn(async move { recv(&mut small).await });
        settle().await;
        assert_eq!(pool.streams(), 1, "{takes:?}");
        let Some(takes) = takes else {
            let close = received.await.unwrap().unwrap_err();
            assert!(close.message.ends_with(says.unwrap()), "{close}");
            continue;
        };
        let mut settings = h2::server::Builder::new();
        settings.max_header_list_size(takes);
        serve(settings.handshake(io).await.unwrap(), answer);
        match (received.await.unwrap(), says) {
            (Err(close), Some(says)) => assert!(close.message.ends_with(says), "{close}"),
            (received, _) => assert!(received.is_ok(), "{received:?}"),
        }
        small.await.unwrap().unwrap();
        recv(&mut call(&pool)).await.unwrap();
        assert_eq!(pool.connections(), 1);
    }
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

#[tokio::test(start_paused = true)]
async fn headers_have_to_come_in_time() {
    const LIMIT: Duration = Duration::from_secs(2);
    let (builder, mut far) = pipes();
    let pool = builder.head_timeout(Some(LIMIT)).build();
    let mut late = call(&pool);
    let received = tokio::spawn(async move {
        let begun = tokio::time::Instant::now();
        (recv(&mut late).await.unwrap_err(), begun.elapsed())
    });
    let mut server = server(&mut far).await;
    let silent = server.accept().await.unwrap().unwrap();
    serve(server, |(request, mut respond)| async move {
        let mut send = respond.send_response(grpc_head(), false).unwrap();
        // Longer than the head had.
        tokio::time::sleep(3 * LIMIT).await;
        send.send_data(framed(&[], 0), false).unwrap();
        // What is dropped is reset.
        std::future::pending::<()>().await;
        drop(request);
    });
    let (close, waited) = received.await.unwrap();
    assert_eq!(close.code, 4, "{close:?}");
    assert_eq!(waited, LIMIT);
    drop(silent);
    // Once they are there a reply may take as long as it likes.
    recv(&mut call(&pool)).await.unwrap();
}

/// Each way in which one call can fail: what the server does, before or after its response began,
/// and what the caller is told.
#[tokio::test(start_paused = true)]
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

/// Ten thousand replies below 20 bytes are sent before one is read.
#[tokio::test(start_paused = true)]
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
#[tokio::test(start_paused = true)]
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
    let (reply, (reset,)) = tokio::join!(recv(&mut stream), async {
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
        (told_by,)
    });
    reply.unwrap();
    drop(stream);
    assert_eq!(pool.streams(), 0);
    assert_eq!(reset.await.unwrap(), Reason::CANCEL);
}

/// Short pieces travel in the frame of what goes before them, long ones in their own.
#[tokio::test]
async fn chunks_and_frames() {
    static LONG: [u8; 4096] = [1; 4096];
    let (long, short) = (&LONG[..], &LONG[..10]);
    for (pieces, frames) in [
        (vec![short, short], vec![27]),
        (vec![long], vec![7, 4096]),
        (vec![short, long, short, short], vec![17, 4096, 20]),
    ] {
        let (builder, mut far) = pipes();
        let pool = builder.build();
        let mut stream = open(&pool);
        let mut sent = message(&[0x12, 0x00], b"");
        for piece in pieces {
            sent.body.push(Bytes::from_static(piece));
        }
        stream.send(sent);
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

/// A call that ends before it began is made again, with all that was sent, as its policy says.
#[tokio::test(start_paused = true)]
async fn a_policy_repeats_a_call() {
    for (retries, expected) in [(2, 0), (1, 14)] {
        let (builder, mut far) = pipes();
        let pool = builder.build();
        let mut service = GrpcService::cluster("processor");
        service.retry = Some(RetryPolicy {
            on: RetryOn::UNAVAILABLE,
            retries,
            ..RetryPolicy::default()
        });
        let mut stream = pool
            .open(Call {
                service: &Service::Grpc(service),
                metadata: HeaderMap::new(),
                buffers: None,
            })
            .unwrap();
        stream.send(message(&[0x12, 0x00], b""));
        let begun = tokio::time::Instant::now();
        let (result, ()) = tokio::join!(recv(&mut stream), async {
            let server = server(&mut far).await;
            let calls = AtomicUsize::new(0);
            let calls = Arc::new(calls);
            serve(server, move |accepted| {
                let refuse = calls.fetch_add(1, Ordering::SeqCst) < 2;
                async move {
                    let (mut request, mut respond) = accepted;
                    if !refuse {
                        return answer((request, respond)).await;
                    }
                    let sent = request.body_mut().data().await.unwrap().unwrap();
                    assert_eq!(sent, framed(&[0x12, 0x00], 0));
                    let mut head = grpc_head();
                    head.headers_mut().extend(trailers("14"));
                    respond.send_response(head, true).unwrap();
                }
            });
        });
        assert_eq!(result.err().map_or(0, |close| close.code()), expected);
        // At most 1 s and 2 s of pause.
        assert!(begun.elapsed() < Duration::from_millis(3100));
    }
}

/// A processor may end the connection of a call whose metadata is larger than it says it takes.
#[tokio::test]
async fn metadata_that_the_processor_does_not_take() {
    let (builder, mut far) = pipes();
    let pool = builder.build();
    let mut settings = h2::server::Builder::new();
    settings.max_header_list_size(16 * 1024);
    tokio::spawn(async move {
        let mut server = server_with(&mut far, &settings).await;
        while let Some(Ok(accepted)) = server.accept().await {
            tokio::spawn(answer(accepted));
        }
    });
    assert!(recv(&mut call(&pool)).await.is_ok());
    let service = Service::Grpc(GrpcService::cluster("processor"));
    for (bytes, taken) in [(10_000, true), (20_000, false), (200_000, false)] {
        let mut metadata = HeaderMap::new();
        metadata.insert("x-a", "x".repeat(bytes).parse().unwrap());
        let mut stream = pool
            .open(Call {
                service: &service,
                metadata,
                buffers: None,
            })
            .unwrap();
        stream.send(message(&[0x12, 0x00], b""));
        assert_eq!(recv(&mut stream).await.is_ok(), taken, "{bytes}");
    }
    assert!(recv(&mut call(&pool)).await.is_ok());
}

/// Text of a status that no header field can have ends its call. Others on the connection go on.
#[tokio::test]
async fn a_status_with_a_line_feed_ends_one_call() {
    const HEADERS: u8 = 1;
    let (builder, mut far) = pipes();
    let pool = builder.build();
    let mut calls = [call(&pool), call(&pool), call(&pool)];
    let server = tokio::spawn(async move {
        let mut io = far.recv().await.unwrap();
        io.read_exact(&mut [0; 24]).await.unwrap();
        io.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        let mut heads = 0;
        while heads < 3 {
            let mut head = [0; 9];
            io.read_exact(&mut head).await.unwrap();
            let [_, a, b, kind, ..] = head;
            let mut payload = vec![0; usize::from(u16::from_be_bytes([a, b]))];
            io.read_exact(&mut payload).await.unwrap();
            heads += usize::from(kind == HEADERS);
        }
        // `:status: 200`, `content-type`, `grpc-status`; the message is added to the dynamic table and taken from there.
        let head = b"\x88\x5f\x10application/grpc\0\x0bgrpc-status";
        let blocks = [
            [&head[..], b"\x017", b"\x40\x0cgrpc-message\x03a\nb"].concat(),
            [&head[..], b"\x017", &[0x80 | 62]].concat(),
            [&head[..], b"\x010"].concat(),
        ];
        for (stream, block) in [1, 3, 5].into_iter().zip(blocks) {
            let length = u8::try_from(block.len()).unwrap();
            let frame = [0, 0, length, HEADERS, 5, 0, 0, 0, stream];
            io.write_all(&[&frame[..], &block].concat()).await.unwrap();
        }
        while io.read(&mut [0; 1024]).await.unwrap() > 0 {}
    });
    // A call is opened as it is polled, in whatever order, and the server waits for all of them.
    let [first, second, third] = &mut calls;
    let (first, second, third) = tokio::join!(recv(first), recv(second), recv(third));
    let closes = [first, second, third].map(Result::unwrap_err);
    let ok = closes.iter().filter(|close| close.is_ok()).count();
    assert_eq!(ok, 1, "{closes:?}");
    assert_eq!(pool.connections(), 1);
    drop((calls, pool));
    server.await.unwrap();
}
