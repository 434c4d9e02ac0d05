//! Streams that are reset right after they were given something.

use std::{sync::mpsc as std_mpsc, thread};

use super::*;

/// Records the messages of each stream of a connection, in order, until all of them are over. Served in a thread of its own.
fn record(far: DuplexStream) -> std_mpsc::Receiver<Vec<Vec<u8>>> {
    let (sender, receiver) = std_mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let bodies = runtime.block_on(async {
            let mut server = h2::server::handshake(far).await.unwrap();
            let mut tasks = Vec::new();
            while let Some(Ok((mut request, mut respond))) = server.accept().await {
                tasks.push(tokio::spawn(async move {
                    let mut send = respond.send_response(grpc_head(), false).unwrap();
                    send.send_data(framed(&[], 0), false).unwrap();
                    let mut body = Vec::new();
                    while let Some(Ok(data)) = request.body_mut().data().await {
                        body.extend(data);
                    }
                    body
                }));
            }
            let mut bodies = Vec::new();
            for task in tasks {
                bodies.push(task.await.unwrap());
            }
            bodies
        });
        sender.send(bodies).unwrap();
    });
    receiver
}

/// The connection's task waits behind another one, which keeps its thread busy: no turn that somebody else waits says
/// that it had its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_leaves_before_the_reset() {
    let (builder, mut far) = pipes();
    let pool = builder.build();
    let (mut first, mut second) = (call(&pool), call(&pool));
    let opening = tokio::spawn(async move {
        recv(&mut first).await.unwrap();
        recv(&mut second).await.unwrap();
        (first, second)
    });
    let bodies = record(far.recv().await.unwrap());
    let (mut first, mut second) = opening.await.unwrap();

    let (woken, is_woken) = std_mpsc::channel();
    let (leave, may_leave) = std_mpsc::channel::<()>();
    let busy = tokio::spawn(async move {
        // Wakes the connection's task, which this thread will run next.
        first.send(message(&[1], b""));
        woken.send(()).unwrap();
        let _ = may_leave.recv_timeout(Duration::from_millis(200));
        first
    });
    is_woken.recv().unwrap();
    second.send(message(&[2], b""));
    second.close_flushed();
    busy.await.unwrap();
    drop(leave);
    while pool.streams() > 0 {
        tokio::task::yield_now().await;
    }
    drop(pool);
    let bodies = bodies.recv().unwrap();
    assert!(bodies[1].ends_with(&framed(&[2], 0)), "{bodies:?}");
}
