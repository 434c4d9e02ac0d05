//! Attempts to connect.

use super::*;

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

/// A reason that the host's connector gives is passed on.
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
