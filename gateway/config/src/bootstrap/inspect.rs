//! `admin.inspect`: the page of exchanges. A field of this gateway; Envoy takes a file with it only if
//! `--allow-unknown-static-fields` is set.

use std::num::NonZeroU64;

use serde::Deserialize;

use super::address::Address;
use crate::{
    document::{Fault, Located},
    snapshot::Inspect,
};

/// Most bytes of a body that are recorded.
const BODY: u64 = 1024 * 1024;

/// Most exchanges that are kept.
const EXCHANGES: u64 = 100_000;

/// Least and most bytes of what is kept.
const KEPT: (u64, u64) = (1024 * 1024, 1024 * 1024 * 1024);

/// `admin.inspect`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Inspector {
    address: Option<Located<Address>>,
    max_body_bytes: Option<Located<u64>>,
    max_exchanges: Option<Located<u64>>,
    max_bytes: Option<Located<u64>>,
    sample: Option<Located<u64>>,
    r#match: String,
    redact: Vec<Located<String>>,
    replay: Vec<Located<String>>,
}

impl Inspector {
    pub(super) fn build(&self) -> Result<Inspect, Fault> {
        let mut inspect = Inspect::default();
        if let Some(address) = &self.address {
            inspect.address = address.to_listen()?;
        }
        inspect.body_bytes = within(&self.max_body_bytes, 0, BODY)?;
        inspect.exchanges = within(&self.max_exchanges, 1, EXCHANGES)?;
        inspect.bytes = within(&self.max_bytes, KEPT.0, KEPT.1)?;
        if let Some(sample) = &self.sample {
            let one_in = NonZeroU64::new(sample.value);
            inspect.one_in = one_in.ok_or_else(|| Fault::at(sample.node, "has to be 1 or more"))?;
        }
        inspect.only = Some(self.r#match.clone()).filter(|text| !text.is_empty());
        for name in &self.redact {
            if name.value.trim_start_matches('*').is_empty() {
                return Err(Fault::at(
                    name.node,
                    "expected a name, such as x-tenant or *-key",
                ));
            }
            inspect.redact.push(name.value.clone());
        }
        for address in &self.replay {
            if !is_host_and_port(&address.value) {
                return Err(Fault::at(address.node, "expected HOST:PORT"));
            }
            inspect.replay.push(address.value.clone());
        }
        Ok(inspect)
    }
}

fn within(given: &Option<Located<u64>>, least: u64, most: u64) -> Result<Option<usize>, Fault> {
    let Some(Located { value, node }) = given else {
        return Ok(None);
    };
    match (least..=most).contains(value) {
        true => Ok(usize::try_from(*value).ok()),
        false => Err(Fault::at(
            *node,
            format!("has to be from {least} to {most}"),
        )),
    }
}

fn is_host_and_port(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(host, port)| {
        let named = !host.is_empty() && !host.contains(['/', '@', ' ', ',']);
        let bare = host.starts_with('[') || !host.contains(':');
        named && bare && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}
