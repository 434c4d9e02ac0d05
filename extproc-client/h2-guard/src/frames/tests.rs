use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    kind::WINDOW_UPDATE,
    refunds::{REFUNDS, UPDATE},
    *,
};
use crate::request_size;

/// Gives so many bytes at a time.
struct Slow<'a>(&'a [u8], usize);

impl AsyncRead for Slow<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n = self.1.min(self.0.len()).min(buf.remaining());
        let (now, later) = self.0.split_at(n);
        buf.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    out.extend(&length[1..]);
    out.extend([kind, flags, 0, 0, 0, stream]);
    out.extend(payload);
}

/// Empty DATA and what looks like it, and how it is to arrive.
fn frames() -> (Vec<u8>, Vec<u8>) {
    let (mut sent, mut seen) = (Vec::new(), Vec::new());
    for (kind, flags, stream, payload, seen_as) in [
        (HEADERS, 4, 1, &b"head"[..], HEADERS),
        (DATA, 0, 1, b"", IGNORED),
        (DATA, 0, 1, b"x", DATA),
        (DATA, PADDED, 1, b"\x03\0\0\0", IGNORED),
        (DATA, PADDED, 1, b"\x00", IGNORED),
        (DATA, PADDED, 1, b"\x02x\0\0", DATA),
        (DATA, PADDED, 1, b"\x04\0\0\0", DATA),
        (DATA, PADDED, 1, b"", DATA),
        (DATA, PADDED, 1, &[9; 300], DATA),
        (DATA, 0, 0, b"", DATA),
        (6, 0, 0, b"12345678", 6),
        (DATA, END_STREAM, 1, b"", DATA),
    ] {
        frame(&mut sent, kind, flags, stream, payload);
        frame(&mut seen, seen_as, flags, stream, payload);
    }
    (sent, seen)
}

#[tokio::test]
async fn empty_data_is_hidden_however_it_arrives() {
    let (sent, seen) = frames();
    for chunk in 1..60 {
        for cut in [0, 1, 5] {
            let sent = &sent[..sent.len() - cut];
            let traffic = Arc::<Traffic>::default();
            let mut frames = Frames::of_server(Slow(sent, chunk), traffic.clone());
            let mut got = Vec::new();
            frames.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, seen[..sent.len()], "{chunk} bytes at a time");
        }
    }
}

/// Padding takes window; what `h2` does not see is given back from here, between the frames that it writes.
#[tokio::test]
async fn the_window_of_hidden_padding_comes_back() {
    let mut sent = vec![b'p'; PREFACE];
    for (stream, length) in [(1, 1), (1, 256), (3, 256), (3, 0), (1, 9)] {
        let mut payload = vec![0; length];
        if let Some(padding) = payload.first_mut() {
            *padding = u8::try_from(length - 1).unwrap();
        }
        let flags = if length > 0 { PADDED } else { 0 };
        frame(&mut sent, DATA, flags, stream, &payload);
    }
    let (near, mut far) = tokio::io::duplex(7);
    let io = tokio::io::join(Slow(&sent, 1000), near);
    let mut frames = Frames::unturned(io);
    let got = tokio::spawn(async move {
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        got
    });
    let read = frames.read_to_end(&mut Vec::new()).await;
    assert_eq!(read.unwrap(), sent.len());
    frames.write_all(b"whole frames").await.unwrap();
    frames.flush().await.unwrap();
    frames.write_all(b"others").await.unwrap();
    frames.flush().await.unwrap();
    drop(frames);
    let mut expected = b"whole frames".to_vec();
    for (stream, bytes) in [(0, 522_u32), (1, 257), (3, 256), (1, 9)] {
        frame(
            &mut expected,
            WINDOW_UPDATE,
            0,
            stream,
            &bytes.to_be_bytes(),
        );
    }
    expected.extend(b"others");
    assert_eq!(got.await.unwrap(), expected);
}

/// Takes one byte of what is written now and then.
struct Slack<'a>(&'a [u8], u8);

impl AsyncRead for Slack<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (now, later) = self.0.split_at(self.0.len().min(buf.remaining()));
        buf.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Slack<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.1 = (self.1 + 1) % 8;
        match self.1 {
            0 => Poll::Ready(Ok(1)),
            _ => Poll::Pending,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_peer_that_takes_little_gets_no_queue_of_windows() {
    let mut sent = vec![b'p'; PREFACE];
    for n in 0..40_000 {
        let stream = if n % 2 == 0 { 1 } else { 3 };
        frame(&mut sent, DATA, PADDED, stream, b"\0");
        if n % 100 == 0 {
            frame(&mut sent, DATA, 0, stream, b"x");
        }
    }
    let mut seen = Vec::new();
    let mut guarded = Frames::of_server(Slack(&sent, 0), Arc::default());
    guarded.left = PREFACE;
    guarded.turns = false;
    let mut buf = [0; 4096];
    loop {
        let read = guarded.read(&mut buf).await.unwrap();
        if read == 0 {
            break;
        }
        seen.extend_from_slice(&buf[..read]);
        let flushed = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut guarded).poll_flush(cx)));
        let _ = flushed.await;
        let kept = guarded.refunds.streams.len() * UPDATE + guarded.refunds.out.len();
        assert!(kept <= REFUNDS + 2 * UPDATE, "{kept} bytes are kept");
    }
    // What has no room any more is left to `h2`.
    assert_eq!(seen.len(), sent.len());
    assert!(seen != sent);
    assert_eq!(seen[seen.len() - 10..], sent[sent.len() - 10..]);
}

#[tokio::test]
async fn a_header_block_is_open_until_its_last_byte() {
    let mut sent = vec![b'p'; PREFACE];
    frame(&mut sent, 4, 0, 0, b"settings");
    let begin = sent.len() + HEAD;
    frame(&mut sent, HEADERS, END_STREAM, 1, b"half a block");
    frame(&mut sent, CONTINUATION, 0, 1, b"");
    frame(&mut sent, CONTINUATION, END_HEADERS, 1, b"rest");
    let end = sent.len();
    frame(&mut sent, DATA, END_HEADERS, 1, b"data");
    frame(&mut sent, HEADERS, END_HEADERS, 3, b"");
    for chunk in 1..sent.len() {
        let traffic = Arc::<Traffic>::default();
        let mut frames = Frames::of_client(Slow(&sent, chunk), traffic);
        let mut some = vec![0; chunk];
        loop {
            let cx = &mut Context::from_waker(std::task::Waker::noop());
            let mut buf = ReadBuf::new(&mut some);
            assert!(Pin::new(&mut frames).poll_read(cx, &mut buf).is_ready());
            if buf.filled().is_empty() {
                break;
            }
            // A block is looked at with the next read. Of the next frame's head, some may be kept back.
            let at = sent.len() - frames.get_ref().0.len();
            if frames.held.is_within_frame() {
                assert_eq!(frames.open_block(), Some(1), "{at} in {chunk}");
            } else if !(begin - HEAD..=end).contains(&at) {
                assert_eq!(frames.open_block(), None, "{at} in {chunk}");
            }
        }
        assert_eq!(frames.block.number, 2);
    }
}

#[tokio::test]
async fn what_the_peer_takes_is_read_from_its_settings() {
    let traffic = Arc::<Traffic>::default();
    // 203 bytes, and the path.
    let size = |path: &str| {
        let request = Request::get(format!("http://a{path}")).header("x-a", "123");
        request_size(&request.body(()).unwrap())
    };
    let takes = |traffic: &Traffic, path: &str| traffic.takes(|| size(path));
    assert_eq!(takes(&traffic, "/"), Some(true));
    assert_eq!(takes(&traffic, &"/".repeat(60_000)), None);
    let mut sent = Vec::new();
    frame(
        &mut sent,
        SETTINGS,
        0,
        0,
        &[0, 6, 0, 0, 0, 200, 0, 4, 0, 0, 0, 1],
    );
    frame(&mut sent, SETTINGS, ACK, 0, b"");
    frame(&mut sent, DATA, 0, 1, &[0, 6, 0, 0, 0, 9]);
    frame(
        &mut sent,
        SETTINGS,
        0,
        0,
        &[0, 3, 0, 0, 0, 7, 0, 6, 0, 0, 0, 207],
    );
    for chunk in 1..sent.len() {
        let traffic = Arc::<Traffic>::default();
        let mut frames = Frames::of_server(Slow(&sent, chunk), traffic.clone());
        frames.read_to_end(&mut Vec::new()).await.unwrap();
        assert_eq!(takes(&traffic, "/123"), Some(true), "{chunk}");
        assert_eq!(takes(&traffic, "/1234"), Some(false), "{chunk}");
    }
}

/// One that says nothing of header lists takes any; so does one that is gone, for what finds that out.
#[tokio::test]
async fn large_heads_wait_for_the_first_settings_or_the_end() {
    let mut sent = Vec::new();
    frame(&mut sent, SETTINGS, 0, 0, b"");
    for (sent, gone) in [(sent.as_slice(), false), (&[], true)] {
        let traffic = Arc::<Traffic>::default();
        let mut frames = Frames::of_server(Slow(sent, 1), traffic.clone());
        let waits = {
            let traffic = traffic.clone();
            tokio::spawn(async move { traffic.will_take(|| 60_000).await })
        };
        tokio::task::yield_now().await;
        frames.read_to_end(&mut Vec::new()).await.unwrap();
        if gone {
            assert_eq!(traffic.takes(|| u64::MAX), None);
            tokio::task::yield_now().await;
            assert!(!waits.is_finished());
            drop(frames);
        }
        assert!(waits.await.unwrap());
        let unasked = || unreachable!("there is no limit");
        assert_eq!(traffic.takes(unasked), Some(true));
    }
}

/// A peer that never says anything may be waited for by any number of tasks that give up.
#[tokio::test]
async fn heads_that_no_longer_wait_leave_nothing_behind() {
    struct Task;
    impl std::task::Wake for Task {
        fn wake(self: Arc<Self>) {}
    }
    let traffic = Arc::<Traffic>::default();
    let task = Arc::new(Task);
    let waker = std::task::Waker::from(task.clone());
    let cx = &mut Context::from_waker(&waker);
    for _ in 0..3 {
        let waits = std::pin::pin!(traffic.will_take(|| 60_000));
        assert!(waits.poll(cx).is_pending());
    }
    drop(waker);
    assert_eq!(Arc::strong_count(&task), 1);
}

#[tokio::test]
async fn a_client_may_not_send_empty_data_without_end() {
    let mut sent = vec![b'p'; PREFACE];
    for _ in 0..EMPTY_IN_A_ROW + 5 {
        frame(&mut sent, DATA, 0, 1, b"");
    }
    let traffic = Arc::<Traffic>::default();
    let mut frames = Frames::of_client(Slow(&sent, 1000), traffic.clone());
    let mut got: Vec<u8> = Vec::new();
    let mut some = vec![0; 1000];
    while let Ok(n @ 1..) = frames.read(&mut some).await {
        got.extend(&some[..n]);
        traffic.turn();
    }
    let kinds = got[PREFACE..].chunks(HEAD).map(|frame| frame[TYPE]);
    assert_eq!(kinds.filter(|kind| *kind == DATA).count(), 5);
}

/// A peer that takes no answers is not read for ever.
#[tokio::test]
async fn frames_that_cannot_be_answered() {
    let mut sent = Vec::new();
    for _ in 0..UNANSWERED + 5000 {
        frame(&mut sent, DATA, 0, 1, b"x");
    }
    let (near, far) = tokio::io::duplex(10);
    let traffic = Arc::<Traffic>::default();
    let io = tokio::io::join(Slow(&sent, 8000), near);
    let mut frames = Frames::of_server(io, traffic.clone());
    let cx = &mut Context::from_waker(std::task::Waker::noop());
    let _ = Pin::new(&mut frames).poll_write(cx, &[0; 10]);
    assert!(Pin::new(&mut frames).poll_write(cx, &[0; 10]).is_pending());
    let mut some = vec![0; 8000];
    let end = loop {
        match frames.read(&mut some).await {
            Ok(1..) => traffic.turn(),
            end => break end,
        }
    };
    assert!(end.is_err());
    drop(far);
}

#[tokio::test]
async fn an_alert_of_tls_is_told_as_such() {
    let alert = [0x15, 3, 1, 0, 2, 2, 40];
    let mut of_server = Frames::of_server(Slow(&alert, 7), Arc::default());
    let error = of_server.read(&mut [0; 64]).await.unwrap_err();
    assert_eq!(error.to_string(), SPEAKS_TLS);
    // The server has closed before it was read.
    let (near, far) = tokio::io::duplex(10);
    drop(far);
    let io = tokio::io::join(Slow(&alert, 7), near);
    let mut of_server = Frames::of_server(io, Arc::default());
    let error = of_server.write(b"request").await.unwrap_err();
    assert_eq!(error.to_string(), SPEAKS_TLS);
    // Later on, these bytes are a payload.
    let mut sent = Vec::new();
    frame(&mut sent, SETTINGS, 0, 0, &[]);
    frame(&mut sent, DATA, 0, 1, &alert);
    let mut seen = Vec::new();
    let mut of_server = Frames::of_server(Slow(&sent, 18), Arc::default());
    of_server.read_to_end(&mut seen).await.unwrap();
    assert_eq!(seen, sent);
}

/// As many frames as Envoy's defaults allow, and one more.
#[tokio::test]
async fn a_client_is_limited_in_priority_and_window_updates() {
    let updates = |count: usize, streams: u8| {
        let mut sent = vec![b'p'; PREFACE];
        for stream in 0..streams {
            frame(&mut sent, HEADERS, 5, 2 * stream + 1, b"\x88");
        }
        for _ in 0..count {
            frame(&mut sent, WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
        }
        sent
    };
    let priorities = |count: usize, streams: u8| {
        let mut sent = updates(0, streams);
        for _ in 0..count {
            frame(&mut sent, kind::PRIORITY_FRAME, 0, 1, &[0, 0, 0, 0, 1]);
        }
        sent
    };
    let mut data = Vec::new();
    frame(&mut data, HEADERS, 4, 1, b"\x88");
    frame(&mut data, DATA, 0, 1, &[9; 1000]);
    frame(&mut data, DATA, 1, 1, &[]);
    for (sent, written, fails) in [
        (updates(5, 0), &[][..], false),
        (updates(6, 0), &[], true),
        (updates(11, 3), &[], false),
        (updates(12, 3), &[], true),
        (updates(47, 1), &data, false),
        (updates(48, 1), &data, true),
        (priorities(100, 0), &[], false),
        (priorities(101, 0), &[], true),
        (priorities(400, 3), &[], false),
        (priorities(401, 3), &[], true),
    ] {
        for chunk in [1, 7, 5000] {
            let (near, mut far) = tokio::io::duplex(10_000);
            let mut frames =
                Frames::of_client(tokio::io::join(Slow(&sent, chunk), near), Arc::default());
            for some in written.chunks(chunk) {
                frames.write_all(some).await.unwrap();
            }
            let read = async {
                let mut room = [0; 4096];
                while frames.read(&mut room).await? > 0 {
                    frames.traffic.turn();
                }
                io::Result::Ok(())
            };
            assert_eq!(read.await.is_err(), fails, "{chunk} bytes at a time");
            drop(frames);
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, written);
        }
    }
}
