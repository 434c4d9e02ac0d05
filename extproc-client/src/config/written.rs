//! A configuration written down again.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{
    FilterConfig, ForwardRules, MetadataOptions, MutationRules, RouteCacheAction,
    check::MAPPED_ATTRIBUTES,
};
use crate::attributes::AttributeSet;

impl FilterConfig {
    /// ProtoJSON of `ExternalProcessor` with proto field names: what is not at its default, without the service and
    /// `stat_prefix`. With a service it can be read again. Not cheap.
    pub fn settings_json(&self) -> Value {
        let mut out = Map::new();
        let mut set = |name: &str, value: Value| {
            out.insert(name.to_owned(), value);
        };
        set("processing_mode", json!(self.mode));
        if self.message_timeout != Duration::from_millis(200) {
            set("message_timeout", duration(self.message_timeout));
        }
        if let Some(longest) = self.max_message_timeout {
            set("max_message_timeout", duration(longest));
        }
        for (name, value) in [
            ("failure_mode_allow", self.failure_mode_allow),
            ("observability_mode", self.observability_mode),
            ("allow_mode_override", self.allow_mode_override),
            (
                "disable_immediate_response",
                self.disable_immediate_response,
            ),
            (
                "send_body_without_waiting_for_header_response",
                self.send_body_without_waiting,
            ),
            (
                "allow_content_length_header",
                self.allow_content_length_header,
            ),
        ] {
            if value {
                set(name, true.into());
            }
        }
        if !self.allowed_override_modes.is_empty() {
            set("allowed_override_modes", json!(self.allowed_override_modes));
        }
        if self.deferred_close_timeout != Duration::from_secs(5) {
            set(
                "deferred_close_timeout",
                duration(self.deferred_close_timeout),
            );
        }
        match self.route_cache_action {
            RouteCacheAction::Default => {}
            RouteCacheAction::Clear => set("route_cache_action", "CLEAR".into()),
            RouteCacheAction::Retain => set("route_cache_action", "RETAIN".into()),
        }
        if self.status_on_error != http::StatusCode::INTERNAL_SERVER_ERROR {
            set(
                "status_on_error",
                json!({"code": self.status_on_error.as_u16()}),
            );
        }
        if !self.emit_client_span {
            set("emit_client_span", false.into());
        }
        for (name, part) in [
            ("mutation_rules", rules(&self.mutation_rules)),
            ("forward_rules", forwarded(&self.forward_rules)),
            ("metadata_options", metadata(&self.metadata)),
        ] {
            if !part.is_empty() {
                set(name, part.into());
            }
        }
        let mut mapped = Map::new();
        for (name, of_modifier, attributes) in [
            (
                "request_attributes",
                "mapped_request_attributes",
                &self.request_attributes,
            ),
            (
                "response_attributes",
                "mapped_response_attributes",
                &self.response_attributes,
            ),
        ] {
            match listed(attributes) {
                Ok(list) if list.is_empty() => {}
                Ok(list) => set(name, list.into()),
                Err(map) => {
                    mapped.insert(of_modifier.to_owned(), map.into());
                }
            }
        }
        if !mapped.is_empty() {
            mapped.insert("@type".to_owned(), MAPPED_ATTRIBUTES.into());
            let modifier = json!({"name": "mapped_attribute_builder", "typed_config": mapped});
            set("processing_request_modifier", modifier);
        }
        out.into()
    }
}

fn duration(time: Duration) -> Value {
    let nanos = time.subsec_nanos();
    let text = match nanos {
        0 => format!("{}s", time.as_secs()),
        nanos => {
            let fraction = format!("{nanos:09}");
            format!("{}.{}s", time.as_secs(), fraction.trim_end_matches('0'))
        }
    };
    text.into()
}

fn rules(rules: &MutationRules) -> Map<String, Value> {
    let mut out = Map::new();
    for (name, value) in [
        ("allow_all_routing", rules.allow_all_routing),
        ("allow_envoy", rules.allow_envoy),
        ("disallow_system", rules.disallow_system),
        ("disallow_all", rules.disallow_all),
        ("disallow_is_error", rules.disallow_is_error),
    ] {
        if value {
            out.insert(name.to_owned(), true.into());
        }
    }
    for (name, regex) in [
        ("allow_expression", &rules.allow_expression),
        ("disallow_expression", &rules.disallow_expression),
    ] {
        if let Some(regex) = regex {
            out.insert(name.to_owned(), json!({ "regex": regex.pattern() }));
        }
    }
    out
}

fn forwarded(rules: &ForwardRules) -> Map<String, Value> {
    let mut out = Map::new();
    for (name, matchers) in [
        ("allowed_headers", &rules.allowed),
        ("disallowed_headers", &rules.disallowed),
    ] {
        if !matchers.is_empty() {
            let patterns: Vec<Value> = matchers.iter().map(|matcher| matcher.json()).collect();
            out.insert(name.to_owned(), json!({ "patterns": patterns }));
        }
    }
    out
}

fn metadata(options: &MetadataOptions) -> Map<String, Value> {
    let mut out = Map::new();
    for (name, untyped, typed) in [
        (
            "forwarding_namespaces",
            &options.forward_untyped,
            &options.forward_typed,
        ),
        (
            "receiving_namespaces",
            &options.receive_untyped,
            &options.receive_typed,
        ),
        (
            "cluster_metadata_forwarding_namespaces",
            &options.cluster_untyped,
            &options.cluster_typed,
        ),
    ] {
        let mut namespaces = Map::new();
        for (kind, names) in [("untyped", untyped), ("typed", typed)] {
            if !names.is_empty() {
                namespaces.insert(kind.to_owned(), json!(names));
            }
        }
        if !namespaces.is_empty() {
            out.insert(name.to_owned(), namespaces.into());
        }
    }
    out
}

/// Attributes as a list, or by name where one has another name than its expression.
fn listed(attributes: &AttributeSet) -> Result<Vec<Value>, Map<String, Value>> {
    let entries = attributes.entries.iter();
    match entries
        .clone()
        .all(|(name, expression)| name == expression.text())
    {
        true => Ok(entries.map(|(name, _)| name.as_str().into()).collect()),
        false => Err(entries
            .map(|(name, expression)| (name.clone(), expression.text().into()))
            .collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = r#""grpc_service": {"envoy_grpc": {"cluster_name": "c"}}"#;

    fn read(settings: &str) -> FilterConfig {
        let rest = settings.trim_start_matches('{');
        let comma = if rest.trim() == "}" { "" } else { "," };
        serde_json::from_str(&format!("{{{SERVICE}{comma}{rest}")).unwrap()
    }

    #[test]
    fn defaults_are_left_out() {
        let mode = json!({"processing_mode": read("{}").mode});
        assert_eq!(read("{}").settings_json(), mode);
    }

    /// Every field but the service and `stat_prefix`; each one would be missed.
    #[test]
    fn what_is_written_is_what_was_read() {
        let settings = json!({
            "processing_mode": {
                "request_header_mode": "SEND", "response_header_mode": "SKIP", "request_body_mode": "FULL_DUPLEX_STREAMED",
                "response_body_mode": "BUFFERED_PARTIAL", "request_trailer_mode": "SEND", "response_trailer_mode": "SKIP",
            },
            "message_timeout": "0.25s",
            "max_message_timeout": "2s",
            "failure_mode_allow": true,
            "observability_mode": true,
            "allow_mode_override": true,
            "disable_immediate_response": true,
            "send_body_without_waiting_for_header_response": true,
            "allow_content_length_header": true,
            "allowed_override_modes": [{
                "request_header_mode": "SKIP", "response_header_mode": "DEFAULT", "request_body_mode": "NONE",
                "response_body_mode": "GRPC", "request_trailer_mode": "DEFAULT", "response_trailer_mode": "DEFAULT",
            }],
            "deferred_close_timeout": "0.000000001s",
            "route_cache_action": "RETAIN",
            "status_on_error": {"code": 503},
            "emit_client_span": false,
            "mutation_rules": {
                "allow_all_routing": true, "allow_envoy": true, "disallow_system": true, "disallow_all": true,
                "disallow_is_error": true, "allow_expression": {"regex": "x-a|x-\\d+"}, "disallow_expression": {"regex": "x-b"},
            },
            "forward_rules": {
                "allowed_headers": {"patterns": [
                    {"exact": "a"}, {"prefix": "b", "ignore_case": true}, {"suffix": "c"}, {"contains": "d"},
                    {"safe_regex": {"regex": "e.*"}},
                ]},
                "disallowed_headers": {"patterns": [{"exact": "f"}]},
            },
            "metadata_options": {
                "forwarding_namespaces": {"untyped": ["a"], "typed": ["b"]},
                "receiving_namespaces": {"untyped": ["c"], "typed": ["d"]},
                "cluster_metadata_forwarding_namespaces": {"untyped": ["e"], "typed": ["f"]},
            },
            "request_attributes": ["request.path", "request.headers['x-a']"],
            "processing_request_modifier": {
                "name": "mapped_attribute_builder",
                "typed_config": {
                    "@type": MAPPED_ATTRIBUTES,
                    "mapped_response_attributes": {"of-mine": "response.code"},
                },
            },
        });
        let read = read(&settings.to_string());
        assert_eq!(read.settings_json(), settings);
        // Nothing else than these is in the debug form of a configuration.
        let again = self::read(&read.settings_json().to_string());
        assert_eq!(format!("{again:?}"), format!("{read:?}"));
    }
}
