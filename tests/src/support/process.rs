//! Child processes: started with their output in a file, waited for until they listen, killed when dropped.

use std::ffi::OsStr;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::wait;

/// A running program; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

/// End of waiting for a program to listen.
#[derive(Debug, PartialEq, Eq)]
pub enum Start {
    /// It accepts connections.
    Listening,
    /// It exited.
    Exited(Option<i32>),
    /// Neither within the time given.
    TimedOut,
}

impl Process {
    /// Starts `program` with `args`; standard output and error go to the file `log`.
    ///
    /// # Errors
    /// When the program or the file cannot be opened.
    pub fn spawn<I, S>(program: impl AsRef<OsStr>, args: I, log: &Path) -> anyhow::Result<Self>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        Self::spawn_with(program, args, &[], log)
    }

    /// [`Process::spawn`] with more environment variables.
    ///
    /// # Errors
    /// As [`Process::spawn`].
    pub fn spawn_with<I, S>(
        program: impl AsRef<OsStr>,
        args: I,
        env: &[(&str, &str)],
        log: &Path,
    ) -> anyhow::Result<Self>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        Self::spawn_in(Path::new("."), program, args, env, log)
    }

    /// [`Process::spawn_with`] in another working directory.
    ///
    /// # Errors
    /// As [`Process::spawn`].
    pub fn spawn_in<I, S>(
        folder: &Path,
        program: impl AsRef<OsStr>,
        args: I,
        env: &[(&str, &str)],
        log: &Path,
    ) -> anyhow::Result<Self>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        if let Some(dir) = log.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let out = File::create(log).with_context(|| format!("log file {}", log.display()))?;
        let child = Command::new(&program)
            .args(args)
            .envs(env.iter().copied())
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.as_ref().to_string_lossy()))?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    /// Waits until it accepts connections on `address`, exits, or `limit` has passed.
    pub async fn wait_until_listening(&mut self, address: SocketAddr, limit: Duration) -> Start {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Start::Exited(status.code());
            }
            if TcpStream::connect(address).await.is_ok() {
                return Start::Listening;
            }
            wait::moment().await;
        }
        Start::TimedOut
    }

    /// [`Process::wait_until_listening`] for programs that must come up.
    ///
    /// # Errors
    /// When it does not, with the end of its log.
    pub async fn listening(mut self, address: SocketAddr, limit: Duration) -> anyhow::Result<Self> {
        match self.wait_until_listening(address, limit).await {
            Start::Listening => Ok(self),
            other => anyhow::bail!(
                "{}: not listening on {address}: {other:?}\n{}",
                self.log.display(),
                self.log_tail(2000)
            ),
        }
    }

    /// Waits until nobody accepts connections on `address` any more.
    ///
    /// # Errors
    /// When somebody always does.
    pub async fn refusing(&self, address: SocketAddr) -> anyhow::Result<()> {
        wait::until("its end is taken", wait::LONG, async || {
            let connected = TcpStream::connect(address).await;
            anyhow::ensure!(connected.is_err(), "{address} still accepts");
            Ok(())
        })
        .await
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub async fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        Ok(tokio::time::timeout(limit, self.child.wait())
            .await
            .context("did not exit")??)
    }

    /// Returns its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The process id while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Kills it and waits until it is gone.
    pub async fn kill(&mut self) {
        let _ = self.child.kill().await;
    }

    /// Returns all that it printed.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    /// Waits until it has printed all `words`, in whatever case. Its log is written behind what it does.
    ///
    /// # Errors
    /// When it never does.
    pub async fn logs(&self, words: &[&str]) -> anyhow::Result<()> {
        wait::until("the log says it", wait::LONG, async || {
            let log = self.log().to_lowercase();
            for word in words {
                anyhow::ensure!(log.contains(word), "no {word:?} in the log:\n{log}");
            }
            Ok(())
        })
        .await
    }

    /// The last `chars` characters of what it printed.
    #[must_use]
    pub fn log_tail(&self, chars: usize) -> String {
        let log = self.log();
        let skip = log.chars().count().saturating_sub(chars);
        log.chars().skip(skip).collect()
    }
}
