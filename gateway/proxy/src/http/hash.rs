//! The hash of a request, by which consistent hashing chooses its endpoint: Envoy's, so that both choose the same one.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue, Method, Uri};
use twox_hash::XxHash64;

use super::headers::{cookies, head_field};
use crate::config::snapshot::{HashBy, HashCookie, HashPolicy};

/// Envoy's hash of a text.
pub(crate) fn xx_hash(text: &[u8]) -> u64 {
    XxHash64::oneshot(0, text)
}

/// A request as its hash sees it.
#[derive(Debug)]
pub(crate) struct Hashed<'a> {
    /// Method and target, where they are known.
    pub(crate) line: Option<(&'a Method, &'a Uri)>,
    pub(crate) headers: &'a HeaderMap,
    /// The client, and the address that it connected to.
    pub(crate) addresses: Option<(SocketAddr, SocketAddr)>,
}

impl Hashed<'_> {
    /// The hash by these policies, if the request has one of the parts that they name. Cookies that the client is given go
    /// to `cookies`.
    pub(crate) fn hash(
        &self,
        policies: &[HashPolicy],
        cookies: &mut Vec<HeaderValue>,
    ) -> Option<u64> {
        let mut hash = None;
        for policy in policies {
            if let Some(part) = self.part(&policy.by, cookies) {
                hash = Some(hash.unwrap_or(0_u64).rotate_left(1) ^ part);
            }
            if policy.terminal && hash.is_some() {
                break;
            }
        }
        hash
    }

    fn part(&self, by: &HashBy, cookies: &mut Vec<HeaderValue>) -> Option<u64> {
        match by {
            HashBy::Header(name) if name.starts_with(':') || name == "host" => {
                let (method, uri) = self.line?;
                let value = head_field(method, uri, self.headers, name)?;
                Some(xx_hash(value.as_bytes()))
            }
            HashBy::Header(name) => {
                let mut values: Vec<&[u8]> = self
                    .headers
                    .get_all(name)
                    .iter()
                    .map(HeaderValue::as_bytes)
                    .collect();
                // Their order does not matter; each one's hash is the seed of the next.
                values.sort_unstable();
                let chained = values
                    .iter()
                    .fold(0, |seed, value| XxHash64::oneshot(seed, value));
                (!values.is_empty()).then_some(chained)
            }
            HashBy::Cookie(cookie) => {
                match (cookie_value(self.headers, &cookie.name), &cookie.given) {
                    (Some(value), _) => Some(xx_hash(value)),
                    (None, Some(attributes)) => self.give(cookie, attributes, cookies),
                    (None, None) => None,
                }
            }
            HashBy::SourceIp => {
                let (client, _) = self.addresses?;
                Some(xx_hash(client.ip().to_string().as_bytes()))
            }
            HashBy::Query(name) => {
                let (_, uri) = self.line?;
                let pairs = uri.query()?.split('&');
                let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                let (_, value) = pairs.find(|(key, _)| key == name)?;
                Some(xx_hash(value.as_bytes()))
            }
        }
    }

    /// Gives the client a cookie, the same one for all requests of its connection.
    fn give(
        &self,
        cookie: &HashCookie,
        attributes: &HeaderValue,
        cookies: &mut Vec<HeaderValue>,
    ) -> Option<u64> {
        let (client, local) = self.addresses?;
        let value = format!("{:016x}", xx_hash(format!("{client}{local}").as_bytes()));
        let attributes = attributes.to_str().ok()?;
        let line = format!("{}=\"{value}\"{attributes}", cookie.name);
        cookies.push(HeaderValue::try_from(line).ok()?);
        Some(xx_hash(value.as_bytes()))
    }
}

/// The value of the first cookie of this name that has one.
fn cookie_value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let (_, value) = cookies(headers).find(|(key, _)| *key == name.as_bytes())?;
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(uri: &str, headers: &[(&'static str, &str)], by: &[HashBy]) -> Option<u64> {
        let uri: Uri = uri.parse().unwrap();
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        let hashed = Hashed {
            line: Some((&Method::GET, &uri)),
            headers: &headers,
            addresses: None,
        };
        let policies: Vec<HashPolicy> = by
            .iter()
            .map(|by| HashPolicy {
                by: by.clone(),
                terminal: false,
            })
            .collect();
        hashed.hash(&policies, &mut Vec::new())
    }

    #[test]
    fn parts() {
        let header = HashBy::Header("x-user".into());
        let query = HashBy::Query("u".into());
        let cookie = HashBy::Cookie(HashCookie {
            name: "sid".into(),
            given: None,
        });
        let eve = Some(xx_hash(b"eve"));
        assert_eq!(xx_hash(b""), 0xef46_db37_51d8_e999);
        assert_eq!(
            hash("/", &[("x-user", "eve")], std::slice::from_ref(&header)),
            eve
        );
        assert_eq!(hash("/?a=1&u=eve&u=bob", &[], &[query]), eve);
        let crumbs = ("cookie", "a=b; sid=\"eve\"; sid=bob");
        assert_eq!(hash("/", &[crumbs], &[cookie]), eve);
        assert_eq!(hash("/", &[], std::slice::from_ref(&header)), None);
        // The order of several values does not matter, that of policies does.
        let several = |one, two| {
            let by = [header.clone()];
            hash("/", &[("x-user", one), ("x-user", two)], &by)
        };
        assert_eq!(several("a", "b"), several("b", "a"));
        assert_eq!(
            several("a", "b"),
            Some(XxHash64::oneshot(xx_hash(b"a"), b"b"))
        );
        let both = [header.clone(), header];
        let eve = xx_hash(b"eve");
        let twice = hash("/", &[("x-user", "eve")], &both);
        assert_eq!(twice, Some(eve.rotate_left(1) ^ eve));
    }
}
