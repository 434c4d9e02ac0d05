//! The authority of a request: the host and port that it is for.

use std::net::Ipv6Addr;

use http::{Uri, uri::Scheme};

/// Returns whether the authority is one that a `host` header may hold: a name or an address and perhaps a port,
/// no user information, no list, no white space (RFC 9110 §4.2.4, §7.2; RFC 3986 §3.2.2).
pub(crate) fn valid_authority(authority: &str) -> bool {
    // Most of them.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    if authority.bytes().all(plain) {
        return !authority.is_empty();
    }
    let (name, port) = match authority.strip_prefix('[') {
        Some(literal) => {
            let Some((address, rest)) = literal.split_once(']') else {
                return false;
            };
            if address.parse::<Ipv6Addr>().is_err() {
                return false;
            }
            match rest.strip_prefix(':') {
                Some(port) => (address, port),
                None if rest.is_empty() => (address, ""),
                None => return false,
            }
        }
        None => {
            let (name, port) = authority.split_once(':').unwrap_or((authority, ""));
            if !name.bytes().all(is_name_byte) || !escapes_are_whole(name) {
                return false;
            }
            (name, port)
        }
    };
    let number = port.bytes().all(|byte| byte.is_ascii_digit());
    !name.is_empty() && number && (port.is_empty() || port.parse::<u16>().is_ok())
}

/// A target with another scheme. One that has none (CONNECT) stays as it is.
pub(crate) fn with_scheme(target: Uri, scheme: &Scheme) -> Uri {
    if target.scheme().is_none_or(|now| now == scheme) {
        return target;
    }
    let mut parts = target.clone().into_parts();
    parts.scheme = Some(scheme.clone());
    Uri::from_parts(parts).unwrap_or(target)
}

/// Octets of a registered name. A comma is allowed in one, and is what a list of hosts looks like.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&byte)
}

fn escapes_are_whole(name: &str) -> bool {
    name.split('%').skip(1).all(|after| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        for good in [
            "a",
            "a:80",
            "A_b.c.",
            "127.0.0.1",
            "[::1]",
            "[::1]:80",
            "a:",
            "a%20b",
        ] {
            assert!(valid_authority(good), "{good}");
        }
        for bad in [
            "", ":80", "a b", "a,b", "u@a", "a/b", "a:b", "a:65536", "a:-1", "a:1:2", "[::1",
            "[::1]a", "[zz]", "a%zz", "a%", "\u{e4}",
        ] {
            assert!(!valid_authority(bad), "{bad}");
        }
    }
}
