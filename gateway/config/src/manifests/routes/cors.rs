//! The filter `CORS`.

use extproc_client::config::StringMatcher;

use super::matches::whole;
use crate::{
    manifests::{compiled::Allowance, types::Cors as Spec},
    snapshot::Cors,
};

/// Seconds that the answer to a preflight may be kept, if nothing else is said.
const MAX_AGE: u32 = 5;

/// Compiles the filter. An error names its field.
pub(super) fn compile(spec: &Spec, allowance: &mut Allowance<'_>) -> Result<Cors, String> {
    let allow_origins = spec
        .allow_origins
        .iter()
        .map(|text| {
            origin(text, allowance).map_err(|error| format!("cors.allowOrigins: {text:?}: {error}"))
        })
        .collect::<Result<_, _>>()?;
    let allow_credentials = spec.allow_credentials.unwrap_or_default();
    // With credentials a star would be the name of a header.
    let exposed = spec.expose_headers.iter().map(String::as_str);
    let exposed: Vec<&str> = exposed
        .filter(|name| !(allow_credentials && *name == "*"))
        .collect();
    Ok(Cors {
        allow_origins,
        allow_methods: spec.allow_methods.join(", "),
        allow_headers: spec.allow_headers.join(", "),
        expose_headers: exposed.join(", "),
        max_age: spec.max_age.unwrap_or(MAX_AGE).to_string(),
        allow_credentials,
        allow_private_network_access: false,
        forward_not_matching_preflights: false,
        echo_wildcards: true,
    })
}

/// `*`, or a scheme and a host in which a star stands for any number of labels and parts of them. A port
/// that the scheme has anyway is never part of an origin (RFC 6454 section 6.2).
fn origin(text: &str, allowance: &mut Allowance<'_>) -> Result<StringMatcher, String> {
    let (scheme, host) = text.split_once("://").unwrap_or_default();
    let usual = match scheme.to_ascii_lowercase().as_str() {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let host = host
        .strip_suffix(usual)
        .filter(|_| !usual.is_empty())
        .unwrap_or(host);
    match text {
        "*" => whole(".*", allowance),
        _ if text.contains('*') => {
            let pattern = regex::escape(&format!("{scheme}://{host}")).replace("\\*", "[^/:]*");
            whole(&format!("(?i){pattern}"), allowance)
        }
        _ => Ok(StringMatcher::exact(format!("{scheme}://{host}")).ignore_case()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::compiled::Compiled;

    #[test]
    fn origins() {
        for (allowed, origin, matches) in [
            ("https://a.example", "https://a.example", true),
            ("https://A.example", "https://a.Example", true),
            ("https://a.example", "http://a.example", false),
            ("https://a.example", "https://b.a.example", false),
            ("https://a.example", "https://a.example:8443", false),
            ("https://a.example:443", "https://a.example", true),
            ("http://a.example:80", "http://a.example", true),
            ("http://a.example:443", "http://a.example:443", true),
            ("http://a.example:443", "http://a.example", false),
            ("https://a.example:8443", "https://a.example:8443", true),
            ("https://*.a.example", "https://b.a.example", true),
            ("https://*.a.example", "https://c.b.a.example", true),
            ("https://*.a.example", "https://a.example", false),
            ("https://*.a.example", "https://b.a.example.org", false),
            ("https://*.a.example", "https://bxa.example", false),
            ("https://*.a.example", "https://b.org/.a.example", false),
            ("https://*.a.example", "https://b.org:1.a.example", false),
            ("https://*.a.example:8443", "https://b.a.example:8443", true),
            ("https://*", "https://a.example", true),
            ("https://*", "http://a.example", false),
            ("*", "null", true),
            ("*", "http://a.example:81", true),
        ] {
            let spec = Spec {
                allow_origins: vec![allowed.into()],
                ..Spec::default()
            };
            let cors = compile(&spec, &mut Compiled::default().allowance("a")).unwrap();
            let found = cors.allow_origins.iter().any(|m| m.matches(origin));
            assert_eq!(found, matches, "{allowed} and {origin}");
        }
    }

    #[test]
    fn lists() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mut spec = Spec {
            allow_methods: words("GET PUT"),
            allow_headers: words("x-a x-b"),
            expose_headers: words("* x-c"),
            ..Spec::default()
        };
        let cors = compile(&spec, &mut Compiled::default().allowance("a")).unwrap();
        assert_eq!(cors.allow_methods, "GET, PUT");
        assert_eq!(cors.allow_headers, "x-a, x-b");
        assert_eq!(cors.expose_headers, "*, x-c");
        assert_eq!(cors.max_age, "5");
        assert!(!cors.allow_credentials);
        spec.allow_credentials = Some(true);
        spec.max_age = Some(60);
        let cors = compile(&spec, &mut Compiled::default().allowance("a")).unwrap();
        assert_eq!(cors.expose_headers, "x-c");
        assert_eq!(cors.max_age, "60");
        assert!(cors.allow_credentials);
    }
}
