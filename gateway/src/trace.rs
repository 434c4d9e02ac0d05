//! `gateway trace`: transcripts of exchanges in the terminal, from the inspector of a gateway that runs.

use std::{
    ffi::OsString,
    io::{self, BufRead, BufReader, Read, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use clap::Parser;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// Longest wait for what a command has caused, after it has ended.
const LAST: Duration = Duration::from_millis(500);

/// Shows exchanges as they end: what each processor was told, what it answered, and what came of it.
#[derive(Debug, Parser)]
#[command(name = "gateway trace")]
pub(crate) struct Trace {
    /// Address of the gateway's inspector (`--inspect`).
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15001")]
    inspector: SocketAddr,

    /// The token that its address has, where one is asked for.
    #[arg(long, value_name = "TOKEN", env = "INSPECTOR_TOKEN")]
    token: Option<String>,

    /// Words that an exchange has to contain; `problem:` stands for those with a problem.
    #[arg(long = "match", value_name = "WORDS", default_value = "")]
    words: String,

    /// A JSON object a line in place of text.
    #[arg(long)]
    json: bool,

    /// A command to run; what it causes is shown after it has ended.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Trace {
    /// The command line after `gateway`, if it asks for this.
    pub(crate) fn of_args(mut args: impl Iterator<Item = OsString>) -> Option<Self> {
        let program = args.next()?;
        let rest = (args.next()? == "trace").then_some(args)?;
        Some(Self::parse_from(std::iter::once(program).chain(rest)))
    }

    /// Shows exchanges until the gateway or the command has ended.
    pub(crate) fn run(&self) -> ExitCode {
        match self.follow() {
            Ok(code) => code,
            Err(error) => {
                eprintln!("inspector at {}: {error}", self.inspector);
                ExitCode::FAILURE
            }
        }
    }

    fn follow(&self) -> io::Result<ExitCode> {
        let stream = self.open()?;
        let Some((program, arguments)) = self.command.split_first() else {
            show(stream, None)?;
            return Ok(ExitCode::SUCCESS);
        };
        let status = Command::new(program).args(arguments).status();
        let status =
            status.map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
        stream.get_ref().set_read_timeout(Some(LAST))?;
        match show(stream, Some(Instant::now() + LAST)) {
            Err(error) if !is_timeout(&error) => return Err(error),
            _ => {}
        }
        Ok(match status.success() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }

    /// The stream, behind its head.
    fn open(&self) -> io::Result<BufReader<TcpStream>> {
        let words = utf8_percent_encode(&self.words, NON_ALPHANUMERIC);
        let format = if self.json { "ndjson" } else { "text" };
        let mut socket = TcpStream::connect(self.inspector)?;
        let mut head = format!(
            "GET /exchanges/stream?format={format}&match={words} HTTP/1.0\r\nhost: {}\r\n",
            self.inspector
        );
        if let Some(token) = &self.token {
            head += &format!("authorization: Bearer {token}\r\n");
        }
        socket.write_all(format!("{head}\r\n").as_bytes())?;
        let mut stream = BufReader::new(socket);
        let mut status = String::new();
        stream.read_line(&mut status)?;
        let mut line = String::new();
        loop {
            line.clear();
            if stream.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
                break;
            }
        }
        if status.split(' ').nth(1) != Some("200") {
            let mut reason = String::new();
            // A little of it says enough.
            stream.take(1024).read_to_string(&mut reason)?;
            return Err(io::Error::other(reason.trim_end().to_owned()));
        }
        Ok(stream)
    }
}

/// Prints what comes, until the end of the stream or what is read after `until`.
fn show(mut stream: impl Read, until: Option<Instant>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut piece = [0; 8192];
    loop {
        let len = stream.read(&mut piece)?;
        if len == 0 {
            return Ok(());
        }
        out.write_all(piece.get(..len).unwrap_or_default())?;
        out.flush()?;
        if until.is_some_and(|until| Instant::now() > until) {
            return Ok(());
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
