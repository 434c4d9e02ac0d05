//! The cases as data (`tests/wire/*.yaml`).
//!
//! A file is `about`, `defaults` (merged under every case) and `cases`; `vary` multiplies a case as in the scenarios of the
//! conformance suite. Text stands for bytes, one character each up to U+00FF, with YAML's own escapes (`"\r\n"`).

use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::conformance::scenario::{expand, merge};
use crate::support::processor::ProcessorScript;
use crate::support::script::{Field, Payload, Protocol};

/// One case.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The rules of the checklist that it is about, separated by blanks.
    pub id: String,
    /// Its name inside the file.
    pub name: String,
    /// Remark on what is not plain from the rest.
    #[serde(default)]
    pub about: Option<String>,
    /// Steps of an HTTP/1 client.
    #[serde(default)]
    pub send: Steps,
    /// Steps of an HTTP/2 client.
    #[serde(default)]
    pub frames: Steps,
    /// The client's `SETTINGS` and preface are in `frames`.
    #[serde(default)]
    pub bare: bool,
    /// Protocol of the upstream.
    #[serde(default)]
    pub to: Protocol,
    /// Steps of the upstream for the first request; a plain 200 unless said.
    #[serde(default)]
    pub reply: Option<Steps>,
    /// The same for the requests after it.
    #[serde(default)]
    pub replies: Vec<Steps>,
    /// The upstream answers as soon as it has the head.
    #[serde(default)]
    pub early: bool,
    /// Messages that the upstream has to receive; not looked at unless said.
    #[serde(default)]
    pub upstream: Option<Expect>,
    /// Messages that the client has to receive.
    #[serde(default)]
    pub answer: Option<Expect>,
    /// The request has to be refused with one of these: nothing of it or of what follows it may reach the upstream.
    #[serde(default)]
    pub rejected: Option<Statuses>,
    /// End of the client's connection.
    #[serde(default)]
    pub then: Option<Then>,
    /// Merged into the HTTP connection manager.
    #[serde(default)]
    pub hcm: Value,
    /// Merged into the listener.
    #[serde(default)]
    pub listener: Value,
    /// Merged into the route.
    #[serde(default)]
    pub route: Value,
    /// Merged into the virtual host.
    #[serde(default)]
    pub vhost: Value,
    /// Merged into the cluster.
    #[serde(default)]
    pub cluster: Value,
    /// An ext_proc filter with this configuration is in the chain.
    #[serde(default)]
    pub filter: Option<Map<String, Value>>,
    /// Whose chain that is.
    #[serde(default)]
    pub filter_of: FilterOf,
    /// Script of its processor.
    #[serde(default)]
    pub processor: ProcessorScript,
}

impl Case {
    /// Tells whether the client speaks HTTP/2.
    #[must_use]
    pub fn http2_client(&self) -> bool {
        !self.frames.0.is_empty()
    }

    /// Tells whether a proxy that knows nothing but HTTP/1 could do it.
    #[must_use]
    pub fn is_plain_http1(&self) -> bool {
        let configured = [
            &self.hcm,
            &self.listener,
            &self.route,
            &self.vhost,
            &self.cluster,
        ];
        !self.http2_client()
            && self.to == Protocol::Http1
            && self.filter.is_none()
            && configured.iter().all(|value| value.is_null())
    }
}

/// The owner of a filter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilterOf {
    /// The connection manager.
    #[default]
    Listener,
    /// The cluster: the filter sees each attempt.
    Cluster,
}

/// Steps of a peer, in order.
#[derive(Debug, Clone, Default)]
pub struct Steps(pub Vec<Step>);

impl<'de> Deserialize<'de> for Steps {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let list = match value {
            Value::Array(list) => list,
            one => vec![one],
        };
        list.into_iter()
            .map(|step| {
                let shown = step.to_string();
                serde_json::from_value(step)
                    .map_err(|error| serde::de::Error::custom(format!("{shown}: {error}")))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// One thing to do.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Step {
    /// Wait until this peer has received this text. HTTP/2 is shown as lines ([`super::frames`]).
    Sees {
        /// The text.
        sees: String,
    },
    /// Wait until the peer on the other side of the proxy has received this text.
    OtherSees {
        /// The text.
        other_sees: String,
    },
    /// Do something with the connection.
    Do {
        /// The action.
        #[serde(rename = "do")]
        action: Action,
    },
    /// Wait, in milliseconds. For what has no event to wait for.
    Pause {
        /// Milliseconds.
        pause: u64,
    },
    /// Write bytes.
    Bytes(Payload),
    /// Write a frame.
    Frame(Box<FrameSpec>),
}

/// Ends of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// End our direction, go on reading.
    Shutdown,
    /// Close with a FIN.
    Close,
    /// Close with a RST.
    Reset,
}

/// A frame, by its most telling field.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FrameSpec {
    /// HEADERS; the fields are encoded as literals, whatever they are.
    pub headers: Option<Vec<Field>>,
    /// Cut the header block into pieces of so many bytes, CONTINUATION after the first.
    pub split: Option<usize>,
    /// DATA.
    pub data: Option<Payload>,
    /// SETTINGS: pairs of identifier and value.
    pub settings: Option<Vec<(u16, u32)>>,
    /// RST_STREAM with this code.
    pub rst: Option<u32>,
    /// PING.
    pub ping: Option<String>,
    /// GOAWAY with this code; `last` is the stream.
    pub goaway: Option<u32>,
    /// The last stream of a GOAWAY.
    pub last: u32,
    /// WINDOW_UPDATE with this increment.
    pub window: Option<u32>,
    /// PRIORITY: the stream depended on.
    pub priority: Option<u32>,
    /// A frame of any type, with `payload`.
    #[serde(rename = "type")]
    pub kind: Option<u8>,
    /// Its payload.
    pub payload: Option<Payload>,
    /// The flags, in place of those that belong to it.
    pub flags: Option<u8>,
    /// The stream; the request's one in an upstream, 1 in a client, unless said.
    pub stream: Option<u32>,
    /// END_STREAM.
    pub end: bool,
    /// Number of bytes of padding.
    pub pad: Option<u8>,
}

/// Expectation of a peer.
#[derive(Debug, Clone)]
pub enum Expect {
    /// Not a byte of a message.
    Nothing,
    /// A complete message with this status.
    Status(u16),
    /// HTTP/1, as bytes; several messages may follow each other, and the last may be cut short.
    Text(String),
    /// HTTP/2 messages, one for each stream.
    Streams(Vec<StreamSpec>),
    /// One of these.
    Any(Vec<Self>),
}

impl<'de> Deserialize<'de> for Expect {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl Expect {
    fn from_value(value: Value) -> anyhow::Result<Self> {
        Ok(match value {
            Value::String(text) if text == "nothing" => Self::Nothing,
            Value::String(text) => Self::Text(text),
            Value::Number(number) => {
                Self::Status(serde_json::from_value(Value::Number(number)).context("a status")?)
            }
            Value::Array(list) => {
                let streams = list
                    .into_iter()
                    .map(serde_json::from_value)
                    .collect::<Result<_, _>>()?;
                Self::Streams(streams)
            }
            Value::Object(mut map) => match map.shift_remove("any") {
                Some(Value::Array(list)) => Self::Any(
                    list.into_iter()
                        .map(Self::from_value)
                        .collect::<anyhow::Result<_>>()?,
                ),
                Some(other) => bail!("any: {other} is no list"),
                None => Self::Streams(vec![serde_json::from_value(Value::Object(map))?]),
            },
            other => bail!("{other} is no expectation"),
        })
    }
}

/// An HTTP/2 message.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamSpec {
    /// 1xx heads before the final one.
    pub interim: Vec<Vec<Field>>,
    /// The head, pseudo-headers included.
    pub head: Vec<Field>,
    /// In place of the head: only its status counts.
    pub status: Option<u16>,
    /// All of the body.
    pub body: Option<Payload>,
    /// The trailers.
    pub trailers: Vec<Field>,
    /// It ends with RST_STREAM, with this code unless it is `any`.
    pub reset: Option<String>,
    /// It ends with the connection.
    pub cut: bool,
}

/// One status or several that are as good.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Statuses {
    /// This one.
    One(u16),
    /// Any of these.
    Any(Vec<u16>),
}

impl Statuses {
    /// Tells whether a status is one of them.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        match self {
            Self::One(one) => *one == status,
            Self::Any(list) => list.contains(&status),
        }
    }
}

/// End of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Then {
    /// Another request on it is answered.
    Usable,
    /// The proxy closes it.
    Closed,
    /// The proxy resets it, the only way to say that a message that ends with it is not complete.
    Reset,
    /// Nobody looks.
    Any,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[expect(dead_code, reason = "for those who read the file")]
    about: String,
    #[serde(default)]
    defaults: Value,
    cases: Vec<Map<String, Value>>,
}

/// All cases of a directory, with the names of their files in front of their own.
///
/// # Errors
/// A file cannot be read or a case in it makes no sense; the text names it.
pub fn load(directory: &Path) -> anyhow::Result<Vec<Case>> {
    let mut paths: Vec<_> = std::fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    let mut cases = Vec::new();
    for path in paths {
        let group = path.file_stem().and_then(|stem| stem.to_str());
        let group = group.context("a file name")?.to_owned();
        let text = std::fs::read_to_string(&path)?;
        let read = parse(&text).with_context(|| path.display().to_string())?;
        for mut case in read {
            case.name = format!("{group}/{}", case.name);
            ensure!(
                cases.iter().all(|other: &Case| other.name != case.name),
                "{} twice",
                case.name
            );
            cases.push(case);
        }
    }
    Ok(cases)
}

fn parse(text: &str) -> anyhow::Result<Vec<Case>> {
    let file: File = serde_saphyr::from_str(text)?;
    let mut cases = Vec::new();
    for raw in file.cases {
        let name = raw.get("name").map(Value::to_string).unwrap_or_default();
        for one in expand(raw).with_context(|| name.clone())? {
            let mut merged = match &file.defaults {
                Value::Null => Value::Object(Map::new()),
                defaults => defaults.clone(),
            };
            merge(&mut merged, one);
            let case: Case = serde_json::from_value(merged).with_context(|| name.clone())?;
            ensure!(
                case.send.0.is_empty() != case.frames.0.is_empty(),
                "{name}: one of send and frames"
            );
            ensure!(
                case.answer.is_some() != case.rejected.is_some(),
                "{name}: one of answer and rejected"
            );
            cases.push(case);
        }
    }
    Ok(cases)
}
