//! Header mutations by the proxy's rules, with the rules' defaults.

use envoy_types::pb::envoy::{
    config::core::v3::HeaderValueOption, service::ext_proc::v3::HeaderMutation,
};
use http::{HeaderName, HeaderValue};

use super::ProxyError;

/// Entries that one mutation may set, and entries that it may remove.
const ENTRIES: usize = 100;

/// Special rules for the fields that a mutation applies to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    /// The proxy has taken `content-length` away, and does not let it be set again.
    pub(super) without_length: bool,
    /// `:method` may be set: the body is replaced as well.
    pub(super) with_method: bool,
    /// Headers that may be changed, in place of the defaults.
    pub(super) may_change: Option<fn(&str) -> bool>,
}

impl Rules {
    /// Tells whether a change of this header is made; one that is not is skipped.
    fn allows(self, name: &str) -> bool {
        let by_default = || {
            !matches!(name, "host" | ":authority" | ":scheme" | ":method")
                && !name.starts_with("x-envoy")
        };
        match name {
            ":method" if self.with_method => true,
            "content-length" if self.without_length => false,
            name => self.may_change.map_or_else(by_default, |may| may(name)),
        }
    }
}

pub(super) fn apply(
    fields: &mut Vec<(String, Vec<u8>)>,
    mutation: Option<HeaderMutation>,
    rules: Rules,
) -> Result<(), ProxyError> {
    let Some(mutation) = mutation else {
        return Ok(());
    };
    if mutation.set_headers.len() > ENTRIES || mutation.remove_headers.len() > ENTRIES {
        return Err(ProxyError::Mutation(format!("more than {ENTRIES} entries")));
    }
    for name in &mutation.remove_headers {
        if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
            continue;
        }
        let name = legal_name(name)?;
        // It has gone already, and may be taken away once more.
        if name == "content-length" || rules.allows(&name) {
            fields.retain(|(key, _)| *key != name);
        }
    }
    for option in mutation.set_headers {
        set(fields, option, rules)?;
    }
    Ok(())
}

// Proxies decide by the deprecated field alone.
#[expect(deprecated)]
fn set(
    fields: &mut Vec<(String, Vec<u8>)>,
    option: HeaderValueOption,
    rules: Rules,
) -> Result<(), ProxyError> {
    let Some(header) = option.header else {
        return Ok(());
    };
    if !header.value.is_empty() {
        let reason = format!("{:?} is set in `value`, which proxies ignore", header.key);
        return Err(ProxyError::Mutation(reason));
    }
    let name = match header.key.strip_prefix(':') {
        Some(pseudo) => format!(":{}", legal_name(pseudo)?),
        None => legal_name(&header.key)?,
    };
    if HeaderValue::from_bytes(&header.raw_value).is_err() {
        let reason = format!("the value of {name:?} is {:?}", header.raw_value);
        return Err(ProxyError::Mutation(reason));
    }
    if !rules.allows(&name) {
        return Ok(());
    }
    let append = option.append.is_some_and(|append| append.value);
    if !append {
        fields.retain(|(key, _)| *key != name);
    }
    fields.push((name, header.raw_value));
    Ok(())
}

fn legal_name(name: &str) -> Result<String, ProxyError> {
    HeaderName::from_bytes(name.as_bytes())
        .map(|name| name.as_str().to_owned())
        .map_err(|_| ProxyError::Mutation(format!("{name:?} is not a header name")))
}
