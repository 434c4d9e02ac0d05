//! Plays a scenario against one proxy process and gathers what the peers saw.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::net::TcpListener;

use super::bootstrap::{self, Ports};
use super::scenario::Scenario;
use crate::provision;
use crate::support::activity::Activity;
use crate::support::client::{self, ClientScript, Response};
use crate::support::ports;
use crate::support::process::{Process, Start};
use crate::support::processor::{Processor, StreamRecord};
use crate::support::upstream::{Arrived, Upstream};
use crate::support::wait;

const START_LIMIT: Duration = Duration::from_secs(8);

/// Longest wait for a log that may never have as many lines as there were requests.
const LOG_LIMIT: Duration = Duration::from_millis(400);
const CLIENT_LIMIT: u64 = 2500;
/// Time that no script takes, not even on the [clock](crate::support::clock) of a machine that is busy all the time.
const UNREACHED: Duration = Duration::from_secs(5);

const REST: Duration = Duration::from_millis(25);
const SILENCE: Duration = Duration::from_millis(150);
const SETTLE_LIMIT: Duration = Duration::from_millis(1200);

/// A proxy: a command with `{config}` in place of the configuration file.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its name in messages and file names.
    pub name: String,
    /// The words of the command.
    pub command: Vec<String>,
}

impl Target {
    /// Envoy, the program at this path.
    #[must_use]
    pub fn envoy(program: &Path) -> Self {
        let options = "-c {config} --concurrency 1 --disable-hot-restart -l error --file-flush-interval-msec 20";
        Self::new("envoy", program, options)
    }

    /// Our gateway, the program at this path.
    #[must_use]
    pub fn gateway(program: &Path) -> Self {
        Self::new("gateway", program, "--config {config} --concurrency 1")
    }

    /// A command line; words are separated by blanks.
    #[must_use]
    pub fn command(name: &str, line: &str) -> Self {
        Self {
            name: name.to_owned(),
            command: line.split_whitespace().map(str::to_owned).collect(),
        }
    }

    /// The gateway of this workspace, or the command in `EXTPROC_TARGET`.
    ///
    /// # Errors
    /// When the gateway does not build.
    pub fn under_test() -> anyhow::Result<Self> {
        match std::env::var("EXTPROC_TARGET") {
            Ok(line) => Ok(Self::command("target", &line)),
            Err(_) => provision::workspace_binary("gateway", "gateway").map(|p| Self::gateway(&p)),
        }
    }

    fn new(name: &str, program: &Path, options: &str) -> Self {
        let mut target = Self::command(name, options);
        target.command.insert(0, program.display().to_string());
        target
    }
}

/// Fate of the proxy process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// It served until the end.
    Ran,
    /// It refused its configuration and exited with this code.
    Refused(Option<i32>),
    /// It never listened.
    NeverListened,
    /// It went away while it served.
    Crashed(Option<i32>),
}

/// Everything that was seen in one run.
#[derive(Debug, Clone)]
pub struct Run {
    /// The proxy.
    pub proxy: Proxy,
    /// The ports, to recognise them in attributes.
    pub ports: Ports,
    /// The clients' responses, in order of requests.
    pub clients: Vec<Response>,
    /// The upstream requests, in order of arrival.
    pub upstream: Vec<Arrived>,
    /// The side streams, in order of opening.
    pub processor: Vec<StreamRecord>,
    /// The proxy's `ext_proc` counters that are not zero, without their prefix `http.ingress.`.
    pub counters: Option<Vec<(String, u64)>>,
    /// The access log's lines.
    pub log: Vec<String>,
    /// The end of what the proxy printed, when it did not run.
    pub output: String,
}

/// Runs the scenario; files go to `directory`. `change` is merged into every ext_proc filter's configuration.
///
/// # Errors
/// When something of our own fails: a socket, a file, a program that cannot be started.
pub async fn run(
    scenario: &Scenario,
    target: &Target,
    directory: &Path,
    change: Option<&Value>,
) -> anyhow::Result<Run> {
    let stem = format!("{}-{}", scenario.group, scenario.spec.name);
    let file = |extension: &str| -> PathBuf {
        directory.join(format!("{stem}.{}.{extension}", target.name))
    };
    std::fs::create_dir_all(directory)?;
    let activity = Arc::<Activity>::default();
    let mut ports = Ports {
        listener: ports::free()?,
        admin: ports::free()?,
        ..Ports::default()
    };
    let mut processor = None;
    let script = scenario.spec.processor.clone();
    if script.absent {
        ports.processor = ports::free()?;
    } else {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        ports.processor = listener.local_addr()?.port();
        processor = Some(Processor::start(listener, script, Arc::clone(&activity)));
    }
    let mut upstreams = Vec::new();
    for (name, script) in &scenario.upstreams {
        let port = if script.absent {
            ports::free()?
        } else {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let port = listener.local_addr()?.port();
            let activity = Arc::clone(&activity);
            upstreams.push(Upstream::start(listener, name, script.clone(), activity));
            port
        };
        ports.upstreams.insert(name.clone(), port);
    }
    let log = file("access");
    let _ = std::fs::remove_file(&log);
    let log_name = log.display().to_string();
    anyhow::ensure!(
        change.is_none() || scenario.spec.file.is_none(),
        "a scenario with a file of its own cannot be changed"
    );
    let text = match change {
        None => bootstrap::text(scenario, &ports, &log_name),
        Some(change) => {
            let mut bootstrap = bootstrap::render(scenario, &ports, &log_name);
            bootstrap::change_filters(&mut bootstrap, change);
            bootstrap::to_yaml(&bootstrap)
        }
    };
    let config = file("yaml");
    std::fs::write(&config, text)?;
    let words: Vec<String> = target
        .command
        .iter()
        .map(|word| word.replace("{config}", &config.display().to_string()))
        .collect();
    let (program, arguments) = words.split_first().context("an empty command")?;
    let mut process = Process::spawn(program, arguments, &file("log"))?;
    if !has_timers(&scenario.source) {
        activity.clock.watch(process.id());
    }
    let listener = SocketAddr::from(([127, 0, 0, 1], ports.listener));
    let started = process.wait_until_listening(listener, START_LIMIT).await;
    let mut out = Run {
        proxy: match started {
            Start::Listening => Proxy::Ran,
            Start::Exited(code) => Proxy::Refused(code),
            Start::TimedOut => Proxy::NeverListened,
        },
        ports,
        clients: Vec::new(),
        upstream: Vec::new(),
        processor: Vec::new(),
        counters: None,
        log: Vec::new(),
        output: String::new(),
    };
    if out.proxy == Proxy::Ran {
        let at_rest = || {
            processor.as_ref().is_none_or(Processor::at_rest)
                && upstreams.iter().all(Upstream::at_rest)
        };
        out.clients = clients(scenario, listener, &activity, at_rest).await;
        out.counters = counters(out.ports.admin).await;
        // Before the proxy is killed, which ends every stream.
        out.processor = processor
            .as_ref()
            .map(Processor::streams)
            .unwrap_or_default();
        if scenario.spec.log.is_some() {
            out.log = lines(&log, out.clients.len()).await;
        }
        if let Some(status) = process.ended() {
            out.proxy = Proxy::Crashed(status.code());
        }
    }
    if out.proxy != Proxy::Ran {
        out.output = process.log_tail(800);
    }
    process.kill().await;
    out.upstream = upstreams.iter().flat_map(Upstream::arrived).collect();
    out.upstream.sort_by_key(|a| a.at);
    Ok(out)
}

/// Tells whether the proxy's own timers have a part in the scenario: they run on, whatever else does. One of [`UNREACHED`] or
/// longer has none.
fn has_timers(value: &Value) -> bool {
    let timer =
        |name: &str| name == "time" || name.contains("timeout") || name.contains("duration");
    match value {
        Value::Object(map) => map
            .iter()
            .any(|(name, item)| timer(name) && !is_unreached(item) || has_timers(item)),
        Value::Array(items) => items.iter().any(has_timers),
        _ => false,
    }
}

fn is_unreached(timer: &Value) -> bool {
    let seconds = timer.as_str().and_then(|text| text.strip_suffix('s'));
    let seconds = seconds.and_then(|text| text.parse::<f64>().ok());
    seconds.is_some_and(|seconds| seconds >= UNREACHED.as_secs_f64())
}

async fn clients(
    scenario: &Scenario,
    address: SocketAddr,
    activity: &Arc<Activity>,
    at_rest: impl Fn() -> bool,
) -> Vec<Response> {
    let spec = &scenario.spec;
    let limit = Duration::from_millis(spec.limit.unwrap_or(CLIENT_LIMIT));
    let settle = async || match spec.settle {
        Some(ms) => activity.clock.pause(ms).await,
        None => {
            activity.touch();
            activity.settle(REST, SILENCE, SETTLE_LIMIT, &at_rest).await;
        }
    };
    let mut out = Vec::new();
    if spec.parallel {
        let mut tasks = Vec::new();
        for script in scenario.clients.clone() {
            let activity = Arc::clone(activity);
            let task = async move { client::run(&script, address, &activity, limit).await };
            tasks.push(tokio::spawn(task));
        }
        for task in tasks {
            out.push(task.await.unwrap_or_default());
        }
        settle().await;
    } else {
        for script in &scenario.clients {
            out.push(client::run(script, address, activity, limit).await);
            settle().await;
        }
    }
    out
}

async fn counters(port: u16) -> Option<Vec<(String, u64)>> {
    let script = ClientScript {
        path: "/stats?filter=ext_proc".into(),
        authority: Some("localhost".into()),
        ..ClientScript::default()
    };
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let limit = Duration::from_secs(2);
    let response = client::run(&script, address, &Arc::default(), limit).await;
    if response.received.field(":status")? != "200" {
        return None;
    }
    let text = String::from_utf8_lossy(&response.received.body()).into_owned();
    let mut counters: Vec<(String, u64)> = text
        .lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            let name = name.strip_prefix("http.ingress.").unwrap_or(name);
            let value = value.trim().parse().ok()?;
            (value > 0 && name.contains("ext_proc.")).then(|| (name.to_owned(), value))
        })
        .collect();
    counters.sort();
    Some(counters)
}

/// The lines of a log that is flushed from time to time: `want` of them, or those that there are after a while.
async fn lines(path: &Path, want: usize) -> Vec<String> {
    let read = || -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    let whole = wait::until("the log", LOG_LIMIT, async || {
        let lines = read();
        anyhow::ensure!(lines.len() >= want, "{} lines", lines.len());
        Ok(lines)
    });
    whole.await.unwrap_or_else(|_| read())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn timers_that_scripts_meet() {
        for (source, expected) in [
            (json!({"filter": {"message_timeout": "0.2s"}}), true),
            (json!({"filter": {"deferred_close_timeout": "5s"}}), false),
            (json!({"time": [0, 200]}), true),
            (
                json!({"routes": [{"timeout": "0s"}, {"timeout": "10s"}]}),
                true,
            ),
            (json!({"settle": 100}), false),
        ] {
            assert_eq!(has_timers(&source), expected, "{source}");
        }
    }
}
