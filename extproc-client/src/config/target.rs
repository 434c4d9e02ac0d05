//! `target_uri`: where a `google_grpc` service is, in gRPC's name syntax.

use std::path::PathBuf;

/// Meaning of a `target_uri`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetAddress {
    /// `host:port`, each of them good: `dns:///host:port`, `ipv4:1.2.3.4:50051,1.2.3.5:50051`, `[::1]:50051` and the like.
    Names(Vec<String>),
    /// A Unix domain socket: `unix:path` or `unix:///path`.
    Unix(PathBuf),
}

/// The port of a name without one, as in gRPC.
const DEFAULT_PORT: &str = "443";

impl TargetAddress {
    /// Reads a `target_uri`.
    ///
    /// # Errors
    /// The text says what is not supported.
    pub fn parse(target: &str) -> Result<Self, String> {
        let (scheme, rest) = match target.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme, rest) => (scheme, rest),
            _ => ("dns", target),
        };
        // `//authority/` names a DNS server, which is not asked.
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_once('/').unwrap_or(match scheme {
                "http" => ("", rest),
                _ => (rest, ""),
            }),
            None => ("", rest),
        };
        match scheme {
            "dns" | "http" if !authority.is_empty() && scheme != "http" => {
                Err(format!("names are not looked up at {authority:?}"))
            }
            "http" if !authority.is_empty() => Self::names([authority]),
            "dns" | "http" => Self::names([path]),
            "ipv4" | "ipv6" => Self::names(path.split(',')),
            "unix" if path.is_empty() => Err("a path is missing".to_owned()),
            "unix" if rest.starts_with("//") => Ok(Self::Unix(format!("/{path}").into())),
            "unix" => Ok(Self::Unix(path.into())),
            other => Err(format!("the scheme {other:?} is not supported")),
        }
    }

    fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let names = names.into_iter().map(name);
        names.collect::<Result<_, _>>().map(Self::Names)
    }
}

/// A name and not a host: what comes before the colon of `host:port` is no scheme.
fn is_scheme(scheme: &str, rest: &str) -> bool {
    let known = [
        "dns",
        "passthrough",
        "ipv4",
        "ipv6",
        "unix",
        "unix-abstract",
        "vsock",
        "xds",
    ];
    known.contains(&scheme) || rest.starts_with("//")
}

/// The name with a port.
fn name(text: &str) -> Result<String, String> {
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    let without_port = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or("the bracket is not closed")?;
            address
                .parse::<std::net::Ipv6Addr>()
                .map_err(|error| error.to_string())?;
            match after.strip_prefix(':') {
                None if after.is_empty() => true,
                Some(port) if is_port(port) => false,
                _ => return Err(format!("{after:?} is no port")),
            }
        }
        None => match text.split_once(':') {
            None => true,
            Some((_, port)) if is_port(port) => false,
            Some((_, port)) => return Err(format!("{port:?} is no port")),
        },
    };
    if text.is_empty() || text.starts_with(':') || text.contains(['/', ' ']) {
        return Err(format!("{text:?} is no host and port"));
    }
    Ok(match without_port {
        true => format!("{text}:{DEFAULT_PORT}"),
        false => text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_syntax() {
        let names = |list: &[&str]| {
            let list = list.iter().map(|name| (*name).to_owned());
            Ok(TargetAddress::Names(list.collect()))
        };
        for (target, expected) in [
            ("processor:50051", names(&["processor:50051"])),
            ("processor", names(&["processor:443"])),
            ("127.0.0.1:1", names(&["127.0.0.1:1"])),
            ("[::1]:1", names(&["[::1]:1"])),
            ("[::1]", names(&["[::1]:443"])),
            ("dns:processor:1", names(&["processor:1"])),
            ("dns:///processor:1", names(&["processor:1"])),
            ("dns:///processor", names(&["processor:443"])),
            (
                "ipv4:1.2.3.4:1,1.2.3.5:2",
                names(&["1.2.3.4:1", "1.2.3.5:2"]),
            ),
            ("ipv6:[::1]:1", names(&["[::1]:1"])),
            ("http://processor:1", names(&["processor:1"])),
            ("http://processor:1/", names(&["processor:1"])),
            ("unix:a/b.sock", Ok(TargetAddress::Unix("a/b.sock".into()))),
            ("unix:/a.sock", Ok(TargetAddress::Unix("/a.sock".into()))),
            ("unix:///a.sock", Ok(TargetAddress::Unix("/a.sock".into()))),
        ] {
            assert_eq!(TargetAddress::parse(target), expected, "{target}");
        }
        for target in [
            "",
            ":1",
            "processor:x",
            "processor:70000",
            "dns://8.8.8.8/processor:1",
            "dns:///",
            "unix:",
            "unix-abstract:a",
            "passthrough:///processor:1",
            "xds:///processor",
            "https://processor:1",
            "[::1",
        ] {
            assert!(TargetAddress::parse(target).is_err(), "{target}");
        }
    }
}
