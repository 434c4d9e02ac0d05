//! Clients of the benchmark: `wrk` for full load, threads of our own at a fixed rate.
//!
//! At a fixed rate each request has a time at which it is due. Latency counts from then, also if an
//! earlier response on the same connection was late, so that a stall shows in every request it delayed.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;

use super::mode::Mode;

/// The result of full load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) requests: u64,
    pub(super) per_second: f64,
}

/// Runs `wrk` for some seconds.
pub(super) fn wrk(
    program: &Path,
    address: SocketAddr,
    mode: &Mode,
    seconds: u64,
    script: &Path,
) -> anyhow::Result<Load> {
    let mut command = Command::new(program);
    command
        .args(["-t1", "--timeout", "30"])
        .arg(format!("-c{}", mode.connections))
        .arg(format!("-d{seconds}"));
    if mode.upload > 0 {
        let lua = format!(
            "wrk.method = 'POST'\nwrk.body = string.rep('x', {})\n",
            mode.upload
        );
        std::fs::write(script, lua)?;
        command.arg("-s").arg(script);
    }
    command.arg(format!("http://{address}/bytes/{}", mode.download));
    let output = command.output().context("wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(
        output.status.success() && !text.contains("Non-2xx") && !text.contains("Socket errors"),
        "wrk: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let before = |mark: &str| {
        let (before, _) = text.split_once(mark)?;
        before.rsplit_once('\n').map(|(_, line)| line.trim())
    };
    let requests = before(" requests in").and_then(|count| count.parse().ok());
    let per_second = text
        .split_once("Requests/sec:")
        .and_then(|(_, rest)| rest.lines().next()?.trim().parse().ok());
    match (requests, per_second) {
        (Some(requests), Some(per_second)) => Ok(Load {
            requests,
            per_second,
        }),
        _ => anyhow::bail!("wrk printed something unexpected: {text}"),
    }
}

/// One connection with one request at a time.
pub(super) struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) fn open(address: SocketAddr, mode: &Mode) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let path = format!("/bytes/{}", mode.download);
        let request = match mode.upload {
            0 => format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").into_bytes(),
            length => {
                let mut request = format!(
                    "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n\r\n"
                )
                .into_bytes();
                request.resize(request.len() + length, b'x');
                request
            }
        };
        Ok(Self {
            stream,
            request,
            buffer: vec![0; 64 * 1024],
        })
    }

    pub(super) fn exchange(&mut self) -> anyhow::Result<()> {
        self.send()?;
        self.receive()
    }

    pub(super) fn send(&mut self) -> anyhow::Result<()> {
        Ok(self.stream.write_all(&self.request)?)
    }

    /// Reads a response to its end.
    pub(super) fn receive(&mut self) -> anyhow::Result<()> {
        let mut held = Vec::new();
        let head = loop {
            if let Some(at) = held.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            let more = self.read()?;
            held.extend_from_slice(more);
        };
        let mut body = held.split_off(head);
        let text = String::from_utf8_lossy(&held).to_ascii_lowercase();
        anyhow::ensure!(text.starts_with("http/1.1 200"), "{text}");
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .and_then(|value| value.trim().parse::<usize>().ok());
        if let Some(length) = length {
            let mut left = length.saturating_sub(body.len());
            while left > 0 {
                left = left.saturating_sub(self.read()?.len());
            }
            return Ok(());
        }
        anyhow::ensure!(text.contains("transfer-encoding: chunked"), "{text}");
        while !body.ends_with(b"0\r\n\r\n") {
            let keep = body.len().saturating_sub(5);
            body.drain(..keep);
            let more = self.read()?;
            body.extend_from_slice(more);
        }
        Ok(())
    }

    fn read(&mut self) -> anyhow::Result<&[u8]> {
        let n = self.stream.read(&mut self.buffer)?;
        anyhow::ensure!(n > 0, "the proxy closed the connection");
        self.buffer.get(..n).context("more than the buffer holds")
    }
}

/// Latencies at `rate` requests a second over all connections, sorted.
pub(super) fn steady(
    address: SocketAddr,
    mode: &Mode,
    rate: f64,
    time: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let count = mode.connections.min(16);
    let interval = Duration::from_secs_f64(f64::from(u32::try_from(count)?) / rate);
    let begin = Instant::now() + Duration::from_millis(100);
    let clients: Vec<_> = (0..count)
        .map(|index| {
            let mut connection = Connection::open(address, mode)?;
            let offset = interval.mul_f64(f64::from(u32::try_from(index)?) / count as f64);
            Ok(thread::spawn(move || -> anyhow::Result<Vec<Duration>> {
                let mut latencies = Vec::new();
                let mut due = begin + offset;
                let end = begin + time;
                while due < end {
                    let now = Instant::now();
                    // A thread that overslept is no fault of the proxy; one that was kept is.
                    let mut from = due;
                    if now < due {
                        pause(due - now);
                        from = Instant::now();
                    }
                    connection.exchange()?;
                    latencies.push(from.elapsed());
                    due += interval;
                }
                Ok(latencies)
            }))
        })
        .collect::<anyhow::Result<_>>()?;
    let mut all = Vec::new();
    for client in clients {
        let latencies = client
            .join()
            .map_err(|_| anyhow::anyhow!("a client panicked"))??;
        all.extend(latencies);
    }
    all.sort_unstable();
    Ok(all)
}

/// Waits for its turn on a thread of its own.
#[expect(
    clippy::disallowed_methods,
    reason = "the thread is the client's alone and the pace is the measurement"
)]
pub(super) fn pause(time: Duration) {
    // The pace is what is measured.
    thread::sleep(time);
}
