use super::*;

/// Its pools in turn.
#[derive(Debug)]
struct InTurn(Vec<Pool>, AtomicUsize);

impl Balance for InTurn {
    fn choose(&self, _metadata: &HeaderMap) -> Pool {
        let turn = self.1.fetch_add(1, Ordering::SeqCst);
        self.0[turn % self.0.len()].clone()
    }
}

#[tokio::test]
async fn each_call_and_each_repetition_is_balanced() {
    let ((one, mut far_one), (two, mut far_two)) = (pipes(), pipes());
    let pools = [one.build(), two.build()];
    let balanced = Balanced::new(InTurn(pools.to_vec(), AtomicUsize::new(0)));
    let mut stream = call(&balanced);
    let (reply, ()) = tokio::join!(recv(&mut stream), async {
        // What the first endpoint refuses goes on with the second one.
        serve(server(&mut far_one).await, |(_, mut respond)| async move {
            respond.send_reset(Reason::REFUSED_STREAM);
        });
        serve(server(&mut far_two).await, answer);
    });
    reply.unwrap();
    assert_eq!(pools.each_ref().map(Pool::streams), [0, 1]);
    // The next one begins with the first again, and is repeated with the second.
    let mut stream = call(&balanced);
    recv(&mut stream).await.unwrap();
    assert_eq!(pools.each_ref().map(Pool::connections), [1, 1]);
}
