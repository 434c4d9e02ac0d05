//! Checks on what a processor wants a proxy to do, made before anything is sent.
//!
//! A proxy answers an illegal mutation with a failed request, even where it is configured to carry on without its
//! processor. Found here, the same mistake is logged by the program that made it, with the name of the header.
//!
//! Only what is wrong for every proxy is refused. What depends on a proxy's configuration (its `mutation_rules`) is not.

use http::Uri;

use crate::reply::Mutation;
pub use crate::types::Target;

/// Limits of a mutation. The defaults are those of a proxy with default settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most headers set by one reply, and most headers removed by one reply. Default 100.
    pub entries: usize,
    /// Most bytes of names and values in one reply. Default 80 KiB.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 100,
            bytes: 80 * 1024,
        }
    }
}

/// Reason for which a reply cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidReply {
    /// A header without a name.
    #[error("a header name is empty")]
    EmptyName,
    /// A name with a character that is not a token character (RFC 9110, section 5.6.2).
    #[error("header name {name:?} contains {character:?}, which is not allowed in a header name")]
    Name {
        /// The name.
        name: String,
        /// Its first offending character.
        character: char,
    },
    /// A pseudo-header that does not exist, or not there.
    #[error("pseudo-header {name:?} cannot be set on {target}")]
    PseudoHeader {
        /// The name.
        name: String,
        /// Target of the value.
        target: Target,
    },
    /// A value of a pseudo-header that a proxy would refuse.
    #[error("{value:?} is not a legal value of {name}")]
    PseudoValue {
        /// The name.
        name: String,
        /// The value.
        value: String,
    },
    /// A removal that no proxy carries out: pseudo-headers and `host` stay.
    #[error("{name:?} cannot be removed")]
    Removal {
        /// The name.
        name: String,
    },
    /// A value with a control character (RFC 9110, section 5.5). Tab is allowed.
    #[error(
        "the value of {name:?} contains byte 0x{byte:02x} at offset {offset}, which is not allowed in a header value"
    )]
    Value {
        /// The name.
        name: String,
        /// The offending byte.
        byte: u8,
        /// Its position in the value, in bytes.
        offset: usize,
    },
    /// More entries than [`Limits::entries`].
    #[error("{count} headers are {what}, the limit is {limit}")]
    TooManyEntries {
        /// `set` or `removed`.
        what: &'static str,
        /// Their number.
        count: usize,
        /// Largest number allowed.
        limit: usize,
    },
    /// More bytes than [`Limits::bytes`].
    #[error("the header mutation has {bytes} bytes, the limit is {limit}")]
    TooManyBytes {
        /// Their number.
        bytes: usize,
        /// Largest number allowed.
        limit: usize,
    },
    /// An immediate response needs a final status.
    #[error("{0} is not a status for an immediate response: it must be 200 or above")]
    ImmediateStatus(u16),
    /// In the gRPC body mode no reply to headers can replace the body (`CONTINUE_AND_REPLACE`).
    #[error("the body cannot be replaced along with the headers in body mode GRPC")]
    BodyInGrpcMode,
    /// Body bytes before trailers have a place only in the duplex body modes, and only if the message has a body.
    #[error("body bytes in a trailers reply need a duplex body mode and a message with a body")]
    BodyBeforeTrailers,
}

/// Checks the name of a header that is to be set.
///
/// # Errors
/// The name is empty, not a token, or a pseudo-header that cannot be set on `target`.
pub fn set_name(name: &str, target: Target) -> Result<(), InvalidReply> {
    let Some(pseudo) = name.strip_prefix(':') else {
        return token(name);
    };
    let known = match target {
        Target::Request => matches!(pseudo, "method" | "path" | "scheme" | "authority"),
        Target::Response => pseudo == "status",
        Target::Trailers | Target::Immediate => false,
    };
    if known {
        return Ok(());
    }
    Err(InvalidReply::PseudoHeader {
        name: name.to_owned(),
        target,
    })
}

/// Checks the name of a header that is to be removed.
///
/// # Errors
/// The name is empty, not a token, a pseudo-header, or `host`.
pub fn remove_name(name: &str) -> Result<(), InvalidReply> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return Err(InvalidReply::Removal {
            name: name.to_owned(),
        });
    }
    token(name)
}

/// Checks a value that is to be set for `name`.
///
/// # Errors
/// The value has a control character other than tab, or is not legal for the pseudo-header that `name` is.
pub fn set_value(name: &str, value: &[u8]) -> Result<(), InvalidReply> {
    let offending = |byte: &u8| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f;
    if let Some(offset) = value.iter().position(offending) {
        return Err(InvalidReply::Value {
            name: name.to_owned(),
            byte: value.get(offset).copied().unwrap_or_default(),
            offset,
        });
    }
    if pseudo_value(name, value) {
        return Ok(());
    }
    Err(InvalidReply::PseudoValue {
        name: name.to_owned(),
        value: String::from_utf8_lossy(value).into_owned(),
    })
}

/// Checks a whole mutation.
pub(crate) fn mutation(
    mutation: &Mutation,
    target: Target,
    limits: Limits,
) -> Result<(), InvalidReply> {
    let count = |what, count| {
        if count <= limits.entries {
            return Ok(());
        }
        Err(InvalidReply::TooManyEntries {
            what,
            count,
            limit: limits.entries,
        })
    };
    // A proxy applies no limits to the headers of an immediate response.
    if target != Target::Immediate {
        count("set", mutation.sets().count())?;
        count("removed", mutation.removes().count())?;
    }
    let mut bytes = 0;
    for (name, value) in mutation.sets() {
        set_name(name, target)?;
        set_value(name, value)?;
        bytes += name.len() + value.len();
    }
    for name in mutation.removes() {
        remove_name(name)?;
        bytes += name.len();
    }
    if bytes > limits.bytes {
        return Err(InvalidReply::TooManyBytes {
            bytes,
            limit: limits.bytes,
        });
    }
    Ok(())
}

fn token(name: &str) -> Result<(), InvalidReply> {
    if name.is_empty() {
        return Err(InvalidReply::EmptyName);
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    match name.chars().find(|c| !legal(*c)) {
        None => Ok(()),
        Some(character) => Err(InvalidReply::Name {
            name: name.to_owned(),
            character,
        }),
    }
}

fn pseudo_value(name: &str, value: &[u8]) -> bool {
    match name {
        ":status" => matches!(value, [b'2'..=b'9', b'0'..=b'9', b'0'..=b'9']),
        ":method" => http::Method::from_bytes(value).is_ok(),
        ":scheme" => http::uri::Scheme::try_from(value).is_ok(),
        ":authority" => http::uri::Authority::try_from(value).is_ok(),
        ":path" => value == b"*" || (value.starts_with(b"/") && Uri::try_from(value).is_ok()),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(set_name("x-a", Target::Request), Ok(()));
        assert_eq!(set_name("", Target::Request), Err(InvalidReply::EmptyName));
        assert_eq!(
            set_name("x a", Target::Request).unwrap_err().to_string(),
            r#"header name "x a" contains ' ', which is not allowed in a header name"#
        );
        assert_eq!(set_name(":path", Target::Request), Ok(()));
        assert_eq!(
            set_name(":path", Target::Response).unwrap_err().to_string(),
            r#"pseudo-header ":path" cannot be set on a response"#
        );
        assert!(set_name(":status", Target::Immediate).is_err());
        assert!(set_name(":status", Target::Trailers).is_err());
        assert!(remove_name("Host").is_err());
        assert!(remove_name(":path").is_err());
        assert!(remove_name("x\u{e9}").is_err());
        assert_eq!(remove_name("X-A"), Ok(()));
    }

    #[test]
    fn values() {
        assert_eq!(set_value("a", b"\t ok \xe9"), Ok(()));
        assert_eq!(
            set_value("a", b"ab\r\n").unwrap_err(),
            InvalidReply::Value {
                name: "a".to_owned(),
                byte: b'\r',
                offset: 2
            }
        );
        for byte in [b'\n', 0, 1, 0x7f] {
            assert!(set_value("a", &[byte]).is_err(), "{byte}");
        }
        for (name, good, bad) in [
            (":status", "204", "99"),
            (":status", "599", "2000"),
            (":method", "PUT", "P T"),
            (":path", "/a?b", "a b"),
            (":scheme", "https", "1:"),
            (":authority", "a.example:80", "a b"),
        ] {
            assert_eq!(set_value(name, good.as_bytes()), Ok(()), "{name} {good}");
            assert!(set_value(name, bad.as_bytes()).is_err(), "{name} {bad}");
        }
    }

    #[test]
    fn sizes() {
        let limits = Limits {
            entries: 2,
            bytes: 10,
        };
        let check = |m: &Mutation, target| mutation(m, target, limits);
        let mut two = Mutation::default();
        two.set("a", b"1");
        two.set("b", b"2");
        assert_eq!(check(&two, Target::Request), Ok(()));
        let mut three = two.clone();
        three.append("c", b"3");
        assert!(check(&three, Target::Request).is_err());
        assert_eq!(check(&three, Target::Immediate), Ok(()));
        let mut long = Mutation::default();
        long.set("a", b"1234567890");
        assert_eq!(
            check(&long, Target::Request).unwrap_err().to_string(),
            "the header mutation has 11 bytes, the limit is 10"
        );
    }
}
