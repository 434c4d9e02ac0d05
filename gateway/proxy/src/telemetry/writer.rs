//! Logs that nobody waits for.
//!
//! A log may be a pipe whose reader stands still, or a disk that is slow. Its lines are written by a thread of its own; what
//! does not fit into the queue before it is dropped, counted, and told of when lines are taken again.

use std::{
    io::{self, BufWriter, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

/// Lines that may wait.
const LINES: usize = 16 * 1024;

/// Bytes that may wait.
const BYTES: usize = 8 * 1024 * 1024;

/// Bytes that are gathered for one write.
const BUFFER: usize = 64 * 1024;

/// A queue of lines before a log. A handle: clones share the queue.
#[derive(Clone, Debug)]
pub struct Lines {
    sender: SyncSender<Box<[u8]>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Bytes that are not written yet.
    waiting: AtomicUsize,
    dropped: AtomicU64,
    /// Guards nothing but the wait for `written`.
    lock: Mutex<()>,
    written: Condvar,
}

impl Counts {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    /// A queue before `output`, and the thread that writes. The thread ends, everything written, when the last handle is
    /// dropped.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn new(
        name: &'static str,
        output: impl Write + Send + 'static,
    ) -> io::Result<(Self, thread::JoinHandle<()>)> {
        let (sender, lines) = sync_channel(LINES);
        let counts = Arc::<Counts>::default();
        let writer = thread::Builder::new().name(name.into()).spawn({
            let counts = counts.clone();
            move || write(name, output, &lines, &counts)
        })?;
        Ok((Self { sender, counts }, writer))
    }

    /// Hands a line over, with its line feed, without waiting; `false` if it was dropped.
    pub fn send(&self, line: impl Into<Box<[u8]>>) -> bool {
        let line = line.into();
        let length = line.len();
        let waiting = self.counts.waiting.fetch_add(length, Ordering::Relaxed);
        let sent = waiting <= BYTES && self.sender.try_send(line).is_ok();
        if !sent {
            self.counts.waiting.fetch_sub(length, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    /// Waits until everything was written, but not longer than `limit`. For the end of a program.
    pub fn flush(&self, limit: Duration) {
        let counts = &self.counts;
        drop(
            counts
                .written
                .wait_timeout_while(counts.lock(), limit, |_| {
                    counts.waiting.load(Ordering::Acquire) > 0
                }),
        );
    }
}

fn write(name: &'static str, output: impl Write, lines: &Receiver<Box<[u8]>>, counts: &Counts) {
    let mut output = BufWriter::with_capacity(BUFFER, output);
    while let Ok(first) = lines.recv() {
        let mut written = 0;
        let mut failed = false;
        // A failed write (a full disk) loses lines; the program goes on.
        for line in std::iter::once(first).chain(lines.try_iter()) {
            failed |= output.write_all(&line).is_err();
            written += line.len();
            if written >= BYTES / 8 {
                break;
            }
        }
        failed |= output.flush().is_err();
        counts.waiting.fetch_sub(written, Ordering::Release);
        drop(counts.lock());
        counts.written.notify_all();
        if failed {
            continue;
        }
        let dropped = counts.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(log = name, dropped, "lines were dropped: nobody took them");
        }
    }
}

/// Each write is a line, as of `tracing`, which formats an event as a whole before it writes it.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.send(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    type Taken = Arc<Mutex<Vec<u8>>>;

    /// Takes nothing before it is told to.
    struct Gate {
        open: Receiver<()>,
        taken: Taken,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // An error says that it stays open.
            let _ = self.open.recv();
            self.taken.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gate() -> (Lines, thread::JoinHandle<()>, mpsc::Sender<()>, Taken) {
        let (opener, open) = mpsc::channel();
        let taken = Taken::default();
        let gate = Gate {
            open,
            taken: taken.clone(),
        };
        let (lines, writer) = Lines::new("test", gate).unwrap();
        (lines, writer, opener, taken)
    }

    #[test]
    fn nobody_waits_for_a_log_that_stands_still() {
        for (line, most) in [(b"x\n".to_vec(), LINES), (vec![b'x'; 1 << 20], BYTES >> 20)] {
            let (lines, writer, opener, taken) = gate();
            // What the thread has taken makes room.
            let taken_at_most = BUFFER / line.len() + 1;
            let tries = 2 * (most + taken_at_most);
            let sent = (0..tries).filter(|_| lines.send(line.clone())).count();
            assert!(
                (most..=most + taken_at_most + 1).contains(&sent),
                "{sent} of {most}"
            );
            let dropped = lines.counts.dropped.load(Ordering::Relaxed);
            assert_eq!(dropped, (tries - sent) as u64);
            lines.flush(Duration::from_millis(20));
            assert!(taken.lock().unwrap().is_empty());
            drop(opener);
            lines.flush(Duration::from_secs(60));
            assert_eq!(taken.lock().unwrap().len(), sent * line.len());
            drop(lines);
            writer.join().unwrap();
        }
    }
}
