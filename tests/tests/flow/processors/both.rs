//! Envoy and the gateway side by side with one bootstrap.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use regex::{Captures, Regex};
use serde_json::{Value, json};
use tests::provision;
use tests::support::curl::{Answer, Outcome, curl, curl_to_its_end};
use tests::support::peers::{self, Peer};
use tests::support::ports;
use tests::support::process::Process;
use tests::support::wait;

const START: Duration = Duration::from_secs(30);

/// Until counters agree: the ends of side streams are counted after the client has its answer.
const COUNTED: Duration = Duration::from_secs(10);

/// The two protocol versions that a client may speak without TLS.
const VERSIONS: [&str; 2] = ["--http1.1", "--http2-prior-knowledge"];

/// Response headers that say when and by whom, which Envoy adds and the gateway on purpose does not.
const BY_THE_PROXY: [&str; 3] = ["date", "server", "x-envoy-upstream-service-time"];

/// Header that Envoy alone sends to an upstream.
const ENVOY_ONLY: &str = "X-Envoy-Expected-Rq-Timeout-Ms";

/// A bootstrap in which addresses are put in place of others.
pub(super) struct Bootstrap {
    name: &'static str,
    text: String,
    listener: &'static str,
    admin: &'static str,
    /// Further ports that each proxy needs one of its own for.
    own: Vec<&'static str>,
    others: Vec<(&'static str, u16)>,
}

impl Bootstrap {
    /// One with its client port and its admin port.
    pub(super) fn new(
        name: &'static str,
        text: String,
        listener: &'static str,
        admin: &'static str,
    ) -> Self {
        Self {
            name,
            text,
            listener,
            admin,
            own: Vec::new(),
            others: Vec::new(),
        }
    }

    /// One of `tests/peers`.
    pub(super) fn of_peers(name: &'static str) -> anyhow::Result<Self> {
        let source = format!("{}/peers/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&source).context(source)?;
        Ok(Self::new(name, text, "10000", "10001"))
    }

    /// Each proxy needs such a port for itself.
    pub(super) fn own_port(mut self, port: &'static str) -> Self {
        self.own.push(port);
        self
    }

    /// `to` in place of `from`, which has to be there.
    pub(super) fn put(mut self, from: &str, to: &str) -> anyhow::Result<Self> {
        ensure!(self.text.contains(from), "no {from} in the bootstrap");
        self.text = self.text.replace(from, to);
        Ok(self)
    }

    /// Another port in place of `from`, for both.
    pub(super) fn port(mut self, from: &'static str, to: u16) -> Self {
        self.others.push((from, to));
        self
    }
}

/// Form in which the processor gets bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bodies {
    Whole,
    Streamed,
}

/// Envoy and the gateway with the same bootstrap, but for their own ports.
pub(super) struct Both {
    envoy: Proxy,
    gateway: Proxy,
    /// Request headers whose values are made anew each time.
    random: Vec<&'static str>,
}

struct Proxy {
    peer: Peer,
    admin: SocketAddr,
}

impl Both {
    /// Starts both.
    pub(super) async fn start(envoy: &Path, bootstrap: &Bootstrap) -> anyhow::Result<Self> {
        let gateway = provision::workspace_binary("gateway", "gateway")?;
        let envoy_only = ["--concurrency", "1", "--disable-hot-restart", "-l", "warn"];
        Ok(Self {
            envoy: Proxy::start(envoy, "-c", &envoy_only, bootstrap).await?,
            gateway: Proxy::start(&gateway, "--config", &[], bootstrap).await?,
            random: vec!["X-Request-Id"],
        })
    }

    /// These request headers have another value each time.
    pub(super) fn with_random(mut self, names: &[&'static str]) -> Self {
        self.random.extend(names);
        self
    }

    /// Asks both the same, over both versions of HTTP; says all that differs.
    pub(super) async fn ask_all(&self, requests: &[&[&str]]) -> anyhow::Result<()> {
        let mut different = Vec::new();
        for request in requests {
            for version in VERSIONS {
                let theirs = self.told(&self.envoy, version, request).await?;
                let ours = self.told(&self.gateway, version, request).await?;
                if theirs != ours {
                    different.push(format!(
                        "{version} {}\n  Envoy:   {}\n  gateway: {}",
                        short(&request.join(" ")),
                        short(&theirs.to_string()),
                        short(&ours.to_string())
                    ));
                }
            }
        }
        ensure!(different.is_empty(), "{}", different.join("\n"));
        Ok(())
    }

    /// The gateway's answer.
    pub(super) async fn ask(&self, request: &[&str]) -> anyhow::Result<Answer> {
        curl(&words(&self.gateway.url(request), VERSIONS[0], request)).await
    }

    /// Waits until both have counted the same. How many messages a streamed body takes is up to the reads.
    pub(super) async fn same_counters(&self, bodies: Bodies) -> anyhow::Result<()> {
        wait::until("the same counters", COUNTED, async || {
            let theirs = self.envoy.counters(bodies).await?;
            let ours = self.gateway.counters(bodies).await?;
            ensure!(
                theirs == ours,
                "Envoy counts {theirs:?}\nthe gateway {ours:?}"
            );
            Ok(())
        })
        .await
    }

    /// All that a client sees, and through the echo what the upstream saw.
    async fn told(&self, proxy: &Proxy, version: &str, request: &[&str]) -> anyhow::Result<Value> {
        let url = proxy.url(request);
        let Outcome { code, answer } = curl_to_its_end(&words(&url, version, request)).await?;
        let Some(answer) = answer else {
            return Ok(json!({ "curl": code }));
        };
        let mut headers: Vec<&(String, String)> = answer
            .headers
            .iter()
            .filter(|(name, _)| !BY_THE_PROXY.contains(&name.as_str()))
            .collect();
        headers.sort();
        let body = answer.json().map_or_else(
            |_| answer.text().into(),
            |mut json| {
                self.without_chance(&mut json);
                json
            },
        );
        // The echo has another length where a header's value has.
        let echo = body.get("headers").is_some();
        headers.retain(|(name, _)| !(echo && name == "content-length"));
        Ok(json!({ "curl": code, "status": answer.status, "headers": headers, "body": body }))
    }

    fn without_chance(&self, echo: &mut Value) {
        let Some(headers) = echo.get_mut("headers").and_then(Value::as_object_mut) else {
            return;
        };
        headers.remove(ENVOY_ONLY);
        let mut masked = Vec::new();
        for (name, value) in headers {
            if self.random.contains(&name.as_str()) {
                masked.push(std::mem::replace(value, "random".into()));
            }
        }
        // Where the client's address is one of them, the echo shows it once more.
        if let Some(origin) = echo.get_mut("origin")
            && masked.contains(&json!([origin]))
        {
            *origin = "random".into();
        }
    }
}

impl Proxy {
    async fn start(
        program: &Path,
        flag: &str,
        more: &[&str],
        bootstrap: &Bootstrap,
    ) -> anyhow::Result<Self> {
        let Bootstrap {
            name,
            text,
            listener,
            admin: admin_port,
            own,
            others,
        } = bootstrap;
        let address = SocketAddr::from(([127, 0, 0, 1], ports::free()?));
        let admin = SocketAddr::from(([127, 0, 0, 1], ports::free()?));
        let mut ports = others.clone();
        ports.extend([(*listener, address.port()), (*admin_port, admin.port())]);
        for port in own {
            ports.push((*port, ports::free()?));
        }
        // All in one pass, since a port may have the number of another's place.
        let places = Regex::new(r"port_value: (\d+)")?;
        let text = places.replace_all(text, |place: &Captures<'_>| {
            let port = ports.iter().find(|(from, _)| *from == &place[1]);
            port.map_or_else(
                || place[0].to_owned(),
                |(_, to)| format!("port_value: {to}"),
            )
        });
        let file = peers::log_file(name, address.port()).with_extension("yaml");
        std::fs::create_dir_all(file.parent().context("no directory")?)?;
        std::fs::write(&file, text.as_ref())?;
        let file = file.display().to_string();
        let mut arguments = vec![flag, &file];
        arguments.extend(more);
        let log = peers::log_file(&format!("{name}-proxy"), address.port());
        let process = Process::spawn(program, arguments, &log)?;
        let process = process.listening(address, START).await?;
        Ok(Self {
            peer: Peer { address, process },
            admin,
        })
    }

    fn url(&self, request: &[&str]) -> String {
        let path = request.first().copied().unwrap_or("/");
        format!("{}{path}", self.peer.url())
    }

    /// The counters of ext_proc that are not 0.
    async fn counters(&self, bodies: Bodies) -> anyhow::Result<BTreeMap<String, u64>> {
        let url = format!("http://{}/stats?filter=ext_proc&usedonly", self.admin);
        let text = curl(&[&url]).await?.text();
        let counters = text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .filter(|(name, _)| name.starts_with("http.") && name.contains(".ext_proc."))
            .filter(|(name, _)| bodies == Bodies::Whole || !name.contains(".stream_msgs_"))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        Ok(counters.filter(|(_, value)| *value > 0).collect())
    }
}

fn short(text: &str) -> String {
    text.chars().take(1500).collect()
}

/// Arguments of curl: `request` is a path and further arguments.
fn words<'a>(url: &'a str, version: &'a str, request: &[&'a str]) -> Vec<&'a str> {
    let fixed = [version, url, "-H", "host: same.local"];
    fixed
        .into_iter()
        .chain(request.iter().skip(1).copied())
        .collect()
}

/// A file for `--data-binary`: `@` and its path.
pub(super) fn body_file(name: &str, bytes: &[u8]) -> anyhow::Result<String> {
    let file = peers::log_file(name, 0).with_extension("body");
    std::fs::create_dir_all(file.parent().context("no directory")?)?;
    std::fs::write(&file, bytes)?;
    Ok(format!("@{}", file.display()))
}
